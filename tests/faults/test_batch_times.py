"""Times and counts in flight of a bulk run, on a clock that skips waits."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3

import pytest
from memory_transport import IMAGE, MemoryService, MemorySession
from skipping_loop import SkippingLoop

from qwen_edit_async import EditBatch, EditRequest, FixedInterval

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.may_block("the loop waits for its threads"),
    pytest.mark.usefixtures("pictures_at_once"),
]


@pytest.fixture
def anyio_backend() -> object:
    return "asyncio", {"loop_factory": SkippingLoop}


def requests(count: int) -> list[EditRequest]:
    return [EditRequest(IMAGE, "make it snow", key=f"edit{number}") for number in range(count)]


def times(folder) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(folder / "qwen-edit-journal.sqlite3")) as journal:
        return journal.execute("SELECT queued, running, lag, checks FROM edits ORDER BY number").fetchall()


async def test_the_report_has_the_right_times(tmp_path):
    service = MemoryService(duration=3.5, latency=0.0)
    async with MemorySession(service, max_in_flight=1, polling=FixedInterval(1.0)) as session:
        report = await EditBatch(requests(3), tmp_path).run(session)
    # The fourth check finds the end. Until the first picture is saved, the run submits only as many edits as slots.
    # So the second edit does not wait for a slot, but the third waits for the second.
    for queued, row in zip((0.0, 0.0, 4.0), times(tmp_path), strict=True):
        assert row == pytest.approx((queued, 4.0, 1.0, 4), abs=0.1)
    assert (report.queued.p50, report.queued.p95) == pytest.approx((0.0, 4.0), abs=0.1)
    assert (report.running.p95, report.lag.p95) == pytest.approx((4.0, 1.0), abs=0.1)
    assert report.checks_per_edit == 4.0


async def test_tasks_of_earlier_runs_have_no_times(tmp_path):
    async with MemorySession(MemoryService(duration=3.5), max_in_flight=1) as session:
        first = asyncio.create_task(EditBatch(requests(1), tmp_path).run(session))
        await asyncio.sleep(1.5)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert (await EditBatch(requests(1), tmp_path).run(session)).ok
    assert times(tmp_path) == [(None, None, None, None)]


async def test_an_edit_that_waits_for_a_slot_is_not_in_flight(tmp_path):
    service = MemoryService(duration=20.0, room=2)
    async with MemorySession(service, max_in_flight=4) as session:
        batch = EditBatch(requests(4), tmp_path)
        run = asyncio.create_task(batch.run(session))
        await asyncio.sleep(2.0)
        assert (service.unfinished, batch.progress.in_flight) == (2, 2)
        assert (await run).ok
