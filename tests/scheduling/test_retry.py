"""The decision tables for failed submissions and status checks, and the delays."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_edit_async import errors as _errors
from qwen_edit_async.errors import (
    APIConnectionError,
    APIResponseError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    DeadlineExceededError,
    DownloadError,
    EditCancelledError,
    EditFailedError,
    InsufficientBalanceError,
    InternalServerError,
    InvalidEditError,
    JournalError,
    NotFoundError,
    PermissionDeniedError,
    QwenEditError,
    RateLimitError,
    SessionClosedError,
    SubmitUncertainError,
)
from qwen_edit_async.scheduling.retry import (
    Attempts,
    CallFailure,
    RetryPolicy,
    judge_check,
    judge_submission,
    pause_after,
)

REFUSED, THROTTLED, UNCERTAIN, ENDS_SESSION, ENDS_CALL = (
    CallFailure.REFUSED,
    CallFailure.THROTTLED,
    CallFailure.UNCERTAIN,
    CallFailure.ENDS_SESSION,
    CallFailure.ENDS_CALL,
)


def answered(kind: type[APIStatusError], status: int) -> APIStatusError:
    return kind("no", status_code=status)


# The error, its meaning for a submission, and for a check during and after the grace of a young task.
DECISIONS = [
    (APIConnectionError("m", request_sent=False), REFUSED, REFUSED, REFUSED),
    (APIConnectionError("m", request_sent=True), UNCERTAIN, REFUSED, REFUSED),
    (APITimeoutError("m", request_sent=False), REFUSED, REFUSED, REFUSED),
    (APITimeoutError("m", request_sent=True), UNCERTAIN, REFUSED, REFUSED),
    (APIResponseError("m"), UNCERTAIN, REFUSED, REFUSED),
    (answered(BadRequestError, 400), ENDS_CALL, ENDS_CALL, ENDS_CALL),
    (answered(BadRequestError, 413), ENDS_CALL, ENDS_CALL, ENDS_CALL),
    (answered(BadRequestError, 422), ENDS_CALL, ENDS_CALL, ENDS_CALL),
    (answered(APIStatusError, 303), UNCERTAIN, REFUSED, REFUSED),
    (answered(AuthenticationError, 401), ENDS_SESSION, ENDS_SESSION, ENDS_SESSION),
    (answered(InsufficientBalanceError, 402), ENDS_SESSION, REFUSED, REFUSED),
    (answered(InsufficientBalanceError, 200), ENDS_SESSION, REFUSED, REFUSED),
    (answered(InsufficientBalanceError, 500), ENDS_SESSION, REFUSED, REFUSED),
    (answered(PermissionDeniedError, 403), ENDS_SESSION, ENDS_SESSION, ENDS_SESSION),
    (answered(NotFoundError, 404), ENDS_CALL, REFUSED, ENDS_CALL),
    (answered(RateLimitError, 429), THROTTLED, THROTTLED, THROTTLED),
    (answered(RateLimitError, 200), THROTTLED, THROTTLED, THROTTLED),
    (answered(RateLimitError, 500), THROTTLED, THROTTLED, THROTTLED),
    (answered(InternalServerError, 500), UNCERTAIN, REFUSED, REFUSED),
    (answered(InternalServerError, 501), UNCERTAIN, REFUSED, REFUSED),
    (answered(InternalServerError, 502), UNCERTAIN, REFUSED, REFUSED),
    (answered(InternalServerError, 503), REFUSED, REFUSED, REFUSED),
    (answered(InternalServerError, 504), UNCERTAIN, REFUSED, REFUSED),
    (answered(APIStatusError, 200), ENDS_CALL, REFUSED, REFUSED),
    (answered(APIStatusError, 299), ENDS_CALL, ENDS_CALL, ENDS_CALL),
    (answered(APIStatusError, 300), ENDS_CALL, REFUSED, REFUSED),
    (answered(APIStatusError, 302), ENDS_CALL, REFUSED, REFUSED),
    (answered(APIStatusError, 399), ENDS_CALL, REFUSED, REFUSED),
    (answered(APIStatusError, 405), ENDS_CALL, ENDS_CALL, ENDS_CALL),
    (answered(APIStatusError, 408), ENDS_CALL, REFUSED, REFUSED),
    (answered(APIStatusError, 409), ENDS_CALL, REFUSED, REFUSED),
    (answered(APIStatusError, 410), ENDS_CALL, ENDS_CALL, ENDS_CALL),
    (answered(APIStatusError, 425), ENDS_CALL, REFUSED, REFUSED),
    (ConfigurationError("m"), ENDS_CALL, ENDS_CALL, ENDS_CALL),
    (InvalidEditError("m"), ENDS_CALL, ENDS_CALL, ENDS_CALL),
    (SubmitUncertainError("m"), ENDS_CALL, ENDS_CALL, ENDS_CALL),
    (EditFailedError("m"), ENDS_CALL, ENDS_CALL, ENDS_CALL),
    (EditCancelledError("m"), ENDS_CALL, ENDS_CALL, ENDS_CALL),
    (DeadlineExceededError("m"), ENDS_CALL, ENDS_CALL, ENDS_CALL),
    (DownloadError("m"), ENDS_CALL, ENDS_CALL, ENDS_CALL),
    (SessionClosedError("m"), ENDS_CALL, ENDS_CALL, ENDS_CALL),
    (JournalError("m"), ENDS_CALL, ENDS_CALL, ENDS_CALL),
    (QwenEditError("m"), ENDS_CALL, ENDS_CALL, ENDS_CALL),
]

every_decision = pytest.mark.parametrize(
    ("error", "submission", "young_check", "check"),
    DECISIONS,
    ids=[f"{type(error).__name__}-{error}" for error, *_ in DECISIONS],
)


def test_the_table_has_every_error_class() -> None:
    classes = {kind for kind in vars(_errors).values() if isinstance(kind, type) and issubclass(kind, QwenEditError)}
    assert {type(error) for error, *_ in DECISIONS} == classes


@every_decision
def test_what_a_failed_submission_means(
    error: QwenEditError, submission: CallFailure, young_check: CallFailure, check: CallFailure
) -> None:
    assert judge_submission(error) is submission


@every_decision
def test_what_a_failed_check_means(
    error: QwenEditError, submission: CallFailure, young_check: CallFailure, check: CallFailure
) -> None:
    assert judge_check(error, in_grace=True) is young_check
    assert judge_check(error, in_grace=False) is check
    assert judge_check(error, in_grace=False, attached=True) is (ENDS_CALL if check is ENDS_SESSION else check)


def test_no_failed_check_is_ever_uncertain() -> None:
    meanings = itertools.chain.from_iterable(row[2:] for row in DECISIONS)
    assert UNCERTAIN not in meanings


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (RateLimitError("m", status_code=429, retry_after=3600.0), 3600.0),
        (InternalServerError("m", status_code=503, retry_after=86_400.0), 86_400.0),
        (InternalServerError("m", status_code=503, retry_after=1e9), 86_400.0),
        (RateLimitError("m", status_code=429), 0.0),
        (NotFoundError("m", status_code=404, retry_after=5.0), 0.0),
        (APIConnectionError("m"), 0.0),
    ],
    ids=repr,
)
def test_an_overloaded_service_is_left_alone_for_as_long_as_it_asks_up_to_a_day(
    error: QwenEditError, seconds: float
) -> None:
    assert pause_after(error) == seconds


policies = st.builds(RetryPolicy, initial=st.floats(0.001, 100), maximum=st.floats(0.001, 1000))


@given(policies, st.integers(1, 10**6), st.floats(0, 1))
def test_a_delay_is_a_share_of_the_doubled_bound_and_never_over_the_maximum(
    policy: RetryPolicy, attempt: int, draw: float
) -> None:
    bound = policy.initial if attempt == 1 else min(policy.maximum, 2 * policy.delay(attempt - 1, 1))
    assert policy.delay(attempt, 1) == pytest.approx(min(policy.maximum, bound))
    assert policy.delay(attempt, draw) == draw * policy.delay(attempt, 1)
    assert 0 <= policy.delay(attempt, draw) <= policy.maximum


def test_the_default_delays_double_from_half_a_second_to_eight() -> None:
    policy = RetryPolicy()
    assert [policy.delay(attempt, 1) for attempt in range(1, 8)] == [0.5, 1, 2, 4, 8, 8, 8]
    assert policy.max_retries == 2


def test_jitter_is_full() -> None:
    assert (RetryPolicy().delay(3, 0), RetryPolicy().delay(3, 0.5)) == (0, 1)


IN_TIME = {"resumes_at": 0.0, "deadline": 60.0, "deadline_in_line": 60.0}


@pytest.mark.parametrize(
    ("failure", "consent", "again"),
    [
        (REFUSED, False, True),
        (THROTTLED, False, True),
        (UNCERTAIN, False, False),
        (UNCERTAIN, True, True),
        (ENDS_CALL, True, False),
        (ENDS_SESSION, True, False),
    ],
)
def test_which_failed_attempts_have_another_after_them(failure: CallFailure, *, consent: bool, again: bool) -> None:
    attempts, error = Attempts(2, resubmit_uncertain=consent), QwenEditError("m")
    assert attempts.failed(error, failure, **IN_TIME) is again
    assert attempts.count == (2 if again else 1)
    assert (attempts.last_error, attempts.may_exist) == (error, failure is UNCERTAIN)


def test_only_failures_other_than_429_count_as_retries() -> None:
    attempts, error = Attempts(1, resubmit_uncertain=False), QwenEditError("m")
    repeated = [attempts.failed(error, failure, **IN_TIME) for failure in (THROTTLED, REFUSED, THROTTLED, REFUSED)]
    assert repeated == [True, True, True, False]
    assert attempts.count == 4


def test_a_task_that_may_exist_is_not_forgotten_after_a_certain_refusal() -> None:
    attempts, error = Attempts(2, resubmit_uncertain=True), QwenEditError("m")
    attempts.failed(error, UNCERTAIN, **IN_TIME)
    attempts.failed(error, ENDS_CALL, **IN_TIME)
    assert attempts.may_exist


@pytest.mark.parametrize(
    ("failure", "deadline", "deadline_in_line", "again"),
    [
        (REFUSED, 9.0, 60.0, False),
        (REFUSED, 10.0, 9.0, True),
        (THROTTLED, 60.0, 9.0, False),
        (THROTTLED, 9.0, 10.0, True),
    ],
)
def test_a_pause_beyond_the_deadline_ends_the_attempts(
    failure: CallFailure, deadline: float, deadline_in_line: float, *, again: bool
) -> None:
    attempts = Attempts(2, resubmit_uncertain=False)
    times = {"resumes_at": 10.0, "deadline": deadline, "deadline_in_line": deadline_in_line}
    assert attempts.failed(QwenEditError("m"), failure, **times) is again
