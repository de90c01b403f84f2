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
import functools
import json
import re
from collections.abc import Mapping
from typing import Any, Literal, Protocol
from urllib.parse import quote

import attrs
from cattrs import Converter
from cattrs.gen import make_dict_unstructure_fn, override

from qwen_edit_async.contract import MODEL, STATUS_PATH, SUBMIT_PATH
from qwen_edit_async.errors import APIResponseError, InvalidEditError
from qwen_edit_async.models import EditParameters, EditRequest, TaskSnapshot, TaskStatus
from qwen_edit_async.protocol.replies import Reply, error_from_reply, has_error, is_refusal, load_object
from qwen_edit_async.protocol.tasks import named_task, own_id, shows_task, snapshot_of, status_word

EnvelopeName = Literal["flat", "params"]

_OPEN_STATUSES = frozenset({303, 409})
_SERVER_ERRORS = frozenset(range(500, 600)) - {503}
"""HTTP errors that do not certainly mean that there is no task; one with an id names it (part B)."""

_MAX_TASK_ID_CHARACTERS = 512

_OBJECT_OPENS = re.compile(r"\ufeff?\s*\{\s*")
_MEMBER = re.compile(r'("(?:[^"\\]|\\.)*")\s*:\s*', re.DOTALL)
_BETWEEN_MEMBERS = re.compile(r"\s*(?:,\s*|(?=\}))")
_ERROR_REPORT = re.compile(r'"(error|error_message|code|message|detail)"\s*:')

# Inside of JSON text a quote is always escaped, so these characters in a row can only be our own empty members.
_IMAGE_GAP, _TEXT_GAP = '{"image": null}', '{"text": null}'
_IMAGE_OPENS, _IMAGE_CLOSES = '{"image": "', '"}'
_TEXT_OPENS, _TEXT_CLOSES = '{"text": ', "}"


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


@functools.lru_cache(maxsize=64)
def _template(envelope: EnvelopeName, images: int, parameters: EditParameters) -> tuple[bytes, ...]:
    """Return a body's JSON text, cut where each image and the instruction belong."""
    content: list[dict[str, None]] = [{"image": None}] * images + [{"text": None}]
    body: dict[str, Any] = {"input": {"messages": [{"role": "user", "content": content}]}}
    if given := _converter.unstructure(parameters):
        body["parameters"] = given
    if envelope == "params":
        body = {"input": [{"params": body}]}
    text = json.dumps({"model": MODEL, **body})
    text = text.replace(_IMAGE_GAP, f"{_IMAGE_OPENS}\0{_IMAGE_CLOSES}").replace(
        _TEXT_GAP, f"{_TEXT_OPENS}\0{_TEXT_CLOSES}"
    )
    return tuple(part.encode("ascii") for part in text.split("\0"))


@attrs.frozen
class GenerationProtocol:
    """The documented contract, with the body in one of its two envelopes.

    ``flat`` (part A): ``{"model", "input": {"messages"}, "parameters"}``. ``params`` (part B): ``{"model", "input":
    [{"params": {"input": {"messages"}, "parameters"}}]}``.
    """

    envelope: EnvelopeName = "flat"

    def submission(self, request: EditRequest) -> Call:
        """``POST``: one message of one to three images and one text (contract, *Creating a task*)."""
        *parts, text_opens, rest = _template(self.envelope, len(request.images), request.parameters)
        # An escaped surrogate that stands alone is still valid JSON text: ASCII keeps every instruction sendable.
        last = text_opens + json.dumps(request.instruction).encode("ascii") + rest
        return Call(method="POST", path=SUBMIT_PATH, parts=(*parts, last))

    def status_check(self, task_id: str) -> Call:
        """``GET`` by id (contract, *Polling*)."""
        return Call(method="GET", path=STATUS_PATH.format(task_id=quote(task_id, safe="")))

    def cancellation(self, task_id: str) -> Call | None:  # noqa: ARG002  # the interface's parameter
        """There is no cancel in this protocol (part B)."""
        return None

    def read_submission(self, reply: Reply) -> TaskSnapshot:
        """Read the id and first status.

        A creation reply that names a task is believed, as that task is paid for. One that names none is a refusal if it
        plainly says so; otherwise a task may exist.
        """
        try:
            document = load_object(reply)
        except APIResponseError:
            if not reply.ok:
                raise error_from_reply(reply) from None
            # Cut off or not, an id that was given out is a task that is paid for.
            document, task_id = {}, _cut_off_id(reply.text())
            if task_id is None:
                raise
        else:
            task_id = _named_task(reply, document)
        if task_id is None or (not reply.ok and not is_task_id(task_id)):
            if not reply.ok or is_refusal(document):
                raise error_from_reply(reply)
            raise APIResponseError("the service accepted without giving a task id", body=reply.excerpt())
        if not is_task_id(task_id):
            raise APIResponseError("the service answered with an id that can't be asked for", body=reply.excerpt())
        if not reply.ok and not shows_task(document):  # how the task fares is for the next check to say
            return TaskSnapshot(task_id=task_id, status=TaskStatus.UNKNOWN, raw=document)
        return snapshot_of(document, task_id, reply.url)

    def read_status(self, reply: Reply, task_id: str) -> TaskSnapshot:
        """``status``, and ``error`` or ``output`` and ``usage`` (contract, *The status reply*)."""
        if not reply.ok:
            raise error_from_reply(reply, task_id=task_id)
        document = load_object(reply, task_id=task_id)
        if (word := status_word(document)) is None and has_error(document):
            raise error_from_reply(reply, task_id=task_id)
        if word is None:
            raise APIResponseError("the status reply has no status", body=reply.excerpt(), task_id=task_id)
        return snapshot_of(document, task_id, reply.url)

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


def is_task_id(text: str) -> bool:
    """Whether a status check can ask for a task of this id."""
    try:
        check_task_id(text)
    except InvalidEditError:
        return False
    return True


def _named_task(reply: Reply, document: Mapping[str, Any]) -> str | None:
    """Return the id of the task that the answer to a creation names."""
    if reply.ok:
        return named_task(document)
    leaves_open = reply.status in _OPEN_STATUSES or reply.status in _SERVER_ERRORS
    return own_id(document) if leaves_open or shows_task(document) else None


def _cut_off_id(text: str) -> str | None:
    members = _whole_members(text)
    if _ERROR_REPORT.search(text):  # the request's id names no task then
        members.pop("request_id", None)
    return named_task(members)


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
