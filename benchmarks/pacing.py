"""The use of a small account: wall time relative to the least possible, and the share of refused requests.

The session uses the emulator over real connections, but on a clock that skips every wait. Hours pass in seconds, and
the machine's speed does not matter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import attrs
import looptime
from _report import Row, parse, report
from _simulation import SilentLearned

from qwen_edit_async import EditSession, FixedInterval, Learned, PollPolicy
from qwen_edit_async.emulator import EditEmulator, FixedEngine, LogNormal

_IMAGE = "https://pictures.example/cat.png"


@attrs.frozen
class Account:
    """The service's limits, and the session's demands.

    Attributes:
        name: Name in the table.
        slots: Tasks at a time. Further submissions get a 429.
        requests_per_second: Requests per second, or ``None`` for no limit. Further requests get a 429.
        max_in_flight: The session's limit of tasks in flight.
        retry_after: Seconds of pause that a 429 asks for.
        median: Median seconds of a task. The logarithm's standard deviation is 0.35.
        deadline: Seconds that an edit may take.
        polling: Returns the session's poll policy. The emulator's progress is exact; :class:`SilentLearned` ignores it.
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
    """Return the wall time as a multiple of the least possible, and the share of refused requests."""
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
    """Measure one run on its own clock."""
    loop = looptime.new_event_loop()
    try:
        return loop.run_until_complete(run(account, edits, seed))
    finally:
        loop.close()


def main() -> None:
    """Run the benchmark."""
    quick = {"edits": 12, "rounds": 1}
    options = parse(__doc__, quick, edits=(200, "edits on each account"), rounds=(3, "rounds with other durations"))
    rows: list[Row] = []
    seeds = range(1, options.rounds + 1)
    with ProcessPoolExecutor(2) as pool:  # runs do not disturb each other, because each has its own clock
        runs = [[pool.submit(measure, account, options.edits, seed) for seed in seeds] for account in ACCOUNTS]
    for account, repeated in zip(ACCOUNTS, runs, strict=True):
        walls, refused = zip(*(run.result() for run in repeated), strict=True)
        rows.append(Row(f"{account.name}: wall time / least possible", "library", walls, WALL_TARGET))
        rows.append(Row(f"{account.name}: share of requests refused", "library", refused, REFUSED_TARGET))
    setup: dict[str, Any] = {"edits": options.edits, "rounds": options.rounds}
    report("pacing", sorted(rows, key=lambda row: row.figure), setup, options)


if __name__ == "__main__":
    main()
