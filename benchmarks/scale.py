"""Up to 100,000 tasks in flight in one session: CPU per check, memory per task, lag of the event loop.

The tasks never end. The session attaches to all of them and checks them in turn, at the same rate for any number. The
measurement begins when the session reaches that rate. The first check of each task is answered inside the process,
because 100,000 requests take most of a minute.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import statistics
import time

import attrs
import psutil
from _endless import BODY, serve_endless
from _measure import HEARTBEAT, Cost, fresh_process, heartbeat, interleaved, metered
from _report import Row, parse, report

from qwen_edit_async import EditResult, EditSession, EditTask, PolledTask, Timeouts
from qwen_edit_async.http.api import AiohttpTransport, Transport
from qwen_edit_async.http.body import JSONBody
from qwen_edit_async.http.network import Network
from qwen_edit_async.http.secret import Secret
from qwen_edit_async.protocol.base import Call, Reply

GROWTH_TARGET, CPU_TARGET, LAG_TARGET = 6.0, 1.2, 20.0
_PAUSE = 0.05
_IDLE_SECONDS = 1.0
_SETTLING_SECONDS = 0.5
_SETTLING_ATTEMPTS = 60
_SETTLED = 2
_TOLERANCE = 0.05
_FIRST = 1000


@attrs.frozen
class Plan:
    """One measurement.

    Attributes:
        tasks: Tasks in flight.
        rate: Checks per second.
        seconds: Duration of the measurement.
    """

    tasks: int
    rate: float
    seconds: float


@attrs.define
class Scale(Cost):
    """The result of a measurement.

    Attributes:
        checks: Number of checks.
        checking: Seconds of CPU for these checks.
        lags: Seconds by which each heartbeat was late.
        busy: Seconds of CPU of the event loop between heartbeats.
        idle_lags: Like ``lags``, but measured before the first task.
        bytes_per_task: Growth of the resident memory per task, beyond the first thousand tasks.
    """

    checks: int = 0
    checking: float = 0.0
    lags: list[float] = attrs.field(factory=list)
    busy: list[float] = attrs.field(factory=list)
    idle_lags: list[float] = attrs.field(factory=list)
    bytes_per_task: float = 0.0

    @property
    def cpu_per_check(self) -> float:
        """CPU per check in microseconds."""
        return 1e6 * self.checking / self.checks


@attrs.frozen
class Evenly:
    """Spreads the checks of all tasks evenly over the interval.

    Attributes:
        interval: Seconds between two checks of a task.
        tasks: Number of tasks, whose ids are ``task-0`` and so on.
    """

    interval: float
    tasks: int

    def next_check(self, task: PolledTask, now: float) -> float:
        """Return the time of the task's next turn."""
        turn = int(task.task_id.rpartition("-")[2]) / self.tasks * self.interval
        return now + (turn - now) % self.interval

    def ended(self, task: PolledTask, now: float, *, completed: bool) -> None:
        """Do nothing: no task ends."""


@attrs.define
class ShortCut:
    """Answers in place of the service, until ``closed`` is set."""

    _service: Transport
    closed: bool = False

    async def open(self) -> None:
        """Open the connections to the service."""
        await self._service.open()

    async def send(self, call: Call, body: JSONBody | None = None) -> Reply:
        """Make one call."""
        if self.closed:
            return await self._service.send(call, body)
        await asyncio.sleep(0)
        return Reply(status=200, body=BODY)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._service.aclose()


def hold(url: str, plan: Plan) -> Scale:
    """Measure a session with the tasks in flight."""
    scale = Scale()
    with metered(scale):
        asyncio.run(_hold(url, plan, scale))
    return scale


async def _hold(url: str, plan: Plan, scale: Scale) -> None:
    polling = Evenly(plan.tasks / plan.rate, plan.tasks)
    service = AiohttpTransport(url, Secret("key"), Timeouts(), default_headers={}, network=Network())
    short_cut = ShortCut(service)
    async with EditSession("key", base_url=url, polling=polling, deadline=86400, transport=short_cut) as session:
        async with heartbeat() as idle:
            await asyncio.sleep(_IDLE_SECONDS)
        gc.disable()  # the new objects stay, and each collection would visit them
        waiting = await _attach_all(session, plan, scale)
        gc.collect()
        gc.enable()
        short_cut.closed = True
        await _settle(session, plan.rate)
        before, checks = time.process_time(), session.statistics().checks
        async with heartbeat() as beats:
            await asyncio.sleep(plan.seconds)
        scale.checking = time.process_time() - before
        scale.checks = session.statistics().checks - checks
        scale.idle_lags, scale.lags, scale.busy = idle.lags, beats.lags, beats.busy
        if session.statistics().watched != plan.tasks:
            raise RuntimeError(f"{session.statistics().watched} tasks are in flight, not {plan.tasks}")
        if not _even(scale.checks, plan.rate, plan.seconds):
            raise RuntimeError(f"{scale.checks} checks were made in {plan.seconds:g} s, not {plan.rate:g} per second")
        gc.disable()
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)


async def _attach_all(session: EditSession, plan: Plan, scale: Scale) -> list[asyncio.Task[EditResult]]:
    """Attach to all tasks, await each in an asyncio task, and wait until each was checked once."""
    first = 0
    waiting: list[asyncio.Task[EditResult]] = []
    for number in range(plan.tasks):
        task = session.attach(f"task-{number:020}")
        waiting.append(asyncio.create_task(_result(task)))
        if number in {_FIRST, plan.tasks - 1}:
            # Checks are made in the order of their due times, so this task is checked last.
            while task.progress is None and not waiting[-1].done():  # noqa: ASYNC110  # there is no event for it
                await asyncio.sleep(_PAUSE)
            first = first or psutil.Process().memory_info().rss
    if plan.tasks > _FIRST:
        scale.bytes_per_task = (psutil.Process().memory_info().rss - first) / (plan.tasks - _FIRST)
    return waiting


async def _settle(session: EditSession, rate: float) -> None:
    """Wait for the backlog of checks to clear: two samples in a row must show the planned rate."""
    in_a_row = 0
    for _ in range(_SETTLING_ATTEMPTS):
        before = session.statistics().checks
        await asyncio.sleep(_SETTLING_SECONDS)
        even = _even(session.statistics().checks - before, rate, _SETTLING_SECONDS)
        in_a_row = in_a_row + 1 if even else 0
        if in_a_row == _SETTLED:
            return
    raise RuntimeError(f"the session does not reach {rate:g} checks per second: lower --rate, or use a faster machine")


def _even(checks: int, rate: float, seconds: float) -> bool:
    return abs(checks / (rate * seconds) - 1) <= _TOLERANCE


async def _result(task: EditTask) -> EditResult:
    return await task


def measure(plan: Plan) -> Scale:
    """Measure one session with a new server."""
    with fresh_process() as process, serve_endless() as url:
        return process.run(hold, url, plan)


def main() -> None:
    """Run the benchmark."""
    options = parse(
        __doc__,
        {"tasks": [500, 2000], "seconds": 1.0, "repetitions": 1},
        tasks=([1000, 100_000], "tasks in flight; compares the last number with the first"),
        rate=(1500.0, "checks a second"),
        seconds=(3.0, "duration of each measurement"),
        repetitions=(2, "repetitions of each"),
    )
    if options.tasks[-1] <= max(_FIRST, options.tasks[0]):
        raise SystemExit(f"the last of --tasks must be larger than the first, and than {_FIRST}")
    plans = {f"{tasks:,} in flight": Plan(tasks, options.rate, options.seconds) for tasks in options.tasks}
    least, most = next(iter(plans)), list(plans)[-1]
    costs = interleaved({name: functools.partial(measure, plan) for name, plan in plans.items()}, options.repetitions)
    ratios = [ours.cpu_per_check / theirs.cpu_per_check for ours, theirs in zip(costs[most], costs[least], strict=True)]
    idle = [_p99_lag(cost.idle_lags) for repeated in costs.values() for cost in repeated]
    rows = [
        Row(f"CPU per check, {most} / {least}", "library", ratios, CPU_TARGET),
        *(
            Row(f"CPU per check, {name} (µs)", "library", [cost.cpu_per_check for cost in repeated])
            for name, repeated in costs.items()
        ),
        Row(
            "RSS per task in flight (KB)",
            "library",
            [cost.bytes_per_task / 1000 for cost in costs[most]],
            GROWTH_TARGET,
        ),
        *(
            Row(f"event loop lag, p99, {name} (ms)", "library", [_p99_lag(cost.lags) for cost in repeated], LAG_TARGET)
            for name, repeated in costs.items()
        ),
        Row("event loop lag, p99, without a task (ms)", "library", idle),
    ]
    setup = {
        "checks a second": options.rate,
        "seconds": options.seconds,
        "repetitions": options.repetitions,
    }
    report("scale", rows, setup, options)


def _p99(seconds: list[float]) -> float:
    """Return the 99th percentile in milliseconds."""
    return 1000 * statistics.quantiles(seconds, n=100)[98]


def _p99_lag(lags: list[float]) -> float:
    """Return the 99th percentile for a wait that begins at any time.

    A late beat also counts for the beats that it delayed.
    """
    return _p99([lag - missed * HEARTBEAT for lag in lags for missed in range(1 + int(max(0.0, lag) / HEARTBEAT))])


if __name__ == "__main__":
    main()
