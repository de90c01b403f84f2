"""A ceiling for checks: never exceeded, spent on the tasks most likely to have ended, and no task starves."""

from __future__ import annotations

import asyncio
import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_transport import IMAGE, MemoryService, MemorySession

from qwen_edit_async import Learned
from qwen_edit_async.scheduling.limiter import CheckLimiter
from qwen_edit_async.scheduling.policies import FixedInterval, PolledTask
from qwen_edit_async.scheduling.schedule import LAST_CHECK_GRACE, PollSchedule, ScheduledTask
from qwen_edit_async.tasks import TaskSnapshot, TaskStatus

RUNNING = TaskSnapshot(task_id="t", status=TaskStatus.IN_PROGRESS)
COMPLETED = TaskSnapshot(task_id="t", status=TaskStatus.COMPLETED, urls=("https://r/1",))


class Ranking(FixedInterval):
    """The later a task was accepted, the likelier it has ended."""

    def likelihood(self, task: PolledTask, now: float) -> float:
        return task.since


@given(st.floats(0.5, 1000), st.lists(st.floats(0, 0.5), min_size=1, max_size=60))
def test_no_stretch_of_time_has_more_checks_than_the_rate(rate: float, pauses: list[float]) -> None:
    limiter: CheckLimiter[int] = CheckLimiter(rate)
    numbers, times = itertools.count(), []
    for now in itertools.accumulate(pauses):
        for _ in range(50):
            limiter.add(next(numbers), now)
            if limiter.take(now) is not None:
                times.append(now)
    for first, second in itertools.combinations(range(len(times)), 2):
        assert second - first + 1 <= rate * (times[second] - times[first] + 0.05) + 1.001


def test_a_waiting_task_is_checked_as_soon_as_there_is_a_check_to_spend() -> None:
    limiter: CheckLimiter[str] = CheckLimiter(2.0)
    limiter.add("a", 0.0)
    limiter.add("b", 0.0)
    assert limiter.take(0.0) == "a"
    assert limiter.take(0.4) is None
    assert limiter.take(limiter.ready_at) == "b"
    assert limiter.ready_at == pytest.approx(0.95)


def test_a_task_that_waits_already_is_not_added_again_and_keeps_its_place() -> None:
    limiter: CheckLimiter[str] = CheckLimiter(1.0)
    for task, now in [("a", 0.0), ("b", 1.0), ("a", 2.0)]:
        limiter.add(task, now)
    assert [limiter.take(now) for now in (3.0, 4.0, 5.0)] == ["a", "b", None]


def test_nothing_is_spent_when_nothing_waits() -> None:
    limiter: CheckLimiter[str] = CheckLimiter(1.0)
    assert limiter.take(5.0) is None
    assert limiter.ready_at == -math.inf


def test_the_likeliest_goes_first() -> None:
    limiter = CheckLimiter(1.0, lambda task, now: {"a": 0.2, "b": 0.9, "c": 0.5}[task])
    for task in "abc":
        limiter.add(task, 0.0)
    assert [limiter.take(float(now)) for now in range(3)] == ["b", "c", "a"]


def test_without_likelihoods_the_longest_wait_goes_first() -> None:
    limiter: CheckLimiter[str] = CheckLimiter(1.0)
    for now, task in enumerate("bca"):
        limiter.add(task, float(now))
    assert [limiter.take(10.0 + now) for now in range(3)] == ["b", "c", "a"]


def test_every_waiting_task_has_its_turn_to_be_looked_at() -> None:
    limiter = CheckLimiter(1000.0, lambda task, now: task == 777)
    for task in range(1000):
        limiter.add(task, 0.0)
    assert 777 in [limiter.take(number / 1000) for number in range(32)]


def test_a_forgotten_task_is_not_checked() -> None:
    limiter: CheckLimiter[str] = CheckLimiter(1.0)
    for task in "abc":
        limiter.add(task, 0.0)
    limiter.discard("a")
    limiter.discard("never seen")
    assert [limiter.take(float(now)) for now in range(3)] == ["b", "c", None]
    assert len(limiter) == 0


@given(st.lists(st.integers(0, 20), max_size=60), st.integers(1, 40))
def test_none_waits_longer_than_four_rounds(arrivals: list[int], most: int) -> None:
    rate = 10.0
    limiter = CheckLimiter(rate, lambda task, now: task)
    added: dict[int, float] = {}
    numbers = itertools.count()
    for slot, arriving in enumerate([*arrivals, *[0] * 5 * most]):
        now = slot / rate
        for number in itertools.islice(numbers, min(arriving, most - len(limiter))):
            limiter.add(number, now)
            added[number] = now
        if (task := limiter.take(now + 1e-9)) is not None:
            assert now - added.pop(task) <= 4 * most / rate
    assert not added


@pytest.mark.parametrize("others", [1, 40, 200])
def test_a_task_that_is_never_the_likeliest_is_checked_within_four_rounds(others: int) -> None:
    rate = 10.0
    limiter: CheckLimiter[str | int] = CheckLimiter(rate, lambda task, now: task != "unlikely")
    for task in ("unlikely", *range(others)):
        limiter.add(task, 0.0)
    for slot in itertools.count():
        taken = limiter.take(slot / rate + 1e-9)
        assert slot / rate <= 4 * (others + 1) / rate
        if taken == "unlikely":
            break
        if taken is not None:
            limiter.add(taken, slot / rate)


def test_under_adversity_patience_is_three_rounds() -> None:
    rate, tasks = 10.0, range(100)
    limiter = CheckLimiter(rate, lambda task, now: task >= 33)
    added = dict.fromkeys(tasks, 0.0)
    for task in tasks:
        limiter.add(task, 0.0)
    for slot in range(1200):
        now = slot / rate
        taken = limiter.take(now + 1e-9)
        if taken is not None:
            assert now - added[taken] <= 4 * len(tasks) / rate
            limiter.add(taken, now)
            added[taken] = now


def weibull_likelihood(task: ScheduledTask, now: float) -> float:
    """How probable it is that a task of :func:`lag_and_longest_wait` has ended since its last check."""
    return 1 - math.exp(((task.checked_at - task.since) / 450.0) ** 3 - ((now - task.since) / 450.0) ** 3)


def lag_and_longest_wait(in_flight: int, rate: float, *, ranked: bool) -> tuple[float, float]:
    """Mean lag, and the longest wait from due to checked, of as many tasks again as are in flight, all always due."""
    draw = random.Random(1)
    limiter = CheckLimiter(rate, weibull_likelihood if ranked else None)
    ends: dict[ScheduledTask, float] = {}
    lags: list[float] = []
    longest, now = 0.0, 0.0

    def submit() -> None:
        task = ScheduledTask(task_id="", since=now)
        ends[task] = now + draw.weibullvariate(450.0, 3.0)
        limiter.add(task, now)

    for _ in range(in_flight):
        submit()
    while len(lags) < in_flight:
        now = max(now, limiter.ready_at)
        task = limiter.take(now)
        assert task is not None
        longest = max(longest, now - task.checked_at)
        if now >= ends[task]:
            lags.append(now - ends.pop(task))
            submit()
        else:
            task.found_running(now, None)
            limiter.add(task, now)
    return sum(lags) / len(lags), longest


def test_of_ten_thousand_tasks_at_a_hundred_checks_a_second_none_starves_and_the_lag_beats_round_robin() -> None:
    round_robin, longest_in_turn = lag_and_longest_wait(10_000, 100.0, ranked=False)
    ranked, longest = lag_and_longest_wait(10_000, 100.0, ranked=True)
    assert longest_in_turn < 101
    assert longest < 4 * 10_000 / 100.0
    assert ranked < 0.8 * round_robin


def checked_times(schedule: PollSchedule[ScheduledTask], until: float) -> list[tuple[float, ScheduledTask]]:
    """When which task is checked, if every answer is 'running' and comes at once."""
    checks = []
    now = schedule.next_event()
    while now <= until:
        while schedule.take_expired(now) is not None:
            pass
        while (task := schedule.take_due(now)) is not None:
            checks.append((now, task))
            schedule.answered(task, RUNNING, now, now)
        now = schedule.next_event()
    return checks


def test_a_schedule_keeps_to_the_rate_and_leaves_no_task_out() -> None:
    schedule: PollSchedule[ScheduledTask] = PollSchedule(FixedInterval(1.0), 4.0)
    tasks = [ScheduledTask(task_id=str(number), since=0.0) for number in range(8)]
    for task in tasks:
        schedule.add(task, 0.0)
    checks = checked_times(schedule, 11.0)
    assert len(checks) == pytest.approx(40, abs=1)
    assert {task.task_id for _, task in checks} == {task.task_id for task in tasks}


def test_a_schedule_under_the_rate_checks_each_task_when_its_policy_says() -> None:
    schedule: PollSchedule[ScheduledTask] = PollSchedule(FixedInterval(1.0), 10.0)
    schedule.add(ScheduledTask(task_id="a", since=0.0), 0.0)
    assert [now for now, _ in checked_times(schedule, 3.5)] == [1.0, 2.0, 3.0]


def test_a_schedule_asks_its_policy_who_goes_first() -> None:
    schedule: PollSchedule[ScheduledTask] = PollSchedule(Ranking(1.0), 4.0)
    tasks = [ScheduledTask(task_id=str(number), since=float(number)) for number in range(3)]
    for task in tasks:
        schedule.add(task, 0.0)
    assert [schedule.take_due(now) for now in (5.0, 5.5, 6.0)] == tasks[::-1]


def test_a_task_that_waits_for_its_turn_can_be_removed_and_can_expire() -> None:
    schedule: PollSchedule[ScheduledTask] = PollSchedule(FixedInterval(1.0), 1.0)
    first, gone, late = (ScheduledTask(task_id=name, since=0.0, deadline=3.0 + n) for n, name in enumerate("abc"))
    for task in (first, gone, late):
        schedule.add(task, 0.0)
    assert schedule.take_due(1.0) is first
    schedule.answered(first, COMPLETED, 1.0, 1.0)
    schedule.remove(gone, 1.5)
    assert schedule.take_expired(5.5) is None
    assert schedule.take_due(6.0) is late
    assert schedule.take_expired(5.5 + 1.0 + LAST_CHECK_GRACE) is late
    assert schedule.take_due(100.0) is None
    assert schedule.next_event() == math.inf


def crowd_and_one(rate: float) -> tuple[PollSchedule[ScheduledTask], ScheduledTask]:
    """Nine tasks that always seem likelier to have ended than a tenth, whose deadline is at 20."""
    schedule: PollSchedule[ScheduledTask] = PollSchedule(Ranking(1.0), rate)
    one = ScheduledTask(task_id="one", since=0.0, deadline=20.0)
    schedule.add(one, 0.0)
    for number in range(9):
        schedule.add(ScheduledTask(task_id=str(number), since=1.0), 1.0)
    return schedule, one


@pytest.mark.parametrize("rate", [0.7, 1.0, 2.0])
def test_a_task_that_is_not_the_likeliest_has_its_last_check_at_its_deadline(rate: float) -> None:
    schedule, one = crowd_and_one(rate=rate)
    times = [now for now, task in checked_times(schedule, 30.0) if task is one]
    assert 20 <= times[-1] <= 20 + 1 / rate
    assert one not in schedule.tasks


def test_last_checks_go_before_all_others_and_each_is_made_once() -> None:
    schedule, one = crowd_and_one(rate=4.0)
    other = ScheduledTask(task_id="other", since=0.0, deadline=20.0)
    schedule.add(other, 0.0)
    late = [task for now, task in checked_times(schedule, 30.0) if now >= 20.0]
    assert set(late[:2]) == {one, other}
    assert not {one, other} & set(late[2:])


def test_however_many_deadlines_pass_at_once_each_task_has_its_last_check() -> None:
    schedule: PollSchedule[ScheduledTask] = PollSchedule(FixedInterval(100.0), 1.0)
    tasks = [ScheduledTask(task_id=str(number), since=0.0, deadline=20.0) for number in range(200)]
    for task in tasks:
        schedule.add(task, 0.0)
    assert {task for _, task in checked_times(schedule, 1000.0)} == set(tasks)
    assert len(schedule) == 0


def test_a_task_that_waits_for_its_last_check_can_be_removed() -> None:
    schedule, one = crowd_and_one(rate=4.0)
    checked_times(schedule, 19.9)
    assert schedule.take_expired(20.0) is None
    schedule.remove(one, 20.0)
    assert one not in [task for _, task in checked_times(schedule, 30.0)]


@pytest.mark.anyio
@pytest.mark.virtual_clock
async def test_under_a_ceiling_no_task_is_given_up_that_had_ended():
    draw = random.Random(3)
    service = MemoryService(duration=lambda: draw.lognormvariate(math.log(100), 0.35))
    loop, found_late = asyncio.get_running_loop(), 0
    async with MemorySession(service, polling=Learned(), poll_rate=4.0, max_in_flight=100, deadline=160.0) as session:
        async for outcome in session.edit_many([{"images": IMAGE, "instruction": "snow"}] * 600):
            if outcome.error is not None:
                assert outcome.error.task_id is not None
                found_late += loop.time() - service.ends[outcome.error.task_id] >= 1.0
    assert found_late == 0


@pytest.mark.anyio
@pytest.mark.virtual_clock
async def test_a_session_keeps_to_its_poll_rate():
    service = MemoryService(duration=10.0)
    async with MemorySession(service, polling=FixedInterval(0.1), poll_rate=4.0, max_in_flight=20) as session:
        await asyncio.gather(*(session.edit(IMAGE, "snow") for _ in range(20)))
    times = [sent.at for sent in service.checks]
    assert len(times) >= 40
    assert min(fifth - first for first, fifth in zip(times, times[4:], strict=False)) > 0.9
