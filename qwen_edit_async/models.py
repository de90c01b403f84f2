"""What is asked of the service, and what it answers, as frozen values.

Requests are checked when they are made: everything that the contract (part A) calls an error and that shows without
reading a file raises :class:`InvalidEditError` at once.
"""

from __future__ import annotations

import enum
import operator
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, SupportsIndex, cast

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
from qwen_edit_async.images.kinds import ImageInput, as_image_tuple, check_image, image_name
from qwen_edit_async.text import quoted

_SIZE_TEXT = re.compile(r"\s*(\d{1,9})\s*[*xX×]\s*(\d{1,9})\s*", re.ASCII)
_WIDTH_AND_HEIGHT = 2


def _to_integer(value: SupportsIndex | None) -> int | None:
    """A NumPy integer and its like as Python's own; anything else as it is, to be checked."""
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
            raise InvalidEditError(f"size {quoted(value)} is not of the form '1024*1536', '1024x1536' or (1024, 1536)")
        return int(match[1]), int(match[2])
    if not isinstance(value, tuple | list) or len(value) != _WIDTH_AND_HEIGHT:
        raise InvalidEditError(f"size {quoted(value)} is not of the form '1024*1536', '1024x1536' or (1024, 1536)")
    width, height = map(_to_integer, value)
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
    """How to edit; ``None`` lets the service decide (contract, *parameters*).

    Attributes:
        n: Number of output images, 1 to 6 (the service's default: 1).
        negative_prompt: What should not be seen; the service cuts it off after 500 characters.
        size: Width and height of the output in pixels, each 512 to 2048, as ``"1024*1536"``, ``"1024x1536"`` or
            ``(1024, 1536)``. The service rounds each side to a multiple of 16; its default is the ratio of the last
            input image at about 1024*1024 pixels.
        prompt_extend: Whether the service rewrites the instruction (its default: yes).
        watermark: Whether it writes "Qwen-Image" into the bottom-right corner (its default: no).
        seed: 0 to 2147483647; the same seed keeps results similar, not identical.

    Raises:
        InvalidEditError: When a value is outside of these bounds.
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


def shortfall(given: int, asked: int) -> tuple[str, ...]:
    """Return a note if an edit gave fewer pictures than were asked for."""
    if given >= asked:
        return ()
    return (f"the service gave {given} of the {asked} pictures that were asked for",)


def _to_images(value: ImageInput | Sequence[ImageInput]) -> tuple[ImageInput, ...]:
    return as_image_tuple(value)


@attrs.frozen
class EditRequest:
    """One edit: what to do with which pictures.

    Attributes:
        images: One image or a sequence of one to three, in the order in which the instruction speaks of them; the
            output's aspect ratio follows the last. An image is a path, an http(s) URL, a data URI, bytes, a binary file
            object, a PIL image, or a uint8 array (H×W, H×W×3, H×W×4).
        instruction: What to do, in Chinese or English; the service cuts it off after 800 characters.
        parameters: How to do it.
        key: A name of your own for this edit: it is never sent, and names output files.
        metadata: Anything of your own that should travel with the request: it is never sent.

    Raises:
        InvalidEditError: When the contract makes it an error, as far as that shows without reading a file.
    """

    images: tuple[ImageInput, ...] = attrs.field(converter=_to_images, repr=lambda images: f"<{len(images)} images>")
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
        for position, image in enumerate(self.images, 1):
            check_image(image, image_name(image, position))

    def silently_cut(self) -> tuple[str, ...]:
        """What the service would cut off without an error, one sentence each (contract, *text*, *negative_prompt*)."""
        texts = (
            ("instruction", self.instruction, MAX_INSTRUCTION_CHARACTERS),
            ("negative prompt", self.parameters.negative_prompt or "", MAX_NEGATIVE_PROMPT_CHARACTERS),
        )
        return tuple(
            f"the {name} has {len(text)} characters: the service ignores everything after {limit}"
            for name, text, limit in texts
            if len(text) > limit
        )


class TaskStatus(enum.Enum):
    """Where a task stands. ``UNKNOWN`` counts as still running: the service's word is unknown, and tells no end."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    UNKNOWN = "unknown"

    @property
    def terminal(self) -> bool:
        """Whether nothing more will happen to the task."""
        return self in _TERMINAL


_TERMINAL = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED})


@attrs.frozen(kw_only=True)
class TaskFailure:
    """Why a task failed: the service's code (an integer where it looks like one) and words."""

    code: int | str | None = None
    message: str = ""


@attrs.frozen(kw_only=True)
class Usage:
    """What a task cost (contract, *usage*).

    Attributes:
        cost: In the account's currency, exact; ``None`` where the service does not say.
        quantity: Number of billed images.
        raw: The whole member, as it came.
    """

    cost: Decimal | None = None
    quantity: int | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, hash=False)


@attrs.frozen(kw_only=True)
class TaskSnapshot:
    """A task as one reply of the service showed it (contract, *The status reply*).

    Attributes:
        task_id: The service's name for the task.
        status: Where it stands.
        status_word: The service's own word for that.
        progress: 0.0 to 1.0, only while in progress, and only if the service says so.
        urls: The output images, only when completed. Their places are kept: the text is empty where an output has none.
        failure: Why it failed, only when it did.
        usage: What it cost, only when completed.
        metadata: The service's own, as it came.
        raw: The whole reply, as it came.
    """

    task_id: str
    status: TaskStatus
    status_word: str = ""
    progress: float | None = None
    urls: tuple[str, ...] = ()
    failure: TaskFailure | None = None
    usage: Usage = Usage()
    metadata: Mapping[str, Any] = attrs.field(factory=dict, repr=False, hash=False)
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, hash=False)

    @property
    def lacks_pictures(self) -> bool:
        """Whether the task is completed, but the reply names no picture; it may follow a moment later."""
        return self.status is TaskStatus.COMPLETED and not self.urls
