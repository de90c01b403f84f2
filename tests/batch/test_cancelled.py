"""A run that is cancelled: tasks that have not begun are cancelled at the service, and the next run repeats them."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from decimal import Decimal

import aiohttp
import pytest
from bulk_runs import PHOTO, columns, pictures, service, states, until
from memory_transport import HANGS, IMAGE, KEY, MemoryService, MemorySession

from qwen_edit_async import EditBatch, EditHub, EditRequest, EditSession
from qwen_edit_async.emulator import Fault

pytestmark = pytest.mark.anyio

REQUESTS = [EditRequest(PHOTO, f"snow {number}", key=f"edit{number}") for number in range(3)]
LONG = 3600.0


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def account(leap):
    """Return a function that starts a service with one slot. The first three tasks end only when the clock leaps."""

    def start(*faults, protocol="queue"):
        durations = [LONG] * 3
        return service(*faults, protocol=protocol, slots=1, duration=lambda _: durations.pop() if durations else 0.0)

    return start


def at_work(emulator, session):
    """Return whether one task is in progress, two are in the service's queue, and the session knows it."""
    return emulator.statistics().tasks_created == 3 and session.statistics().checks >= 6


async def interrupt(emulator, session, batch):
    run = asyncio.create_task(batch.run(session))
    await until(lambda: at_work(emulator, session))
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run


def count(emulator):
    counts = emulator.statistics()
    return counts.tasks_created, counts.tasks_cancelled, counts.tasks_completed


async def test_tasks_that_have_not_begun_are_cancelled_and_made_again(out, account, leap):
    async with account() as (emulator, session):
        await interrupt(emulator, session, EditBatch(REQUESTS, out, max_tasks=3))
        await until(lambda: session.statistics().cancellations == 2)
        assert count(emulator) == (3, 2, 0)
        assert set(states(out).values()) == {"submitted"}  # until the service says what became of them
        leap(LONG)
        report = await EditBatch(REQUESTS, out, max_tasks=3).run(session)
        assert (report.saved, report.failed, report.tasks, len(pictures(out))) == (3, 0, 3, 3)
        assert count(emulator) == (5, 2, 3)
        assert emulator.statistics().charges == 3 * Decimal("0.0357")
        rows = columns(out, "former_task_ids", "attempts")
        assert sorted(rows, key=str)[2] == (None, 1)
        assert {former for former, _ in rows} - {None} <= set(emulator.tasks)


async def test_cancelled_edits_of_a_folder_are_made_again_by_the_next_run(tmp_path, out, account, leap):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        (photos / f"edit{number}.png").write_bytes(PHOTO)
    async with account() as (emulator, session):
        await interrupt(emulator, session, EditBatch(photos, out, instruction="make it snow"))
        await until(lambda: session.statistics().cancellations == 2)
        leap(LONG)
        report = await EditBatch(photos, out, instruction="make it snow").run(session)
        assert (report.ok, report.saved, count(emulator)) == (True, 3, (5, 2, 3))


async def test_tasks_that_complete_in_spite_of_a_cancellation_are_not_made_again(out, account, leap):
    agrees = Fault.status(200, code=0, message="", shape="object").on("cancel")
    async with account(agrees) as (emulator, session):
        await interrupt(emulator, session, EditBatch(REQUESTS, out))
        for _ in REQUESTS:
            leap(LONG)
        report = await EditBatch(REQUESTS, out).run(session)
        assert (report.saved, count(emulator)) == (3, (3, 0, 3))


async def test_where_nothing_can_be_cancelled_all_tasks_are_resumed(out, account, leap):
    async with account(protocol="generation") as (emulator, session):
        await interrupt(emulator, session, EditBatch(REQUESTS, out))
        for _ in REQUESTS:
            leap(LONG)
        report = await EditBatch(REQUESTS, out).run(session)
        assert (report.saved, count(emulator)) == (3, (3, 0, 3))


async def test_an_edit_whose_task_somebody_else_cancels_is_planned_again(out, account):
    async with account() as (emulator, session):
        run = asyncio.create_task(EditBatch(REQUESTS[:1], out, stop_after_failures=1).run(session))
        await until(lambda: emulator.tasks)
        url = f"{emulator.url}/model/v1/queue/qwen_image_edit_plus/requests/{next(iter(emulator.tasks))}/cancel"
        async with aiohttp.request("PUT", url, headers={"Authorization": f"Bearer {emulator.api_key}"}) as reply:
            assert reply.ok
        report = await run
        assert (report.planned, report.failed, report.tasks, report.stopped) == (1, 0, 0, "")


async def test_a_hub_that_closes_cancels_what_has_not_begun(out, account, leap):
    async with account() as (emulator, session):
        async with EditHub(out, session) as hub:
            waits = [asyncio.create_task(hub.edit(request)) for request in REQUESTS]
            await until(lambda: at_work(emulator, session))
        assert {outcome.status for outcome in await asyncio.gather(*waits)} == {"submitted"}
        await until(lambda: session.statistics().cancellations == 2)
        leap(LONG)
        async with EditHub(out, session) as hub:
            outcomes = await asyncio.gather(*map(hub.edit, REQUESTS))
        assert ([outcome.status for outcome in outcomes], count(emulator)) == (["saved"] * 3, (5, 2, 3))


@pytest.mark.virtual_clock
async def test_results_that_only_the_reply_holds_are_not_awaited_and_left_uncertain(out):
    transport = MemoryService(on_submission=lambda _: HANGS)
    batch = EditBatch(REQUESTS, out)
    async with EditSession(KEY, protocol="dashscope", transport=transport) as session:
        run = asyncio.create_task(batch.run(session))
        await until(lambda: len(transport.submissions) == 3 and all(sent.body for sent in transport.submissions))
        stopped_at = asyncio.get_running_loop().time()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    assert asyncio.get_running_loop().time() - stopped_at < 1.0
    assert (batch.report.uncertain, set(states(out).values())) == (3, {"submitting"})
    async with EditSession(KEY, protocol="dashscope", transport=MemoryService()) as session:
        report = await EditBatch(REQUESTS, out).run(session)
    assert (report.uncertain, len(transport.submissions), set(states(out).values())) == (3, 3, {"uncertain"})


@pytest.mark.virtual_clock
async def test_the_ids_of_tasks_are_awaited_once_by_the_run_and_its_session(out):
    transport = MemoryService(on_submission=lambda _: HANGS)
    async with EditSession(KEY, envelope="flat", transport=transport) as session:
        run = asyncio.create_task(EditBatch(REQUESTS, out).run(session))
        await until(lambda: len(transport.submissions) == 3 and all(sent.body for sent in transport.submissions))
        stopped_at = asyncio.get_running_loop().time()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    assert asyncio.get_running_loop().time() - stopped_at < 6.0


@pytest.mark.virtual_clock
async def test_edits_that_were_sent_when_the_session_ended_are_not_sent_again(out):
    requests = [EditRequest(IMAGE, "snow", key=f"edit{number}") for number in range(3)]
    transport = MemoryService(on_submission=lambda _: HANGS)
    session = await MemorySession(transport, max_in_flight=3).open()
    run = asyncio.create_task(EditBatch(requests, out).run(session))
    await until(lambda: len(transport.submissions) == 3)
    await asyncio.sleep(1)
    await session.__aexit__(KeyError, KeyError(), None)
    report = await run
    assert (report.uncertain, set(states(out).values())) == (3, {"uncertain"})
    transport.on_submission = lambda _: pytest.fail("an edit was sent again")
    async with MemorySession(transport) as session:
        report = await EditBatch(requests, out).run(session)
    assert (report.uncertain, len(transport.submissions)) == (3, 3)


@pytest.fixture
def slow_disk(monkeypatch):
    """Make the journal wait before it records a submission. Return the events ``waits`` and ``may_go_on``."""
    waits, may_go_on = threading.Event(), threading.Event()

    class Disk(sqlite3.Connection):
        def execute(self, statement, *parameters):
            if statement.startswith("UPDATE edits SET state = 'submitting'"):
                waits.set()
                assert may_go_on.wait(10)
            return super().execute(statement, *parameters)

    monkeypatch.setattr("sqlite3.connect", Disk)
    yield waits, may_go_on
    may_go_on.set()


async def test_an_edit_that_is_cancelled_while_its_submission_is_journalled_is_submitted_by_the_next_run(
    out, slow_disk
):
    waits, may_go_on = slow_disk
    async with service() as (emulator, session):
        batch = EditBatch(REQUESTS[:1], out)
        run = asyncio.create_task(batch.run(session))
        await until(waits.is_set)
        assert batch.progress.in_flight == 1
        run.cancel()
        await until(lambda: batch.progress.in_flight == 0)
        may_go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert (states(out), emulator.statistics().submits) == ({"edit0": "planned"}, 0)
        report = await EditBatch(REQUESTS[:1], out).run(session)
        assert (report.saved, emulator.statistics().submits) == (1, 1)
