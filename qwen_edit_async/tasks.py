"""The states, results, costs and durations of tasks, as immutable values. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import attrs

from qwen_edit_async.text import without_signatures


class TaskStatus(enum.Enum):
    """The state of a task. ``UNKNOWN`` stands for an unknown or missing status word, and counts as running."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    UNKNOWN = "unknown"

    @property
    def terminal(self) -> bool:
        """Whether the task has ended."""
        return self is TaskStatus.COMPLETED or self is TaskStatus.FAILED


@attrs.frozen(kw_only=True)
class TaskFailure:
    """The reason for a task's failure.

    Attributes:
        code: The service's error code, as an integer if it consists of digits.
        message: The service's message, without the signatures of presigned URLs.
        error_type: The kind of failure, such as ``CONTENT_BLOCKED``; may be empty.
        provider_error: The error text of the provider that ran the model for the service; may be empty.
    """

    code: int | str | None = None
    message: str = attrs.field(default="", converter=without_signatures)
    error_type: str = ""
    provider_error: str = attrs.field(default="", converter=without_signatures)


@attrs.frozen(kw_only=True)
class EditTimings:
    """The durations of an edit's phases in seconds, and the number of status checks.

    Attributes:
        queued: The time spent waiting for slots and for turns to send a request, and on attempts refused with a 429.
        submitting: The time from taking the last slot to the service's acceptance, including reading, uploading and
            retries, but not the waits for turns. With ``dashscope``, the time until the accepted request is sent.
        running: The time from the acceptance to the reply that showed the task's end. With ``dashscope``, the duration
            of the accepted call.
        lag: The time from the last check that found the task running, or else from the acceptance, to the reply that
            showed the task's end.
        checks: The number of status checks that were answered.
        failed_checks: The number of status checks that failed.
    """

    queued: float = 0.0
    submitting: float = 0.0
    running: float = 0.0
    lag: float = 0.0
    checks: int = 0
    failed_checks: int = 0

    @property
    def total(self) -> float:
        """The seconds from the call of a method such as ``edit()`` to the reply that showed the task's end."""
        return self.queued + self.submitting + self.running


@attrs.frozen(kw_only=True)
class Usage:
    """The cost of a task, from the member ``usage`` of a reply.

    Attributes:
        cost: The exact cost in the account's currency; ``None`` if the service does not state it.
        quantity: The number of billed images.
        raw: The unchanged ``usage`` member of the reply.
    """

    cost: Decimal | None = None
    quantity: int | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, hash=False)


@attrs.frozen(kw_only=True)
class Estimate:
    """The price of an edit, which the service states before the edit is submitted.

    Attributes:
        cost: The exact cost of all pictures of the edit.
        currency: The currency; empty if the service does not name it.
        raw: The service's whole reply, unchanged.
    """

    cost: Decimal
    currency: str = ""
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, hash=False)


@attrs.frozen(kw_only=True)
class TaskSnapshot:
    """The state of a task according to one reply of the service.

    Attributes:
        task_id: The service's id for the task.
        status: The state of the task.
        status_word: The service's own word for the state.
        progress: The finished share of the work, 0.0 to 1.0, if the service reports progress.
        urls: One URL per output image of a completed task; an empty string for an image without a URL.
        failure: The reason for the failure, if the task failed.
        usage: The cost of the task, if the service states one.
        metadata: The service's own metadata.
        raw: The unchanged reply.
        paths: The URL paths that the service gave for calls about this task, by the name of the call.
    """

    task_id: str
    status: TaskStatus
    status_word: str = ""
    progress: float | None = None
    urls: tuple[str, ...] = ()
    failure: TaskFailure | None = None
    usage: Usage = Usage()
    metadata: Mapping[str, Any] = attrs.field(factory=dict, repr=False, hash=False)
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, hash=False)
    paths: Mapping[str, str] = attrs.field(factory=dict, repr=False, hash=False)

    @property
    def lacks_pictures(self) -> bool:
        """Whether the task is completed, but the reply has no URLs yet."""
        return self.status is TaskStatus.COMPLETED and not self.urls


def shortfall(given: int, asked: int) -> tuple[str, ...]:
    """Return a note if an edit has fewer pictures than requested; otherwise, return nothing."""
    return () if given >= asked else (f"the service gave {given} of the {asked} requested pictures",)
