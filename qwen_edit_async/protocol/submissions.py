"""Reads the reply to a submission: the created task, or the reported error. Pure: no I/O, no clock."""

from __future__ import annotations

import contextlib
import json
import re
from collections import ChainMap
from collections.abc import Mapping
from typing import Any

from qwen_edit_async.errors import APIResponseError
from qwen_edit_async.protocol.base import Reply, is_task_id
from qwen_edit_async.protocol.replies import (
    error_from_reply,
    first_text,
    has_error,
    has_plain_error,
    load_object,
)
from qwen_edit_async.protocol.tasks import (
    ID_NAMES,
    REQUEST_ID_NAME,
    TASK_ID_NAMES,
    snapshot_of,
    status_of,
    status_word,
    task_members,
    word_of,
)
from qwen_edit_async.tasks import TaskSnapshot, TaskStatus

_OPEN_STATUSES = frozenset({303, 409, *range(500, 600)}) - {503}
"""The HTTP statuses with which ``id`` in an error report is a task id. With other statuses, that ``id`` is ignored."""

_REPORT_NAMES = ("error", "detail", "status")

_OBJECT_OPENS = re.compile(r"\ufeff?\s*\{\s*")
_MEMBER = re.compile(r'("(?:[^"\\]|\\.)*")\s*:\s*', re.DOTALL)
_BETWEEN_MEMBERS = re.compile(r"\s*(?:,\s*|(?=\}))")
_ERROR_REPORT = re.compile(r'"(error|error_message|code|message|detail)"\s*:')


def read_submission(reply: Reply) -> TaskSnapshot:
    """Read the task's id and first status.

    A task id proves that the task exists and is paid for, even if the reply also reports an error.

    Raises:
        APIStatusError: The reply has an HTTP error, or it has a clear error report but no task id. If the error has a
            ``task_id``, the task exists.
        APIResponseError: The reply has no usable task id. A task may exist.
    """
    document, broken = load_or_fragment(reply)
    task_id = _named_task(document, reply)
    if task_id is not None and is_task_id(task_id):
        if not reply.ok:
            raise error_from_reply(reply, task_id=task_id)
        if broken is not None:
            return TaskSnapshot(task_id=task_id, status=TaskStatus.UNKNOWN)
        return snapshot_of(document, task_id, reply.url)
    if not reply.ok or (task_id is None and broken is None and is_refusal(document)):
        raise error_from_reply(reply)
    if task_id is not None:
        raise APIResponseError("the reply has a task id that can't be part of a URL", body=reply.excerpt())
    said = error_from_reply(reply).summary
    raise broken or APIResponseError(f"the reply has no task id: {said}", body=reply.excerpt())


def _named_task(document: Mapping[str, Any], reply: Reply) -> str | None:
    """Return the task id in a reply to a submission.

    ``task_id`` takes precedence over ``id``. A nested task's id takes precedence over the id of the object around it.
    ``request_id`` comes last, and counts only in a successful reply that has a status word or no error. In an error
    report, ``task_id`` always counts, but ``id`` counts only with one of :data:`_OPEN_STATUSES`.
    """
    members = task_members(document)
    report = _error_report(members)
    is_accepted = reply.ok and (word_of(members) is not None or not has_error(document))
    return (
        first_text(members, TASK_ID_NAMES)
        or first_text(report, TASK_ID_NAMES)
        or first_text(members, ID_NAMES)
        or first_text(report, ID_NAMES if reply.status in _OPEN_STATUSES else ())
        or first_text(members, (REQUEST_ID_NAME,) if is_accepted else ())
    )


def _error_report(members: Mapping[str, Any]) -> Mapping[str, Any]:
    """Merge the members of the objects that may report an error, and of the objects nested in these objects."""
    reports = [each for name in _REPORT_NAMES if isinstance(each := members.get(name), dict)]
    if not reports:  # the most frequent case
        return {}
    nested = [inner for each in reports for inner in each.values() if isinstance(inner, dict)]
    return dict(ChainMap(*map(dict, reports + nested)))


def is_refusal(document: Mapping[str, Any]) -> bool:
    """Return whether a reply with a successful HTTP status says that the call was refused.

    If such a reply to a submission has no task id, no task exists.
    """
    return has_plain_error(document) or status_of(status_word(document)) is TaskStatus.FAILED


def load_or_fragment(reply: Reply) -> tuple[Mapping[str, Any], APIResponseError | None]:
    """Parse a reply's body. If this fails, return the members that could be read, and the error.

    Even an incomplete reply may hold the id or the pictures of a paid task.
    """
    try:
        return load_object(reply), None
    except APIResponseError as error:
        return read_fragment(reply.text()), error


def read_fragment(text: str) -> dict[str, Any]:
    """Return the complete members at the start of an incomplete JSON object.

    In an error report, ``request_id`` identifies the request, not a task, so it is left out.
    """
    members: dict[str, Any] = {}
    decode = json.JSONDecoder().raw_decode
    at = _OBJECT_OPENS.match(text)
    with contextlib.suppress(ValueError, RecursionError):
        while at is not None and (name := _MEMBER.match(text, at.end())) is not None:
            value, end = decode(text, name.end())
            at = _BETWEEN_MEMBERS.match(text, end)
            if at is not None or isinstance(value, str):  # the last digits of a number may be missing
                members[json.loads(name[1])] = value
    if _ERROR_REPORT.search(text):
        members.pop("request_id", None)
    return members
