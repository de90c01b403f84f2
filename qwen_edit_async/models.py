"""Requests to the service, as immutable values. Pure."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from typing import Any, SupportsIndex, TypedDict, cast

import attrs

from qwen_edit_async.contract import (
    MAX_IMAGES,
    MAX_INSTRUCTION_CHARACTERS,
    MAX_N,
    MAX_NEGATIVE_PROMPT_CHARACTERS,
    MAX_SEED,
    MAX_SIDE,
    MIN_IMAGES,
    MIN_N,
    MIN_SEED,
    MIN_SIDE,
)
from qwen_edit_async.errors import InvalidEditError
from qwen_edit_async.images.kinds import (
    ImageInput,
    ImageInputs,
    as_image_tuple,
    check_image,
    copyable,
    is_plain_url,
    map_images,
)
from qwen_edit_async.text import quoted

_SIZE_TEXT = re.compile(r"\s*(\d{1,9})\s*[*xX×]\s*(\d{1,9})\s*", re.ASCII)
_WIDTH_AND_HEIGHT = 2
_SIZE_FORMS = "'1024*1536', '1024x1536' or (1024, 1536)"


def _to_integer(value: SupportsIndex | None) -> int | None:
    """Convert integers such as NumPy's to ``int``. Leave other values unchanged for later checks."""
    if value is None or isinstance(value, bool):
        return value
    try:
        return operator.index(value)
    except TypeError:
        return cast("int", value)


def _to_size(value: str | tuple[int, int] | None) -> tuple[int, int] | None:
    if value is None:
        return None
    if isinstance(value, str):
        match = _SIZE_TEXT.fullmatch(value)
        if match is None:
            raise InvalidEditError(f"size is {quoted(value)}: give {_SIZE_FORMS}")
        return int(match[1]), int(match[2])
    to_list: Any = getattr(value, "tolist", None)
    sides = value if to_list is None else to_list()  # NumPy arrays have `tolist`
    if not isinstance(sides, tuple | list) or len(sides) != _WIDTH_AND_HEIGHT:
        raise InvalidEditError(f"size is {quoted(value)}: give {_SIZE_FORMS}")
    width, height = map(_to_integer, sides)
    return cast("tuple[int, int]", (width, height))


def _check_integer(value: object, name: str, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise InvalidEditError(f"{name} is {quoted(value)}: give an integer from {low} to {high}")


def _to_metadata(value: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidEditError(f"metadata is {type(value).__name__!r}: give a mapping")
    return dict(value)


@attrs.frozen(kw_only=True)
class EditParameters:
    """The options of an edit. ``None`` stands for the service's default.

    Attributes:
        n: The number of output images, 1 to 6 (default: 1).
        negative_prompt: Content to avoid. The service ignores everything after 500 characters.
        size: Width and height of the output in pixels, each 512 to 2048, as ``"1024*1536"``, ``"1024x1536"`` or
            ``(1024, 1536)``. The service rounds each side to a multiple of 16. The default has the aspect ratio of the
            last input image and about 1024*1024 pixels.
        prompt_extend: Whether the service rewrites the instruction (default: yes).
        watermark: Whether the service writes "Qwen-Image" into the bottom-right corner (default: no).
        seed: An integer from 0 to 2147483647. Results with the same seed are similar, but not identical.

    Raises:
        InvalidEditError: A value has the wrong type or is out of bounds.
    """

    n: int | None = attrs.field(default=None, converter=_to_integer)
    negative_prompt: str | None = None
    size: tuple[int, int] | None = attrs.field(default=None, converter=_to_size)
    prompt_extend: bool | None = None
    watermark: bool | None = None
    seed: int | None = attrs.field(default=None, converter=_to_integer)

    def __attrs_post_init__(self) -> None:
        if self.n is not None:
            _check_integer(self.n, "n", MIN_N, MAX_N)
        if self.seed is not None:
            _check_integer(self.seed, "seed", MIN_SEED, MAX_SEED)
        if self.size is not None:
            _check_integer(self.size[0], "the width of size", MIN_SIDE, MAX_SIDE)
            _check_integer(self.size[1], "the height of size", MIN_SIDE, MAX_SIDE)
        if self.negative_prompt is not None and not isinstance(self.negative_prompt, str):
            raise InvalidEditError(f"negative_prompt is {type(self.negative_prompt).__name__!r}: give text")
        for name in ("prompt_extend", "watermark"):
            if not isinstance(getattr(self, name), bool | None):
                raise InvalidEditError(f"{name} is {quoted(getattr(self, name))}: give True, False or None")


def requested_pictures(parameters: EditParameters) -> int:
    """Return the number of output images that an edit requests."""
    return parameters.n or MIN_N


@attrs.frozen
class EditRequest:
    """One edit: the input images and the instruction.

    Pickling or deep-copying a request replaces open files with empty bytes. Such a copy can't be sent.

    Attributes:
        images: One image, or a sequence of one to three images. In the instruction, "image 2" means the second image.
            By default, the output has the aspect ratio of the last image. An image is a path, an http(s) URL, a data
            URI, bytes, a binary file, a PIL image, or a uint8 array (H×W, H×W×3, H×W×4). With the extra ``cloud``, an
            image may be in a bucket: a URL (``s3://``, ``gs://``, ``az://``), or a tuple ``(store, path)`` with an
            obstore store.
        instruction: The change to make, in Chinese or English. The service ignores everything after 800 characters.
        parameters: The options of the edit.
        key: Your own name for this edit. The output files are named after the key. The key is never sent.
        metadata: Your own data about this edit. The metadata is never sent.

    Raises:
        InvalidEditError: The request breaks a rule of the contract that can be checked without reading a file.
    """

    images: tuple[ImageInput, ...] = attrs.field(
        converter=as_image_tuple, repr=lambda images: f"<{len(images)} images>"
    )
    instruction: str
    parameters: EditParameters = EditParameters()
    key: str | None = attrs.field(default=None, kw_only=True)
    metadata: Mapping[str, Any] = attrs.field(factory=dict, converter=_to_metadata, kw_only=True, hash=False)

    def __attrs_post_init__(self) -> None:
        if not MIN_IMAGES <= len(self.images) <= MAX_IMAGES:
            raise InvalidEditError(f"{len(self.images)} images: give one to three")
        if not isinstance(self.instruction, str | None):
            raise InvalidEditError(f"the instruction is {quoted(self.instruction)}: give text")
        if not self.instruction or not self.instruction.strip():
            raise InvalidEditError("the instruction is missing or empty: say what to do with the picture")
        if not isinstance(self.parameters, EditParameters):
            raise InvalidEditError(f"parameters is {type(self.parameters).__name__!r}: give EditParameters")
        if self.key is not None and not isinstance(self.key, str):
            raise InvalidEditError(f"key is {type(self.key).__name__!r}: give text")
        if not all(map(is_plain_url, self.images)):
            map_images(check_image, self.images)

    def __getstate__(self) -> dict[str, Any]:
        return attrs.asdict(self, recurse=False) | {"images": copyable(self.images)}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        restore(self, state)

    def silently_cut(self) -> tuple[str, ...]:
        """Describe each text that is too long. The service ignores the excess without an error."""
        texts = (
            ("instruction", self.instruction, MAX_INSTRUCTION_CHARACTERS),
            ("negative prompt", self.parameters.negative_prompt or "", MAX_NEGATIVE_PROMPT_CHARACTERS),
        )
        return tuple(
            f"the {name} has {len(text)} characters: the service ignores everything after {limit}"
            for name, text, limit in texts
            if len(text) > limit
        )


def restore(value: object, state: Mapping[str, Any]) -> None:
    """Set the fields of a frozen value that is being unpickled or deep-copied."""
    for name, content in state.items():
        object.__setattr__(value, name, content)


RequestInput = EditRequest | Mapping[str, Any]
"""A request, or a mapping with the fields of a request and of its parameters."""

PARAMETER_NAMES = frozenset(field.name for field in attrs.fields(EditParameters))
IMAGE_NAMES = ("image", *(f"image{position}" for position in range(2, MAX_IMAGES + 1)))
"""The names of the fields or columns that hold one image each."""

_REQUEST_NAMES = frozenset(field.name for field in attrs.fields(EditRequest))


class EditKeywords(TypedDict, total=False):
    """The keyword arguments of an edit that is not given as an :class:`EditRequest`."""

    n: int | None
    negative_prompt: str | None
    size: str | tuple[int, int] | None
    prompt_extend: bool | None
    watermark: bool | None
    seed: int | None
    parameters: EditParameters | None
    key: str | None
    deadline: float | None


def request_from_arguments(
    images: ImageInputs | EditRequest,
    instruction: str | None,
    options: EditKeywords,
) -> EditRequest:
    """Make a request from the arguments of ``EditSession.edit``, except ``deadline``.

    An option overrides the same field of ``parameters``, unless the option is ``None``.

    Raises:
        InvalidEditError: The request breaks the contract, or an EditRequest comes with other arguments.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(images, EditRequest):
        if instruction is not None or given:
            raise InvalidEditError("an EditRequest is complete: leave out instruction, key and parameters")
        return images
    parameters, key = given.pop("parameters", None), given.pop("key", None)
    # EditRequest refuses an empty instruction.
    return EditRequest(images, instruction or "", _merge(parameters, given), key=cast("str | None", key))


def request_from_fields(fields: object) -> EditRequest:
    """Make a request from a mapping with the fields of :class:`EditRequest` and :class:`EditParameters`.

    Instead of ``images``, the mapping can have ``image``, ``image2`` and ``image3``.

    Raises:
        InvalidEditError: The value is not a mapping, has an unknown field, or breaks the contract.
    """
    fields = as_fields(fields)
    if not isinstance(fields, Mapping):
        raise InvalidEditError(
            f"a request is {type(fields).__name__!r}: give an EditRequest, or a mapping of its fields"
        )
    if unknown := [name for name in fields if name not in _REQUEST_NAMES | PARAMETER_NAMES and name not in IMAGE_NAMES]:
        raise InvalidEditError(f"a request has no field {quoted(unknown[0])}: put your own data into metadata")
    options = {name: fields[name] for name in fields if name in PARAMETER_NAMES}
    others = {name: fields[name] for name in fields if name in _REQUEST_NAMES}
    parameters = _merge(others.pop("parameters", None), options)
    if named := [fields[name] for name in IMAGE_NAMES if not _is_missing(fields.get(name))]:
        if "images" in others:
            raise InvalidEditError(
                "a request has 'images' and also image, image2 or image3: give only 'images' or only the others"
            )
        if _is_missing(fields.get("image")):
            raise InvalidEditError("a request has image2 or image3, but no first image: put the first into 'image'")
        others["images"] = named
    return EditRequest(others.pop("images", ()), others.pop("instruction", ""), parameters, **others)


def as_fields(row: Any) -> Any:
    """Convert a pandas row (``DataFrame.iterrows``) to a mapping without empty cells. Return other values unchanged."""
    return row.dropna().to_dict() if hasattr(row, "dropna") and hasattr(row, "to_dict") else row


def named_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as a dictionary, if their names are valid.

    Raises:
        InvalidEditError: A name is not a field of :class:`EditParameters`.
    """
    if unknown := [name for name in parameters if name not in PARAMETER_NAMES]:
        known = ", ".join(sorted(PARAMETER_NAMES))
        raise InvalidEditError(f"there is no parameter {quoted(unknown[0])}: the parameters are {known}")
    return dict(parameters)


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and value != value)  # noqa: PLR0124  # only NaN differs from itself


def _merge(parameters: object, options: dict[str, Any]) -> EditParameters:
    if isinstance(parameters, Mapping | None):
        return EditParameters(**(named_parameters(parameters or {}) | options))
    if not isinstance(parameters, EditParameters):
        raise InvalidEditError(f"parameters is {type(parameters).__name__!r}: give EditParameters")
    return attrs.evolve(parameters, **options)
