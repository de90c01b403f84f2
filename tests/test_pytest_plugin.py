from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

import qwen_edit_async.emulator  # noqa: F401 - imported before pytester, which drops what its inner run imports

_PLUGIN = "qwen_edit_async.pytest_plugin"
_IS_INSTALLED = any(entry.value == _PLUGIN for entry in entry_points(group="pytest11"))

_EDIT = """
    result = await qwen_edit_session.edit(PHOTO, "sepia")
    assert len(result.images) == 1
    assert len(qwen_edit_emulator.tasks) == 1
"""
_HEAD = """
import io
import pytest
from PIL import Image

buffer = io.BytesIO()
Image.new("RGB", (400, 400)).save(buffer, "PNG")
PHOTO = buffer.getvalue()
"""


@pytest.fixture
def run(pytester):
    """Return a function that runs a test module with the plugin and only the async runner under test."""

    pytester.makeini("[pytest]")  # keeps pytest from using an ini file of a parent folder

    def run_module(source, *arguments):
        pytester.makepyfile(_HEAD + source)
        plugins = [] if _IS_INSTALLED else ["-p", _PLUGIN]
        others = ("randomly", "timeout", "xdist", "looptime_plugin", "looptime_timeproxies", "looptime_chronometers")
        disabled = [argument for name in others for argument in ("-p", f"no:{name}")]
        return pytester.runpytest(*plugins, *disabled, "-W", "error", "--strict-markers", *arguments)

    return run_module


def _asyncio(mode):
    return ("-o", f"asyncio_mode={mode}", "-o", "asyncio_default_fixture_loop_scope=function")


def test_the_emulator_serves_a_synchronous_test(run):
    run(
        """
import urllib.error
import urllib.request

def test_emulator(qwen_edit_emulator):
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(qwen_edit_emulator.url + "/model/v1/generation/task/x")
    assert caught.value.code == 401
    caught.value.close()
""",
        "-p",
        "no:asyncio",
    ).assert_outcomes(passed=1)


def test_a_marker_configures_the_emulator(run):
    run(
        """
@pytest.mark.qwen_edit_emulator(slots=3, duration=7.0)
def test_marked(qwen_edit_emulator):
    assert (qwen_edit_emulator.slots, qwen_edit_emulator.duration) == (3, 7.0)

def test_unmarked(qwen_edit_emulator):
    assert qwen_edit_emulator.slots is None
""",
        "-p",
        "no:asyncio",
    ).assert_outcomes(passed=2)


@pytest.mark.parametrize("options", [("-p", "no:asyncio"), _asyncio("strict")], ids=["alone", "with pytest-asyncio"])
def test_the_session_is_open_in_a_test_of_anyios_plugin(run, options):
    run(
        f"""
@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.anyio
async def test_edit(qwen_edit_session, qwen_edit_emulator):
    {_EDIT}
""",
        *options,
    ).assert_outcomes(passed=1)


@pytest.mark.parametrize("mode", ["auto", "strict"])
@pytest.mark.parametrize("loop_scope", ["function", "module", "session"])
def test_the_session_is_open_in_a_test_of_pytest_asyncio(run, mode, loop_scope):
    run(
        f"""
@pytest.mark.asyncio(loop_scope="{loop_scope}")
async def test_edit(qwen_edit_session, qwen_edit_emulator):
    {_EDIT}
""",
        *_asyncio(mode),
    ).assert_outcomes(passed=1)


def test_the_session_is_open_in_an_unmarked_test_of_pytest_asyncios_auto_mode(run):
    run(
        f"""
async def test_edit(qwen_edit_session, qwen_edit_emulator):
    {_EDIT}
""",
        *_asyncio("auto"),
    ).assert_outcomes(passed=1)


def test_without_an_async_runner_the_session_says_what_it_needs(run):
    result = run("def test_sync(qwen_edit_session): pass", "-p", "no:asyncio")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*qwen_edit_session needs an async test: mark the test with pytest.mark.anyio*"])


def test_the_plugin_alone_imports_nothing_of_the_emulator():
    code = f"import sys, {_PLUGIN}; print([name for name in sys.modules if name.startswith('qwen_edit_async.emu')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.strip() == b"[]"
