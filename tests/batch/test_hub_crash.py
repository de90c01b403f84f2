"""Four workers and a hub, all in processes that are killed without warning, against an emulator in its own process."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from queue import SimpleQueue
from threading import Thread

import attrs
import emulator_process
import hub_worker
import pytest
from commands import start_command

from qwen_edit_async.batch.journal.journal import JOURNAL_NAME

ROWS, WORKERS, THREADS, LIMIT = 500, 4, 8, 16
TOKEN = "the-token-of-all-workers"
KILLS = 10
HUB = -1


@attrs.define
class Cluster:
    """The processes, and the lines that they print."""

    folder: object
    port: int
    stack: contextlib.ExitStack
    service: dict[str, str] = attrs.field(factory=dict)
    url: str = ""
    lines: SimpleQueue[tuple[int, str]] = attrs.field(factory=SimpleQueue)
    processes: dict[int, subprocess.Popen[str]] = attrs.field(factory=dict)

    def start_emulator(self) -> None:
        command = [sys.executable, emulator_process.__file__]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.stack.callback(self.end, process)
        url, key = process.stdout.readline().split()
        self.service = {"QWEN_EDIT_BASE_URL": url, "QWEN_EDIT_API_KEY": key, "QWEN_EDIT_HUB_TOKEN": TOKEN}

    def start_hub(self) -> None:
        options = ["-o", str(self.folder), "--listen", f"127.0.0.1:{self.port}", "--poll-interval", "0.02"]
        process = start_command(
            "hub", *options, "--concurrency", str(LIMIT), env=os.environ | self.service, stderr=subprocess.DEVNULL
        )
        self.stack.callback(self.end, process)
        self.processes[HUB] = process
        self.url = process.stdout.readline().strip()
        assert self.url == f"http://127.0.0.1:{self.port}"

    def start_worker(self, worker: int) -> None:
        arguments = map(str, (worker, WORKERS, ROWS, THREADS))
        command = [sys.executable, hub_worker.__file__, self.url, TOKEN, *arguments]
        process = self.processes[worker] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.stack.callback(self.end, process)
        Thread(target=self.read, args=(worker, process), daemon=True).start()

    def read(self, worker: int, process: subprocess.Popen[str]) -> None:
        for line in process.stdout:
            self.lines.put((worker, line))
        process.wait()
        self.lines.put((worker, ""))

    def end(self, process: subprocess.Popen[str]) -> None:
        with process.stdout:
            process.kill()
            process.wait()

    def statistics(self) -> dict[str, object]:
        url = f"{self.service['QWEN_EDIT_BASE_URL']}/__emulator__/statistics"
        with hub_worker.DIRECTLY.open(url) as reply:
            return json.load(reply)


@pytest.fixture
def cluster(tmp_path, free_tcp_port) -> Iterator[Cluster]:
    with contextlib.ExitStack() as stack:
        cluster = Cluster(tmp_path / "job", free_tcp_port, stack)
        cluster.start_emulator()
        cluster.start_hub()
        yield cluster


def run_amid_kills(cluster: Cluster) -> dict[int, tuple[str, str]]:
    """Run all rows, and kill a process after every so many outcomes. Return each row's last outcome."""
    choices = random.Random(7)
    victims = [*range(WORKERS), HUB, HUB]
    outcomes: dict[int, tuple[str, str]] = {}
    lines, kills, next_kill = 0, 0, choices.randint(20, 60)
    for worker in range(WORKERS):
        cluster.start_worker(worker)
    working = set(range(WORKERS))
    while working:
        worker, line = cluster.lines.get(timeout=60)
        if not line:
            code = cluster.processes[worker].returncode
            if code:  # it was killed, and begins again with its first row
                cluster.start_worker(worker)
            else:
                working.discard(worker)
            continue
        row, status, task_id = line.split()
        outcomes[int(row)] = status, task_id
        lines += 1
        if lines >= next_kill and kills < KILLS:
            kills, next_kill = kills + 1, lines + choices.randint(20, 60)
            victim = choices.choice(victims)
            cluster.processes[victim].kill()
            if victim == HUB:
                cluster.processes[HUB].wait()
                cluster.start_hub()
    assert kills == KILLS
    return outcomes


def test_nothing_is_paid_twice_or_lost_whichever_process_is_killed(cluster):
    outcomes = run_amid_kills(cluster)

    statistics = cluster.statistics()
    tasks = {task["instruction"]: task for task in statistics["tasks"]}
    assert statistics["tasks_created"] == len(tasks)  # one of each instruction

    statuses = collections.Counter(status for status, _ in outcomes.values())
    assert statuses["saved"] + statuses["failed"] + statuses["uncertain"] == len(outcomes) == ROWS

    unknown = 0
    for row, (status, task_id) in outcomes.items():
        task = tasks.get(hub_worker.instruction(row))
        if status == "uncertain":
            assert task_id == "None"
            unknown += task is not None
        elif task is not None:
            assert task_id == task["id"]
            assert task["status"] == {"saved": "completed", "failed": "failed"}[status]
        else:  # refused each time
            assert (status, task_id) == ("failed", "None")
    known = {task_id for _, task_id in outcomes.values()} - {"None"}
    assert statistics["tasks_created"] == len(known) + unknown

    # Only a task whose reply was lost has no slot.
    assert LIMIT // 2 <= emulator_process.most_unfinished(statistics["tasks"], known) <= LIMIT

    with contextlib.closing(sqlite3.connect(cluster.folder / JOURNAL_NAME)) as journal:
        rows = dict(journal.execute("SELECT key, state FROM edits"))
    assert rows == {f"row{row}": status for row, (status, _) in outcomes.items()}
    assert len(list(cluster.folder.glob("row*-0.png"))) == statuses["saved"]
