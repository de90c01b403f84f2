"""``qwen-edit status``."""

from __future__ import annotations

import json
import os

from qwen_edit_async.cli import main
from qwen_edit_async.emulator import Fault


def test_status_prints_the_state_of_a_task(submitted, capsys):
    task_id = submitted()
    assert main(["status", task_id]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (lines["task"], lines["status"], lines["cost"]) == (task_id, "completed", "0.0357")
    assert lines["picture"].startswith("http://")


def test_status_prints_the_progress(submitted, capsys):
    assert main(["status", submitted(Fault.stuck_task())]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["status"] == "in_progress"
    assert lines["progress"].endswith("%")


def test_status_prints_why_a_task_failed(submitted, capsys):
    assert main(["status", submitted(Fault.failed_task(110001, "refused by moderation"))]) == 1
    assert "refused by moderation (code 110001)" in capsys.readouterr().out


def test_status_as_json_is_the_services_reply(submitted, capsys):
    task_id = submitted()
    assert main(["status", task_id, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["id"], found["usage"]["cost"]) == (task_id, "0.0357")


def test_an_unknown_task_is_exit_code_1(service, capsys):
    assert main(["status", "nosuchtask"]) == 1
    assert "HTTP 404" in capsys.readouterr().err


def test_status_needs_no_folder_that_it_can_write_to(submitted, monkeypatch):
    task_id = submitted()
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert main(["status", task_id]) == 0
