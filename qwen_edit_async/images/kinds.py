"""What can be an input image, and what can be told about it without reading a file.

The kinds: a path, an http(s) URL, a data URI, bytes, a binary file object (or something whose ``open()`` gives one), a
PIL image, an array. Formats are recognised by content, never by name (contract: JPG, JPEG, PNG, BMP, TIFF, WEBP, GIF).
"""

from __future__ import annotations

import base64
import inspect
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeGuard, runtime_checkable
from urllib.parse import urlsplit

from qwen_edit_async.contract import MAX_IMAGE_BYTES
from qwen_edit_async.errors import InvalidEditError


@runtime_checkable
class BinaryReader(Protocol):
    """An object to read bytes from, such as an open binary file."""

    def read(self, size: int = -1, /) -> bytes:
        """Read up to ``size`` bytes, all of them by default."""
        ...


@runtime_checkable
class Openable(Protocol):
    """An object whose ``open("rb")`` gives a binary file, such as a remote path."""

    def open(self, mode: str = "rb", /) -> Any:
        """Open the file."""
        ...


@runtime_checkable
class ArrayLike(Protocol):
    """An object that speaks NumPy's array interface: H×W, H×W×3 or H×W×4 of uint8."""

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """The array's shape, type and memory."""
        ...


@runtime_checkable
class PillowImage(Protocol):
    """As much of ``PIL.Image.Image`` as is needed to recognise one without importing Pillow."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, in pixels."""
        ...

    def tobytes(self) -> bytes:
        """The raw pixels."""
        ...

    def save(self, fp: Any, /) -> None:
        """Write the picture."""
        ...


ImageInput: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryReader | Openable | PillowImage | ArrayLike"
)
"""One input image: a path, an http(s) URL, a data URI, bytes, a binary file object, a PIL image, or a uint8 array."""

_DATA_URI = re.compile(r"data:([^;,]*)((?:;[^;,]*)*),", re.ASCII | re.IGNORECASE)
_BASE64_TEXT = re.compile(r"[A-Za-z0-9+/]*={0,2}", re.ASCII)
_BARE_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{64}", re.ASCII)
_BASE64_HEAD = 24
_LONGEST_PATH = 4096
_CELL_NAMES = frozenset({"bytes", "path"})
_CHECKED_CHARACTERS = 64 * 1024
_PLAIN_URL = re.compile(r"https?://[A-Za-z0-9.-]*[A-Za-z0-9](:[0-9]{1,4})?(/[!-~]*)?")
"""URLs that are plainly valid; the rest is parsed, which takes longer."""

_URL_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def sniff(head: bytes) -> str | None:
    """The media type that a file's first 12 or more bytes speak of, ``None`` for one that the service does not take."""
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head.startswith((b"II*\x00", b"MM\x00*")):
        return "image/tiff"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    if head.startswith(b"BM"):
        return "image/bmp"
    return None


def is_url(image: object) -> TypeGuard[str]:
    """Whether the image is an http(s) URL, which the service fetches by itself."""
    return isinstance(image, str) and image[:8].lower().startswith(("http://", "https://"))


def is_plain_url(image: object) -> bool:
    """Whether the image is an http(s) URL that is valid at first sight; others take a longer look."""
    return isinstance(image, str) and _PLAIN_URL.fullmatch(image) is not None


def is_data_uri(image: object) -> bool:
    """Whether the image is a data URI."""
    return isinstance(image, str) and image[:5].lower() == "data:"


def is_bare_base64(image: object) -> bool:
    """Whether the image is Base64 text without the beginning of a data URI: an image's, or longer than any path."""
    if not isinstance(image, str) or not _BARE_BASE64.match(image):
        return False
    return len(image) > _LONGEST_PATH or sniff(base64.urlsafe_b64decode(image[:_BASE64_HEAD])) is not None


def as_image_tuple(images: object) -> tuple[Any, ...]:
    """One image, or a sequence of images, as a tuple; nothing is checked yet."""
    if isinstance(images, str):
        return (images,)
    if isinstance(images, Sequence) and not isinstance(images, str | bytes | bytearray | memoryview):
        return tuple(map(unwrapped, images))
    return (unwrapped(images),)


def unwrapped(image: Any) -> Any:
    """The image in a cell of Hugging Face's datasets, or the file in an upload; anything else as it is.

    Such a cell is ``{"bytes": …, "path": …}``, of which one may be ``None``. An upload, or a temporary file, has a
    binary file as ``file`` or ``stream``.
    """
    if isinstance(image, str):
        return image
    if isinstance(image, Mapping) and image and image.keys() <= _CELL_NAMES:
        return image["bytes"] if image.get("bytes") is not None else image.get("path")
    if isinstance(image, str | os.PathLike | bytes | bytearray | memoryview | PillowImage | ArrayLike | Openable):
        return image
    if isinstance(image, BinaryReader) and not inspect.iscoroutinefunction(image.read):
        return image
    inner = (getattr(image, name, None) for name in ("file", "stream"))
    return next((file for file in inner if isinstance(file, BinaryReader)), image)


def image_name(image: object, position: int) -> str:
    """What to call an image in messages: its position, from 1, and its file's name if it has one."""
    source = image if isinstance(image, str | os.PathLike) else getattr(image, "name", getattr(image, "filename", ""))
    if (
        is_url(image)
        or is_data_uri(image)
        or is_bare_base64(image)
        or not source
        or not isinstance(source, str | os.PathLike)
    ):
        return f"image {position}"
    return f"image {position} ({str(source)[:200]})"


def check_image(image: object, name: str) -> None:
    """Refuse what is certainly no image, as far as that shows at once and re-encoding could not mend it.

    Formats and file sizes are checked when the edit is prepared.

    Raises:
        InvalidEditError: For an unknown kind, a URL that is not http(s), a broken data URI, no bytes, a PIL image or an
            array of a shape or type that is no picture.
    """
    if isinstance(image, str):
        _check_text(image, name)
    elif isinstance(image, os.PathLike):
        return
    elif isinstance(image, bytes | bytearray | memoryview):
        if not memoryview(image).nbytes:
            raise InvalidEditError(f"{name} is empty")
    elif isinstance(image, PillowImage):  # before ArrayLike: asking a PIL image for that interface copies its pixels
        _check_sides(image.size, name)
    elif isinstance(image, ArrayLike):
        _check_array(image, name)
    elif not isinstance(image, BinaryReader | Openable):
        raise InvalidEditError(
            f"{name} is {type(image).__name__!r}: give a path, an http(s) URL, a data URI, bytes, a binary file, "
            "a PIL image or a uint8 array"
        )


def check_size(size: int, name: str, limit: int = MAX_IMAGE_BYTES) -> None:
    """Refuse an empty image file, or one over 10 × 1024 × 1024 bytes (contract, *Images*)."""
    if size == 0:
        raise InvalidEditError(f"{name} is empty")
    if size > limit:
        advice = "shrink it, or let the session do so with fit=True" if limit == MAX_IMAGE_BYTES else "shrink it"
        raise InvalidEditError(f"{name} is over {limit:,} bytes, which is the most that can be taken: {advice}")


def check_format(head: bytes, name: str) -> str:
    """The media type of an image file that starts with ``head``; an unknown one is an error (contract, *Images*)."""
    media_type = sniff(head)
    if media_type is None:
        raise InvalidEditError(f"{name} is no JPEG, PNG, BMP, TIFF, WEBP or GIF image: it begins with {head[:8]!r}")
    return media_type


def base64_start(uri: str, name: str) -> int:
    """Where a data URI's Base64 text begins; only the beginning of that text is checked, since it can be long."""
    match = _DATA_URI.match(uri, 0, min(len(uri), 200))
    if match is None or not match[2].lower().endswith(";base64"):
        raise InvalidEditError(f"{name} is a data URI that is not of the form data:image/png;base64,…")
    start = match.end()
    if not _BASE64_TEXT.fullmatch(uri, start, start + _CHECKED_CHARACTERS) or (len(uri) - start) % 4:
        raise InvalidEditError(f"{name} is a data URI with broken Base64")
    if start == len(uri):
        raise InvalidEditError(f"{name} is empty")
    return start


def _check_text(image: str, name: str) -> None:
    if is_data_uri(image):
        base64_start(image, name)
    elif is_url(image):
        try:
            parts = urlsplit(image)
            host, _ = parts.hostname, parts.port
        except ValueError:
            host = None
        if not host or " " in image or not image.isprintable():
            raise InvalidEditError(f"{name} is no valid URL: {image[:200]!r}")
    elif _URL_SCHEME.match(image):
        raise InvalidEditError(f"{name} is a URL that is not http(s): {image[:200]!r}; open it, and pass the file")
    elif is_bare_base64(image):
        raise InvalidEditError(f"{name} is Base64 text: put data:image/png;base64, in front of it, or give its bytes")
    elif not image or "\0" in image:
        raise InvalidEditError(f"{name} is no path: {image[:200]!r}")


def _check_array(image: ArrayLike, name: str) -> None:
    try:
        interface = image.__array_interface__
        shape, kind = tuple(interface["shape"]), str(interface["typestr"])
    except (KeyError, TypeError):
        raise InvalidEditError(f"{name} is {type(image).__name__!r}, which is no whole array") from None
    if kind.lstrip("|<>=") != "u1":
        raise InvalidEditError(f"{name} is an array of type {kind!r}: give uint8, 0 to 255")
    channels = shape[2] if len(shape) == 3 else 1  # noqa: PLR2004  # height, width, channels
    if len(shape) not in {2, 3} or channels not in {1, 3, 4}:
        raise InvalidEditError(f"{name} is an array of shape {shape}: give H×W, H×W×3 or H×W×4")
    _check_sides((shape[1], shape[0]), name)


def _check_sides(size: tuple[int, int], name: str) -> None:
    if min(size) < 1:
        raise InvalidEditError(f"{name} has no pixels: it is {size[0]}×{size[1]}")
