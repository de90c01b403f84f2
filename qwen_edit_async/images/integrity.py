"""Checks whether an image file is complete, without decoding a pixel and without Pillow. Blocking."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import IO, Final

import attrs

from qwen_edit_async.images.jpeg import CUT_SHORT, JpegError, check_header, check_jpeg
from qwen_edit_async.images.png import PngCheck, PngError
from qwen_edit_async.images.tiff import raw_format, read_directory, unreadable_kind, unusual_kind

SAVE_ANEW: Final = "Save it as a new PNG file, or let the session do so with fit=True"
_BLOCK: Final = 192 * 1024
_PNG_HEADER: Final = 33
"""The size in bytes of the signature and the first chunk."""

_ENDS: Final = {"image/jpeg": b"\xff\xd9", "image/png": b"\0\0\0\0IEND\xae\x42\x60\x82"}


@attrs.frozen
class Findings:
    """The result of a check.

    Attributes:
        damage: What is wrong with the file, in words; empty if nothing is.
        unsupported: Why a sound file is refused, as the predicate of a sentence; empty if it isn't.
        unusual: Why a sound file has to be converted, likewise.
        doubtful_end: The position where a JPEG's pixel data ends, if there is so little of it that only decoding shows
            whether it is enough.
    """

    damage: str = ""
    unsupported: str = ""
    unusual: str = ""
    doubtful_end: int | None = None

    def problem(self, media_type: str, *, fit: bool) -> str:
        """Return why the file is refused, as the predicate of a sentence; empty if it isn't."""
        if self.damage:
            return f"is a damaged {media_type.removeprefix('image/').upper()} file: {self.damage}"
        if self.unusual and not fit:
            return f"{self.unusual}. {SAVE_ANEW}"
        return self.unsupported


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
    check = _CHECKS.get(media_type)
    file.seek(0)
    return Findings() if check is None else check(file, size)


def find_cut(file: IO[bytes], size: int, media_type: str) -> Findings:
    """Check as :func:`find_damage` does, but read only a few KiB of a file whose header is sound and ends as it should.

    A file that ends otherwise, because it was cut short or because something was appended, is read to be sure.
    """
    end = _ENDS.get(media_type)
    if end is not None:
        file.seek(max(0, size - len(end)))
        if file.read() == end:
            file.seek(0)
            return _check_png_header(file) if media_type == "image/png" else _check_jpeg_header(file)
    return find_damage(file, size, media_type)


def _check_png_header(file: IO[bytes]) -> Findings:
    try:
        PngCheck().feed(file.read(_PNG_HEADER))
    except PngError as error:
        return Findings(str(error))
    return Findings()


def _check_png(file: IO[bytes], _size: int) -> Findings:
    check = PngCheck()
    try:
        while not check.complete and (block := file.read(_BLOCK)):
            check.feed(block)
        check.finish()
    except PngError as error:
        return Findings(str(error))
    unusual = f"is a PNG file with a fault beside its picture: {check.remark}" if check.remark else ""
    return Findings(check.flaw, unusual=unusual)


def _check_jpeg_header(file: IO[bytes]) -> Findings:
    try:
        check_header(file)
    except JpegError as error:
        return Findings(str(error))
    return Findings()


def _check_jpeg(file: IO[bytes], _size: int) -> Findings:
    try:
        return Findings(doubtful_end=check_jpeg(file))
    except JpegError as error:
        return Findings(str(error))


def _check_webp(file: IO[bytes], size: int) -> Findings:
    return _cut_if(int.from_bytes(file.read(8)[4:], "little") + 8 > size)


def _check_tiff(file: IO[bytes], size: int) -> Findings:
    head = file.read(16)
    tags = read_directory(file, size)
    if tags is None:
        return Findings(CUT_SHORT)
    if raw := raw_format(head, tags):
        return Findings(
            unsupported=f"looks like a camera raw file ({raw} format): "
            "perhaps only a preview would be edited. Export it as a JPEG"
        )
    if kind := unreadable_kind(head, tags):
        return Findings(unsupported=f"is a kind of TIFF that can't be read here ({kind}): convert it to an 8-bit PNG")
    return Findings(unusual=unusual_kind(head, tags))


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
    "image/png": _check_png,
    "image/jpeg": _check_jpeg,
    "image/webp": _check_webp,
    "image/tiff": _check_tiff,
    "image/gif": _check_gif,
    "image/bmp": _check_bmp,
}
