"""Checks a submission's JSON body against the contract. Pure.

A value that breaks the contract raises `RejectedError`. Text beyond the service's limits is cut off without an error.
`Submission` keeps the text that was cut off, for assertions in tests.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Literal, cast

import attrs

from qwen_edit_async import contract
from qwen_edit_async.emulator.sizes import Size, parse_size

Form = Literal["flat", "params", "header", "plain"]
"""The form of a submission's body: ``plain`` in the queue protocol, else an envelope."""
Envelope = Literal["flat", "params", "both", "header"]
"""The envelope that the emulator accepts, or ``both`` for ``flat`` and ``params``."""

_SIGNATURES = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"II+\0", "image/tiff"),
    (b"MM\0+", "image/tiff"),
)
_SNIFFED_CHARACTERS = 24
"""The number of Base64 characters to decode: enough for the longest signature, the 12 bytes of WEBP."""


class RejectedError(Exception):
    """The service refuses a request.

    Attributes:
        status: HTTP status of the reply.
        code: The ``error.code`` of the reply.
        message: The ``error.error_message`` of the reply.
    """

    def __init__(self, message: str, *, status: int = 400, code: int = 400) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


@attrs.frozen
class ImageInput:
    """One ``image`` item of a submission, without its bytes."""

    url: str | None
    """The http(s) URL, or None for a data URI."""
    media_type: str | None
    """The media type that a data URI declares."""
    content_type: str | None
    """The media type according to the first bytes of a data URI's file."""
    size_bytes: int | None
    """Size in bytes of the image file in a data URI."""


@attrs.frozen(kw_only=True)
class Submission:
    """The parsed request of one task."""

    envelope: Form
    images: tuple[ImageInput, ...]
    instruction: str
    """The instruction, cut to at most 800 characters."""
    instruction_cut: str
    """Text that was cut off the instruction."""
    negative_prompt: str | None
    """The negative prompt, cut to at most 500 characters."""
    negative_prompt_cut: str
    """Text that was cut off the negative prompt."""
    n: int
    size: Size | None
    """The requested size in pixels, before rounding."""
    prompt_extend: bool
    watermark: bool
    seed: int | None


@attrs.frozen
class ParsedBody:
    """A submission and the bytes of each image. The bytes are None for a URL, or an undecoded data URI."""

    submission: Submission
    payloads: tuple[bytes | None, ...] = attrs.field(repr=False)


def sniff(data: bytes) -> str | None:
    """Return the media type of an image file by its first bytes, or None for a format that is not accepted."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((media_type for signature, media_type in _SIGNATURES if data.startswith(signature)), None)


def parse_body(
    body: object,
    *,
    envelope: Envelope,
    decode: bool,
    model: str = contract.MODEL,
    header_model: str | None = None,
) -> ParsedBody:
    """Check the JSON body of a submission against the contract.

    Args:
        body: The request's parsed JSON.
        envelope: The accepted envelope, or ``both``.
        decode: Whether to decode the data URIs and refuse broken Base64.
        model: The name of the model.
        header_model: The value of the header ``X-Model``, which is read only if ``envelope`` is ``header``.

    Raises:
        RejectedError: The body breaks a rule of the contract. The message names the wrong member.
    """
    root = _object(body, "the body")
    if envelope == "header":
        if "model" in root:
            raise RejectedError("model must be in the header X-Model, and not in the body")
        root = {"model": header_model, **root}
    if _string(root.get("model"), "model") != model:
        raise RejectedError(f"model must be {model}")
    form, input_, parameters = _open_envelope(root, envelope)
    images, text, payloads = _content(input_, decode=decode)
    return ParsedBody(_submission(form, images, text, _object(parameters, "parameters")), payloads)


def parse_plain_body(body: object, *, decode: bool) -> ParsedBody:
    """Check the JSON body of a submission in the queue protocol, as `parse_body` does."""
    root = _object(body, "the body")
    images, payloads = _images(_array(root.get("images"), "images"), decode=decode)
    text = _string(root.get("prompt"), "prompt")
    if not text.strip():
        raise RejectedError("prompt must not be empty")
    return ParsedBody(_submission("plain", images, text, root), payloads)


def _submission(form: Form, images: tuple[ImageInput, ...], text: str, members: dict[str, Any]) -> Submission:
    instruction, instruction_cut = _cut(text, contract.MAX_INSTRUCTION_CHARACTERS)
    negative = _string(members["negative_prompt"], "negative_prompt") if "negative_prompt" in members else None
    negative_prompt, negative_cut = _cut(negative or "", contract.MAX_NEGATIVE_PROMPT_CHARACTERS)
    return Submission(
        envelope=form,
        images=images,
        instruction=instruction,
        instruction_cut=instruction_cut,
        negative_prompt=None if negative is None else negative_prompt,
        negative_prompt_cut=negative_cut,
        n=_integer(members.get("n", 1), "n", contract.MIN_N, contract.MAX_N),
        size=_size(members["size"]) if "size" in members else None,
        prompt_extend=_boolean(members.get("prompt_extend", True), "prompt_extend"),
        watermark=_boolean(members.get("watermark", False), "watermark"),
        seed=_integer(members["seed"], "seed", contract.MIN_SEED, contract.MAX_SEED) if "seed" in members else None,
    )


def _open_envelope(root: dict[str, Any], envelope: Envelope) -> tuple[Form, object, object]:
    """Return the body's form, the ``input`` object and the ``parameters`` object."""
    outer = root.get("input")
    if isinstance(outer, list):
        if envelope in {"flat", "header"}:
            raise RejectedError("input must be an object")
        if len(outer) != 1:
            raise RejectedError("input must hold exactly one object")
        params = _object(_object(outer[0], "input[0]").get("params"), "input[0].params")
        return "params", params.get("input"), params.get("parameters", {})
    if envelope == "params":
        raise RejectedError("input must be an array")
    return "header" if envelope == "header" else "flat", outer, root.get("parameters", {})


def _content(input_: object, *, decode: bool) -> tuple[tuple[ImageInput, ...], str, tuple[bytes | None, ...]]:
    """Return the images, the text, and the images' decoded data. There must be exactly one message."""
    messages = _array(_object(input_, "input").get("messages"), "input.messages")
    if len(messages) != 1:
        raise RejectedError("input.messages must hold exactly one object")
    message = _object(messages[0], "messages[0]")
    if message.get("role") != "user":
        raise RejectedError("messages[0].role must be user")
    images: list[object] = []
    texts: list[str] = []
    for item in _array(message.get("content"), "messages[0].content"):
        member = _object(item, "an item of content")
        if set(member) == {"image"}:
            images.append(member["image"])
        elif set(member) == {"text"}:
            texts.append(_string(member["text"], "text"))
        else:
            raise RejectedError("an item of content must hold either image or text")
    checked, payloads = _images(images, decode=decode)
    if len(texts) != 1 or not texts[0].strip():
        raise RejectedError("content must hold exactly one text")
    return checked, texts[0], payloads


def _images(values: list[Any], *, decode: bool) -> tuple[tuple[ImageInput, ...], tuple[bytes | None, ...]]:
    if not contract.MIN_IMAGES <= len(values) <= contract.MAX_IMAGES:
        raise RejectedError(f"a request must hold 1 to {contract.MAX_IMAGES} images, not {len(values)}")
    pairs = [_image(_string(value, "image"), decode=decode) for value in values]
    return tuple(image for image, _ in pairs), tuple(payload for _, payload in pairs)


def _image(text: str, *, decode: bool) -> tuple[ImageInput, bytes | None]:
    if text.lower().startswith(("http://", "https://")):
        return ImageInput(text, None, None, None), None
    if not text.startswith("data:"):
        raise RejectedError("image must be an http(s) URL or a Base64 data URI")
    comma = text.find(",", 0, 100)
    media_type, _, encoding = text[5 : max(comma, 5)].partition(";")
    if encoding != "base64":
        raise RejectedError("an image's data URI must be Base64")
    if media_type not in contract.MEDIA_TYPES:
        raise RejectedError(f"an image of type {media_type or 'unknown'} is not supported")
    start = comma + 1
    # Compute the size from the text's length, so that a large image is refused without decoding.
    size = (len(text) - start) * 3 // 4 - text.count("=", max(start, len(text) - 2))
    if size > contract.MAX_IMAGE_BYTES:
        raise RejectedError(f"an image must be at most {contract.MAX_IMAGE_BYTES} bytes, not {size}")
    try:
        content_type = sniff(base64.b64decode(text[start : start + _SNIFFED_CHARACTERS], validate=True))
        payload = base64.b64decode(text[start:], validate=True) if decode else None
    except (binascii.Error, ValueError):
        raise RejectedError("an image's data URI holds broken Base64") from None
    if content_type is None:
        raise RejectedError("an image must be JPG, PNG, BMP, TIFF, WEBP or GIF")
    return ImageInput(None, media_type, content_type, size), payload


def _cut(text: str, limit: int) -> tuple[str, str]:
    return text[:limit], text[limit:]


def _size(value: object) -> Size:
    try:
        return parse_size(_string(value, "size"))
    except ValueError as error:
        raise RejectedError(str(error)) from None


def _object(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RejectedError(f"{name} must be an object")
    return cast("dict[str, Any]", value)


def _array(value: object, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise RejectedError(f"{name} must be an array")
    return value


def _string(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise RejectedError(f"{name} must be a string")
    return value


def _boolean(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise RejectedError(f"{name} must be a boolean")
    return value


def _integer(value: object, name: str, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise RejectedError(f"{name} must be an integer from {low} to {high}")
    return value
