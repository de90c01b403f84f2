"""Which task is checked when: the poller's state, without its I/O. Pure: no clock, no randomness of its own.

Every method changes the state at once and returns the work that follows from it; the poller does that work. Adding,
removing and taking cost O(log n) each.
"""

from __future__ import annotations

import heapq
import itertools
import math
from typing import Generic, TypeVar

import attrs

from qwen_edit_async.errors import QwenEditError
from qwen_edit_async.models import TaskSnapshot, TaskStatus
from qwen_edit_async.scheduling.budget import PollBudget
from qwen_edit_async.scheduling.policies import PolledTask, PollPolicy, RankingPolicy
from qwen_edit_async.scheduling.retry import Failure, RetryPolicy, judge_check

UNKNOWN_TASK_GRACE = 15.0
"""Seconds after its submission in which a task that the service does not know (404) is asked for again."""

CHECK_RETRY = RetryPolicy(initial=1.0, maximum=30.0)
"""Delays between failing checks; how often is for the deadline to say."""

PICTURES_GRACE = 60.0
"""Seconds in which a task that is completed without pictures is asked for again: some services name them later."""

OVERTIME = 30.0
"""Seconds for a last check, again if it fails, of a task whose deadline passed while the event loop stood still: after
a suspension the network takes a while to come back."""

_LAST_CHECK_LEAD = 0.5
_TURNS_OF_LAST_CHECK = 2
"""Under a ceiling a last check may have to wait for its turn: so many, since it gets every second at least."""

_BACKLOG = 0.1
"""Seconds that a check is late by where more are due than can be made: from then on last checks go before others."""

_MIN_INTERVAL = 0.01
_PICTURES_INTERVAL = 1.0
_COMPACT_ABOVE = 64
_MOVED_PER_CHECK = 64

T = TypeVar("T")


class DueHeap(Generic[T]):
    """Items with the time at which each is due; an item has one time at most.

    What was changed or discarded leaves its time in the heap until that comes up, or the heap is tidied, but no item.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._items: dict[int, T] = {}
        self._serial_of: dict[T, int] = {}
        self._serials = itertools.count()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T, due: float) -> None:
        """Set the time of an item, new or not."""
        self.discard(item)
        serial = next(self._serials)
        self._serial_of[item] = serial
        self._items[serial] = item
        heapq.heappush(self._heap, (due, serial))
        if len(self._heap) > 2 * len(self._items) + _COMPACT_ABOVE:
            self._heap = [entry for entry in self._heap if entry[1] in self._items]
            heapq.heapify(self._heap)

    def discard(self, item: T) -> None:
        """Forget an item, if it is there."""
        if (serial := self._serial_of.pop(item, None)) is not None:
            del self._items[serial]

    def next_due(self) -> float:
        """The earliest time, infinity if there is no item."""
        while self._heap and self._heap[0][1] not in self._items:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def first_due(self, now: float) -> T | None:
        """The item that is due first, if one is due."""
        return self._items[self._heap[0][1]] if self.next_due() <= now else None

    def pop_due(self, now: float) -> T | None:
        """Take out the item that is due first, if one is due."""
        if self.next_due() > now:
            return None
        item = self._items.pop(heapq.heappop(self._heap)[1])
        del self._serial_of[item]
        return item


@attrs.define(kw_only=True, eq=False)
class WatchedTask(PolledTask):
    """A task in the schedule.

    Attributes:
        deadline: When to give up waiting.
        due_at: When the next check is due; infinity while one is under way.
        taken_at: When the last check was taken up, answered or not; equals ``since`` before the first.
        failures: Checks that failed in a row.
        failed_checks: Checks that failed at all.
        last_failure: The last of them, told if the deadline passes.
        excused_at: When the event loop was found to have slept through the deadline.
        pictureless_at: When it was first found to be completed without pictures.
        odd_word: The service's last word for it, if that is unknown, or "completed" without pictures.
    """

    deadline: float = math.inf
    due_at: float = math.inf
    taken_at: float = attrs.field(default=attrs.Factory(lambda self: self.since, takes_self=True))
    failures: int = 0
    failed_checks: int = 0
    last_failure: QwenEditError | None = None
    excused_at: float = math.inf
    pictureless_at: float = math.inf
    odd_word: str = ""


W = TypeVar("W", bound=WatchedTask)


class PollSchedule(Generic[W]):
    """All tasks of a session that are waited for.

    A task is either due for a check at some time or being checked; its deadline runs all the while. Under a ceiling for
    the checks a second, and when checks are late without one, tasks that are due wait in a :class:`PollBudget`.
    """

    def __init__(self, policy: PollPolicy, poll_rate: float | None = None) -> None:
        self._policy = policy
        likelihood = policy.likelihood if isinstance(policy, RankingPolicy) else None
        rate = poll_rate if poll_rate is not None else math.inf
        self._unlimited = poll_rate is None
        self._budget: PollBudget[W] = PollBudget(rate, likelihood)
        self._turns = _TURNS_OF_LAST_CHECK / rate
        self._last_checks: DueHeap[W] = DueHeap()
        self._checks: DueHeap[W] = DueHeap()
        self._deadlines: DueHeap[W] = DueHeap()
        self._tasks: set[W] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, task: W, now: float) -> None:
        """Begin to watch a task; one that was submitted elsewhere is due at once."""
        self._tasks.add(task)
        self._deadlines.put(task, task.deadline)
        self._put(task, now if task.attached else self._policy.next_check(task, now))

    def remove(self, task: W, now: float, *, completed: bool = False) -> bool:
        """Cease to watch a task; whether it was watched."""
        if task not in self._tasks:
            return False
        self._tasks.discard(task)
        self._checks.discard(task)
        self._deadlines.discard(task)
        self._budget.discard(task)
        self._last_checks.discard(task)
        self._policy.ended(task, now, completed=completed)
        return True

    def take_due(self, now: float) -> W | None:
        """The task to check now; it counts as being checked until an answer or failure is told.

        It is the one whose check is due first. Under a ceiling it is the one that the budget is best spent on, or one
        that waits for its last check before its deadline, the nearest deadline first; so it is when checks are late.
        """
        if self._unlimited and not self._budget and now < self._checks.next_due() + _BACKLOG:
            task = self._checks.pop_due(now)
        else:
            task = self._take_waiting(now)
        if task is not None:
            task.taken_at, task.due_at = now, math.inf
            if task.excused_at <= now and task.deadline == math.inf:
                task.deadline = now + OVERTIME
                self._deadlines.put(task, task.deadline)
        return task

    def _take_waiting(self, now: float) -> W | None:
        # A few at a time: after a pause all may be due at once.
        for _ in range(_MOVED_PER_CHECK):
            if (waiting := self._checks.pop_due(now)) is None:
                break
            self._budget.add(waiting, now)
            if waiting.taken_at < (last := self._last_check_at(waiting)):
                self._last_checks.put(waiting, last)
        task = self._budget.take(now, self._last_checks.first_due(now))
        if task is not None:
            self._last_checks.discard(task)
            self._checks.discard(task)  # it was excused while it waited
        return task

    def take_expired(self, now: float) -> W | None:
        """A task whose deadline has passed; it is no longer watched."""
        task = self._deadlines.pop_due(now)
        if task is not None:
            self.remove(task, now)
        return task

    def excuse(self, now: float) -> None:
        """The event loop stood still until now: check once more what should have been given up meanwhile."""
        while (task := self._deadlines.pop_due(now)) is not None:
            task.excused_at, task.deadline = now, math.inf
            self._put(task, now)

    def next_event(self, *, checks_from: float = -math.inf) -> float:
        """When there is something to do next, infinity for never; no check starts before ``checks_from``."""
        check = max(self._budget.ready_at, -math.inf if self._budget else self._checks.next_due())
        return min(self._deadlines.next_due(), max(check, checks_from))

    def answered(self, task: W, snapshot: TaskSnapshot, sent_at: float, now: float) -> bool:
        """Take in the answer to a check that was sent at ``sent_at``; whether the wait is over with it."""
        if task not in self._tasks:
            return False
        task.checks += 1
        task.failures = 0
        odd = snapshot.lacks_pictures or snapshot.status is TaskStatus.UNKNOWN
        task.odd_word = snapshot.status_word if odd else ""
        if snapshot.lacks_pictures:
            task.pictureless_at = min(task.pictureless_at, now)
        pictures_by = task.pictureless_at + PICTURES_GRACE
        if snapshot.status.terminal and not (snapshot.lacks_pictures and now < pictures_by):
            return self.remove(task, now, completed=snapshot.status is TaskStatus.COMPLETED)
        task.found_running(sent_at, snapshot.progress)
        if sent_at >= task.excused_at:
            self._deadlines.put(task, now)
        if snapshot.lacks_pictures:  # the policy would learn from it that edits take longer
            due = min(now + max(_PICTURES_INTERVAL, now - task.pictureless_at), pictures_by)
        else:
            due = max(self._policy.next_check(task, now), now + _MIN_INTERVAL)
        self._put(task, due)
        return False

    def failed(self, task: W, error: QwenEditError, now: float, draw: float) -> Failure:
        """Take in the failure of a check: what it means; unless that is final or fatal the task is checked again.

        Args:
            task: The task that was checked.
            error: What went wrong.
            now: The event loop's time.
            draw: A random number from 0 to 1.
        """
        in_grace = not task.attached and task.checks == 0 and now < task.since + UNKNOWN_TASK_GRACE
        verdict = judge_check(error, in_grace=in_grace, attached=task.attached)
        if task not in self._tasks:
            return Failure.REFUSED if verdict is Failure.FINAL else verdict
        if verdict is Failure.FINAL:
            self.remove(task, now)
        elif verdict is not Failure.FATAL:
            task.failures += 1
            task.failed_checks += 1
            task.last_failure = error
            self._put(task, now + CHECK_RETRY.delay(task.failures, draw))
        return verdict

    def _put(self, task: W, due: float) -> None:
        """Schedule a check; one that would come too late is made just before the deadline, once."""
        last = self._last_check_at(task)
        # "not", so that what is no number counts as too late
        if not due < task.deadline - self._turns and task.taken_at < last:
            due = last
        task.due_at = math.inf if math.isnan(due) else due
        self._checks.put(task, task.due_at)

    def _last_check_at(self, task: W) -> float:
        return task.deadline - self._turns - _LAST_CHECK_LEAD
