"""Notes, bars and lines of progress."""

from __future__ import annotations

import os
import pty
import re
import signal
from decimal import Decimal

import attrs
import pytest
from commands import QUICK, start_command

from qwen_edit_async.cli.display import ProgressBar, Screen
from qwen_edit_async.display.cards import Progress
from qwen_edit_async.emulator import Fault


def read_all(terminal):
    chunks = []
    try:
        while chunk := os.read(terminal, 4096):
            chunks.append(chunk)
    except OSError:  # what Linux says when the other end is closed
        pass
    finally:
        os.close(terminal)
    return b"".join(chunks).decode()


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


FRAMES = "━⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


def test_a_note_is_shown_once(capsys):
    screen = Screen()
    for _ in range(5):
        screen.note("the same")
    screen.close()
    assert capsys.readouterr().err == "note: the same\n"


def test_no_bar_is_drawn_without_a_terminal(photos, batch, capsys, service):
    batch(photos)
    text = capsys.readouterr().err
    assert "━" not in text
    assert "\x1b" not in text


def test_a_bar_is_drawn_on_a_terminal(photos, tmp_path, service, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    ours, theirs = pty.openpty()
    arguments = ["batch", str(photos), "-i", "snow", "-o", str(tmp_path / "out"), *QUICK]
    with start_command(*arguments, stderr=theirs) as process:
        os.close(theirs)
        shown = read_all(ours)
        assert (process.stdout.read(), process.wait()) == (f"3 pictures are in {tmp_path / 'out'}\n", 0)
    assert "━" in shown
    assert " of 3 edits" in shown
    assert "3 of 3 edits done" in shown


@pytest.mark.parametrize("command", ["batch", "edit", "fetch"])
def test_a_terminal_shows_until_when_the_service_asked_to_wait(photos, submitted, out, service, command):
    options = ["-o", str(out), *QUICK]
    if command == "fetch":
        arguments = ["fetch", submitted(), *options]
    else:
        source = photos / "a.png" if command == "edit" else photos
        arguments = [command, str(source), "-i", "snow", *options]
    service.inject(Fault.status(429, retry_after=300).on("submit", "check"))
    ours, theirs = pty.openpty()
    with start_command(*arguments, stderr=theirs, env=os.environ | {"TERM": "xterm-256color"}) as process:
        os.close(theirs)
        shown = ""
        while "paused by the service until " not in shown:
            shown += os.read(ours, 4096).decode()
        process.send_signal(signal.SIGINT)
        read_all(ours)
    assert re.search(r"paused by the service until (\d{4}-\d\d-\d\d )?\d\d:\d\d", shown)


def test_without_a_terminal_a_line_is_printed_every_minute(capsys):
    clock = Clock()
    state = Progress(done=2, failed=1, total=9, in_flight=4, cost=Decimal("1.50"))
    progress = ProgressBar(Screen(), lambda seconds: attrs.evolve(state, seconds=seconds), clock)
    with progress.showing():
        for clock.now in (100.0, 159.9, 160.0, 161.0, 219.9, 220.0):
            progress.refresh()
    assert capsys.readouterr().err == (
        "3 of 9 edits · 1 failed · 4 in flight · cost 1.50 · 3.0/min · 2 min 00 s left\n"
        "3 of 9 edits · 1 failed · 4 in flight · cost 1.50 · 1.5/min · 4 min 00 s left\n"
    )


@pytest.mark.parametrize("command", ["edit", "batch"])
def test_output_to_a_file_has_no_bar_even_with_forced_colors(small, out, service, monkeypatch, command):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with start_command(command, str(small), "-i", "snow", "-o", str(out), *QUICK) as process:
        _, errors = process.communicate()
    assert process.returncode == 0
    assert not set(errors) & set(FRAMES)
    assert "\x1b[?25l" not in errors
    assert "\x1b[2mnote: " in errors
