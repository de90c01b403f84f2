"""The events that ``EditSession(on_event=…)`` reports. Pure."""

from __future__ import annotations

from decimal import Decimal

import attrs

from qwen_edit_async.errors import QwenEditError
from qwen_edit_async.models import EditRequest
from qwen_edit_async.tasks import EditTimings, TaskSnapshot


@attrs.frozen(kw_only=True)
class EditEvent:
    """An event in the life of an edit.

    Attributes:
        request: The edit's request; ``None`` for an attached task.
        task_id: The task's id; ``None`` while it is unknown.
    """

    request: EditRequest | None = attrs.field(default=None, repr=False)
    task_id: str | None = None


@attrs.frozen(kw_only=True)
class EditSubmitted(EditEvent):
    """The service accepted the edit.

    Attributes:
        timings: The durations of the phases so far.
    """

    timings: EditTimings


@attrs.frozen(kw_only=True)
class EditThrottled(EditEvent):
    """The service refused a submission or a status check with 429 (too many requests).

    The session repeats the call as long as the edit's deadline allows.

    Attributes:
        error: The error. Its ``retry_after`` is the requested pause in seconds; ``None`` if no pause was requested.
    """

    error: QwenEditError


@attrs.frozen(kw_only=True)
class EditRetried(EditEvent):
    """A submission failed, and the session will try again.

    Attributes:
        attempt: The number of the next attempt, at least 2.
        error: The failure of the last attempt.
        uncertain: Whether the last attempt may have created a task.
    """

    attempt: int
    error: QwenEditError
    uncertain: bool


@attrs.frozen(kw_only=True)
class EditChecked(EditEvent):
    """A status check found a change in the state of a task that has not ended.

    Attributes:
        snapshot: The task's state in the service's reply.
    """

    snapshot: TaskSnapshot


@attrs.frozen(kw_only=True)
class EditEnded(EditEvent):
    """The edit ended, with a result or an error. Each edit and each attached task gets exactly one such event.

    An edit that the limits of a bulk run hold back has not ended.

    Attributes:
        timings: The durations of the phases that the edit went through.
        cost: The cost that the service stated, in the account's currency; ``None`` if no cost was stated.
        error: The error that ended the edit; ``None`` if there is a result.
    """

    timings: EditTimings
    cost: Decimal | None = None
    error: Exception | None = None
