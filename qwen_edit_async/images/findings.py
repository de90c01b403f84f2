"""The findings of a check of an image file. Pure."""

from __future__ import annotations

from typing import Final

import attrs

BLOCK: Final = 192 * 1024
"""Bytes that are read at a time."""

CUT_SHORT: Final = "it is cut short"
SAVE_ANEW: Final = "Save it as a new PNG file, or let the session do so with fit=True"


class DamageError(ValueError):
    """The file is certainly not complete; the message says where it goes wrong."""


@attrs.frozen
class Findings:
    """The result of a check.

    Attributes:
        damage: What is wrong with the file, in words; empty if nothing is.
        unsupported: Why a sound file is refused, as the predicate of a sentence; empty if it isn't.
        unusual: Why a sound file has to be converted, likewise.
        sides: Width and height in pixels, if the check has read them; else zeros.
        trailing: The number of bytes after a PNG's end.
        exif: A PNG's Exif data.
        colours: The type of a PNG's chunk by which its colours differ from those of sRGB. Converting loses it.
        doubtful_end: The position where a JPEG's pixel data ends, if there is so little of it that only decoding shows
            whether it is enough.
    """

    damage: str = ""
    unsupported: str = ""
    unusual: str = ""
    sides: tuple[int, int] = (0, 0)
    trailing: int = 0
    exif: bytes = b""
    colours: str = ""
    doubtful_end: int | None = None

    def problem(self, media_type: str, *, fit: bool) -> str:
        """Return why the file is refused, as the predicate of a sentence; empty if it isn't."""
        if self.damage:
            return f"is a damaged {media_type.removeprefix('image/').upper()} file: {self.damage}"
        if self.unusual and not fit:
            return f"{self.unusual}. {SAVE_ANEW}"
        return self.unsupported
