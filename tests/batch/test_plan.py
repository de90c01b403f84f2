from __future__ import annotations

import errno
import itertools
from decimal import Decimal
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_edit_async import (
    APIResponseError,
    BadRequestError,
    DeadlineExceededError,
    EditFailedError,
    EditParameters,
    EditRequest,
    InvalidEditError,
    NotFoundError,
    RateLimitError,
    SubmitUncertainError,
)
from qwen_edit_async.batch.plan import (
    MOVES,
    ORIGINS,
    Budget,
    Change,
    State,
    Step,
    Verdict,
    change_of,
    content_hash,
    describe,
    key_of,
    lack_of_balance,
    next_step,
    other_request,
    reason_of,
    stamp_of,
    state_after,
)

REQUEST = EditRequest("photos/cat.jpg", "make it snow", EditParameters(n=2, seed=7))


@pytest.mark.parametrize(
    ("state", "consent"), sorted({*itertools.product(State, [False, True])} - {(State.UNCERTAIN, True)}, key=str)
)
def test_what_has_a_task_is_never_submitted_again(state, consent):
    assert next_step(state, has_task=True, resubmit_uncertain=consent) not in {Step.SUBMIT, Step.REPLAN}


@pytest.mark.parametrize(
    ("state", "has_task", "consent", "step"),
    [
        (State.PLANNED, False, False, Step.SUBMIT),
        (State.SUBMITTING, False, True, Step.LEAVE),
        (State.SUBMITTED, True, False, Step.ATTACH),
        (State.COMPLETED, True, False, Step.DOWNLOAD),
        (State.SAVED, True, False, Step.VERIFY),
        (State.FAILED, False, False, Step.REPLAN),
        (State.FAILED, True, True, Step.LEAVE),
        (State.UNCERTAIN, False, False, Step.LEAVE),
        (State.UNCERTAIN, False, True, Step.SUBMIT),
        (State.UNCERTAIN, True, False, Step.ATTACH),
        (State.UNCERTAIN, True, True, Step.SUBMIT),
    ],
)
def test_a_run_goes_on_from_where_an_edit_stands(state, has_task, consent, step):
    assert next_step(state, has_task=has_task, resubmit_uncertain=consent) is step


def test_a_completed_edit_whose_pictures_are_not_known_is_asked_for_again():
    assert next_step(State.COMPLETED, has_task=True, has_urls=False, resubmit_uncertain=False) is Step.ATTACH


@pytest.mark.parametrize(
    ("state", "error", "after"),
    [
        (State.SUBMITTED, EditFailedError("no"), State.FAILED),
        (State.SUBMITTED, APIResponseError("no picture"), State.COMPLETED),
        (State.SUBMITTED, NotFoundError("gone"), State.UNCERTAIN),
        (State.SUBMITTED, DeadlineExceededError("late"), State.SUBMITTED),
        (State.SUBMITTED, ValueError(), State.SUBMITTED),
        (State.UNCERTAIN, EditFailedError("no"), State.FAILED),
        (State.UNCERTAIN, DeadlineExceededError("late"), State.SUBMITTED),
        (State.COMPLETED, EditFailedError("no"), State.COMPLETED),
        (State.COMPLETED, NotFoundError("gone"), State.COMPLETED),
        (State.COMPLETED, DeadlineExceededError("late"), State.COMPLETED),
    ],
)
def test_where_an_edit_stands_when_the_wait_for_it_fails(state, error, after):
    assert state_after(state, error) is after
    assert after in MOVES[state]


@pytest.mark.parametrize(
    ("origin", "target"),
    [
        (State.SUBMITTED, State.PLANNED),
        (State.SUBMITTED, State.SUBMITTING),
        (State.COMPLETED, State.UNCERTAIN),
        (State.COMPLETED, State.SUBMITTING),
        (State.COMPLETED, State.FAILED),
        (State.SAVED, State.SUBMITTING),
        (State.SAVED, State.PLANNED),
        (State.PLANNED, State.SUBMITTED),
        (State.PLANNED, State.SAVED),
    ],
)
def test_no_move_forgets_a_task_or_skips_a_step(origin, target):
    assert target not in MOVES[origin]


def test_every_move_is_known_from_its_target_too():
    moves = {(origin, target) for origin, targets in MOVES.items() for target in targets}
    assert {(origin, target) for target, origins in ORIGINS.items() for origin in origins} == moves


def test_every_state_can_be_reached():
    assert all(ORIGINS.values())


@pytest.mark.parametrize("state", [state for state in State if state is not State.FAILED])
def test_a_request_can_not_be_changed_once_it_counts(state):
    assert change_of(state, has_task=False, edit_changed=False) is Change.REFUSE


def test_a_request_that_failed_unpaid_can_be_changed():
    assert change_of(State.FAILED, has_task=False, edit_changed=False) is Change.REDRAFT
    assert change_of(State.FAILED, has_task=True, edit_changed=False) is Change.REFUSE


@pytest.mark.parametrize(
    ("state", "has_task", "change"),
    [
        (State.PLANNED, False, Change.REDRAFT),
        (State.FAILED, False, Change.REDRAFT),
        (State.FAILED, True, Change.REPLACE),
        (State.SAVED, True, Change.REPLACE),
        (State.UNCERTAIN, False, Change.REPLACE),
        (State.UNCERTAIN, True, Change.REPLACE),
        (State.PLANNED, True, Change.REFUSE),
        (State.SUBMITTING, False, Change.REFUSE),
        (State.SUBMITTED, True, Change.REFUSE),
        (State.COMPLETED, True, Change.REFUSE),
        (State.REPLACED, True, Change.REFUSE),
    ],
)
def test_with_consent_a_changed_request_is_edited_anew_unless_it_is_under_way(state, has_task, change):
    assert change_of(state, has_task=has_task, edit_changed=True) is change
    assert (change is Change.REPLACE) <= (State.REPLACED in MOVES[state])


def test_a_refusal_names_the_option_or_says_to_wait():
    assert "edit_changed=True (--edit-changed)" in other_request(edit_changed=False)
    assert "under way, so run it again later" in other_request(edit_changed=True)


@pytest.mark.parametrize(
    ("hashes", "request_"),
    [
        (["b", "a"], REQUEST),
        (["a"], REQUEST),
        (["a", "b"], attrs.evolve(REQUEST, instruction="make it rain")),
        *(
            (["a", "b"], attrs.evolve(REQUEST, parameters=attrs.evolve(REQUEST.parameters, **change)))
            for change in (
                {"n": 3},
                {"n": None},
                {"negative_prompt": "fog"},
                {"size": "1024*1024"},
                {"prompt_extend": False},
                {"watermark": True},
                {"seed": 8},
            )
        ),
    ],
)
def test_whatever_changes_the_edit_changes_its_hash(hashes, request_):
    assert content_hash(hashes, request_) != content_hash(["a", "b"], REQUEST)


def test_key_and_metadata_are_not_part_of_the_hash():
    named = attrs.evolve(REQUEST, key="other", metadata={"row": 1})
    assert content_hash(["a"], named) == content_hash(["a"], REQUEST)


def test_there_is_no_stamp_if_one_image_has_none():
    assert stamp_of(["a", None], REQUEST) == ""
    assert stamp_of(["a", "b"], REQUEST) != stamp_of(["a", "c"], REQUEST)


def test_the_own_key_is_the_key():
    assert key_of(attrs.evolve(REQUEST, key="mine"), ["a"]) == "mine"


def test_without_a_key_the_name_of_the_image_tells_the_edit_apart_not_its_content():
    key = key_of(REQUEST, ["a"])
    assert key.startswith("cat-")
    assert key == key_of(REQUEST, ["b"])
    assert key == key_of(attrs.evolve(REQUEST, images=Path("photos/cat.jpg")), ["a"])
    assert key != key_of(attrs.evolve(REQUEST, instruction="make it rain"), ["a"])
    assert key != key_of(attrs.evolve(REQUEST, images="other/cat.jpg"), ["a"])


def test_without_a_name_the_content_tells_the_edit_apart():
    request = attrs.evolve(REQUEST, images=b"bytes")
    assert key_of(request, ["a"]) == key_of(request, ["a"])
    assert key_of(request, ["a"]) != key_of(request, ["b"])


def test_the_key_of_a_url_is_its_last_part():
    assert key_of(attrs.evolve(REQUEST, images="https://host/path/dog.png?size=1"), ["a"]).startswith("dog-")


def test_the_description_names_what_can_be_found():
    request = attrs.evolve(REQUEST, images=["cat.jpg", b"bytes"])
    assert describe(request) == (
        '{"images": ["cat.jpg", null], "instruction": "make it snow", "parameters": {"n": 2, "seed": 7}}'
    )


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (EditFailedError("refused by moderation", code=110001, task_id="t1"), "refused by moderation (code 110001)"),
        (EditFailedError("no reason", task_id="t1"), "no reason"),
        (RateLimitError("slow down", status_code=429, request_id="r9"), "too many requests, until the deadline"),
        (BadRequestError("bad size", status_code=400, request_id="r9"), "bad size (HTTP 400)"),
        (
            NotFoundError("no task t1", status_code=404, task_id="t1"),
            "the service does not know the task (any more), which may have been charged",
        ),
        (NotFoundError("no such path", status_code=404), "no such path (HTTP 404)"),
        (InvalidEditError("image 1 (photos/cat.jpg) does not exist"), "image 1 does not exist"),
        (SubmitUncertainError("task t1 may exist", task_id="t1"), "task … may exist"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/out/.cat-0.png.part"),
            "a file can't be written: No space left on device",
        ),
        (ValueError(), "ValueError"),
    ],
)
def test_reasons_do_not_name_the_single_edit(error, reason):
    assert reason_of(error, REQUEST) == reason


def test_the_reason_of_an_uncertain_submission_is_its_cause():
    error = SubmitUncertainError("a task may exist: look at the account, or allow it")
    error.__cause__ = ConnectionError("no reply")
    assert reason_of(error) == "a task may exist, and be charged: no reply"


@pytest.mark.parametrize(
    ("code", "lacks"), [(40201, True), (40208, True), (40200, False), (40209, False), (110001, False), (None, False)]
)
def test_a_task_can_fail_for_lack_of_balance(code, lacks):
    error = lack_of_balance(EditFailedError("no", code=code, task_id="t"))
    assert (error is not None) is lacks
    assert not lacks or (error.code, error.task_id) == (code, "t")


def settle(budget: Budget, pictures: int, cost: Decimal | None) -> None:
    budget.created()
    budget.charged(pictures, cost)


def test_an_empty_budget_never_stops():
    budget = Budget()
    assert {budget.admit(6) for _ in range(100)} == {Verdict.GO}


def test_no_more_tasks_than_allowed_are_admitted():
    budget = Budget(max_tasks=2, tasks=1)
    assert budget.admit(1) is Verdict.GO
    assert budget.admit(1) is Verdict.WAIT
    settle(budget, 1, None)
    assert budget.admit(1) is Verdict.STOP
    assert budget.stopped == "2 tasks were created (max_tasks=2)"


def test_a_refused_submission_leaves_room_for_another():
    budget = Budget(max_tasks=1)
    budget.admit(1)
    budget.refused()
    budget.released(1, chargeable=False)
    assert budget.admit(1) is Verdict.GO


def test_until_a_price_is_seen_edits_go_one_at_a_time():
    budget = Budget(max_cost=Decimal(10))
    assert [budget.admit(1), budget.admit(1)] == [Verdict.GO, Verdict.WAIT]
    settle(budget, 1, Decimal(1))
    assert [budget.admit(1) for _ in range(10)] == [*[Verdict.GO] * 9, Verdict.WAIT]


def test_without_prices_a_limit_of_cost_can_not_be_kept():
    budget = Budget(max_cost=Decimal(10))
    budget.admit(1)
    settle(budget, 1, None)
    assert budget.admit(1) is Verdict.STOP
    assert "does not say what edits cost" in budget.stopped


def test_what_earlier_runs_spent_counts():
    budget = Budget(max_cost=Decimal(1), spent=Decimal(1))
    assert budget.admit(1) is Verdict.STOP


def test_the_price_that_earlier_runs_saw_and_what_they_may_have_spent_count():
    budget = Budget(max_cost=Decimal(4))
    budget.resume(spent=Decimal(1), tasks=2, price=Decimal(1), unpriced=0, doubtful=1)
    assert [budget.admit(1) for _ in range(3)] == [Verdict.GO, Verdict.GO, Verdict.WAIT]


def test_edits_without_a_price_in_earlier_runs_end_a_run_that_must_keep_a_cost():
    budget = Budget(max_cost=Decimal(4))
    budget.resume(spent=Decimal(0), tasks=1, price=None, unpriced=1, doubtful=0)
    assert budget.admit(1) is Verdict.STOP


def test_an_edit_that_may_still_be_charged_is_reckoned_with():
    budget = Budget(max_cost=Decimal(3))
    budget.admit(1)
    settle(budget, 1, Decimal(1))
    budget.adopt(1)
    budget.released(1, chargeable=True)
    assert budget.admit(1) is Verdict.GO
    settle(budget, 1, Decimal(1))
    assert budget.admit(1) is Verdict.STOP


def test_an_edit_that_is_free_is_not_reckoned_with():
    budget = Budget(max_cost=Decimal(2))
    budget.admit(1)
    settle(budget, 1, Decimal(1))
    budget.admit(1)
    budget.created()
    budget.released(1, chargeable=False)
    assert budget.admit(1) is Verdict.GO


def test_what_an_edit_without_a_result_cost_is_spent_and_tells_the_price():
    budget = Budget(max_cost=Decimal(3))
    budget.adopt(2)
    budget.released(2, chargeable=False, cost=Decimal(2))
    assert budget.spent == 2
    assert [budget.admit(1), budget.admit(1)] == [Verdict.GO, Verdict.WAIT]


def test_an_edit_that_failed_for_nothing_tells_no_price():
    budget = Budget(max_cost=Decimal(3))
    budget.adopt(1)
    budget.released(1, chargeable=True, cost=Decimal(0))
    assert [budget.admit(1), budget.admit(1)] == [Verdict.GO, Verdict.WAIT]


@pytest.mark.parametrize("counted", [1, 0, 3])
def test_a_cost_that_an_earlier_run_counted_is_not_counted_twice(counted):
    budget = Budget(max_cost=Decimal(3), spent=Decimal(counted))
    budget.adopt(1)
    budget.charged(1, Decimal(2), counted=Decimal(counted))
    budget.adopt(1)
    budget.released(1, chargeable=True, cost=Decimal(1), counted=Decimal(1))
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
    assert budget.stopped == "the service could not be reached 20 times in a row"


def test_a_service_that_can_be_reached_now_and_then_does_not_stop():
    budget = Budget()
    for _ in range(30):
        budget.failed(unreachable=True)
        budget.admit(1)
        budget.created()
    assert not budget.stopped


def test_nothing_is_submitted_while_no_result_can_be_saved():
    budget = Budget()
    budget.adopt(1)
    for _ in range(3):
        assert budget.admit(1) is Verdict.GO
        budget.created()
        budget.charged(1, None)
        budget.unsaved("blocked")
    assert budget.admit(1) is Verdict.WAIT
    budget.saved()
    assert budget.admit(1) is Verdict.GO


def test_the_run_ends_when_no_result_can_be_saved_and_none_is_to_come():
    budget = Budget(fetching=1)
    for reason in ("blocked", "blocked", "blocked", "broken", "broken"):
        budget.unsaved(reason)
    assert budget.admit(1) is Verdict.WAIT
    budget.fetching = 0
    assert budget.admit(1) is Verdict.STOP
    assert budget.stopped == "the pictures of 3 completed edits in a row could not be saved: blocked"


def test_a_result_that_is_saved_breaks_the_row_of_those_that_are_not():
    budget = Budget()
    for _ in range(3):
        budget.unsaved("broken")
        budget.unsaved("broken")
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
        budget.charged(pictures, Decimal(price * pictures))
        cost += price * pictures
    cost += sum(running) * pictures
    assert cost <= max(limit, 5 * pictures)  # the very first edit tells the price
