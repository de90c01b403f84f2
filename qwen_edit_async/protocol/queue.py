"""The queue protocol: a flat JSON body, a call for the result, and a call that cancels a task. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import quote

import attrs

from qwen_edit_async.contract import CANCELED, MODEL, QUEUE_PATH, QUEUE_REQUEST_PATH
from qwen_edit_async.errors import APIResponseError, APIStatusError, BadRequestError
from qwen_edit_async.models import EditParameters
from qwen_edit_async.protocol.base import Call, Reply, WireProtocol
from qwen_edit_async.protocol.bodies import IMAGE, TEXT, given_parameters
from qwen_edit_async.protocol.replies import (
    as_text,
    error_from_reply,
    first_text,
    has_error,
    has_plain_error,
    load_object,
)
from qwen_edit_async.protocol.submissions import read_submission
from qwen_edit_async.protocol.tasks import snapshot_of, status_of, status_word
from qwen_edit_async.protocol.urls import path_below
from qwen_edit_async.tasks import TaskFailure, TaskSnapshot, TaskStatus

_ACCEPTED = 202

_CANCELLED_WORDS = frozenset({CANCELED, "CANCELLED"})

_ERRORS_OF_EDITS = frozenset({APIStatusError, BadRequestError})
"""The errors in a response that are about the edit. Other errors, such as a rate limit, are about the call itself."""

_PATH_NAMES = {"status": "status_url", "response": "response_url", "cancel": "cancel_url"}
"""For each call about a task, the member of the submission's reply that may hold the call's URL."""


@attrs.frozen
class QueueProtocol(WireProtocol):
    """The queue protocol."""

    name: ClassVar[str] = "queue"

    model: str = MODEL

    @property
    def submission_path(self) -> str:
        """The path of submissions, which contains the model's name."""
        return QUEUE_PATH.format(model=quote(self.model, safe=""))

    def body(self, images: int, parameters: EditParameters) -> dict[str, Any]:
        """Return the images, the prompt and the parameters."""
        return {"images": [IMAGE] * images, "prompt": TEXT, **given_parameters(parameters)}

    def status_check(self, task: TaskSnapshot) -> Call:
        """Build a ``GET`` of the status."""
        return self._call("GET", task, "status")

    def result_call(self, task: TaskSnapshot) -> Call | None:
        """Build a ``GET`` of the response if the task is completed, but its status reply lacks pictures."""
        return self._call("GET", task, "response") if task.lacks_pictures else None

    def cancellation(self, task: TaskSnapshot) -> Call:
        """Build a ``PUT`` that cancels the task."""
        return self._call("PUT", task, "cancel")

    def read_submission(self, reply: Reply) -> TaskSnapshot:
        """Read the task's id, and the paths of the calls about the task. A task without a status counts as queued."""
        snapshot = read_submission(reply)
        status = snapshot.status if snapshot.status_word else TaskStatus.QUEUED
        # The key must go only to the API's own address, so URLs outside the base URL are ignored.
        base_url = reply.url.removesuffix(self.submission_path)
        paths = {call: path_below(snapshot.raw.get(name), base_url) for call, name in _PATH_NAMES.items()}
        known = {call: path for call, path in paths.items() if path is not None}
        return attrs.evolve(snapshot, status=status, paths=known)

    def read_status(self, reply: Reply, task: TaskSnapshot) -> TaskSnapshot:
        """Read the status or the response of a task. A completed task with an error counts as failed."""
        if not reply.ok:
            raise error_from_reply(reply, task_id=task.task_id)
        document = _document_of(reply, task)
        snapshot = snapshot_of(document, task.task_id, reply.url)
        status, failure = snapshot.status, snapshot.failure
        if not snapshot.status_word:
            status = _status_without_word(document, reply, task)
        if status is TaskStatus.COMPLETED and (failure is not None or has_plain_error(document)):
            status = TaskStatus.FAILED
        if status is TaskStatus.FAILED:
            failure = _explained(document, failure or TaskFailure())
        return attrs.evolve(
            snapshot,
            status=status,
            failure=failure,
            usage=snapshot.usage if snapshot.usage.raw else task.usage,  # the response may lack the usage
            metadata=snapshot.metadata or task.metadata,
            paths=task.paths,
        )

    def read_cancellation(self, reply: Reply, task: TaskSnapshot) -> None:
        """Raise an error if the service refused the cancellation.

        A reply with an HTTP error is a refusal. In any other reply, the status or ``error_type`` "cancelled" confirms
        the cancellation. Without this confirmation, a completed status or an error is a refusal.
        """
        if not reply.ok:
            raise error_from_reply(reply, task_id=task.task_id)
        document = load_object(reply, task_id=task.task_id) if reply.body.strip() else {}
        is_completed = status_of(status_word(document)) is TaskStatus.COMPLETED
        is_refused = is_completed or document.get("error") or has_error({**document, "message": None})
        if is_refused and not _is_cancelled(document):
            raise error_from_reply(reply, task_id=task.task_id)

    def _call(self, method: str, task: TaskSnapshot, name: str) -> Call:
        start = QUEUE_REQUEST_PATH.format(model=quote(self.model, safe=""), request_id=quote(task.task_id, safe=""))
        return Call(method=method, path=task.paths.get(name) or f"{start}/{name}")


def _document_of(reply: Reply, task: TaskSnapshot) -> Mapping[str, Any]:
    try:
        return load_object(reply, task_id=task.task_id)
    except APIResponseError:
        if reply.status != _ACCEPTED:
            raise
        return {}


def _status_without_word(document: Mapping[str, Any], reply: Reply, task: TaskSnapshot) -> TaskStatus:
    """Return the status of a task from a reply without a status word. The reply to a result call has no status word."""
    if reply.status == _ACCEPTED:
        return TaskStatus.IN_PROGRESS
    if "outputs" in document or "output" in document:
        return TaskStatus.COMPLETED
    if has_error(document):
        error = error_from_reply(reply, task_id=task.task_id)
        if task.status is TaskStatus.COMPLETED and ("error_type" in document or type(error) in _ERRORS_OF_EDITS):
            return TaskStatus.FAILED
        raise error
    raise APIResponseError("the reply has no status and no outputs", body=reply.excerpt(), task_id=task.task_id)


def _is_cancelled(document: Mapping[str, Any]) -> bool:
    words = (status_word(document), first_text(document, ("error_type",)))
    return any(word.upper() in _CANCELLED_WORDS for word in words if word)


def _explained(document: Mapping[str, Any], failure: TaskFailure) -> TaskFailure:
    """Add the reply's ``error_type`` and ``provider_error`` to the failure."""
    kind = CANCELED if _is_cancelled(document) else first_text(document, ("error_type",)) or ""
    provider = as_text(document["provider_error"]) if document.get("provider_error") else ""
    return TaskFailure(
        code=failure.code or kind or None,
        message=failure.message or provider,
        error_type=kind,
        provider_error=provider,
    )
