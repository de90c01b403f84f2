"""Judges a result: which kind of picture it is, whether it is complete, and which ending its file gets. Blocking.

The service documents PNG results. Any other complete picture was paid for as well, so it is kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Final

import attrs

from qwen_edit_async.errors import InvalidEditError
from qwen_edit_async.images.integrity import find_damage
from qwen_edit_async.images.jpeg import CUT_SHORT
from qwen_edit_async.images.kinds import sniff, sniff_other
from qwen_edit_async.images.png import PngCheck, PngError

_BLOCK: Final = 192 * 1024
_HEAD_BYTES: Final = 512
_SHOWN_BYTES: Final = 8
_BOX_HEAD: Final = 8
_LONG_BOX_HEAD: Final = 16
_BOXED_ENDINGS: Final = {
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif"),
}
_ENDINGS: Final = {
    "image/png": (".png",),
    "image/jpeg": (".jpg", ".jpeg"),
    "image/webp": (".webp",),
    "image/gif": (".gif",),
    "image/bmp": (".bmp",),
    "image/tiff": (".tif", ".tiff"),
}
"""The usual ending of each kind first."""

_ALL_ENDINGS: Final = frozenset({".avif", ".heic", ".heif"}.union(*_ENDINGS.values()))


@attrs.frozen
class Verdict:
    """What a downloaded file is.

    Attributes:
        kind: The name of the picture's format; empty if it is not a picture.
        endings: The endings of file names that suit the format, the usual one first.
        problem: Why the file is not a complete picture, in words; empty if it is one.
        flaw: What is unexpected about a complete picture, as the predicate of a sentence; empty if nothing is.
        sides: Width and height in pixels; zeros if the check did not read them.
    """

    kind: str = ""
    endings: tuple[str, ...] = ()
    problem: str = ""
    flaw: str = ""
    sides: tuple[int, int] = (0, 0)

    def rename(self, path: Path) -> Path:
        """Return the path with an ending that suits the format, unless its ending is not that of a picture."""
        ending = path.suffix.lower()
        return path if ending in self.endings or ending not in _ALL_ENDINGS else path.with_suffix(self.endings[0])


def judge(file: IO[bytes], size: int) -> Verdict:
    """Judge a downloaded file from its start to its end."""
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    media_type = sniff(head)
    if media_type == "image/png":
        return _judge_png(file)
    if media_type is not None:
        return _judge_other(file, size, media_type)
    kind = sniff_other(head)
    if kind is not None and (endings := _BOXED_ENDINGS.get(kind)) is not None:
        problem = "" if _boxes_end_at(file, size) else f"it is {_a(kind)} file that is cut short"
        return Verdict(kind, endings, problem, f"is {_a(kind)}, not a PNG")
    return Verdict(problem=_describe(head))


def _judge_png(file: IO[bytes]) -> Verdict:
    check = PngCheck()
    try:
        while block := file.read(_BLOCK):
            check.feed(block)
        check.finish()
    except PngError as error:
        return Verdict("PNG", _ENDINGS["image/png"], f"it is a damaged PNG file: {error}")
    damage = check.flaw or check.remark
    flaw = f"is a damaged PNG file: {damage}" if damage else ""
    if check.trailing and not flaw:
        flaw = f"is a PNG file with {check.trailing} bytes after its end"
    return Verdict("PNG", _ENDINGS["image/png"], flaw=flaw, sides=(check.width, check.height))


def _judge_other(file: IO[bytes], size: int, media_type: str) -> Verdict:
    kind, endings = media_type.removeprefix("image/").upper(), _ENDINGS[media_type]
    damage = find_damage(file, size, media_type).damage
    if damage == CUT_SHORT:
        return Verdict(kind, endings, f"it is {_a(kind)} file that is cut short")
    if damage:
        damage = f", and damaged: {damage}"
    elif _lacks_pixels(file, media_type):
        damage = ", and not all of its pixels can be decoded"
    return Verdict(kind, endings, flaw=f"is {_a(kind)}, not a PNG{damage}")


def _lacks_pixels(file: IO[bytes], media_type: str) -> bool:
    """Return whether a picture can't be decoded, as far as Pillow is there to tell."""
    try:
        from qwen_edit_async.images import pillow  # noqa: PLC0415  # Pillow is optional, and slow to import
    except ImportError:
        return False
    try:
        pillow.check(file, media_type, "it", fit=True)
    except InvalidEditError:
        return True
    return False


def _boxes_end_at(file: IO[bytes], size: int) -> bool:
    """Return whether the boxes of an ISO media file (AVIF, HEIF) are all there."""
    position = 0
    while position < size:
        file.seek(position)
        head = file.read(_LONG_BOX_HEAD)
        length = int.from_bytes(head[:4])
        if length == 0:  # up to the end of the file
            return True
        if length == 1:
            length = int.from_bytes(head[8:16])
        if length < _BOX_HEAD:
            return False
        position += length
    return position == size


def _describe(head: bytes) -> str:
    """Say what came instead of a picture."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "it is empty"
    if start.startswith((b"<!doctype html", b"<html")):
        return "it is an HTML page"
    if start.startswith(b"<?xml"):
        return "it is an XML text"
    if start.startswith((b"{", b"[")):
        return "it is a JSON text"
    return f"it is not a picture: it begins with {head[:_SHOWN_BYTES]!r}"


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] == "A" else f"a {kind}"
