"""The service's JSON replies, written from its published contract. Pure.

This module does not use the client's decoder, so that one mistake can't hide on both sides.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import attrs

from qwen_edit_async.contract import MODEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qwen_edit_async.emulator.tasks import Failure, TaskRecord
    from qwen_edit_async.emulator.validation import RejectedError

ErrorShape = Literal["contract", "object", "string", "message", "detail", "status", "html", "empty"]
"""Known shapes of an HTTP error of the service or of a proxy in front of it."""

_JSON = "application/json"
_HTML = "<!DOCTYPE html><html><head><title>{status}</title></head><body><h1>{status} {message}</h1></body></html>"


@attrs.frozen
class Reply:
    """An HTTP reply."""

    status: int
    body: bytes = attrs.field(repr=False)
    content_type: str = _JSON
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str])


def json_reply(members: Mapping[str, Any], status: int = 200) -> Reply:
    """Return a JSON reply."""
    return Reply(status, json.dumps(members).encode())


def error_reply(status: int, code: int | str, message: str, *, shape: ErrorShape = "contract") -> Reply:
    """Return an HTTP error in one of the known shapes."""
    match shape:
        case "html":
            return Reply(status, _HTML.format(status=status, message=message).encode(), "text/html")
        case "empty":
            return Reply(status, b"", "text/plain")
        case "string":
            members: dict[str, Any] = {"error": message}
        case "object":
            members = {"error": {"code": str(code), "message": message}}
        case "status":
            members = {"status": {"code": code, "message": message}, "data": None}
        case "message" | "detail":
            members = {shape: message}
        case "contract":
            members = {"error": {"code": code, "error_message": message}}
    return json_reply(members, status)


def rejection_reply(error: RejectedError) -> Reply:
    """Return the reply to a request that breaks the contract."""
    return error_reply(error.status, error.code, error.message)


def created_reply(task: TaskRecord, created_at: int) -> Reply:
    """Return the reply to a submission. `created_at` is in seconds since 1970."""
    return json_reply(_head(task, "in_progress", created_at))


def running_reply(task: TaskRecord, created_at: int, progress: float) -> Reply:
    """Return the status reply of an unfinished task."""
    return json_reply(_head(task, "in_progress", created_at) | {"progress": progress})


def completed_reply(task: TaskRecord, created_at: int, urls: Sequence[str]) -> Reply:
    """Return the status reply of a completed task, with its pictures' URLs."""
    submission = task.submission
    usage = {
        "cost": str(task.cost),
        "quantity": submission.n,
        "unit_price": str(task.cost / submission.n),
        "discount": 1,
    }
    output = [{"content": [{"type": "image", "url": url} for url in urls]}]
    metadata: dict[str, Any] = {}
    return json_reply(
        _head(task, "completed", created_at) | {"output": output, "usage": usage, "metadata": metadata},
    )


def failed_reply(task: TaskRecord, created_at: int, failure: Failure) -> Reply:
    """Return the status reply of a failed task."""
    error: object
    match failure.shape:
        case "contract":
            error = {"code": failure.code, "error_message": failure.message}
        case "object":
            error = {"code": str(failure.code), "message": failure.message}
        case "string":
            error = failure.message
    return json_reply(_head(task, "failed", created_at) | {"error": error})


def _head(task: TaskRecord, status: str, created_at: int) -> dict[str, Any]:
    return {"id": task.id, "status": status, "model": MODEL, "created_at": created_at}
