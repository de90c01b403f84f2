"""Decides which task to check, and when. Pure: no I/O, no clock, no randomness of its own.

The methods only update the schedule: the poller makes the checks and reports the replies. Adding, removing or taking a
task costs O(log n).

At its deadline, a task is due for a last check, which goes before all other checks. The task is given up if this check
finds it running, or if no reply arrives within a grace period. If a pause that the service requested outlasts the grace
period, the task is given up without a last check.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Collection
from typing import Generic, TypeVar

import attrs

from qwen_edit_async.errors import QwenEditError
from qwen_edit_async.models import EditParameters
from qwen_edit_async.scheduling.limiter import CheckLimiter
from qwen_edit_async.scheduling.policies import PollPolicy
from qwen_edit_async.scheduling.retry import CallFailure, RetryPolicy, judge_check
from qwen_edit_async.tasks import TaskSnapshot, TaskStatus

UNKNOWN_TASK_GRACE = 15.0
"""Seconds after a submission during which a check that fails with 404 is retried."""

CHECK_RETRY = RetryPolicy(initial=1.0, maximum=30.0)
"""Delays after failed checks. The deadline limits the number of retries."""

PICTURES_GRACE = 60.0
"""Seconds during which a completed task without pictures is checked again. Some services add the pictures later."""

LAST_CHECK_RETRY = RetryPolicy(initial=1.0, maximum=4.0)
"""Delays after failed checks once the deadline has passed."""

LAST_CHECK_GRACE = 30.0
"""Seconds to wait for the reply to the last check. A machine that wakes from sleep may need this time to reconnect."""

_MIN_INTERVAL = 0.01
_PICTURES_INTERVAL = 1.0
_COMPACT_ABOVE = 64
_MOVED_PER_CHECK = 64

T = TypeVar("T")


class DueHeap(Generic[T]):
    """A heap of items, ordered by the time at which each item is due.

    The old time of a discarded or rescheduled item stays in the heap until it comes first, or the heap is compacted.
    A discarded item is freed at once.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._items: dict[int, T] = {}
        self._serial_of: dict[T, int] = {}
        self._serials = itertools.count()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T, due: float) -> None:
        """Add an item, or change its time."""
        self.discard(item)
        serial = next(self._serials)
        self._serial_of[item] = serial
        self._items[serial] = item
        heapq.heappush(self._heap, (due, serial))
        if len(self._heap) > 2 * len(self._items) + _COMPACT_ABOVE:
            self._heap = [entry for entry in self._heap if entry[1] in self._items]
            heapq.heapify(self._heap)

    def discard(self, item: T) -> None:
        """Remove an item if the heap has it."""
        if (serial := self._serial_of.pop(item, None)) is not None:
            del self._items[serial]

    def next_due(self) -> float:
        """Return the earliest time, or infinity if there is no item."""
        while self._heap and self._heap[0][1] not in self._items:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def pop_due(self, now: float) -> T | None:
        """Remove and return the item with the earliest time, if it is due."""
        if self.next_due() > now:
            return None
        item = self._items.pop(heapq.heappop(self._heap)[1])
        del self._serial_of[item]
        return item


@attrs.define(kw_only=True, eq=False)
class ScheduledTask:
    """A :class:`PolledTask` with the facts that decide when to check the task and when to give it up.

    Attributes:
        deadline: The time when the last check is due.
        failures: The number of checks that have failed since the last answered check.
        failed_checks: The number of all failed checks.
        last_failure: The error of the newest failed check.
        gives_up_at: The time to stop waiting for the reply to the last check; infinity until the deadline has passed.
        pictureless_at: The time when the task was first found completed without pictures; infinity if it never was.
    """

    task_id: str
    parameters: EditParameters | None = None
    since: float
    attached: bool = False
    deadline: float = math.inf
    started_at: float = attrs.field(init=False)
    checked_at: float = attrs.field(init=False)
    checks: int = attrs.field(default=0, init=False)
    progress: float | None = attrs.field(default=None, init=False)
    previous_at: float = attrs.field(init=False)
    previous_progress: float | None = attrs.field(default=None, init=False)
    failures: int = attrs.field(default=0, init=False)
    failed_checks: int = attrs.field(default=0, init=False)
    last_failure: QwenEditError | None = attrs.field(default=None, init=False)
    gives_up_at: float = attrs.field(default=math.inf, init=False)
    pictureless_at: float = attrs.field(default=math.inf, init=False)

    def __attrs_post_init__(self) -> None:
        self.started_at = self.checked_at = self.previous_at = self.since

    def found_running(self, sent_at: float, progress: float | None, *, queued: bool = False) -> None:
        """Record that a check sent at ``sent_at`` found the task running, or still queued."""
        if queued:
            self.started_at = sent_at
        self.previous_at, self.previous_progress = self.checked_at, self.progress
        self.checked_at = sent_at
        if progress is not None:
            self.progress = progress


W = TypeVar("W", bound=ScheduledTask)


class PollSchedule(Generic[W]):
    """The schedule of checks for all tasks that a session waits for.

    Args:
        policy: Decides when to check a task.
        poll_rate: The maximum number of checks per second. If it is set, due tasks wait in a :class:`CheckLimiter`.
    """

    def __init__(self, policy: PollPolicy, poll_rate: float | None = None) -> None:
        self._policy = policy
        self._limiter: CheckLimiter[W] | None = None
        if poll_rate is not None:
            self._limiter = CheckLimiter(poll_rate, getattr(policy, "likelihood", None))
        self._last_turn = -math.inf
        self._checks: DueHeap[W] = DueHeap()
        self._deadlines: DueHeap[W] = DueHeap()
        self._tasks: dict[W, None] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def tasks(self) -> Collection[W]:
        """All tasks that were added and not removed."""
        return self._tasks.keys()

    def add(self, task: W, now: float) -> None:
        """Start watching a task. A task that was submitted elsewhere is due at once."""
        self._tasks[task] = None
        self._deadlines.put(task, task.deadline)
        self._put(task, now if task.attached else self._policy.next_check(task, now))

    def remove(self, task: W, now: float, *, completed: bool = False) -> bool:
        """Stop watching a task, and return whether it was watched."""
        if task not in self._tasks:
            return False
        # The policy may raise. The session then gives up all scheduled tasks, so this task must still be among them.
        self._policy.ended(task, now, completed=completed)
        self.discard(task)
        return True

    def discard(self, task: W) -> None:
        """Stop watching a task, if it is watched, without reporting it to the policy."""
        self._tasks.pop(task, None)
        self._checks.discard(task)
        self._deadlines.discard(task)
        if self._limiter is not None:
            self._limiter.discard(task)

    def take_due(self, now: float) -> W | None:
        """Return the task to check now, if there is one. The caller must then report the reply or the failure.

        Tasks whose deadline has just passed go first. Among the other due tasks, the limiter chooses. Without a
        ``poll_rate``, there is no limiter, and the task that has been due for longest goes first.
        """
        limiter = self._limiter
        if limiter is None:
            return self._checks.pop_due(now)
        if now < limiter.ready_at:
            return None
        if (late := self._checks.pop_due(-math.inf)) is not None:
            limiter.spend(now)
            return late
        for _ in range(_MOVED_PER_CHECK):  # limited, so that a call stays fast if all tasks are due after a pause
            if (waiting := self._checks.pop_due(now)) is None:
                break
            limiter.add(waiting, now)
        return limiter.take(now)

    def take_expired(self, now: float) -> W | None:
        """Stop watching a task that must be given up, and return it.

        A task whose deadline has just passed is not given up yet. Instead, its last check becomes due.
        """
        while (task := self._deadlines.pop_due(now)) is not None:
            if task.gives_up_at <= now:
                self.remove(task, now)
                return task
            turn = now
            if self._limiter is not None:
                turn = self._last_turn = max(now, self._last_turn) + self._limiter.seconds
                self._limiter.discard(task)
            task.gives_up_at = turn + LAST_CHECK_GRACE
            self._deadlines.put(task, task.gives_up_at)
            self._checks.put(task, -math.inf)
        return None

    def next_event(self, *, checks_from: float = -math.inf) -> float:
        """Return the time of the next check or deadline; infinity if none. No check starts before ``checks_from``."""
        check, limiter = self._checks.next_due(), self._limiter
        if limiter is not None:
            check = max(limiter.ready_at, -math.inf if limiter else check)
        return min(self._deadlines.next_due(), max(check, checks_from))

    def answered(self, task: W, snapshot: TaskSnapshot, sent_at: float, now: float) -> bool:
        """Record the reply to a check that was sent at ``sent_at``. Return whether the task has ended."""
        if task not in self._tasks:
            return False
        task.checks += 1
        task.failures = 0
        if snapshot.lacks_pictures:
            task.pictureless_at = min(task.pictureless_at, now)
        if snapshot.status.terminal and not (snapshot.lacks_pictures and now < task.pictureless_at + PICTURES_GRACE):
            return self.remove(task, now, completed=snapshot.status is TaskStatus.COMPLETED)
        task.found_running(sent_at, snapshot.progress, queued=snapshot.status is TaskStatus.QUEUED)
        due = self._next_check(task, snapshot, now)
        if sent_at >= task.deadline:
            task.gives_up_at = now
            self._deadlines.put(task, now)
        elif task.gives_up_at == math.inf:
            self._put(task, due)
        return False

    def _next_check(self, task: W, snapshot: TaskSnapshot, now: float) -> float:
        if snapshot.lacks_pictures:  # policy.next_check() would learn that the edit was still running
            waited = now - task.pictureless_at
            return min(now + max(_PICTURES_INTERVAL, waited), task.pictureless_at + PICTURES_GRACE)
        return max(self._policy.next_check(task, now), now + _MIN_INTERVAL)

    def failed(self, task: W, error: QwenEditError, sent_at: float, now: float, draw: float) -> CallFailure:
        """Record the failure of a check that was sent at ``sent_at``. ``draw`` is a random number from 0 to 1.

        The task is checked again, unless all further checks of this task or all calls of the session would fail too.
        """
        in_grace = not task.attached and task.checks == 0 and now < task.since + UNKNOWN_TASK_GRACE
        failure = judge_check(error, in_grace=in_grace, attached=task.attached)
        if task not in self._tasks:
            return CallFailure.REFUSED if failure is CallFailure.ENDS_CALL else failure
        if failure is CallFailure.ENDS_CALL:
            self.remove(task, now)
        elif failure is not CallFailure.ENDS_SESSION:
            task.failures += 1
            task.failed_checks += 1
            task.last_failure = error
            if sent_at >= task.deadline:
                self._checks.put(task, now + LAST_CHECK_RETRY.delay(task.failures, draw))
            elif task.gives_up_at == math.inf:
                self._put(task, now + CHECK_RETRY.delay(task.failures, draw))
        return failure

    def _put(self, task: W, due: float) -> None:
        """Schedule a check, but not after the deadline."""
        self._checks.put(task, min(task.deadline, due))  # if a policy returns NaN, `min` returns the deadline
