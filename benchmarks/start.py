"""The cost of starting: imports, help, and a bulk run that has nothing left to do."""

from __future__ import annotations

import contextlib
import csv
import functools
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from _measure import Cost
from _report import Row, parse, report
from _server import serve

from qwen_edit_async import EditRequest
from qwen_edit_async.batch.fingerprint import fingerprint_of, identify
from qwen_edit_async.batch.journal.database import Store
from qwen_edit_async.batch.journal.journal import JOURNAL_NAME
from qwen_edit_async.batch.rules.decide import State

IMPORT_TARGET, HELP_TARGET = 1.25, 1.3
MEMORY_TARGET = 1.25
"""The limit for a run's memory with the largest table, as a multiple of its memory with the smallest table."""

_MB = 1_000_000
_SAMPLING_INTERVAL = 0.02
_INSTRUCTION = "make it snow"
_PICTURE = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\0IEND\xae\x42\x60\x82"
_PYTHON = (sys.executable, "-I")
"""Python as an installed command starts it: without the working directory in its path, and with compiled modules."""

_MAIN = "from qwen_edit_async.cli import main; main({!r})"
_CODES = {
    "python": "pass",
    "aiohttp": "import aiohttp",
    "cyclopts": "import cyclopts",
    "package": "import qwen_edit_async",
    "EditSession": "from qwen_edit_async import EditSession",
    "--help": _MAIN.format(["--help"]),
    "batch --help": _MAIN.format(["batch", "--help"]),
    "wrong usage": _MAIN.format(["batch"]),
}


def cpu(code: str) -> float:
    """Return the seconds of CPU of a new interpreter that runs some code."""
    before = _cpu_of_children()
    subprocess.run([*_PYTHON, "-c", code], check=True, capture_output=True)
    return _cpu_of_children() - before


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def start_rows(repetitions: int) -> list[Row]:
    """Measure all starts in turns. Each ratio compares two starts of the same turn."""
    seconds: dict[str, list[float]] = {name: [] for name in _CODES}
    for _ in range(repetitions):
        for name, code in _CODES.items():
            seconds[name].append(cpu(code))

    def ratio(figure: str, name: str, base: str, limit: float | None = None) -> Row:
        return Row(figure, "library", [each / of for each, of in zip(seconds[name], seconds[base], strict=True)], limit)

    return [
        ratio("import of the package / of aiohttp", "package", "aiohttp", IMPORT_TARGET),
        ratio("import of EditSession / of aiohttp", "EditSession", "aiohttp", IMPORT_TARGET),
        ratio("--help / import of cyclopts", "--help", "cyclopts", HELP_TARGET),
        ratio("batch --help / import of cyclopts", "batch --help", "cyclopts"),
        ratio("wrong usage / import of cyclopts", "wrong usage", "cyclopts"),
        *(Row(f"{name}: CPU (ms)", "library", [1000 * each for each in values]) for name, values in seconds.items()),
    ]


def again_rows(counts: list[int]) -> Iterator[Row]:
    """Measure ``qwen-edit batch`` over tables whose rows are all done."""
    memory = []
    for rows in counts:
        with tempfile.TemporaryDirectory() as folder, serve(0.0) as server:
            finish(Path(folder), rows)
            cost = nothing_left(Path(folder), server.url, server.api_key)
            counted, _ = server.counters()
        if counted.submits or counted.checks or counted.downloads:
            raise RuntimeError("the run sent requests, although all of its rows are done")
        what = f"{rows:,} rows, all done"
        yield Row(f"{what}: `qwen-edit batch` (s)", "library", [cost.wall])
        yield Row(f"{what}: CPU per row (ms)", "library", [1000 * cost.cpu / rows])
        yield Row(f"{what}: peak memory (MB)", "library", [cost.memory_growth / _MB])
        memory.append(cost.memory_growth)
    figure = f"all done: peak memory of {counts[-1]:,} rows / of {counts[0]:,}"
    yield Row(figure, "library", [memory[-1] / memory[0]], MEMORY_TARGET)


def finish(folder: Path, rows: int) -> None:
    """Write a table of URLs, and the journal and the pictures of a run that has edited all of its rows.

    A real run would take minutes, mostly in the emulator.
    """
    results = folder / "out"
    results.mkdir()
    with (folder / "edits.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["image"], *([_url(row)] for row in range(rows))])
    with contextlib.closing(Store(results / JOURNAL_NAME)) as store:
        steps = (functools.partial(_finish_row, store, results, row) for row in range(rows))
        if any(error is not None for error in store.transact([*steps])):
            raise RuntimeError("the journal could not be written")


def _finish_row(store: Store, results: Path, row: int) -> None:
    request = EditRequest(_url(row), _INSTRUCTION)
    edit = store.plan(identify(request), request, fingerprint_of(request))
    store.move(edit.number, State.SUBMITTING)
    store.move(edit.number, State.SUBMITTED, task_id=f"task-{row}")
    store.move(edit.number, State.COMPLETED, urls=[f"https://example.org/{row}.png"], cost="0.0357")
    path = results / f"{edit.name}-0.png"
    path.write_bytes(_PICTURE)
    store.save(edit.number, [path])


def _url(row: int) -> str:
    return f"https://example.org/{row}.jpg"


def nothing_left(folder: Path, url: str, api_key: str) -> Cost:
    """Run ``qwen-edit batch`` over the finished table in a new process. Return its cost, with its total memory."""
    cost = Cost()
    arguments = ["batch", "edits.csv", "-i", _INSTRUCTION, "-o", "out", "--gallery-limit", "0"]
    command = [*_PYTHON, "-m", "qwen_edit_async", *arguments]
    environment = {**os.environ, "QWEN_EDIT_API_KEY": api_key, "QWEN_EDIT_BASE_URL": url}
    before, began = _cpu_of_children(), time.perf_counter()
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                cost.memory_growth = max(cost.memory_growth, psutil.Process(process.pid).memory_info().rss)
            time.sleep(_SAMPLING_INTERVAL)
    cost.cpu, cost.wall = _cpu_of_children() - before, time.perf_counter() - began
    if process.returncode:
        raise RuntimeError(f"qwen-edit ended with {process.returncode}")
    return cost


def main() -> None:
    """Run the benchmark."""
    quick = {"rows": [100], "repetitions": 1}
    options = parse(
        __doc__, quick, rows=([5_000, 100_000], "rows of the finished tables"), repetitions=(15, "starts of each")
    )
    rows = [*start_rows(options.repetitions), *again_rows(options.rows)]
    report("start", rows, {"rows": options.rows, "repetitions": options.repetitions}, options)


if __name__ == "__main__":
    main()
