"""Recognises input images, and refuses other objects, without reading a file.

Formats are recognised by a file's first bytes, which the caller passes. A format without a signature is recognised by
the file's extension.
"""

from __future__ import annotations

import base64
import contextlib
import inspect
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, TypeGuard, TypeVar, runtime_checkable
from urllib.parse import urlsplit

from qwen_edit_async.contract import MEDIA_TYPES
from qwen_edit_async.images.findings import ImageError
from qwen_edit_async.storage.bucket import BucketPath, is_pair
from qwen_edit_async.text import without_signatures

T = TypeVar("T")


@runtime_checkable
class BinaryReader(Protocol):
    """A source of bytes, such as an open binary file."""

    def read(self, size: int = -1, /) -> bytes:
        """Read up to ``size`` bytes, or by default all bytes."""
        ...


@runtime_checkable
class Openable(Protocol):
    """An object whose ``open("rb")`` returns a binary file, such as a remote path."""

    def open(self, mode: str = "rb", /) -> Any:
        """Open the file."""
        ...


@runtime_checkable
class ArrayLike(Protocol):
    """An object with NumPy's array interface. It must have the type uint8 and the shape H×W, H×W×3 or H×W×4."""

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """The shape, type and memory of the array."""
        ...


@runtime_checkable
class PillowImage(Protocol):
    """The part of ``PIL.Image.Image`` that identifies a PIL image without importing Pillow."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, in pixels."""
        ...

    def tobytes(self) -> bytes:
        """Return the raw pixels."""
        ...

    def save(self, fp: Any, /) -> None:
        """Write the picture."""
        ...


ImageInput: TypeAlias = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | BinaryReader
    | Openable
    | PillowImage
    | ArrayLike
    | tuple[object, str]
)
"""One input image: a path, an http(s) URL, a data URI, bytes, a binary file object, a PIL image, or a uint8 array.

A file in a bucket is a URL (``s3://``, ``gs://``, ``az://``), or a tuple ``(store, path)`` with an obstore store.
"""
ImageInputs: TypeAlias = ImageInput | Sequence[ImageInput]
"""One image, or several."""

MAX_PIXELS: Final = 89_478_485
"""The maximum number of pixels of a picture. Pillow treats a larger picture as a possible decompression bomb."""

MAX_SOURCE_BYTES: Final = 256 * 1024 * 1024
"""The size in bytes of the largest file that ``fit`` accepts."""

HEAD_BYTES: Final = 64
"""The number of bytes at a file's start that identify its format."""

_BRANDS: Final = {
    b"crx ": "CR3",
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), "HEIF"),
}
_GENERAL_BRANDS: Final = frozenset({b"mif1", b"msf1"})
"""Brands that do not tell how the pictures in an ISO media file are encoded."""

ACCEPTED: Final = frozenset(media_type.removeprefix("image/").upper() for media_type in MEDIA_TYPES)
"""The formats that the service accepts."""

_STARTS: Final = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    **dict.fromkeys((b"GIF87a", b"GIF89a"), "GIF"),
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF"),
    **dict.fromkeys((b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"), "JPEG2000"),
    **dict.fromkeys((b"%!PS", b"\xc5\xd0\xd3\xc6"), "EPS"),
    **dict.fromkeys((b"BLP1", b"BLP2"), "BLP"),
    **dict.fromkeys((b"DanM", b"LinS"), "MSP"),
    **dict.fromkeys((b"IIRO", b"IIRS", b"MMOR"), "ORF"),
    b"\0\0\1\0": "ICO",
    b"\x59\xa6\x6a\x95": "SUN",
    b"/* XPM */": "XPM",
    b"8BPS": "PSD",
    b"DDS ": "DDS",
    b"SIMPLE  =": "FITS",
    b"FTEX": "FTEX",
    b"\x80\xe8\0\0": "PIXAR",
    b"\xb1\x68\xde\x3a": "DCX",
    b"\xd7\xcd\xc6\x9a": "WMF",
    b"qoif": "QOI",
    b"icns": "ICNS",
    b"IIU\0": "RW2",
    b"FUJIFILMCCD-RAW": "RAF",
}
_UNCONVERTIBLE: Final = {
    **dict.fromkeys(("CR3", "ORF", "RAF", "RW2"), "a camera raw file"),
    **dict.fromkeys(("EPS", "WMF"), "a drawing without pixels"),  # Pillow needs Ghostscript or Windows to render it
}
"""Formats that ``fit`` can't convert, each with the words that describe such a file in messages."""

_PATTERNS: Final = {
    "WEBP": re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
    # The size of the second header has one of these values.
    "BMP": re.compile(rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0", re.DOTALL),
    "DIB": re.compile(rb"[\x28\x6c\x7c]\0{3}.{8}\x01\0[\x01-\x20]\0", re.DOTALL),  # a BMP without its first header
    "PCX": re.compile(rb"\n[\x00\x02-\x05]\x01[\x01\x02\x04\x08]"),
    "SGI": re.compile(rb"\x01\xda[\x00\x01][\x01\x02]"),
    # P1 to P6, then width and height, or a comment
    "PPM": re.compile(rb"P[1-6](?:\s*\n#|\s(?:\s|#.*\n)*[0-9]+(?:\s|#.*\n)+[0-9])"),
}
_ENDINGS: Final = {
    **dict.fromkeys((".tga", ".icb", ".vda", ".vst"), "TGA"),
    **dict.fromkeys((".fli", ".flc"), "FLI"),
    ".cur": "CUR",
    ".im": "IM",
    ".xbm": "XBM",
}
"""File extensions of formats without a signature at the file's start."""

ACCEPTED_ENDINGS: Final = frozenset(
    {".jpg", ".jpeg", ".jfif", ".mpo", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"}
)
"""The usual file extensions of pictures in the formats that the service accepts."""

PICTURE_ENDINGS: Final = ACCEPTED_ENDINGS | {".avif", ".heic", ".heif", ".jp2", ".j2k", ".ico"}
"""The usual file extensions of pictures, including formats that need ``fit``."""

_DATA_URI = re.compile(r"data:([^;,]*)((?:;[^;,]*)*),", re.ASCII | re.IGNORECASE)
_BASE64_TEXT = re.compile(r"[A-Za-z0-9+/]*={0,2}", re.ASCII)
_BARE_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{64}", re.ASCII)
_LONGEST_PATH = 4096
_CHECKED_CHARACTERS = 64 * 1024
_PLAIN_URL = re.compile(r"https?://[A-Za-z0-9.-]*[A-Za-z0-9](:[0-9]{1,4})?(/[!-~]*)?")
"""URLs that are certainly valid. Matching this pattern is faster than parsing a URL."""

_URL_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def sniff(head: bytes, path: str = "") -> str | None:
    """Return the name of a picture's format; ``None`` if the file is not a picture.

    The name is Pillow's name of the format, or the name of a camera raw format. ``head`` is the first 64 bytes of the
    file. For the formats that the service accepts, 16 bytes are enough. The extension of ``path`` identifies formats
    without a signature.
    """
    if head[:1] + head[4:8] == b"\0ftyp":
        end = min(len(head), int.from_bytes(head[:4]))
        brands = [head[at : at + 4] for at in (8, *range(16, end, 4))]
        general = None if _GENERAL_BRANDS.isdisjoint(brands) else "HEIF"
        return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), general)
    starts = (name for start, name in _STARTS.items() if head.startswith(start))
    patterns = (name for name, pattern in _PATTERNS.items() if pattern.match(head))
    return next(starts, None) or next(patterns, None) or _ENDINGS.get(os.path.splitext(path)[1].lower())  # noqa: PTH122  # text


def is_url(image: object) -> TypeGuard[str]:
    """Return whether the image is an http(s) URL, which the service fetches itself."""
    return isinstance(image, str) and image[:8].lower().startswith(("http://", "https://"))


def is_plain_url(image: object) -> bool:
    """Return whether the image is an http(s) URL that is certainly valid, without parsing it."""
    return isinstance(image, str) and _PLAIN_URL.fullmatch(image) is not None


def is_data_uri(image: object) -> bool:
    """Return whether the image is a data URI."""
    return isinstance(image, str) and image[:5].lower() == "data:"


def is_bare_base64(image: object) -> bool:
    """Return whether the image is Base64 text without the prefix of a data URI.

    The text must encode the start of an image file, or be longer than any path.
    """
    if not isinstance(image, str) or not _BARE_BASE64.match(image):
        return False
    return len(image) > _LONGEST_PATH or sniff(base64.urlsafe_b64decode(image[:24])) in ACCEPTED


def as_image_tuple(images: ImageInputs) -> tuple[ImageInput, ...]:
    """Return one image, or a sequence of images, as a tuple. The images are not checked."""
    if isinstance(images, (str, bytes, bytearray, memoryview)) or not isinstance(images, Sequence) or is_pair(images):
        return (unwrapped(images),)
    return tuple(map(unwrapped, images))


def unwrapped(image: Any) -> Any:
    """Return the image inside a table cell or a web upload. Expand ``~``, and parse the path of a file in a bucket.

    A cell of Hugging Face's datasets is ``{"bytes": …, "path": …}``, where either value may be ``None``. A web
    framework's upload, or a temporary file, has a binary file in its attribute ``file`` or ``stream``.
    """
    if (bucket := BucketPath.of(image)) is not None:
        return bucket
    if isinstance(image, (str, Path)):
        # Path.expanduser raises for "~nobody".
        return type(image)(os.path.expanduser(image)) if str(image).startswith("~") else image  # noqa: PTH111
    if isinstance(image, Mapping) and image and image.keys() <= {"bytes", "path"}:
        return image["bytes"] if image.get("bytes") is not None else unwrapped(image.get("path"))
    if isinstance(image, str | os.PathLike | bytes | bytearray | memoryview | PillowImage | ArrayLike | Openable):
        return image
    if isinstance(image, BinaryReader) and not inspect.iscoroutinefunction(image.read):
        return image
    inner = (getattr(image, name, None) for name in ("file", "stream"))
    return next((file for file in inner if isinstance(file, BinaryReader)), image)


def copyable(images: Any) -> Any:
    """Replace each open file with empty bytes, because open files can't be pickled or deep-copied."""
    if isinstance(images, list | tuple):
        return tuple(map(copyable, images))
    return b"" if isinstance(images, BinaryReader) and not isinstance(images, BytesIO) else images


def image_name(image: object, position: int) -> str:
    """Return the name of an image in messages: its position, counted from 1, and its path if it has one."""
    source: object = None
    with contextlib.suppress(Exception):  # an object of another library can raise anything
        is_path = isinstance(image, str | os.PathLike)
        source = image if is_path else getattr(image, "name", None) or getattr(image, "filename", None)
    is_content = is_url(source) or is_data_uri(source) or is_bare_base64(source)
    if is_content or not isinstance(source, str | os.PathLike) or not source:
        return f"image {position}"
    return f"image {position} ({str(source)[:200]})"


def map_images(function: Callable[[Any], T], images: Iterable[object]) -> list[T]:
    """Call a function with each image, and return the results.

    Raises:
        InvalidEditError: The function raised an :class:`ImageError`. The message names the image.
    """
    results = []
    for position, image in enumerate(images, 1):
        try:
            results.append(function(image))
        except ImageError as error:
            raise error.named(image_name(image, position), position) from None
    return results


def check_image(image: object) -> None:
    """Refuse an object that is certainly not an image, without reading a file.

    Formats and file sizes are checked when the edit is prepared.

    Raises:
        ImageError: The object is empty, has an unknown kind, or is an invalid path, URL, data URI, PIL image or array.
    """
    if isinstance(image, str):
        _check_text(image)
    elif isinstance(image, os.PathLike):
        return
    elif isinstance(image, bytes | bytearray | memoryview):
        if not memoryview(image).nbytes:
            raise ImageError("is empty")
    elif isinstance(image, PillowImage):  # before ArrayLike, because a PIL image's array interface copies its pixels
        _check_sides(image.size)
    elif isinstance(image, ArrayLike):
        _check_array(image)
    elif image is None:
        raise ImageError("is missing: it is None, or a cell without bytes or path")
    elif not isinstance(image, BinaryReader | Openable):
        raise ImageError(
            f"is {type(image).__name__!r}: give a path, an http(s) URL, a data URI, bytes, a binary file, "
            "a PIL image or a uint8 array"
        )


def check_format(head: bytes, path: str = "", *, fit: bool = False) -> str:
    """Return the format of an image file that starts with ``head``, or refuse the file (contract, *Images*)."""
    kind = sniff(head, path)
    if kind is None:
        problem = "is not a JPEG, PNG, BMP, TIFF, WEBP or GIF image"
        raise ImageError(f"{problem}: it begins with {head[:8]!r}", summary=problem)
    if refusal := format_problem(kind, fit=fit):
        raise ImageError(refusal)
    return kind


def format_problem(kind: str, *, fit: bool) -> str:
    """Return the reason why a format is refused, without a subject; empty if it is not refused.

    With ``fit``, only formats that can't be converted are refused.
    """
    if kind in _UNCONVERTIBLE:
        return f"is {_UNCONVERTIBLE[kind]} ({kind} format). Export it as a JPEG"
    if fit or kind in ACCEPTED:
        return ""
    return f"is in {kind} format, which the service refuses: convert it, or let the session do so with fit=True"


def base64_start(uri: str) -> int:
    """Return the position of a data URI's Base64 text. Check only the start of this text, because it can be long."""
    match = _DATA_URI.match(uri, 0, min(len(uri), 200))
    if match is None or not match[2].lower().endswith(";base64"):
        raise ImageError("is a malformed data URI: use the form data:image/png;base64,…")
    start = match.end()
    if not _BASE64_TEXT.fullmatch(uri, start, start + _CHECKED_CHARACTERS) or (len(uri) - start) % 4:
        raise ImageError("is a data URI with broken Base64")
    if start == len(uri):
        raise ImageError("is empty")
    return start


def _check_text(image: str) -> None:
    if is_data_uri(image):
        base64_start(image)
    elif is_url(image):
        try:
            parts = urlsplit(image)
            host, _ = parts.hostname, parts.port
        except ValueError:
            host = None
        if not host or " " in image or not image.isprintable():
            raise _text_error("is not a valid URL", image)
    elif _URL_SCHEME.match(image):
        raise _text_error("is a URL that is not http(s), s3, gs or az", image, "; open it, and pass the file")
    elif is_bare_base64(image):
        raise ImageError("is Base64 text: put data:image/png;base64, in front of it, or give the decoded bytes")
    elif not image or "\0" in image:
        raise _text_error("is not a path", image)


def _text_error(kind: str, image: str, advice: str = "") -> ImageError:
    return ImageError(f"{kind}: {without_signatures(image)[:200]!r}{advice}", summary=f"{kind}{advice}")


def _check_array(image: ArrayLike) -> None:
    try:
        interface = image.__array_interface__
        shape, kind = tuple(interface["shape"]), str(interface["typestr"])
    except (KeyError, TypeError):
        raise ImageError(f"is {type(image).__name__!r}, which is not a complete array") from None
    if kind.lstrip("|<>=") != "u1":
        raise ImageError(f"is an array of type {kind!r}: give uint8, 0 to 255")
    channels = shape[2] if len(shape) == 3 else 1  # noqa: PLR2004  # height, width, channels
    if len(shape) not in {2, 3} or channels not in {1, 3, 4}:
        raise ImageError(f"is an array of shape {shape}: give H×W, H×W×3 or H×W×4")
    _check_sides((shape[1], shape[0]))


def _check_sides(size: tuple[int, int]) -> None:
    if min(size) < 1:
        raise ImageError(f"has no pixels: it is {size[0]}×{size[1]}")
