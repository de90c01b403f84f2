"""Is a PNG file whole? Checked piece by piece while it is downloaded or read, in constant memory. Pure.

A PNG is a signature and then chunks: length, type, data, CRC-32 of type and data (PNG specification, sections 5.2 to
5.6). A file that passes was neither cut off nor damaged on the way; whether its pixels decode is not asked.
"""

from __future__ import annotations

import enum
import struct
import zlib
from typing import Final

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_MAX_CHUNK_BYTES: Final = 2**31 - 1
_IHDR_BYTES: Final = 13


class PngError(ValueError):
    """The file is no whole PNG; the message says where it goes wrong."""


class _Part(enum.Enum):
    """What comes next in the file."""

    SIGNATURE = enum.auto()
    HEAD = enum.auto()
    DATA = enum.auto()
    CRC = enum.auto()
    NOTHING = enum.auto()


_LENGTHS: Final = {_Part.SIGNATURE: 8, _Part.HEAD: 8, _Part.CRC: 4}


class PngCheck:
    """Checks one file: :meth:`feed` it all, then :meth:`finish`.

    Attributes:
        width: In pixels, 0 until the header came.
        height: In pixels, 0 until the header came.
        trailing: Number of bytes that came after the picture's end.
    """

    def __init__(self) -> None:
        self.width: int = 0
        self.height: int = 0
        self.trailing: int = 0
        self._part = _Part.SIGNATURE
        self._field = bytearray()
        self._type = b""
        self._left = 0
        self._crc = 0
        self._has_pixels = False

    @property
    def complete(self) -> bool:
        """Whether the last chunk of the picture came."""
        return self._part is _Part.NOTHING

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Check the next piece of the file, of any size.

        Raises:
            PngError: As soon as it is certain that this is no whole PNG.
        """
        view = memoryview(data)
        while view:
            if self._part is _Part.DATA:
                view = self._take_data(view)
            elif self._part is _Part.NOTHING:
                self.trailing += len(view)
                return
            else:
                wanted = _LENGTHS[self._part] - len(self._field)
                self._field += view[:wanted]
                view = view[wanted:]
                if len(self._field) == _LENGTHS[self._part]:
                    field = bytes(self._field)
                    self._field.clear()
                    self._take_field(field)

    def finish(self) -> None:
        """Say that this was all of the file.

        Raises:
            PngError: If it is cut short, or goes on after its end.
        """
        if not self.complete:
            raise PngError("it is cut short")
        if self.trailing:
            raise PngError(f"{self.trailing} bytes follow its end")

    def _take_field(self, field: bytes) -> None:
        if self._part is _Part.SIGNATURE:
            if field != _SIGNATURE:
                raise PngError(f"it begins with {field!r}")
            self._part = _Part.HEAD
        elif self._part is _Part.HEAD:
            self._begin_chunk(int.from_bytes(field[:4]), field[4:])
        else:
            if int.from_bytes(field) != self._crc:
                raise PngError(f"its chunk {self._type!r} is damaged")
            self._part = _Part.NOTHING if self._type == b"IEND" else _Part.HEAD

    def _begin_chunk(self, length: int, chunk_type: bytes) -> None:
        if length > _MAX_CHUNK_BYTES or not chunk_type.isalpha():
            raise PngError(f"{chunk_type!r} of {length} bytes is no chunk")
        if (chunk_type == b"IHDR") == bool(self._type) or (chunk_type == b"IHDR" and length != _IHDR_BYTES):
            raise PngError("it does not begin with one header")
        if chunk_type == b"IEND" and (length or not self._has_pixels):
            raise PngError("it ends without pixels" if not length else "its end is damaged")
        self._has_pixels = self._has_pixels or (chunk_type == b"IDAT" and length > 0)
        self._type, self._left, self._crc = chunk_type, length, zlib.crc32(chunk_type)
        self._part = _Part.DATA if length else _Part.CRC

    def _take_data(self, view: memoryview) -> memoryview:
        piece, rest = view[: self._left], view[self._left :]
        self._crc = zlib.crc32(piece, self._crc)
        self._left -= len(piece)
        if self._type == b"IHDR":
            self._field += piece
        if not self._left:
            self._part = _Part.CRC
            if self._type == b"IHDR":
                self.width, self.height = struct.unpack(">II", self._field[:8])
                self._field.clear()
                if not self.width or not self.height:
                    raise PngError("it has no pixels")
        return rest
