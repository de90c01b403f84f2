"""Bulk runs: the cost of the journal, and the growth of memory.

The same rows go through ``EditBatch``, and through a session whose workers edit and save without a journal. Uploads,
checks, downloads and files are the same. ``--long``, a part of the soak test, measures the memory of one long run.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs
import psutil
from _measure import Cost, fresh_process, interleaved, metered
from _report import Row, drawn, parse, report
from _server import serve
from PIL import Image

from qwen_edit_async import EditBatch, EditRequest, EditSession, FixedInterval
from qwen_edit_async.emulator import AfterChecks

CPU_TARGET = 1.15
GROWTH_TARGET = 20.0 / 100_000
"""MB per row of the long run."""

_INSTRUCTION = "make it snow"
_MB = 1_000_000
_MEMORY_SAMPLES = 100


@attrs.frozen
class Plan:
    """The work of both runs."""

    rows: int
    in_flight: int
    image: str


@attrs.define
class Run(Cost):
    """A run's cost, with samples of its memory.

    Attributes:
        resident: Resident bytes, sampled after each hundredth of the rows.
    """

    resident: list[int] = attrs.field(factory=list)


def with_journal(url: str, api_key: str, plan: Plan) -> Run:
    """Run the rows through ``EditBatch``."""
    run = Run()
    with tempfile.TemporaryDirectory() as folder, metered(run):
        asyncio.run(_with_journal(url, api_key, plan, folder, run))
    return run


async def _with_journal(url: str, api_key: str, plan: Plan, folder: str, run: Run) -> None:
    async with _session(url, api_key, plan) as session:
        report = await EditBatch(_requests(plan, run), folder, gallery_limit=0).run(session)
    if report.saved != plan.rows:
        raise RuntimeError(report.text())


def without_journal(url: str, api_key: str, plan: Plan) -> Run:
    """Run the rows through ``EditSession.edit`` and ``EditResult.save``."""
    run = Run()
    with tempfile.TemporaryDirectory() as folder, metered(run):
        asyncio.run(_without_journal(url, api_key, plan, folder, run))
    return run


async def _without_journal(url: str, api_key: str, plan: Plan, folder: str, run: Run) -> None:
    requests = _requests(plan, run)
    async with _session(url, api_key, plan) as session:

        async def worker() -> None:
            for request in requests:
                await (await session.edit(request)).save(folder)

        await asyncio.gather(*(worker() for _ in range(2 * plan.in_flight)))


def _session(url: str, api_key: str, plan: Plan) -> EditSession:
    return EditSession(api_key, base_url=url, max_in_flight=plan.in_flight, polling=FixedInterval(0.05))


def _requests(plan: Plan, run: Run) -> Iterator[EditRequest]:
    process = psutil.Process()
    step = max(1, plan.rows // _MEMORY_SAMPLES)
    for number in range(1, plan.rows + 1):
        yield EditRequest(plan.image, _INSTRUCTION, key=f"row-{number}")
        if number % step == 0:
            run.resident.append(process.memory_info().rss)


def measure(client: Callable[[str, str, Plan], Run], plan: Plan) -> Run:
    """Measure one run with a new emulator."""
    with fresh_process() as process, serve(AfterChecks(1)) as server:
        run = process.run(client, server.url, server.api_key, plan)
        counted, _ = server.counters()
    actual = (counted.submits, counted.tasks_completed, counted.checks, counted.downloads)
    if actual != (plan.rows,) * 4:
        raise RuntimeError(f"submissions, completed tasks, checks, downloads: {actual}, not {plan.rows} each")
    return run


def main() -> None:
    """Run the benchmark."""
    options = parse(
        __doc__,
        {"rows": 200, "repetitions": 1},
        rows=(2000, "rows of each run"),
        long=(0, "instead, measure the memory of one run of this many rows, at least 100"),
        in_flight=(64, "edits in flight at a time"),
        repetitions=(2, "pairs of runs"),
    )
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "input.png"
        Image.new("RGB", (512, 512), "#7f9cf5").save(image)
        rows = options.long or options.rows
        plan = Plan(rows, options.in_flight, str(image))
        setup = {"rows": rows, "in flight": plan.in_flight, "bytes of the input": image.stat().st_size}
        if options.long:
            growth, resident, *others = long_rows(plan)
            missed = report("journal-long", [growth, resident, *others], setup, options)
            plot(resident, rows, options.output / "journal-long.svg")
            if missed:
                sys.exit(f"missed: {growth.figure}")
        else:
            setup |= {"repetitions": options.repetitions}
            report("journal", pair_rows(plan, options.repetitions), setup, options)


def pair_rows(plan: Plan, repetitions: int) -> Sequence[Row]:
    """Measure the cost of the journal."""
    clients = {"library": with_journal, "session alone": without_journal}
    runs = interleaved(
        {name: functools.partial(measure, client, plan) for name, client in clients.items()}, repetitions
    )
    ratios = [ours.cpu / theirs.cpu for ours, theirs in zip(runs["library"], runs["session alone"], strict=True)]
    return [
        Row("CPU, with a journal / without", "library", ratios, CPU_TARGET),
        *(Row("CPU per row (ms)", name, [1000 * run.cpu / plan.rows for run in runs[name]]) for name in clients),
        *(Row("peak RSS growth (MB)", name, [run.memory_growth / _MB for run in runs[name]]) for name in clients),
    ]


def long_rows(plan: Plan) -> Sequence[Row]:
    """Measure the growth of memory after a tenth of the rows."""
    run = measure(with_journal, plan)
    tenth = len(run.resident) // 10
    growth = (max(run.resident[tenth - 1 :]) - run.resident[tenth - 1]) / _MB
    figure = f"RSS growth, {plan.rows // 10:,} to {plan.rows:,} rows (MB)"
    return [
        Row(figure, "library", [growth], GROWTH_TARGET * plan.rows),
        Row("RSS, all samples (MB)", "library", [size / _MB for size in run.resident]),
        Row("CPU per row (ms)", "library", [1000 * run.cpu / plan.rows]),
        Row("seconds", "library", [run.wall]),
    ]


def plot(memory: Row, rows: int, path: Path) -> None:
    """Plot memory over the rows."""
    with drawn(path, figsize=(8, 2.5)) as ((panel,),):
        panel.plot([rows // _MEMORY_SAMPLES * (index + 1) for index in range(len(memory.values))], memory.values)
        panel.set_title(memory.figure, loc="left", fontsize=9)
        panel.set_xlabel("rows read", fontsize=8)
        panel.set_ylim(bottom=0)
        panel.xaxis.set_major_formatter("{x:,.0f}")


if __name__ == "__main__":
    main()
