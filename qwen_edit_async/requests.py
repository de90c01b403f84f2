"""Requests out of what users write: arguments of a call, or fields by name. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import attrs

from qwen_edit_async.contract import MAX_IMAGES
from qwen_edit_async.errors import InvalidEditError
from qwen_edit_async.images.kinds import ImageInput
from qwen_edit_async.models import EditParameters, EditRequest
from qwen_edit_async.text import quoted

RequestInput = EditRequest | Mapping[str, Any]
"""A request, or the fields of one and of its parameters by name."""

PARAMETER_NAMES = frozenset(field.name for field in attrs.fields(EditParameters))
IMAGE_NAMES = ("image", *(f"image{position}" for position in range(2, MAX_IMAGES + 1)))
"""One image each: the columns of tables."""

_REQUEST_NAMES = frozenset(field.name for field in attrs.fields(EditRequest))


class EditOptions(TypedDict, total=False):
    """The fields of :class:`EditParameters`, as keyword arguments."""

    n: int | None
    negative_prompt: str | None
    size: str | tuple[int, int] | None
    prompt_extend: bool | None
    watermark: bool | None
    seed: int | None


def request_from_arguments(
    images: ImageInput | Sequence[ImageInput] | EditRequest,
    instruction: str | None,
    parameters: EditParameters | None,
    key: str | None,
    options: EditOptions,
) -> EditRequest:
    """The request that a call's arguments make.

    Raises:
        InvalidEditError: If the contract makes it an error, or if arguments stand beside a whole request.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(images, EditRequest):
        if instruction is not None or parameters is not None or key is not None or given:
            raise InvalidEditError("an EditRequest says it all: give no instruction, key or parameters beside it")
        return images
    # A missing instruction is refused by the request itself, in the same words as an empty one.
    return EditRequest(images, instruction or "", _changed(parameters, given), key=key)


def request_from_fields(fields: object) -> EditRequest:
    """The request that a mapping of fields makes: those of :class:`EditRequest` and of :class:`EditParameters`.

    ``image``, ``image2`` and ``image3`` can stand for ``images``.

    Raises:
        InvalidEditError: If it is no mapping, has a field that there is not, or is an error by the contract.
    """
    if not isinstance(fields, Mapping):
        raise InvalidEditError(
            f"a request is {type(fields).__name__!r}: give an EditRequest, or a mapping of its fields"
        )
    if unknown := [name for name in fields if name not in _REQUEST_NAMES | PARAMETER_NAMES and name not in IMAGE_NAMES]:
        raise InvalidEditError(f"a request has no field {quoted(unknown[0])}: put what is your own into metadata")
    options = {name: fields[name] for name in fields if name in PARAMETER_NAMES}
    others = {name: fields[name] for name in fields if name in _REQUEST_NAMES}
    parameters = _changed(others.pop("parameters", None), options)
    if named := [fields[name] for name in IMAGE_NAMES if not _is_nothing(fields.get(name))]:
        if "images" in others:
            raise InvalidEditError("a request has both images and image: give one of them")
        if _is_nothing(fields.get("image")):
            raise InvalidEditError("there is another image, but none in 'image'")
        others["images"] = named
    return EditRequest(others.pop("images", ()), others.pop("instruction", ""), parameters, **others)


def _is_nothing(value: object) -> bool:
    return value is None or (isinstance(value, float) and value != value)  # noqa: PLR0124  # how NaN shows


def named_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that a mapping names.

    Raises:
        InvalidEditError: If there is no such parameter.
    """
    if unknown := [name for name in parameters if name not in PARAMETER_NAMES]:
        raise InvalidEditError(f"there is no parameter {unknown[0]!r}")
    return dict(parameters)


def _changed(parameters: object, options: Mapping[str, Any]) -> EditParameters:
    if isinstance(parameters, Mapping):
        return EditParameters(**(named_parameters(parameters) | dict(options)))
    if parameters is None:
        return EditParameters(**options)
    if not isinstance(parameters, EditParameters):
        raise InvalidEditError(f"parameters is {type(parameters).__name__!r}: give EditParameters")
    return attrs.evolve(parameters, **options)
