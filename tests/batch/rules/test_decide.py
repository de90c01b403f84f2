"""What a run does with an edit: README's table, exhaustively."""

from __future__ import annotations

import itertools
from decimal import Decimal

import pytest

from qwen_edit_async import (
    APIResponseError,
    AuthenticationError,
    DeadlineExceededError,
    EditFailedError,
    InsufficientBalanceError,
    InvalidEditError,
    NotFoundError,
    PermissionDeniedError,
    SessionClosedError,
)
from qwen_edit_async.batch.rules.decide import (
    MOVES,
    ORIGINS,
    PAYS,
    Action,
    Consent,
    Entry,
    Fingerprint,
    State,
    decide,
    error_of_run,
    instead,
    refusal,
    state_after,
)

SAME, OTHER = Fingerprint("digest"), Fingerprint("another")
UNREADABLE = Fingerprint(problem=InvalidEditError("image 1 does not exist"))
CONSENTS = [
    Consent(resubmit_uncertain=resubmit, edit_changed=edit)
    for resubmit, edit in itertools.product((False, True), repeat=2)
]


def entry(state: State, task_id: str | None = None, urls: tuple[str, ...] = (), digest: str = "digest") -> Entry:
    return Entry(
        number=1,
        identity="cat",
        key="cat",
        name="cat",
        digest=digest,
        stamp="",
        state=state,
        pictures=1,
        task_id=task_id,
        urls=urls,
    )


ALL = [
    (entry(state, task_id, urls), content, consent)
    for state, task_id, urls, content, consent in itertools.product(
        State,
        [None, "t"],
        [(), ("",), ("https://r/1",)],
        [None, SAME, OTHER, UNREADABLE],
        CONSENTS,
    )
]


def test_a_new_edit_is_submitted_or_fails():
    assert decide(None, SAME, Consent()) is Action.SUBMIT
    assert instead(None) is Action.RECORD_PROBLEM


@pytest.mark.parametrize(
    ("known", "actions"),
    [
        (entry(State.PLANNED), Action.SUBMIT),
        (entry(State.SUBMITTING), (Action.LEAVE, Action.SUBMIT)),
        (entry(State.SUBMITTED, "t"), Action.ATTACH),
        (entry(State.COMPLETED, "t", ("https://r/1",)), Action.DOWNLOAD),
        (entry(State.COMPLETED, "t", ("", "https://r/1")), Action.DOWNLOAD),
        (entry(State.COMPLETED, "t"), Action.ATTACH),
        (entry(State.SAVED, "t"), Action.VERIFY),
        (entry(State.FAILED), Action.SUBMIT),
        (entry(State.FAILED, "t"), Action.LEAVE),
        (entry(State.UNCERTAIN), (Action.LEAVE, Action.SUBMIT)),
        (entry(State.UNCERTAIN, "t"), (Action.ATTACH, Action.SUBMIT)),
        (entry(State.REPLACED, "t"), Action.LEAVE),
    ],
    ids=str,
)
def test_an_edit_whose_row_is_the_same_goes_on_from_its_state(known, actions):
    """The second of two actions needs consent to resubmit uncertain edits."""
    without, with_consent = actions if isinstance(actions, tuple) else (actions, actions)
    for consent in CONSENTS:
        assert decide(known, SAME, consent) is (with_consent if consent.resubmit_uncertain else without)


@pytest.mark.parametrize(
    ("known", "actions"),
    [
        (entry(State.PLANNED), Action.SUBMIT),
        (entry(State.PLANNED, digest=""), Action.SUBMIT),
        (entry(State.SUBMITTING), (Action.REPORT_PROBLEM, Action.REPLACE)),
        (entry(State.SUBMITTED, "t"), (Action.REPORT_PROBLEM, Action.REPLACE_LATER)),
        (entry(State.COMPLETED, "t"), (Action.REPORT_PROBLEM, Action.REPLACE)),
        (entry(State.SAVED, "t"), (Action.REPORT_PROBLEM, Action.REPLACE)),
        (entry(State.FAILED), Action.SUBMIT),
        (entry(State.FAILED, "t"), (Action.REPORT_PROBLEM, Action.REPLACE)),
        (entry(State.UNCERTAIN), (Action.REPORT_PROBLEM, Action.REPLACE)),
        (entry(State.UNCERTAIN, "t"), (Action.REPORT_PROBLEM, Action.REPLACE)),
        (entry(State.REPLACED, "t"), Action.REPORT_PROBLEM),
    ],
    ids=str,
)
def test_an_edit_whose_row_was_changed_is_refused_or_edited_anew(known, actions):
    """The second of two actions needs consent to edit changed rows."""
    without, with_consent = actions if isinstance(actions, tuple) else (actions, actions)
    for consent in CONSENTS:
        assert decide(known, OTHER, consent) is (with_consent if consent.edit_changed else without)


def test_an_edit_that_has_a_task_or_may_have_one_is_submitted_with_consent_only():
    for known, content, consent in ALL:
        action = decide(known, content, consent)
        if known.task_id is not None or known.state in {State.UNCERTAIN, State.SUBMITTING}:
            assert action not in PAYS or consent.edit_changed or consent.resubmit_uncertain


def test_an_edit_that_can_not_be_submitted_fails_only_if_nothing_was_paid_for_it():
    for known, _, _ in ALL:
        unpaid = known.task_id is None and known.state in {State.PLANNED, State.FAILED}
        assert instead(known) is (Action.RECORD_PROBLEM if unpaid else Action.REPORT_PROBLEM)


def test_without_its_row_an_edit_is_not_submitted_again():
    for each, content, consent in ALL:
        if content is None and each.state not in {State.PLANNED, State.FAILED}:
            assert decide(each, None, consent) in {Action.ATTACH, Action.DOWNLOAD, Action.VERIFY, Action.LEAVE}


def test_what_is_replaced_may_be():
    for known, content, consent in ALL:
        if decide(known, content, consent) is Action.REPLACE and known.state is not State.SUBMITTING:
            assert State.REPLACED in MOVES[known.state]


def test_a_refusal_names_the_option_or_says_to_wait():
    assert "edit_changed=True" in str(refusal(Consent()))
    assert "still in flight: run the batch again later" in str(refusal(Consent(edit_changed=True)))


@pytest.mark.parametrize(
    ("state", "error", "after"),
    [
        (State.SUBMITTED, EditFailedError("no"), State.FAILED),
        (State.SUBMITTED, EditFailedError("no", error_type="CANCELED"), State.PLANNED),
        (State.UNCERTAIN, EditFailedError("no", error_type="CANCELED"), State.PLANNED),
        (State.COMPLETED, EditFailedError("no", error_type="CANCELED"), State.COMPLETED),
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


@pytest.mark.parametrize(("cost", "after"), [(Decimal(0), State.PLANNED), (Decimal("0.01"), State.FAILED)])
def test_a_cancelled_task_that_was_charged_is_not_replaced(cost, after):
    assert state_after(State.SUBMITTED, EditFailedError("no", error_type="CANCELED"), cost) is after


@pytest.mark.parametrize(
    ("origin", "target"),
    [
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


@pytest.mark.parametrize(
    ("code", "lacks"), [(40201, True), (40208, True), (40200, False), (40209, False), (110001, False), (None, False)]
)
def test_a_task_can_fail_for_lack_of_balance(code, lacks):
    error = error_of_run(EditFailedError("no", code=code, task_id="t"))
    assert isinstance(error, InsufficientBalanceError) is lacks
    assert not lacks or (error.code, error.task_id) == (code, "t")


@pytest.mark.parametrize(
    "error", [SessionClosedError("closed"), AuthenticationError("no"), InsufficientBalanceError("")]
)
def test_an_error_that_every_edit_would_meet_is_that_of_the_run(error):
    assert error_of_run(error) is error
    assert error_of_run(InvalidEditError("bad")) is None


@pytest.mark.parametrize("error", [AuthenticationError("no"), PermissionDeniedError("no")])
def test_a_refused_check_of_an_attached_task_is_an_error_of_that_edit_alone(error):
    assert error_of_run(error) is error
    assert error_of_run(error, attached=True) is None


@pytest.mark.parametrize("error", [SessionClosedError("closed"), EditFailedError("no", code=40203)])
def test_other_errors_of_an_attached_task_are_those_of_the_run_too(error):
    kind = type(error_of_run(error))
    assert kind in {SessionClosedError, InsufficientBalanceError}
    assert type(error_of_run(error, attached=True)) is kind
