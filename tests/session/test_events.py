"""What a session tells of its edits: events, sums and log records."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from decimal import Decimal

import attrs
import pytest
from memory_transport import (
    HANGS,
    IMAGE,
    KEY,
    NORMAL,
    MemoryService,
    MemorySession,
    completed,
    in_order,
    lost,
    refused,
    says,
    status,
)

from qwen_edit_async import (
    ConfigurationError,
    DeadlineExceededError,
    EditCancelledError,
    EditChecked,
    EditEnded,
    EditFailedError,
    EditRetried,
    EditSession,
    EditSubmitted,
    EditThrottled,
    InsufficientBalanceError,
    QwenEditError,
    RateLimitError,
    SessionClosedError,
    SubmitUncertainError,
)

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_clock]


def kinds(events):
    return [type(event) for event in events]


async def events_of(service, *, deadline=None, **options):
    """Return the events of one edit."""
    events = []
    async with MemorySession(service, on_event=events.append, **options) as session:
        with contextlib.suppress(QwenEditError):
            await session.edit(IMAGE, "snow", deadline=deadline)
    assert {event.request.instruction for event in events} == {"snow"}
    return events


async def test_an_edit_is_submitted_and_ends():
    submitted, ended = await events_of(MemoryService(duration=2.0, latency=0.0))
    assert (type(submitted), submitted.task_id, submitted.timings.queued) == (EditSubmitted, "task-1", 0.0)
    assert (type(ended), ended.task_id, ended.error, ended.cost) == (EditEnded, "task-1", None, Decimal("0.0357"))
    assert (ended.timings.running, ended.timings.lag, ended.timings.checks) == (2.0, 1.0, 2)


async def test_each_change_is_told_once():
    progress = [says({"id": "task-1", "status": "in_progress", "progress": each}) for each in (0.1, 0.1, 0.5)]
    events = await events_of(MemoryService(duration=4.0, on_check=in_order(*progress)))
    assert kinds(events) == [EditSubmitted, EditChecked, EditChecked, EditEnded]
    assert [event.snapshot.progress for event in events[1:3]] == [0.1, 0.5]


async def test_what_a_reply_says_besides_is_no_change():
    replies = [says({"id": "task-1", "status": "in_progress", "time": each}) for each in range(3)]
    events = await events_of(MemoryService(duration=4.0, on_check=in_order(*replies)))
    assert EditChecked not in kinds(events)


async def test_too_many_requests_and_retries_are_told():
    service = MemoryService(
        on_submission=in_order(status(429), refused()), on_check=in_order(status(429, retry_after=3.0))
    )
    events = await events_of(service)
    assert kinds(events) == [EditThrottled, EditRetried, EditRetried, EditSubmitted, EditThrottled, EditEnded]
    assert (events[0].task_id, events[4].task_id, events[4].error.retry_after) == (None, "task-1", 3.0)
    assert [event.attempt for event in events[1:3]] == [2, 3]
    assert isinstance(events[1].error, RateLimitError)
    assert not any(event.uncertain for event in events[1:3])


async def test_a_repeat_that_may_be_charged_twice_is_told_as_one():
    events = await events_of(MemoryService(on_submission=in_order(lost())), resubmit_uncertain=True)
    assert kinds(events) == [EditRetried, EditSubmitted, EditEnded]
    assert events[0].uncertain


@pytest.mark.parametrize(
    ("service", "error", "told"),
    [
        (MemoryService(on_submission=in_order(lost())), SubmitUncertainError, []),
        (MemoryService(on_submission=in_order(status(402))), InsufficientBalanceError, []),
        (MemoryService(on_submission=in_order(HANGS)), SubmitUncertainError, []),
        (MemoryService(duration=99.0), DeadlineExceededError, [EditSubmitted]),
        (
            MemoryService(on_check=in_order(says({"id": "task-1", "status": "failed", "error": "no"}))),
            EditFailedError,
            [EditSubmitted],
        ),
    ],
    ids=["lost", "refused", "late", "late at the service", "failed"],
)
async def test_every_end_is_told_once(service, error, told):
    events = await events_of(service, deadline=5)
    assert kinds(events) == [*told, EditEnded]
    assert type(events[-1].error) is error
    assert events[-1].task_id == ("task-1" if told else None)


async def test_a_cancelled_edit_ends_before_and_after_its_submission():
    events = []
    async with MemorySession(MemoryService(), on_event=events.append, max_in_flight=1) as session:
        for seconds, told in ((0.001, [EditEnded]), (1.0, [EditSubmitted, EditEnded])):
            events.clear()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(seconds):
                    await session.edit(IMAGE, "snow")
            assert kinds(events) == told
            assert type(events[-1].error) is EditCancelledError


async def test_the_function_may_cancel_the_edit_whose_task_it_is_told_of():
    events = []

    def on_event(event):
        events.append(event)
        edit.cancel()

    async with MemorySession(MemoryService(), on_event=on_event) as session:
        edit = asyncio.create_task(session.edit(IMAGE, "snow"))
        await asyncio.wait([edit])
        assert edit.cancelled()
        assert session.unfinished == ("task-1",)
        assert (session.statistics().watched, session.statistics().cancelled) == (0, 1)
    assert kinds(events) == [EditSubmitted, EditEnded]
    assert events[-1].task_id == "task-1"


async def test_nothing_is_told_after_the_end():
    events = []
    service = MemoryService(on_submission=in_order(status(429)), latency=2.0)
    async with MemorySession(service, on_event=events.append) as session:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await session.edit(IMAGE, "snow")
        await asyncio.sleep(5)
        assert session.statistics().throttled == 1
    assert kinds(events) == [EditEnded]


async def test_a_check_that_is_refused_after_the_end_is_not_told():
    events, service = [], MemoryService(on_check=lambda *_: attrs.evolve(status(429), delay=2.0))
    async with MemorySession(service, on_event=events.append) as session:
        task = await session.submit(IMAGE, "snow")
        await asyncio.sleep(1.5)
        task.cancel()
        await asyncio.sleep(5)
        assert session.statistics().throttled == 1
    assert kinds(events) == [EditSubmitted, EditEnded]


async def test_an_edit_that_waits_for_a_slot_tells_how_long():
    events = []
    async with MemorySession(MemoryService(latency=0.0), on_event=events.append, max_in_flight=1) as session:
        await asyncio.gather(session.edit(IMAGE, "one"), session.edit(IMAGE, "two"))
        first, second = (event for event in events if type(event) is EditSubmitted)
        assert (first.timings.queued, second.timings.queued) == (0.0, 2.0)


async def test_an_attached_task_and_the_end_of_the_session_are_told():
    events, service = [], MemoryService(duration=99.0)
    service.ends["elsewhere"] = 99.0
    session = await MemorySession(service, on_event=events.append).open()
    session.attach("elsewhere")
    await session.submit(IMAGE, "snow")
    await session.aclose()
    ends = {event.task_id: event for event in events if type(event) is EditEnded}
    assert {type(end.error) for end in ends.values()} == {SessionClosedError}
    assert ends["elsewhere"].request is None
    assert sorted(ends) == ["elsewhere", "task-2"]


async def test_a_submission_that_the_end_of_the_session_overtakes_is_told():
    events = []
    service = MemoryService(on_submission=lambda _: NORMAL, latency=3.0)
    session = await MemorySession(service, on_event=events.append).open()
    edit = asyncio.create_task(session.edit(IMAGE, "snow"))
    await asyncio.sleep(1)
    closing = asyncio.create_task(session.__aexit__(KeyError))
    await asyncio.wait([closing, edit])
    assert kinds(events) == [EditEnded]
    assert (events[0].task_id, type(events[0].error)) == ("task-1", SessionClosedError)
    assert isinstance(edit.exception(), SessionClosedError)
    assert (session.statistics().submitted, session.statistics().failed) == (1, 1)


async def test_a_submission_that_is_never_answered_before_the_session_ends_is_counted_as_uncertain():
    session = await MemorySession(MemoryService(on_submission=in_order(HANGS))).open()
    edit = asyncio.create_task(session.edit(IMAGE, "snow"))
    await asyncio.sleep(1)
    await session.__aexit__(KeyError)
    assert isinstance(edit.exception(), SubmitUncertainError)
    assert (session.statistics().refused, session.statistics().uncertain) == (1, 1)


async def test_an_error_of_the_function_is_logged_and_changes_nothing(caplog):
    def fail(_):
        raise LookupError("mine")

    async with MemorySession(MemoryService(), on_event=fail) as session:
        assert (await session.edit(IMAGE, "snow")).task_id
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [f"on_event raised LookupError for {kind}: mine" for kind in ("EditSubmitted", "EditEnded")]
    assert [record.task_id for record in caplog.records] == ["task-1"] * 2


@pytest.mark.parametrize("kind", [EditSubmitted, EditThrottled, EditRetried, EditChecked, EditEnded])
@pytest.mark.parametrize("error", [asyncio.CancelledError("mine"), GeneratorExit("mine")], ids=type)
async def test_no_error_of_the_function_reaches_the_session(kind, error, caplog):
    def fail(event):
        if type(event) is kind:
            raise error

    on_check = [says({"id": "task-1", "status": "in_progress", "progress": 0.1}), status(429)]
    service = MemoryService(on_submission=in_order(status(429), refused()), on_check=in_order(*on_check))
    async with MemorySession(service, on_event=fail) as session:
        assert (await session.edit(IMAGE, "snow")).task_id == "task-1"
    assert f"on_event raised {type(error).__name__} for {kind.__name__}: mine" in caplog.text


async def test_events_have_the_context_variables_of_whoever_submitted():
    caller, seen = contextvars.ContextVar("caller", default="nobody"), {}

    async def edit(name, session):
        caller.set(name)
        await session.edit(IMAGE, name)

    def note(event):
        seen.setdefault(event.request.instruction, []).append((type(event), caller.get()))

    on_check = [says({"id": "task-1", "status": "in_progress", "progress": 0.1}), status(429)]
    service = MemoryService(on_submission=in_order(status(429), refused()), on_check=in_order(*on_check))
    async with MemorySession(service, on_event=note) as session:
        await asyncio.gather(edit("one", session), edit("two", session))
        late = asyncio.create_task(edit("late", session.with_options(deadline=0.5)))
        await asyncio.wait([late])
        given_up = asyncio.create_task(edit("given up", session))
        await asyncio.sleep(0.5)
        given_up.cancel()
    assert isinstance(late.exception(), DeadlineExceededError)
    for name, told in seen.items():
        assert {who for _, who in told} == {name}
    assert {kind for told in seen.values() for kind, _ in told} == {
        EditChecked,
        EditEnded,
        EditRetried,
        EditSubmitted,
        EditThrottled,
    }


@pytest.mark.parametrize("value", ["print", 7])
async def test_what_is_no_function_is_refused(value):
    match = f"on_event is {value!r}: give a function that takes one event and is not async"
    with pytest.raises(ConfigurationError, match=match):
        EditSession(KEY, on_event=value)


class AsyncNote:
    async def __call__(self, _event): ...


@pytest.mark.parametrize("note", [AsyncNote.__call__, AsyncNote()], ids=["function", "callable"])
async def test_an_async_function_is_refused(note):
    match = r"on_event is .*: give a function that takes one event and is not async"
    with pytest.raises(ConfigurationError, match=match):
        EditSession(KEY, on_event=note)


async def test_the_statistics_have_the_sums_of_money_and_time():
    service = MemoryService(latency=0.0)
    async with MemorySession(service, max_in_flight=1) as session:
        await asyncio.gather(*(session.edit(IMAGE, "snow") for _ in range(3)))
        counts = session.statistics()
    assert counts.cost == 3 * Decimal(completed("t")["usage"]["cost"])
    assert (counts.queued, counts.submitting, counts.running) == (2.0 + 4.0, 0.0, 6.0)


async def test_records_about_a_task_have_its_id(caplog):
    caplog.set_level(logging.INFO)
    checks = [status(503), says({"id": "task-1", "status": "thinking"})]
    async with MemorySession(MemoryService(on_check=in_order(*checks))) as session:
        edit = asyncio.create_task(session.edit(IMAGE, "snow"))
        await asyncio.sleep(1.9)
        edit.cancel()
        await asyncio.wait([edit])
    about = {record.msg: record.task_id for record in caplog.records}
    assert set(about.values()) == {"task-1"}
    assert len(about) == 3


async def test_records_about_no_task_have_the_attribute_too(caplog):
    """So that a format may name it for all records."""
    async with MemorySession(MemoryService(on_submission=in_order(lost())), resubmit_uncertain=True) as session:
        await session.edit(IMAGE, "snow")
    assert [record.task_id for record in caplog.records] == [None]
