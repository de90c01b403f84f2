"""Output that can't be written: nothing that was paid for is lost, and the exit code is right."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys

import pytest
from commands import QUICK, saved, start_command

from qwen_edit_async.cli import main
from qwen_edit_async.emulator import Fault
from qwen_edit_async.log import configure_logging, log


def dead_pipe():
    """A pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def full_device():
    return os.open("/dev/full", os.O_WRONLY)


@pytest.fixture(params=[dead_pipe, full_device])
def broken(request):
    descriptor = request.param()
    yield descriptor
    os.close(descriptor)


def closed_stream():
    stream = io.StringIO()
    stream.close()
    return stream


class DeadStream(io.StringIO):
    def write(self, _):
        raise BrokenPipeError


@pytest.fixture
def _log_as_it_was():
    handlers, level = list(log.handlers), log.level
    yield
    log.handlers[:] = handlers
    log.setLevel(level)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("arguments", [["edit"], ["edit", "--json"], ["batch"]], ids=" ".join)
def test_broken_output_neither_ends_a_run_nor_changes_its_exit_code(  # noqa: PLR0917  # fixtures
    small, out, service, broken, stream, arguments, monkeypatch
):
    monkeypatch.setenv("QWEN_EDIT_LOG", "debug")
    with start_command(*arguments, str(small), "-i", "snow", "-o", str(out), *QUICK, **{stream: broken}) as process:
        _, errors = process.communicate()
    assert (process.returncode, len(saved(out))) == (0, 1)
    assert "Traceback" not in (errors or "")


@pytest.mark.parametrize("stream", ["1", "2"])
@pytest.mark.parametrize("command", ["edit", "batch"])
def test_a_missing_stream_does_not_end_a_run(small, out, service, stream, command):
    line = [sys.executable, "-m", "qwen_edit_async", command, str(small), "-i", "snow", "-o", str(out), *QUICK]
    with subprocess.Popen(["sh", "-c", f"{shlex.join(line)} {stream}>&-"], stdout=-1, stderr=-1, text=True) as process:
        _, errors = process.communicate()
    assert (process.returncode, len(saved(out))) == (0, 1)
    assert "Traceback" not in errors


def test_an_error_that_cannot_be_written_keeps_its_exit_code(small, out, service, broken):
    service.inject(Fault.failed_task())
    arguments = ["edit", "--json", str(small), "-i", "snow", "-o", str(out), *QUICK]
    with start_command(*arguments, stdout=broken) as process:
        process.communicate()
    assert process.returncode == 1


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["paint"], 2)])
def test_help_and_wrong_usage_keep_their_exit_codes(broken, arguments, code):
    with start_command(*arguments, stdout=broken, stderr=broken) as process:
        assert process.wait() == code


def test_the_server_for_agents_needs_a_standard_input(out, service, capsys, monkeypatch):
    out.mkdir()
    monkeypatch.setenv("QWEN_EDIT_MCP_FOLDER", str(out))
    monkeypatch.setenv("QWEN_EDIT_MCP_MAX_COST", "1")
    monkeypatch.setattr("sys.stdin", None)
    assert main(["mcp"]) == 2
    assert "the standard input is closed" in capsys.readouterr().err


def test_characters_that_the_encoding_lacks_are_escaped(capsysbinary, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stderr", stream)
    assert main(["batch", "фото", "-i", "snow", "-o", "out", "--dry-run"]) == 2
    assert rb"\u0444" in stream.buffer.getvalue()


@pytest.mark.usefixtures("_log_as_it_was")
@pytest.mark.parametrize("stream", [None, closed_stream(), DeadStream()], ids=["none", "closed", "dead"])
def test_a_log_that_cannot_be_written_fails_nothing(monkeypatch, stream):
    configure_logging({"QWEN_EDIT_LOG": "info"})
    monkeypatch.setattr(sys, "stderr", stream)
    log.warning("nobody reads this")


@pytest.mark.usefixtures("_log_as_it_was")
@pytest.mark.parametrize(("name", "told"), [("verbose", True), ("debug", False), ("  ", False)])
def test_an_unknown_log_level_is_reported(capsys, name, told):
    configure_logging({"QWEN_EDIT_LOG": name})
    errors = capsys.readouterr().err
    message = "QWEN_EDIT_LOG is 'verbose': set it to debug, info, warning, error or critical\n"
    assert errors.endswith(message) is told
    assert bool(errors) is told
