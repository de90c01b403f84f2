"""Fixtures that more than one test module uses, and what every test has to hold: nothing blocks, nothing is left."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import types
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import looptime
import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import HealthCheck, settings
from jitter import NoJitter
from PIL import Image

from qwen_edit_async.emulator import EditEmulator, FixedEngine
from qwen_edit_async.emulator.service import Service
from qwen_edit_async.http.downloads import Downloader

pytest_plugins = ["pytester"]

_OPEN_FILES = Path("/proc/self/fd")
_CLOSING_STEPS = 200


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "virtual_clock: the event loop's clock jumps to the next thing to do")
    config.addinivalue_line("markers", "fuzz: a property of whatever comes from outside; nox -s fuzz tries many more")
    config.addinivalue_line("markers", "may_block(reason): the test itself blocks the event loop")
    # How long an example takes is a matter of how busy the machine is.
    lenient: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
    settings.register_profile("any_machine", derandomize=True, **lenient)
    examples = int(os.environ.get("QWEN_EDIT_FUZZ_EXAMPLES", "10_000"))
    settings.register_profile("fuzz", derandomize=False, max_examples=examples, **lenient)
    settings.load_profile("any_machine")


def pytest_collection_finish() -> None:
    gc.freeze()  # what is imported by now never dies: the collection after each test has little left to look at


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> object:
    if request.node.get_closest_marker("virtual_clock") is not None:
        return "asyncio", {"loop_factory": looptime.new_event_loop}
    return "asyncio"


@pytest.fixture(autouse=True)
def nothing_blocks(request: pytest.FixtureRequest) -> Iterator[BlockBuster]:
    """A blocking call that the package makes on the event loop is an error."""
    with blockbuster_ctx("qwen_edit_async") as blockbuster:
        for function in blockbuster.functions.values():
            function.can_block_in("qwen_edit_async/session/stream.py", "pull")  # the user's own iterable runs there
            function.can_block_in("qwen_edit_async/batch/batch.py", "__init__")  # asks for the working directory
            function.can_block_in("coverage/collector.py", "lock_data")  # threads that are measured share it
        if request.node.get_closest_marker("may_block") is not None:
            blockbuster.deactivate()
        yield blockbuster


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> None:
    """An async test leaves no task and no open file or socket behind; what is garbage by then warns in that test."""
    if "anyio_backend" in request.fixturenames:
        request.getfixturevalue("_nothing_left_on_the_loop")


@pytest.fixture
async def _nothing_left_on_the_loop() -> AsyncIterator[None]:
    tasks, files = running_tasks(), open_files()
    yield
    for step in range(_CLOSING_STEPS):  # the other end of a connection takes some steps to see that it was closed
        if not running_tasks() - tasks and not open_files() - files:
            break
        await asyncio.sleep(0 if step < _CLOSING_STEPS // 2 else 0.01)
    gc.collect()
    left = running_tasks() - tasks, open_files() - files
    assert left == (set(), set())


def running_tasks() -> set[asyncio.Task[object]]:
    """All tasks but the test runner's own, and those of aiohttp's server, which lingers over a body it did not read."""
    foreign = ("TestRunner.", "RequestHandler.start")
    return {task for task in asyncio.all_tasks() if not task.get_coro().__qualname__.startswith(foreign)}


def open_files() -> set[tuple[str, str]]:
    """Number and target of every open file and socket, where the system tells."""
    found = set()
    for path in _OPEN_FILES.iterdir() if _OPEN_FILES.is_dir() else ():
        try:
            found.add((path.name, str(path.readlink())))
        except FileNotFoundError:  # that of the listing itself
            continue
    return found


@pytest.fixture
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures are tried again at once: for tests on the real clock."""
    monkeypatch.setattr("qwen_edit_async.session.session.Random", NoJitter)


@pytest.fixture
def pictures_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every result is there as soon as it is asked for."""

    async def save(_: Downloader, url: str, task_id: str, index: int, path: Path) -> Path:
        path.write_bytes(b"\0\0\0\0IEND\xae\x42\x60\x82")  # noqa: ASYNC240  # a few bytes
        return path

    monkeypatch.setattr(Downloader, "save", save)


API_KEY = "sk-never-shown-5f1c"


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[EditEmulator]:
    """The emulated service in a thread, as the command line finds it in the environment; its tasks take no time."""
    with EditEmulator(api_key=API_KEY, duration=0.0, engine=FixedEngine()).in_thread() as emulator:
        monkeypatch.setenv("QWEN_EDIT_BASE_URL", emulator.url)
        monkeypatch.setenv("QWEN_EDIT_API_KEY", API_KEY)
        yield emulator


@pytest.fixture
def leap(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let the clock of emulators go so many seconds ahead of that of the loop."""

    def leap(seconds: float) -> None:
        before = Service.now
        monkeypatch.setattr(Service, "now", lambda service: before(service) + seconds)

    return leap


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three pictures: a.png, b.jpg, c.webp."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.jpg", "c.webp"):
        Image.radial_gradient("L").resize((400, 400)).convert("RGB").save(folder / name)
    return folder


def start_command(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start ``qwen-edit`` as a process of its own, its output piped unless ``options`` say otherwise."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", "qwen_edit_async", *arguments], **pipes | options)


def wait_while_running(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Wait for something to happen while a process runs; it must not end before."""
    while not condition():
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.02)


class FakeIPython:
    """The part of IPython that the package uses.

    Attributes:
        displayed: The states of each display, in order.
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
