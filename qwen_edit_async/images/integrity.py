"""Checks whether a file is a complete picture, and judges the files that the service returns. Blocking.

The service should return PNG files. A picture in another format is kept, because it was paid for.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import IO, Any, Final

import attrs

from qwen_edit_async.images.findings import CUT_SHORT, LACKS_SCANS, DamageError, Findings, ImageError
from qwen_edit_async.images.jpeg import check_jpeg
from qwen_edit_async.images.kinds import PICTURE_ENDINGS, sniff
from qwen_edit_async.images.png import check_png
from qwen_edit_async.images.tiff import check_tiff
from qwen_edit_async.storage.paths import FilePath

_ENDS: Final = {"JPEG": b"\xff\xd9", "PNG": b"\0\0\0\0IEND\xae\x42\x60\x82"}
"""The last bytes of complete files."""

_UNDECODABLE: Final = "not all of its pixels can be decoded"
_HALF: Final = 0.5
_BOX_HEAD: Final = 8
_BOXES: Final = frozenset({b"ftyp", b"meta", b"mdat", b"moov", b"free", b"skip", b"uuid"} | {b"jP  ", b"jp2h", b"jp2c"})
_ENDINGS: Final = {
    "JPEG": (".jpg", ".jpeg"),
    "TIFF": (".tif", ".tiff"),
    "HEIF": (".heic", ".heif"),
    "JPEG2000": (".jp2", ".j2k"),
}
"""The file extensions of formats that have several, the usual one first."""


@attrs.frozen
class Verdict:
    """The judgement of a downloaded file. A string attribute that does not apply is empty.

    Attributes:
        kind: The name of the picture's format.
        problem: A clause that says why the file is refused.
        flaw: An unexpected property of an accepted picture, without a subject, as in "is cut short".
        damaged: Whether the flaw is damage. Damaged metadata does not count.
        sides: Width and height in pixels; zeros if the check did not read them.
    """

    kind: str = ""
    problem: str = ""
    flaw: str = ""
    damaged: bool = False
    sides: tuple[int, int] = (0, 0)

    def rename(self, path: FilePath) -> FilePath:
        """Return the path with the format's extension. A path without a picture's extension stays unchanged."""
        ending, endings = path.suffix.lower(), _ENDINGS.get(self.kind, (f".{self.kind.lower()}",))
        return path if ending in endings or ending not in PICTURE_ENDINGS else path.with_suffix(endings[0])


def pillow_if_installed() -> Any:
    """Return the module that decodes and converts images; ``None`` without Pillow."""
    try:
        from qwen_edit_async.images import pillow  # noqa: PLC0415  # Pillow is optional, and slow to import
    except ImportError:
        return None
    return pillow


def find_damage(file: IO[bytes], size: int, kind: str) -> Findings:
    """Check a file's structure without Pillow and without decoding pixels.

    A PNG file is checked chunk by chunk, including the number of its rows. A JPEG file is checked from marker to
    marker. A WEBP file must be at least as long as its header says. A TIFF file must contain its first directory. A
    BMP or GIF file must be longer than its header. Other formats are not checked. ``kind`` is the sniffed format.
    """
    if kind not in _CHECKS:
        return Findings()
    file.seek(0)
    try:
        return _CHECKS[kind](file, size)
    except DamageError as error:
        return Findings(str(error))


def find_cut(file: IO[bytes], size: int, kind: str) -> Findings:
    """Check a file as :func:`find_damage` does. If a JPEG or PNG has the right last bytes, read only its first KiB.

    Any other file may be cut short or have appended bytes.
    """
    end = _ENDS.get(kind)
    if end is not None:
        file.seek(max(0, size - len(end)))
        if file.read() == end:
            file.seek(0)
            found = find_damage(io.BytesIO(file.read(1024)), size, kind)
            return Findings() if found.damage == CUT_SHORT else found
    return find_damage(file, size, kind)


def judge(file: IO[bytes], size: int, *, lenient: bool = False) -> Verdict:
    """Judge a downloaded file.

    A damaged picture that is not a PNG is refused, because a second download may give an intact file. With ``lenient``,
    the picture is accepted if more than half of it can be used.

    ``lenient`` does not matter for a PNG. A PNG is refused if it is cut short before its last row, or if a chunk that
    its pixels need is damaged. Other damage is accepted, because the pixels arrived as the service sent them.
    """
    file.seek(0)
    head = file.read(512)
    kind = sniff(head)
    if kind == "PNG":
        return _judge_png(file, size)
    if kind is None:
        return Verdict(problem=_describe(head))
    article = "an" if kind[0] in "AEI" else "a"
    damage = _damage(file, size, kind)
    share = _share(file, size, kind, damage) if damage in {CUT_SHORT, _UNDECODABLE} else 1.0
    if damage and (not lenient or share <= _HALF):
        state = "cut short" if damage == CUT_SHORT else "damaged"
        reach = f" after {int(100 * share)} %" if 0 < share < 1 else ""
        return Verdict(kind, f"it is {article} {kind} file that is {state}{reach}")
    flaw = f"is {article} {kind}, not a PNG{damage and f', and damaged: {damage}'}"
    return Verdict(kind, flaw=flaw, damaged=bool(damage))


def _judge_png(file: IO[bytes], size: int) -> Verdict:
    file.seek(0)
    try:
        found = check_png(file, size)
    except DamageError as error:
        return Verdict("PNG", f"it is a damaged PNG file: {error}")
    flaw = f"is a damaged PNG file: {found.damage}" if found.damage else found.conversion_reason
    if found.trailing and not flaw:
        flaw = f"is a PNG file with {found.trailing} bytes after its end"
    return Verdict("PNG", flaw=flaw, damaged=bool(found.damage), sides=found.sides)


def _damage(file: IO[bytes], size: int, kind: str) -> str:
    """Return a clause that describes a picture's damage, or an empty string. Without Pillow, pixels are not checked."""
    found = find_damage(file, size, kind)
    if found.damage or _stated_size(file, size, kind) > size:
        return found.damage or CUT_SHORT
    pillow = pillow_if_installed()
    if pillow is None or kind == "HEIF":  # Pillow alone can't read HEIF
        return ""
    try:
        pillow.check(file, found, fit=True)
    except ImageError:
        return _UNDECODABLE
    return ""


def _share(file: IO[bytes], size: int, kind: str, damage: str) -> float:
    """Return the share of a damaged picture that can be used.

    If the file states its size, the share is the received part of the bytes. Otherwise, the share is the part of the
    rows that Pillow can decode, or 0 without Pillow.
    """
    if stated := _stated_size(file, size, kind):
        return min(1.0, size / stated)
    try:
        from qwen_edit_async.images import decoders  # noqa: PLC0415  # Pillow is optional
    except ImportError:
        return 0.0
    file.seek(0)
    with_end = io.BytesIO(file.read() + _ENDS["JPEG"])
    if kind == "JPEG" and find_damage(with_end, size + 2, kind).damage == LACKS_SCANS:
        return 0.0  # some scans are missing, so all rows can be decoded, but they are blurred
    # No row is decoded if Pillow does not support the format. The picture then counts as whole, unless it is cut short.
    return decoders.decoded_share(file) or float(damage != CUT_SHORT)


def _stated_size(file: IO[bytes], size: int, kind: str) -> int:
    """Return the size of a WEBP, AVIF, HEIF or JPEG 2000 file according to its content; 0 for other kinds."""
    file.seek(0)
    if kind == "WEBP":
        return int.from_bytes(file.read(_BOX_HEAD)[4:], "little") + _BOX_HEAD
    end = 0
    while kind in {"AVIF", "HEIF", "JPEG2000"} and end < size:
        file.seek(end)
        head = file.read(2 * _BOX_HEAD)
        length = int.from_bytes(head[:4])
        if length == 1:
            length = int.from_bytes(head[8:])
        if length < _BOX_HEAD or head[4:8] not in _BOXES:  # a last box without a length, or bytes after the last box
            return size
        end += length
    return end


def _describe(head: bytes) -> str:
    """Describe a file that is not a picture."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "it is empty"
    if start.startswith((b"<!doctype html", b"<html")):
        return "it is an HTML page"
    if start.startswith(b"<?xml"):
        return "it is XML text"
    if start.startswith((b"{", b"[")):
        return "it is JSON text"
    return f"it is not a picture: it begins with {head[:8]!r}"


def _check_webp(file: IO[bytes], size: int) -> Findings:
    return _cut_if(_stated_size(file, size, "WEBP") > size)


def _check_gif(file: IO[bytes], size: int) -> Findings:
    head = file.read(13)  # up to the end of the logical screen descriptor
    colours = 2 << (head[10] & 7) if len(head) == 13 and head[10] & 0x80 else 0  # noqa: PLR2004  # 13 bytes were read
    return _cut_if(size <= 13 + 3 * colours)


def _check_bmp(file: IO[bytes], size: int) -> Findings:
    pixels = int.from_bytes(file.read(14)[10:], "little")
    return _cut_if(size <= max(14, pixels))  # 14 is the size of the file header


def _cut_if(cut: bool) -> Findings:  # noqa: FBT001  # the only argument
    return Findings(CUT_SHORT if cut else "")


_CHECKS: Final[Mapping[str, Callable[[IO[bytes], int], Findings]]] = {
    "PNG": check_png,
    "JPEG": check_jpeg,
    "WEBP": _check_webp,
    "TIFF": check_tiff,
    "GIF": _check_gif,
    "BMP": _check_bmp,
}
