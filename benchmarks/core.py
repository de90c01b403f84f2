"""The session's own CPU per edit, compared with another version of the package.

The service is in memory, so that only the session's own work is measured. Images are URLs, and each task is checked
once. The versions take turns, and each run has its own process.

``python benchmarks/core.py --base ../qwen-edit-async-before`` compares this tree with another one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_TREE = Path(__file__).parents[1]
_TARGET = 0.55
_IMAGE = "https://images.invalid/picture.png"
_COMPLETED = (
    b'{"status": "completed", "output": [{"content": [{"type": "image", "url": "https://results.invalid/1.png"}]}], '
    b'"usage": {"cost": "0.0357", "quantity": 1}}'
)
_POLL_INTERVAL = 0.01


class _Sink:
    """A connection that accepts everything at once."""

    transport = None

    async def write(self, chunk: bytes) -> None:
        """Accept a piece of a body."""


class _Service:
    """Answers each call in the next step of the event loop."""

    def __init__(self) -> None:
        self.created = 0
        self._reply = _reply_class()

    async def open(self) -> None:
        """Do nothing."""

    async def aclose(self) -> None:
        """Do nothing."""

    async def send(self, call: Any, body: Any = None) -> Any:
        """Create a task, or report one as completed."""
        if call.method == "POST":
            await body.write(_Sink())
            await asyncio.sleep(0)
            self.created += 1
            return self._reply(status=200, body=b'{"id": "task-%d", "status": "in_progress"}' % self.created)
        await asyncio.sleep(0)
        return self._reply(status=200, body=_COMPLETED)


def _reply_class() -> Any:
    """Return the class ``Reply`` of the measured tree. Its module has different names in different versions."""
    from qwen_edit_async import EditSession  # noqa: F401, PLC0415  # imports all modules that a session needs

    modules = [module for name, module in sys.modules.items() if name.startswith("qwen_edit_async.")]
    return next(module.Reply for module in modules if hasattr(module, "Reply"))


async def _edits(count: int, in_flight: int) -> float:
    """Make the edits, and return their seconds of CPU."""
    from qwen_edit_async import EditRequest, EditSession, FixedInterval  # noqa: PLC0415  # from the measured tree

    service = _Service()
    options: dict[str, Any] = {"max_in_flight": in_flight, "envelope": "flat", "polling": FixedInterval(_POLL_INTERVAL)}
    if hasattr(EditSession, "_make_transport"):  # older versions

        class Session(EditSession):
            def _make_transport(self) -> Any:
                return service
    else:
        Session = EditSession  # noqa: N806  # a class
        options["transport"] = service
    async with Session("benchmark", base_url="http://127.0.0.1:9", **options) as session:
        requests: Iterator[Any] = (EditRequest(_IMAGE, "make it snow") for _ in range(count))
        before = time.process_time()
        async for outcome in session.edit_many(requests):
            if outcome.error is not None:
                raise outcome.error
        seconds = time.process_time() - before
        statistics_ = session.statistics()
    if (statistics_.completed, statistics_.checks) != (count, count):
        raise RuntimeError(f"{statistics_.checks} checks of {statistics_.completed} edits, not {count} of each")
    return seconds


def _measure(tree: Path, count: int, in_flight: int) -> float:
    """Return the microseconds of CPU per edit, measured in a new process."""
    command = [sys.executable, __file__, "--worker", "--edits", str(count), "--in-flight", str(in_flight)]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=tree)
    return 1e6 * float(done.stdout) / count


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, help="another version's tree to compare with")
    parser.add_argument("--edits", type=int, default=10_000, help="edits of each measurement (default: %(default)s)")
    parser.add_argument("--in-flight", type=int, default=500, help="edits in flight at a time (default: %(default)s)")
    parser.add_argument("--repetitions", type=int, default=7, help="repetitions of each version (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="200 edits, once, to check that the benchmark runs")
    parser.add_argument("--output", type=Path, help="not used: the figures are printed")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.edits, options.in_flight, options.repetitions = 200, 50, 1
    if options.worker:
        print(asyncio.run(_edits(options.edits, options.in_flight)))
        return
    trees = {"this tree": _TREE} | ({"the other": options.base.resolve()} if options.base else {})
    figures: dict[str, list[float]] = {name: [] for name in trees}
    for repetition in range(options.repetitions):
        for name in list(trees)[:: 1 if repetition % 2 == 0 else -1]:
            figures[name].append(_measure(trees[name], options.edits, options.in_flight))
    for name, values in figures.items():
        print(f"{name}: {statistics.median(values):.1f} µs of CPU per edit ({min(values):.1f} to {max(values):.1f})")
    if options.base:
        ratios = [ours / theirs for ours, theirs in zip(*figures.values(), strict=True)]
        print(f"ratio: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}), aim {_TARGET}")


if __name__ == "__main__":
    main()
