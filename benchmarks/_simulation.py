"""Waiting for tasks in simulated time: workloads, the costs of poll policies, and the optimum."""

from __future__ import annotations

import copy
import heapq
import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import attrs
import numpy as np

from qwen_edit_async import Learned, PolledTask, PollPolicy, TaskSnapshot, TaskStatus
from qwen_edit_async.scheduling.schedule import PollSchedule, ScheduledTask

SEED = 4
_SHARE_OF_SHORT = 0.7

Progress: TypeAlias = Callable[[float, np.random.Generator], float]
"""A function that returns the progress that a service reports, given the fraction that is done."""


def honest(done: float, rng: np.random.Generator) -> float:
    """Report linear progress with 2 % noise."""
    return float(np.clip(done + 0.02 * rng.standard_normal(), 0.0, 1.0))


LIES: dict[str, Progress] = {
    "random": lambda _, rng: float(rng.random()),
    "constant": lambda _, __: 0.5,
    "0 until done": lambda _, __: 0.0,
    "almost done": lambda _, __: 0.99,
    "backwards": lambda done, _: 1 - done,
    "square": lambda done, _: done * done,
    "stays at 0.9": lambda done, _: min(0.9, 2 * done),
    "half of it random": lambda done, rng: done if rng.random() < 0.5 else float(rng.random()),  # noqa: PLR2004  # a half
}
"""Progress that is useless or false."""


@attrs.frozen(eq=False)
class Workload:
    """Tasks of one kind of service.

    Attributes:
        name: Name in the table.
        seconds: Duration of each task.
        in_flight: Tasks in flight. When a check finds that a task has ended, the next task is submitted.
        slots: Tasks that the service runs at a time, or ``None`` for no limit.
        progress: The progress that the service reports, if any.
        others: Seconds that each task waits for the tasks of other users.
        tells_queued: Whether the service reports which tasks have not started.
        pace: Returns the factor for a task's duration, given the time of submission.
        known: Whether all durations have one distribution, so that an optimum can be computed.
    """

    name: str
    seconds: np.ndarray[Any, np.dtype[np.float64]]
    in_flight: int = 32
    slots: int | None = None
    progress: Progress | None = None
    others: np.ndarray[Any, np.dtype[np.float64]] | None = None
    tells_queued: bool = False
    pace: Callable[[float], float] = lambda _: 1.0
    known: bool = False


class Figures(NamedTuple):
    """Mean lag in seconds and mean number of checks per task."""

    lag: float
    checks: float

    def cost(self, poll_cost: float) -> float:
        """Return the sum that :class:`Learned` minimises, in seconds."""
        return self.lag + poll_cost * self.checks


class SilentLearned(Learned):
    """Learns durations, but ignores reported progress."""

    def next_check(self, task: PolledTask, now: float) -> float:
        """Schedule the next check without the progress."""
        task.progress = task.previous_progress = None
        return super().next_check(task, now)


def workloads(tasks: int, seed: int = SEED) -> list[Workload]:
    """Return the workloads. Median durations are about 20 s."""
    rng = np.random.default_rng(seed)

    def lognormal(median: float, sigma: float) -> np.ndarray[Any, np.dtype[np.float64]]:
        return median * np.exp(sigma * rng.standard_normal(tasks))

    even = lognormal(20.0, 0.35)
    bimodal = np.where(rng.random(tasks) < _SHARE_OF_SHORT, lognormal(12.0, 0.15), lognormal(45.0, 0.15))
    # The median swings between 10 s and 40 s, twice.
    drift = 2.0 ** np.sin(np.linspace(0, 4 * np.pi, tasks))
    others = np.random.default_rng(seed + 1000).uniform(0.0, 100.0, tasks)
    return [
        Workload("lognormal", even, known=True),
        Workload("bimodal", bimodal, known=True),
        Workload("narrow", lognormal(20.0, 0.05), known=True),
        Workload("drifting", lognormal(20.0, 0.35) * drift),
        Workload("sudden", even * np.where(np.arange(tasks) < tasks // 2, 1.0, 2.5)),
        Workload("queueing", even, in_flight=50, slots=10),
        Workload("shared queue", even, others=others),
        Workload("shared queue, told", even, others=others, tells_queued=True),
        Workload("hourly", even, in_flight=4, pace=lambda now: 3.0 if now // 3600 % 2 else 1.0),
        Workload("progress", even, progress=honest),
        Workload("lying progress", even, progress=LIES["random"]),
    ]


def simulate(policy: PollPolicy, workload: Workload, *, skip: int = 0, seed: int = SEED) -> Figures:
    """Wait for all tasks of a workload.

    Args:
        policy: The policy to measure.
        workload: The tasks.
        skip: Number of first tasks that do not count, because a policy has learned nothing yet.
        seed: Seed of the reported progress.
    """
    rng = np.random.default_rng(seed)
    free = [0.0] * (workload.slots or 0)
    due: list[tuple[float, int, float, float, ScheduledTask]] = []
    seconds = iter(enumerate(workload.seconds.tolist()))
    lags: list[float] = []
    checks: list[int] = []

    def submit(now: float) -> None:
        for index, needed in itertools.islice(seconds, 1):
            starts_at = max(now, heapq.heappop(free)) if free else now
            if workload.others is not None:
                starts_at += float(workload.others[index])
            ends_at = starts_at + needed * workload.pace(now)
            if workload.slots is not None:
                heapq.heappush(free, ends_at)
            task = ScheduledTask(task_id=str(index), since=now)
            heapq.heappush(due, (policy.next_check(task, now), index, starts_at, ends_at, task))

    for index in range(workload.in_flight):
        submit(0.1 * index)
    while due:
        now, index, starts_at, ends_at, task = heapq.heappop(due)
        task.checks += 1
        if now >= ends_at:
            policy.ended(task, now, completed=True)
            if index >= skip:
                lags.append(now - ends_at)
                checks.append(task.checks)
            submit(now)
        else:
            fraction = (now - task.since) / (ends_at - task.since)
            progress = workload.progress(fraction, rng) if workload.progress else None
            task.found_running(now, progress, queued=workload.tells_queued and now < starts_at)
            heapq.heappush(due, (policy.next_check(task, now), index, starts_at, ends_at, task))
    return Figures(float(np.mean(lags)), float(np.mean(checks)))


def optimum(workload: Workload, poll_cost: float, *, steps: int = 1500) -> Figures:
    """Find the cheapest schedule for the workload's distribution of durations, and return its figures.

    The method is dynamic programming over checks at multiples of a step.
    """
    ends = np.sort(workload.seconds)
    times = np.linspace(0.0, float(ends[-1]), steps + 1)
    gone = np.searchsorted(ends, times, side="right") / len(ends)
    area = np.concatenate([[0.0], np.cumsum((gone[1:] + gone[:-1]) / 2) * times[1]])
    to_go, checks = np.zeros(steps + 1), np.zeros(steps + 1)
    for step in range(steps - 1, -1, -1):
        lag = area[step + 1 :] - area[step] - gone[step] * (times[step + 1 :] - times[step])
        costs = lag + to_go[step + 1 :]
        following = int(np.argmin(costs))
        to_go[step] = poll_cost * (1 - gone[step]) + costs[following]
        checks[step] = 1 - gone[step] + checks[step + 1 + following]
    return Figures(float(to_go[0] - poll_cost * checks[0]), float(checks[0]))


@attrs.define
class _Tape:
    """Records a policy's calls, with copies of the tasks."""

    policy: PollPolicy
    calls: list[tuple[PolledTask, float, bool]] = attrs.field(factory=list)

    def next_check(self, task: PolledTask, now: float) -> float:
        self.calls.append((copy.copy(task), now, False))
        return self.policy.next_check(task, now)

    def ended(self, task: PolledTask, now: float, *, completed: bool) -> None:
        self.calls.append((copy.copy(task), now, True))
        self.policy.ended(task, now, completed=completed)


def cpu_per_check(policy: Callable[[], PollPolicy], workload: Workload, repetitions: int) -> list[float]:
    """Return the policy's CPU per check in microseconds, for the same recorded calls in each repetition."""
    tape = _Tape(policy())
    simulate(tape, workload)
    checks = sum(task.checks > 0 for task, _, ended in tape.calls if not ended) + len(workload.seconds)
    figures = []
    for _ in range(repetitions):
        repeated, start = policy(), time.process_time()
        for task, now, ended in tape.calls:
            if ended:
                repeated.ended(task, now, completed=True)
            else:
                repeated.next_check(task, now)
        figures.append(1e6 * (time.process_time() - start) / checks)
    return figures


def simulate_rate(policy: PollPolicy, in_flight: int, poll_rate: float, *, seed: int = SEED) -> tuple[float, float]:
    """Return mean lag and longest time between two checks, in seconds, under a ceiling of checks per second.

    A task lasts about four rounds of checks of all tasks. The mean omits the first ``in_flight`` finished tasks.
    """
    draw = np.random.default_rng(seed)
    durations = iter((4 * in_flight / poll_rate * np.exp(0.35 * draw.standard_normal(4 * in_flight))).tolist())
    running = TaskSnapshot(task_id="", status=TaskStatus.IN_PROGRESS)
    completed = TaskSnapshot(task_id="", status=TaskStatus.COMPLETED, urls=("https://example.org/x.png",))
    schedule: PollSchedule[ScheduledTask] = PollSchedule(policy, poll_rate)
    ends: dict[ScheduledTask, float] = {}
    lags: list[float] = []
    longest, now = 0.0, 0.0
    while len(lags) < 2 * in_flight:
        while len(ends) < in_flight:
            task = ScheduledTask(task_id="", since=now)
            ends[task] = now + next(durations)
            schedule.add(task, now)
        now = max(now, schedule.next_event())
        taken = schedule.take_due(now)
        if taken is None:
            continue
        longest = max(longest, now - taken.checked_at)
        ended = now >= ends[taken]
        schedule.answered(taken, completed if ended else running, now, now)
        if ended:
            lags.append(now - ends.pop(taken))
    return float(np.mean(lags[in_flight:])), longest
