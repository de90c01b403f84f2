"""The interface between a session and a dialect of the service. Pure: no I/O, no clock.

A :class:`WireProtocol` builds each :class:`Call` and reads each :class:`Reply`. Session and poller see no JSON of the
service. To support another dialect, write another class with these methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import attrs

from qwen_edit_async.errors import InvalidEditError
from qwen_edit_async.models import EditRequest, TaskSnapshot

HEADERS_READ = ("date", "retry-after", "x-request-id")
"""The reply headers that a :class:`Reply` keeps."""

_SUCCESSES = range(200, 300)
_EXCERPT_CHARACTERS = 2_000
_MAX_TASK_ID_CHARACTERS = 512


@attrs.frozen(kw_only=True)
class Call:
    """One HTTP call to the service, without host and key.

    Attributes:
        method: ``GET``, ``POST`` or ``PUT``.
        path: The quoted path below the base URL.
        parts: The text of the JSON body, cut where the images belong: image k goes between part k and part k + 1.
            Empty for a call without a body.
    """

    method: str
    path: str
    parts: tuple[bytes, ...] = ()


@attrs.frozen(kw_only=True)
class Reply:
    """An HTTP reply.

    Attributes:
        status: The HTTP status.
        headers: The headers of :data:`HEADERS_READ` that the reply has.
        body: The part of the body that arrived.
        complete: Whether the whole body arrived.
        url: The URL of the request.
        received_at: The time of arrival by this machine's clock, in seconds since 1970.
    """

    status: int
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    body: bytes = attrs.field(default=b"", repr=False)
    complete: bool = True
    url: str = attrs.field(default="", repr=False)
    received_at: float = attrs.field(default=0.0, repr=False)

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return self.status in _SUCCESSES

    def text(self) -> str:
        """Decode the body as UTF-8, with U+FFFD in place of invalid bytes."""
        return self.body.decode("utf-8", "replace")

    def excerpt(self) -> str:
        """Return the start of the body, for error messages and logs."""
        return self.text()[:_EXCERPT_CHARACTERS]


class WireProtocol(Protocol):
    """One dialect of the service."""

    def submission(self, request: EditRequest) -> Call:
        """Build the call that creates a task."""
        ...

    def status_check(self, task_id: str) -> Call:
        """Build the call that asks for a task's status."""
        ...

    def cancellation(self, task_id: str) -> Call | None:
        """Build the call that cancels a task at the service. Return ``None`` if the dialect has none."""
        ...

    def read_submission(self, reply: Reply) -> TaskSnapshot:
        """Read the reply to a submission.

        Raises:
            APIStatusError: The service refused. No task was created, unless the status is 5xx.
            APIResponseError: The reply can't be understood. A task may exist.
        """
        ...

    def read_status(self, reply: Reply, task_id: str) -> TaskSnapshot:
        """Read the reply to a status check.

        Raises:
            APIStatusError: The service refused to answer.
            APIResponseError: The reply can't be understood.
        """
        ...

    def alternative(self) -> WireProtocol | None:
        """Return the dialect to try once if the service refuses the first submission as malformed."""
        ...


def check_task_id(task_id: object) -> str:
    """Return a task id that fits into the path of a URL.

    Raises:
        InvalidEditError: The id is not text, is empty or too long, or holds characters that no id has.
    """
    if not isinstance(task_id, str) or not task_id or len(task_id) > _MAX_TASK_ID_CHARACTERS:
        raise InvalidEditError(f"task id {task_id!r:.80}: give the id that the service answered with")
    if task_id.strip(".") == "" or not task_id.isprintable() or task_id.split() != [task_id]:
        raise InvalidEditError(f"task id {task_id!r:.80}: the service gives out no such id; check for a copying error")
    return task_id


def is_task_id(text: str) -> bool:
    """Return whether a status check can ask for a task with this id."""
    try:
        check_task_id(text)
    except InvalidEditError:
        return False
    return True
