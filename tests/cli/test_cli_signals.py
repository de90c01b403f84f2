"""Interrupted commands: nothing that was paid for is lost, and the exit code is right."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
from contextlib import closing

import pytest
from commands import API_KEY, QUICK, saved, start_command, wait_while_running
from PIL import Image

from qwen_edit_async.batch.journal.journal import JOURNAL_NAME
from qwen_edit_async.cli.signals import cancel_on_termination
from qwen_edit_async.emulator import EditEmulator, Fault, FixedEngine

STOPS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


DEFAULTS = [signal.default_int_handler, signal.SIG_DFL, signal.SIG_DFL]


@pytest.fixture
def default_signals():
    """Signals as a terminal's processes inherit them, however the tests themselves were started."""
    before = {stop: signal.signal(stop, default) for stop, default in zip(STOPS, DEFAULTS, strict=True)}
    yield
    for stop, handler in before.items():
        signal.signal(stop, handler)


def test_an_interruption_before_anything_runs_is_quiet(photos, batch, capsys, monkeypatch, service):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("qwen_edit_async.batch.EditBatch.__init__", interrupted)
    assert batch(photos) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_prints_its_report_and_journals_running_tasks(photos, tmp_path, service, stop):
    service.inject(Fault.stuck_task().for_task(2, 3))
    out = tmp_path / "out of here"
    with start_command("batch", str(photos), "-i", "snow", "-o", str(out), *QUICK) as process:
        wait_while_running(process, lambda: saved(out) and len(service.tasks) == 3)
        checks = service.statistics().checks
        # Two rounds of checks later, the process knows that the picture has its name.
        wait_while_running(process, lambda: service.statistics().checks > checks + 4)
        process.send_signal(stop)
        output, errors = process.communicate()
    assert process.returncode == 130
    assert "qwen-edit fetch" not in errors
    assert "1 of 3 edits done" in errors
    assert "\n  2 in flight when the run ended\n" in errors
    assert "\nrun it again to go on: " in errors
    assert f"before and after: {out / 'report.html'}\n" in errors
    assert output == f"1 picture is in {out}\n"
    assert "Traceback" not in errors


def test_an_interrupted_run_of_the_embedded_service_offers_nothing_to_fetch(tmp_path):
    Image.new("RGB", (100, 100)).save(tmp_path / "small.png")
    arguments = ["batch", str(tmp_path / "small.png"), "-i", "snow", "-o", str(tmp_path / "out"), "--emulator"]
    with start_command(*arguments) as process:
        while "expect a blurred picture" not in (line := process.stderr.readline()):
            assert line  # it is about to submit, and the embedded task takes longer than the next line of this test
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert "interrupted\n" in errors
    assert "0 of 1 edit done" in errors
    assert "qwen-edit fetch" not in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("command", ["edit", "batch"])
def test_an_interruption_while_the_session_opens_leaves_nothing_open(photos, tmp_path, command):
    arguments = [command, str(photos / "a.png"), "-i", "snow", "-o", str(tmp_path / "out"), "--emulator"]
    with start_command(*arguments) as process:
        assert "not the model" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert "Unclosed" not in errors
    assert "Traceback" not in errors


def test_a_second_interruption_cancels_too():
    passed = []

    async def work():
        cancel_on_termination()
        for _ in range(2):
            try:
                signal.raise_signal(signal.SIGINT)
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                passed.append(True)

    asyncio.run(work())
    assert passed == [True, True]


def test_an_interrupted_submission_without_a_reply_is_reported(photos, tmp_path, service):
    service.inject(Fault.hang().on("submit").nth(1))
    with start_command("batch", str(photos / "a.png"), "-i", "snow", "-o", str(tmp_path / "out")) as process:
        wait_while_running(process, lambda: bool(service.tasks))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert "warning: 1 submission got no clear reply" in errors
    assert errors.startswith("stopping: ")


@pytest.mark.parametrize("stop", STOPS)
def test_a_task_being_submitted_is_journalled_even_if_nobody_reads(small, out, service, stop, default_signals):
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


@pytest.mark.parametrize("stop", STOPS)
def test_an_interrupted_edit_is_cancelled_where_the_protocol_can(small, out, service, stop, default_signals):
    service.inject(Fault.stuck_task())
    with start_command("edit", str(small), "-i", "snow", "-o", str(out), "--protocol", "queue", *QUICK) as process:
        wait_while_running(process, lambda: any(task.checks for task in service.tasks.values()))
        process.send_signal(stop)
        _, errors = process.communicate()
    assert (process.returncode, service.statistics().tasks_cancelled) == (130, 1)
    assert "cancelled at the service: 1 task\n" in errors
    assert "qwen-edit fetch" not in errors


@pytest.mark.parametrize("stop", STOPS)
def test_a_signal_ends_the_server_for_agents_and_cancels_its_edits(small, service, stop, default_signals, monkeypatch):
    limits = {"FOLDER": str(small.parent), "MAX_COST": "1", "PRICE": "0.04"}
    for name, value in limits.items():
        monkeypatch.setenv(f"QWEN_EDIT_MCP_{name}", value)
    monkeypatch.setenv("QWEN_EDIT_PROTOCOL", "queue")
    service.inject(Fault.stuck_task())
    client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    edit = {"name": "edit_image", "arguments": {"images": [small.name], "instruction": "snow"}}
    messages = [
        {"id": 1, "method": "initialize", "params": client},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/call", "params": edit},
    ]
    with start_command("mcp", stdin=subprocess.PIPE) as process:
        process.stdin.writelines(json.dumps({"jsonrpc": "2.0", **message}) + "\n" for message in messages)
        process.stdin.flush()
        wait_while_running(process, lambda: any(task.checks for task in service.tasks.values()))
        process.send_signal(stop)
        assert process.wait(60) == 0  # although the standard input is still open
    assert service.statistics().tasks_cancelled == 1


def test_an_interrupted_run_cancels_tasks_that_have_not_begun(photos, out, monkeypatch):
    with EditEmulator(api_key=API_KEY, duration=3600, slots=1, engine=FixedEngine()).in_thread() as service:
        monkeypatch.setenv("QWEN_EDIT_BASE_URL", service.url)
        monkeypatch.setenv("QWEN_EDIT_API_KEY", API_KEY)
        arguments = ["batch", str(photos), "-i", "snow", "-o", str(out), "--protocol", "queue", *QUICK]
        with start_command(*arguments) as process:
            # After the second check of each task, the process knows the reply to the first.
            wait_while_running(process, lambda: [task.checks > 1 for task in service.tasks.values()] == [True] * 3)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate()
        assert [task.status for task in service.tasks.values()] == ["running", "failed", "failed"]
    assert process.returncode == 130
    assert (
        "\ncancelled at the service: 2 tasks; the next run submits cancelled edits again"
        "\nnot cancelled: 1 task, which may be charged; the next run fetches the pictures\n"
    ) in errors
    assert "\n  3 in flight when the run ended\n" in errors


def test_a_run_under_nohup_outlives_its_terminal(small, out, service, default_signals):
    service.inject(Fault.slow(delay=0.2).on("submit"))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with start_command("batch", str(small), "-i", "snow", "-o", str(out), *QUICK) as process:
        wait_while_running(process, lambda: bool(service.requests))
        process.send_signal(signal.SIGHUP)
        process.communicate()
    assert (process.returncode, len(saved(out))) == (0, 1)
