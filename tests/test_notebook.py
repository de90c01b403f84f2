"""Progress and grids in a notebook, without a kernel."""

from __future__ import annotations

import asyncio
import re
import sys

import pytest
from ready_results import PHOTO, failure_of, result_of

from qwen_edit_async import EditBatch, EditOutcome, EditRequest
from qwen_edit_async.display.cards import Progress
from qwen_edit_async.emulator import Fault
from qwen_edit_async.notebook import ProgressDisplay, run_batch, show, show_batch, track


async def outcomes_of(*outcomes):
    for outcome in outcomes:
        yield outcome


@pytest.mark.anyio
async def test_progress_is_updated_in_place(notebook):
    done = EditOutcome(index=0, request={}, result=result_of())
    now = iter(range(100))
    seen = [o async for o in track(outcomes_of(done, failure_of(), done), total=3, clock=lambda: next(now))]
    assert len(seen) == 3
    (states,) = notebook.displayed
    assert [state["text/plain"].partition(" · ")[0] for state in states] == [
        f"{count} of 3 edits" for count in (0, 1, 2, 3, 3)
    ]
    assert "1 failed · cost 0.0714" in states[-1]["text/plain"]
    assert "<progress" in states[-1]["text/html"]


@pytest.mark.anyio
async def test_progress_that_is_interrupted_shows_the_last_state(notebook):
    async def interrupted():
        yield EditOutcome(index=0, request={}, result=result_of())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        [outcome async for outcome in track(interrupted(), total=9, clock=lambda: 0.0)]
    assert [state["text/plain"] for state in notebook.displayed[0]][-1].startswith("1 of 9 edits")


@pytest.fixture
def batch_of(tmp_path):
    """A batch of so many edits of one picture; the last one's picture is missing."""

    def make(count):
        (tmp_path / "photo.png").write_bytes(PHOTO)
        names = ["photo.png"] * (count - 1) + ["missing.png"]
        requests = [EditRequest(tmp_path / name, "make it snow", key=f"k{i}") for i, name in enumerate(names)]
        return EditBatch(requests, tmp_path / "out")

    return make


@pytest.mark.anyio
async def test_a_batch_shows_its_progress_and_its_end(notebook, batch_of, qwen_edit_session):
    report = await run_batch(batch_of(3), qwen_edit_session, total=3, title="night", clock=lambda: 0.0)
    (states,) = notebook.displayed
    assert states[0]["text/plain"].startswith("0 of 3 edits · 0 in flight")
    assert states[-1]["text/plain"].startswith("3 of 3 edits · 1 failed · 0 in flight · cost 0.0714")
    assert "<b>night</b>" in states[-1]["text/html"]
    assert report.saved == 2


@pytest.mark.anyio
async def test_a_batch_shows_until_when_the_service_asked_to_wait(
    notebook, batch_of, qwen_edit_emulator, qwen_edit_session
):
    qwen_edit_emulator.inject(Fault.status(429, retry_after=36_000).on("submit"))
    run = asyncio.create_task(run_batch(batch_of(3), qwen_edit_session, total=3))
    while not qwen_edit_session.statistics().pause_left:  # noqa: ASYNC110  # a pause is no event
        await asyncio.sleep(0.01)
    run.cancel()
    await asyncio.wait([run])
    assert "· paused by the service until " in notebook.displayed[0][-1]["text/plain"]


@pytest.mark.anyio
@pytest.mark.qwen_edit_emulator(duration=3600.0)
async def test_an_interrupted_batch_shows_its_last_state_and_leaves_nothing(notebook, batch_of, qwen_edit_session):
    run = asyncio.create_task(run_batch(batch_of(3), qwen_edit_session, total=3))
    while qwen_edit_session.statistics().submitted < 2:  # noqa: ASYNC110  # a counter has no event
        await asyncio.sleep(0)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert notebook.displayed[0][-1]["text/plain"].startswith("1 of 3 edits · 1 failed · 0 in flight")


def test_a_grid_shows_some_and_counts_the_others():
    grid = show([failure_of()] * 30)
    assert grid._repr_html_().count("EditFailedError") == 24
    assert "and 6 more" in grid._repr_html_()
    assert repr(grid) == "<Grid of 24 edits, 6 left out>"


@pytest.mark.anyio
async def test_a_grid_of_a_batch_is_made_of_its_journal_and_its_files(batch_of, qwen_edit_session):
    await batch_of(4).run(qwen_edit_session)
    grid = await show_batch(batch_of(4))
    shown = grid._repr_html_()
    assert shown.count("data:image/webp;base64,") == 6
    assert "k3 · failed" in re.sub("<.*?>", "", shown)
    assert "does not exist" in shown
    assert repr(await show_batch(batch_of(4), limit=1)) == "<Grid of 1 edits, 3 left out>"


def test_progress_is_shown_ten_times_a_second_at_most(notebook):
    now = 0.0
    display = ProgressDisplay(clock=lambda: now)
    for step in range(1000):
        now = step / 1000
        display.update(Progress(done=step))
    assert 9 <= len(notebook.displayed[0]) <= 11


@pytest.mark.anyio
async def test_outside_notebooks_progress_is_not_shown(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert [outcome async for outcome in track(outcomes_of(failure_of()))] != []
    assert "IPython" not in sys.modules
    assert capsys.readouterr().out == ""


@pytest.mark.anyio
async def test_tracking_shows_the_tasks_in_flight(qwen_edit_session):
    tracked = track(outcomes_of(), session=qwen_edit_session)
    assert tracked.progress.in_flight == 0


@pytest.mark.anyio
@pytest.mark.qwen_edit_emulator(duration=3600.0)
async def test_a_loop_that_is_interrupted_stops_even_if_its_traceback_is_kept(qwen_edit_emulator, qwen_edit_session):
    async def cell():
        outcomes = qwen_edit_session.edit_many(EditRequest(PHOTO, "make it snow") for _ in range(50))
        async for _ in track(outcomes):
            pass

    task = asyncio.create_task(cell())
    while qwen_edit_session.statistics().submitted < 16:  # noqa: ASYNC110  # a counter has no event
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as kept:
        await task
    async with asyncio.timeout(10):
        while qwen_edit_session.statistics().in_flight:  # noqa: ASYNC110  # a counter has no event
            await asyncio.sleep(0)
    assert kept.tb is not None
    assert qwen_edit_session.statistics().cancelled >= 16
