"""The start: imports, help, and a bulk run that has nothing left to do."""

from __future__ import annotations

import asyncio
import csv
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from _measure import Cost, fresh_process, metered
from _report import Row, parse, report
from _server import serve

from qwen_edit_async import EditBatch, EditSession

IMPORT_TARGET, HELP_TARGET = 1.25, 1.3
_MB = 1_000_000
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
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def start_rows(repetitions: int) -> list[Row]:
    """Measure all starts in turns. A ratio is that of two starts of the same turn."""
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


def nothing_left(url: str, api_key: str, folder: str) -> Cost:
    """Run a finished batch again."""
    with metered() as cost:
        saved = asyncio.run(_run(url, api_key, folder))
    if not saved:
        raise RuntimeError("nothing was saved")
    return cost


async def _run(url: str, api_key: str, folder: str) -> int:
    async with EditSession(api_key, base_url=url, max_in_flight=500) as session:
        batch = EditBatch(f"{folder}/edits.csv", f"{folder}/out", instruction="make it snow", gallery_limit=0)
        return (await batch.run(session)).saved


def again_rows(rows: int) -> list[Row]:
    """Measure a run over a table whose rows are all done."""
    with tempfile.TemporaryDirectory() as folder, serve(0.0) as server:
        with Path(folder, "edits.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["image"], *([f"https://example.org/{row}.jpg"] for row in range(rows))])
        asyncio.run(_run(server.url, server.api_key, folder))
        with fresh_process() as process:
            cost = process.run(nothing_left, server.url, server.api_key, folder)
    what = f"{rows:,} rows, all done"
    return [
        Row(f"{what}: CPU per row (ms)", "library", [1000 * cost.cpu / rows]),
        Row(f"{what}: peak memory growth (MB)", "library", [cost.memory_growth / _MB]),
    ]


def main() -> None:
    """Run the benchmark."""
    quick = {"rows": 100, "repetitions": 1}
    options = parse(__doc__, quick, rows=(5_000, "rows of the finished table"), repetitions=(15, "starts of each"))
    rows = [*start_rows(options.repetitions), *again_rows(options.rows)]
    report("start", rows, {"rows": options.rows, "repetitions": options.repetitions}, options)


if __name__ == "__main__":
    main()
