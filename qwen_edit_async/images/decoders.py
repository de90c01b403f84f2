"""Opens image files. Decodes a sample of a file, or the intact part of a damaged file. Needs Pillow.

``Image.open`` is not used, because it warns about large pictures, and a warning can't be caught safely on a thread.
Instead, this module chooses Pillow's plugin, and checks the number of pixels.
"""

from __future__ import annotations

import contextlib
import functools
import io
import operator
import re
import sys
from typing import IO, Final

from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin

from qwen_edit_async.images.findings import SAVE_ANEW, ImageError
from qwen_edit_async.images.jpeg import coefficient_bytes
from qwen_edit_async.images.kinds import HEAD_BYTES, MAX_PIXELS, format_problem, sniff
from qwen_edit_async.images.png import essentials
from qwen_edit_async.log import log

_MAX_COEFFICIENT_BYTES: Final = 512 * 1024 * 1024
"""The memory limit for a multi-scan JPEG's coefficients, which take 2 bytes each."""

_GREEDY: Final = frozenset({"WEBP", "JPEG2000"})
"""Formats whose decoders need 16 bytes per pixel, so their limit on pixels is halved. Other decoders need 4 to 10."""

_READ_LATE: Final = frozenset({"BMP", "GIF", "TIFF"})
"""Formats whose plugins lack Pillow's optional hook ``load_read``, so :func:`open_file` sets it."""

_JPEG_END: Final = b"\xff\xd9"
_MAX_PADDED_BYTES: Final = 16 * 1024 * 1024
"""The maximum number of bytes of a damaged picture that :func:`load_despite_damage` reads into memory."""

_FILLER_BYTES: Final = 1024
"""The number of filler bytes that :func:`decoded_share` appends. No decoder reads ahead that far."""

_READ_COLOURS: Final = re.compile(
    rb"colr(?:prof|rICC|nclx\0[\x01\x02]\0[\x01\x02\x06\x0d]|\x01..\0\0\0[\x0c\x10-\x12])", re.DOTALL
)
"""The start of a colour box that Pillow reads in AVIF, HEIF and JPEG 2000: an ICC profile, sRGB, CMYK, gray or YCC."""


class SampleDecodedError(Exception):
    """Raised to leave Pillow's decoding loop once the sample is decoded."""


class JpegFile(JpegImagePlugin.JpegImageFile):
    """A JPEG file whose resolution is not read, because reading it could warn about corrupt Exif data."""

    _readable = sys.maxsize
    _padding: bytes | None = None

    def decode_small(self, end: int, padding: bytes | None = None) -> None:
        """Decode the bytes before ``end``, at an eighth of the picture's size. The picture can't be loaded again.

        The decoder gets ``padding`` instead of the file's bytes from ``end`` on.

        Raises:
            SampleDecodedError: The decoder accepted all bytes before ``end``, and there is no padding.
            OSError: The decoder failed.
            EOFError: The decoder needs more bytes than the padding.
        """
        self._readable, self._padding = end, padding  # the decoder begins at the start of the file
        self.draft(None, (max(1, self.width // 8), max(1, self.height // 8)))
        self.load()

    def load_read(self, read_bytes: int) -> bytes:
        """Return the decoder's next bytes. Fail after the padding, even if ``LOAD_TRUNCATED_IMAGES`` is set."""
        if self._readable:
            data = super().load_read(min(read_bytes, self._readable))
            self._readable -= len(data)
            return data
        if self._padding is None:
            raise SampleDecodedError
        if not self._padding:
            raise EOFError
        data, self._padding = self._padding, b""
        return data

    def _read_dpi_from_exif(self) -> None:
        pass


class PngEssentials(PngImagePlugin.PngImageFile):
    """A PNG file that Pillow can open only without its damaged ancillary chunks."""

    lost: tuple[str, ...] = ()
    """The types of the lost chunks that set transparency (tRNS) or the colour profile (iCCP)."""


def open_file(file: IO[bytes], path: str = "", *, fit: bool = False) -> ImageFile.ImageFile:
    """Open an image file. The content, or else the path, determines the format.

    With ``fit``, damaged PNG metadata is accepted, because the file will be converted. ``fit`` also allows a JPEG with
    too many pixels, if it can be decoded at a reduced scale.

    Raises:
        ImageError: The file can't be opened, or has too many pixels.
        Warning: Pillow warned, and the user's filters turn warnings into exceptions.
    """
    file.seek(0)
    head = file.read(HEAD_BYTES)
    plugin = _plugin(head, path)
    if plugin == "WEBP":  # the plugin allocates memory for all pixels when it opens a file
        check_pixels(_webp_sides(head), plugin)
    file.seek(0)
    try:
        image = JpegFile(file) if plugin == "JPEG" else Image.OPEN[plugin][0](file, "")
    except Warning:
        raise
    except Exception as error:  # noqa: BLE001  # plugins raise any kind of error for a broken file
        log.debug("an image can't be opened: %r", error)
        if plugin != "PNG":
            kind = "an" if plugin == "TIFF" else "damaged or an"  # a TIFF file was already checked for damage
            raise ImageError(f"is {kind} unsupported kind of {plugin}: convert it to PNG") from None
        if not fit:
            raise ImageError(f"is a PNG file with damaged metadata. {SAVE_ANEW}") from None
        image = _open_essentials(file)
    if isinstance(image, JpegFile):
        _check_jpeg(image, file, fit=fit)
    else:
        check_pixels(image.size, plugin)
    if plugin in _READ_LATE:
        image.load_read = functools.partial(_read, file)  # type: ignore[attr-defined]  # an optional hook that Pillow doesn't declare
    return image


def check_pixels(sides: tuple[int, int], plugin: str = "") -> None:
    """Check the number of pixels: at most 89,478,485, or half of that for formats that need more memory.

    Raises:
        ImageError: The picture has more pixels.
    """
    limit = MAX_PIXELS // 2 if plugin in _GREEDY else MAX_PIXELS
    if sides[0] * sides[1] > limit:
        raise ImageError(f"is {sides[0]}×{sides[1]}, more than {limit:,} pixels: shrink it")


def check_tiles(image: ImageFile.ImageFile) -> None:
    """Check that a TIFF file's strips or tiles cover its area, because the decoder accepts missing ones.

    Raises:
        ImageError: A part of the area is not covered.
    """
    areas = {tile.extents for tile in image.tile if tile.extents}  # each colour plane repeats the areas
    covered = sum((right - left) * (bottom - top) for left, top, right, bottom in areas)
    if image.format == "TIFF" and covered < image.width * image.height:
        raise ImageError("is damaged: some of its pixels are missing")


def loses_colours(file: IO[bytes]) -> bool:
    """Return whether an AVIF, HEIF or JPEG 2000 file has a colour space that Pillow ignores."""
    file.seek(0)
    header = file.read(64 * 1024)
    return b"colr" in header and not _READ_COLOURS.search(header)


def load_despite_damage(file: IO[bytes], path: str = "", *, side: int | None = None) -> ImageFile.ImageFile:
    """Open and decode a picture, even if it is damaged or incomplete. Any missing part is black or gray.

    The content, or else the path, determines the format. With ``side``, a JPEG is decoded at a reduced scale, but its
    sides keep at least this number of pixels.

    Raises:
        Exception: No pixel can be decoded, or the picture has too many pixels.
    """
    with contextlib.suppress(Exception):  # decoders raise any kind of error for a broken file
        image = _open_small(file, side, path)
        image.load()
        return image
    file.seek(0)
    content = file.read(_MAX_PADDED_BYTES)
    padding = _JPEG_END if content.startswith(b"\xff\xd8") else bytes(len(content))
    image = _open_small(io.BytesIO(content + padding), side, path)
    try:
        image.load()
    except Exception as error:  # decoders raise any kind of error
        log.debug("only a part of a picture can be decoded: %r", error)
        image.tile = []
        image.load()
        if image.getbbox(alpha_only=False) is None:
            raise
    return image


def _open_small(file: IO[bytes], side: int | None, path: str = "") -> ImageFile.ImageFile:
    image = open_file(file, path, fit=True)
    if side is not None:
        image.draft(None, (side, side))
    check_pixels(image.size)
    return image


def decoded_share(file: IO[bytes]) -> float:
    """Return the share of a picture's rows that can be decoded; 0 if the file can't be opened.

    The picture is decoded twice, with different appended bytes and initial shades. A row that differs between
    the results was not decoded.
    """
    file.seek(0)
    content = file.read().removesuffix(b"\xff")  # a last 0xFF would be the first half of a JPEG marker
    try:
        end = _JPEG_END if open_file(file, fit=True).info.get("progressive") else b""
        rows = [_rows(io.BytesIO(content + filler * _FILLER_BYTES + end), *filler) for filler in (b"\0", b"\x55")]
    except Exception as error:  # noqa: BLE001  # decoders raise any kind of error
        log.debug("no row of a picture can be decoded: %r", error)
        return 0.0
    return sum(map(operator.eq, *rows), 0.0) / len(rows[0])


def _rows(file: IO[bytes], shade: int) -> list[int]:
    """Return a hash of each row of a picture. Rows that can't be decoded keep the initial shade."""
    image = _open_small(file, 1)
    image.load_prepare()
    image.im = Image.new(image.im.mode, image.size, shade).im
    image.load_prepare = lambda: None  # type: ignore[method-assign]  # load() calls it again, which would replace the shade
    with contextlib.suppress(Exception):  # decoders raise any kind of error, and the rows before it are wanted
        image.load()
    image.tile = []
    return [hash(image.crop((0, y, image.width, y + 1)).tobytes()) for y in range(image.height)]


def _read(file: IO[bytes], size: int) -> bytes:
    """Return a decoder's next bytes. Fail at the end of the file, even if ``LOAD_TRUNCATED_IMAGES`` is set."""
    if data := file.read(size):
        return data
    raise EOFError


def _plugin(head: bytes, path: str) -> str:
    """Load the plugin for a file, and return its name."""
    plugin = sniff(head, path)
    if problem := format_problem(plugin or "", fit=True):  # Pillow would run Ghostscript, even for a downloaded file
        raise ImageError(problem)
    for load_plugins in (Image.preinit, Image.init):  # preinit loads the common plugins in a quarter of the time
        if plugin not in Image.OPEN:
            load_plugins()
    if plugin == "HEIF" and plugin not in Image.OPEN:
        try:
            import pillow_heif  # noqa: PLC0415  # optional

            pillow_heif.register_heif_opener()
        except ImportError:
            raise ImageError("is in HEIF format: pip install pillow-heif, or convert it") from None
    if plugin is None or plugin not in Image.OPEN:
        raise ImageError("is not an image of a supported kind")
    return plugin


def _open_essentials(file: IO[bytes]) -> PngEssentials:
    file.seek(0)
    data = file.read()
    for broken in ((), ("iCCP",), ("tRNS",), ("iCCP", "tRNS")):
        try:
            intact, lost = essentials(data, broken)
            image = PngEssentials(io.BytesIO(intact))
        except Exception as error:  # noqa: BLE001  # decoders raise any kind of error
            log.debug("a PNG file can't be opened even without its chunks %s: %r", broken, error)
        else:
            image.lost = lost
            return image
    raise ImageError("is a damaged PNG file: save it as a new file")


def _webp_sides(head: bytes) -> tuple[int, int]:
    if head[12:16] == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if head[12:16] == b"VP8L":
        sides = int.from_bytes(head[21:25], "little")
        return 1 + (sides & 0x3FFF), 1 + (sides >> 14 & 0x3FFF)
    return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF


def _check_jpeg(image: JpegFile, file: IO[bytes], *, fit: bool) -> None:
    """Refuse a JPEG with too many pixels, unless ``fit`` can shrink it during decoding."""
    if image.width * image.height <= MAX_PIXELS:
        return
    position = file.tell()
    too_much = coefficient_bytes(file) > _MAX_COEFFICIENT_BYTES
    file.seek(position)
    advice = "shrink it, or let the session do so with fit=True"
    if too_much:
        advice = "it has several scans, so shrinking it takes too much memory. Save it without progressive encoding"
    if too_much or not fit:
        raise ImageError(f"is {image.width}×{image.height}, more than {MAX_PIXELS:,} pixels: {advice}")
