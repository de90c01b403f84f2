"""Everything that needs Pillow (extra ``images``): sure checks, pictures to PNG, and making images fit.

Files are opened by the plugin of the format that their content shows, not through ``Image.open``: that one warns about
large pictures, and warnings can't be caught safely on a thread. The number of pixels is checked here instead.
"""

from __future__ import annotations

import contextlib
import math
import sys
import tempfile
from typing import IO, Any, Final, cast

import attrs
from PIL import Image, ImageFile, ImageOps, JpegImagePlugin

from qwen_edit_async.contract import MAX_IMAGE_BYTES, RECOMMENDED_MAX_SIDE, SAFE_IMAGE_BYTES
from qwen_edit_async.errors import InvalidEditError
from qwen_edit_async.images.kinds import ArrayLike

MAX_PIXELS: Final = 89_478_485
"""Pillow's own limit for pictures that are not suspected of being decompression bombs."""

SPOOL_BYTES: Final = 1024 * 1024
"""A temporary file up to this size stays in memory."""

_PLUGINS: Final = {
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    "image/bmp": "BMP",
    "image/tiff": "TIFF",
    "image/webp": "WEBP",
    "image/gif": "GIF",
}
_OTHER_PLUGINS: Final = ("AVIF", "HEIF", "ICO", "JPEG2000", "PCX", "PPM", "QOI")
"""What ``fit`` turns into an accepted format, as far as the installed Pillow reads it."""

_ORIENTATION: Final = 0x0112
_UPRIGHT: Final = 1
_JPEG_QUALITY: Final = 95
_JPEG_SAMPLE_BYTES: Final = 8 * 1024
_JPEG_LOOKAHEAD_BYTES: Final = 8
"""The most bytes that the decoder reads ahead of those that it needs."""

_WEBP_QUALITY: Final = 70
_WEBP_METHOD: Final = 2
_MAX_THUMBNAIL_PROFILE_BYTES: Final = 1024
_SAVE_OPTIONS: Final = {
    "JPEG": {"quality": _JPEG_QUALITY},
    "PNG": {"compress_level": 6},
    "WEBP": {"quality": _WEBP_QUALITY, "method": _WEBP_METHOD},
}
_DEEP_MODES: Final = frozenset({"I", "F"})


@attrs.frozen
class Encoded:
    """An image file that was made here.

    Attributes:
        file: A temporary file; whoever asked for it closes it.
        size: In bytes.
        media_type: ``image/png`` or ``image/jpeg``.
        sides: Width and height, in pixels.
        change: What was done to the image beyond plain encoding, in words, or nothing.
    """

    file: IO[bytes]
    size: int
    media_type: str
    sides: tuple[int, int]
    change: str = ""


def check(file: IO[bytes], media_type: str, name: str, doubtful_end: int | None = None) -> tuple[int, int] | None:
    """Decode as much of an image file as its checked structure leaves in doubt; return its width and height, if known.

    For a PNG this is the header. For a JPEG it is the tables and the first 8 KiB of pixels, because decoders accept any
    data after that. With ``doubtful_end``, all of its pixels are decoded, at an eighth of their size. For the other
    formats it is the first frame.

    Raises:
        InvalidEditError: If it can't be decoded, or has more than 89,478,485 pixels.
    """
    try:
        with _open(file, (_PLUGINS[media_type],), name) as image:
            sides = image.size
            if isinstance(image, _JpegFile):
                if doubtful_end is None:
                    image.sample(file.tell() + _JPEG_SAMPLE_BYTES)
                else:
                    image.decode_all(doubtful_end, name)
            elif media_type != "image/png":
                image.load()
            return sides
    except Warning:  # a remark on metadata, which the user's filters turn into an exception: nothing against the pixels
        return None
    except Exception as error:  # noqa: BLE001  # plugins raise whatever a broken file makes them stumble over
        raise _undecodable(error, name) from None


def encode(picture: Any, name: str, *, fit: bool) -> Encoded:
    """A PIL image or an array as a PNG file, turned upright.

    With ``fit`` its longest side is at most 3072 pixels and its file under 7.5 MB, if need be as JPEG.

    Raises:
        InvalidEditError: If it can't be converted, or its file is over 10 MB.
    """
    try:
        image = picture if isinstance(picture, Image.Image) else _from_array(picture)
        _check_pixels(image.size, name)
        if fit:
            return _fitted(image, image.size, name, lossless=True)
        encoded = _save(_plain(_upright(image)), "PNG")
    except Exception as error:  # noqa: BLE001  # as above
        raise _undecodable(error, name) from None
    if encoded.size > MAX_IMAGE_BYTES:
        encoded.file.close()
        raise InvalidEditError(
            f"{name} is {encoded.size:,} bytes as PNG, the service takes at most {MAX_IMAGE_BYTES:,}: "
            "shrink it, or let the session do so with fit=True"
        )
    return encoded


def fit(file: IO[bytes], size: int, media_type: str | None, name: str) -> Encoded | None:
    """Make an image file one that the service takes well; ``None`` if it is one already.

    Turned upright, its longest side at most 3072 pixels, its file under 7.5 MB.

    Raises:
        InvalidEditError: If it can't be decoded, or has more than 89,478,485 pixels.
    """
    plugins = _OTHER_PLUGINS if media_type is None else (_PLUGINS[media_type],)
    try:
        with _open(file, plugins, name) as image:
            upright = _orientation(image) == _UPRIGHT
            small = size <= MAX_IMAGE_BYTES and max(image.size) <= RECOMMENDED_MAX_SIDE
            if media_type is not None and upright and small:
                return None
            before = image.size
            image.draft(None, (2 * RECOMMENDED_MAX_SIDE, 2 * RECOMMENDED_MAX_SIDE))
            return _fitted(image, before, name, lossless=image.format not in {"JPEG", "AVIF", "HEIF", "JPEG2000"})
    except Exception as error:  # noqa: BLE001  # as above
        raise _undecodable(error, name) from None


def thumbnail(picture: Any, side: int, name: str) -> Encoded:
    """A picture (an image file, a PIL image, an array) as a WebP file with a longest side of at most ``side`` pixels.

    Raises:
        InvalidEditError: If it can't be decoded, or has more than 89,478,485 pixels.
    """
    with contextlib.ExitStack() as stack:
        try:
            if isinstance(picture, Image.Image):
                image = picture
            elif isinstance(picture, ArrayLike):
                image = _from_array(picture)
            else:
                image = stack.enter_context(_open(picture, tuple(_PLUGINS.values()), name))
                image.draft(None, (2 * side, 2 * side))
            _check_pixels(image.size, name)
            small = _plain(_upright(image)).copy()  # a PIL image is the user's own
            small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
            if len(small.info.get("icc_profile") or b"") > _MAX_THUMBNAIL_PROFILE_BYTES:
                del small.info["icc_profile"]  # most often that of sRGB, which goes without saying
            return _save(small, "WEBP")
        except Exception as error:  # noqa: BLE001  # as above
            raise _undecodable(error, name) from None


class _SampleDecodedError(Exception):
    """Raised through Pillow's loop that feeds a decoder, to leave it."""


class _JpegFile(JpegImagePlugin.JpegImageFile):
    """A JPEG file that is not asked for its resolution, since looking for that warns about corrupt EXIF data."""

    _readable = sys.maxsize
    _padding: bytes | None = None

    def sample(self, end: int) -> None:
        """Decode, at an eighth of its size, the part before ``end``. The picture can't be loaded after that.

        Raises:
            OSError: If the decoder fails.
        """
        with contextlib.suppress(_SampleDecodedError):
            self._decode_small(end)

    def decode_all(self, end: int, name: str) -> None:
        """Decode all pixels, at an eighth of their size, from the data before ``end``, where the end marker is.

        A decoder that meets that marker too early fills the rest with gray, so it gets a few bytes of padding instead.

        Raises:
            InvalidEditError: If the data does not suffice.
        """
        self._padding = bytes(_JPEG_LOOKAHEAD_BYTES)
        pixels = f"{self.width}×{self.height} pixels"
        try:
            self._decode_small(end)
        except OSError:
            raise InvalidEditError(f"{name} is a damaged JPEG file: it has too little data for its {pixels}") from None

    def load_read(self, read_bytes: int) -> bytes:
        """Return the next bytes for the decoder, which has accepted all bytes before."""
        if not self._readable:
            if self._padding is None:
                raise _SampleDecodedError
            data, self._padding = self._padding, b""
            return data
        data = super().load_read(min(read_bytes, self._readable))
        self._readable -= len(data)
        return data

    def _decode_small(self, end: int) -> None:
        self._readable = end  # the decoder begins at the start of the file
        self.draft(None, (max(1, self.width // 8), max(1, self.height // 8)))
        self.load()

    def _read_dpi_from_exif(self) -> None:
        pass


def _open(file: IO[bytes], plugins: tuple[str, ...], name: str) -> ImageFile.ImageFile:
    for load_plugins in (Image.preinit, Image.init):  # the usual ones take a quarter of the time of all
        if any(plugin not in Image.OPEN for plugin in plugins):
            load_plugins()
    for plugin in plugins:
        factory, accepts = Image.OPEN.get(plugin, (None, None))
        file.seek(0)
        if factory is None or (accepts is not None and accepts(file.read(16)) is not True):
            continue
        file.seek(0)
        image = _JpegFile(file) if plugin == "JPEG" else factory(file, "")
        _check_pixels(image.size, name)
        return image
    raise InvalidEditError(f"{name} is no image of a kind that can be read here")


def _check_pixels(sides: tuple[int, int], name: str) -> None:
    if sides[0] * sides[1] > MAX_PIXELS:
        raise InvalidEditError(f"{name} is {sides[0]}×{sides[1]}, more than {MAX_PIXELS:,} pixels: shrink it")


def _undecodable(error: Exception, name: str) -> InvalidEditError:
    if isinstance(error, InvalidEditError):
        return error
    return InvalidEditError(f"{name} can't be decoded: {str(error) or type(error).__name__}")


def _from_array(array: Any) -> Image.Image:
    shape = array.__array_interface__["shape"]
    return Image.fromarray(array.reshape(shape[:2]) if shape[2:] == (1,) else array)


def _orientation(image: Image.Image) -> int:
    try:
        return cast("int", image.getexif().get(_ORIENTATION, _UPRIGHT))
    except Exception:  # noqa: BLE001  # corrupt EXIF data fails in ways that Pillow does not list; the picture can be fine
        return _UPRIGHT


def _upright(image: Image.Image) -> Image.Image:
    return image if _orientation(image) == _UPRIGHT else ImageOps.exif_transpose(image)


def _plain(image: Image.Image) -> Image.Image:
    """The image as 8 bits of gray, RGB or RGBA, which every decoder reads alike."""
    if image.mode == "RGBA" or (image.mode in {"L", "RGB"} and not image.has_transparency_data):
        return image
    if image.mode.startswith("I;16"):
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.mode in _DEEP_MODES or (image.mode == "1" and not image.has_transparency_data):
        return image.convert("L")
    if image.mode == "La":
        image = image.convert("LA")  # the only conversion that Pillow knows for it
    plain = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode in {"CMYK", "LAB"}:
        plain.info.pop("icc_profile", None)  # describes the colors that were converted
    return plain


def _fitted(image: Image.Image, before: tuple[int, int], name: str, *, lossless: bool) -> Encoded:
    turned = _orientation(image) != _UPRIGHT
    plain = _shrunk(_plain(_upright(image)), RECOMMENDED_MAX_SIDE)
    transparent = plain.mode == "RGBA"
    encoded = _save(plain, "PNG" if lossless or transparent else "JPEG")
    while encoded.size > SAFE_IMAGE_BYTES:
        encoded.file.close()
        if not transparent and encoded.media_type == "image/png":
            encoded = _save(plain, "JPEG")
            continue
        side = int(max(plain.size) * min(0.9, math.sqrt(SAFE_IMAGE_BYTES / encoded.size)))
        plain = _shrunk(plain, side)
        encoded = _save(plain, "PNG" if transparent else "JPEG")
    done = ["turned upright"] if turned else []
    if max(plain.size) < max(before):
        done.append(f"shrunk from {before[0]}×{before[1]} to {plain.width}×{plain.height}")
    done.append(f"encoded as {encoded.media_type.removeprefix('image/').upper()}")
    return attrs.evolve(encoded, change=f"{name} was {', '.join(done)}")


def _shrunk(image: Image.Image, side: int) -> Image.Image:
    if max(image.size) <= side:
        return image
    return ImageOps.contain(image, (side, side), Image.Resampling.LANCZOS)


def _save(image: Image.Image, plugin: str) -> Encoded:
    options = _SAVE_OPTIONS[plugin]
    with contextlib.ExitStack() as undo:
        file = undo.enter_context(tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES))
        image.save(file, plugin, icc_profile=image.info.get("icc_profile"), **options)
        encoded = Encoded(file, file.tell(), f"image/{plugin.lower()}", image.size)
        undo.pop_all()  # the caller closes it
    return encoded
