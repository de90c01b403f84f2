"""The result of checking an image, and the errors for a bad image. Pure: no I/O."""

from __future__ import annotations

from typing import Final

import attrs

from qwen_edit_async.errors import InvalidEditError

BLOCK: Final = 192 * 1024
"""Bytes per read."""

CUT_SHORT: Final = "it is cut short"
LACKS_SCANS: Final = "it lacks some of its scans"
SAVE_ANEW: Final = "Save it as a new PNG file, or let the session do so with fit=True"


class ImageError(ValueError):
    """An image can't be used. The message lacks its subject, the image, as in "is cut short".

    Args:
        message: The message.
        summary: The message without quoted bytes or text of the image; by default ``message``.
    """

    def __init__(self, message: str, *, summary: str = "") -> None:
        super().__init__(message)
        self._summary = summary or message

    def named(self, name: str, position: int) -> InvalidEditError:
        """Return the error for users. Its message begins with the image's name, and its summary with the position."""
        return InvalidEditError(f"{name} {self}", summary=f"image {position} {self._summary}")


class DamageError(ValueError):
    """The file is certainly damaged. The message is a clause that describes the damage."""


@attrs.frozen
class Findings:
    """The result of a check. A string attribute that does not apply is empty.

    Attributes:
        damage: A clause that describes the damage.
        unsupported: The reason why an undamaged file is refused. This and the next are messages without their subject.
        conversion_reason: The reason why a file with intact pixels must be converted.
        sides: Width and height in pixels; zeros if the check did not read them.
        trailing: The number of bytes after the end of a PNG.
        exif: The Exif data of a PNG.
        colours: The type of the PNG chunk that sets colours other than sRGB. Conversion loses this chunk.
        doubtful_end: The end position of a JPEG's pixel data, if only decoding can show whether the data is complete.
    """

    damage: str = ""
    unsupported: str = ""
    conversion_reason: str = ""
    sides: tuple[int, int] = (0, 0)
    trailing: int = 0
    exif: bytes = b""
    colours: str = ""
    doubtful_end: int | None = None

    def problem(self, kind: str, *, fit: bool) -> str:
        """Return the reason why the file is refused, as a message without its subject; empty if it is not refused."""
        if self.damage:
            return f"is a damaged {kind} file: {self.damage}"
        if self.conversion_reason and not fit:
            return f"{self.conversion_reason}. {SAVE_ANEW}"
        return self.unsupported
