"""A thousand edits, most of them cancelled at different awaits: nothing is left behind, and no id is lost."""

from __future__ import annotations

import asyncio
import json
import random

import attrs
import pytest
from memory_transport import (
    IMAGE,
    NORMAL,
    Answer,
    Interrupted,
    MemoryService,
    MemorySession,
    in_order,
    lost,
    refused,
    status,
)

from qwen_edit_async import Learned, QwenEditError
from qwen_edit_async.protocol.base import Reply

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_clock]

EDITS = 1000
SHARE_CANCELLED = 0.7
AWAITS = 5
"""More awaits than an edit has here. A timer cancels the edits with this number, if they have not finished."""


@attrs.define
class Ends:
    """The client's outcomes, with the ids that it knows."""

    done: list[str] = attrs.field(factory=list)
    noted: set[str] = attrs.field(factory=set)
    failed: list[QwenEditError] = attrs.field(factory=list)
    cancelled: int = 0

    def add(self, edit: asyncio.Task) -> None:
        if edit.cancelled():
            self.cancelled += 1
            try:
                edit.result()
            except asyncio.CancelledError as error:
                self.noted |= {note.split()[1] for note in getattr(error, "__notes__", ()) if note.startswith("task ")}
        elif edit.exception() is not None:
            self.failed.append(edit.exception())
        else:
            self.done.append(edit.result().task_id)


@attrs.define(kw_only=True, eq=False)
class LosingService(MemoryService):
    """Records the ids of tasks whose replies were lost."""

    untold: set[str] = attrs.field(factory=set, init=False)

    async def _reply(self, answer: Answer, own_reply: Reply) -> Reply:
        if isinstance(answer.reply, QwenEditError) and answer.accepted and own_reply.body:
            self.untold |= {json.loads(own_reply.body).get("id")} & set(self.ids)
        return await super()._reply(answer, own_reply)


def troubled(source: random.Random) -> LosingService:
    """Return a service with random latencies that refuses, loses or throttles some calls."""
    troubles = [status(429), status(503), refused(), lost(accepted=False), lost(accepted=True)]

    def on_submission(_: int) -> Answer:
        trouble = source.choice(troubles) if source.random() < 0.1 else NORMAL
        return attrs.evolve(trouble, delay=source.random())

    def on_check(*_: object) -> Answer:
        return attrs.evolve(on_submission(0), accepted=False)

    return LosingService(duration=3.0, room=50, on_submission=on_submission, on_check=on_check)


@pytest.mark.parametrize(("seed", "poll_rate"), [(1, None), (2, None), (3, 20.0)])
async def test_a_storm_of_cancellations_leaves_nothing_behind_and_loses_no_id(seed, poll_rate):
    source, ends = random.Random(seed), Ends()
    service = troubled(source)
    tasks_before = len(asyncio.all_tasks())
    options = {"max_in_flight": 40, "polling": Learned(), "poll_rate": poll_rate, "deadline": 100_000.0}
    async with MemorySession(service, **options) as session:
        edits = []
        for _ in range(EDITS):
            at = source.randint(1, AWAITS) if source.random() < SHARE_CANCELLED else 0
            work = Interrupted(session.edit(IMAGE, "snow"), at, as_it_wakes=source.random() < 0.5)
            edits.append(asyncio.create_task(finished(work)))
            if at == AWAITS:
                asyncio.get_running_loop().call_later(30 * source.random(), edits[-1].cancel)
            if source.random() < 0.2:
                await asyncio.sleep(source.random())
        await asyncio.wait(edits)
        for edit in edits:
            ends.add(edit)
        await asyncio.sleep(1000)  # late replies to cancelled submissions arrive

        counts = session.statistics()
        assert (counts.in_flight, counts.waiting, counts.watched) == (0, 0, 0)
        assert service.calls_under_way == 0
        assert len(asyncio.all_tasks()) == tasks_before + 1  # the session's host task
        check_ids(service, ends, session.unfinished)

        # All slots are free again, and nothing else is checked.
        service.on_submission, checks = in_order(), len(service.checks)
        async with asyncio.timeout(100):
            await asyncio.gather(*(session.edit(IMAGE, "snow") for _ in range(counts.limit)))
        assert {sent.call.path for sent in service.checks[checks:]}.isdisjoint(
            sent.call.path for sent in service.checks[:checks]
        )
        left_at = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() == left_at  # nothing waits
    assert len(asyncio.all_tasks()) == tasks_before


def check_ids(service: LosingService, ends: Ends, unfinished: tuple[str, ...]) -> None:
    """Check that each edit has one outcome, and that the client knows the id of every task that a reply named."""
    assert len(ends.done) + len(ends.failed) + ends.cancelled == EDITS
    assert min(len(ends.done), ends.cancelled) > EDITS / 10  # many are cancelled, and many finish
    assert ends.noted
    assert ends.noted <= set(unfinished)
    assert len({*ends.done, *unfinished}) == len(ends.done) + len(unfinished)
    assert set(service.ids) - {*ends.done, *unfinished} == service.untold


async def finished(work: Interrupted) -> object:
    return await work
