from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_edit_async.batch.rules.budget import Budget, Verdict
from qwen_edit_async.batch.rules.report import JournalSummary


def settle(budget: Budget, pictures: int, cost: Decimal | None) -> None:
    budget.created()
    budget.completed(pictures, cost, made=pictures)


def test_an_empty_budget_never_stops():
    budget = Budget()
    assert {budget.admit(6) for _ in range(100)} == {Verdict.GO}


def test_no_more_tasks_than_allowed_are_admitted():
    budget = Budget(max_tasks=2, tasks=1)
    assert budget.admit(1) is Verdict.GO
    assert budget.admit(1) is Verdict.WAIT
    settle(budget, 1, None)
    assert budget.admit(1) is Verdict.STOP
    assert budget.stopped == "2 tasks created (max_tasks=2)"


def test_a_refused_submission_leaves_room_for_another():
    budget = Budget(max_tasks=1)
    budget.admit(1)
    budget.rejected(1)
    assert budget.admit(1) is Verdict.GO


def test_until_a_price_is_seen_edits_go_one_at_a_time():
    budget = Budget(max_cost=Decimal(10))
    assert [budget.admit(1), budget.admit(1)] == [Verdict.GO, Verdict.WAIT]
    settle(budget, 1, Decimal(1))
    assert [budget.admit(1) for _ in range(10)] == [*[Verdict.GO] * 9, Verdict.WAIT]


def test_a_given_price_of_0_does_not_let_edits_go_together():
    budget = Budget(max_cost=Decimal(1), price=Decimal(0))
    assert [budget.admit(1), budget.admit(1)] == [Verdict.GO, Verdict.WAIT]


def test_with_a_given_price_edits_need_not_go_one_at_a_time():
    budget = Budget(max_cost=Decimal(5), price=Decimal(2))
    assert [budget.admit(1) for _ in range(3)] == [Verdict.GO, Verdict.GO, Verdict.WAIT]
    budget.completed(1, Decimal(1), made=1)
    assert budget.admit(1) is Verdict.GO
    budget.resume(JournalSummary(price=Decimal(3)))
    assert budget.admit(2) is Verdict.WAIT


def test_a_given_price_does_not_hide_that_the_service_states_none():
    budget = Budget(max_cost=Decimal(5), price=Decimal(2))
    assert [budget.admit(1), budget.admit(1)] == [Verdict.GO, Verdict.GO]
    budget.completed(1, None, made=1)
    assert budget.admit(1) is Verdict.WAIT
    budget.completed(1, None, made=1)
    assert budget.admit(1) is Verdict.STOP
    assert (budget.limit, "does not say what edits cost" in budget.stopped) == ("", True)


def test_without_prices_a_limit_of_cost_can_not_be_kept():
    budget = Budget(max_cost=Decimal(10))
    budget.admit(1)
    settle(budget, 1, None)
    assert budget.admit(1) is Verdict.STOP
    assert "does not say what edits cost" in budget.stopped


def test_a_completed_edit_without_a_cost_counts_at_the_known_price():
    budget = Budget(max_cost=Decimal(3))
    for cost in (Decimal(1), None, None):
        assert budget.admit(1) is Verdict.GO
        settle(budget, 1, cost)
    assert (budget.admit(1), budget.limit) == (Verdict.STOP, "max_cost")


def test_what_earlier_runs_spent_counts():
    budget = Budget(max_cost=Decimal(1), spent=Decimal(1))
    assert budget.admit(1) is Verdict.STOP


def test_the_price_that_earlier_runs_saw_and_what_they_may_have_spent_count():
    budget = Budget(max_cost=Decimal(4))
    budget.resume(JournalSummary(cost=Decimal(1), tasks=2, price=Decimal(1), doubtful=1))
    assert [budget.admit(1) for _ in range(3)] == [Verdict.GO, Verdict.GO, Verdict.WAIT]


def test_edits_without_a_price_in_earlier_runs_end_a_run_that_must_keep_a_cost():
    budget = Budget(max_cost=Decimal(4))
    budget.resume(JournalSummary(tasks=1, unpriced=1))
    assert budget.admit(1) is Verdict.STOP


def test_an_edit_that_may_still_be_charged_is_reckoned_with():
    budget = Budget(max_cost=Decimal(3))
    budget.admit(1)
    settle(budget, 1, Decimal(1))
    budget.adopt(1)
    budget.ended(1, chargeable=True)
    assert budget.admit(1) is Verdict.GO
    settle(budget, 1, Decimal(1))
    assert budget.admit(1) is Verdict.STOP


def test_until_a_price_is_known_nothing_follows_an_edit_that_may_have_been_charged():
    budget = Budget(max_cost=Decimal(9), price=Decimal(0))
    assert budget.admit(1) is Verdict.GO
    budget.created()
    budget.ended(1, chargeable=True)
    assert (budget.admit(1), budget.limit) == (Verdict.STOP, "")
    advice = "give the price of a picture as price=…, or use max_tasks instead of max_cost"
    assert budget.stopped == f"an edit may have been charged, but no price is known: {advice}"


def test_a_known_price_counts_for_an_edit_that_may_have_been_charged():
    budget = Budget(max_cost=Decimal(2), price=Decimal(1))
    assert budget.admit(1) is Verdict.GO
    budget.created()
    budget.ended(1, chargeable=True)
    assert [budget.admit(1), budget.admit(1)] == [Verdict.GO, Verdict.WAIT]


def test_after_an_earlier_edit_that_may_have_been_charged_others_wait_for_a_price():
    budget = Budget(max_cost=Decimal(2))
    budget.resume(JournalSummary(tasks=2, doubtful=1))
    budget.adopt(1)
    assert budget.admit(1) is Verdict.WAIT
    budget.completed(1, Decimal("0.5"), made=1)
    assert [budget.admit(1) for _ in range(3)] == [Verdict.GO, Verdict.GO, Verdict.WAIT]
    budget = Budget(max_cost=Decimal(2))
    budget.resume(JournalSummary(tasks=1, doubtful=1))
    assert budget.admit(1) is Verdict.STOP


def test_an_edit_that_is_free_is_not_reckoned_with():
    budget = Budget(max_cost=Decimal(2))
    budget.admit(1)
    settle(budget, 1, Decimal(1))
    budget.admit(1)
    budget.created()
    budget.ended(1, chargeable=False)
    assert budget.admit(1) is Verdict.GO


def test_an_edit_that_gave_fewer_pictures_tells_the_price_of_those():
    budget = Budget(max_cost=Decimal(6))
    budget.admit(4)
    budget.created()
    budget.completed(4, Decimal(1), made=1)
    assert [budget.admit(4), budget.admit(4)] == [Verdict.GO, Verdict.WAIT]


def test_a_picture_that_was_not_asked_for_lowers_no_price():
    budget = Budget(max_cost=Decimal(3))
    budget.admit(1)
    budget.created()
    budget.completed(1, Decimal(1), made=2)
    assert [budget.admit(1) for _ in range(3)] == [Verdict.GO, Verdict.GO, Verdict.WAIT]


@pytest.mark.parametrize("cost", [0, 1])
def test_an_edit_without_a_result_is_spent_and_tells_no_price(cost):
    budget = Budget(max_cost=Decimal(9))
    budget.adopt(1)
    budget.ended(1, chargeable=False, cost=Decimal(cost))
    assert budget.spent == cost
    assert [budget.admit(1), budget.admit(1)] == [Verdict.GO, Verdict.WAIT]


def test_an_edit_for_free_tells_no_price():
    budget = Budget(max_cost=Decimal(9))
    budget.admit(1)
    settle(budget, 1, Decimal(0))
    assert [budget.admit(1), budget.admit(1)] == [Verdict.GO, Verdict.WAIT]


def test_until_a_price_is_seen_an_edit_may_cost_as_much_as_another_did():
    budget = Budget(max_cost=Decimal(5))
    budget.resume(JournalSummary(cost=Decimal(2), highest=Decimal(1)))
    budget.admit(1)
    budget.created()
    budget.ended(1, chargeable=False, cost=Decimal(2))
    assert budget.admit(1) is Verdict.STOP


def test_until_a_price_is_seen_the_most_expensive_edit_of_earlier_runs_counts():
    budget = Budget(max_cost=Decimal(5))
    budget.resume(JournalSummary(cost=Decimal(4), highest=Decimal(2)))
    assert budget.admit(1) is Verdict.STOP


@pytest.mark.parametrize("counted", [1, 0, 3])
def test_a_cost_that_an_earlier_run_counted_is_not_counted_twice(counted):
    budget = Budget(max_cost=Decimal(3), spent=Decimal(counted))
    budget.adopt(1)
    budget.completed(1, Decimal(2), made=1, counted=Decimal(counted))
    budget.adopt(1)
    budget.ended(1, chargeable=True, cost=Decimal(1), counted=Decimal(1))
    assert budget.spent == 2


def test_a_number_of_failures_stops():
    budget = Budget(stop_after_failures=2)
    budget.failed()
    assert budget.admit(1) is Verdict.GO
    budget.failed()
    assert budget.admit(1) is Verdict.STOP
    assert budget.stopped == "2 edits failed (stop_after_failures=2)"


def test_a_service_that_can_not_be_reached_stops():
    budget = Budget()
    for _ in range(20):
        assert not budget.stopped
        budget.failed(unreachable=True)
    assert budget.stopped == "the service could not be reached for 20 edits in a row"


def test_a_service_that_can_be_reached_now_and_then_does_not_stop():
    budget = Budget()
    for _ in range(30):
        budget.failed(unreachable=True)
        budget.admit(1)
        budget.created()
    assert not budget.stopped


def submit(budget: Budget) -> None:
    assert budget.admit(1) is Verdict.GO
    budget.created()


def lose(budget: Budget, reason: str = "blocked", *, earlier: bool = False) -> bool:
    """Fail to fetch the pictures of a completed edit. Return whether this holds the run."""
    budget.fetching.add(1)
    held = budget.unsaved(reason, earlier=earlier)
    budget.fetching.remove(1)
    return held


def test_after_a_result_that_is_lost_edits_go_one_at_a_time_until_one_is_saved():
    budget = Budget()
    lose(budget)
    submit(budget)
    assert budget.admit(1) is Verdict.WAIT
    budget.completed(1, None, made=1)
    budget.fetching.add(1)
    assert budget.admit(1) is Verdict.WAIT
    budget.fetching.clear()
    budget.saved()
    submit(budget)
    submit(budget)


def test_nothing_is_submitted_while_the_first_results_are_fetched():
    budget = Budget()
    submit(budget)
    submit(budget)
    budget.completed(1, None, made=1)
    budget.fetching.add(1)
    assert budget.admit(1) is Verdict.WAIT
    budget.saved()
    assert budget.admit(1) is Verdict.GO


def test_until_an_edit_is_saved_no_more_are_unfinished_than_have_slots():
    budget = Budget(slots=2)
    assert [budget.admit(1) for _ in range(3)] == [Verdict.GO, Verdict.GO, Verdict.WAIT]
    budget.saved()
    assert [budget.admit(1) for _ in range(3)] == [Verdict.GO] * 3


def test_nothing_is_submitted_after_three_lost_results_until_one_is_saved():
    budget = Budget()
    budget.adopt(1)
    assert [lose(budget, reason) for reason in ("blocked", "broken", "broken", "broken")] == [False, False, True, False]
    assert budget.admit(1) is Verdict.WAIT
    budget.saved()
    assert budget.admit(1) is Verdict.GO


def test_the_run_ends_when_three_results_are_lost_and_none_is_to_come():
    budget = Budget()
    budget.fetching.add(0)
    for _ in range(3):
        lose(budget)
    assert budget.admit(1) is Verdict.WAIT
    budget.fetching.clear()
    assert budget.admit(1) is Verdict.STOP
    assert budget.stopped == "the pictures of 3 completed edits in a row could not be saved: blocked"


def test_results_of_earlier_runs_that_are_lost_leave_one_edit_to_try():
    budget = Budget()
    for _ in range(9):
        assert not lose(budget, earlier=True)
    submit(budget)
    assert budget.admit(1) is Verdict.WAIT
    budget.completed(1, None, made=1)
    assert lose(budget)
    assert budget.admit(1) is Verdict.STOP


def test_a_result_that_is_saved_breaks_the_row_of_those_that_are_not():
    budget = Budget()
    for _ in range(3):
        lose(budget)
        lose(budget)
        budget.saved()
    assert budget.admit(1) is Verdict.GO


def test_the_first_reason_to_stop_counts():
    budget = Budget()
    budget.stop("one")
    budget.stop("two")
    assert budget.stopped == "one"


@given(
    prices=st.lists(st.integers(1, 5), min_size=1, max_size=30),
    limit=st.integers(1, 40),
    pictures=st.integers(1, 6),
    order=st.randoms(use_true_random=False),
)
def test_the_cost_never_exceeds_its_limit_while_prices_do_not_rise(prices, limit, pictures, order):
    prices.sort(reverse=True)
    budget = Budget(max_cost=Decimal(limit))
    running: list[int] = []
    cost = Decimal(0)
    while (verdict := budget.admit(pictures)) is not Verdict.STOP and len(prices) > 0:
        if verdict is Verdict.GO:
            budget.created()
            running.append(prices.pop(0))
            continue
        price = running.pop(order.randrange(len(running)))
        budget.completed(pictures, Decimal(price * pictures), made=pictures)
        cost += price * pictures
    cost += sum(running) * pictures
    assert cost <= max(limit, 5 * pictures)  # the very first edit tells the price


def test_an_admitted_edit_is_confirmed_as_often_as_it_is_sent_while_nothing_has_changed():
    budget = Budget(max_cost=Decimal(4), max_tasks=2, price=Decimal(2), slots=2)
    assert [budget.admit(1), budget.admit(1)] == [Verdict.GO, Verdict.GO]
    assert [budget.confirm(1) for _ in range(3)] == [True] * 3
    budget.rejected(1)
    assert [budget.admit(1), budget.admit(1)] == [Verdict.GO, Verdict.WAIT]


def test_edits_that_were_admitted_at_a_lower_price_are_not_confirmed_until_they_fit():
    budget = Budget(max_cost=Decimal(5), price=Decimal(1))
    assert [budget.admit(1) for _ in range(4)] == [Verdict.GO] * 4
    settle(budget, 1, Decimal(2))
    assert not budget.confirm(1)
    budget.rejected(1)
    assert not budget.confirm(1)
    budget.rejected(1)
    assert budget.confirm(1)
    assert not budget.stopped


def test_the_last_edit_that_is_not_confirmed_stops_the_run():
    budget = Budget(max_cost=Decimal(5), price=Decimal(1))
    assert [budget.admit(1), budget.admit(1)] == [Verdict.GO, Verdict.GO]
    settle(budget, 1, Decimal(3))
    assert not budget.confirm(1)
    assert (budget.limit, budget.stopped) == ("max_cost", "3 was spent, and the next edit could exceed max_cost=5")
    budget.rejected(1)
    assert budget.admit(1) is Verdict.STOP


def test_no_edit_is_confirmed_once_the_run_has_stopped_or_holds_submissions():
    stopped, held = Budget(), Budget()
    assert [stopped.admit(1), held.admit(1)] == [Verdict.GO, Verdict.GO]
    stopped.stop("enough")
    assert not stopped.confirm(1)
    assert [held.unsaved("the disk is full", earlier=False) for _ in range(3)] == [False, False, True]
    assert not held.confirm(1)
    held.saved()
    assert held.confirm(1)


def test_an_admitted_edit_does_not_wait_for_an_edit_that_hangs_after_pictures_could_not_be_saved():
    budget = Budget(slots=3)
    assert [budget.admit(1) for _ in range(3)] == [Verdict.GO] * 3
    settle(budget, 1, None)
    budget.unsaved("403", earlier=False)
    assert budget.admit(1) is Verdict.WAIT
    assert budget.confirm(1)


@given(
    prices=st.lists(st.integers(1, 9), min_size=1, max_size=30),
    limit=st.integers(1, 60),
    order=st.randoms(use_true_random=False),
)
def test_no_edit_is_sent_that_could_exceed_the_limit_at_the_highest_price_so_far(prices, limit, order):
    budget = Budget(max_cost=Decimal(limit), price=Decimal(1))
    known, spent, sent, waiting = 1, 0, [], 0
    while sent or waiting or (prices and not budget.stopped):
        if prices and budget.admit(1) is Verdict.GO:
            waiting += 1
        elif waiting and order.random() < 0.5:
            waiting -= 1
            if not prices or not budget.confirm(1):
                budget.rejected(1)
                continue
            assert spent + (len(sent) + 1) * known <= limit
            budget.created()
            sent.append(prices.pop())
        elif sent:
            price = sent.pop(order.randrange(len(sent)))
            spent += price
            known = max(known, price)
            budget.completed(1, Decimal(price), made=1)
    assert budget.spent == spent


def test_tasks_of_earlier_runs_count_as_if_they_had_slots():
    budget = Budget(slots=2)
    budget.adopt(1)
    budget.attached = 1
    budget.saved()
    submit(budget)
    assert budget.admit(1) is Verdict.WAIT
    budget.completed(1, None, made=1)
    budget.attached = 0
    submit(budget)
    submit(budget)
