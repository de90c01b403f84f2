"""A Ray cluster on this machine whose processes are killed without warning, and an emulator that fails at times."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import Any, Self

import emulator_process
import ray
from PIL import Image

from qwen_edit_async.ray import EditedRow, EditRows, Hub, start_hub

ROWS, LIMIT, RATE = 500, 16, 20
TASK_SECONDS = 0.5
"""Long enough that the rate alone would not keep the tasks in flight below the limit."""

_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextlib.contextmanager
def cluster(service: Mapping[str, str]) -> Iterator[Path]:
    """Run a Ray cluster whose environment names the service. Yield the folder of its logs."""
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # a short path, because it holds sockets
    before = dict(os.environ)
    os.environ |= {**service, "PYTHONPATH": os.pathsep.join(sys.path)}  # workers import the tests' modules
    try:
        ray.init(
            address="local",
            num_cpus=4,
            object_store_memory=100_000_000,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            _node_ip_address="127.0.0.1",
            _temp_dir=str(folder),
        )
        yield folder
    finally:
        ray.shutdown()
        os.environ.clear()
        os.environ |= before
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def emulator() -> Iterator[dict[str, str]]:
    """Run an emulator in a process, and yield the variables that name it."""
    command = [sys.executable, emulator_process.__file__, str(TASK_SECONDS)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with process.stdout:
        try:
            url, key = process.stdout.readline().split()
            yield {"QWEN_EDIT_BASE_URL": url, "QWEN_EDIT_API_KEY": key}
        finally:
            process.kill()
            process.wait()


def statistics(service: Mapping[str, str]) -> dict[str, Any]:
    with _DIRECTLY.open(f"{service['QWEN_EDIT_BASE_URL']}/__emulator__/statistics") as reply:
        return json.load(reply)


def rows_in(folder: Path, engine: str) -> list[dict[str, str]]:
    Image.radial_gradient("L").resize((400, 400)).convert("RGB").save(folder / "cat.png")
    image = str(folder / "cat.png")
    return [{"key": f"row{row}", "image": image, "instruction": f"{engine}, row {row}"} for row in range(ROWS)]


class ReportingRows(EditRows):
    """A worker that sends its process id to a port after each edit."""

    def __init__(self, hub: Hub, save_to: str, port: int) -> None:
        super().__init__(hub, save_to)
        self._port = port
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    async def edit(self, row: Mapping[str, Any]) -> EditedRow:
        edited = await super().edit(row)
        self._socket.sendto(str(os.getpid()).encode(), ("127.0.0.1", self._port))
        return edited


class Killer:
    """Kills two workers and the hub twice, each after some more edits.

    Attributes:
        port: The port to which workers report.
        killed: The names of the processes that were killed.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._thread = Thread(target=self._kill)
        self.port = self._socket.getsockname()[1]
        self.killed: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()

    def _kill(self) -> None:
        choices = random.Random(7)
        victims = ["worker", "worker", "hub", "hub"]
        choices.shuffle(victims)
        edits, next_kill = 0, choices.randint(40, 80)
        while sender := self._socket.recv(16):
            edits += 1
            if victims and edits >= next_kill:
                victim, next_kill = victims.pop(), edits + choices.randint(40, 80)
                os.kill(process_of(self._hub) if victim == "hub" else int(sender), signal.SIGKILL)
                self.killed.append(victim)


def process_of(hub: Hub) -> int:
    return ray.get(hub._actor.__ray_call__.remote(lambda _: os.getpid()))


@contextlib.contextmanager
def running_hub(folder: Path) -> Iterator[Hub]:
    hub = start_hub(folder, max_in_flight=LIMIT, submit_rate=RATE)
    try:
        yield hub
    finally:
        hub.stop()


def check(edited: Sequence[Mapping[str, Any]], counts: Mapping[str, Any], folder: Path) -> None:
    """Check that each row was paid for at most once, and that its columns are what the service knows of it."""
    instructions = {row["instruction"] for row in edited}
    created = [task for task in counts["tasks"] if task["instruction"] in instructions]
    tasks = {task["instruction"]: task for task in created}
    assert len(created) == len(tasks)  # one of each instruction

    assert sorted(row["key"] for row in edited) == sorted(f"row{row}" for row in range(ROWS))
    statuses = collections.Counter(row["status"] for row in edited)
    assert statuses["saved"] + statuses["failed"] + statuses["uncertain"] == ROWS

    unknown = 0
    for row in edited:
        task = tasks.get(row["instruction"])
        if row["status"] == "uncertain":
            assert row["task_id"] is None
            unknown += task is not None
        elif task is not None:
            assert row["task_id"] == task["id"]
            assert task["status"] == {"saved": "completed", "failed": "failed"}[row["status"]]
        else:  # refused each time
            assert (row["status"], row["task_id"]) == ("failed", None)
    known = {row["task_id"] for row in edited} - {None}
    assert len(created) == len(known) + unknown

    # Only a task whose reply was lost, with the hub or on the way, has no slot.
    assert LIMIT // 2 <= emulator_process.most_unfinished(created, known) <= LIMIT

    saved = {path for row in edited for path in row["files"]}
    assert saved == {str(path) for path in folder.glob("*.png")}
    assert len(saved) == statuses["saved"]
