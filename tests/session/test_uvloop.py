from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from leftovers import running_tasks

from qwen_edit_async import EditBatch, EditRequest, EditSession, FixedInterval

uvloop = pytest.importorskip("uvloop", reason="uvloop has no wheel for this platform or Python", exc_type=ImportError)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> object:
    return "asyncio", {"loop_factory": uvloop.new_event_loop}


@pytest.fixture
async def _nothing_left_on_the_loop() -> AsyncIterator[None]:
    """Like conftest.py's fixture, but only for tasks: uvloop opens files each time that anyio runs the loop."""
    tasks = running_tasks()
    yield
    assert running_tasks() == tasks


@pytest.fixture
async def session(service):
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
    async with EditSession(polling=FixedInterval(0.02)) as session:
        yield session


async def test_an_edit_is_downloaded_on_uvloop(session, photos, tmp_path):
    result = await session.edit(photos / "a.png", "make it snow")
    (path,) = await result.save(tmp_path / "out")
    assert path.read_bytes().startswith(b"\x89PNG")


async def test_edits_are_streamed_and_a_task_is_awaited_twice_on_uvloop(session, photos):
    requests = (EditRequest(photos / "b.jpg", f"make it snow {number}") for number in range(20))
    outcomes = [outcome async for outcome in session.edit_many(requests)]
    assert sorted(outcome.index for outcome in outcomes if outcome.ok) == list(range(20))

    task = await session.submit(photos / "a.png", "make it snow")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await task
    assert (await task).task_id == task.id


async def test_a_batch_runs_and_resumes_on_uvloop(session, service, photos, tmp_path):
    requests = [EditRequest(path, "make it snow", key=path.stem) for path in sorted(photos.iterdir())]
    report = await EditBatch(requests[:2], tmp_path / "out").run(session)
    assert report.saved == 2
    report = await EditBatch(requests, tmp_path / "out").run(session)
    assert (report.saved, service.statistics().submits) == (3, 3)
