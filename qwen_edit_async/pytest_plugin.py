"""Pytest fixtures for applications that use this library. They need no key and no network, and cost nothing.

``qwen_edit_emulator`` is an `EditEmulator` in a thread, for synchronous and async tests. A marker sets its settings:
``@pytest.mark.qwen_edit_emulator(slots=2, faults=FaultPlan([Fault.status(503).nth(1)]))``.

``qwen_edit_session`` is an open `EditSession` on this emulator, for async tests with anyio's plugin or pytest-asyncio.

The emulator and the session are imported only when a fixture is used. This keeps other test suites fast, and coverage
tools that start after this plugin's import miss little.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from qwen_edit_async import EditSession
    from qwen_edit_async.emulator import EditEmulator

_MARKER = "qwen_edit_emulator"
_LOOP_SCOPES = ("function", "class", "module", "package", "session")
_ASYNCIO_FIXTURES = "qwen_edit_async_asyncio_fixtures"
_TASK_SECONDS = 0.02
_POLL_SECONDS = 0.05


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker. If pytest-asyncio is active, also register an `EditSession` fixture for each loop scope."""
    config.addinivalue_line("markers", f"{_MARKER}(**settings): settings of the qwen_edit_emulator fixture")
    if config.pluginmanager.hasplugin("asyncio"):
        pytest_asyncio = importlib.import_module("pytest_asyncio")
        holder = ModuleType(_ASYNCIO_FIXTURES)  # pytest looks for fixtures only in modules and classes
        for scope in _LOOP_SCOPES:
            name = _asyncio_fixture(scope)
            vars(holder)[name] = pytest_asyncio.fixture(_session_opener(), loop_scope=scope, name=name)
        config.pluginmanager.register(holder, _ASYNCIO_FIXTURES)


@pytest.fixture
def qwen_edit_emulator(request: pytest.FixtureRequest) -> Iterator[EditEmulator]:
    """Run the emulated service in a thread for one test. Its tasks take 0.02 s by default."""
    from qwen_edit_async.emulator import EditEmulator  # noqa: PLC0415 - see the module's docstring

    marker = request.node.get_closest_marker(_MARKER)
    settings: dict[str, Any] = {"duration": _TASK_SECONDS, **(marker.kwargs if marker else {})}
    with EditEmulator(**settings).in_thread() as emulator:
        yield emulator


@pytest.fixture
def qwen_edit_session(request: pytest.FixtureRequest) -> EditSession:
    """Open a session on the emulated service, in the test's event loop."""
    # This fixture is not async itself: it chooses the async fixture for the test's runner.
    node = request.node
    marker = node.get_closest_marker("asyncio")
    session: EditSession
    if node.get_closest_marker("anyio") or "anyio_backend" in request.fixturenames:
        session = request.getfixturevalue("_qwen_edit_session_anyio")
    elif marker and request.config.pluginmanager.hasplugin(_ASYNCIO_FIXTURES):
        scope = marker.kwargs.get("loop_scope") or request.config.getini("asyncio_default_test_loop_scope")
        session = request.getfixturevalue(_asyncio_fixture(scope))
    else:
        pytest.fail(
            "qwen_edit_session needs an async test: mark the test with pytest.mark.anyio, or install pytest-asyncio "
            "and mark the test with pytest.mark.asyncio",
            pytrace=False,
        )
    return session


def _session_opener() -> Callable[[EditEmulator], AsyncIterator[EditSession]]:
    """Return a new fixture function at each call, because pytest-asyncio stores the loop scope on the function."""

    async def open_session(qwen_edit_emulator: EditEmulator) -> AsyncIterator[EditSession]:
        from qwen_edit_async import EditSession, FixedInterval  # noqa: PLC0415 - see the module's docstring

        polling = FixedInterval(_POLL_SECONDS)
        async with EditSession(qwen_edit_emulator.api_key, base_url=qwen_edit_emulator.url, polling=polling) as session:
            yield session

    return open_session


_qwen_edit_session_anyio = pytest.fixture(_session_opener(), name="_qwen_edit_session_anyio")


def _asyncio_fixture(loop_scope: str) -> str:
    return f"_qwen_edit_session_asyncio_{loop_scope}"
