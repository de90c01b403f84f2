"""The meaning of failures, and the delays before another attempt. Pure: no I/O, no clock, no randomness of its own.

A task must not be created twice without the user's consent, and the protocol has no idempotency key. So without
consent, a submission is retried only if the service certainly did not accept it.
"""

from __future__ import annotations

import enum

import attrs

from qwen_edit_async.errors import (
    APIConnectionError,
    APIResponseError,
    APIStatusError,
    AuthenticationError,
    DeadlineExceededError,
    InsufficientBalanceError,
    InternalServerError,
    NotFoundError,
    PermissionDeniedError,
    QwenEditError,
    RateLimitError,
    SubmitUncertainError,
)

_SERVICE_UNAVAILABLE = 503
_TEMPORARY_STATUSES = frozenset({200, *range(300, 400), 408, 409, 425})
"""HTTP statuses of failures that may be temporary. For example, a network's sign-in page redirects for a while."""

LONGEST_PAUSE = 86_400.0
"""The longest Retry-After pause, in seconds. Quotas are renewed at least daily, so a longer pause is never needed."""


class CallFailure(enum.Enum):
    """The meaning of a failed call."""

    REFUSED = "certainly not accepted; a retry may succeed"
    THROTTLED = "certainly not accepted, because of too many requests; a later retry may succeed"
    UNCERTAIN = "possibly accepted"
    ENDS_SESSION = "every call of this kind will fail in this session"
    ENDS_CALL = "every attempt of this call will fail"


def judge_submission(error: QwenEditError) -> CallFailure:
    """Return the meaning of a failed submission."""
    match error:
        case APIConnectionError():
            return CallFailure.UNCERTAIN if error.request_sent else CallFailure.REFUSED
        case APIResponseError():
            return CallFailure.UNCERTAIN
        case AuthenticationError() | InsufficientBalanceError() | PermissionDeniedError():
            return CallFailure.ENDS_SESSION
        case RateLimitError():
            return CallFailure.THROTTLED
        case InternalServerError():
            return CallFailure.REFUSED if error.status_code == _SERVICE_UNAVAILABLE else CallFailure.UNCERTAIN
        case APIStatusError(status_code=303):  # See Other: the call may have succeeded
            return CallFailure.UNCERTAIN
        case _:
            return CallFailure.ENDS_CALL


def judge_check(error: QwenEditError, *, in_grace: bool, attached: bool = False) -> CallFailure:
    """Return the meaning of a failed status check. The task is paid for, so every temporary failure is retried.

    Args:
        error: The failure.
        in_grace: Whether the task is so young that parts of the service may not know it yet.
        attached: Whether the task was submitted elsewhere, so it may belong to another account.
    """
    match error:
        case AuthenticationError() | PermissionDeniedError():
            return CallFailure.ENDS_CALL if attached else CallFailure.ENDS_SESSION
        case NotFoundError():
            return CallFailure.REFUSED if in_grace else CallFailure.ENDS_CALL
        case RateLimitError():
            return CallFailure.THROTTLED
        case APIConnectionError() | APIResponseError() | InternalServerError() | InsufficientBalanceError():
            return CallFailure.REFUSED
        case APIStatusError() if error.status_code in _TEMPORARY_STATUSES:
            return CallFailure.REFUSED
        case _:
            return CallFailure.ENDS_CALL


def pause_after(error: QwenEditError) -> float:
    """Return how many seconds all requests must pause: the ``Retry-After`` of an overloaded service, or else 0."""
    if not isinstance(error, RateLimitError | InternalServerError):
        return 0.0
    return min(error.retry_after or 0.0, LONGEST_PAUSE)


@attrs.define(eq=False)
class Attempts:
    """The attempts to submit one edit, and the decision whether to make another attempt.

    Attributes:
        max_retries: The maximum number of retries. Attempts refused with 429 do not count.
        resubmit_uncertain: Whether to try again although the service may have accepted an attempt.
        count: The number of attempts, including the current attempt.
        last_error: The error of the last failed attempt.
        may_exist: Whether the service may have accepted one of the failed attempts.
    """

    max_retries: int
    resubmit_uncertain: bool
    count: int = 1
    last_error: QwenEditError | None = None
    may_exist: bool = False
    _failures: int = 0

    def failed(
        self, error: QwenEditError, failure: CallFailure, *, resumes_at: float, deadline: float, deadline_in_line: float
    ) -> bool:
        """Record a failed attempt, and return whether to make another.

        ``resumes_at`` is the end of the Retry-After pause. ``deadline_in_line`` is the deadline of the edit while it
        waits in line for a slot.
        """
        self.last_error = error
        self.may_exist = self.may_exist or failure is CallFailure.UNCERTAIN
        if failure is CallFailure.THROTTLED:
            again = resumes_at <= deadline_in_line
        else:
            self._failures += 1
            consent = failure is CallFailure.UNCERTAIN and self.resubmit_uncertain
            repeatable = failure is CallFailure.REFUSED or consent
            again = repeatable and self._failures <= self.max_retries and resumes_at <= deadline
        if again:
            self.count += 1
            error.__traceback__ = None  # the traceback refers to this object, which keeps the error: a reference cycle
        return again

    def error_when_late(self) -> QwenEditError:
        """Return the error of an edit whose deadline has passed.

        Call this only if no whole request waits for its reply.
        """
        if self.last_error is None:
            return DeadlineExceededError("the deadline passed before the edit could be submitted")
        if isinstance(self.last_error, RateLimitError):
            self.last_error.hint = 'the last reply before the deadline was "too many requests"'
        return self.last_error

    def final_error(self, error: Exception) -> Exception:
        """Return the error to raise when the edit ends with ``error``.

        If an attempt may have created a task, this is a :class:`SubmitUncertainError`.
        """
        if not self.may_exist or isinstance(error, SubmitUncertainError):
            return error
        uncertain = SubmitUncertainError(
            f"a task may exist and be charged: {error}. Check the account before you submit the edit again. "
            "resubmit_uncertain=True submits again without a check, and may pay twice"
        )
        uncertain.__cause__ = error
        return uncertain


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """Exponential backoff with full jitter.

    Attributes:
        max_retries: The maximum number of retries after temporary failures of a call; 0 turns retries off.
        initial: The upper bound of the first delay, in seconds.
        maximum: The upper bound of any delay, in seconds.
    """

    max_retries: int = 2
    initial: float = 0.5
    maximum: float = 8.0

    def delay(self, attempt: int, draw: float) -> float:
        """Return the seconds to wait after ``attempt`` failed attempts. ``draw`` is a random number from 0 to 1."""
        # An exponent over 1023 would overflow. The delay reaches its maximum long before the exponent 63.
        return draw * min(self.maximum, self.initial * 2.0 ** min(attempt - 1, 63))
