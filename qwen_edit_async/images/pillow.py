"""Everything that needs Pillow (extra ``images``): sure checks, pictures to PNG, and making images fit.

Files are opened by the plugin of the format that their content shows, not through ``Image.open``: that function warns
about large pictures, and a warning can't be caught safely on a thread. The number of pixels is checked here instead.
"""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
from typing import IO, Any, Final

import attrs
from PIL import Image, ImageFile

from qwen_edit_async.contract import MAX_IMAGE_BYTES, RECOMMENDED_MAX_SIDE, SAFE_IMAGE_BYTES
from qwen_edit_async.errors import InvalidEditError
from qwen_edit_async.images.decoders import JpegFile, PngEssentials, load_what_is_there, open_essentials
from qwen_edit_async.images.integrity import SAVE_ANEW
from qwen_edit_async.images.kinds import MAX_PIXELS, RAW_FORMATS, ArrayLike, other_advice, sniff_other
from qwen_edit_async.images.pixels import orientation, plain, shrunk, stored_orientation, to_srgb
from qwen_edit_async.log import log

SPOOL_BYTES: Final = 1024 * 1024
"""The largest temporary file that stays in memory."""

_PLUGINS: Final = {
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    "image/bmp": "BMP",
    "image/tiff": "TIFF",
    "image/webp": "WEBP",
    "image/gif": "GIF",
}
_UPRIGHT: Final = 1
_JPEG_QUALITY: Final = 95
_JPEG_SAMPLE_BYTES: Final = 8 * 1024
_WEBP_QUALITY: Final = 70
_WEBP_METHOD: Final = 0
"""The fastest. Thumbnails are made by the thousand."""

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
        change: What was done to the image beyond plain encoding, in words, or nothing.
    """

    file: IO[bytes]
    size: int
    media_type: str
    sides: tuple[int, int]
    change: str = ""


def check(
    file: IO[bytes], media_type: str, name: str, *, doubtful_end: int | None = None, fit: bool = False
) -> Facts | None:
    """Decode as much of an image file as its checked structure leaves in doubt; return what is known of it then.

    For a PNG this is the header. For a JPEG it is the tables and the first 8 KiB of pixels, because decoders accept any
    data after that. With ``doubtful_end``, all of its pixels are decoded, at an eighth of their size. For the other
    formats it is the first frame.

    Raises:
        InvalidEditError: If the file can't be decoded, or has more than 89,478,485 pixels that ``fit`` can't shrink.
    """
    try:
        with _open(file, (_PLUGINS[media_type],), name, fit=fit) as image:
            facts = Facts(image.size, stored_orientation(image), _has_pages(image))
            if isinstance(image, JpegFile):
                if doubtful_end is None:
                    image.sample(file.tell() + _JPEG_SAMPLE_BYTES)
                else:
                    image.decode_all(doubtful_end, name)
            elif media_type != "image/png":
                image.load()
            return facts
    except Warning:  # a remark on metadata that the user's filters turn into an exception; the pixels are fine
        return None
    except Exception as error:  # noqa: BLE001  # plugins raise whatever a broken file leads to
        raise _undecodable(error, name) from None


def encode(picture: Any, name: str, *, fit: bool) -> Encoded:
    """Encode a PIL image or an array as a PNG file, turned upright.

    With ``fit``, its longest side becomes at most 3072 pixels and its file at most 7.5 MB, if need be as JPEG.

    Raises:
        InvalidEditError: If it can't be converted, or its file is over 10 MB.
    """
    try:
        image = picture if isinstance(picture, Image.Image) else _from_array(picture, name)
        _check_pixels(image.size, name)
        if fit:
            return _fitted(image, image.size, name, lossless=True)
        encoded = _save(plain(image, name), "PNG")
    except Exception as error:  # noqa: BLE001  # as above
        raise _undecodable(error, name) from None
    if encoded.size > MAX_IMAGE_BYTES:
        encoded.file.close()
        raise InvalidEditError(
            f"{name} is {encoded.size:,} bytes as PNG, the service takes at most {MAX_IMAGE_BYTES:,}: "
            "shrink it, or let the session do so with fit=True"
        )
    return encoded


def fit(file: IO[bytes], size: int, media_type: str | None, name: str, *, convert: bool = False) -> Encoded | None:
    """Make an image file one that the service edits well; ``None`` if it is one already.

    It is turned upright, its longest side becomes at most 3072 pixels, and its file at most 7.5 MB.

    Args:
        file: The file.
        size: Its size in bytes.
        media_type: Its media type; ``None`` for a format that the service does not take.
        name: The name of the image in messages.
        convert: Whether it is converted in any case.

    Raises:
        InvalidEditError: If it can't be decoded, or has too many pixels.
    """
    try:
        plugins = _other_plugins(file, name) if media_type is None else (_PLUGINS[media_type],)
        with _open(file, plugins, name, fit=True) as image:
            convert = convert or isinstance(image, PngEssentials)
            small = size <= MAX_IMAGE_BYTES and max(image.size) <= RECOMMENDED_MAX_SIDE
            if media_type is not None and not convert and small and orientation(image) == _UPRIGHT:
                return None
            before = image.size
            if max(before) > RECOMMENDED_MAX_SIDE:
                scale = RECOMMENDED_MAX_SIDE / max(before)
                image.draft(None, (math.ceil(before[0] * scale), math.ceil(before[1] * scale)))
            return _fitted(image, before, name, lossless=image.format not in {"JPEG", "AVIF", "HEIF", "JPEG2000"})
    except Exception as error:  # noqa: BLE001  # as above
        raise _undecodable(error, name) from None


def thumbnail(picture: Any, side: int, name: str) -> Encoded:
    """Encode a picture (an image file, a PIL image, an array) as a WebP file with sides of at most ``side`` pixels.

    Raises:
        InvalidEditError: If it can't be decoded, or has more than 89,478,485 pixels.
    """
    with contextlib.ExitStack() as stack:
        try:
            if isinstance(picture, Image.Image):
                image = picture
            elif isinstance(picture, ArrayLike):
                image = _from_array(picture, name)
            else:
                image = stack.enter_context(_open(picture, (*_PLUGINS.values(), "AVIF"), name, fit=True))
                image.draft(None, (2 * side, 2 * side))
                _check_pixels(image.size, name)
                load_what_is_there(image)
            _check_pixels(image.size, name)
            small = plain(image, name).copy()  # a PIL image is the user's own
            small.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=1.0)
            return _save(to_srgb(small), "WEBP")
        except Exception as error:  # noqa: BLE001  # as above
            raise _undecodable(error, name) from None


def decode(content: bytes, name: str) -> Image.Image:
    """Decode a picture, as much of it as there is.

    Raises:
        InvalidEditError: If nothing can be decoded, or it has more than 89,478,485 pixels.
    """
    try:
        image = _open(io.BytesIO(content), (*_PLUGINS.values(), "AVIF"), name, fit=True)
        _check_pixels(image.size, name)
        load_what_is_there(image)
    except Exception as error:  # noqa: BLE001  # as above
        raise _undecodable(error, name) from None
    return image


def _other_plugins(file: IO[bytes], name: str) -> tuple[str, ...]:
    """Return the plugin of a format that the service does not take."""
    file.seek(0)
    plugin = sniff_other(file.read(16))
    if plugin is None:
        raise InvalidEditError(f"{name} is not an image of a kind that can be read here")
    if plugin in RAW_FORMATS:
        raise InvalidEditError(f"{name} {other_advice(plugin)}")
    if plugin == "HEIF" and plugin not in Image.OPEN:
        try:
            import pillow_heif  # noqa: PLC0415  # not needed but for this

            pillow_heif.register_heif_opener()
        except ImportError:
            raise InvalidEditError(f"{name} is in HEIF format: pip install pillow-heif, or convert it") from None
    return (plugin,)


def _open(file: IO[bytes], plugins: tuple[str, ...], name: str, *, fit: bool = False) -> ImageFile.ImageFile:
    for load_plugins in (Image.preinit, Image.init):  # the usual ones take a quarter of the time of all
        if any(plugin not in Image.OPEN for plugin in plugins):
            load_plugins()
    for plugin in plugins:
        factory, accepts = Image.OPEN.get(plugin, (None, None))
        file.seek(0)
        if factory is None or (accepts is not None and accepts(file.read(16)) is not True):
            continue
        file.seek(0)
        try:
            image = JpegFile(file) if plugin == "JPEG" else factory(file, "")
        except Warning:
            raise
        except Exception as error:  # noqa: BLE001  # plugins raise whatever a file leads to that they don't know
            log.debug("%s can't be opened: %r", name, error)
            if plugin != "PNG":
                advice = "convert it to PNG"
                raise InvalidEditError(f"{name} is a kind of {plugin} that can't be read here: {advice}") from None
            if not fit:
                raise InvalidEditError(f"{name} is a PNG file with a fault beside its picture. {SAVE_ANEW}") from None
            image = open_essentials(file, name)
        if not (fit and isinstance(image, JpegFile) and image.can_shrink):
            _check_pixels(image.size, name, can_shrink=isinstance(image, JpegFile) and image.can_shrink)
        return image
    raise InvalidEditError(f"{name} is not an image of a kind that can be read here")


def _check_pixels(sides: tuple[int, int], name: str, *, can_shrink: bool = False) -> None:
    if sides[0] * sides[1] > MAX_PIXELS:
        advice = "shrink it, or let the session do so with fit=True" if can_shrink else "shrink it"
        raise InvalidEditError(f"{name} is {sides[0]}×{sides[1]}, more than {MAX_PIXELS:,} pixels: {advice}")


def _has_pages(image: ImageFile.ImageFile) -> bool:
    try:
        if isinstance(image, JpegFile):
            pictures = image._getmp()  # noqa: SLF001  # Pillow has no public way but to reopen the file
            return pictures is not None and pictures.get(_MPF_IMAGES, 1) > 1
        return bool(getattr(image, "is_animated", False))
    except Exception:  # noqa: BLE001  # corrupt metadata fails in many ways; it only decides about a note
        return False


def _undecodable(error: Exception, name: str) -> InvalidEditError:
    """Return what to tell the user, who can do nothing with a decoder's own words."""
    if isinstance(error, InvalidEditError):
        return error
    if isinstance(error, OSError) and error.strerror:
        return InvalidEditError(f"{name} can't be converted: {error.strerror}")
    if isinstance(error, MemoryError):
        return InvalidEditError(f"{name} can't be decoded in the memory that there is: shrink it")
    log.debug("%s can't be decoded: %r", name, error)
    if isinstance(error, EOFError) or "truncated" in str(error):
        return InvalidEditError(f"{name} is damaged: it lacks a part of its pixels")
    return InvalidEditError(f"{name} is damaged, or of a kind that can't be read here: convert it to PNG")


def _from_array(array: Any, name: str) -> Image.Image:
    shape = array.__array_interface__["shape"]
    if not hasattr(array, "tobytes"):
        try:
            import numpy as np  # noqa: PLC0415  # nothing else needs it
        except ImportError:
            raise InvalidEditError(f"{name} is {type(array).__name__!r}: give a NumPy array or a PIL image") from None
        array = np.asarray(array)
    return Image.fromarray(array.reshape(shape[:2]) if shape[2:] == (1,) else array)


def _fitted(image: Image.Image, before: tuple[int, int], name: str, *, lossless: bool) -> Encoded:
    turned = orientation(image) != _UPRIGHT
    picture = shrunk(plain(image, name), RECOMMENDED_MAX_SIDE)
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
    done = ["turned upright"] if turned else []
    if max(picture.size) < max(before):
        done.append(f"shrunk from {before[0]}×{before[1]} to {picture.width}×{picture.height}")
    done.append(f"encoded as {encoded.media_type.removeprefix('image/').upper()}")
    return attrs.evolve(encoded, change=f"{name} was {', '.join(done)}")


def _save(image: Image.Image, plugin: str) -> Encoded:
    options = _SAVE_OPTIONS[plugin]
    with contextlib.ExitStack() as undo:
        file = undo.enter_context(tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES))
        image.save(file, plugin, icc_profile=image.info.get("icc_profile"), **options)
        encoded = Encoded(file, file.tell(), f"image/{plugin.lower()}", image.size)
        undo.pop_all()  # the caller closes it
    return encoded
