"""Checks a PNG file piece by piece while it is read, in constant memory. Pure.

A PNG file is a signature and then chunks: length, type, data, and the CRC-32 of type and data (PNG specification,
sections 5.2 to 5.6). Its pixel data is one zlib stream of rows, each behind a filter byte (sections 7 to 10). The
check inflates that stream to count the rows, but computes no pixels.
"""

from __future__ import annotations

import enum
import struct
import zlib
from typing import Final

from qwen_edit_async.images.kinds import MAX_PIXELS

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_MAX_CHUNK_BYTES: Final = 2**31 - 1
_IHDR_BYTES: Final = 13
_INFLATED_BYTES: Final = 256 * 1024
"""Bytes that are inflated at a time."""

_FILTERS: Final = bytes(range(5))
_INDEXED: Final = 3
_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples of a pixel by colour type."""

_DEPTHS: Final = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Permitted bits of a sample by colour type."""

_ADAM7: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""The passes of an interlaced picture: first column, first row, and the steps between columns and rows."""

_WHOLE: Final = ((0, 0, 1, 1),)


class PngError(ValueError):
    """The file is not a complete PNG file; the message says where it goes wrong."""


class _Part(enum.Enum):
    """The part of the file that comes next."""

    SIGNATURE = enum.auto()
    HEAD = enum.auto()
    DATA = enum.auto()
    CRC = enum.auto()
    NOTHING = enum.auto()


_LENGTHS: Final = {_Part.SIGNATURE: 8, _Part.HEAD: 8, _Part.CRC: 4}


class PngCheck:
    """Checks one file: :meth:`feed` it all, then :meth:`finish`.

    Attributes:
        width: The width in pixels; 0 until the header is read.
        height: The height in pixels; 0 until the header is read.
        trailing: The number of bytes after the picture's end.
        flaw: The first thing wrong with the picture of a file that is complete, in words; empty if there is none.
        remark: The first thing wrong beside the picture, likewise.
    """

    def __init__(self) -> None:
        self.width: int = 0
        self.height: int = 0
        self.trailing: int = 0
        self.flaw: str = ""
        self.remark: str = ""
        self._part = _Part.SIGNATURE
        self._field = bytearray()
        self._type = b""
        self._left = 0
        self._crc = 0
        self._has_pixels = False
        self._lacks_palette = False
        self._rows: _Rows | None = None

    @property
    def complete(self) -> bool:
        """Whether the picture's last chunk has been read."""
        return self._part is _Part.NOTHING

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Check the next piece of the file, of any size.

        Raises:
            PngError: As soon as it is certain that the file is not a complete PNG file.
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
        """End the file here.

        Raises:
            PngError: If the file is cut short.
        """
        if not self.complete:
            raise PngError("it is cut short")

    def _take_field(self, field: bytes) -> None:
        if self._part is _Part.SIGNATURE:
            if field != _SIGNATURE:
                raise PngError(f"it begins with {field!r}")
            self._part = _Part.HEAD
        elif self._part is _Part.HEAD:
            self._begin_chunk(int.from_bytes(field[:4]), field[4:])
        else:
            if int.from_bytes(field) != self._crc:
                if self._type[:1].isupper():  # critical: the picture can't be shown without this chunk
                    raise PngError(f"its chunk {self._type!r} is damaged")
                self.remark = self.remark or f"its chunk {self._type!r} is damaged"
            self._part = _Part.HEAD
            if self._type == b"IEND":
                self._part = _Part.NOTHING
                self._note(self._rows.missing if self._rows is not None else "")

    def _begin_chunk(self, length: int, chunk_type: bytes) -> None:
        if length > _MAX_CHUNK_BYTES or not chunk_type.isalpha():
            raise PngError(f"{chunk_type!r} of {length} bytes is not a chunk")
        if (chunk_type == b"IHDR") == bool(self._type) or (chunk_type == b"IHDR" and length != _IHDR_BYTES):
            raise PngError("it does not begin with one header")
        if chunk_type == b"IEND" and (length or not self._has_pixels):
            raise PngError("it ends without pixels" if not length else "its end is damaged")
        self._lacks_palette = self._lacks_palette and chunk_type != b"PLTE"
        if chunk_type == b"IDAT" and self._lacks_palette:
            self._note("it has no palette before its pixels")
        self._has_pixels = self._has_pixels or (chunk_type == b"IDAT" and length > 0)
        self._type, self._left, self._crc = chunk_type, length, zlib.crc32(chunk_type)
        self._part = _Part.DATA if length else _Part.CRC

    def _take_data(self, view: memoryview) -> memoryview:
        piece, rest = view[: self._left], view[self._left :]
        self._crc = zlib.crc32(piece, self._crc)
        self._left -= len(piece)
        if self._type == b"IHDR":
            self._field += piece
        elif self._type == b"IDAT" and self._rows is not None:
            self._note(self._rows.feed(piece))
        if not self._left:
            self._part = _Part.CRC
            if self._type == b"IHDR":
                self._take_header(bytes(self._field))
                self._field.clear()
        return rest

    def _take_header(self, header: bytes) -> None:
        self.width, self.height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", header)
        if not self.width or not self.height:
            raise PngError("it has no pixels")
        self._lacks_palette = colour == _INDEXED
        if depth not in _DEPTHS.get(colour, ()) or compression or filtering or interlace > 1:
            self._note("its header describes no kind of PNG")
        elif self.width * self.height <= MAX_PIXELS:  # a larger picture is refused without inflating it
            self._rows = _Rows(self.width, self.height, depth * _CHANNELS[colour], interlaced=bool(interlace))

    def _note(self, flaw: str) -> None:
        self.flaw = self.flaw or flaw


def essentials(data: bytes, optional: frozenset[bytes]) -> bytes:
    """Return a PNG file without the chunks that a picture can be shown without.

    Args:
        data: The file, which may be damaged.
        optional: The types of such chunks that are kept if their checksum is right.
    """
    kept, start = [data[:8]], 8
    while head := data[start : start + 8]:
        end = start + 12 + int.from_bytes(head[:4])
        intact = zlib.crc32(data[start + 4 : end - 4]) == int.from_bytes(data[end - 4 : end])
        if head[4:5].isupper() or (head[4:] in optional and intact):
            kept.append(data[start:end])
        start = end
    return b"".join(kept)


class _Rows:
    """Counts the rows in a picture's zlib stream, and looks at the filter byte of each."""

    def __init__(self, width: int, height: int, pixel_bits: int, *, interlaced: bool) -> None:
        self._inflate = zlib.decompressobj()
        self._passes: list[tuple[int, int]] = []  # bytes of a row, and bytes of the pass
        for column, row, column_step, row_step in _ADAM7 if interlaced else _WHOLE:
            columns, rows = -(-(width - column) // column_step), -(-(height - row) // row_step)
            if columns > 0 and rows > 0:
                row_bytes = 1 + (columns * pixel_bits + 7) // 8
                self._passes.append((row_bytes, row_bytes * rows))
        self._expected = sum(size for _, size in self._passes)
        self._seen = 0
        self._position = 0  # in the current pass

    @property
    def missing(self) -> str:
        """How much of the picture is missing, in words; empty if all of it is there."""
        share = 100 * self._seen // self._expected
        return f"it has data for {share} % of its pixels" if self._passes else ""

    def feed(self, data: bytes | memoryview) -> str:
        """Inflate the next piece of the stream; return what is wrong with it in words, or nothing."""
        try:
            while self._passes:
                inflated = self._inflate.decompress(data, _INFLATED_BYTES)
                if not self._take(inflated):
                    return "its pixel data is damaged"
                data = self._inflate.unconsumed_tail
                if len(inflated) < _INFLATED_BYTES:
                    break
        except zlib.error:
            return "its pixel data is damaged"
        return ""

    def _take(self, inflated: bytes) -> bool:
        """Count some of the rows; return whether their filter bytes exist."""
        while self._passes and inflated:
            row_bytes, size = self._passes[0]
            piece = inflated[: size - self._position]
            if piece[-self._position % row_bytes :: row_bytes].translate(None, _FILTERS):
                return False
            self._seen += len(piece)
            self._position += len(piece)
            if self._position == size:
                del self._passes[0]
                self._position = 0
            inflated = inflated[len(piece) :]
        return True
