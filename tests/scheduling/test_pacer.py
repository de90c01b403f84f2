"""The number of tasks in flight, and the times of submissions and requests."""

from __future__ import annotations

import copy
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_edit_async.scheduling.pacer import Pacer, RequestRate

STEPS = [
    "start",
    "end",
    "accepted",
    "refused",
    "throttled",
    "throttled late",
    "check",
    "check throttled",
    "pause",
    "sleep",
]


@given(
    st.integers(1, 40),
    st.none() | st.floats(0.1, 100),
    st.booleans(),
    st.lists(st.tuples(st.sampled_from(STEPS), st.floats(0, 5), st.floats(0, 1)), max_size=200),
)
def test_whatever_happens_the_limits_hold(  # noqa: C901, PLR0912  # one branch a step
    max_in_flight: int,
    rate: float | None,
    hold_results: bool,  # noqa: FBT001  # a case
    steps: list[tuple[str, float, float]],
) -> None:
    pacer = Pacer(max_in_flight, rate, replies_hold_results=hold_results)
    now, paused_until, last_start, unanswered = 0.0, -math.inf, -math.inf, 0
    for step, value, draw in steps:
        if step == "start" and pacer.wait(now) == 0:
            assert pacer.in_flight < max_in_flight
            assert now >= paused_until
            assert rate is None or now - last_start >= (1 / rate) * (1 - 1e-9)
            pacer.start(now)
            pacer.rate.sent(now)
            last_start = now
            unanswered += 1
        elif step == "end" and pacer.running:
            pacer.end(accepted=True)
        elif step == "accepted" and unanswered:
            unanswered -= 1
            pacer.accepted(now, now - value, pacer.in_flight)
        elif step == "refused" and unanswered:
            unanswered -= 1
            pacer.end(accepted=False)
        elif step.startswith("throttled") and unanswered:
            unanswered -= 1
            pacer.throttled(now, now - value if step == "throttled late" else now, draw)
            pacer.end(accepted=False)
        elif step == "check" and now >= pacer.send_at:
            pacer.rate.sent(now)
            pacer.rate.let_in(now)
        elif step == "check throttled":
            pacer.rate.refused(now, now)
        elif step == "pause":
            pacer.pause(now + value, now)
            paused_until = max(paused_until, now + value)
        elif step == "sleep":
            now += value
        assert pacer.in_flight == pacer.running + unanswered
        assert 0 <= pacer.in_flight <= max_in_flight
        assert pacer.limit >= 0
        assert pacer.rate.limit >= 0.2
        assert pacer.send_at >= paused_until
        assert pacer.rate.next_at - now <= 2 * max(5.0, 1 / pacer.rate.limit)
        wait = pacer.wait(now)
        if wait is None:
            assert pacer.in_flight > min(pacer.limit, max_in_flight - 1)
        else:
            assert max(0.0, paused_until - now) <= wait <= max(300.0, paused_until - now, last_start + 10 - now)
    # After any events, another task starts sooner or later.
    while pacer.in_flight:
        pacer.end(accepted=pacer.running > 0)
    wait = pacer.wait(now)
    assert wait is not None
    assert pacer.wait(now + wait + 1e-6) == 0


def test_as_many_may_start_at_once_as_there_are_slots() -> None:
    pacer = Pacer(3)
    for _ in range(3):
        assert pacer.wait(0.0) == 0
        pacer.start(0.0)
    assert pacer.wait(0.0) is None


def test_an_end_makes_room_for_one() -> None:
    pacer = Pacer(1)
    pacer.start(0.0)
    pacer.end(accepted=False)
    assert (pacer.in_flight, pacer.wait(0.0)) == (0, 0)


def test_submissions_are_spaced_exactly_by_the_rate() -> None:
    pacer, starts, now = Pacer(100, submit_rate=4.0), [], 10.0
    for _ in range(5):
        now += pacer.wait(now) or 0.0
        pacer.start(now)
        starts.append(now)
    assert starts == [10.0, 10.25, 10.5, 10.75, 11.0]


def test_the_next_starts_no_sooner_than_its_submission_may_be_sent() -> None:
    pacer = Pacer(100, submit_rate=4.0)
    pacer.start(10.0)
    pacer.submitted(10.2)
    pacer.submitted(10.2)
    assert pacer.wait(10.2) == pytest.approx(0.5)


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
    pacer.pause(30.0, 0.0)
    assert [pacer.wait(now) for now in (10.0, 29.0, 30.0, 31.0)] == [20.0, 1.0, 0, 0]


def test_a_shorter_pause_does_not_end_a_longer_one() -> None:
    pacer = Pacer(2)
    pacer.pause(30.0, 0.0)
    pacer.pause(20.0, 0.0)
    assert pacer.wait(10.0) == 20.0


def test_pauses_add_up_without_their_overlap() -> None:
    pacer = Pacer(2)
    for now, until in [(5.0, 5.0), (10.0, 30.0), (20.0, 40.0), (25.0, 35.0), (50.0, 55.0)]:
        pacer.pause(until, now)
    assert pacer.pauses == 30.0 + 5.0
    assert [pacer.pause_left(now) for now in (50.0, 54.0, 55.0, 56.0)] == [5.0, 1.0, 0.0, 0.0]


def test_the_longer_of_pause_and_spacing_counts() -> None:
    pacer = Pacer(10, submit_rate=0.1)
    pacer.start(0.0)
    pacer.pause(4.0, 0.0)
    assert pacer.wait(0.0) == 10.0
    pacer.pause(12.0, 0.0)
    assert pacer.wait(0.0) == 12.0


def running(count: int, max_in_flight: int = 16) -> Pacer:
    """Return a pacer whose service accepted ``count`` tasks at time 0 and refused one more."""
    pacer = Pacer(max_in_flight)
    for _ in range(count + 1):
        pacer.start(0.0)
    for _ in range(count):
        pacer.accepted(0.0)
    pacer.throttled(0.1, 0.0, 0.5)
    pacer.end(accepted=False)
    return pacer


def probe(pacer: Pacer, now: float) -> None:
    assert pacer.wait(now) == 0
    pacer.start(now)


def test_what_was_never_tried_is_not_tried_by_hundreds_at_once() -> None:
    pacer, started = Pacer(1000), 0
    while pacer.wait(0.0) == 0:
        pacer.start(0.0)
        started += 1
    assert started == 9
    for _ in range(9):
        pacer.accepted(0.1)
    while pacer.wait(0.1) == 0:
        pacer.start(0.1)
        started += 1
    assert started == 18


def test_a_hundred_tasks_at_most_wait_for_their_acceptance() -> None:
    pacer = Pacer(1000)
    for _ in range(200):
        pacer.start(0.0)
        pacer.accepted(0.0)
    for _ in range(100):
        assert pacer.wait(0.1) == 0
        pacer.start(0.1)
    assert pacer.wait(0.1) is None
    pacer.accepted(0.2)
    assert pacer.wait(0.2) == 0
    pacer.start(0.2)
    pacer.end(accepted=False)
    assert pacer.wait(0.2) == 0


def with_results(count: int) -> Pacer:
    """Return a pacer of a service whose replies hold results, which runs ``count`` tasks since time 0."""
    pacer = Pacer(1000, replies_hold_results=True, limit=count)
    for _ in range(count):
        pacer.start(0.0)
    return pacer


def test_a_result_shows_how_many_tasks_ran_when_its_submission_was_sent() -> None:
    pacer = with_results(9)
    for _ in range(9):
        pacer.accepted(20.0, 0.0, 9)
        pacer.end(accepted=True)
    assert pacer.limit == 18
    pacer.start(21.0)
    pacer.accepted(41.0, 21.0, 19)
    assert pacer.limit == 38


def test_tasks_that_await_their_results_are_not_limited_to_a_hundred() -> None:
    pacer = with_results(500)
    pacer.limit = 1000
    assert pacer.wait(0.0) == 0


def test_a_refusal_lowers_the_limit_to_how_many_await_their_results() -> None:
    pacer = with_results(9)
    for room, sent_at in ((8, 0.0), (7, 0.0), (6, 2.0)):
        pacer.throttled(sent_at + 0.1, sent_at, 0.5)
        pacer.end(accepted=False)
        assert (pacer.limit, pacer.in_flight) == (room, room)


def test_a_result_of_a_submission_before_the_last_refusal_does_not_raise_the_limit() -> None:
    pacer = with_results(9)
    pacer.throttled(0.1, 0.0, 0.5)
    pacer.end(accepted=False)
    pacer.accepted(20.0, 0.0, 9)
    pacer.end(accepted=True)
    assert pacer.limit == 8
    for sent_at in (20.0, 20.0):
        assert pacer.wait(sent_at) == 0
        pacer.start(sent_at)
    pacer.accepted(40.0, 20.0, 9)  # the probe
    assert pacer.limit == 9


def test_a_refusal_of_the_only_task_says_nothing_about_the_room() -> None:
    pacer = with_results(1)
    pacer.throttled(0.1, 0.0, 0.5)
    pacer.end(accepted=False)
    assert (pacer.limit, pacer.in_flight) == (0, 0)
    pacer.start(5.0)
    pacer.accepted(25.0, 5.0, 1)
    assert pacer.limit == 1
    assert pacer.wait(25.0) == pytest.approx(1.0)


def test_a_refusal_lowers_the_limit_to_how_many_run() -> None:
    assert running(4).limit == 4


@pytest.mark.parametrize("refusals_first", [True, False])
def test_refusals_of_one_round_count_once_in_whatever_order_they_come(refusals_first: bool) -> None:  # noqa: FBT001  # a case
    pacer = Pacer(16)
    for _ in range(16):
        pacer.start(0.0)
    steps = ["refused"] * 12 + ["accepted"] * 4
    for number, step in enumerate(steps if refusals_first else reversed(steps)):
        if step == "accepted":
            pacer.accepted(0.1 + number / 1000)
        else:
            pacer.throttled(0.1 + number / 1000, 0.0, 0.5)
            pacer.end(accepted=False)
    assert (pacer.limit, pacer.running, pacer.in_flight) == (4, 4, 4)
    assert pacer.wait(0.2) == pytest.approx(1.0, abs=0.2)


def test_beyond_the_limit_one_at_a_time_tries() -> None:
    pacer = running(4)
    assert pacer.wait(0.2) == pytest.approx(0.9)
    probe(pacer, 1.2)
    assert pacer.wait(100.0) is None


def test_a_try_that_is_accepted_raises_the_limit() -> None:
    pacer = running(4)
    probe(pacer, 2.0)
    pacer.accepted(2.1)
    assert (pacer.limit, pacer.wait(2.1)) == (5, pytest.approx(1.0))


def waits_of_refused_tries(pacer: Pacer, now: float, count: int) -> list[int]:
    """Return the rounded wait before each of several refused probes."""
    waits = []
    for _ in range(count):
        wait = pacer.wait(now)
        assert wait is not None
        waits.append(round(wait))
        now += wait
        probe(pacer, now)
        pacer.throttled(now + 0.1, now, 0.5)
        pacer.end(accepted=False)
        now += 0.1
    return waits


def test_tries_that_are_refused_become_ever_rarer() -> None:
    assert waits_of_refused_tries(running(4), 0.2, 10) == [1, 2, 4, 8, 16, 32, 64, 128, 240, 240]


def test_tries_that_cost_a_long_silence_are_the_rarer() -> None:
    pacer, now, waits = running(4), 1.2, []
    for _ in range(6):
        probe(pacer, now)
        pacer.pause(now + 30.0, now)
        pacer.throttled(now, now, 0.5)
        pacer.end(accepted=False)
        waits.append(pacer.wait(now))
        now += waits[-1] or 0.0
    assert waits == pytest.approx([150.0, 270.0, 510.0, 990.0, 1230.0, 1230.0])


def test_a_silence_makes_no_tries_rarer_while_nothing_runs() -> None:
    pacer = Pacer(4)
    pacer.start(0.0)
    pacer.pause(30.0, 0.0)
    pacer.throttled(0.0, 0.0, 0.5)
    pacer.end(accepted=False)
    pacer.start(31.0)
    pacer.pause(61.0, 0.0)
    pacer.throttled(31.0, 31.0, 0.5)
    pacer.end(accepted=False)
    assert pacer.wait(31.0) == pytest.approx(32.0)


def test_while_nothing_runs_a_try_comes_every_half_minute_at_least() -> None:
    assert waits_of_refused_tries(Pacer(16), 0.0, 8) == [0, 1, 2, 4, 8, 16, 30, 30]


def test_what_is_refused_while_nothing_runs_makes_tries_for_more_room_no_rarer() -> None:
    pacer, now = Pacer(16), 0.0
    for _ in range(10):  # refused during an outage
        now += pacer.wait(now) or 0.0
        pacer.start(now)
        pacer.throttled(now, now, 0.5)
        pacer.end(accepted=False)
    for running in range(1, 5):
        now += pacer.wait(now) or 0.0
        pacer.start(now)
        pacer.accepted(now)
        assert pacer.running == running
        assert pacer.wait(now) == pytest.approx(1.0)


def test_several_clients_of_an_account_come_back_at_different_times() -> None:
    waits = set()
    for draw in (0.0, 0.5, 1.0):
        pacer = Pacer(4)
        pacer.start(0.0)
        pacer.throttled(0.1, 0.0, draw)
        pacer.end(accepted=False)
        waits.add(pacer.wait(0.1))
    assert waits == {0.75, 1.0, 1.25}


def test_an_end_below_the_limit_lets_the_next_start_at_once() -> None:
    pacer = running(4)
    pacer.end(accepted=True)
    assert pacer.wait(0.2) == 0


def refused(times: int) -> tuple[Pacer, float]:
    """Return a pacer with a limit of 4 whose last probes were refused, and the time of the last refusal."""
    pacer, now = running(4), 0.2
    for _ in range(times):
        now += pacer.wait(now) or 0.0
        probe(pacer, now)
        pacer.throttled(now, now, 0.5)
        pacer.end(accepted=False)
    return pacer, now


def test_a_refusal_below_the_limit_lowers_it_and_tries_soon_begin_anew() -> None:
    pacer, now = refused(5)
    pacer.end(accepted=True)
    probe(pacer, now + 1)
    pacer.throttled(now + 1.1, now + 1, 0.5)
    pacer.end(accepted=False)
    assert (pacer.limit, pacer.wait(now + 1.1)) == (3, pytest.approx(1.0))


def gained_by_chance() -> tuple[Pacer, float]:
    """Return a pacer whose probes wait 16 s. The last probe took the place of a task whose end was still unknown."""
    pacer, now = refused(4)
    now += pacer.wait(now) or 0.0
    probe(pacer, now)
    pacer.accepted(now)
    return pacer, now


def refuse_below_the_limit(pacer: Pacer, now: float) -> None:
    pacer.end(accepted=True)
    probe(pacer, now)
    pacer.throttled(now, now, 0.5)
    pacer.end(accepted=False)


def test_a_try_that_succeeded_by_chance_makes_tries_rarer() -> None:
    pacer, now = gained_by_chance()
    refuse_below_the_limit(pacer, now + 0.1)
    assert (pacer.limit, pacer.wait(now + 0.1)) == (4, pytest.approx(32.0))


def test_further_refusals_soon_after_such_a_try_do_not_make_tries_frequent() -> None:
    pacer, now = gained_by_chance()
    refuse_below_the_limit(pacer, now + 0.1)
    refuse_below_the_limit(pacer, now + 1.0)
    assert (pacer.limit, pacer.wait(now + 1.0)) == (3, pytest.approx(32.0))
    refuse_below_the_limit(pacer, now + 33.0)
    assert (pacer.limit, pacer.wait(now + 33.0)) == (2, pytest.approx(1.0))


def test_tries_become_more_frequent_only_after_one_whose_gain_lasted() -> None:
    pacer, now = gained_by_chance()
    assert pacer.wait(now) == pytest.approx(16.0)
    now += 16.0
    probe(pacer, now)
    pacer.accepted(now)
    assert (pacer.limit, pacer.wait(now)) == (6, pytest.approx(8.0))


# Requests per second.


def feed(rate: RequestRate, now: float, count: int, allowed: float) -> float:
    """Send requests as fast as the rate allows, with more than ``allowed`` in a second refused."""
    admitted: list[float] = []
    for _ in range(count):
        now = max(now, rate.next_at)
        rate.sent(now)
        admitted = [at for at in admitted if at > now - 1.0]
        if len(admitted) < allowed:
            admitted.append(now)
            rate.let_in(now)
        else:
            rate.refused(now, now)
        now += 1e-4
    return now


def test_nothing_is_spaced_before_the_service_refuses() -> None:
    rate = RequestRate()
    for _ in range(1000):
        rate.sent(5.0)
        rate.let_in(5.0)
    assert (rate.limit, rate.next_at) == (math.inf, -math.inf)


def test_a_refusal_lowers_the_rate_to_just_below_what_was_let_in() -> None:
    rate = RequestRate()
    for _ in range(20):
        rate.let_in(10.0)
    rate.refused(10.1, 10.05)
    assert (rate.limit, rate.next_at) == (19.0, pytest.approx(10.1 + 1 / 19))


def test_a_refusal_after_a_lull_only_halves_what_has_worked() -> None:
    rate = RequestRate()
    for _ in range(20):
        rate.let_in(10.0)
    rate.refused(60.0, 59.9)
    assert rate.limit == 10.0


def test_what_was_sent_before_the_rate_was_lowered_says_nothing_new() -> None:
    rate = RequestRate()
    rate.refused(10.0, 9.9)
    limit = rate.limit
    rate.refused(10.5, 9.95)
    assert rate.limit == limit


def test_the_rate_never_falls_below_one_in_five_seconds() -> None:
    rate = RequestRate()
    for now in range(0, 100, 2):
        rate.refused(now + 1.0, now + 0.5)
    assert rate.limit == 0.2


def test_the_rate_is_raised_only_while_requests_have_to_wait_for_it() -> None:
    rate = RequestRate()
    rate.refused(0.0, -0.1)
    for now in range(10, 100, 10):
        rate.sent(now)
        rate.let_in(now)
    assert rate.limit == 1.0
    rate.sent(91.0)
    rate.let_in(91.0)
    assert rate.limit == 1.25


def wait_and_let_in(rate: RequestRate, now: float) -> None:
    """Send a request that had to wait for the rate."""
    rate.next_at = now
    rate.sent(now)
    rate.let_in(now)


def test_each_raise_takes_requests_that_waited_since_the_last_change() -> None:
    rate = RequestRate(limit=2.0)
    rate.sent(0.0)
    rate.sent(0.0)  # waits for the old rate
    rate.refused(0.1, 0.1)
    rate.let_in(50.0)
    assert rate.limit == 1.0
    wait_and_let_in(rate, 60.0)
    assert rate.limit == 1.25
    rate.let_in(120.0)
    assert rate.limit == 1.25


def test_raises_that_are_taken_back_become_rarer_and_ones_that_last_more_frequent() -> None:
    rate, pauses, now = RequestRate(), [], 0.0
    rate.refused(now, now)
    for last in (False, False, False, True, True, True):
        began_at, limit = now, rate.limit
        while rate.limit == limit:
            now += 1.0
            wait_and_let_in(rate, now)
        pauses.append(now - began_at)
        if not last:
            rate.refused(now, now)
    assert pauses == [5.0, 10.0, 20.0, 40.0, 40.0, 20.0]
    rate.raised = False
    rate.refused(now + 0.1, now + 0.1)  # does not undo a rise, so the search begins anew
    limit = rate.limit
    wait_and_let_in(rate, now + 5.2)
    assert rate.limit == 1.25 * limit


def test_accepted_submissions_tell_what_rate_works() -> None:
    pacer = running(8)
    assert pacer.rate.limit == pytest.approx(0.95 * 8)


def test_a_refusal_from_before_the_last_one_does_not_take_the_room_of_what_ended_meanwhile() -> None:
    pacer = running(4)
    pacer.end(accepted=True)
    pacer.throttled(0.2, 0.0, 0.5)
    assert pacer.limit == 4


@pytest.mark.parametrize("allowed", [2, 10, 100])
def test_the_rate_comes_close_to_what_is_allowed_with_few_refusals(allowed: int) -> None:
    rate, refusals = RequestRate(), []
    original = RequestRate.refused

    class Counting(RequestRate):
        def refused(self, now: float, sent_at: float) -> None:
            refusals.append(now)
            original(self, now, sent_at)

    rate = Counting()
    start = feed(rate, 0.0, allowed + 3, allowed)
    refusals.clear()
    count = 600 * allowed
    end = feed(rate, start, count, allowed)
    assert 0.8 * allowed < count / (end - start) <= 1.05 * allowed
    assert len(refusals) < 0.02 * count


def test_a_rate_that_was_lowered_for_nothing_recovers() -> None:
    rate = RequestRate()
    for now in range(10):
        rate.refused(now + 1.0, now + 0.5)
    assert rate.limit == 0.2
    now = feed(rate, 20.0, 1000, math.inf)
    assert rate.limit > 20
    assert now < 200


def test_a_refusal_while_the_rate_is_on_trial_takes_the_trial_back_and_not_the_room() -> None:
    pacer = running(4)
    pacer.rate = RequestRate(limit=2.5, raised=True)
    pacer.end(accepted=True)
    probe(pacer, 5.0)
    pacer.throttled(5.1, 5.0, 0.5)
    pacer.end(accepted=False)
    assert (pacer.limit, pacer.wait(5.1)) == (4, 0)
    assert pacer.rate.limit == 2.0


def test_a_refusal_while_nothing_runs_lowers_the_rate_as_well() -> None:
    pacer = running(2)
    for _ in range(2):
        pacer.end(accepted=True)
    rate = pacer.rate.limit
    pacer.start(5.0)
    pacer.throttled(5.1, 5.0, 0.5)
    assert pacer.rate.limit < rate


def test_a_refusal_always_lowers_the_rate() -> None:
    rate = RequestRate(limit=4.0)
    for number in range(20):  # the service accepts them all, so the refusal has another reason
        rate.let_in(10.0 + number / 20)
    rate.refused(11.0, 10.99)
    assert rate.limit == pytest.approx(3.8)


def test_however_often_raises_are_taken_back_there_is_another() -> None:
    rate, now = RequestRate(limit=4.0), 0.0
    for _ in range(12):
        now += 1000.0
        wait_and_let_in(rate, now)
        wait_and_let_in(rate, now)
        rate.refused(now + 0.1, now + 0.05)
        again, limit = copy.deepcopy(rate), rate.limit
        wait_and_let_in(again, now + 321.0)
        assert again.limit > limit


def test_a_request_that_waited_counts_though_the_next_did_not() -> None:
    rate = RequestRate(limit=2.0)
    rate.refused(0.0, -1.0)
    lowered = rate.limit
    for time in (1.0, 1.1, 30.0):
        rate.sent(time)
    rate.let_in(30.1)
    assert rate.limit > lowered


@pytest.mark.parametrize("check", [False, True])
def test_after_a_check_others_that_wait_go_first(check: bool) -> None:  # noqa: FBT001  # a case
    pacer = Pacer(4)
    pacer.rate.limit = 2.0
    pacer.sent(10.0, check=check)
    assert pacer.check_at == pacer.send_at == 10.5
    pacer.turn_wanted = True
    assert (pacer.check_at > pacer.turn_at) is check
    assert pacer.send_at < pacer.turn_at


def test_what_is_accepted_within_the_limit_does_not_change_it() -> None:
    pacer = running(4)
    pacer.end(accepted=True)
    pacer.start(1.0)
    pacer.accepted(1.1)
    assert pacer.limit == 4
