"""How well a small account is used: wall time against the least possible, and the share of requests that are refused.

The session edits against the emulator, over real connections, but on a clock that leaps over every wait: hours of an
account with 4 slots, or with 2 requests a second, pass within seconds, and the machine's speed is not in the figures.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import looptime
from _report import Row, report
from _simulation import SilentLearned

from qwen_edit_async import EditSession, FixedInterval, Learned, PollPolicy
from qwen_edit_async.emulator import EditEmulator, FixedEngine, LogNormal

_IMAGE = "https://pictures.example/cat.png"


@attrs.frozen
class Account:
    """What the service allows, and what is asked of it.

    Attributes:
        name: For the table.
        slots: Tasks at a time; more are answered 429.
        requests_per_second: More are answered 429; ``None`` for any number.
        max_in_flight: What the session would submit at once.
        retry_after: Seconds that a 429 asks to send nothing for.
        median: Seconds of a task; the logarithm's standard deviation is 0.35.
        deadline: Seconds for each edit.
        polling: When the session checks. The progress that replies tell is exact here; :class:`SilentLearned` does not
            look at it.
    """

    name: str
    slots: int
    requests_per_second: int | None
    max_in_flight: int
    retry_after: float | None = None
    median: float = 20.0
    deadline: float = 600.0
    polling: Callable[[], PollPolicy] = Learned


ACCOUNTS = (
    Account("4 slots, 2 requests/s", 4, 2, 16),
    Account("4 slots, 2 requests/s, no progress", 4, 2, 16, polling=SilentLearned),
    Account("4 slots, 2 requests/s, a check a second", 4, 2, 16, polling=partial(FixedInterval, 1.0)),
    Account("4 slots", 4, None, 16),
    Account("4 slots, Retry-After of 30 s", 4, None, 16, retry_after=30.0),
    Account("8 slots, 5 requests/s", 8, 5, 32),
    Account("2 slots of a minute, 200 wanted", 2, None, 200, median=60.0),
)
WALL_TARGET, REFUSED_TARGET = 1.15, 0.05


async def run(account: Account, edits: int, seed: int) -> tuple[float, float]:
    """Wall time as a multiple of the least possible, and the share of requests that were refused."""
    loop = asyncio.get_running_loop()
    async with EditEmulator(
        duration=LogNormal(account.median, 0.35),
        slots=account.slots,
        queue=False,
        requests_per_second=account.requests_per_second,
        retry_after=account.retry_after,
        engine=FixedEngine(),
        seed=seed,
    ) as emulator:
        async with EditSession(
            emulator.api_key,
            base_url=emulator.url,
            max_in_flight=account.max_in_flight,
            deadline=account.deadline,
            polling=account.polling(),
        ) as session:
            began_at = loop.time()
            requests = ({"images": _IMAGE, "instruction": "make it snow"} for _ in range(edits))
            async for outcome in session.edit_many(requests):
                if outcome.error is not None:
                    raise outcome.error
            seconds = loop.time() - began_at
            refused = session.statistics().throttled
        counts = emulator.statistics()
        work = sum(record.duration or 0.0 for record in emulator.tasks.values())
    return seconds / (work / account.slots), refused / (counts.submits + counts.checks)


def measure(account: Account, edits: int, seed: int) -> tuple[float, float]:
    """One run, on a clock of its own."""
    loop = looptime.new_event_loop()
    try:
        return loop.run_until_complete(run(account, edits, seed))
    finally:
        loop.close()


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edits", type=int, default=200, help="on each account (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="each with other durations (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="12 edits, once: does it run at all?")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results", help="folder for JSON and SVG"
    )
    options = parser.parse_args()
    wall_target: float | None = WALL_TARGET
    refused_target: float | None = REFUSED_TARGET
    if options.quick:
        options.edits, options.rounds = 12, 1
        wall_target = refused_target = None  # a dozen edits are over before the limits are learned
    rows: list[Row] = []
    seeds = range(1, options.rounds + 1)
    with ProcessPoolExecutor(2) as pool:  # each run has a clock of its own, on which no other takes time
        runs = [[pool.submit(measure, account, options.edits, seed) for seed in seeds] for account in ACCOUNTS]
    for account, repeated in zip(ACCOUNTS, runs, strict=True):
        walls, refused = zip(*(run.result() for run in repeated), strict=True)
        rows.append(Row("wall time / least possible", account.name, walls, wall_target))
        rows.append(Row("share of requests refused", account.name, refused, refused_target))
    setup: dict[str, Any] = {"edits": options.edits, "rounds": options.rounds}
    report("pacing", sorted(rows, key=lambda row: row.figure), setup, options.output)


if __name__ == "__main__":
    main()
