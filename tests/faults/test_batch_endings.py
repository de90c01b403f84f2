"""A bulk run that is cancelled at any moment, even at its end, keeps every id and releases its journal."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3

import anyio
import attrs
import pytest
from memory_transport import IMAGE, NORMAL, Interrupted, MemoryService, MemorySession
from skipping_loop import SkippingLoop

from qwen_edit_async import EditBatch, EditRequest, JournalError
from qwen_edit_async.batch.journal.journal import JOURNAL_NAME, Journal
from qwen_edit_async.batch.rules.decide import State

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.may_block("the loop waits for its threads"),
    pytest.mark.usefixtures("pictures_at_once"),
]

moments = pytest.mark.parametrize("as_it_wakes", [False, True], ids=["while it waits", "as it wakes"])


@pytest.fixture
def anyio_backend() -> object:
    return "asyncio", {"loop_factory": SkippingLoop}


def answers_after(seconds: float) -> MemoryService:
    return MemoryService(on_submission=lambda _: attrs.evolve(NORMAL, delay=seconds))


def batch(folder) -> EditBatch:
    return EditBatch([EditRequest(IMAGE, "make it snow", key=f"edit{number}") for number in range(3)], folder)


async def known_ids(folder) -> dict[str, str | None]:
    """Return the journal's task id of each edit that was begun. The journal must not be locked."""
    await (await Journal.open(folder, "http://127.0.0.1:9")).aclose()
    with contextlib.closing(sqlite3.connect(folder / JOURNAL_NAME)) as journal:
        return dict(journal.execute("SELECT key, task_id FROM edits WHERE state NOT IN ('planned', 'failed')"))


@pytest.mark.parametrize("seconds", [0.5, 1.5])
async def test_a_cancelled_scope_leaves_a_resumable_journal_with_all_ids(tmp_path, seconds):
    service = answers_after(1.0)
    async with MemorySession(service, max_in_flight=2) as session:
        with anyio.move_on_after(seconds) as scope:
            await batch(tmp_path).run(session)
        assert scope.cancelled_caught
        assert set((await known_ids(tmp_path)).values()) == set(service.ids)
        assert (await batch(tmp_path).run(session)).ok
    assert len(service.ids) == 3


async def test_a_run_cancelled_by_a_scope_writes_its_reports(tmp_path):
    async with MemorySession(answers_after(1.0), max_in_flight=2) as session:
        stopped = batch(tmp_path)
        with anyio.CancelScope() as scope:
            asyncio.get_running_loop().call_later(0.5, scope.cancel)
            await stopped.run(session)
    assert (stopped.report.in_flight, stopped.report.gallery) == (2, str(tmp_path / "report.html"))
    assert (tmp_path / "report.json").exists()


async def test_a_run_that_ends_before_a_reply_leaves_the_edit_uncertain(tmp_path):
    async with MemorySession(answers_after(100.0), max_in_flight=1) as session:
        stopped = batch(tmp_path)
        with anyio.move_on_after(0.5):
            await stopped.run(session)
    report = stopped.report
    assert (report.planned, report.in_flight, report.uncertain, report.uncertain_keys) == (2, 0, 1, ("edit0",))
    assert "uncertain (submitted again only with resubmit_uncertain=True): edit0" in report.text()
    assert (await batch(tmp_path).plan()).uncertain == 1


async def test_a_run_cancelled_by_a_scope_waits_for_its_input_to_clean_up(tmp_path):
    closed = []

    async def requests():
        try:
            await asyncio.Event().wait()
            yield EditRequest(IMAGE, "make it snow")
        finally:
            await asyncio.sleep(1.0)
            closed.append(True)

    async with MemorySession(MemoryService()) as session:
        with anyio.move_on_after(0.5):
            await EditBatch(requests(), tmp_path).run(session)
        assert closed == [True]


@contextlib.contextmanager
def native():
    """Cancel the current task after half a second."""
    timer = asyncio.get_running_loop().call_later(0.5, asyncio.current_task().cancel)
    yield
    timer.cancel()


FIRST = {"only then": contextlib.nullcontext, "again": native, "in a scope": lambda: anyio.move_on_after(0.5)}


@moments
@pytest.mark.parametrize("first", FIRST.values(), ids=FIRST)
async def test_a_run_cancelled_at_any_await_keeps_all_ids_and_releases_its_journal(tmp_path, first, as_it_wakes):
    async def interrupt(folder, at: int) -> int:
        service = answers_after(1.0)
        async with MemorySession(service, max_in_flight=2) as session:
            work = Interrupted(batch(folder).run(session), at, as_it_wakes=as_it_wakes)

            async def run() -> None:
                with first():
                    await work

            await asyncio.wait([asyncio.create_task(run())])
            if at > 1:  # the first await opens the journal
                assert set((await known_ids(folder)).values()) == set(service.ids), f"cancelled at {at}"
        return work.suspensions

    suspensions = await interrupt(tmp_path / "0", 0)
    assert suspensions >= 6
    for at in range(1, suspensions + 1):
        await interrupt(tmp_path / str(at), at)


async def test_a_reply_after_the_grace_period_is_harmless_and_its_id_is_logged(tmp_path, caplog):
    service = answers_after(8.0)
    async with MemorySession(service, max_in_flight=2) as session:
        with anyio.move_on_after(0.5):
            await batch(tmp_path).run(session)
        assert await known_ids(tmp_path) == {"edit0": None, "edit1": None}
        assert session.unfinished == ()
        await asyncio.sleep(10.0)
        assert set(session.unfinished) == set(service.ids) == {"task-1", "task-2"}
    for number in (1, 2):
        assert f"task task-{number} of 'edit{number - 1}' is not in the journal" in caplog.text


async def test_an_id_whose_step_was_given_up_is_named(tmp_path, monkeypatch):
    do = Journal.do

    def give_up(self, method, *args, **columns):
        if State.SUBMITTED not in args:
            return do(self, method, *args, **columns)
        given_up = asyncio.get_running_loop().create_future()
        given_up.cancel()
        return given_up

    service = MemoryService()
    async with MemorySession(service, max_in_flight=3) as session:
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "do", give_up)
            with pytest.raises(JournalError) as failure:
                await batch(tmp_path).run(session)
        assert len(service.ids) == 3
        assert all(any(task_id in note for note in failure.value.__notes__) for task_id in service.ids)
        assert set((await known_ids(tmp_path)).values()) == {None}
