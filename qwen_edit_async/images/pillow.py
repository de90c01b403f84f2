"""Everything that needs Pillow (extra ``images``): sure checks, pictures to PNG, and making images fit."""

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
from qwen_edit_async.errors import InvalidEditError
from qwen_edit_async.images.decoders import (
    JpegFile,
    PngEssentials,
    SampleDecodedError,
    check_pixels,
    load_what_is_there,
    open_file,
)
from qwen_edit_async.images.findings import Findings
from qwen_edit_async.images.kinds import ArrayLike
from qwen_edit_async.images.pixels import orientation, plain, shrunk, stored_orientation, to_srgb
from qwen_edit_async.images.tiff import UPRIGHT
from qwen_edit_async.log import log

SPOOL_BYTES: Final = 1024 * 1024
"""The largest temporary file that stays in memory."""

_JPEG_QUALITY: Final = 95
_JPEG_SAMPLE_BYTES: Final = 8 * 1024
_JPEG_PADDING: Final = bytes(8)
"""The bytes that a decoder may read ahead. It gets them instead of the end marker, and so makes up no pixels."""

_WEBP_QUALITY: Final = 70
_WEBP_METHOD: Final = 2
_SAVE_OPTIONS: Final = {
    "JPEG": {"quality": _JPEG_QUALITY},
    "PNG": {"compress_level": 6},
    "WEBP": {"quality": _WEBP_QUALITY, "method": _WEBP_METHOD},
}
_MPF_IMAGES: Final = 0xB001
"""The number of pictures in a JPEG file with several (Multi-Picture Format)."""


@attrs.frozen
class Facts:
    """The findings of opening an image file.

    Attributes:
        sides: Width and height in pixels, as stored.
        orientation: The Exif orientation; 1 is upright.
        has_pages: Whether the file has more pages or frames than the first.
    """

    sides: tuple[int, int]
    orientation: int
    has_pages: bool


@attrs.frozen
class Encoded:
    """An image file that was made here.

    Attributes:
        file: A temporary file, which the caller closes.
        size: The size in bytes.
        media_type: ``image/png``, ``image/jpeg`` or ``image/webp``.
        sides: Width and height in pixels.
        changes: Sentences about what was done to the image beyond plain encoding.
    """

    file: IO[bytes]
    size: int
    media_type: str
    sides: tuple[int, int]
    changes: tuple[str, ...] = ()


def check(file: IO[bytes], name: str, findings: Findings, *, fit: bool = False) -> Facts | None:
    """Decode as much of an image file as its checked structure leaves in doubt; return what is known of it then.

    For a PNG this is the header. For a JPEG it is the tables and the first 8 KiB of pixels, because decoders accept any
    data after that. If the end of its data is doubtful, all pixels are decoded, at an eighth of their size. For the
    other formats it is the first frame.

    Raises:
        InvalidEditError: If the file can't be decoded, or has more than 89,478,485 pixels that ``fit`` can't shrink.
    """
    with _plain_words(name), contextlib.suppress(Warning), open_file(file, name, fit=fit) as image:
        facts = Facts(image.size, stored_orientation(image, findings.exif), _has_pages(image))
        if isinstance(image, JpegFile):
            if findings.doubtful_end is None:
                with contextlib.suppress(SampleDecodedError):
                    image.decode_small(file.tell() + _JPEG_SAMPLE_BYTES)
            else:
                image.decode_small(findings.doubtful_end, _JPEG_PADDING)
        elif image.format != "PNG":
            image.load()
        return facts
    return None  # Pillow remarked on metadata, and the user's filters turned that into an exception


def encode(picture: Any, name: str, *, fit: bool) -> Encoded:
    """Encode a PIL image or an array as a PNG file, turned upright.

    With ``fit``, its longest side becomes at most 3072 pixels and its file at most 7.5 MB, if need be as JPEG.

    Raises:
        InvalidEditError: If it can't be converted, or its file is over 10 MB.
    """
    with _plain_words(name):
        image = picture if isinstance(picture, Image.Image) else _from_array(picture, name)
        check_pixels(image.size, name)
        turn = orientation(image)
        if fit:
            return _fitted(image, image.size, turn, name, lossless=True)
        encoded = _save(plain(image, name, turn), "PNG")
    if encoded.size > MAX_IMAGE_BYTES:
        encoded.file.close()
        raise InvalidEditError(
            f"{name} is {encoded.size:,} bytes as PNG, the service takes at most {MAX_IMAGE_BYTES:,}: "
            "shrink it, or let the session do so with fit=True"
        )
    return encoded


def fit(
    file: IO[bytes], size: int, name: str, findings: Findings, *, path: str = "", convert: bool = False
) -> Encoded | None:
    """Make an image file one that the service edits well; ``None`` if it is one already.

    It is turned upright, its longest side becomes at most 3072 pixels, and its file at most 7.5 MB. With ``convert``,
    it is encoded anew in any case.

    Raises:
        InvalidEditError: If it can't be decoded, or has too many pixels.
    """
    with _plain_words(name), open_file(file, name, path, fit=True) as image:
        before, turn = image.size, stored_orientation(image, findings.exif)
        small = size <= MAX_IMAGE_BYTES and max(before) <= RECOMMENDED_MAX_SIDE
        faulty = findings.unusual or isinstance(image, PngEssentials)
        if small and turn == UPRIGHT and not faulty and not convert:
            return None
        if max(before) > RECOMMENDED_MAX_SIDE:
            scale = RECOMMENDED_MAX_SIDE / max(before)
            image.draft(None, (math.ceil(before[0] * scale), math.ceil(before[1] * scale)))
        lossless = image.format not in {"JPEG", "AVIF", "HEIF", "JPEG2000"}
        encoded = _fitted(image, before, turn, name, lossless=lossless)
    if findings.colours:
        lost = f"lost its {findings.colours} chunk, which describes its colours: they may look different"
        encoded = attrs.evolve(encoded, changes=(*encoded.changes, f"{name} {lost}"))
    return encoded


def thumbnail(picture: Any, side: int, name: str) -> Encoded:
    """Encode a picture (an image file, a PIL image, an array) as a WebP file with sides of at most ``side`` pixels.

    Raises:
        InvalidEditError: If it can't be decoded, or has more than 89,478,485 pixels.
    """
    with _plain_words(name), contextlib.ExitStack() as stack:
        if isinstance(picture, Image.Image | ArrayLike):
            image = picture if isinstance(picture, Image.Image) else _from_array(picture, name)
            turn = orientation(image)
        else:
            file = stack.enter_context(open_file(picture, name, fit=True))
            turn = stored_orientation(file)
            file.draft(None, (2 * side, 2 * side))
            load_what_is_there(file)
            image = file
        check_pixels(image.size, name)
        small = plain(image, name, turn).copy()  # a PIL image is the user's own
        small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
        return _save(to_srgb(small), "WEBP")


def decode(content: bytes, name: str) -> Image.Image:
    """Decode a picture, as much of it as there is.

    Raises:
        InvalidEditError: If nothing can be decoded, or it has more than 89,478,485 pixels.
    """
    with _plain_words(name):
        image = open_file(io.BytesIO(content), name, fit=True)
        check_pixels(image.size, name)
        load_what_is_there(image)
        return image


def _has_pages(image: ImageFile.ImageFile) -> bool:
    try:
        if isinstance(image, JpegFile):
            pictures = image._getmp()  # noqa: SLF001  # Pillow has no public way but to reopen the file
            return pictures is not None and pictures.get(_MPF_IMAGES, 1) > 1
        return bool(getattr(image, "is_animated", False))
    except Exception:  # noqa: BLE001  # corrupt metadata fails in many ways; it only decides about a note
        return False


@contextlib.contextmanager
def _plain_words(name: str) -> Iterator[None]:
    """Tell the user what to do, instead of a decoder's own words. Decoders raise whatever a broken file leads to."""
    try:
        yield
    except InvalidEditError:
        raise
    except MemoryError:
        raise InvalidEditError(f"{name} can't be decoded in the memory that there is: shrink it") from None
    except Exception as error:  # noqa: BLE001  # see above
        if isinstance(error, OSError) and error.strerror:
            raise InvalidEditError(f"{name} can't be converted: {error.strerror}") from None
        log.debug("%s can't be decoded: %r", name, error)
        if isinstance(error, EOFError) or "truncated" in str(error):
            raise InvalidEditError(f"{name} is damaged: it lacks a part of its pixels") from None
        raise InvalidEditError(f"{name} is damaged, or of a kind that can't be read here: convert it to PNG") from None


def _from_array(array: Any, name: str) -> Image.Image:
    shape = array.__array_interface__["shape"]
    if not hasattr(array, "tobytes"):
        try:
            import numpy as np  # noqa: PLC0415  # nothing else needs it
        except ImportError:
            raise InvalidEditError(f"{name} is {type(array).__name__!r}: give a NumPy array or a PIL image") from None
        array = np.asarray(array)
    return Image.fromarray(array.reshape(shape[:2]) if shape[2:] == (1,) else array)


def _fitted(image: Image.Image, before: tuple[int, int], turn: int, name: str, *, lossless: bool) -> Encoded:
    picture = shrunk(plain(image, name, turn), RECOMMENDED_MAX_SIDE)
    transparent = picture.mode == "RGBA"
    encoded = _save(picture, "PNG" if lossless or transparent else "JPEG")
    while encoded.size > SAFE_IMAGE_BYTES:
        encoded.file.close()
        if not transparent and encoded.media_type == "image/png":
            encoded = _save(picture, "JPEG")
            continue
        side = int(max(picture.size) * min(0.9, math.sqrt(SAFE_IMAGE_BYTES / encoded.size)))
        picture = shrunk(picture, side)
        encoded = _save(picture, "PNG" if transparent else "JPEG")
    done = ["turned upright"] if turn != UPRIGHT else []
    if max(picture.size) < max(before):
        done.append(f"shrunk from {before[0]}×{before[1]} to {picture.width}×{picture.height}")
    done.append(f"encoded as {encoded.media_type.removeprefix('image/').upper()}")
    return attrs.evolve(encoded, changes=(f"{name} was {', '.join(done)}",))


def _save(image: Image.Image, plugin: str) -> Encoded:
    options = _SAVE_OPTIONS[plugin]
    with contextlib.ExitStack() as undo:
        file = undo.enter_context(tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES))
        image.save(file, plugin, icc_profile=image.info.get("icc_profile"), **options)
        encoded = Encoded(file, file.tell(), f"image/{plugin.lower()}", image.size)
        undo.pop_all()  # the caller closes it
    return encoded
