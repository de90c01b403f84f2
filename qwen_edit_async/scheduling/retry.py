"""What a failure means, and when to try again. Pure: no I/O, no clock, no randomness of its own.

The rule that everything here serves: a task is created twice only with the user's consent. The protocol has no
idempotency key, so a submission is repeated by itself only when the service certainly refused it.
"""

from __future__ import annotations

import enum

import attrs

from qwen_edit_async.errors import (
    APIConnectionError,
    APIResponseError,
    APIStatusError,
    AuthenticationError,
    InsufficientBalanceError,
    InternalServerError,
    NotFoundError,
    PermissionDeniedError,
    QwenEditError,
    RateLimitError,
)

_SERVICE_UNAVAILABLE = 503
# What is between us and the service may redirect for a while, such as the sign-in page of a network.
_PASSING_STATUSES = frozenset({200, *range(300, 400), 408, 409, 425})

LONGEST_PAUSE = 86_400.0
"""Seconds. Quotas are renewed each day at the latest; what asks for more would silence a session for good."""


class Failure(enum.Enum):
    """What a failed call means for what comes next."""

    REFUSED = "certainly not accepted; may be tried again"
    THROTTLED = "certainly not accepted, because of too many requests; is tried again when there is room"
    UNCERTAIN = "may have been accepted"
    FATAL = "will be the answer to every call of this session"
    FINAL = "will be the answer to this call whenever it is made"


def judge_submission(error: QwenEditError) -> Failure:
    """What the failure of a submission means (part B lists the statuses)."""
    match error:
        case APIConnectionError():
            return Failure.UNCERTAIN if error.request_sent else Failure.REFUSED
        case APIResponseError():
            return Failure.UNCERTAIN
        case AuthenticationError() | InsufficientBalanceError() | PermissionDeniedError():
            return Failure.FATAL
        case RateLimitError():
            return Failure.THROTTLED
        case InternalServerError():
            return Failure.REFUSED if error.status_code == _SERVICE_UNAVAILABLE else Failure.UNCERTAIN
        case APIStatusError(status_code=303):  # done, says HTTP, and the answer lies elsewhere
            return Failure.UNCERTAIN
        case _:
            return Failure.FINAL


def judge_check(error: QwenEditError, *, in_grace: bool, attached: bool = False) -> Failure:
    """What the failure of a status check means; the task is paid for, so whatever may pass is tried again.

    Args:
        error: What went wrong.
        in_grace: Whether the task is so young that the service may not know it everywhere yet.
        attached: Whether the task was submitted elsewhere, so that it may belong to another account.
    """
    match error:
        case AuthenticationError() | PermissionDeniedError():
            return Failure.FINAL if attached else Failure.FATAL
        case NotFoundError():
            return Failure.REFUSED if in_grace else Failure.FINAL
        case RateLimitError():
            return Failure.THROTTLED
        case APIConnectionError() | APIResponseError() | InternalServerError() | InsufficientBalanceError():
            return Failure.REFUSED
        case APIStatusError() if error.status_code in _PASSING_STATUSES:
            return Failure.REFUSED
        case _:
            return Failure.FINAL


def pause_after(error: QwenEditError) -> float:
    """Seconds in which nothing more may be sent: the ``Retry-After`` of an overloaded service, else 0."""
    if not isinstance(error, RateLimitError | InternalServerError):
        return 0.0
    return min(error.retry_after or 0.0, LONGEST_PAUSE)


class Then(enum.Enum):
    """What to do after an attempt to submit has failed."""

    GIVE_UP = "raise the error"
    BACK_OFF = "try again after a delay"
    REQUEUE = "try again with another slot, ahead of all that wait for their first"


def after_failure(
    failure: Failure,
    *,
    failures: int,
    max_retries: int,
    resubmit_uncertain: bool,
    resumes_at: float,
    deadline: float,
    room_deadline: float,
) -> Then:
    """Decide what to do after an attempt to submit has failed.

    Args:
        failure: What the failure means.
        failures: The number of attempts that failed so far, without those that were throttled.
        max_retries: The most failures after which to try again.
        resubmit_uncertain: Whether to try again though the service may have accepted the attempt.
        resumes_at: When the pause ends that the service asked for.
        deadline: The deadline of the edit.
        room_deadline: The deadline while the edit waits for room.
    """
    if failure is Failure.THROTTLED:
        return Then.REQUEUE if resumes_at <= room_deadline else Then.GIVE_UP
    repeatable = failure is Failure.REFUSED or (failure is Failure.UNCERTAIN and resubmit_uncertain)
    if not repeatable or failures > max_retries or resumes_at > deadline:
        return Then.GIVE_UP
    return Then.BACK_OFF


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """Exponential backoff with full jitter.

    Attributes:
        max_retries: How often a call is repeated after a failure that may be tried again; 0 turns it off.
        initial: Upper bound of the first delay, in seconds.
        maximum: Upper bound of any delay, in seconds.
    """

    max_retries: int = 2
    initial: float = 0.5
    maximum: float = 8.0

    def delay(self, attempt: int, draw: float) -> float:
        """Seconds before the next attempt.

        Args:
            attempt: How many attempts failed so far, from 1.
            draw: A random number from 0 to 1.
        """
        # Beyond 2**63 the bound is long since the maximum.
        return draw * min(self.maximum, self.initial * 2.0 ** min(attempt - 1, 63))
