"""Is an image file whole? What its structure tells without decoding a pixel, and without Pillow."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import IO, Final

from qwen_edit_async.images.png import PngCheck, PngError

_BLOCK: Final = 192 * 1024
_CUT_SHORT: Final = "it is cut short"
_PNG_HEADER: Final = 33
"""Signature and first chunk, in bytes."""
_SOS, _EOI = 0xDA, b"\xff\xd9"
_MARKER_IN_SCAN: Final = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
"""In pixel data 0xFF may only be followed by a stuffed zero, a restart marker, or another 0xFF."""
_ENDS: Final = {"image/jpeg": _EOI, "image/png": b"\0\0\0\0IEND\xae\x42\x60\x82"}
_BETWEEN_SCANS: Final = frozenset({0xC4, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE})
"""Tables, scans, applications' data and comments."""


def find_damage(file: IO[bytes], size: int, media_type: str) -> str | None:
    """What is wrong with a file's structure, in words, or ``None``.

    PNG is checked chunk by chunk; JPEG from marker to marker, as far as its end-of-image marker; WEBP is to be as long
    as it says; TIFF is to hold its first directory; BMP and GIF, which say little of themselves, more than a header.

    Args:
        file: Is read from its start, in blocks.
        size: Of the file, in bytes.
        media_type: As its content says.
    """
    check = _CHECKS.get(media_type)
    file.seek(0)
    return None if check is None else check(file, size)


def find_cut(file: IO[bytes], size: int, media_type: str) -> str | None:
    """As :func:`find_damage`, but of a few KiB: a file whose header is sound, and which ends as it should, is not read.

    If it ends otherwise, as a copy does that was cut short, or one with something appended, it is read to be sure.
    """
    end = _ENDS.get(media_type)
    if end is not None:
        file.seek(max(0, size - len(end)))
        if file.read() == end:
            file.seek(0)
            return _png_header_damage(file) if media_type == "image/png" else _jpeg_header_damage(file)
    return find_damage(file, size, media_type)


def _png_header_damage(file: IO[bytes]) -> str | None:
    try:
        PngCheck().feed(file.read(_PNG_HEADER))
    except PngError as error:
        return str(error)
    return None


def _png_damage(file: IO[bytes], _size: int) -> str | None:
    check = PngCheck()
    try:
        while not check.complete and (block := file.read(_BLOCK)):
            check.feed(block)
        check.finish()
    except PngError as error:
        return str(error)
    return check.flaw or None


def _jpeg_damage(file: IO[bytes], _size: int) -> str | None:
    return _jpeg_header_damage(file) or _scan_damage(file)


def _jpeg_header_damage(file: IO[bytes]) -> str | None:
    """What is wrong before a JPEG's first scan, to which the file is brought."""
    file.seek(2)
    marker = 0
    while marker != _SOS:
        head = file.read(4)
        if len(head) < 4:  # noqa: PLR2004  # marker and length, two bytes each
            return _CUT_SHORT
        if head[0] != 0xFF:  # noqa: PLR2004  # every marker begins with it
            return "its segments are damaged"
        if head[1] == 0xFF:  # noqa: PLR2004  # fill byte: the marker is yet to come
            file.seek(-3, 1)
            continue
        marker = head[1]
        file.seek(int.from_bytes(head[2:]) - 2, 1)
    return None


def _scan_damage(file: IO[bytes]) -> str | None:
    """What is wrong from a JPEG's first scan on, whose header was just read; decoders stumble over the same."""
    data, position = b"", 0  # what was read, and where in it to go on
    while True:
        marker = _MARKER_IN_SCAN.search(data, position)
        if marker is None:
            kept = data[max(position, len(data) - 1) :]  # a marker may begin here
            data, position = kept + file.read(_BLOCK), 0
            if data == kept:
                return _CUT_SHORT
        elif marker[0] == _EOI:
            return None
        elif marker[0][1] not in _BETWEEN_SCANS:
            return "its pixel data is damaged"
        else:
            begin = marker.end()
            if begin + 2 > len(data):
                data += file.read(_BLOCK)
            position = begin + max(2, int.from_bytes(data[begin : begin + 2]))
            if position > len(data):
                file.seek(position - len(data), 1)
                data, position = b"", 0


def _webp_damage(file: IO[bytes], size: int) -> str | None:
    return _CUT_SHORT if int.from_bytes(file.read(8)[4:], "little") + 8 > size else None


def _tiff_damage(file: IO[bytes], size: int) -> str | None:
    head = file.read(8)
    order: Final = "little" if head.startswith(b"II") else "big"
    directory = int.from_bytes(head[4:], order)
    file.seek(directory)
    entries = int.from_bytes(file.read(2), order)
    return _CUT_SHORT if not directory or not entries or directory + 2 + 12 * entries > size else None


def _gif_damage(file: IO[bytes], size: int) -> str | None:
    head = file.read(13)
    colours = 2 << (head[10] & 7) if len(head) == 13 and head[10] & 0x80 else 0  # noqa: PLR2004  # to the screen's end
    return _CUT_SHORT if size <= 13 + 3 * colours else None  # likewise


def _bmp_damage(file: IO[bytes], size: int) -> str | None:
    pixels = int.from_bytes(file.read(14)[10:], "little")
    return _CUT_SHORT if size <= max(14, pixels) else None  # the file header


_CHECKS: Final[Mapping[str, Callable[[IO[bytes], int], str | None]]] = {
    "image/png": _png_damage,
    "image/jpeg": _jpeg_damage,
    "image/webp": _webp_damage,
    "image/tiff": _tiff_damage,
    "image/gif": _gif_damage,
    "image/bmp": _bmp_damage,
}
