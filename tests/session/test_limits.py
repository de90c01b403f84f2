"""Sessions with other limits, which share everything else."""

from __future__ import annotations

import gc
import warnings

import pytest
from memory_transport import IMAGE, MemoryService, MemorySession, refused

from qwen_edit_async import APIConnectionError, ConfigurationError, DeadlineExceededError, SessionClosedError

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_clock]


async def test_other_limits_hold_for_edits_of_that_session_alone():
    service = MemoryService(duration=20.0)
    async with MemorySession(service, deadline=60) as session:
        quick = session.with_options(deadline=5)
        with pytest.raises(DeadlineExceededError):
            await quick.edit(IMAGE, "snow")
        outcomes = [outcome async for outcome in quick.edit_many([{"image": IMAGE, "instruction": "snow"}])]
        assert isinstance(outcomes[0].error, DeadlineExceededError)
        assert (await quick.edit(IMAGE, "snow", deadline=60)).task_id
        assert (await session.edit(IMAGE, "snow")).task_id
        assert (await quick.with_options(deadline=60, max_retries=0).edit(IMAGE, "snow")).task_id


async def test_other_retries_hold_for_submissions_and_status_checks():
    service = MemoryService(on_submission=lambda _: refused(), on_check=lambda *_: refused())
    async with MemorySession(service, max_retries=1) as session:
        for each, attempts in ((session, 2), (session.with_options(max_retries=0), 1)):
            service.submissions.clear()
            service.checks.clear()
            with pytest.raises(APIConnectionError):
                await each.edit(IMAGE, "snow")
            with pytest.raises(APIConnectionError):
                await each.status("task-1")
            assert (len(service.submissions), len(service.checks)) == (attempts, attempts)


async def test_they_share_slots_tasks_counts_and_the_end():
    service = MemoryService()
    session = MemorySession(service, max_in_flight=1)
    other = session.with_options(deadline=5)
    async with other:
        task = await session.submit(IMAGE, "snow")
        assert other.attach(task.id) is task
        await other.submit(IMAGE, "rain")
        assert service.peak_unfinished == 1
        assert session.statistics() == other.statistics()
        assert (session.is_open, service.opened) == (True, 1)
    assert not session.is_open
    assert session.unfinished == other.unfinished != ()
    with pytest.raises(SessionClosedError):
        await session.edit(IMAGE, "snow")
    await session.aclose()


async def test_only_the_last_of_them_warns_that_it_was_never_closed():
    session = await MemorySession(MemoryService()).open()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        session.with_options(max_retries=0)
        gc.collect()
    assert caught == []
    await session.aclose()


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"deadline": 0}, "deadline is 0: give a positive number"),
        ({"deadline": "5"}, "deadline is '5': give a positive number"),
        ({"max_retries": -1}, "max_retries is -1: give 0 or a positive integer"),
        ({"max_retries": True}, "max_retries is True: give 0 or a positive integer"),
    ],
)
async def test_wrong_limits_are_refused(options, found):
    with pytest.raises(ConfigurationError, match=found):
        MemorySession(MemoryService()).with_options(**options)
