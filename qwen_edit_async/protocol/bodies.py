"""The JSON bodies of submissions, cut where the images and the instruction belong. Pure."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from qwen_edit_async.models import EditParameters

IMAGE: Final = {"gap": "image"}
TEXT: Final = {"gap": "text"}
"""``IMAGE`` and ``TEXT`` mark the gaps in a body for an image and for the instruction.

A negative prompt can't imitate these marks in a body's JSON text, because JSON escapes the prompt's quotes.
"""


def message_body(images: int, parameters: EditParameters) -> dict[str, Any]:
    """Return the documented members ``input`` and ``parameters`` (contract, *Creating a task*)."""
    content = [*[{"image": IMAGE}] * images, {"text": TEXT}]
    body: dict[str, Any] = {"input": {"messages": [{"role": "user", "content": content}]}}
    given = given_parameters(parameters)
    return {**body, "parameters": given} if given else body


def given_parameters(parameters: EditParameters) -> dict[str, Any]:
    """Return the parameters that are not ``None``, as JSON."""
    return _unstructure()(parameters)


def split_at_gaps(body: Mapping[str, Any]) -> tuple[bytes, ...]:
    """Return the JSON text of a body, cut at each gap. The gap for the instruction must be the last.

    The text includes the quotes around each image, but not those around the instruction.
    """
    text = json.dumps(body)  # JSON escapes control characters, so \0 can mark the cuts
    text = text.replace(json.dumps(IMAGE), '"\0"').replace(json.dumps(TEXT), "\0")
    return tuple(part.encode("ascii") for part in text.split("\0"))


def with_instruction(template: tuple[bytes, ...], instruction: str) -> tuple[bytes, ...]:
    """Fill the gap for the instruction. Return the parts before, between and after the images."""
    *parts, text_opens, rest = template
    # JSON can escape any text to ASCII, even a lone surrogate.
    return (*parts, text_opens + json.dumps(instruction).encode("ascii") + rest)


@functools.cache
def _unstructure() -> Callable[[EditParameters], dict[str, Any]]:
    from cattrs import Converter  # noqa: PLC0415  # slow to import
    from cattrs.gen import make_dict_unstructure_fn, override  # noqa: PLC0415  # slow to import

    size = override(unstruct_hook=lambda sides: f"{sides[0]}*{sides[1]}")
    return make_dict_unstructure_fn(EditParameters, Converter(), _cattrs_omit_if_default=True, size=size)
