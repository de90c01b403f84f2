"""The estimate of task durations: learning from ended and running tasks, and staying within bounds."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qwen_edit_async.scheduling.survival import Survival

ages = st.floats(0, 1e5)
stretches = st.tuples(ages, st.floats(0, 1e4), st.booleans())


def survival(memory: float = 100.0, strength: float = 0.15, prior: Survival | None = None) -> Survival:
    return Survival(memory=memory, strength=strength, prior=prior)


def watch(estimate: Survival, duration: float, interval: float) -> None:
    """Check a task at multiples of an interval until it has ended."""
    last = 0.0
    while last + interval < duration:
        estimate.survived(last, last + interval)
        last += interval
    estimate.ended(last, last + interval)


def test_without_evidence_checks_back_off() -> None:
    estimate, age, intervals = survival(), 0.0, []
    for _ in range(40):
        following = estimate.check_age(age, 0.2)
        intervals.append(following - age)
        age = following
    assert intervals == sorted(intervals)
    assert 5 * intervals[0] < intervals[-1]


@pytest.mark.parametrize("interval", [0.5, 3.0, 10.0])
def test_a_constant_hazard_is_found_however_tasks_are_checked(interval: float) -> None:
    draw, estimate = random.Random(5), survival()
    for _ in range(600):
        watch(estimate, draw.expovariate(0.1), interval)
    for age in (0, 10, 20):
        assert estimate.probability(age, age + 10) == pytest.approx(1 - math.exp(-1), rel=0.2)


def test_the_interval_is_the_root_of_twice_the_cost_by_the_hazard() -> None:
    draw, estimate = random.Random(6), survival(memory=1000)
    for _ in range(3000):
        watch(estimate, draw.expovariate(0.1), 1.0)
    assert estimate.check_age(8, 0.2) - 8 == pytest.approx(math.sqrt(2 * 0.2 / 0.1), rel=0.15)


def test_tasks_that_still_run_count() -> None:
    ended_only, with_running = survival(), survival()
    for _ in range(20):
        for estimate in (ended_only, with_running):
            watch(estimate, 5.0, 0.5)
        with_running.survived(0, 10)
    assert ended_only.probability(0, 6) > 0.9
    assert with_running.probability(0, 6) == pytest.approx(0.5, abs=0.1)


def test_an_end_in_a_wide_stretch_is_put_where_ends_are_known_to_be() -> None:
    estimate = survival()
    for _ in range(60):
        watch(estimate, 10.0, 0.5)
    for _ in range(60):
        estimate.ended(0, 30)
    assert estimate.probability(0, 8) < 0.1
    assert estimate.probability(8, 12) > 0.8


@given(ages, st.floats(0, 1e4))
@example(12375.0, 1.192092896e-07)
def test_an_end_counts_once_and_only_in_its_stretch(age: float, length: float) -> None:
    estimate = survival()
    estimate._enough_news = math.inf  # keeps the estimate from being renewed
    estimate.ended(age, age + length)
    assert sum(estimate._new_events) == pytest.approx(1)
    assert min(estimate._new_events) >= 0
    assert 0 <= sum(estimate._new_time) <= length * (1 + 1e-9)


def test_old_evidence_fades() -> None:
    estimate = survival(memory=50)
    for duration in (10.0,) * 100 + (40.0,) * 200:
        watch(estimate, duration, 1.0)
    assert estimate.probability(8, 12) < 0.05
    assert estimate.probability(35, 45) > 0.9


def test_a_stall_does_not_weigh_for_ever() -> None:
    stalled, fluent = survival(memory=50), survival(memory=50)
    for _ in range(20_000):
        stalled.survived(60, 120)
    for estimate in (stalled, fluent):
        for _ in range(200):
            watch(estimate, 90.0, 2.0)
    assert stalled.probability(60, 120) > 0.9 * fluent.probability(60, 120)


def test_ends_from_before_a_stall_fade_with_the_time_in_which_nothing_ends() -> None:
    estimate = survival(memory=50)
    for _ in range(100):
        watch(estimate, 10.0, 1.0)
    for _ in range(5000):
        estimate.survived(9, 11)
    assert estimate.probability(9, 11) < 0.05


def test_an_estimate_without_evidence_is_its_prior() -> None:
    prior = survival()
    for _ in range(100):
        watch(prior, 10.0, 0.5)
    estimate = survival(prior=prior)
    assert estimate.check_age(0, 0.2) == prior.check_age(0, 0.2)


def test_an_estimate_departs_from_its_prior_which_learns_from_all_its_kinds() -> None:
    prior = survival()
    quick, slow = (survival(strength=2, prior=prior) for _ in range(2))
    for _ in range(100):
        watch(quick, 10.0, 0.5)
        watch(slow, 40.0, 0.5)
    assert quick.probability(0, 15) > 0.75
    assert slow.probability(0, 15) < 0.3
    assert prior.probability(0, 15) == pytest.approx(0.5, abs=0.1)


def test_the_estimate_is_renewed_ever_more_seldom_but_never_for_long() -> None:
    estimate, ends_between, ends = survival(), [], 0
    for _ in range(400):
        before = estimate.hazard
        estimate.ended(9, 11)
        ends += 1
        if estimate.hazard is not before:
            ends_between.append(ends)
            ends = 0
    assert ends_between[0] == 1
    assert ends_between == sorted(ends_between)
    assert ends_between[-1] == 30


def test_a_service_of_which_nothing_ends_is_noticed_all_the_same() -> None:
    estimate = survival()
    for _ in range(300):
        watch(estimate, 10.0, 1.0)
    before = estimate.probability(9, 11)
    for _ in range(1000):
        estimate.survived(9, 11)
    assert before > 0.9
    assert estimate.probability(9, 11) < 0.5


@given(st.lists(stretches, max_size=300), ages, st.floats(1e-3, 1e3), st.floats(0, 1e4))
def test_whatever_the_evidence_answers_are_sane(
    history: list[tuple[float, float, bool]], age: float, cost: float, length: float
) -> None:
    estimate = survival()
    for start, seconds, ended in history:
        (estimate.ended if ended else estimate.survived)(start, start + seconds)
    assert estimate.check_age(age, cost) > age
    assert estimate.check_age(age, 2 * cost) > estimate.check_age(age, cost)
    assert 0 <= estimate.probability(age, age + length) <= estimate.probability(age, age + 2 * length) <= 1
    assert estimate.log_likelihood(age, age + length, ended=False) <= 0
    assert math.isfinite(estimate.log_likelihood(age, age + length, ended=True))


def test_likelihoods_are_those_of_ending_and_of_not_ending() -> None:
    estimate = survival()
    ended, running = (math.exp(estimate.log_likelihood(5, 9, ended=end)) for end in (True, False))
    assert ended == pytest.approx(estimate.probability(5, 9))
    assert ended + running == pytest.approx(1)


def test_what_all_tasks_are_believed_to_last_is_forgotten_as_kinds_learn_something_else() -> None:
    prior = survival(memory=30.0)
    kind = survival(memory=30.0, strength=2, prior=prior)
    for duration in (100.0, 10.0):
        for _ in range(150):
            watch(kind, duration, 1.0)
    assert prior.probability(0, 15) > 0.95


@pytest.mark.parametrize("duration", [20.0, 400.0, 1500.0])
def test_long_tasks_are_told_apart_as_well(duration: float) -> None:
    estimate = survival()
    for _ in range(100):
        watch(estimate, duration, duration / 40)
    assert estimate.probability(0, 0.8 * duration) < 0.2
    assert estimate.probability(0.8 * duration, 1.2 * duration) > 0.7
