"""Decodes, encodes and converts images, and makes thumbnails. Needs Pillow (extra ``images``)."""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
from collections.abc import Iterator
from typing import IO, Any, Final

import attrs
from PIL import Image, ImageFile

from qwen_edit_async.contract import MAX_IMAGE_BYTES, RECOMMENDED_MAX_SIDE, SAFE_IMAGE_BYTES
from qwen_edit_async.images.decoders import (
    JpegFile,
    PngEssentials,
    SampleDecodedError,
    check_pixels,
    check_tiles,
    load_despite_damage,
    loses_colours,
    open_file,
)
from qwen_edit_async.images.findings import Findings, ImageError
from qwen_edit_async.images.kinds import ACCEPTED, ArrayLike
from qwen_edit_async.images.pixels import orientation, plain, shrunk, stored_orientation, to_srgb
from qwen_edit_async.images.tiff import UPRIGHT
from qwen_edit_async.images.upload import SPOOL_BYTES
from qwen_edit_async.log import log

_JPEG_SAMPLE_BYTES: Final = 8 * 1024
_JPEG_PADDING: Final = b"\xff\0" * 8
"""Eight bytes 0xFF, each written as ``FF 00`` as in JPEG files, for a decoder that reads ahead.

Pixel data can't contain so many one-bits in a row, because no Huffman code is all ones.
"""

_SAVE_OPTIONS: Final = {
    "JPEG": {"quality": 95},
    "PNG": {"compress_level": 6},
    "WEBP": {"quality": 70, "method": 0},  # the fastest method, because a bulk run makes thousands of thumbnails
}
_MPF_IMAGES: Final = 0xB001
"""The tag for the number of pictures in a JPEG file (Multi-Picture Format)."""


@attrs.frozen
class Facts:
    """The properties of an opened image file.

    Attributes:
        sides: Width and height in pixels, as stored.
        orientation: The Exif orientation; 1 is upright.
        notes: Remarks on parts that the service ignores. Each begins with its verb, as in "has several pages".
    """

    sides: tuple[int, int]
    orientation: int
    notes: tuple[str, ...]


@attrs.frozen
class Encoded:
    """A new image file.

    Attributes:
        file: A temporary file, which the caller closes.
        kind: The format: ``PNG``, ``JPEG`` or ``WEBP``.
        notes: Remarks on changes and omitted parts. Each begins with its verb, as in "was turned upright".
    """

    file: IO[bytes]
    size: int
    kind: str
    sides: tuple[int, int]
    notes: tuple[str, ...] = ()


def check(file: IO[bytes], findings: Findings, *, fit: bool = False) -> Facts | None:
    """Complete the check of an image file by decoding some or all of it.

    Return the file's properties; ``None`` if a warning by Pillow was raised as an exception.

    For a PNG, only the header is decoded. For a JPEG, the tables and the first 8 KiB of pixel data are decoded. This
    sample is enough, because a decoder that accepts the sample also accepts any later pixel data of the same scan. If
    the only scan of a JPEG has suspiciously little data, the whole picture is decoded at an eighth of its size. For
    other formats, the first frame is decoded.

    Raises:
        ImageError: The file can't be decoded, or has too many pixels.
    """
    with _plain_words(), contextlib.suppress(Warning), open_file(file, fit=fit) as image:
        facts = Facts(image.size, stored_orientation(image, findings.exif), _page_notes(image))
        if isinstance(image, JpegFile):
            if findings.doubtful_end is None:
                with contextlib.suppress(SampleDecodedError):
                    image.decode_small(file.tell() + _JPEG_SAMPLE_BYTES)
            else:
                image.decode_small(findings.doubtful_end, _JPEG_PADDING)
        elif image.format != "PNG":
            check_tiles(image)
            image.load()
        return facts
    return None  # Pillow warned about metadata, and the user's filters turn warnings into exceptions


def encode(picture: Any, *, fit: bool) -> Encoded:
    """Turn a PIL image or an array upright, and encode it as a PNG file.

    With ``fit``, the longest side becomes at most 3072 pixels. A file that would be over 7.5 MB becomes a JPEG, or is
    shrunk further.

    Raises:
        ImageError: The picture can't be converted, has too many pixels, or makes a file over 10 MB.
    """
    with _plain_words():
        image = picture if isinstance(picture, Image.Image) else _from_array(picture)
        check_pixels(image.size)
        turn = orientation(image)
        if fit:
            return _fitted(image, image.size, turn, lossless=True)
        encoded = _save(plain(image, turn), "PNG")
    if encoded.size > MAX_IMAGE_BYTES:
        encoded.file.close()
        raise ImageError(
            f"has {encoded.size:,} bytes as PNG, which is over the limit of {MAX_IMAGE_BYTES:,}: "
            "shrink it, or let the session do so with fit=True"
        )
    return encoded


def fit(file: IO[bytes], size: int, findings: Findings, *, path: str = "") -> Encoded | None:
    """Convert an image file so that the service edits it well. Return ``None`` if no conversion is needed.

    The image is turned upright, and reduced to at most 3072 pixels a side and 7.5 MB.

    Raises:
        ImageError: The file can't be decoded, or has too many pixels.
    """
    with _plain_words(), open_file(file, path, fit=True) as image:
        before, turn, page_notes = image.size, stored_orientation(image, findings.exif), _page_notes(image)
        small = size <= MAX_IMAGE_BYTES and max(before) <= RECOMMENDED_MAX_SIDE
        faulty = findings.conversion_reason or isinstance(image, PngEssentials)
        if small and turn == UPRIGHT and not faulty and image.format in ACCEPTED:
            return None
        if max(before) > RECOMMENDED_MAX_SIDE:
            scale = RECOMMENDED_MAX_SIDE / max(before)
            image.draft(None, (math.ceil(before[0] * scale), math.ceil(before[1] * scale)))
        lossless = image.format not in {"JPEG", "AVIF", "HEIF", "JPEG2000"}
        encoded = _fitted(image, before, turn, lossless=lossless)
        lost = _lost_colours(image, file, findings)
    lost_notes = (f"lost its {lost}, so its colours may look different",) if lost else ()
    return attrs.evolve(encoded, notes=encoded.notes + lost_notes + page_notes)


def thumbnail(picture: Any, side: int, path: str = "") -> Encoded:
    """Encode a picture (an image file, a PIL image or an array) as a WEBP file with sides of at most ``side`` pixels.

    ``path`` is the path of an image file, if it has one.

    Raises:
        ImageError: The picture can't be decoded, or has too many pixels.
    """
    with _plain_words(), contextlib.ExitStack() as stack:
        if isinstance(picture, Image.Image | ArrayLike):
            image = picture if isinstance(picture, Image.Image) else _from_array(picture)
            turn = orientation(image)
        else:
            image = stack.enter_context(load_despite_damage(picture, path, side=2 * side))
            turn = stored_orientation(image)
        check_pixels(image.size)
        small = plain(image, turn).copy()  # thumbnail() would change the user's PIL image
        small.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=1.0)
        return _save(to_srgb(small), "WEBP")


def decode(content: bytes) -> Image.Image:
    """Decode a picture. Any damaged or missing part is black or gray.

    Raises:
        ImageError: No pixel can be decoded, or the picture has too many pixels.
    """
    with _plain_words():
        return load_despite_damage(io.BytesIO(content))


def _lost_colours(image: ImageFile.ImageFile, file: IO[bytes], findings: Findings) -> str:
    """Name the colour data that is lost when a file is converted; empty if none is lost."""
    if isinstance(image, PngEssentials) and image.lost:
        return f"damaged {' and '.join(sorted(image.lost))} data"
    if findings.colours:
        return f"{findings.colours} chunk"
    return "colour space" if image.format in {"AVIF", "HEIF", "JPEG2000"} and loses_colours(file) else ""


def _page_notes(image: ImageFile.ImageFile) -> tuple[str, ...]:
    try:
        if isinstance(image, JpegFile):
            pictures = image._getmp()  # noqa: SLF001  # the public method would reopen the file
            several = pictures is not None and pictures.get(_MPF_IMAGES, 1) > 1
        else:
            several = image.format != "PSD" and getattr(image, "is_animated", False)  # PSD layers are not frames
    except Exception:  # noqa: BLE001  # corrupt metadata can raise any error, and only the note is lost
        return ()
    return ("has several pages or frames: only the first is edited",) if several else ()


@contextlib.contextmanager
def _plain_words() -> Iterator[None]:
    """Replace any error of a decoder with an :class:`ImageError` in plain words."""
    try:
        yield
    except ImageError:
        raise
    except Warning as warning:  # the user's filters turn warnings into exceptions
        raise ImageError(f"can't be converted, because a Pillow warning was raised as an error: {warning}") from None
    except MemoryError:
        raise ImageError("needs more memory for decoding than is free: shrink it") from None
    except Exception as error:  # noqa: BLE001  # decoders raise any kind of error
        if isinstance(error, OSError) and error.strerror:
            raise ImageError(f"can't be converted: {error.strerror}") from None
        log.debug("an image can't be decoded: %r", error)
        if isinstance(error, EOFError) or "truncated" in str(error):
            raise ImageError("is damaged: some of its pixels are missing") from None
        raise ImageError("is damaged or of an unsupported kind: convert it to PNG") from None


def _from_array(array: Any) -> Image.Image:
    shape = array.__array_interface__["shape"]
    if not hasattr(array, "tobytes"):
        try:
            import numpy as np  # noqa: PLC0415  # optional
        except ImportError:
            name = type(array).__name__
            raise ImageError(f"is {name!r}, which needs NumPy: pip install numpy, or give a PIL image") from None
        array = np.asarray(array)
    return Image.fromarray(array.reshape(shape[:2]) if shape[2:] == (1,) else array)


def _fitted(image: Image.Image, before: tuple[int, int], turn: int, *, lossless: bool) -> Encoded:
    picture = plain(image, turn, RECOMMENDED_MAX_SIDE)
    transparent = picture.mode == "RGBA"
    encoded = _save(picture, "PNG" if lossless or transparent else "JPEG")
    while encoded.size > SAFE_IMAGE_BYTES:
        encoded.file.close()
        if not transparent and encoded.kind == "PNG":
            encoded = _save(picture, "JPEG")
            continue
        side = int(max(picture.size) * min(0.9, math.sqrt(SAFE_IMAGE_BYTES / encoded.size)))
        picture = shrunk(picture, side)
        encoded = _save(picture, "PNG" if transparent else "JPEG")
    done = ["turned upright"] if turn != UPRIGHT else []
    if max(picture.size) < max(before):
        done.append(f"shrunk from {before[0]}×{before[1]} to {picture.width}×{picture.height}")
    done.append(f"encoded as {encoded.kind}")
    return attrs.evolve(encoded, notes=(f"was {', '.join(done)}",))


def _save(image: Image.Image, plugin: str) -> Encoded:
    with contextlib.ExitStack() as undo:
        file = undo.enter_context(tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES))
        image.save(file, plugin, icc_profile=image.info.get("icc_profile"), **_SAVE_OPTIONS[plugin])
        encoded = Encoded(file, file.tell(), plugin, image.size)
        undo.pop_all()  # the caller closes the file
    return encoded
