"""The handle: many waiters, none of whom disturbs another."""

from __future__ import annotations

import asyncio
import re

import pytest
from memory_transport import IMAGE, MemoryService, MemorySession, in_order, says, status

from qwen_edit_async import (
    DeadlineExceededError,
    EditCancelledError,
    EditFailedError,
    EditRequest,
    InvalidEditError,
    NotFoundError,
    TaskStatus,
)

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_clock]


@pytest.fixture
async def service() -> MemoryService:
    return MemoryService(duration=5.0)


@pytest.fixture
async def session(service):
    async with MemorySession(service) as session:
        yield session


async def test_any_number_of_waiters_get_the_same_result(session):
    task = await session.submit(IMAGE, "snow")
    results = await asyncio.gather(*(wait(task) for _ in range(5)))
    assert all(result is results[0] for result in results)
    assert await task is results[0]


async def wait(task):
    return await task


async def test_the_timeout_of_one_waiter_does_not_affect_the_others(session):
    task = await session.submit(IMAGE, "snow")
    patient = asyncio.create_task(wait(task))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await task
    assert (await patient).task_id == task.id


async def test_the_cancellation_of_one_waiter_does_not_affect_the_others(session):
    task = await session.submit(IMAGE, "snow")
    waiters = [asyncio.create_task(wait(task)) for _ in range(3)]
    await asyncio.sleep(1)
    waiters[1].cancel()
    results = await asyncio.gather(*waiters, return_exceptions=True)
    assert [isinstance(result, asyncio.CancelledError) for result in results] == [False, True, False]


async def test_a_task_knows_whether_it_is_awaited(session):
    task = await session.submit(IMAGE, "snow")
    assert task.awaited is False
    waiter = asyncio.create_task(wait(task))
    await asyncio.sleep(1)
    assert task.awaited is True
    await waiter
    assert task.awaited is False


async def test_a_task_shows_its_request_id_and_state(session):
    request = EditRequest(IMAGE, "snow")
    task = await session.submit(request)
    assert (task.id, task.request, task.status, task.done()) == ("task-1", request, TaskStatus.IN_PROGRESS, False)
    assert repr(task) == "<EditTask task-1 in_progress>"
    await task
    assert (task.status, task.done(), repr(task)) == (TaskStatus.COMPLETED, True, "<EditTask task-1 completed>")


async def test_the_result_says_how_long_it_took(session):
    timings = (await session.edit(IMAGE, "snow")).timings
    assert (timings.queued, timings.checks) == (0.0, 5)
    assert timings.submitting == pytest.approx(0.01, abs=0.01)
    assert timings.running == pytest.approx(5.05, abs=0.02)
    assert timings.lag == pytest.approx(1.02, abs=0.02)
    assert timings.total == timings.queued + timings.submitting + timings.running


# Giving up.


async def test_cancel_frees_the_slot_stops_the_checks_and_tells_every_waiter(service):
    async with MemorySession(service, max_in_flight=1) as session:
        task = await session.submit(IMAGE, "snow")
        waiters = [asyncio.create_task(wait(task)) for _ in range(2)]
        await asyncio.sleep(1.5)
        task.cancel()
        assert (session.statistics().in_flight, session.statistics().watched) == (0, 0)
        errors = await asyncio.gather(*waiters, return_exceptions=True)
        assert [type(error) for error in errors] == [EditCancelledError] * 2
        assert {error.task_id for error in errors} == {"task-1"}
        await asyncio.sleep(60)
        assert len(service.checks) == 1
        assert (session.unfinished, session.statistics().cancelled) == (("task-1",), 1)


async def test_cancelling_an_ended_task_changes_nothing(session):
    task = await session.submit(IMAGE, "snow")
    result = await task
    task.cancel()
    assert await task is result
    assert (session.unfinished, session.statistics().cancelled) == ((), 0)


async def test_a_cancelled_edit_carries_the_id_and_stops_its_checks(service, session, caplog):
    edit = asyncio.create_task(session.edit(IMAGE, "snow"))
    await asyncio.sleep(1.5)
    edit.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await edit
    assert caught.value.__notes__ == [
        "task task-1 runs on at the service: session.attach('task-1') gets its result",
    ]
    assert "task-1" in caplog.text
    assert (session.statistics().in_flight, session.statistics().watched) == (0, 0)
    assert (await session.attach("task-1")).task_id == "task-1"
    assert session.unfinished == ()


async def test_a_timed_out_edit_frees_its_slot(service):
    async with MemorySession(service, max_in_flight=1) as session:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await session.edit(IMAGE, "snow")
        assert session.statistics().in_flight == 0
        await session.edit(IMAGE, "snow")


async def test_a_cancelled_edit_leaves_a_task_that_somebody_else_awaits(session):
    edit = asyncio.create_task(session.edit(IMAGE, "snow"))
    await asyncio.sleep(1.5)
    other = asyncio.create_task(wait(session.attach("task-1")))
    await asyncio.sleep(1)
    edit.cancel()
    assert (await other).task_id == "task-1"


# Attaching.


async def test_attaching_to_a_watched_task_returns_it(session):
    task = await session.submit(IMAGE, "snow")
    assert session.attach(task.id) is task


async def test_attaching_twice_returns_the_same_task(service, session):
    service.ends["elsewhere"] = asyncio.get_running_loop().time() + 5
    first = session.attach("elsewhere")
    assert session.attach("elsewhere") is first
    assert (await first).request is None


async def test_attaching_to_a_task_that_ended_elsewhere_takes_one_check_at_once(service, session):
    service.ends["elsewhere"] = 0.0
    start = asyncio.get_running_loop().time()
    result = await session.attach("elsewhere")
    assert asyncio.get_running_loop().time() - start < 0.1
    assert (result.task_id, len(service.checks)) == ("elsewhere", 1)


async def test_attaching_takes_no_slot(service):
    async with MemorySession(service, max_in_flight=1) as session:
        service.ends["elsewhere"] = asyncio.get_running_loop().time() + 5
        attached = session.attach("elsewhere")
        result = await session.edit(IMAGE, "snow")
        assert result.timings.queued == 0.0
        await attached


async def test_attaching_to_an_unknown_task_is_an_error_at_the_first_check(service, session):
    with pytest.raises(NotFoundError) as caught:
        await session.attach("nobody")
    assert (caught.value.task_id, len(service.checks)) == ("nobody", 1)


async def test_attaching_has_a_deadline_of_its_own(service, session):
    service.ends["elsewhere"] = asyncio.get_running_loop().time() + 1000
    with pytest.raises(DeadlineExceededError, match="elsewhere"):
        await session.attach("elsewhere", deadline=10.0)


@pytest.mark.parametrize("task_id", ["", " ", "..", "a b", "a\nb", 7, None, "x" * 600])
async def test_an_impossible_task_id_is_refused(session, task_id):
    with pytest.raises(InvalidEditError, match="task id"):
        session.attach(task_id)


async def test_a_task_id_is_quoted_into_the_path(service, session):
    with pytest.raises(NotFoundError):
        await session.attach("../a?b=c/%2e")
    assert service.checks[0].call.path.endswith("/task/..%2Fa%3Fb%3Dc%2F%252e")


# Updates.


async def collect(task) -> list[tuple[str, float | None]]:
    return [(snapshot.status_word, snapshot.progress) async for snapshot in task.updates()]


async def test_updates_yield_each_change_until_the_end(service, session):
    answers = [says({"status": word, "progress": share}) for word, share in [("queued", None), ("running", 0.5)]]
    service.on_check = in_order(answers[0], answers[0], answers[1], answers[1])
    task = await session.submit(IMAGE, "snow")
    assert await collect(task) == [("in_progress", None), ("queued", None), ("running", 0.5), ("completed", None)]


async def test_updates_of_an_ended_task_yield_its_last_state(session):
    task = await session.submit(IMAGE, "snow")
    await task
    assert await collect(task) == [("completed", None)]


async def test_updates_of_a_task_that_fails_end_with_the_failure(service, session):
    service.on_check = in_order(says({"status": "failed", "error": "moderation"}))
    task = await session.submit(IMAGE, "snow")
    assert (await collect(task))[-1] == ("failed", None)
    with pytest.raises(EditFailedError):
        await task


async def test_updates_end_with_the_error_of_a_task_that_is_given_up(session):
    task = await session.submit(IMAGE, "snow")
    collecting = asyncio.create_task(collect(task))
    await asyncio.sleep(1.5)
    task.cancel()
    with pytest.raises(EditCancelledError, match=re.escape("session.attach('task-1')")):
        await collecting


async def test_a_slow_loop_over_updates_gets_the_newest(service, session):
    service.on_check = in_order(*[says({"status": "running", "progress": share / 10}) for share in range(5)])
    task = await session.submit(IMAGE, "snow")
    shares = []
    async for snapshot in task.updates():
        shares.append(snapshot.progress)
        await asyncio.sleep(2.5)
    assert shares == [None, 0.1, 0.3, None]


async def test_leaving_the_updates_leaves_no_waiter(session):
    task = await session.submit(IMAGE, "snow")
    async for _ in task.updates():
        break
    assert task.awaited is False


async def test_a_failed_check_yields_no_update(service, session):
    service.on_check = in_order(status(500), status(500))
    task = await session.submit(IMAGE, "snow")
    assert await collect(task) == [("in_progress", None), ("completed", None)]


async def test_waiters_that_are_cancelled_together_leave_no_slot_taken(service, session):
    service.duration = 1000.0
    edit = asyncio.create_task(session.edit(IMAGE, "snow"))
    await asyncio.sleep(5)

    async def wait():
        await session.attach("task-1")

    other = asyncio.create_task(wait())
    await asyncio.sleep(1)
    edit.cancel()
    other.cancel()
    await asyncio.gather(edit, other, return_exceptions=True)
    assert (session.statistics().in_flight, session.statistics().watched) == (0, 0)


async def test_each_waiter_gets_its_own_copy_of_the_error(service, session):
    service.on_check = in_order(says({"status": "failed", "error": {"code": 1, "error_message": "no"}}))
    task = await session.submit(IMAGE, "snow")
    errors = await asyncio.gather(*[asyncio.wait_for(task, 100) for _ in range(3)], return_exceptions=True)
    assert [str(error) for error in errors] == [str(errors[0])] * 3
    assert len({id(error) for error in errors}) == 3
