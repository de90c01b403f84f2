"""Checks whether an image file is complete, without decoding a pixel and without Pillow. Blocking."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import IO, Final

from qwen_edit_async.images.findings import CUT_SHORT, DamageError, Findings
from qwen_edit_async.images.jpeg import check_jpeg, check_jpeg_header
from qwen_edit_async.images.png import check_png, check_png_header
from qwen_edit_async.images.tiff import check_tiff

_ENDS: Final = {"image/jpeg": b"\xff\xd9", "image/png": b"\0\0\0\0IEND\xae\x42\x60\x82"}


def find_damage(file: IO[bytes], size: int, media_type: str) -> Findings:
    """Check a file's structure.

    PNG is checked chunk by chunk, with the number of its rows. JPEG is checked from marker to marker. A WEBP file must
    be as long as its header says, a TIFF file must contain its first directory, and a BMP or GIF file more than its
    header.

    Args:
        file: The file, which is read from its start, in blocks.
        size: The size of the file in bytes.
        media_type: The media type that the file's content shows.
    """
    file.seek(0)
    try:
        return _CHECKS[media_type](file, size)
    except DamageError as error:
        return Findings(str(error))


def find_cut(file: IO[bytes], size: int, media_type: str) -> Findings:
    """Check as :func:`find_damage` does, but read only a few KiB of a file whose header is sound and ends as it should.

    A file that ends otherwise, because it was cut short or because something was appended, is read to be sure.
    """
    end = _ENDS.get(media_type)
    if end is not None:
        file.seek(max(0, size - len(end)))
        if file.read() == end:
            file.seek(0)
            try:
                return check_png_header(file) if media_type == "image/png" else check_jpeg_header(file)
            except DamageError as error:
                return Findings(str(error))
    return find_damage(file, size, media_type)


def _check_webp(file: IO[bytes], size: int) -> Findings:
    return _cut_if(int.from_bytes(file.read(8)[4:], "little") + 8 > size)


def _check_gif(file: IO[bytes], size: int) -> Findings:
    head = file.read(13)  # to the end of the screen's description
    colours = 2 << (head[10] & 7) if len(head) == 13 and head[10] & 0x80 else 0  # noqa: PLR2004  # as above
    return _cut_if(size <= 13 + 3 * colours)


def _check_bmp(file: IO[bytes], size: int) -> Findings:
    pixels = int.from_bytes(file.read(14)[10:], "little")
    return _cut_if(size <= max(14, pixels))  # the size of the file header


def _cut_if(cut: bool) -> Findings:  # noqa: FBT001  # the only argument
    return Findings(CUT_SHORT if cut else "")


_CHECKS: Final[Mapping[str, Callable[[IO[bytes], int], Findings]]] = {
    "image/png": check_png,
    "image/jpeg": check_jpeg,
    "image/webp": _check_webp,
    "image/tiff": check_tiff,
    "image/gif": _check_gif,
    "image/bmp": _check_bmp,
}
