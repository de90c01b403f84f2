"""The server of a benchmark: the emulator in its own process. It returns ready-made pictures."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import attrs

from qwen_edit_async.emulator import (
    Duration,
    EditEmulator,
    EditEngine,
    EditJob,
    EmulatorStatistics,
    FixedEngine,
    Submission,
)


@attrs.frozen
class Server:
    """A running emulator."""

    url: str
    api_key: str
    _connection: Connection = attrs.field(repr=False)

    def counters(self) -> tuple[EmulatorStatistics, set[Submission]]:
        """Return the statistics so far, and the distinct submissions."""
        self._connection.send("counters")
        statistics, submissions = self._connection.recv()
        return statistics, submissions


@contextmanager
def serve(duration: Duration, picture: Path | None = None) -> Iterator[Server]:
    """Run an emulator whose tasks take ``duration``. Each task returns ``picture``, or else a tiny one."""
    with process_with_pipe(_run, duration, picture) as connection:
        url, api_key = connection.recv()
        yield Server(url, api_key, connection)


@contextmanager
def process_with_pipe(run: Callable[..., None], *arguments: Any) -> Iterator[Connection]:
    """Run a module's function in a new process with a pipe. The function must return when the pipe is closed."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=run, args=(theirs, *arguments))
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        process.join()


@attrs.frozen
class _FileEngine(EditEngine):
    """Returns the same file for every task."""

    _content: bytes = attrs.field(repr=False)
    reads_images = False

    def render(self, job: EditJob) -> list[bytes]:
        return [self._content] * job.n


def _run(connection: Connection, duration: Duration, picture: Path | None) -> None:
    engine = FixedEngine() if picture is None else _FileEngine(picture.read_bytes())
    emulator = EditEmulator(engine=engine, duration=duration, request_log=0)
    with emulator.in_thread():
        connection.send((emulator.url, emulator.api_key))
        try:
            while connection.recv() == "counters":
                submissions = {record.submission for record in emulator.tasks.values()}
                connection.send((emulator.statistics(), submissions))
        except EOFError:
            return
