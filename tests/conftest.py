"""Shared fixtures. Two of them apply to every test: nothing blocks the event loop, and nothing is left behind."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import signal
import sqlite3
import sys
import types
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import looptime
import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from commands import API_KEY
from hypothesis import HealthCheck, settings
from leftovers import open_files, running_tasks
from PIL import Image

from qwen_edit_async.emulator import EditEmulator, FixedEngine
from qwen_edit_async.emulator.service import Service
from qwen_edit_async.http.downloads import Downloader

pytest_plugins = ["pytester"]

_CLOSING_STEPS = 200


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "virtual_clock: the event loop's clock jumps to the next timer")
    config.addinivalue_line("markers", "fuzz: a property of external input; nox -s fuzz tries more examples")
    config.addinivalue_line("markers", "may_block(reason): the test itself blocks the event loop")
    # Examples take longer on a busy machine.
    lenient: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
    settings.register_profile("any_machine", derandomize=True, **lenient)
    examples = int(os.environ.get("QWEN_EDIT_FUZZ_EXAMPLES", "10_000"))
    settings.register_profile("fuzz", derandomize=False, max_examples=examples, **lenient)
    settings.load_profile("any_machine")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # inherited by a background job of a shell
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    gc.freeze()  # keeps the collection after each test from visiting imported modules


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> object:
    if request.node.get_closest_marker("virtual_clock") is not None:
        return "asyncio", {"loop_factory": _virtual_loop}
    return "asyncio"


def _virtual_loop() -> asyncio.AbstractEventLoop:
    """Return a loop with a virtual clock.

    When it closes, it waits for its threads without a timeout, because the clock would skip a timeout.
    """
    loop = looptime.new_event_loop()
    shut_down = loop.shutdown_default_executor
    loop.shutdown_default_executor = lambda timeout=None: shut_down()  # Python 3.11 has no timeout
    return loop


@pytest.fixture(autouse=True)
def nothing_blocks(request: pytest.FixtureRequest) -> Iterator[BlockBuster]:
    """Make every blocking call of the package on the event loop an error."""
    with blockbuster_ctx("qwen_edit_async") as blockbuster:
        for function in blockbuster.functions.values():
            function.can_block_in("qwen_edit_async/session/stream.py", "iterate")  # runs the user's iterable
            for name in ("batch/batch", "batch/hub", "ray/rows"):
                function.can_block_in(f"qwen_edit_async/{name}.py", "__init__")  # reads the working directory
            function.can_block_in("coverage/collector.py", "lock_data")  # shared by measured threads
        if request.node.get_closest_marker("may_block") is not None:
            blockbuster.deactivate()
        yield blockbuster


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> None:
    """Check that an async test leaves no task, open file or socket behind, and collect garbage to see its warnings."""
    if "anyio_backend" in request.fixturenames:
        request.getfixturevalue("_nothing_left_on_the_loop")


@pytest.fixture
async def _nothing_left_on_the_loop() -> AsyncIterator[None]:
    tasks, files = running_tasks(), open_files()
    yield
    for step in range(_CLOSING_STEPS):  # a connection's other end needs some steps to close
        if not running_tasks() - tasks and not open_files() - files:
            break
        await asyncio.sleep(0 if step < _CLOSING_STEPS // 2 else 0.01)
    gc.collect()
    left = running_tasks() - tasks, open_files() - files
    assert left == (set(), set())


@functools.cache
def _count_openings() -> Counter[str]:
    """Count how often each file is opened. The audit hook stays, because it can't be removed."""
    openings = Counter[str]()

    def count(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str):
            openings[arguments[0]] += 1

    sys.addaudithook(count)
    return openings


@pytest.fixture
def openings() -> Counter[str]:
    """Return how often each file was opened in this test, by path."""
    _count_openings().clear()
    return _count_openings()


@pytest.fixture
def pictures_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save every result at once, without a download."""

    async def save(_: Downloader, url: str, task_id: str, index: int, path: Path) -> tuple[Path, str]:
        path.write_bytes(b"\0\0\0\0IEND\xae\x42\x60\x82")  # noqa: ASYNC240  # a few bytes
        return path, ""

    monkeypatch.setattr(Downloader, "save", save)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[EditEmulator]:
    """Run the emulator in a thread and name it in the environment. Its tasks take no time."""
    with EditEmulator(api_key=API_KEY, duration=0.0, engine=FixedEngine()).in_thread() as emulator:
        monkeypatch.setenv("QWEN_EDIT_BASE_URL", emulator.url)
        monkeypatch.setenv("QWEN_EDIT_API_KEY", API_KEY)
        yield emulator


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> type[sqlite3.Connection]:
    """Let writes of a task's id to a journal fail because the disk is full, until ``is_full`` is set to False."""

    class Disk(sqlite3.Connection):
        is_full = True

        def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
            if Disk.is_full and statement.startswith("UPDATE edits SET state = 'submitted'"):
                error = sqlite3.OperationalError("database or disk is full")
                error.sqlite_errorname = "SQLITE_FULL"
                raise error
            return super().execute(statement, *parameters)

    monkeypatch.setattr("sqlite3.connect", Disk)
    return Disk


@pytest.fixture
def leap(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that sets the emulators' clock ahead by seconds."""

    def leap(seconds: float) -> None:
        before = Service.now
        monkeypatch.setattr(Service, "now", lambda service: before(service) + seconds)

    return leap


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder with three pictures: a.png, b.jpg, c.webp."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.jpg", "c.webp"):
        Image.radial_gradient("L").resize((400, 400)).convert("RGB").save(folder / name)
    return folder


class FakeIPython:
    """The part of IPython that the package uses.

    Attributes:
        displayed: The successive states of each display.
    """

    def __init__(self) -> None:
        self.displayed: list[list[dict[str, str]]] = []

    def get_ipython(self) -> object:
        return types.SimpleNamespace(kernel=object())

    def display(self, bundle, *, raw, display_id):
        assert raw
        assert display_id
        states = [bundle]
        self.displayed.append(states)
        return types.SimpleNamespace(update=lambda bundle, raw: states.append(bundle))


@pytest.fixture
def notebook(monkeypatch):
    fake = FakeIPython()
    package = types.ModuleType("IPython")
    package.get_ipython = fake.get_ipython
    module = types.ModuleType("IPython.display")
    module.display = fake.display
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return fake
