"""An emulator in its own process: ``emulator_process.py [SECONDS]``. It prints its address and its key.

A task takes 0.1 s, or the given time. Some submissions get a 503 or no reply, and some tasks fail.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Container, Iterable, Mapping
from typing import Any

from qwen_edit_async.emulator import EditEmulator, Fault, FaultPlan, FixedEngine

LOST = (40, 170, 300, 430, 640, 770, 900)
"""Numbers of the submissions whose replies are dropped."""

FAULTS = FaultPlan(
    [
        Fault.drop_reply().on("submit").nth(*LOST),
        Fault.status(503).on("submit").with_probability(0.03),
        Fault.failed_task().with_probability(0.02),
        Fault.slow(delay=0.01).on("submit"),
    ],
    seed=11,
)


def most_unfinished(tasks: Iterable[Mapping[str, Any]], ids: Container[str]) -> int:
    """Return the highest number of tasks with these ids that were unfinished at the same time."""
    chosen = [task for task in tasks if task["id"] in ids]
    changes = [(task["created_at"], 1) for task in chosen] + [(task["finished_at"], -1) for task in chosen]
    return max(itertools.accumulate(change for _, change in sorted(changes)))


async def main() -> None:
    duration = float(sys.argv[1]) if sys.argv[1:] else 0.1
    async with EditEmulator(duration=duration, engine=FixedEngine(), faults=FAULTS, seed=5, request_log=0) as emulator:
        print(emulator.url, emulator.api_key, flush=True)  # noqa: T201
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
