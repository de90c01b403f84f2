"""Jumping clocks, blocked loops, and deadlines and pauses of any length."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest
from memory_transport import (
    HANGS,
    IMAGE,
    NORMAL,
    Answer,
    MemoryService,
    MemorySession,
    in_order,
    lost,
    refused,
    says,
    status,
)
from skipping_loop import SkippingLoop

from qwen_edit_async import (
    BadRequestError,
    DeadlineExceededError,
    EditResult,
    InternalServerError,
    Learned,
    RateLimitError,
    SubmitUncertainError,
    TaskStatus,
)
from qwen_edit_async.notebook import track
from qwen_edit_async.scheduling.schedule import LAST_CHECK_GRACE

pytestmark = [pytest.mark.anyio, pytest.mark.may_block("the loop waits for its threads")]

EIGHT_HOURS = 8 * 3600.0


@pytest.fixture
def anyio_backend() -> object:
    return "asyncio", {"loop_factory": SkippingLoop}


def leap(seconds: float) -> None:
    """Advance the loop's clock without running anything."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SkippingLoop)
    loop.leap(seconds)


async def edits_in_flight(session, count: int = 5) -> list[asyncio.Task]:
    edits = [asyncio.create_task(session.edit(IMAGE, "snow")) for _ in range(count)]
    while session.statistics().watched < count:  # noqa: ASYNC110  # there is no event for it
        await asyncio.sleep(0.25)
    return edits


@pytest.mark.parametrize("jump", [-EIGHT_HOURS, EIGHT_HOURS], ids=["back", "forth"])
async def test_a_jump_of_the_wall_clock_changes_nothing(jump, monkeypatch):
    async def seconds() -> float:
        started_at = asyncio.get_running_loop().time()
        async with MemorySession(MemoryService(duration=5.5, on_submission=in_order(status(503)))) as session:
            await session.edit(IMAGE, "snow")
        return asyncio.get_running_loop().time() - started_at

    undisturbed = await seconds()
    real, readings = time.time, iter(range(1_000_000))
    monkeypatch.setattr(time, "time", lambda: real() + jump * (next(readings) % 2))
    assert await seconds() == pytest.approx(undisturbed)


@pytest.mark.parametrize("lasting", [0.5, 10.0], ids=["between two checks", "while checks are under way"])
@pytest.mark.parametrize("polling", [None, Learned()], ids=["fixed", "learned"])
async def test_edits_that_completed_during_a_suspension_succeed(lasting, polling):
    service = MemoryService(duration=100.0, latency=lasting)
    options = {} if polling is None else {"polling": polling}
    async with MemorySession(service, deadline=600, **options) as session:
        edits = await edits_in_flight(session)
        await asyncio.sleep(2.5)
        leap(EIGHT_HOURS)
        results = await asyncio.gather(*edits)
        assert {result.task_id for result in results} == set(service.ids)
        # The suspension does not delay the checks of the next edit.
        started_at = asyncio.get_running_loop().time()
        await session.edit(IMAGE, "snow")
        assert asyncio.get_running_loop().time() - started_at < 100 + 30 + 4 * lasting


async def test_edits_that_still_run_after_a_suspension_end_with_their_ids_after_one_check():
    service = MemoryService(duration=10 * EIGHT_HOURS)
    async with MemorySession(service, deadline=600) as session:
        edits = await edits_in_flight(session)
        leap(EIGHT_HOURS)
        resumed_at = asyncio.get_running_loop().time()
        errors = await asyncio.gather(*edits, return_exceptions=True)
        assert {type(error) for error in errors} == {DeadlineExceededError}
        assert {error.task_id for error in errors} == set(service.ids) == set(session.unfinished)
        assert asyncio.get_running_loop().time() - resumed_at < 1
        assert sum(sent.at >= resumed_at for sent in service.checks) == len(edits)


class BlockedService(MemoryService):
    """Blocks the event loop past the edit's deadline after the reply to a submission was read."""

    async def send(self, call, body=None):
        loop = asyncio.get_running_loop()
        try:
            return await super().send(call, body)
        finally:
            if body is not None:
                read = loop.create_future()
                loop.call_soon(read.set_result, None)
                loop.call_soon(leap, 10.0)
                await read


async def test_an_id_that_arrives_as_the_deadline_passes_is_reported():
    async with MemorySession(BlockedService(duration=100), deadline=5) as session:
        with pytest.raises(DeadlineExceededError, match="task-1") as caught:
            await session.edit(IMAGE, "snow")
        assert (caught.value.task_id, session.unfinished) == ("task-1", ("task-1",))
        assert (session.statistics().in_flight, session.statistics().submitted) == (0, 1)


class BlockedSocket(MemoryService):
    """Blocks the event loop past the edit's deadline before the reply to a submission is read from its socket."""

    async def send(self, call, body=None):
        loop = asyncio.get_running_loop()
        read = loop.create_future()
        reply = await super().send(call, body)
        loop.call_soon(leap, 10.0)
        loop.call_soon(loop.call_soon, read.set_result, None)  # like the loop's callback for a socket
        await read
        return reply


async def test_a_result_that_arrives_as_the_wait_for_it_ends_is_not_lost():
    choices = [{"message": {"content": [{"image": "https://results.example/1.png"}]}}]
    service = BlockedSocket(on_submission=in_order(says({"output": {"choices": choices}, "request_id": "r-1"})))
    async with MemorySession(service, protocol="dashscope", envelope="auto", deadline=5) as session:
        assert len((await session.edit(IMAGE, "snow")).images) == 1


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(status(500), SubmitUncertainError), (lost(), SubmitUncertainError), (status(400), BadRequestError)],
    ids=["500", "lost", "400"],
)
async def test_a_failure_that_arrives_as_the_deadline_passes_is_reported(answer, kind):
    async with MemorySession(BlockedService(on_submission=in_order(answer)), deadline=5) as session:
        with pytest.raises(kind) as caught:
            await session.edit(IMAGE, "snow")
        assert type(caught.value) is kind
        assert session.statistics().uncertain == (kind is SubmitUncertainError)


@pytest.mark.parametrize("outage", [20.0, 1000.0])
async def test_the_network_may_take_a_while_to_come_back_after_a_suspension(outage):
    service = MemoryService(duration=100.0)
    async with MemorySession(service, deadline=600) as session:
        edits = await edits_in_flight(session)
        leap(EIGHT_HOURS)
        resumed_at = asyncio.get_running_loop().time()
        service.on_check = lambda *_: refused() if asyncio.get_running_loop().time() < resumed_at + outage else NORMAL
        ends = await asyncio.gather(*edits, return_exceptions=True)
        if outage < LAST_CHECK_GRACE:
            assert {type(end) for end in ends} == {EditResult}
        else:
            assert {type(end) for end in ends} == {DeadlineExceededError}
            assert asyncio.get_running_loop().time() - resumed_at == pytest.approx(LAST_CHECK_GRACE, abs=0.1)


@pytest.mark.parametrize("seconds", [0.0, 5.0], ids=["none due before", "most due before"])
async def test_every_task_is_checked_after_a_suspension_under_a_ceiling_of_checks(seconds):
    service = MemoryService(duration=100.0)
    async with MemorySession(service, deadline=600, poll_rate=1.0, max_in_flight=60) as session:
        edits = await edits_in_flight(session, 60)
        await asyncio.sleep(seconds)
        leap(EIGHT_HOURS)
        results = await asyncio.gather(*edits)
        assert len(results) == 60
        await session.edit(IMAGE, "snow")  # the session is still open


async def test_a_check_answered_after_a_suspension_and_the_end_changes_nothing():
    service = MemoryService(duration=5.0)
    service.on_check = lambda _, count: Answer(delay=EIGHT_HOURS + 30) if count == 1 else NORMAL
    async with MemorySession(service, deadline=600) as session:
        task = await session.submit(IMAGE, "snow")
        await asyncio.sleep(2.5)
        leap(EIGHT_HOURS)
        await task
        await asyncio.sleep(60)
        assert (len(service.checks), task.status) == (2, TaskStatus.COMPLETED)


async def test_a_submission_interrupted_by_a_suspension_is_uncertain():
    service = MemoryService(on_submission=in_order(HANGS))
    async with MemorySession(service, deadline=600) as session:
        edit = asyncio.create_task(session.edit(IMAGE, "snow"))
        while not service.submissions:  # noqa: ASYNC110  # there is no event for it
            await asyncio.sleep(0.25)
        await asyncio.sleep(1)
        leap(EIGHT_HOURS)
        with pytest.raises(SubmitUncertainError):
            await edit
        await session.edit(IMAGE, "snow")


async def test_a_loop_that_is_blocked_for_two_seconds_costs_no_edit():
    service = MemoryService(duration=2.9)
    async with MemorySession(service, deadline=4.0) as session:
        edits = await edits_in_flight(session)
        await asyncio.sleep(2.5)
        leap(2.0)  # past the last check and the deadline
        await asyncio.gather(*edits)


@pytest.mark.parametrize("deadline", [0.001, 0.3, 0.6])
async def test_a_deadline_shorter_than_a_check_is_kept_to_within_its_grace_and_names_the_task(deadline):
    service = MemoryService(duration=100.0, latency=0.0)
    service.on_check = lambda *_: HANGS
    async with MemorySession(service, deadline=deadline) as session:
        started_at = asyncio.get_running_loop().time()
        with pytest.raises(DeadlineExceededError) as caught:
            await session.edit(IMAGE, "snow")
        assert asyncio.get_running_loop().time() - started_at == pytest.approx(deadline + LAST_CHECK_GRACE)
        assert session.unfinished == (caught.value.task_id,) == ("task-1",)
        assert len(service.checks) == 1


async def test_an_edit_that_completes_within_a_deadline_shorter_than_the_check_interval_succeeds():
    async with MemorySession(MemoryService(duration=0.2), deadline=0.9) as session:
        await session.edit(IMAGE, "snow")


DATE = "Wed, 21 Oct 2026 07:28:00 GMT"
THE_DAY_BEFORE = "Tue, 20 Oct 2026 07:28:00 GMT"

NO_PAUSE = [0, -5, -3600.5, "soon", "", "NaN", "inf", "-inf", "1 minute", "0x10", THE_DAY_BEFORE, "Mon, 99 Foo 2026"]


@pytest.mark.parametrize("retry_after", NO_PAUSE, ids=str)
@pytest.mark.parametrize("phase", ["submission", "check"])
async def test_a_retry_after_without_a_pause_causes_none(retry_after, phase):
    refusal = status(503, retry_after=retry_after)
    refusal.reply.headers["date"] = DATE
    service = MemoryService(**{f"on_{phase}": in_order(refusal)})
    async with MemorySession(service) as session:
        started_at = asyncio.get_running_loop().time()
        await session.edit(IMAGE, "snow")
        assert asyncio.get_running_loop().time() - started_at < 6


@pytest.mark.parametrize(("code", "kind"), [(429, RateLimitError), (503, InternalServerError)])
async def test_a_retry_after_of_an_hour_on_a_submission_is_reported_at_once_and_pauses_all(code, kind):
    service = MemoryService(on_submission=in_order(status(code, retry_after=3600)))
    async with MemorySession(service, deadline=600) as session:
        started_at = asyncio.get_running_loop().time()
        with pytest.raises(kind) as caught:
            await session.edit(IMAGE, "snow")
        assert caught.value.retry_after == 3600
        assert asyncio.get_running_loop().time() - started_at < 1
        await session.edit(IMAGE, "snow")  # the deadline starts when the edit gets a slot
        assert service.submissions[1].at - started_at >= 3600
    assert len(service.submissions) == 2


@pytest.mark.parametrize("phase", ["submission", "check"])
async def test_an_endless_pause_lasts_a_day_and_is_logged_once(phase, caplog):
    service = MemoryService(duration=0.5, **{f"on_{phase}": in_order(status(503, retry_after=10**9))})
    async with MemorySession(service, deadline=600, max_in_flight=2) as session:
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        outcomes = [outcome async for outcome in session.edit_many([{"images": IMAGE, "instruction": "snow"}] * 6)]
        assert 86_400 < loop.time() - started_at < 86_460
    failed = [outcome for outcome in outcomes if not outcome.ok]
    assert len(failed) == (2 if phase == "submission" else 1)  # the two that had begun; the others waited
    (told,) = [record.getMessage() for record in caplog.records if "all requests pause" in record.getMessage()]
    assert "86400 s" in told
    assert "retry after 1e+09 s" in told


async def test_a_pause_is_visible_and_does_not_count_as_working_time():
    service = MemoryService(duration=1.0, on_submission=lambda n: status(503, retry_after=600) if n == 2 else NORMAL)
    async with MemorySession(service, max_in_flight=1) as session:
        tracked = track(session.edit_many([{"images": IMAGE, "instruction": "snow"}] * 3), total=3, session=session)
        assert [(await anext(tracked)).ok for _ in range(2)] == [True, False]
        coming = asyncio.create_task(anext(tracked))
        await asyncio.sleep(300)
        during = tracked.progress
        assert (await coming).ok
        after = tracked.progress
    assert during.pause_left == pytest.approx(300, abs=5)
    assert during.paused == pytest.approx(300, abs=5)
    assert (after.pause_left, after.paused) == (0, pytest.approx(600))
    ends_at = datetime.now(UTC).astimezone() + timedelta(seconds=during.pause_left)
    around = {f"{ends_at + timedelta(seconds=seconds):%H:%M}" for seconds in (-30, 0, 30)}
    assert during.text().partition("until ")[2][:5] in around


async def test_a_pause_that_meets_a_status_call_is_reported(caplog):
    service = MemoryService(duration=0.0, on_check=in_order(status(503, retry_after=299), status(503, retry_after=301)))
    async with MemorySession(service) as session:
        task = await session.submit(IMAGE, "snow")
        caplog.clear()
        await session.status(task.id)
        assert [record.getMessage() for record in caplog.records if "301 s" in record.getMessage()]
        assert not [record for record in caplog.records if "299 s" in record.getMessage()]


async def test_a_retry_after_of_an_hour_on_a_check_ends_the_wait_at_the_deadline_and_loses_no_task():
    service = MemoryService(duration=5.0, on_check=in_order(status(429, retry_after=3600)))
    async with MemorySession(service, deadline=600) as session:
        started_at = asyncio.get_running_loop().time()
        with pytest.raises(DeadlineExceededError, match="retry after 3600 s") as caught:
            await session.edit(IMAGE, "snow")
        assert asyncio.get_running_loop().time() - started_at == pytest.approx(600 + LAST_CHECK_GRACE)
        assert session.unfinished == (caught.value.task_id,)
        result = await session.attach(caught.value.task_id, deadline=4000)
        assert result.task_id == caught.value.task_id
        assert service.checks[1].at - started_at >= 3600
