"""Output that breaks, and signals: nothing that was paid for is lost, and the exit code is true."""

from __future__ import annotations

import io
import os
import shlex
import signal
import sqlite3
import struct
import subprocess
import sys
from contextlib import closing

import pytest
from conftest import start_command, wait_while_running
from PIL import Image

from qwen_edit_async.batch.journal.journal import JOURNAL_NAME
from qwen_edit_async.cli import main
from qwen_edit_async.emulator import Fault
from qwen_edit_async.log import configure_logging, log

QUICK = ("--poll-interval", "0.02")
STOPS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
DEFAULTS = [signal.default_int_handler, signal.SIG_DFL, signal.SIG_DFL]


@pytest.fixture
def small(tmp_path):
    """A picture that is worth a note."""
    folder = tmp_path / "small"
    folder.mkdir()
    Image.new("RGB", (100, 100)).save(folder / "a.png")
    return folder / "a.png"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def dead_pipe():
    """A pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def full_device():
    return os.open("/dev/full", os.O_WRONLY)


def saved(out):
    return [path.name for path in out.glob("*.png")]


@pytest.fixture(params=[dead_pipe, full_device])
def broken(request):
    descriptor = request.param()
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("arguments", [["edit"], ["edit", "--json"], ["batch"]], ids=" ".join)
def test_output_that_breaks_ends_no_run_and_changes_no_exit_code(  # noqa: PLR0917  # fixtures
    small, out, service, broken, stream, arguments, monkeypatch
):
    monkeypatch.setenv("QWEN_EDIT_LOG", "debug")
    with start_command(*arguments, str(small), "-i", "snow", "-o", str(out), *QUICK, **{stream: broken}) as process:
        _, errors = process.communicate()
    assert (process.returncode, len(saved(out))) == (0, 1)
    assert "Traceback" not in (errors or "")


@pytest.mark.parametrize("stream", ["1", "2"])
@pytest.mark.parametrize("command", ["edit", "batch"])
def test_output_that_was_never_open_ends_no_run(small, out, service, stream, command):
    line = [sys.executable, "-m", "qwen_edit_async", command, str(small), "-i", "snow", "-o", str(out), *QUICK]
    with subprocess.Popen(["sh", "-c", f"{shlex.join(line)} {stream}>&-"], stdout=-1, stderr=-1, text=True) as process:
        _, errors = process.communicate()
    assert (process.returncode, len(saved(out))) == (0, 1)
    assert "Traceback" not in errors


def test_an_error_that_can_not_be_written_keeps_its_exit_code(small, out, service, broken):
    service.inject(Fault.failed_task())
    arguments = ["edit", "--json", str(small), "-i", "snow", "-o", str(out), *QUICK]
    with start_command(*arguments, stdout=broken) as process:
        process.communicate()
    assert process.returncode == 1


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["paint"], 2)])
def test_help_and_wrong_usage_keep_their_exit_codes(broken, arguments, code):
    with start_command(*arguments, stdout=broken, stderr=broken) as process:
        assert process.wait() == code


def test_what_an_encoding_lacks_is_escaped(capsysbinary, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stderr", stream)
    assert main(["batch", "фото", "-i", "snow", "-o", "out", "--dry-run"]) == 2
    assert rb"\u0444" in stream.buffer.getvalue()


@pytest.mark.parametrize("stop", STOPS)
def test_a_task_that_is_being_submitted_is_journalled_though_nobody_reads(small, out, service, stop, default_signals):
    """As with ``batch … 2>&1 | tee log`` and Ctrl-C, which ends ``tee`` first."""
    service.inject(Fault.slow(delay=0.5).on("submit"), Fault.stuck_task())
    reader, writer = os.pipe()
    arguments = ["batch", str(small), "-i", "snow", "-o", str(out), *QUICK]
    with start_command(*arguments, stdout=writer, stderr=writer) as process:
        os.close(writer)
        wait_while_running(process, lambda: bool(service.requests))
        os.close(reader)
        process.send_signal(stop)
        assert process.wait() == 130
    with closing(sqlite3.connect(out / JOURNAL_NAME)) as journal:
        assert journal.execute("SELECT state, task_id FROM edits").fetchall() == [
            ("submitted", next(iter(service.tasks)))
        ]


@pytest.mark.parametrize("stop", STOPS)
def test_an_edit_names_its_task_whichever_signal_ends_it(small, out, service, stop, default_signals):
    service.inject(Fault.stuck_task())
    with start_command("edit", str(small), "-i", "snow", "-o", str(out), *QUICK) as process:
        wait_while_running(process, lambda: any(task.checks for task in service.tasks.values()))
        process.send_signal(stop)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert f"qwen-edit fetch {next(iter(service.tasks))}" in errors


def test_a_run_under_nohup_outlives_its_terminal(small, out, service, default_signals):
    service.inject(Fault.slow(delay=0.2).on("submit"))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with start_command("batch", str(small), "-i", "snow", "-o", str(out), *QUICK) as process:
        wait_while_running(process, lambda: bool(service.requests))
        process.send_signal(signal.SIGHUP)
        process.communicate()
    assert (process.returncode, len(saved(out))) == (0, 1)


@pytest.fixture
def default_signals():
    """Signals as a terminal's processes inherit them, however the tests themselves were started."""
    before = {stop: signal.signal(stop, default) for stop, default in zip(STOPS, DEFAULTS, strict=True)}
    yield
    for stop, handler in before.items():
        signal.signal(stop, handler)


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


@pytest.mark.usefixtures("_log_as_it_was")
@pytest.mark.parametrize("stream", [None, closed_stream(), DeadStream()], ids=["none", "closed", "dead"])
def test_a_log_that_can_not_be_written_fails_nothing(monkeypatch, stream):
    configure_logging({"QWEN_EDIT_LOG": "info"})
    monkeypatch.setattr(sys, "stderr", stream)
    log.warning("nobody reads this")


FRAMES = "━⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


@pytest.mark.parametrize("command", ["edit", "batch"])
def test_a_log_has_no_bar_even_where_color_is_asked_for(small, out, service, monkeypatch, command):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with start_command(command, str(small), "-i", "snow", "-o", str(out), *QUICK) as process:
        _, errors = process.communicate()
    assert process.returncode == 0
    assert not set(errors) & set(FRAMES)
    assert "\x1b[?25l" not in errors
    assert "\x1b[2mnote: " in errors


@pytest.mark.usefixtures("_log_as_it_was")
@pytest.mark.parametrize(("name", "told"), [("verbose", True), ("debug", False), ("  ", False)])
def test_a_level_that_is_none_is_named(capsys, name, told):
    configure_logging({"QWEN_EDIT_LOG": name})
    errors = capsys.readouterr().err
    message = "QWEN_EDIT_LOG is 'verbose': set it to debug, info, warning, error or critical\n"
    assert errors.endswith(message) is told
    assert bool(errors) is told


def test_a_proxy_of_the_environment_is_used_on_demand(small, out, service, monkeypatch, capsys):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("QWEN_EDIT_BASE_URL", "https://service.invalid")
    monkeypatch.setenv("https_proxy", "proxy:3128")
    edit = ["edit", str(small), "-i", "snow", "-o", str(out), "--deadline", "2"]
    assert main(edit) == 1
    assert "https_proxy in the environment is not used: --trust-env uses it" in capsys.readouterr().err
    assert main([*edit, "--trust-env"]) == 2
    assert "https_proxy in the environment can't be used: write it as http://HOST:PORT" in capsys.readouterr().err


@pytest.fixture
def scan(tmp_path):
    """A TIFF picture with a tag whose value lies beyond the end of the file."""
    file = io.BytesIO()
    Image.new("RGB", (400, 400)).save(file, "TIFF", dpi=(72, 72))
    content = bytearray(file.getvalue())
    (directory,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, directory)
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        if struct.unpack_from("<H", content, entry) == (X_RESOLUTION,):
            struct.pack_into("<II", content, entry + 4, 5000, len(content) - 4)
    path = tmp_path / "scan.tif"
    path.write_bytes(content)
    return path


X_RESOLUTION = 282


def test_warnings_of_pillow_do_not_say_which_picture_they_are_for_and_stay_away(scan, out, service):
    with start_command("batch", str(scan), "-i", "snow", "-o", str(out), *QUICK) as process:
        _, errors = process.communicate()
    assert (process.returncode, len(saved(out))) == (0, 1)
    assert "UserWarning" not in errors
