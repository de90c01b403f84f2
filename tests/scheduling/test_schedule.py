"""The poller's state against a naive model: whatever happens in whatever order, no task is lost or checked twice."""

from __future__ import annotations

import math
import weakref
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from qwen_edit_async.errors import (
    APIConnectionError,
    APIResponseError,
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    NotFoundError,
    QwenEditError,
    RateLimitError,
)
from qwen_edit_async.scheduling.policies import FixedInterval, PolledTask
from qwen_edit_async.scheduling.retry import CallFailure
from qwen_edit_async.scheduling.schedule import (
    CHECK_RETRY,
    LAST_CHECK_GRACE,
    PICTURES_GRACE,
    DueHeap,
    PollSchedule,
    ScheduledTask,
)
from qwen_edit_async.tasks import TaskFailure, TaskSnapshot, TaskStatus

RUNNING = TaskSnapshot(task_id="t", status=TaskStatus.IN_PROGRESS)
COMPLETED = TaskSnapshot(task_id="t", status=TaskStatus.COMPLETED, urls=("https://r/1",))
PICTURELESS = TaskSnapshot(task_id="t", status=TaskStatus.COMPLETED)
FAILED = TaskSnapshot(task_id="t", status=TaskStatus.FAILED, failure=TaskFailure(message="no"))


@attrs.define
class ScriptedPolicy:
    """Does what the test said last, and records what it is told."""

    delay: float = 1.0
    asked: list[tuple[PolledTask, float]] = attrs.field(factory=list)
    ends: list[tuple[PolledTask, float, bool]] = attrs.field(factory=list)

    def next_check(self, task: PolledTask, now: float) -> float:
        self.asked.append((task, now))
        return now + self.delay

    def ended(self, task: PolledTask, now: float, *, completed: bool) -> None:
        self.ends.append((task, now, completed))


def scheduled(delay: float = 1.0) -> tuple[PollSchedule[ScheduledTask], ScriptedPolicy]:
    policy = ScriptedPolicy(delay)
    return PollSchedule(policy), policy


def a_task(*, since: float = 0.0, deadline: float = math.inf, attached: bool = False) -> ScheduledTask:
    return ScheduledTask(task_id="t", since=since, deadline=deadline, attached=attached)


heap_steps = st.lists(
    st.tuples(st.just("put"), st.integers(0, 5), st.integers(0, 20))
    | st.tuples(st.just("discard"), st.integers(0, 5), st.none())
    | st.tuples(st.just("pop"), st.none(), st.integers(0, 20)),
    max_size=200,
)


@given(heap_steps)
def test_a_heap_is_a_sorted_mapping(steps: list[tuple[str, Any, Any]]) -> None:
    heap: DueHeap[int] = DueHeap()
    dues: dict[int, float] = {}
    for step, item, time in steps:
        if step == "put":
            heap.put(item, time)
            dues[item] = time
        elif step == "discard":
            heap.discard(item)
            dues.pop(item, None)
        else:
            popped = heap.pop_due(time)
            earliest = min(dues.values(), default=math.inf)
            if popped is None:
                assert earliest > time
            else:
                assert dues.pop(popped) == earliest <= time
        assert len(heap) == len(dues)
        assert heap.next_due() == min(dues.values(), default=math.inf)


def test_items_of_the_same_time_come_in_the_order_in_which_they_were_put() -> None:
    heap: DueHeap[str] = DueHeap()
    for item in "cab":
        heap.put(item, 1.0)
    assert [heap.pop_due(1.0) for _ in range(4)] == ["c", "a", "b", None]


def test_items_need_not_be_comparable() -> None:
    heap: DueHeap[object] = DueHeap()
    heap.put(object(), 1.0)
    heap.put(object(), 1.0)
    assert heap.pop_due(1.0) is not heap.pop_due(1.0)


class Time(float):
    """A time that can be referred to weakly."""


@pytest.mark.parametrize("live", [1, 10, 500])
def test_times_that_were_changed_do_not_pile_up(live: int) -> None:
    heap, times = DueHeap[int](), weakref.WeakSet[Time]()
    heap.put(-1, 0.0)  # nothing behind it is ever looked at
    for number in range(20_000):
        time = Time(number + 1)
        times.add(time)
        heap.put(number % live, time)
        assert len(times) <= 2 * (live + 1) + 64
    assert len(heap) == live + 1


def test_items_that_were_discarded_do_not_pile_up() -> None:
    heap, times = DueHeap[int](), weakref.WeakSet[Time]()
    heap.put(-1, 0.0)
    for item in range(20_000):
        time = Time(item + 1)
        times.add(time)
        heap.put(item, time)
        heap.discard(item)
        assert len(times) <= 70


@pytest.mark.parametrize("end", ["discarded", "taken", "put off"])
def test_an_item_that_left_the_heap_is_not_kept_by_it(end: str) -> None:
    heap: DueHeap[ScheduledTask] = DueHeap()
    heap.put(a_task(), 0.0)  # nothing behind it is ever looked at
    task = a_task()
    heap.put(task, 5.0)
    if end == "put off":
        heap.put(task, 6.0)
    if end == "taken":
        assert [heap.pop_due(5.0) is task for _ in range(2)] == [False, True]
    else:
        heap.discard(task)
    left = weakref.ref(task)
    del task
    assert left() is None


def test_tidying_up_loses_nothing_and_keeps_the_order() -> None:
    heap: DueHeap[int] = DueHeap()
    for _ in range(40):
        for item in range(10):
            heap.put(item, float((item * 7) % 10))
    popped = [heap.pop_due(100.0) for _ in range(11)]
    assert popped == [*sorted(range(10), key=lambda item: (item * 7) % 10), None]


ERRORS: list[tuple[QwenEditError, CallFailure, CallFailure]] = [
    (APIConnectionError("m"), CallFailure.REFUSED, CallFailure.REFUSED),
    (RateLimitError("m", status_code=429), CallFailure.THROTTLED, CallFailure.THROTTLED),
    (NotFoundError("m", status_code=404), CallFailure.REFUSED, CallFailure.ENDS_CALL),
    (AuthenticationError("m", status_code=401), CallFailure.ENDS_SESSION, CallFailure.ENDS_SESSION),
    (BadRequestError("m", status_code=400), CallFailure.ENDS_CALL, CallFailure.ENDS_CALL),
]

quarters = st.integers(0, 400).map(lambda count: count / 4)


@attrs.define(eq=False)
class Expected:
    """What the model knows of a watched task."""

    due: float | None
    """``None``: it is being checked, or every check would be refused."""
    ends_at: float
    """The deadline, and once that has passed the end of the grace for the last check."""
    answers: int = 0
    failures: int = 0


class ScheduleMachine(RuleBasedStateMachine):
    """Adds, takes, answers, fails, removes and expires tasks in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.schedule, self.policy = scheduled()
        self.watched: dict[ScheduledTask, Expected] = {}
        self.gone: list[ScheduledTask] = []
        self.checks: list[tuple[ScheduledTask, float]] = []
        self.ends: list[tuple[PolledTask, float, bool]] = []

    def set_due(self, task: ScheduledTask, due: float) -> None:
        self.watched[task].due = min(due, task.deadline)

    def drop(self, task: ScheduledTask, *, completed: bool = False) -> None:
        del self.watched[task]
        self.gone.append(task)
        self.ends.append((task, self.now, completed))

    @rule(
        delay=st.integers(-8, 80).map(lambda count: count / 4),
        lifetime=quarters | st.just(math.inf),
        attached=st.booleans(),
    )
    def add(self, delay: float, lifetime: float, *, attached: bool) -> None:
        task = a_task(since=self.now, deadline=self.now + lifetime, attached=attached)
        self.policy.delay = delay
        self.schedule.add(task, self.now)
        self.watched[task] = Expected(due=None, ends_at=task.deadline)
        self.set_due(task, self.now if attached else self.now + delay)

    @rule(seconds=quarters)
    def sleep(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.watched)
    @rule()
    def sleep_until_something_is_to_be_done(self) -> None:
        if (then := self.schedule.next_event()) < math.inf:
            self.now = max(self.now, then)

    @rule()
    def take(self) -> None:
        dues = {task: expected.due for task, expected in self.watched.items() if expected.due is not None}
        earliest = min(dues.values(), default=math.inf)
        task = self.schedule.take_due(self.now)
        if task is None:
            assert earliest > self.now
            return
        assert dues[task] == earliest <= self.now
        self.watched[task].due = None
        self.checks.append((task, self.now))

    @precondition(lambda self: self.checks)
    @rule(data=st.data(), snapshot=st.sampled_from([RUNNING, COMPLETED, FAILED]), delay=quarters | st.just(-1.0))
    def answer(self, data: st.DataObject, snapshot: TaskSnapshot, delay: float) -> None:
        task, sent_at = self.checks.pop(data.draw(st.integers(0, len(self.checks) - 1)))
        self.policy.delay = delay
        over = self.schedule.answered(task, snapshot, sent_at, self.now)
        if task not in self.watched:
            assert not over
            return
        assert over == snapshot.status.terminal
        self.watched[task].answers += 1
        self.watched[task].failures = 0
        if over:
            self.drop(task, completed=snapshot is COMPLETED)
        else:
            assert task.checked_at == sent_at
            if sent_at >= task.deadline:
                self.watched[task].ends_at = self.now
            elif self.watched[task].ends_at == task.deadline:
                self.set_due(task, max(self.now + delay, self.now + 0.01))

    @precondition(lambda self: self.checks)
    @rule(data=st.data(), failure=st.sampled_from(ERRORS), draw=st.sampled_from([0.0, 0.5, 1.0]))
    def fail(self, data: st.DataObject, failure: tuple[QwenEditError, CallFailure, CallFailure], draw: float) -> None:
        task, sent_at = self.checks.pop(data.draw(st.integers(0, len(self.checks) - 1)))
        error, in_grace, afterwards = failure
        expected = self.watched.get(task)
        young = expected is not None and not task.attached and not expected.answers and self.now < task.since + 15
        verdict = self.schedule.failed(task, error, sent_at, self.now, draw)
        if expected is None:
            assert verdict is not CallFailure.ENDS_CALL, "nobody waits to be told"
            return
        if task.attached and afterwards is CallFailure.ENDS_SESSION:
            afterwards = CallFailure.ENDS_CALL  # it may be another account's
        assert verdict is (in_grace if young else afterwards)
        if verdict is CallFailure.ENDS_CALL:
            self.drop(task)
        elif verdict is not CallFailure.ENDS_SESSION:
            expected.failures += 1
            if sent_at >= task.deadline:
                expected.due = self.now + draw * min(4.0, 2.0 ** (expected.failures - 1))
            elif expected.ends_at == task.deadline:
                self.set_due(task, self.now + draw * min(30.0, 2.0 ** (expected.failures - 1)))

    @precondition(lambda self: self.watched)
    @rule(data=st.data(), completed=st.booleans())
    def remove(self, data: st.DataObject, *, completed: bool) -> None:
        task = data.draw(st.sampled_from(list(self.watched)))
        assert self.schedule.remove(task, self.now, completed=completed)
        self.drop(task, completed=completed)

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def remove_again(self, data: st.DataObject) -> None:
        assert not self.schedule.remove(data.draw(st.sampled_from(self.gone)), self.now)

    @rule()
    def expire(self) -> None:
        over = {task for task, expected in self.watched.items() if task.gives_up_at <= self.now}
        for task, expected in self.watched.items():
            if task.gives_up_at == math.inf and task.deadline <= self.now:
                expected.due, expected.ends_at = -math.inf, self.now + LAST_CHECK_GRACE
        expired = []
        while (task := self.schedule.take_expired(self.now)) is not None:
            expired.append(task)
            self.drop(task)
        assert set(expired) == over

    @invariant()
    def nothing_is_lost(self) -> None:
        assert len(self.schedule) == len(self.watched)
        assert self.policy.ends == self.ends

    @invariant()
    def the_next_event_is_the_earliest_check_or_end(self) -> None:
        dues = [expected.due for expected in self.watched.values() if expected.due is not None]
        earliest = min(dues, default=math.inf)
        deadline = min((expected.ends_at for expected in self.watched.values()), default=math.inf)
        assert max(self.now, self.schedule.next_event()) == max(self.now, min(earliest, deadline))
        assert self.schedule.next_event(checks_from=self.now + 3) == min(max(earliest, self.now + 3), deadline)
        assert self.schedule.next_event(checks_from=math.inf) == deadline

    @invariant()
    def the_counts_are_the_model_s(self) -> None:
        for task, expected in self.watched.items():
            assert (task.checks, task.failures) == (expected.answers, expected.failures)


TestSchedule = ScheduleMachine.TestCase


def test_a_submitted_task_is_due_when_the_policy_says() -> None:
    schedule, policy = scheduled(delay=3.0)
    task = a_task(since=10.0)
    schedule.add(task, 10.0)
    assert policy.asked == [(task, 10.0)]
    assert [schedule.take_due(now) for now in (10.0, 12.99, 13.0)] == [None, None, task]


def test_an_attached_task_is_due_at_once_and_the_policy_is_not_asked() -> None:
    schedule, policy = scheduled(delay=3.0)
    task = a_task(since=10.0, attached=True)
    schedule.add(task, 10.0)
    assert schedule.take_due(10.0) is task
    assert policy.asked == []


def test_a_task_that_is_being_checked_is_not_taken_again() -> None:
    schedule, _ = scheduled(delay=0.0)
    schedule.add(a_task(), 0.0)
    assert schedule.take_due(0.0) is not None
    assert schedule.take_due(1e9) is None


def test_a_policy_that_is_always_late_does_not_make_the_poller_spin() -> None:
    schedule, _ = scheduled(delay=-5.0)
    task = a_task()
    schedule.add(task, 0.0)
    assert schedule.take_due(0.0) is task
    schedule.answered(task, RUNNING, 0.0, 1.0)
    assert schedule.next_event() == 1.01


def test_the_policy_sees_when_the_last_answered_check_was_sent() -> None:
    schedule, policy = scheduled(delay=2.0)
    task = a_task()
    schedule.add(task, 0.0)
    schedule.take_due(2.0)
    schedule.answered(task, RUNNING, 2.0, 2.5)
    assert (task.checked_at, task.checks, policy.asked[-1]) == (2.0, 1, (task, 2.5))


def test_the_last_told_progress_is_kept() -> None:
    schedule, _ = scheduled()
    task = a_task()
    schedule.add(task, 0.0)
    seen = []
    for progress in (None, 0.25, None, 0.0):
        snapshot = attrs.evolve(RUNNING, progress=progress)
        schedule.answered(task, snapshot, 1.0, 1.0)
        seen.append(task.progress)
    assert seen == [None, 0.25, 0.25, 0.0]


@pytest.mark.parametrize(
    ("snapshot", "completed"),
    [(COMPLETED, True), (FAILED, False), (attrs.evolve(FAILED, failure=None), False)],
)
def test_the_policy_learns_whether_a_task_was_completed(snapshot: TaskSnapshot, *, completed: bool) -> None:
    schedule, policy = scheduled()
    task = a_task()
    schedule.add(task, 0.0)
    assert schedule.answered(task, snapshot, 1.0, 1.5)
    assert policy.ends == [(task, 1.5, completed)]
    assert task.checked_at == 0.0, "when it was last seen running"


@pytest.mark.parametrize("status", [TaskStatus.QUEUED, TaskStatus.IN_PROGRESS, TaskStatus.UNKNOWN])
def test_a_task_that_is_not_at_its_end_is_checked_again(status: TaskStatus) -> None:
    schedule, _ = scheduled()
    task = a_task()
    schedule.add(task, 0.0)
    assert not schedule.answered(task, attrs.evolve(RUNNING, status=status), 1.0, 1.0)
    assert task.started_at == (1.0 if status is TaskStatus.QUEUED else 0.0)
    assert schedule.take_due(2.0) is task


def test_checks_that_fail_back_off_and_an_answer_starts_anew() -> None:
    schedule, _ = scheduled(delay=1.0)
    task = a_task()
    schedule.add(task, 0.0)
    error, waits = APIResponseError("m"), []
    for _ in range(7):
        schedule.failed(task, error, 0.0, 0.0, 1.0)
        waits.append(schedule.next_event())
    assert waits == [1, 2, 4, 8, 16, 30, 30]
    schedule.answered(task, RUNNING, 0.0, 0.0)
    assert (task.failures, task.failed_checks, task.last_failure) == (0, 7, error)
    schedule.failed(task, error, 0.0, 0.0, 0.5)
    assert schedule.next_event() == 0.5


@pytest.mark.parametrize(
    ("attached", "checks", "now", "verdict"),
    [
        (False, 0, 14.99, CallFailure.REFUSED),
        (False, 0, 15.0, CallFailure.ENDS_CALL),
        (False, 1, 1.0, CallFailure.ENDS_CALL),
        (True, 0, 1.0, CallFailure.ENDS_CALL),
    ],
)
def test_an_unknown_task_is_asked_for_again_only_while_it_is_young(
    checks: int, now: float, verdict: CallFailure, *, attached: bool
) -> None:
    schedule, policy = scheduled()
    task = a_task(attached=attached)
    schedule.add(task, 0.0)
    for _ in range(checks):
        schedule.answered(task, RUNNING, 0.5, 0.5)
    assert schedule.failed(task, NotFoundError("m", status_code=404), 0.0, now, 0.5) is verdict
    assert len(schedule) == (verdict is CallFailure.REFUSED)
    assert policy.ends == ([] if verdict is CallFailure.REFUSED else [(task, now, False)])


def test_a_fatal_failure_leaves_the_tasks_to_whoever_ends_the_session() -> None:
    schedule, policy = scheduled()
    task = a_task(deadline=50.0)
    schedule.add(task, 0.0)
    schedule.take_due(1.0)
    assert schedule.failed(task, AuthenticationError("m", status_code=401), 0.0, 1.0, 0.5) is CallFailure.ENDS_SESSION
    assert (len(schedule), schedule.next_event(), policy.ends) == (1, 50.0, [])


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (BadRequestError("m", status_code=400), CallFailure.REFUSED),
        (APIStatusError("m", status_code=410), CallFailure.REFUSED),
        (RateLimitError("m", status_code=429), CallFailure.THROTTLED),
        (AuthenticationError("m", status_code=401), CallFailure.ENDS_SESSION),
    ],
)
def test_a_failure_for_a_task_that_is_no_longer_watched_ends_nothing(
    error: QwenEditError, verdict: CallFailure
) -> None:
    schedule, policy = scheduled()
    task = a_task()
    schedule.add(task, 0.0)
    schedule.take_due(1.0)
    schedule.remove(task, 2.0)
    assert schedule.failed(task, error, 0.0, 3.0, 0.5) is verdict
    assert (len(schedule), len(policy.ends), schedule.next_event()) == (0, 1, math.inf)


def test_an_answer_for_a_task_that_is_no_longer_watched_is_dropped() -> None:
    schedule, policy = scheduled()
    task = a_task()
    schedule.add(task, 0.0)
    schedule.take_due(1.0)
    schedule.remove(task, 2.0)
    assert not schedule.answered(task, COMPLETED, 1.0, 3.0)
    assert (task.checks, len(policy.ends), schedule.next_event()) == (0, 1, math.inf)


def test_a_check_that_would_come_too_late_is_made_at_the_deadline() -> None:
    schedule, _ = scheduled(delay=30.0)
    schedule.add(a_task(deadline=20.0), 0.0)
    assert schedule.next_event() == 20.0


def test_a_check_that_comes_in_time_stays_where_it_is() -> None:
    schedule, _ = scheduled(delay=19.9)
    schedule.add(a_task(deadline=20.0), 0.0)
    assert schedule.next_event() == 19.9


def late(deadline: float = 100.0, now: float = 1000.0) -> tuple[PollSchedule[ScheduledTask], ScheduledTask]:
    """A task whose deadline has passed, perhaps while the machine slept, and that is being checked once more."""
    schedule, _ = scheduled(delay=10.0)
    task = a_task(deadline=deadline)
    schedule.add(task, 0.0)
    assert schedule.take_expired(now) is None
    assert schedule.take_due(now) is task
    return schedule, task


def test_the_last_check_goes_before_all_others() -> None:
    schedule, _ = scheduled(delay=1.0)
    for _ in range(200):
        schedule.add(a_task(), 0.0)
    one = a_task(deadline=20.0)
    schedule.add(one, 0.0)
    assert schedule.take_expired(20.0) is None
    assert schedule.take_due(20.0) is one


def test_a_task_that_is_found_running_by_its_last_check_is_given_up() -> None:
    schedule, task = late()
    assert not schedule.answered(task, RUNNING, 1000.0, 1002.0)
    assert schedule.take_due(1e9) is None
    assert schedule.take_expired(1002.0) is task


def test_a_task_that_had_ended_is_found_by_its_last_check() -> None:
    schedule, task = late()
    assert schedule.answered(task, COMPLETED, 1000.0, 1002.0)
    assert schedule.take_expired(10_000.0) is None


def test_a_last_check_that_is_not_answered_has_a_grace() -> None:
    schedule, task = late()
    assert schedule.take_expired(1000.0 + LAST_CHECK_GRACE - 1) is None
    assert schedule.take_expired(1000.0 + LAST_CHECK_GRACE) is task


def test_a_last_check_that_fails_is_made_again_within_the_grace() -> None:
    schedule, task = late()
    schedule.failed(task, APIConnectionError("no network yet"), 1000.0, 1005.0, 1.0)
    assert [schedule.take_due(now) for now in (1005.9, 1006.0)] == [None, task]
    assert schedule.take_expired(1000.0 + LAST_CHECK_GRACE) is task


def test_failing_last_checks_are_never_far_apart() -> None:
    schedule, task = late()
    now = 1000.0
    for _ in range(7):
        schedule.failed(task, APIConnectionError("no network yet"), now, now, 1.0)
        assert schedule.next_event() <= now + 4.0
        now = schedule.next_event()
        assert schedule.take_due(now) is task


def test_a_check_from_before_the_deadline_neither_ends_the_wait_nor_puts_off_the_last_check() -> None:
    schedule, _ = scheduled(delay=1.0)
    task = a_task(deadline=20.0)
    schedule.add(task, 0.0)
    assert schedule.take_due(19.0) is task
    assert schedule.take_expired(20.0) is None
    assert not schedule.answered(task, RUNNING, 19.0, 20.5)
    schedule.failed(task, APIConnectionError("lost"), 19.5, 20.5, 1.0)
    assert schedule.take_expired(20.5) is None
    assert schedule.take_due(20.5) is task
    assert schedule.take_due(20.5) is None


def test_a_deadline_that_passes_while_a_check_hangs_makes_another_check_due() -> None:
    schedule, _ = scheduled(delay=1.0)
    task = a_task(deadline=20.0)
    schedule.add(task, 0.0)
    assert schedule.take_due(19.0) is task
    assert [schedule.take_due(19.9), schedule.take_expired(20.0), schedule.take_due(20.0)] == [None, None, task]


def test_failing_checks_are_repeated_as_often_as_the_deadline_allows() -> None:
    assert (CHECK_RETRY.initial, CHECK_RETRY.maximum) == (1.0, 30.0)


def test_a_policy_that_names_no_time_leaves_the_order_of_the_schedule_whole():
    class Nowhere(FixedInterval):
        def next_check(self, task, now):
            return math.nan

    schedule = PollSchedule(Nowhere())
    lost, other = (ScheduledTask(task_id=name, since=0.0, deadline=100.0, attached=name == "b") for name in "ab")
    schedule.add(lost, 0.0)
    schedule.add(other, 1.0)
    assert schedule.take_due(1.0) is other
    assert schedule.take_due(99.5) is None
    assert schedule.take_due(100.0) is lost


def test_a_task_without_pictures_yet_is_checked_again_for_a_bounded_while() -> None:
    schedule, policy = scheduled()
    task = a_task()
    schedule.add(task, 0.0)
    asked = len(policy.asked)
    times = []
    while schedule.take_due(now := schedule.next_event()) is task:
        times.append(now)
        if schedule.answered(task, PICTURELESS, now, now):
            break
    assert times == [1.0, 2.0, 3.0, 5.0, 9.0, 17.0, 33.0, 1.0 + PICTURES_GRACE]
    assert len(policy.asked) == asked  # a policy learns nothing of it
    assert [end[1:] for end in policy.ends] == [(times[-1], True)]
    assert len(schedule) == 0


def test_pictures_that_come_late_end_the_wait() -> None:
    schedule, _ = scheduled()
    task = a_task()
    schedule.add(task, 0.0)
    assert not schedule.answered(task, PICTURELESS, 1.0, 1.0)
    assert not schedule.answered(task, RUNNING, 2.0, 2.0)
    assert schedule.answered(task, COMPLETED, 3.0, 3.0)


def test_a_task_without_pictures_is_not_waited_for_beyond_its_deadline() -> None:
    schedule, _ = scheduled()
    task = a_task(deadline=10.0)
    schedule.add(task, 0.0)
    assert not schedule.answered(task, PICTURELESS, 9.4, 9.4)
    assert schedule.next_event() == 10.0
    assert not schedule.answered(task, PICTURELESS, 10.0, 10.1)
    assert schedule.take_expired(10.1) is task


def test_all_tasks_that_a_pause_made_due_at_once_are_checked():
    schedule: PollSchedule[ScheduledTask] = PollSchedule(ScriptedPolicy(), poll_rate=1000.0)
    tasks = [ScheduledTask(task_id=f"t{number}", since=0.0, deadline=1e6) for number in range(200)]
    for task in tasks:
        schedule.add(task, 0.0)
    taken = [schedule.take_due(100.0 + number / 1000) for number in range(200)]
    assert {task.task_id for task in taken if task is not None} == {task.task_id for task in tasks}
