"""The one coroutine of a session that asks the service about all of its tasks.

What is checked when is decided by the pure :class:`PollSchedule`; here are the clock, the calls and the wake-ups.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from random import Random
from typing import Generic

from qwen_edit_async.errors import DeadlineExceededError, QwenEditError, RateLimitError
from qwen_edit_async.log import log
from qwen_edit_async.models import TaskSnapshot, TaskStatus
from qwen_edit_async.scheduling.pacing import Pacer
from qwen_edit_async.scheduling.policies import PollPolicy
from qwen_edit_async.scheduling.retry import Failure
from qwen_edit_async.scheduling.schedule import PollSchedule, W
from qwen_edit_async.session.pauses import hold_back
from qwen_edit_async.statistics import Counters

MAX_CONCURRENT_CHECKS = 64
"""Status checks that may be under way at once."""

_STANDSTILL = 1.0
"""Seconds that the poller oversleeps when the machine was suspended, or something blocked the event loop."""

_MAX_LOGGED_WORDS = 20
_SHOWN_CHARACTERS = 80


class Poller(Generic[W]):
    """Multiplexes the status checks of all tasks of a session.

    Args:
        check: Asks the service about one task, once.
        policy: When to check.
        pacer: Whose pauses and rate also hold for checks.
        counters: Where checks are counted.
        random: For the jitter between failing checks.
        on_snapshot: Is told of every answer.
        on_end: Is told of the answer or error that ends the wait for a task.
        on_fatal: Is told of an error that will be the answer to every call; all waits have ended with it.
        poll_rate: The most checks a second; ``None`` for as many as are due.
    """

    def __init__(
        self,
        check: Callable[[str], Awaitable[TaskSnapshot]],
        policy: PollPolicy,
        pacer: Pacer,
        counters: Counters,
        *,
        random: Random,
        on_snapshot: Callable[[W, TaskSnapshot], None],
        on_end: Callable[[W, TaskSnapshot | QwenEditError], None],
        on_fatal: Callable[[QwenEditError], None],
        poll_rate: float | None = None,
    ) -> None:
        self._check = check
        self._schedule: PollSchedule[W] = PollSchedule(policy, poll_rate)
        self._poll_rate = poll_rate
        self._pacer = pacer
        self._counters = counters
        self._random = random
        self._on_snapshot = on_snapshot
        self._on_end = on_end
        self._on_fatal = on_fatal
        self._checking = 0
        self._alarm: asyncio.Future[float] | None = None
        self._asleep_until = -math.inf
        self._logged_words: set[str] = set()

    def __len__(self) -> int:
        return len(self._schedule)

    def watch(self, task: W) -> None:
        """Begin to check a task."""
        self._schedule.add(task, asyncio.get_running_loop().time())
        self._wake_if_nearer()

    def forget(self, task: W) -> None:
        """Cease to check a task; nobody is told."""
        self._schedule.remove(task, asyncio.get_running_loop().time())

    async def run(self) -> None:
        """Check what is due, sleep until something is, and so on until cancelled."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as checks:
            now = loop.time()
            while True:
                while (expired := self._schedule.take_expired(now)) is not None:
                    self._on_end(expired, self._deadline_error(expired, now))
                while (due := self._take_due(now)) is not None:
                    checks.create_task(self._check_in_turn(due, now))
                until = self._next_event()
                # A timer may fire a hair early by the clock; what it was set for is due none the less.
                now = max(await self._sleep(loop, until), loop.time())
                if now > until + _STANDSTILL:
                    self._schedule.excuse(now)

    def _take_due(self, now: float) -> W | None:
        if self._checking >= MAX_CONCURRENT_CHECKS or now < self._pacer.check_at:
            return None
        task = self._schedule.take_due(now)
        if task is not None:
            self._checking += 1
            self._pacer.sent(now, check=True)
        return task

    async def _check_in_turn(self, task: W | None, now: float) -> None:
        """Check a task, then what has become due meanwhile: a new coroutine for each would cost more than the rest."""
        loop = asyncio.get_running_loop()
        while task is not None:
            try:
                await self._check_once(task, now)
            finally:
                self._checking -= 1
            now = loop.time()
            task = self._take_due(now)
            self._wake_if_nearer()

    async def _check_once(self, task: W, sent_at: float) -> None:
        try:
            snapshot = await self._check(task.task_id)
        except QwenEditError as error:
            self._failed(task, error, sent_at)
        else:
            self._answered(task, snapshot, sent_at)

    def _answered(self, task: W, snapshot: TaskSnapshot, sent_at: float) -> None:
        now = asyncio.get_running_loop().time()
        self._counters.checks += 1
        self._pacer.rate.let_in(now)
        if snapshot.status is TaskStatus.UNKNOWN:
            self._log_unknown(snapshot)
        if self._schedule.answered(task, snapshot, sent_at, now):
            self._on_end(task, snapshot)
        else:
            self._on_snapshot(task, snapshot)

    def _failed(self, task: W, error: QwenEditError, sent_at: float) -> None:
        now = asyncio.get_running_loop().time()
        self._counters.failed_checks += 1
        if isinstance(error, RateLimitError):
            self._counters.throttled += 1
            self._pacer.rate.refused(now, sent_at)
        hold_back(self._pacer, error, now)
        log.info("check of task %s failed: %s", task.task_id, error)
        match self._schedule.failed(task, error, now, self._random.random()):
            case Failure.FINAL:
                self._on_end(task, error)
            case Failure.FATAL:
                self._on_fatal(error)

    def _log_unknown(self, snapshot: TaskSnapshot) -> None:
        word = snapshot.status_word[:_SHOWN_CHARACTERS]
        if word not in self._logged_words and len(self._logged_words) < _MAX_LOGGED_WORDS:
            self._logged_words.add(word)
            log.warning("task %s has the unknown status %r: counted as running", snapshot.task_id, word)

    def _deadline_error(self, task: W, now: float) -> DeadlineExceededError:
        told = f"checks answered: {task.checks}"
        if task.odd_word:
            told += f"; the last said {task.odd_word[:_SHOWN_CHARACTERS]!r}"
        if task.due_at < task.deadline and now < self._pacer.resume_at:
            told += "; the next was withheld by a pause that the service asked for"
        elif task.due_at < task.deadline and self._poll_rate is not None:
            told += "; the next was withheld by poll_rate"
        last = f"; the last check failed: {task.last_failure}" if task.failures else ""
        error = DeadlineExceededError(
            f"task {task.task_id} was not found to have ended before its deadline ({told}){last}; "
            f"it may run on: session.attach({task.task_id!r})",
            task_id=task.task_id,
        )
        error.__cause__ = task.last_failure if task.failures else None
        return error

    def _next_event(self) -> float:
        checks_from = self._pacer.check_at if self._checking < MAX_CONCURRENT_CHECKS else math.inf
        return self._schedule.next_event(checks_from=checks_from)

    async def _sleep(self, loop: asyncio.AbstractEventLoop, until: float) -> float:
        """Sleep until something is due; returns the time that was slept for, if it was not cut short."""
        self._alarm = loop.create_future()
        self._asleep_until = until
        timer = loop.call_at(until, self._wake, until) if until < math.inf else None
        try:
            return await self._alarm
        finally:
            self._asleep_until = -math.inf
            if timer is not None:
                timer.cancel()

    def _wake_if_nearer(self) -> None:
        if self._asleep_until > -math.inf and self._next_event() < self._asleep_until:
            self._wake()

    def _wake(self, reached: float = -math.inf) -> None:
        self._asleep_until = -math.inf
        if self._alarm is not None and not self._alarm.done():
            self._alarm.set_result(reached)
