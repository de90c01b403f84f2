"""Records of what happens to edits, for ``EditSession(on_event=…)``. Pure: no I/O, no clock."""

from __future__ import annotations

from decimal import Decimal

import attrs

from qwen_edit_async.errors import QwenEditError
from qwen_edit_async.models import EditRequest, TaskSnapshot


@attrs.frozen(kw_only=True)
class EditEvent:
    """Something that happened to an edit.

    Attributes:
        request: The edit's request; ``None`` for an attached task.
        task_id: The task's id; ``None`` as long as it is not known.
    """

    request: EditRequest | None = attrs.field(default=None, repr=False)
    task_id: str | None = None


@attrs.frozen(kw_only=True)
class EditSubmitted(EditEvent):
    """The service accepted the edit.

    Attributes:
        queued: The seconds that the edit waited for its slot and its turn.
        submitting: The seconds from then to the acceptance.
    """

    queued: float
    submitting: float


@attrs.frozen(kw_only=True)
class EditThrottled(EditEvent):
    """The service answered "too many requests" to a submission or to a status check. It will be repeated.

    Attributes:
        error: The answer. Its ``retry_after`` has the seconds that the service asks to wait.
    """

    error: QwenEditError


@attrs.frozen(kw_only=True)
class EditRetried(EditEvent):
    """A failed submission is repeated.

    Attributes:
        attempt: The number of the attempt that follows, from 2.
        error: The failure of the last attempt.
        uncertain: Whether the last attempt may have created a task as well.
    """

    attempt: int
    error: QwenEditError
    uncertain: bool


@attrs.frozen(kw_only=True)
class EditChecked(EditEvent):
    """A status check showed a change that does not end the edit.

    Attributes:
        snapshot: The service's answer.
    """

    snapshot: TaskSnapshot


@attrs.frozen(kw_only=True)
class EditEnded(EditEvent):
    """The session is done with the edit. Each edit and each attached task has exactly one such event.

    Attributes:
        error: The error that ended the edit; ``None`` if there is a result.
        cost: The cost that the service stated, in the account's currency; ``None`` if it stated none.
        queued: The seconds that the edit waited for its slot and its turn.
        submitting: The seconds from then to the acceptance, or to the error that came first.
        running: The seconds from the acceptance to the end.
        checks: The number of status checks that were answered.
    """

    error: Exception | None = None
    cost: Decimal | None = None
    queued: float = 0.0
    submitting: float = 0.0
    running: float = 0.0
    checks: int = 0
