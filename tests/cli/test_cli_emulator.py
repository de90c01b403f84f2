"""``qwen-edit emulator``."""

from __future__ import annotations

import signal

import pytest
from commands import run_edit, start_command

from qwen_edit_async.cli import main


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_emulator_serves_until_it_is_stopped(photos, capsys, monkeypatch, stop):
    with start_command("emulator", "--port", "0", "--duration", "0.01") as process:
        words = process.stdout.readline().split()
        assert words[0] == "export"
        for word in words[1:]:
            monkeypatch.setenv(*word.split("=", 1))
        assert run_edit(photos) == 0
        process.send_signal(stop)
        _, errors = process.communicate()
    assert process.returncode == 0
    assert "not the model" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("option", "message"),
    [(("--port", "70000"), "'port' must be <= 65535"), (("--slots", "0"), "'slots' must be >= 1")],
)
def test_the_emulator_refuses_impossible_settings(capsys, option, message):
    assert main(["emulator", *option]) == 2
    assert message in capsys.readouterr().err


def test_a_port_that_is_taken_is_exit_code_2(service, capsys):
    assert main(["emulator", "--port", service.url.rpartition(":")[2]]) == 2
    assert "address already in use" in capsys.readouterr().err
