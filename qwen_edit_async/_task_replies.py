"""What a reply says about a task: its status, its pictures, its cost. Pure: no I/O, no clock.

Services of this kind differ in their words and in the shape of their output (part B), so reading is tolerant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._models import TaskFailure, TaskSnapshot, TaskStatus, Usage
from ._replies import as_text, code_of, cost_of, first_text

STATUS_WORDS: Mapping[str, TaskStatus] = {
    "pending": TaskStatus.QUEUED,
    "queued": TaskStatus.QUEUED,
    "in_queue": TaskStatus.QUEUED,
    "submitted": TaskStatus.QUEUED,
    "in_progress": TaskStatus.IN_PROGRESS,
    "processing": TaskStatus.IN_PROGRESS,
    "running": TaskStatus.IN_PROGRESS,
    "completed": TaskStatus.COMPLETED,
    "succeeded": TaskStatus.COMPLETED,
    "success": TaskStatus.COMPLETED,
    "failed": TaskStatus.FAILED,
    "error": TaskStatus.FAILED,
    "canceled": TaskStatus.FAILED,
    "cancelled": TaskStatus.FAILED,
}
"""The service's words, in lower case; a word that is not here counts as still running."""


def snapshot_of(document: Mapping[str, Any], task_id: str) -> TaskSnapshot:
    """Return the task as a reply shows it."""
    word = document.get("status")
    return TaskSnapshot(  # by hand: a converter takes nearly three times as long, and this is done for every check
        task_id=task_id,
        status=to_status(word),
        status_word=word if isinstance(word, str) else "",
        progress=_to_progress(document.get("progress")),
        urls=_to_urls(document.get("output")),
        failure=_to_failure(document.get("error")),
        usage=_to_usage(document.get("usage")),
        metadata=_to_mapping(document.get("metadata")),
        raw=document,
    )


def to_status(word: Any) -> TaskStatus:
    """Return what one of the service's words means."""
    return STATUS_WORDS.get(word.strip().lower(), TaskStatus.UNKNOWN) if isinstance(word, str) else TaskStatus.UNKNOWN


def _to_urls(output: Any) -> tuple[str, ...]:
    """The URLs of ``[{"content": [{"type": "image", "url": …}]}]``, or of one such object instead of the array."""
    if output is None:
        return ()
    items = output if isinstance(output, list) else [output]
    contents = [item.get("content") for item in items if isinstance(item, dict)]
    entries = [entry for content in contents for entry in (content if isinstance(content, list) else [content])]
    return tuple(entry["url"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("url"), str))


def _to_progress(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 <= value <= 1 else None


def _to_failure(error: Any) -> TaskFailure | None:
    if not error:
        return None
    if isinstance(error, dict):
        return TaskFailure(
            code=code_of(error.get("code")), message=first_text(error, ("error_message", "message", "detail")) or ""
        )
    return TaskFailure(message=as_text(error))


_NO_USAGE = Usage()


def _to_usage(usage: Any) -> Usage:
    if not isinstance(usage, dict):
        return _NO_USAGE
    return Usage(cost=cost_of(usage.get("cost")), quantity=_to_quantity(usage.get("quantity")), raw=usage)


def _to_mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _to_quantity(value: Any) -> int | None:
    return value if type(value) is int else None
