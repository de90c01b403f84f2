"""Reads the reply to a submission: the task that it names, or the error that it reports. Pure: no I/O, no clock."""

from __future__ import annotations

import contextlib
import json
import re
from collections import ChainMap
from collections.abc import Mapping
from typing import Any

from qwen_edit_async.errors import APIResponseError
from qwen_edit_async.models import TaskSnapshot, TaskStatus
from qwen_edit_async.protocol.base import Reply, is_task_id
from qwen_edit_async.protocol.replies import (
    SUCCESSES,
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

_OPEN_STATUSES = frozenset({303, 409, *range(500, 600)}) - {503}
"""The HTTP errors that do not rule out a task."""

_REPORT_NAMES = ("error", "detail", "status")

_OBJECT_OPENS = re.compile(r"\ufeff?\s*\{\s*")
_MEMBER = re.compile(r'("(?:[^"\\]|\\.)*")\s*:\s*', re.DOTALL)
_BETWEEN_MEMBERS = re.compile(r"\s*(?:,\s*|(?=\}))")
_ERROR_REPORT = re.compile(r'"(error|error_message|code|message|detail)"\s*:')


def read_submission(reply: Reply) -> TaskSnapshot:
    """Read the task's id and first status.

    An id of a task proves the task, whatever the HTTP status and whatever error comes with it, because that task is
    paid for. A reply without an id is a refusal if it has an HTTP error, or plainly reports an error. Otherwise a task
    may exist.

    Raises:
        APIStatusError: The service answered with an HTTP error or a refusal. The task exists if it has a ``task_id``.
        APIResponseError: The reply can't be understood. A task may exist.
    """
    broken: APIResponseError | None = None
    try:
        document = load_object(reply)
    except APIResponseError as error:  # the id of a paid task counts even in a reply that broke off
        document, broken = _read_fragment(reply.text()), error
    task_id = _named_task(document, reply.status)
    if task_id is not None and is_task_id(task_id):
        if not reply.ok:
            raise error_from_reply(reply, task_id=task_id)
        if broken is not None:
            return TaskSnapshot(task_id=task_id, status=TaskStatus.UNKNOWN)
        return snapshot_of(document, task_id, reply.url)
    if not reply.ok or (task_id is None and broken is None and _is_refusal(document)):
        raise error_from_reply(reply)
    if task_id is not None:
        raise APIResponseError("the service answered with an id that can't be asked for", body=reply.excerpt())
    said = error_from_reply(reply).summary
    raise broken or APIResponseError(f"the service answered without a task id: {said}", body=reply.excerpt())


def _named_task(document: Mapping[str, Any], http_status: int) -> str | None:
    """Return the id of the task that a reply to a submission names.

    ``task_id`` goes before ``id``, and the id of a wrapped task before its envelope's. ``request_id`` is the last, and
    counts only in a successful reply that has a status or no error. In an error report, ``task_id`` names a task;
    ``id`` does so only if the HTTP error leaves open whether a task exists.
    """
    members = task_members(document)
    report = _error_report(members)
    is_accepted = http_status in SUCCESSES and (word_of(members) is not None or not has_error(document))
    return (
        first_text(members, TASK_ID_NAMES)
        or first_text(report, TASK_ID_NAMES)
        or first_text(members, ID_NAMES)
        or first_text(report, ID_NAMES if http_status in _OPEN_STATUSES else ())
        or first_text(members, (REQUEST_ID_NAME,) if is_accepted else ())
    )


def _error_report(members: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the members of all objects in which a reply may report an error, and of the objects in them."""
    reports = [each for name in _REPORT_NAMES if isinstance(each := members.get(name), Mapping)]
    nested = [inner for each in reports for inner in each.values() if isinstance(inner, Mapping)]
    return dict(ChainMap(*map(dict, reports + nested)))


def _is_refusal(document: Mapping[str, Any]) -> bool:
    """Return whether a successful reply to a submission, without an id, says that there is no task."""
    return has_plain_error(document) or status_of(status_word(document)) is TaskStatus.FAILED


def _read_fragment(text: str) -> dict[str, Any]:
    """Return the complete members at the start of a broken object.

    ``request_id`` is left out of an error report, because there it is the id of the report and not of a task.
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
