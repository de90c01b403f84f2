"""A bulk run in a process of its own, killed again and again without warning, and gone on with until it is done."""

from __future__ import annotations

import collections
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import batch_process
import pytest
from batch_process import CONSENT, EDITS, pictures
from emulator_calls import encode
from PIL import Image

from qwen_edit_async.batch.journal.journal import JOURNAL_NAME
from qwen_edit_async.emulator import EditEmulator, Fault, FaultPlan, FixedEngine
from qwen_edit_async.images.png import check_png

LONGEST_RUN = 0.15
KILLS = 40


@pytest.fixture
def emulator():
    faults = FaultPlan([Fault.slow(delay=0.01).on("submit"), Fault.status(503).on("submit").with_probability(0.05)])
    with EditEmulator(duration=0.03, engine=FixedEngine(), faults=faults, seed=5).in_thread() as emulator:
        yield emulator


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photo.png").write_bytes(encode(Image.new("RGB", (400, 400))))
    return tmp_path


@pytest.fixture
def nursery(emulator, folder):
    """The program that makes the processes."""
    command = [sys.executable, batch_process.__file__, emulator.url, emulator.api_key, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as program:
        yield program
        program.stdin.close()


def run(nursery, order: str, *, kill_after: float | None = None) -> int:
    """The exit code of one run, negative if a signal ended it."""
    nursery.stdin.write(f"{order}\n")
    word, process = nursery.stdout.readline().split()
    assert word == "running"
    if kill_after is not None:
        time.sleep(kill_after)
        with contextlib.suppress(ProcessLookupError):  # it was faster
            os.kill(int(process), signal.SIGKILL)
    word, code = nursery.stdout.readline().split()
    assert word == "ended"
    return int(code)


def tasks_by_edit(emulator) -> collections.Counter[int]:
    return collections.Counter(task.submission.seed for task in emulator.tasks.values())


def edits_in_state(folder: Path, state: str) -> set[int]:
    with sqlite3.connect(folder / "out" / JOURNAL_NAME) as journal:
        rows = journal.execute("SELECT key FROM edits WHERE state = ?", (state,)).fetchall()
    journal.close()
    return {int(key.removeprefix("edit")) for (key,) in rows}


def assert_all_files_are_there(folder: Path) -> None:
    names = {f"edit{number}-{index}.png" for number in range(EDITS) for index in range(pictures(number))}
    assert {path.name for path in (folder / "out").glob("*.png")} == names
    for name in names:
        with (folder / "out" / name).open("rb") as file:
            assert check_png(file, 0).damage == ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the crashing process is forked, which this system can't")
def test_nothing_is_lost_or_paid_twice_however_often_the_process_is_killed(emulator, folder, nursery):
    moments = random.Random(4)
    for _ in range(KILLS):
        if run(nursery, "run", kill_after=moments.uniform(0, LONGEST_RUN)) != -signal.SIGKILL:
            break
        assert max(tasks_by_edit(emulator).values(), default=1) == 1
    run(nursery, "run")
    uncertain = edits_in_state(folder, "uncertain")
    certain = set(range(EDITS)) - uncertain
    assert edits_in_state(folder, "saved") == certain
    assert all(tasks_by_edit(emulator)[number] == 1 for number in certain)
    repeated = uncertain & set(tasks_by_edit(emulator))

    assert run(nursery, CONSENT) == 0

    assert emulator.statistics().tasks_created == EDITS + len(repeated)
    assert_all_files_are_there(folder)
    assert not list((folder / "out").glob(".*.part"))
    assert (folder / "out" / "report.html").read_text(encoding="utf-8").count("<article") == EDITS
