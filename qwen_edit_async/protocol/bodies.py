"""The JSON bodies of submissions, cut where the images and the instruction belong. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from cattrs import Converter
from cattrs.gen import make_dict_unstructure_fn, override

from qwen_edit_async.models import EditParameters

# JSON escapes quotes inside of text, so a negative prompt never contains the JSON of a gap.
IMAGE: Final = {"gap": "image"}
TEXT: Final = {"gap": "text"}
"""The values that stand for an image and for the instruction in a body."""


def message_body(images: int, parameters: EditParameters) -> dict[str, Any]:
    """Return the documented members ``input`` and ``parameters`` (contract, *Creating a task*)."""
    content = [*[{"image": IMAGE}] * images, {"text": TEXT}]
    body: dict[str, Any] = {"input": {"messages": [{"role": "user", "content": content}]}}
    given = given_parameters(parameters)
    return {**body, "parameters": given} if given else body


def given_parameters(parameters: EditParameters) -> dict[str, Any]:
    """Return the parameters that are not ``None``, as JSON."""
    given: dict[str, Any] = _converter.unstructure(parameters)
    return given


def cut(body: Mapping[str, Any]) -> tuple[bytes, ...]:
    """Return the JSON text of a body, cut at its gaps: those of the images, and then the one of the instruction.

    The quotes around an image are part of the text. The instruction brings its own.
    """
    text = json.dumps(body)  # JSON escapes control characters, so \0 can mark the cuts
    text = text.replace(json.dumps(IMAGE), '"\0"').replace(json.dumps(TEXT), "\0")
    return tuple(part.encode("ascii") for part in text.split("\0"))


def with_instruction(template: tuple[bytes, ...], instruction: str) -> tuple[bytes, ...]:
    """Return the parts between the images, with the instruction in its gap."""
    *parts, text_opens, rest = template
    # ASCII can carry every instruction, because JSON may escape even half of a surrogate pair.
    return (*parts, text_opens + json.dumps(instruction).encode("ascii") + rest)


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
