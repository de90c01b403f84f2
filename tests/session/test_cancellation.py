"""Cancelled at every await: the slot is free, nothing runs on, no id is lost, and the session still works.

:class:`Interrupted` cancels an operation at its n-th suspension, either while it waits or in the very step in which
what it waits for comes. Each operation is first run through once, to learn how often it suspends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import attrs
import pytest
from memory_transport import IMAGE, NORMAL, Interrupted, MemoryService, MemorySession, in_order, lost, status, until
from noise import noise

from qwen_edit_async import EditSession, FixedInterval, SessionClosedError, Timeouts
from qwen_edit_async.emulator import EditEmulator, FixedEngine

pytestmark = pytest.mark.anyio

virtual = pytest.mark.virtual_clock
moments = pytest.mark.parametrize("as_it_wakes", [False, True], ids=["while it waits", "as it wakes"])

Operation = Callable[[EditSession], Awaitable[object]]


async def collect(aiterable) -> list:
    return [each async for each in aiterable]


async def edit(session):
    session.taken.add((await session.edit(IMAGE, "snow")).task_id)


def give_up(session, task):
    if task.done():  # the handle holds its result
        session.taken.add(task.id)
    task.cancel()


async def submit_and_wait(session):
    task = await session.submit(IMAGE, "snow")
    try:
        await task
    finally:
        give_up(session, task)


async def edit_from_file(session, path):
    await session.edit([path, IMAGE], "snow")


async def follow(session):
    task = await session.submit(IMAGE, "snow")
    try:
        await collect(task.updates())
    finally:
        give_up(session, task)


async def ask(session):
    await session.status("task-1")


async def stream(session):
    async with session.edit_many([{"images": IMAGE, "instruction": "snow"}] * 6) as outcomes:
        async for outcome in outcomes:
            session.taken.add(outcome.result.task_id)


async def run(work: Awaitable[object]) -> None:
    await work


async def suspensions_of(work: Awaitable[object]) -> int:
    interrupted = Interrupted(work)
    await interrupted
    return interrupted.suspensions


async def cancelled_at(work: Awaitable[object], step: int, *, as_it_wakes: bool) -> bool:
    """Run the work in a task that is cancelled at a step; whether it was cancelled before it was through."""
    running = asyncio.create_task(run(Interrupted(work, step, as_it_wakes=as_it_wakes)))
    await asyncio.wait([running])
    if running.cancelled():
        return True
    running.result()
    return False


async def cancelled_inside(work: Awaitable[object], step: int, *, as_it_wakes: bool) -> bool:
    """As :func:`cancelled_at`, but at a step of the session's submissions."""
    with SubmissionsInterrupted(step, as_it_wakes=as_it_wakes) as submitting:
        submitting.victim = asyncio.create_task(run(work))
        await asyncio.wait([submitting.victim])
    if submitting.victim.cancelled():
        return True
    submitting.victim.result()
    return False


OPERATIONS = {
    "edit": (edit, 2, 2, []),
    "edit, refused twice": (edit, 2, 7, [status(503), status(429)]),
    "edit, in a pause": (edit, 2, 6, [status(503, retry_after=30)]),
    "edit, submitted again": (edit, 2, 5, [lost(accepted=False)]),
    "submit and wait": (submit_and_wait, 2, 2, []),
    "updates": (follow, 2, 2, []),
    "status": (ask, 1, 0, []),
    "edit_many": (stream, 3, 8, [status(429)]),
}
"""Each with the fewest suspensions of its own, and of the session's submissions, and the answers to the latter."""


def submissions() -> list[asyncio.Task]:
    """The tasks of the session in which submissions run."""
    return [task for task in asyncio.all_tasks() if task.get_coro().__qualname__.startswith("Submitter.")]


class SubmissionsInterrupted:
    """Runs a session's submissions, and cancels another task when they suspend for the n-th time altogether.

    Attributes:
        suspensions: How often they have suspended.
    """

    def __init__(self, at: int = 0, *, as_it_wakes: bool = False) -> None:
        self.suspensions = 0
        self.victim: asyncio.Task | None = None
        self._at = at
        self._as_it_wakes = as_it_wakes

    def __enter__(self):
        asyncio.get_running_loop().set_task_factory(self._make_task)
        return self

    def __exit__(self, *_):
        asyncio.get_running_loop().set_task_factory(None)

    def _make_task(self, loop, work, **options):
        if work.__qualname__ == "Submitter.run":
            work = run(Interrupted(work, on_suspension=self._suspended))
        return asyncio.Task(work, loop=loop, **options)

    def _suspended(self, waits_for):
        self.suspensions += 1
        if self.suspensions != self._at:
            return
        if self._as_it_wakes and waits_for is not None:
            waits_for.add_done_callback(lambda _: self.victim.cancel())
        else:
            self.victim.cancel()


@virtual
async def test_a_session_that_is_closed_inside_of_a_cancelled_scope_is_closed_to_the_end():
    service = MemoryService(on_submission=in_order(attrs.evolve(NORMAL, delay=2.0)))
    before = asyncio.all_tasks()
    session = await MemorySession(service).open()
    edit = asyncio.create_task(session.edit(IMAGE, "snow"))
    await asyncio.sleep(0.5)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await session.aclose()
    assert scope.cancelled_caught
    assert session.unfinished == ("task-1",)
    assert service.closed == 1
    assert asyncio.all_tasks() - before <= {edit}
    with pytest.raises(SessionClosedError) as caught:
        await edit
    assert caught.value.task_id == "task-1"


@virtual
@moments
@pytest.mark.parametrize(("operation", "fewest", "fewest_inside", "answers"), OPERATIONS.values(), ids=OPERATIONS)
@pytest.mark.parametrize("envelope", ["flat", "auto"])
@pytest.mark.parametrize("inside", [False, True], ids=["of its own", "inside of the session"])
async def test_an_operation_that_is_cancelled_anywhere_leaves_nothing(  # noqa: PLR0917  # its parameters
    operation, fewest, fewest_inside, answers, envelope, as_it_wakes, inside
):
    def troubled() -> MemoryService:
        service = MemoryService(duration=1.5, on_submission=in_order(*answers))
        service.ends["task-1"] = 0.0
        return service

    options = {"max_in_flight": 2, "resubmit_uncertain": True, "envelope": envelope}
    async with MemorySession(troubled(), **options) as session:
        with SubmissionsInterrupted() as submitting:
            steps = await suspensions_of(operation(session))
    assert steps >= fewest
    assert submitting.suspensions >= fewest_inside
    steps = submitting.suspensions if inside else steps
    cancelled = 0
    for step in range(1, steps + 1):
        service = troubled()
        async with MemorySession(service, **options) as session:
            before = len(asyncio.all_tasks())
            if inside:
                cancelled += await cancelled_inside(operation(session), step, as_it_wakes=as_it_wakes)
            else:
                cancelled += await cancelled_at(operation(session), step, as_it_wakes=as_it_wakes)
            assert session.statistics().in_flight == 0, step
            assert (session.statistics().waiting, session.statistics().watched) == (0, 0), step
            await asyncio.sleep(100)  # replies that were pending come
            assert len(asyncio.all_tasks()) == before, step
            assert service.calls_under_way == 0, step
            assert set(service.ids) <= {"task-1", *session.unfinished, *session.taken}, step
            await session.edit(IMAGE, "snow")
    assert cancelled >= steps - (3 if inside else 1)


@virtual
@moments
async def test_opening_that_is_cancelled_anywhere_leaves_nothing(as_it_wakes, recwarn):
    async def open_and_close(service):
        session = MemorySession(service)
        await session.open()
        await session.aclose()

    class Slow(MemoryService):
        async def open(self) -> None:
            await asyncio.sleep(1)
            await super().open()

        async def aclose(self) -> None:
            await asyncio.sleep(1)
            await super().aclose()

    steps = await suspensions_of(open_and_close(Slow()))
    assert steps >= 2
    for step in range(1, steps + 1):
        service = Slow()
        before = len(asyncio.all_tasks())
        await cancelled_at(open_and_close(service), step, as_it_wakes=as_it_wakes)
        await asyncio.sleep(10)
        assert len(asyncio.all_tasks()) == before
        assert service.closed == 1
    assert [str(warning.message) for warning in recwarn] == []


@virtual
async def test_closing_that_is_cancelled_while_it_waits_gives_up_what_it_waited_for():
    service = MemoryService(duration=100.0)
    session = await MemorySession(service).open()
    waiting = asyncio.create_task(session.edit(IMAGE, "snow"))
    await asyncio.sleep(5)
    closing = asyncio.create_task(session.aclose())
    await asyncio.sleep(5)
    assert not closing.done()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    with pytest.raises(Exception, match="was closed before task task-1 ended"):
        await waiting
    assert (session.unfinished, service.closed) == (("task-1",), 1)


# On sockets and files.


@pytest.fixture
async def emulator():
    async with EditEmulator(duration=0.0, engine=FixedEngine()) as emulator:
        yield emulator


@pytest.fixture
async def session(emulator):
    options = {"polling": FixedInterval(0.01), "timeout": Timeouts(connect=5, send=5, reply=5), "max_in_flight": 2}
    async with EditSession(emulator.api_key, base_url=emulator.url, envelope="flat", **options) as session:
        yield session


@moments
async def test_an_upload_that_is_cancelled_anywhere_leaves_nothing(session, emulator, tmp_path, as_it_wakes):
    path = tmp_path / "photo.bmp"
    await asyncio.to_thread(noise(700, 700).save, path)
    steps = await suspensions_of(edit_from_file(session, path))
    for step in range(1, steps + 1):
        await cancelled_at(edit_from_file(session, path), step, as_it_wakes=as_it_wakes)
        assert session.statistics().in_flight == 0
        await until(lambda: not submissions())
    completed = session.statistics().completed
    assert set(emulator.tasks) >= set(session.unfinished)
    assert len(emulator.tasks) <= completed + len(session.unfinished)
    await session.edit(path, "snow")


@moments
@pytest.mark.parametrize("what", ["read", "save", "open"])
async def test_a_download_that_is_cancelled_anywhere_leaves_nothing(session, tmp_path, as_it_wakes, what):
    image = (await session.edit(IMAGE, "snow")).images[0]

    def download(folder: Path):
        return image.save(folder / "new" / "a.png") if what == "save" else getattr(image, what)()

    steps = await suspensions_of(download(tmp_path))
    assert steps >= 1
    whole = await image.read()
    for step in range(1, steps + 1):
        await cancelled_at(download(tmp_path / str(step)), step, as_it_wakes=as_it_wakes)
    assert len(await image.read()) == len(whole)
    await session.aclose()  # waits for the threads
    files = list(tmp_path.rglob("*.*"))
    assert {path.name for path in files} <= {"a.png"}
    assert all(path.read_bytes() == whole for path in files)


async def test_a_submission_that_is_cancelled_at_any_step_is_not_sent_or_its_task_is_known():
    async with (
        EditEmulator(engine=FixedEngine(), duration=1000.0) as emulator,
        EditSession(emulator.api_key, base_url=emulator.url, envelope="flat") as session,
    ):
        for steps in range(40):
            edit = asyncio.create_task(session.edit("https://pictures.example/cat.png", "snow"))
            for _ in range(steps):
                await asyncio.sleep(0)
            edit.cancel()
            await asyncio.gather(edit, return_exceptions=True)
        await until(lambda: not submissions())
        assert set(session.unfinished) == set(emulator.tasks)
