"""How much may be in flight, and when the next may start."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_edit_async._pacing import Pacer

STEPS = ["start", "end", "accepted", "throttled", "throttled late", "pause", "sleep"]


@given(
    st.integers(1, 40),
    st.none() | st.floats(0.1, 100),
    st.lists(st.tuples(st.sampled_from(STEPS), st.floats(0, 5))),
)
def test_whatever_happens_the_limits_hold(
    max_in_flight: int, rate: float | None, steps: list[tuple[str, float]]
) -> None:
    pacer = Pacer(max_in_flight, rate)
    now, paused_until, last_start = 0.0, -math.inf, -math.inf
    for step, value in steps:
        if step == "start" and pacer.wait(now) == 0:
            assert pacer.in_flight < max_in_flight
            assert now >= paused_until
            assert rate is None or now - last_start >= (1 / rate) * (1 - 1e-9)
            pacer.start(now)
            last_start = now
        elif step == "end" and pacer.in_flight:
            pacer.end()
        elif step == "accepted":
            pacer.accepted()
        elif step == "throttled":
            pacer.throttled(now, now)
        elif step == "throttled late":
            pacer.throttled(now, now - value)
        elif step == "pause":
            pacer.pause(now + value)
            paused_until = max(paused_until, now + value)
        elif step == "sleep":
            now += value
        assert 1 <= pacer.limit <= max_in_flight
        assert 0 <= pacer.in_flight <= max_in_flight
        assert pacer.resume_at == paused_until
        wait = pacer.wait(now)
        assert (wait is None) == (pacer.in_flight >= int(pacer.limit))
        assert wait is None or wait >= max(0.0, paused_until - now)


def test_as_many_may_start_at_once_as_there_are_slots() -> None:
    pacer = Pacer(3)
    for _ in range(3):
        assert pacer.wait(0.0) == 0
        pacer.start(0.0)
    assert pacer.wait(0.0) is None


def test_an_end_makes_room_for_one() -> None:
    pacer = Pacer(1)
    pacer.start(0.0)
    pacer.end()
    assert (pacer.in_flight, pacer.wait(0.0)) == (0, 0)


def test_submissions_are_spaced_exactly_by_the_rate() -> None:
    pacer, starts, now = Pacer(100, submit_rate=4.0), [], 10.0
    for _ in range(5):
        now += pacer.wait(now) or 0.0
        pacer.start(now)
        starts.append(now)
    assert starts == [10.0, 10.25, 10.5, 10.75, 11.0]


def test_a_late_start_is_not_made_up_for_by_a_burst() -> None:
    pacer = Pacer(100, submit_rate=4.0)
    pacer.start(10.0)
    assert pacer.wait(20.0) == 0
    pacer.start(20.0)
    assert pacer.wait(20.0) == 0.25


def test_a_start_a_little_before_its_time_does_not_raise_the_rate() -> None:
    pacer = Pacer(100, submit_rate=4.0)
    pacer.start(10.0)
    pacer.start(10.2)
    assert pacer.wait(10.2) == pytest.approx(0.3)


def test_nothing_starts_during_a_pause() -> None:
    pacer = Pacer(2)
    pacer.pause(30.0)
    assert [pacer.wait(now) for now in (10.0, 29.0, 30.0, 31.0)] == [20.0, 1.0, 0, 0]


def test_a_shorter_pause_does_not_end_a_longer_one() -> None:
    pacer = Pacer(2)
    pacer.pause(30.0)
    pacer.pause(20.0)
    assert pacer.wait(10.0) == 20.0


def test_the_longer_of_pause_and_spacing_counts() -> None:
    pacer = Pacer(10, submit_rate=0.1)
    pacer.start(0.0)
    pacer.pause(4.0)
    assert pacer.wait(0.0) == 10.0
    pacer.pause(12.0)
    assert pacer.wait(0.0) == 12.0


def test_too_many_requests_halve_what_is_in_flight() -> None:
    pacer = Pacer(16, in_flight=12)
    pacer.throttled(5.0, 4.0)
    assert pacer.limit == 6


def test_the_limit_is_halved_if_less_is_in_flight_than_may_be_no_longer() -> None:
    pacer = Pacer(16, limit=4.0, in_flight=12)
    pacer.throttled(5.0, 4.0)
    assert pacer.limit == 2


def test_the_limit_never_falls_below_one() -> None:
    pacer = Pacer(16, in_flight=1)
    for now in range(5):
        pacer.throttled(float(now), float(now))
    assert (pacer.limit, pacer.wait(9.0)) == (1, None)


def test_refusals_of_one_round_halve_once() -> None:
    pacer = Pacer(16, in_flight=16)
    for started_at in (1.0, 2.0, 3.0, 4.9):
        pacer.throttled(5.0, started_at)
    assert pacer.limit == 8


def test_a_refusal_of_the_next_round_halves_again() -> None:
    pacer = Pacer(16, in_flight=16)
    pacer.throttled(5.0, 1.0)
    pacer.throttled(6.0, 5.0)
    assert pacer.limit == 4


def test_the_limit_grows_by_about_one_in_each_round_of_accepted_submissions() -> None:
    pacer = Pacer(16, limit=4.0)
    for _ in range(4):
        pacer.accepted()
    assert 4.8 < pacer.limit < 5
    pacer.accepted()
    assert 5 < pacer.limit < 5.2


def test_the_limit_grows_back_to_the_maximum_and_no_further() -> None:
    pacer = Pacer(16, limit=1.0)
    for _ in range(1000):
        pacer.accepted()
    assert pacer.limit == 16


def test_a_fraction_of_a_slot_is_no_slot() -> None:
    assert Pacer(16, limit=2.9, in_flight=2).wait(0.0) is None
