"""Checks the status of all tasks of a session, and gives each task its result or error.

The pure :class:`PollSchedule` decides which task to check, and when. The poller has the clock and makes the calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import Any

import attrs

from qwen_edit_async.errors import (
    APIResponseError,
    APIStatusError,
    DeadlineExceededError,
    EditCancelledError,
    EditFailedError,
    NotFoundError,
    QwenEditError,
    RateLimitError,
    SessionClosedError,
)
from qwen_edit_async.events import EditChecked, EditEnded, EditEvent, EditThrottled
from qwen_edit_async.log import about
from qwen_edit_async.scheduling.retry import CallFailure
from qwen_edit_async.scheduling.schedule import PollSchedule
from qwen_edit_async.session.cancellations import Cancellations
from qwen_edit_async.session.parts import SessionParts
from qwen_edit_async.session.results import EditResult, ResultStore, result_or_error
from qwen_edit_async.session.task import ActiveCalls, EditTask
from qwen_edit_async.tasks import TaskSnapshot, TaskStatus

MAX_CONCURRENT_CHECKS = 64
"""The maximum number of concurrent status checks, not counting slow checks."""

SLOW_AFTER = 5.0
"""Seconds after which a check without a reply is slow."""

MAX_OPEN_CHECKS = 512
"""The maximum number of concurrent status checks, including slow checks.

Each check needs a connection, and many systems allow a process only 1024 open files.
"""

_MAX_GIVEN_UP = 10_000
"""The maximum number of ids of given-up tasks to keep, so that a session can run for months in bounded memory."""

_MAX_LOGGED_WORDS = 20
_SHOWN_CHARACTERS = 80


class Poller:
    """Checks the status of all tasks of a session. The gate's pauses and learned request rate apply to the checks too.

    Attributes:
        over: Whether the session's host task has stopped polling. The policy is then no longer called.
    """

    def __init__(self, parts: SessionParts, store: ResultStore) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.active_calls: ActiveCalls = ActiveCalls()
        self.over: bool = False
        self._parts = parts
        self._pacer = parts.gate.pacer
        self._schedule: PollSchedule[EditTask] = PollSchedule(parts.options.polling, parts.options.poll_rate)
        self._counters = parts.counters
        self._store = store
        self._open_checks = 0
        # The start times of the checks that count against MAX_CONCURRENT_CHECKS, oldest first.
        self._being_checked: dict[EditTask, float] = {}
        self._alarm: asyncio.Future[float] | None = None
        self._asleep_until = -math.inf
        self._policy_error: Exception | None = None
        self._unfinished: dict[str, EditTask] = {}
        self._given_up: dict[str, None] = {}
        self.cancellations: Cancellations = Cancellations(parts, self._given_up)
        self._logged_words: set[str] = set()

    def __len__(self) -> int:
        return len(self._schedule)

    @property
    def unfinished(self) -> tuple[str, ...]:
        """The ids of watched and given-up tasks, and of tasks whose results were not delivered."""
        return (*self._given_up, *self._unfinished)

    def attach(self, task_id: str, seconds: float) -> EditTask:
        """Watch a task for at most ``seconds``, and return it. A task that is already watched is unchanged."""
        if (watched := self._unfinished.get(task_id)) is not None:
            return watched
        now, snapshot = self.loop.time(), TaskSnapshot(task_id=task_id, status=TaskStatus.UNKNOWN)
        task = EditTask(
            task_id=task_id, since=now, attached=True, deadline=now + seconds, snapshot=snapshot, poller=self
        )
        self.watch(task)
        return task

    def watch(self, task: EditTask) -> None:
        """Begin to watch a task."""
        self._given_up.pop(task.task_id, None)
        self._unfinished[task.task_id] = task
        if task.snapshot.status.terminal and not task.snapshot.lacks_pictures:
            self._end(task, task.snapshot)
            return
        try:
            self._schedule.add(task, self.loop.time())
        except Exception as error:  # noqa: BLE001  # a user's policy may raise anything
            self._crash(error)
        else:
            self._wake_if_nearer()

    def give_up(self, task: EditTask, error: Exception) -> None:
        """Stop watching a task. Its waiters get the error."""
        try:
            if not self.over:
                self._schedule.remove(task, self.loop.time())
        except Exception as policy_error:  # noqa: BLE001  # a user's policy may raise anything
            self._crash(policy_error)
        self._schedule.discard(task)
        if isinstance(error, EditCancelledError):
            self._cancel_at_service(task)
        self._end(task, error)

    def cancel_all(self) -> None:
        """Ask the service to cancel all watched tasks that are ``owned``; see :class:`EditTask`."""
        for task in self._schedule.tasks:
            self._cancel_at_service(task)

    def give_up_all(self, error: Exception | None = None) -> None:
        """Stop watching all tasks. Their waiters get the error, by default the error of a closed session."""
        for task in list(self._schedule.tasks):
            self.give_up(task, self.closed_error(task.task_id) if error is None else error)

    def remember_orphan(self, snapshot: TaskSnapshot, *, owned: bool) -> None:
        """Remember a task whose id arrived after its submission was given up, or after the session had ended.

        If the task is ``owned``, ask the service to cancel it.
        """
        self._remember_id(snapshot.task_id)
        if owned:
            self.cancellations.ask(snapshot)
        way = self.way_back(snapshot.task_id) if owned else "its observer, such as a journal, has its id"
        text = "a submission that nobody waits for any more created task %s: %s"
        about(snapshot.task_id).warning(text, snapshot.task_id, way)

    def remember_unclaimed(self, task_id: str) -> None:
        """Remember a task whose result nobody fetched."""
        self._remember_id(task_id)
        about(task_id).warning("nobody fetched the result of task %s: %s", task_id, self.way_back(task_id))

    async def run(self) -> None:
        """Check the tasks that are due, and sleep until the next task is due. Repeat until cancelled."""
        async with asyncio.TaskGroup() as checks:
            now = self.loop.time()
            while True:
                self._end_expired(now)
                while (due := self._take_due(now)) is not None:
                    checks.create_task(self._check(due, now), context=due.context)
                # A timer may fire slightly early. Then use the time for which the timer was set.
                now = max(await self._sleep(self._next_event()), self.loop.time())

    def _end_expired(self, now: float) -> None:
        """End the tasks that the schedule gives up."""
        while (expired := self._schedule.take_expired(now)) is not None:
            completed = expired.snapshot.lacks_pictures
            self._end(expired, expired.snapshot if completed else self._deadline_error(expired, now))

    def _take_due(self, now: float) -> EditTask | None:
        """Return the task to check now, if any."""
        if now < self._check_at:
            return None
        task = self._schedule.take_due(now)
        if task is not None:
            if len(self._being_checked) >= MAX_CONCURRENT_CHECKS:
                del self._being_checked[next(iter(self._being_checked))]  # this check is slow; see `_check_at`
            self._being_checked.setdefault(task, now)  # at its deadline, a task may have two checks at a time
            self._open_checks += 1
            self._pacer.sent(now, check=True)
        return task

    async def fetch_status(self, task: TaskSnapshot) -> TaskSnapshot:
        """Check the status of a task, in one attempt. If the result needs a second call, wait for its turn."""
        protocol, transport = self._parts.protocol, self._parts.transport
        snapshot = protocol.read_status(await transport.send(protocol.status_check(task)), task)
        if (call := protocol.result_call(snapshot)) is None:
            return snapshot
        # A gate that a refused submission closed must not end the checks of paid tasks.
        with contextlib.suppress(APIStatusError):
            await self._parts.gate.wait_turn()
        try:
            return protocol.read_status(await transport.send(call), snapshot)
        except NotFoundError as error:  # the status has just proved that the task exists
            raise APIResponseError(f"the result is not available yet: {error}", task_id=task.task_id) from error

    async def _check(self, task: EditTask, sent_at: float) -> None:
        try:
            snapshot = await self.fetch_status(task.snapshot)
        except QwenEditError as error:
            self._failed(task, error, sent_at)
        else:
            self._answered(task, snapshot, sent_at)
        finally:
            self._open_checks -= 1
            self._being_checked.pop(task, None)
        self._wake_if_nearer()

    def _answered(self, task: EditTask, snapshot: TaskSnapshot, sent_at: float) -> None:
        self._parts.check_answered()
        if snapshot.status is TaskStatus.UNKNOWN:
            self._log_unknown(snapshot)
        if self._schedule.answered(task, snapshot, sent_at, self.loop.time()):
            self._end(task, snapshot)
        elif not task.done() and snapshot != task.snapshot:
            # Irrelevant members of `raw`, such as the time of the reply, may change with each check.
            is_change = attrs.evolve(snapshot, raw=task.snapshot.raw) != task.snapshot
            task.update(snapshot)
            if is_change:
                self._report_event(task, EditChecked, snapshot=snapshot)

    def _failed(self, task: EditTask, error: QwenEditError, sent_at: float) -> None:
        self._parts.check_failed(error, sent_at)
        if isinstance(error, RateLimitError) and not task.done():
            self._report_event(task, EditThrottled, error=error)
        about(task.task_id).info("check of task %s failed: %s", task.task_id, error)
        match self._schedule.failed(task, error, sent_at, self.loop.time(), self._parts.options.random.random()):
            case CallFailure.ENDS_CALL:
                self._end(task, error)
            case CallFailure.ENDS_SESSION:  # every check would fail like this one
                self._parts.gate.close(error)
                for each in list(self._schedule.tasks):
                    self.give_up(each, error.for_task(each.task_id))

    def _end(self, task: EditTask, end: TaskSnapshot | Exception) -> None:
        """End the wait for a task that is no longer in the schedule, unless the wait has already ended."""
        if task.done():
            return
        if self._unfinished.get(task.task_id) is task:  # a service may give the same id to two submissions
            del self._unfinished[task.task_id]
        timings, cost = task.timings(self.loop.time(), ended=isinstance(end, TaskSnapshot)), None
        if isinstance(end, TaskSnapshot):
            task.snapshot, cost = end, end.usage.cost
            outcome: EditResult | Exception = result_or_error(
                end, timings, self._store, request=task.request, notes=task.notes
            )
        else:
            outcome = end
        error = outcome if isinstance(outcome, Exception) else None
        if error is None:
            self._counters.completed += 1
        elif isinstance(error, EditCancelledError):
            self._counters.cancelled += 1
        else:
            self._counters.failed += 1
        if error is not None and not isinstance(error, EditFailedError):
            self._remember_id(task.task_id)
        self._counters.running += timings.running
        self._counters.cost += cost or 0
        task.set_outcome(outcome)
        self._report_event(task, EditEnded, timings=timings, cost=cost, error=error)

    def _report_event(self, task: EditTask, kind: type[EditEvent], **facts: Any) -> None:
        """Report an event in the context of the caller who submitted or attached the task."""
        if self._parts.options.on_event is not None:
            # A copy, because a context can't be entered again while a check runs in it.
            task.context.copy().run(self._parts.tell, kind, request=task.request, task_id=task.task_id, **facts)

    def _cancel_at_service(self, task: EditTask) -> None:
        if task.owned:
            task.context.copy().run(self.cancellations.ask, task.snapshot)

    def _remember_id(self, task_id: str) -> None:
        """Keep the id of a given-up task. If there are too many ids, log the oldest and forget it."""
        self._given_up[task_id] = None
        if len(self._given_up) > _MAX_GIVEN_UP:
            oldest = next(iter(self._given_up))
            del self._given_up[oldest]
            about(oldest).warning("`unfinished` no longer lists task %s: %s", oldest, self.way_back(oldest))

    def way_back(self, task_id: str) -> str:
        """Return a clause that says how to get the result of a given-up task."""
        if self._parts.protocol.has_tasks:
            return f"session.attach({task_id!r}) gets its result"
        return "this protocol can't get its result again"

    def closed_error(self, task_id: str) -> SessionClosedError:
        """Return the error for a task whose session was closed before the task ended."""
        return SessionClosedError(
            f"the session was closed before task {task_id} ended",
            hint=("in a new session, " if self._parts.protocol.has_tasks else "") + self.way_back(task_id),
            task_id=task_id,
        )

    def _log_unknown(self, snapshot: TaskSnapshot) -> None:
        word = snapshot.status_word[:_SHOWN_CHARACTERS]
        if word not in self._logged_words and len(self._logged_words) < _MAX_LOGGED_WORDS:
            self._logged_words.add(word)
            about(snapshot.task_id).warning(
                "task %s has the unknown status %r: it counts as running", snapshot.task_id, word
            )

    def _deadline_error(self, task: EditTask, now: float) -> DeadlineExceededError:
        withheld = "; the service requested a pause before the next check" if now < self._pacer.resume_at else ""
        odd_word = task.snapshot.status_word[:_SHOWN_CHARACTERS] if task.status is TaskStatus.UNKNOWN else ""
        word = f"; the last reply had the unknown status {odd_word!r}" if odd_word else ""
        last = f"; the last check failed: {task.last_failure}" if task.failures else ""
        error = DeadlineExceededError(
            f"the deadline passed before a check found that task {task.task_id} had ended "
            f"(checks answered: {task.checks}{word}{withheld}){last}",
            hint=f"the task may run on: session.attach({task.task_id!r}) waits for it again",
            summary="the deadline passed before a check found that the task had ended",
            task_id=task.task_id,
        )
        error.__cause__ = task.last_failure if task.failures else None
        return error

    @property
    def _check_at(self) -> float:
        """The earliest time of the next check; infinity if a check must first end."""
        if self._open_checks >= MAX_OPEN_CHECKS:
            return math.inf
        if len(self._being_checked) < MAX_CONCURRENT_CHECKS:
            return self._pacer.check_at
        return max(self._pacer.check_at, next(iter(self._being_checked.values())) + SLOW_AFTER)

    def _next_event(self) -> float:
        return self._schedule.next_event(checks_from=self._check_at)

    async def _sleep(self, until: float) -> float:
        """Sleep until the time ``until``, and return it. If earlier work arrives, return ``-math.inf`` at once."""
        self._alarm = self.loop.create_future()
        self._asleep_until = until
        timer = self.loop.call_at(until, self._wake, until) if until < math.inf else None
        try:
            reached = await self._alarm if self._policy_error is None else until
        finally:
            self._asleep_until = -math.inf
            if timer is not None:
                timer.cancel()
        if self._policy_error is not None:
            raise self._policy_error
        return reached

    def _wake_if_nearer(self) -> None:
        if self._asleep_until > -math.inf and self._next_event() < self._asleep_until:
            self._wake()

    def _wake(self, reached: float = -math.inf) -> None:
        self._asleep_until = -math.inf
        if self._alarm is not None and not self._alarm.done():
            self._alarm.set_result(reached)

    def _crash(self, error: Exception) -> None:
        """End :meth:`run`, and so the session, with the error of a user's policy."""
        self._policy_error = self._policy_error or error
        self._wake()  # not `set_exception`, because a future refuses StopIteration, which a policy may raise
