"""What a reply says about a task: its status, its pictures, its cost. Pure: no I/O, no clock.

Services of this kind differ in their words and in the shape of their output (part B), so reading is tolerant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from qwen_edit_async.models import TaskFailure, TaskSnapshot, TaskStatus, Usage
from qwen_edit_async.protocol.replies import as_text, cost_of, error_code_of, first_text, has_error, is_refusal
from qwen_edit_async.protocol.urls import absolute

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
"""The service's words, in lower case. Of any other word, :func:`snapshot_of` says what it means."""


_OWN_ID_NAMES = ("id", "task_id")
_WORD_NAMES = ("status", "task_status")
_ID_NAMES_IN = {
    "data": (*_OWN_ID_NAMES, "request_id"),
    "task": (*_OWN_ID_NAMES, "request_id"),
    "output": ("task_id",),  # its "id" may be that of a picture
}
"""Members in which some services put what others answer with, and what the task's id is called there."""


_PICTURE_NAMES = ("url", "image_url", "image")
_NESTED_NAMES = (
    *("output", "outputs", "result", "results", "data"),
    *("choices", "message", "content", "images", "image_urls", "urls"),
)
_OUTPUT_NAMES = ("output", "outputs", "result", "results", "images", "image_urls", "image_url", "urls", "data")
"""Members that hold a picture's URL, those that hold such objects, and where to begin."""

_URL_STARTS = ("http://", "https://", "/")
"""How text begins that is a URL, rather than words, where it has no name."""

_MAX_DEPTH = 10


def named_task(document: Mapping[str, Any]) -> str | None:
    """Return the id of the task that a successful reply names.

    The id of the request names the task only if there is no other and no error. An ``id`` beside an error object and
    without a status is the report's own, as far as one can tell.
    """
    members = _task_members(document)
    if _word_of(members) is not None or not has_error(document):
        return first_text(members, (*_OWN_ID_NAMES, "request_id"))
    is_report = members is document and isinstance(document.get("error"), Mapping)
    return first_text(members, ("task_id",) if is_report else _OWN_ID_NAMES)


def own_id(document: Mapping[str, Any]) -> str | None:
    """Return the id that a reply gives a task, other than the request's."""
    return first_text(_task_members(document), _OWN_ID_NAMES)


def shows_task(document: Mapping[str, Any]) -> bool:
    """Whether a reply tells of a task that was accepted, and of nothing else."""
    accepted = to_status(status_word(document)) not in {TaskStatus.FAILED, TaskStatus.UNKNOWN}
    return accepted and own_id(document) is not None and not has_error(document)


def status_word(document: Mapping[str, Any]) -> str | None:
    """Return the service's word for where the task stands."""
    return _word_of(_task_members(document))


def snapshot_of(reply: Mapping[str, Any], task_id: str, asked_url: str = "") -> TaskSnapshot:
    """Return the task as a reply shows it.

    A word that is not in the table means completed if pictures come with it, failed if an error does. Relative URLs of
    pictures are resolved against ``asked_url``, the URL that the reply answers.
    """
    document = _task_members(reply)
    word = _word_of(document)
    status, urls, failure = to_status(word), _to_urls(document), _to_failure(document.get("error"))
    if status is TaskStatus.UNKNOWN and word is not None:
        if urls:
            status = TaskStatus.COMPLETED
        elif failure is not None or is_refusal(document):
            status = TaskStatus.FAILED
    if status is TaskStatus.FAILED and failure is None and has_error(document):
        failure = _to_failure(document)
    return TaskSnapshot(  # by hand: a converter takes nearly three times as long, and this is done for every check
        task_id=task_id,
        status=status,
        status_word=word or "",
        progress=_to_progress(document.get("progress")),
        urls=tuple(url and absolute(url, asked_url) for url in urls),
        failure=failure,
        usage=_to_usage(document.get("usage")),
        metadata=_to_mapping(document.get("metadata")),
        raw=reply,
    )


def _task_members(document: Mapping[str, Any], depth: int = 2) -> Mapping[str, Any]:
    """Return the members that tell of the task, also if the service puts them into an envelope."""
    if _documented_urls(document) is not None:
        return document
    lacks_word, lacks_id = _word_of(document) is None, first_text(document, _OWN_ID_NAMES) is None
    if depth and (lacks_word or lacks_id):
        for name, id_names in _ID_NAMES_IN.items():
            inner = document.get(name)
            if isinstance(inner, list) and len(inner) == 1:
                inner = inner[0]
            if isinstance(inner, Mapping):
                inner = _task_members(inner, depth - 1)
                if (lacks_word and _word_of(inner) is not None) or (lacks_id and first_text(inner, id_names)):
                    return {**document, **inner}
    return document


def _documented_urls(document: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the URLs of a completed task in the documented shape, without looking for others: most replies have it."""
    output = document.get("output")
    if type(document.get("status")) is not str or type(output) is not list:
        return None
    if "data" in document or "task" in document:
        return None
    urls = []
    for item in output:
        if type(item) is not dict or len(item) != 1 or type(content := item.get("content")) is not list:
            return None
        for entry in content:
            if type(entry) is not dict or type(url := entry.get("url")) is not str or not url.startswith("http"):
                return None
            urls.append(url)
    return tuple(urls) or None


def _word_of(members: Mapping[str, Any]) -> str | None:
    return next((word for name in _WORD_NAMES if isinstance(word := members.get(name), str)), None)


def to_status(word: Any) -> TaskStatus:
    """Return what one of the service's words means."""
    return STATUS_WORDS.get(word.strip().lower(), TaskStatus.UNKNOWN) if isinstance(word, str) else TaskStatus.UNKNOWN


def _to_urls(members: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the URLs of the pictures, in the shape that the contract or a service of its kind gives them.

    A picture without a URL leaves its place empty, so that the others keep theirs.
    """
    if (documented := _documented_urls(members)) is not None:
        return documented
    for name in _OUTPUT_NAMES:
        if members.get(name) and any(urls := tuple(_urls_in({name: members[name]}))):
            return urls
    return ()


def _urls_in(output: Any, depth: int = _MAX_DEPTH) -> Iterator[str]:
    match output:
        case str() if output.startswith(_URL_STARTS):
            yield output
        case list() if depth:
            for item in output:
                yield from ("",) if item is None else _urls_in(item, depth - 1)
        case dict() if pictures := [output[name] for name in _PICTURE_NAMES if name in output]:
            url = next((url for url in pictures if isinstance(url, str) and url), None)
            nested = next((inner for inner in pictures if isinstance(inner, list | dict)), None)
            yield from (url or "",) if url or nested is None else _urls_in(nested, depth and depth - 1)
        case dict() if depth:
            for name in _NESTED_NAMES:
                if name in output:
                    yield from _urls_in([output[name]], depth - 1)


def _to_progress(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 <= value <= 1 else None


def _to_failure(error: Any) -> TaskFailure | None:
    if not error or (isinstance(error, Mapping) and not has_error({"error": error})):
        return None
    if isinstance(error, dict):
        return TaskFailure(
            code=error_code_of(error), message=first_text(error, ("error_message", "message", "detail")) or ""
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
