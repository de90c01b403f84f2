"""``qwen-edit hub``."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request

import pytest
from commands import API_KEY, QUICK, saved, start_command
from hub_worker import DIRECTLY

from qwen_edit_async.cli import main

TOKEN = "the-token-of-all-workers"
EDIT = {"key": "a", "image": "https://pictures.example/cat.png", "instruction": "snow"}


def ask(url: str, token: str) -> dict[str, object]:
    call = urllib.request.Request(f"{url}/edits", json.dumps(EDIT).encode(), {"Authorization": f"Bearer {token}"})
    with DIRECTLY.open(call) as reply:
        return json.load(reply)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_hub_serves_until_it_is_stopped_and_goes_on_the_next_time(service, out, stop):
    options = ("-o", str(out), "--listen", "127.0.0.1:0", "--submit-rate", "50", *QUICK)
    for _ in range(2):
        with start_command("hub", *options, env=os.environ | {"QWEN_EDIT_HUB_TOKEN": TOKEN}) as process:
            url = process.stdout.readline().strip()
            try:
                with pytest.raises(urllib.error.HTTPError, match="401"):
                    ask(url, API_KEY)
                assert ask(url, TOKEN)["status"] == "saved"
            finally:
                process.send_signal(stop)
            output, errors = process.communicate()
        assert process.returncode == 0
        assert output == ""
        assert "1 of 1 edit" in errors
        assert "Traceback" not in errors
        assert TOKEN not in errors
    assert saved(out) == ["a-0.png"]
    assert service.statistics().tasks_created == 1


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        (("--max-tasks", "0", "--max-cost", "1"), "0 tasks created (max_tasks=0)"),
        (("--price", "0.5", "--max-cost", "0.4"), "0 was spent, and the next edit could exceed max_cost=0.4"),
    ],
)
def test_the_embedded_service_works_without_a_key_and_limits_hold(no_key, out, limits, error):
    options = ("--emulator", *limits, "--listen", "127.0.0.1:0")
    with start_command("hub", "-o", str(out), *options, env=os.environ | {"QWEN_EDIT_HUB_TOKEN": TOKEN}) as process:
        try:
            with pytest.raises(urllib.error.HTTPError, match="503") as caught:
                ask(process.stdout.readline().strip(), TOKEN)
        finally:
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    outcome = json.load(caught.value)
    assert (outcome["status"], outcome["error"]) == ("planned", error)
    assert process.returncode == 0
    assert "not the model" in errors


@pytest.mark.parametrize(
    ("token", "message"),
    [(None, "QWEN_EDIT_HUB_TOKEN is missing"), ("short", "is missing or too short"), (API_KEY, "is an API key")],
)
@pytest.mark.usefixtures("service")
def test_a_hub_needs_a_token_of_its_own(out, monkeypatch, capsys, token, message):
    monkeypatch.delenv("QWEN_EDIT_HUB_TOKEN", raising=False)
    if token is not None:
        monkeypatch.setenv("QWEN_EDIT_HUB_TOKEN", token)
    assert main(["hub", "-o", str(out)]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert API_KEY not in errors
    assert not out.exists()


def test_a_public_address_and_a_missing_certificate_are_refused_and_a_taken_port_is_told(
    service, out, monkeypatch, capsys
):
    monkeypatch.setenv("QWEN_EDIT_HUB_TOKEN", TOKEN)
    assert main(["hub", "-o", str(out), "--listen", "0.0.0.0:80"]) == 2
    assert "loopback or private" in capsys.readouterr().err
    assert main(["hub", "-o", str(out), "--certificate", str(out / "hub.pem")]) == 2
    assert "give a PEM file" in capsys.readouterr().err
    assert main(["hub", "-o", str(out), "--listen", service.url.removeprefix("http://")]) != 0
    assert "address already in use" in capsys.readouterr().err
