"""Measures work in fresh processes, in interleaved repetitions."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import asynccontextmanager, contextmanager, suppress
from multiprocessing import get_context
from typing import Any, TypeVar

import attrs
import psutil

Key = TypeVar("Key")

_SAMPLING_INTERVAL = 0.005
HEARTBEAT = 0.005
_LARGE = 1000


@attrs.define
class Cost:
    """The cost of some work.

    Attributes:
        cpu: Seconds of user and system time, of all threads of the process.
        wall: Seconds on the clock.
        memory_before: Resident bytes of the process when the work began.
        memory_growth: Bytes by which the resident memory grew to its peak.
    """

    cpu: float = 0.0
    wall: float = 0.0
    memory_before: int = 0
    memory_growth: int = 0


AnyCost = TypeVar("AnyCost", bound=Cost)


@contextmanager
def metered(cost: Cost | None = None) -> Iterator[Cost]:
    """Measure the block in the current process. Earlier work, such as imports, does not count."""
    cost = Cost() if cost is None else cost
    cost.memory_before = psutil.Process().memory_info().rss
    cpu, wall = time.process_time(), time.perf_counter()
    yield cost
    cost.cpu, cost.wall = time.process_time() - cpu, time.perf_counter() - wall


@attrs.define
class Beats:
    """Records of an event loop's heartbeat.

    Attributes:
        lags: Seconds by which each beat of a heartbeat was late.
        busy: Seconds of CPU of the loop's thread between beats.
    """

    lags: list[float] = attrs.field(factory=list)
    busy: list[float] = attrs.field(factory=list)


@asynccontextmanager
async def heartbeat(interval: float = HEARTBEAT) -> AsyncIterator[Beats]:
    """While the block runs, record the beats of a task that sleeps ``interval`` seconds at a time."""
    beats = Beats()
    beating = asyncio.create_task(_beat(beats, interval))
    try:
        yield beats
    finally:
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating


async def _beat(beats: Beats, interval: float) -> None:
    loop = asyncio.get_running_loop()
    while True:
        now, cpu = loop.time(), time.thread_time()
        await asyncio.sleep(interval)
        beats.lags.append(loop.time() - now - interval)
        beats.busy.append(time.thread_time() - cpu)


@attrs.frozen
class FreshProcess:
    """A new process that has done no work yet."""

    _pool: ProcessPoolExecutor
    _pid: Future[int]

    def run(self, work: Callable[..., AnyCost], *arguments: Any) -> AnyCost:
        """Call ``work``, a module's function, in the process, and sample the process's memory every 5 ms."""
        process = psutil.Process(self._pid.result())
        result = self._pool.submit(work, *arguments)
        peak = 0
        while not result.done():
            peak = max(peak, process.memory_info().rss)
            wait([result], timeout=_SAMPLING_INTERVAL)
        cost = result.result()
        cost.memory_growth = peak - cost.memory_before
        return cost


@contextmanager
def fresh_process() -> Iterator[FreshProcess]:
    """Start a process. It imports its modules while the caller starts the server."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield FreshProcess(pool, pool.submit(os.getpid))


def interleaved(measures: dict[Key, Callable[[], AnyCost]], repetitions: int) -> dict[Key, list[AnyCost]]:
    """Take the measurements in turns. Each round reverses the order, so that drift affects all alike."""
    costs: dict[Key, list[AnyCost]] = {name: [] for name in measures}
    for repetition in range(repetitions):
        for name in list(measures)[:: 1 if repetition % 2 == 0 else -1]:
            costs[name].append(measures[name]())
        print(f"round {repetition + 1} of {repetitions} done", flush=True)
    return costs


@attrs.frozen
class Summary:
    """The median and range of a repeated figure."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{_short(self.median)} ({_short(self.low)} to {_short(self.high)})"


def summary(values: Sequence[float]) -> Summary:
    """Return the median and range of the repetitions."""
    return Summary(statistics.median(values), min(values), max(values))


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= _LARGE else f"{value:.3g}"
