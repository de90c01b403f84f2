"""Replies to submissions that arrive when nobody awaits them any more, or after the deadline of their edit."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal

import attrs
import pytest
from bulk_runs import columns
from memory_transport import (
    HANGS,
    IMAGE,
    NORMAL,
    RESULT,
    Answer,
    MemoryService,
    MemorySession,
    completed,
    in_order,
    says,
    status,
    until,
)

from qwen_edit_async import EditBatch, EditHub, EditParameters, EditRequest
from qwen_edit_async.protocol.base import Reply

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.virtual_clock,
    pytest.mark.may_block("the loop writes the pictures"),
    pytest.mark.usefixtures("pictures_at_once"),
]

FIRST, OTHER, THIRD = (EditRequest(IMAGE, "make it snow", key=key) for key in ("first", "other", "third"))
DEADLINE = 60.0
LATE = DEADLINE + 5.0


def late(*answers):
    """Return a service that gives these answers to the first submissions of edits whose tasks end at once."""
    remaining = list(answers)
    return MemoryService(duration=0.0, on_submission=lambda _: remaining.pop(0) if remaining else NORMAL)


async def test_a_task_that_is_created_late_is_not_created_again_even_with_consent(tmp_path):
    account = late(Answer(delay=LATE), Answer(delay=DEADLINE / 2))
    async with (
        MemorySession(account, max_in_flight=1, deadline=DEADLINE) as session,
        EditHub(tmp_path, session, resubmit_uncertain=True) as hub,
    ):
        first = asyncio.create_task(hub.edit(FIRST))
        await until(lambda: account.submissions)
        other = asyncio.create_task(hub.edit(OTHER))  # takes the slot while the reply is awaited
        assert (await first).status == "uncertain"
        assert (await hub.edit(FIRST)).ok
        assert (await other).ok
    assert columns(tmp_path, "key", "task_id", "former_task_ids", "repeats") == [
        ("first", "task-1", None, 0),
        ("other", "task-2", None, 0),
    ]
    assert account.ids == ["task-1", "task-2"]


async def test_a_late_rejection_does_not_hide_the_task_of_a_later_submission(tmp_path):
    account = late(Answer(status(429).reply, delay=LATE), Answer(delay=DEADLINE / 2))
    async with (
        MemorySession(account, deadline=DEADLINE) as session,
        EditHub(tmp_path, session, resubmit_uncertain=True) as hub,
    ):
        assert (await hub.edit(FIRST)).status == "uncertain"
        assert (await hub.edit(FIRST)).ok
    assert columns(tmp_path, "task_id", "repeats") == [("task-1", 0)]
    assert account.ids == ["task-1"]


async def test_edits_that_wait_for_late_replies_hold_no_other_edit_back(tmp_path):
    requests = [EditRequest(IMAGE, "make it snow", key=str(number)) for number in range(40)]
    account = late(*[HANGS] * len(requests))
    async with MemorySession(account, max_in_flight=1, deadline=DEADLINE) as session:
        async with EditHub(tmp_path, session) as hub:
            assert {(await hub.edit(request)).status for request in requests} == {"uncertain"}
            again = [asyncio.create_task(hub.edit(request)) for request in requests]
            await asyncio.sleep(1)
            async with asyncio.timeout(DEADLINE):
                assert (await hub.edit(OTHER)).ok
            assert not any(repeat.done() for repeat in again)
        assert {(await repeat).status for repeat in again} == {"uncertain"}


@pytest.mark.parametrize("limit", [{"max_tasks": 2}, {"max_cost": "0.08"}], ids=["tasks", "cost"])
async def test_a_late_rejection_does_not_count_against_the_limits(tmp_path, limit):
    account = late(NORMAL, Answer(status(429).reply, delay=LATE))
    async with MemorySession(account, deadline=DEADLINE) as session, EditHub(tmp_path, session, **limit) as hub:
        assert (await hub.edit(OTHER)).ok
        assert (await hub.edit(FIRST)).status == "uncertain"
        assert (await hub.edit(FIRST)).ok
    assert account.ids == ["task-1", "task-2"]


FAILED = {"status": "failed", "error": {"code": 7, "error_message": "no"}}
CHEAP = {"status": "completed", "output": [{"url": RESULT.format(task_id="late")}], "usage": {"cost": "0.01"}}


@pytest.mark.parametrize(("members", "cost"), [(FAILED, "0.0357"), (CHEAP, "0.0457")], ids=["failed", "cheap"])
async def test_a_task_whose_late_reply_tells_its_end_counts_with_its_own_cost(tmp_path, members, cost):
    account = late(NORMAL, Answer(says({"id": "late", **members}).reply, delay=LATE))
    async with MemorySession(account, deadline=DEADLINE) as session, EditHub(tmp_path, session, max_cost="0.09") as hub:
        assert (await hub.edit(OTHER)).ok
        assert (await hub.edit(FIRST)).status == "uncertain"
        assert (await hub.edit(FIRST)).ok is (members is CHEAP)
        assert hub.progress.cost == Decimal(cost)
        assert (await hub.edit(THIRD)).ok
    assert hub.report.cost == hub.progress.cost


@pytest.mark.parametrize("end", [{}, {"status": "failed", "error": "refused"}], ids=["completed", "failed"])
async def test_a_cost_in_a_late_reply_counts_against_the_limit(tmp_path, end):
    document = completed("task-1") | {"usage": {"cost": "0.90"}} | end
    account = late(Answer(says(document).reply, delay=LATE, accepted=True))
    async with MemorySession(account, deadline=DEADLINE) as session, EditHub(tmp_path, session, max_cost="1.00") as hub:
        assert (await hub.edit(FIRST)).status == "uncertain"
        await hub.edit(FIRST)
        assert (await hub.edit(OTHER)).status == "planned"
        assert hub.progress.cost == Decimal("0.90")
    assert account.ids == ["task-1"]
    assert (hub.report.cost, hub.report.limit) == (Decimal("0.90"), "max_cost")


async def test_the_price_in_a_late_reply_is_that_of_the_pictures_that_have_urls(tmp_path):
    document = CHEAP | {"id": "late", "output": [*CHEAP["output"], {"url": ""}], "usage": {"cost": "0.06"}}
    account = late(Answer(says(document).reply, delay=LATE))
    two = EditRequest(IMAGE, "make it snow", EditParameters(n=2), key="two")
    async with MemorySession(account, deadline=DEADLINE) as session, EditHub(tmp_path, session, max_cost="0.10") as hub:
        assert (await hub.edit(two)).status == "uncertain"
        assert (await hub.edit(two)).ok
        assert (await hub.edit(OTHER)).status == "planned"
    assert hub.report.price == Decimal("0.06")


@pytest.mark.parametrize(
    ("members", "cost"),
    [({}, "0.0714"), (FAILED | {"usage": {"cost": "0.01"}}, "0.0457"), (CHEAP, "0.0457")],
    ids=["running", "failed", "cheap"],
)
@pytest.mark.parametrize("steps", range(4))
async def test_a_reply_that_comes_just_as_the_deadline_passes_counts_once(tmp_path, monkeypatch, members, cost, steps):
    loop, timers = asyncio.get_running_loop(), []
    call_at = loop.call_at
    monkeypatch.setattr(
        loop, "call_at", lambda when, *rest, **options: timers.append(when) or call_at(when, *rest, **options)
    )

    class JustInTime(MemoryService):
        """A service whose first reply comes at the deadline, and reaches the session ``steps`` loop steps later."""

        async def _create(self, call, body):
            reply = await super()._create(call, body)
            if len(self.submissions) == 1:
                await asyncio.sleep(max(timers) - loop.time())
                for _ in range(steps):
                    await asyncio.sleep(0)
            return reply

    answer = attrs.evolve(says({"id": "task-1", "status": "in_progress", **members}), accepted=True)
    account = JustInTime(duration=0.0, on_submission=in_order(answer))
    async with MemorySession(account, deadline=DEADLINE) as session, EditHub(tmp_path, session, max_cost="0.11") as hub:
        assert not (await hub.edit(FIRST)).ok
        assert hub.progress.failed == 1
        await hub.edit(FIRST)
        assert (await hub.edit(OTHER)).ok
        assert hub.progress.cost == Decimal(cost)
        assert (await hub.edit(THIRD)).ok
    assert hub.report.cost == hub.progress.cost


@pytest.mark.parametrize("cost", ["0.01", "0"])
async def test_a_failure_in_a_late_reply_frees_the_price_that_was_counted_for_the_edit(tmp_path, cost):
    failed = {"id": "task-2", "status": "failed", "error": "refused", "usage": {"cost": cost}}
    account = late(NORMAL, Answer(says(failed).reply, delay=LATE, accepted=True))
    async with MemorySession(account, deadline=DEADLINE) as session, EditHub(tmp_path, session, max_cost="0.09") as hub:
        assert (await hub.edit(OTHER)).ok
        assert (await hub.edit(FIRST)).status == "uncertain"
        assert (await hub.edit(FIRST)).status == "failed"
        assert (await hub.edit(attrs.evolve(OTHER, key="third"))).ok


async def test_an_edit_that_moderation_refused_after_an_interrupt_has_failed(tmp_path):
    refusal = {"code": "DataInspectionFailed", "message": "refused", "request_id": "request-1"}
    reply = Answer(Reply(status=400, body=json.dumps(refusal).encode()), delay=0.1)
    account = MemoryService(on_submission=lambda _: reply)
    async with MemorySession(account, protocol="dashscope", envelope="auto") as session:
        run = asyncio.create_task(EditBatch([FIRST], tmp_path).run(session))
        await until(lambda: session.statistics().in_flight and account.calls_under_way)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        report = await EditBatch([FIRST], tmp_path).run(session)
    assert (report.failed, report.in_flight, report.can_go_on) == (1, 0, False)
    assert columns(tmp_path, "state", "task_id", "reason") == [
        ("failed", "request-1", "refused (code DataInspectionFailed)")
    ]
    assert len(account.submissions) == 1
