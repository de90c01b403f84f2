"""The wire protocol as one value: what to send, and what a reply means. Pure: no I/O, no clock.

A :class:`WireProtocol` builds the calls and reads the replies; session and poller know nothing else of the service's
JSON. :class:`GenerationProtocol` is the documented contract (part A) in its two envelopes; another protocol is another
class.

Reading is tolerant where services of this kind are known to differ (part B), and keeps every reply whole in ``raw``.
Whether a failed creation may have left a task behind shows in the error's type: an :class:`APIStatusError` is a refusal
(unless it is a 5xx), an :class:`APIResponseError` leaves it open.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from typing import Any, Literal, Protocol
from urllib.parse import quote

import attrs
from cattrs import Converter
from cattrs.gen import make_dict_unstructure_fn, override

from ._contract import MODEL, STATUS_PATH, SUBMIT_PATH
from ._errors import APIResponseError, InvalidEditError
from ._models import EditParameters, EditRequest, TaskFailure, TaskSnapshot, TaskStatus, Usage
from ._replies import Reply, as_text, code_of, cost_of, error_from_reply, first_text, has_error, load_object
from ._result_urls import absolute

EnvelopeName = Literal["flat", "params"]

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

_ID_NAMES = ("id", "task_id", "request_id")
_MAX_TASK_ID_CHARACTERS = 512

_OBJECT_OPENS = re.compile(r"\ufeff?\s*\{\s*")
_MEMBER = re.compile(r'("(?:[^"\\]|\\.)*")\s*:\s*', re.DOTALL)
_BETWEEN_MEMBERS = re.compile(r"\s*(?:,\s*|(?=\}))")
_ERROR_REPORT = re.compile(r'"(error|error_message|code|message|detail)"\s*:')

# Inside of JSON text a quote is always escaped, so that these characters in a row can only be our own empty member.
_IMAGE_GAP = '{"image": null}'
_IMAGE_OPENS, _IMAGE_CLOSES = '{"image": "', '"}'


@attrs.frozen(kw_only=True)
class Call:
    """One HTTP call to the service, without host and key.

    Attributes:
        method: ``GET``, ``POST`` or ``PUT``.
        path: Below the base URL, quoted.
        parts: The JSON body's text, cut where the images' texts belong: image k goes between part k and part k + 1.
            Empty for a call without a body.
    """

    method: str
    path: str
    parts: tuple[bytes, ...] = ()


class WireProtocol(Protocol):
    """How to talk to one kind of service."""

    def submission(self, request: EditRequest) -> Call:
        """The call that creates a task."""
        ...

    def status_check(self, task_id: str) -> Call:
        """The call that asks how a task is doing."""
        ...

    def cancellation(self, task_id: str) -> Call | None:
        """The call that cancels a task at the service, ``None`` where there is no such thing."""
        ...

    def read_submission(self, reply: Reply) -> TaskSnapshot:
        """What the answer to a submission says.

        Raises:
            APIStatusError: The service refused; no task was created, unless it is a 5xx.
            APIResponseError: The reply can't be understood; a task may exist.
        """
        ...

    def read_status(self, reply: Reply, task_id: str) -> TaskSnapshot:
        """What the answer to a status check says.

        Raises:
            APIStatusError: The service refused to tell.
            APIResponseError: The reply can't be understood.
        """
        ...

    def alternative(self) -> WireProtocol | None:
        """The same service in its other form, to be tried once if it refuses the first creation as malformed."""
        ...


@attrs.frozen
class GenerationProtocol:
    """The documented contract, with the body in one of its two envelopes.

    ``flat`` (part A): ``{"model", "input": {"messages"}, "parameters"}``. ``params`` (part B): ``{"model", "input":
    [{"params": {"input": {"messages"}, "parameters"}}]}``.
    """

    envelope: EnvelopeName = "flat"

    def submission(self, request: EditRequest) -> Call:
        """``POST``: one message of one to three images and one text (contract, *Creating a task*)."""
        content = [{"image": None} for _ in request.images] + [{"text": request.instruction}]
        body: dict[str, Any] = {"input": {"messages": [{"role": "user", "content": content}]}}
        if parameters := _converter.unstructure(request.parameters):
            body["parameters"] = parameters
        if self.envelope == "params":
            body = {"input": [{"params": body}]}
        # An escaped surrogate that stands alone is still valid JSON text: ASCII keeps every instruction sendable.
        texts = json.dumps({"model": MODEL, **body}).split(_IMAGE_GAP)
        opened = [text + _IMAGE_OPENS for text in texts[:-1]] + texts[-1:]
        parts = [opened[0]] + [_IMAGE_CLOSES + text for text in opened[1:]]
        return Call(method="POST", path=SUBMIT_PATH, parts=tuple(part.encode("ascii") for part in parts))

    def status_check(self, task_id: str) -> Call:
        """``GET`` by id (contract, *Polling*)."""
        return Call(method="GET", path=STATUS_PATH.format(task_id=quote(task_id, safe="")))

    def cancellation(self, task_id: str) -> Call | None:  # noqa: ARG002  # the interface's parameter
        """There is no cancel in this protocol (part B)."""
        return None

    def read_submission(self, reply: Reply) -> TaskSnapshot:
        """The id and first status.

        A creation reply without an id is a failed creation (part B); unless it says why, a task may exist all the same.
        One that shows a task is believed, whatever its HTTP status: that task is paid for.
        """
        try:
            document = load_object(reply)
            if not reply.ok and not _shows_task(document):
                raise error_from_reply(reply)
        except APIResponseError:
            if not reply.ok:
                raise error_from_reply(reply) from None
            # Cut off or not, an id that was given out is a task that is paid for.
            document, task_id = {}, _cut_off_id(reply.text())
            if task_id is None:
                raise
        else:
            task_id = first_text(document, _ID_NAMES)
            if _only_reports_error(document) and _names_no_task(task_id, document):
                raise error_from_reply(reply)
            if task_id is None:
                raise APIResponseError("the service accepted without giving a task id", body=reply.excerpt())
        try:
            return _snapshot(document, check_task_id(task_id), reply.url)
        except InvalidEditError:
            unusable = APIResponseError("the service answered with an id that can't be asked for", body=reply.excerpt())
        raise unusable

    def read_status(self, reply: Reply, task_id: str) -> TaskSnapshot:
        """``status``, and ``error`` or ``output`` and ``usage`` (contract, *The status reply*)."""
        if not reply.ok:
            raise error_from_reply(reply, task_id=task_id)
        document = load_object(reply, task_id=task_id)
        if _only_reports_error(document):
            raise error_from_reply(reply, task_id=task_id)
        if not isinstance(document.get("status"), str):
            raise APIResponseError("the status reply has no status", body=reply.excerpt(), task_id=task_id)
        return _snapshot(document, task_id, reply.url)

    def alternative(self) -> GenerationProtocol:
        """The other envelope (part B: only a 400 tells which one a given gateway wants)."""
        return GenerationProtocol("params" if self.envelope == "flat" else "flat")


def check_task_id(task_id: object) -> str:
    """A task id that can be put into a URL's path.

    Raises:
        InvalidEditError: If it is no text, empty, overlong, or has characters that no id has.
    """
    if not isinstance(task_id, str) or not task_id or len(task_id) > _MAX_TASK_ID_CHARACTERS:
        raise InvalidEditError(f"task id {task_id!r:.80}: give the id that the service answered with")
    if task_id.strip(".") == "" or not task_id.isprintable() or any(character.isspace() for character in task_id):
        raise InvalidEditError(f"task id {task_id!r:.80}: that is no id which the service gives out")
    return task_id


def _only_reports_error(document: Mapping[str, Any]) -> bool:
    """Whether an object tells of an error, and of no task."""
    return not isinstance(document.get("status"), str) and has_error(document)


def _shows_task(document: Mapping[str, Any]) -> bool:
    """Whether an object tells of a task that was accepted, and of nothing else."""
    accepted = _to_status(document.get("status")) not in {TaskStatus.FAILED, TaskStatus.UNKNOWN}
    return accepted and first_text(document, _ID_NAMES[:-1]) is not None and not has_error(document)


def _names_no_task(task_id: str | None, document: Mapping[str, Any]) -> bool:
    """Whether the id in an error report is that of the report, as far as one can tell (part B)."""
    return task_id in {None, first_text(document, ("request_id",))} or isinstance(document.get("error"), Mapping)


def _cut_off_id(text: str) -> str | None:
    names = _ID_NAMES[:-1] if _ERROR_REPORT.search(text) else _ID_NAMES
    members = _whole_members(text)
    task_id = first_text(members, names)
    return None if _only_reports_error(members) and _names_no_task(task_id, members) else task_id


def _whole_members(text: str) -> dict[str, Any]:
    """What came of an object of which the rest is missing, or is no JSON."""
    members: dict[str, Any] = {}
    decode = json.JSONDecoder().raw_decode
    at = _OBJECT_OPENS.match(text)
    with contextlib.suppress(ValueError, RecursionError):
        while at is not None and (name := _MEMBER.match(text, at.end())) is not None:
            value, end = decode(text, name.end())
            at = _BETWEEN_MEMBERS.match(text, end)
            if at is not None or isinstance(value, str):  # of a number, digits may be missing
                members[json.loads(name[1])] = value
    return members


def _snapshot(document: Mapping[str, Any], task_id: str, asked_url: str) -> TaskSnapshot:
    word = document.get("status")
    return TaskSnapshot(  # by hand: a converter takes nearly three times as long, and this is done for every check
        task_id=task_id,
        status=_to_status(word),
        status_word=word if isinstance(word, str) else "",
        progress=_to_progress(document.get("progress")),
        urls=tuple(absolute(url, asked_url) for url in _to_urls(document.get("output"))),
        failure=_to_failure(document.get("error")),
        usage=_to_usage(document.get("usage")),
        metadata=_to_mapping(document.get("metadata")),
        raw=document,
    )


def _to_status(word: Any) -> TaskStatus:
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


def _make_converter() -> Converter:
    converter = Converter(omit_if_default=True)
    converter.register_unstructure_hook(
        EditParameters,
        make_dict_unstructure_fn(
            EditParameters,
            converter,
            _cattrs_omit_if_default=True,
            size=override(unstruct_hook=lambda size: None if size is None else f"{size[0]}*{size[1]}"),
        ),
    )
    return converter


_converter = _make_converter()
