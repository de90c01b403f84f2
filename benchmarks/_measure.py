"""How the benchmarks measure: fresh processes, interleaved repetitions, medians."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, TypeVar

import attrs
import psutil

Key = TypeVar("Key")

_SAMPLING_INTERVAL = 0.005
_LARGE = 1000


@attrs.define
class Cost:
    """What a piece of work took.

    Attributes:
        cpu: Seconds of user and system time, of all threads of the process.
        wall: Seconds on the clock.
        memory_before: Resident bytes of the process when the work began.
        memory_growth: By how many bytes its resident memory was larger at its peak.
    """

    cpu: float = 0.0
    wall: float = 0.0
    memory_before: int = 0
    memory_growth: int = 0


@contextmanager
def metered() -> Iterator[Cost]:
    """Measure the block, in the process that runs it; what that process did before, such as imports, does not count."""
    cost = Cost(memory_before=psutil.Process().memory_info().rss)
    cpu, wall = time.process_time(), time.perf_counter()
    yield cost
    cost.cpu, cost.wall = time.process_time() - cpu, time.perf_counter() - wall


def run_in_fresh_process(work: Callable[..., Cost], *arguments: Any) -> Cost:
    """Call ``work``, a module's function, in a new process whose memory is watched from here, every 5 ms."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        process = psutil.Process(pool.submit(os.getpid).result())
        result = pool.submit(work, *arguments)
        peak = 0
        while not result.done():
            peak = max(peak, process.memory_info().rss)
            wait([result], timeout=_SAMPLING_INTERVAL)
        cost = result.result()
    cost.memory_growth = peak - cost.memory_before
    return cost


def run_until(cpu: float, work: Callable[..., Any], *arguments: Any) -> None:
    """Call ``work`` in a new process, and kill that once it has used ``cpu`` seconds, its imports included."""
    process = get_context("spawn").Process(target=work, args=arguments)
    process.start()
    watched = psutil.Process(process.pid)
    while process.is_alive() and watched.cpu_times().user + watched.cpu_times().system < cpu:
        process.join(_SAMPLING_INTERVAL)
    process.kill()
    process.join()


def interleaved(measures: dict[Key, Callable[[], Cost]], repetitions: int) -> dict[Key, list[Cost]]:
    """Take the measures in turns, each round in the opposite order of the last, so that a drift hits all alike."""
    costs: dict[Key, list[Cost]] = {name: [] for name in measures}
    for repetition in range(repetitions):
        for name in list(measures)[:: 1 if repetition % 2 == 0 else -1]:
            costs[name].append(measures[name]())
        print(f"round {repetition + 1} of {repetitions} done", flush=True)
    return costs


@attrs.frozen
class Summary:
    """A repeated figure."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{_short(self.median)} ({_short(self.low)} to {_short(self.high)})"


def summary(values: Sequence[float]) -> Summary:
    """Median and range of the repetitions."""
    return Summary(statistics.median(values), min(values), max(values))


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= _LARGE else f"{value:.3g}"
