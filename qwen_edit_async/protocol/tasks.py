"""Reads a task from a reply: its status, pictures and cost. Pure: no I/O, no clock."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from qwen_edit_async.protocol.replies import (
    MESSAGE_NAMES,
    as_text,
    cost_of,
    error_code_of,
    first_text,
    has_error,
)
from qwen_edit_async.protocol.urls import absolute
from qwen_edit_async.tasks import TaskFailure, TaskSnapshot, TaskStatus, Usage

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
"""The service's status words in lower case. :func:`snapshot_of` interprets any other word."""

_WORD_NAMES = ("task_status", "status")
TASK_ID_NAMES = ("task_id", "taskId")
ID_NAMES = (*TASK_ID_NAMES, "id")
REQUEST_ID_NAME = "request_id"

_ID_NAMES_IN = {
    "data": (*ID_NAMES, REQUEST_ID_NAME),
    "task": (*ID_NAMES, REQUEST_ID_NAME),
    "result": (*ID_NAMES, REQUEST_ID_NAME),
    "output": TASK_ID_NAMES,  # in this member, "id" may belong to a picture
}
"""The members in which some services nest a task, and the names that the task's id may have in each member."""

_PICTURE_NAMES = ("url", "image_url", "image", "output_url", "result_url")
"""The names of a picture's URL in an object."""

_OUTPUT_NAMES = (
    *("output", "outputs", "result", "results", "images", "image_urls", "urls", "url_list", "data"),
    *_PICTURE_NAMES,
)
"""The members that may hold a task's pictures, in the order of the search."""

_NESTED_NAMES = (
    *("output", "outputs", "result", "results", "data"),
    *("choices", "message", "content", "images", "image_urls", "urls", "url_list"),
)
"""The members of an object that may hold nested pictures, in the order of the search."""

_BARE_URL = re.compile(r"https?://.+|/\S+|[^\s:?#]+\.(?:png|jpe?g|webp|avif|gif|bmp|tiff?)(?:\?\S*)?", re.IGNORECASE)
"""Text that is the URL of a picture. A relative URL without a leading slash must end like a picture file."""

_MAX_DEPTH = 10
_NO_USAGE = Usage()


def status_word(document: Mapping[str, Any]) -> str | None:
    """Return the service's status word in a reply, even if the task is nested in a member."""
    return word_of(task_members(document))


def snapshot_of(reply: Mapping[str, Any], task_id: str, asked_url: str = "") -> TaskSnapshot:
    """Read a task from a reply. Resolve relative URLs of pictures against ``asked_url``, the URL of the API call.

    The function does not use cattrs, which takes a fifth longer for each status reply (7.4 instead of 6.2 µs).
    """
    urls = _documented_urls(reply)
    document = reply if urls else task_members(reply)
    if urls is None:
        urls = tuple(url and absolute(url, asked_url) for url in _find_urls(document))
    word = word_of(document)
    status, failure = _status_and_failure(document, word, has_pictures=bool(urls))
    return TaskSnapshot(
        task_id=task_id,
        status=status,
        status_word=word or "",
        progress=_to_progress(document.get("progress")),
        urls=urls,
        failure=failure,
        usage=_to_usage(document.get("usage")),
        metadata=_to_mapping(document.get("metadata")),
        raw=reply,
    )


def _status_and_failure(
    document: Mapping[str, Any], word: str | None, *, has_pictures: bool
) -> tuple[TaskStatus, TaskFailure | None]:
    """Return the status of a task, and its failure if it has failed.

    If the status word is missing or unknown, pictures show that the task is completed. If the word is unknown and there
    are no pictures, an error shows that the task has failed.
    """
    status, failure = status_of(word), _failure_in(document)
    if status is TaskStatus.UNKNOWN:
        if has_pictures:
            status = TaskStatus.COMPLETED
        elif word is not None and (
            failure is not None or has_error({**document, "message": None, "detail": None})
        ):  # a message or a detail alone is not an error: it may say "please wait"
            status = TaskStatus.FAILED
    if status is TaskStatus.FAILED and failure is None and has_error(document):
        failure = TaskFailure(code=error_code_of(document), message=first_text(document, MESSAGE_NAMES) or "")
    return status, failure


def task_members(document: Mapping[str, Any], depth: int = 2) -> Mapping[str, Any]:
    """Return a reply's members. If one of them contains the task, add the task's members, which take precedence."""
    if _ID_NAMES_IN.keys().isdisjoint(document):
        return document
    lacks_word, has_id = word_of(document) is None, first_text(document, ID_NAMES) is not None
    for name, id_names in _ID_NAMES_IN.items() if depth else ():
        inner = document.get(name)
        if isinstance(inner, list) and len(inner) == 1:
            inner = inner[0]
        if name == "data" and isinstance(inner, str) and _BARE_URL.fullmatch(inner.strip()) is None:
            inner = {REQUEST_ID_NAME: inner}
        if isinstance(inner, dict):
            inner = task_members(inner, depth - 1)
            is_picture = has_id and any(picture in inner for picture in _PICTURE_NAMES)
            if first_text(inner, TASK_ID_NAMES if is_picture else id_names) or (lacks_word and word_of(inner)):
                return {**document, **{name: value for name, value in inner.items() if value is not None}}
    return document


def _documented_urls(document: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the URLs of pictures in the documented shape, or ``None`` for a reply of another shape.

    Most replies with pictures have this shape. The search for other shapes takes several times as long.
    """
    output = document.get("output")
    if type(document.get("status")) is not str or type(output) is not list or "data" in document or "task" in document:
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


def word_of(members: Mapping[str, Any]) -> str | None:
    """Return the service's status word among the members of a task."""
    for name in _WORD_NAMES:
        if isinstance(word := members.get(name), str):
            return word
    return None


def _find_urls(members: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the URLs of the pictures in a reply of any known shape.

    A picture without a URL gives an empty string, so that each picture keeps its position.
    """
    for name in _OUTPUT_NAMES:
        if members.get(name) and any(urls := tuple(_urls_in({name: members[name]}))):
            return urls
    return ()


def _urls_in(output: Any, depth: int = _MAX_DEPTH) -> Iterator[str]:
    match output:
        case str() if _BARE_URL.fullmatch(text := output.strip()):
            yield text
        case list() if depth:
            for item in output:
                yield from tuple(_urls_in(item, depth - 1)) or _placeholder(item)
        case dict() if pictures := [output[name] for name in _PICTURE_NAMES if name in output]:
            url = next((url for url in pictures if isinstance(url, str) and url), None)
            nested = next((inner for inner in pictures if isinstance(inner, list | dict)), None)
            yield from (url or "",) if url or nested is None or not depth else _urls_in(nested, depth - 1)
        case dict() if depth:
            found = [tuple(_urls_in(output[name], depth - 1)) for name in _NESTED_NAMES if name in output]
            yield from max(found, key=any, default=())  # the first member with a URL


def _placeholder(item: Any) -> tuple[str, ...]:
    """Return ``("",)`` for a picture without a URL, and ``()`` for any other item.

    Non-empty text, or an object with a member ``text``, is not a picture.
    """
    is_missing = not item or (isinstance(item, dict | list) and "text" not in item)
    return ("",) if is_missing else ()


def status_of(word: str | None) -> TaskStatus:
    """Return the meaning of a status word."""
    return TaskStatus.UNKNOWN if word is None else STATUS_WORDS.get(word.strip().lower(), TaskStatus.UNKNOWN)


def _to_progress(value: Any) -> float | None:
    return float(value) if type(value) in {int, float} and 0 <= value <= 1 else None


def _failure_in(document: Mapping[str, Any]) -> TaskFailure | None:
    error = document.get("error")
    if not error or (isinstance(error, str | dict) and not has_error({"error": error})):
        return None
    if isinstance(error, dict):
        return TaskFailure(code=error_code_of(error, document), message=first_text(error, MESSAGE_NAMES) or "")
    return TaskFailure(code=error_code_of(document) or None, message=as_text(error))


def _to_usage(value: Any) -> Usage:
    if not isinstance(value, dict):
        return _NO_USAGE
    quantity = value.get("quantity")
    return Usage(cost=cost_of(value.get("cost")), quantity=quantity if type(quantity) is int else None, raw=value)


def _to_mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
