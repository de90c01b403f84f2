"""Poll policies: never in the past, never beyond their maximum, growing as they say."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qwen_edit_async.errors import ConfigurationError
from qwen_edit_async.scheduling.policies import Backoff, FixedInterval, PolledTask, PollPolicy
from qwen_edit_async.scheduling.schedule import ScheduledTask

seconds = st.floats(0.001, 1e6)
times = st.floats(-1e9, 1e9)


def task(checks: int = 0, since: float = 0.0) -> PolledTask:
    task = ScheduledTask(task_id="t", since=since)
    task.checks = checks
    return task


def test_before_the_first_check_a_task_counts_as_checked_when_it_was_accepted() -> None:
    assert task(since=17.0).checked_at == 17.0


def test_equal_looking_tasks_are_two_tasks() -> None:
    assert len({task(), task()}) == 2


@given(seconds, times, st.integers(0, 100))
def test_a_fixed_interval_is_the_same_after_every_check(interval: float, now: float, checks: int) -> None:
    assert FixedInterval(interval).next_check(task(checks), now) == now + interval


def test_the_default_interval_is_three_seconds() -> None:
    assert FixedInterval().next_check(task(), 100.0) == 103.0


@given(seconds, st.floats(1, 100) | st.integers(1, 100), seconds, times, st.integers(0, 10**4))
@example(0.001, 10.0, 60.0, 0.0, 10**6)
@example(1, 10, 60.0, 0.0, 400)
def test_backoff_never_looks_into_the_past_and_never_beyond_its_maximum(
    initial: float, factor: float, maximum: float, now: float, checks: int
) -> None:
    due = Backoff(initial, factor, maximum).next_check(task(checks), now)
    assert now <= due <= now + maximum


@given(seconds, st.floats(1, 10), seconds, st.integers(0, 50))
def test_each_interval_of_backoff_is_factor_times_the_last(
    initial: float, factor: float, maximum: float, checks: int
) -> None:
    policy = Backoff(initial, factor, maximum)
    last, this = (policy.next_check(task(count), 0.0) for count in (checks, checks + 1))
    assert policy.next_check(task(0), 0.0) == min(initial, maximum)
    assert this == pytest.approx(min(maximum, last * factor))


@pytest.mark.parametrize(("initial", "factor"), [(1.0, 10.0), (1e-3, 10), (1e300, 1e10)])
def test_an_interval_beyond_every_number_is_the_maximum(initial: float, factor: float) -> None:
    assert Backoff(initial, factor, 60.0).next_check(task(400), 5.0) == 65.0


def test_the_default_backoff_goes_from_one_second_to_ten() -> None:
    dues = [Backoff().next_check(task(checks), 100.0) for checks in (0, 1, 2, 50)]
    assert dues == pytest.approx([101.0, 101.3, 101.69, 110.0])


@pytest.mark.parametrize("policy", [FixedInterval(2.0), Backoff(2.0, 3.0, 50.0)])
@pytest.mark.parametrize("completed", [True, False])
def test_a_plain_policy_learns_nothing(policy: PollPolicy, *, completed: bool) -> None:
    before = policy.next_check(task(2), 0.0)
    policy.ended(task(2), 1000.0, completed=completed)
    assert policy.next_check(task(2), 0.0) == before


BAD_SECONDS = [0, -1, 0.0, -0.5, float("nan"), float("inf"), 10**400, True, "3", None]


@pytest.mark.parametrize("value", BAD_SECONDS, ids=lambda value: repr(value)[:10])
@pytest.mark.parametrize(("policy", "name"), [(FixedInterval, "interval"), (Backoff, "initial"), (Backoff, "maximum")])
def test_seconds_that_are_no_positive_number_are_refused_and_named(policy: type, name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{name} is .*: give a positive number"):
        policy(**{name: value})


@pytest.mark.parametrize("factor", [0.99, 0.5, *BAD_SECONDS], ids=lambda value: repr(value)[:10])
def test_a_factor_below_one_is_refused_and_named(factor: object) -> None:
    with pytest.raises(ConfigurationError, match=r"^factor is"):
        Backoff(factor=factor)


def test_a_factor_of_one_is_a_fixed_interval() -> None:
    assert Backoff(2.0, 1.0).next_check(task(1000), 0.0) == 2.0
