"""The documented dialect (part A of the contract), in its two envelopes. Pure: no I/O, no clock.

Replies are read tolerantly where services of this kind are known to differ (part B). Each snapshot keeps the whole
reply in ``raw``.

The type of an error says whether a failed submission may have created a task. An :class:`APIStatusError` below 500 is a
refusal. After an :class:`APIResponseError` or a 5xx a task may exist.
"""

from __future__ import annotations

import functools
import json
from typing import Any, Literal
from urllib.parse import quote

import attrs
from cattrs import Converter
from cattrs.gen import make_dict_unstructure_fn, override

from qwen_edit_async.contract import MODEL, STATUS_PATH, SUBMIT_PATH
from qwen_edit_async.errors import APIResponseError
from qwen_edit_async.models import EditParameters, EditRequest, TaskSnapshot
from qwen_edit_async.protocol.base import Call, Reply
from qwen_edit_async.protocol.replies import error_from_reply, has_error, load_object
from qwen_edit_async.protocol.submissions import read_submission
from qwen_edit_async.protocol.tasks import snapshot_of, status_word

EnvelopeName = Literal["flat", "params"]

# JSON escapes quotes inside of text, so a negative prompt never contains these empty members.
_IMAGE_GAP, _TEXT_GAP = '{"image": null}', '{"text": null}'


@attrs.frozen
class GenerationProtocol:
    """The documented dialect, with the body in one of its two envelopes.

    ``flat`` (part A): ``{"model", "input": {"messages"}, "parameters"}``. ``params`` (part B): ``{"model", "input":
    [{"params": {"input": {"messages"}, "parameters"}}]}``.
    """

    envelope: EnvelopeName = "flat"

    def submission(self, request: EditRequest) -> Call:
        """Build a ``POST`` with one message of one to three images and one text (contract, *Creating a task*)."""
        *parts, text_opens, rest = _template(self.envelope, len(request.images), request.parameters)
        # ASCII can carry every instruction, because JSON may escape even half of a surrogate pair.
        last = text_opens + json.dumps(request.instruction).encode("ascii") + rest
        return Call(method="POST", path=SUBMIT_PATH, parts=(*parts, last))

    def status_check(self, task_id: str) -> Call:
        """Build a ``GET`` by id (contract, *Polling*)."""
        return Call(method="GET", path=STATUS_PATH.format(task_id=quote(task_id, safe="")))

    def cancellation(self, task_id: str) -> Call | None:  # noqa: ARG002  # the interface's parameter
        """Return ``None``, because this dialect cannot cancel (part B)."""
        return None

    def read_submission(self, reply: Reply) -> TaskSnapshot:
        """Read the task's id and first status."""
        return read_submission(reply)

    def read_status(self, reply: Reply, task_id: str) -> TaskSnapshot:
        """Read ``status``, and ``error`` or ``output`` and ``usage`` (contract, *The status reply*)."""
        if not reply.ok:
            raise error_from_reply(reply, task_id=task_id)
        document = load_object(reply, task_id=task_id)
        snapshot = snapshot_of(document, task_id, reply.url)
        if snapshot.status_word or status_word(document) is not None:
            return snapshot
        if has_error(document):
            raise error_from_reply(reply, task_id=task_id)
        raise APIResponseError("the status reply has no status", body=reply.excerpt(), task_id=task_id)

    def alternative(self) -> GenerationProtocol:
        """Return the dialect with the other envelope, because only a 400 tells which one a gateway wants (part B)."""
        return GenerationProtocol("params" if self.envelope == "flat" else "flat")


@functools.lru_cache(maxsize=64)
def _template(envelope: EnvelopeName, images: int, parameters: EditParameters) -> tuple[bytes, ...]:
    """Return the JSON text of a body, cut where the images and the instruction belong.

    The quotes around an image are part of the text. The instruction brings its own.
    """
    content: list[dict[str, None]] = [{"image": None}] * images + [{"text": None}]
    body: dict[str, Any] = {"input": {"messages": [{"role": "user", "content": content}]}}
    if given := _converter.unstructure(parameters):
        body["parameters"] = given
    if envelope == "params":
        body = {"input": [{"params": body}]}
    text = json.dumps({"model": MODEL, **body})  # JSON escapes control characters, so \0 can mark the cuts
    text = text.replace(_IMAGE_GAP, '{"image": "\0"}').replace(_TEXT_GAP, '{"text": \0}')
    return tuple(part.encode("ascii") for part in text.split("\0"))


def _size_text(size: tuple[int, int] | None) -> str | None:
    return None if size is None else f"{size[0]}*{size[1]}"


def _make_converter() -> Converter:
    """Make the converter that turns parameters into JSON; only the given ones are sent."""
    converter = Converter(omit_if_default=True)
    size = override(unstruct_hook=_size_text)
    unstructure = make_dict_unstructure_fn(EditParameters, converter, _cattrs_omit_if_default=True, size=size)
    converter.register_unstructure_hook(EditParameters, unstructure)
    return converter


_converter = _make_converter()
