"""Checks a PNG file in constant memory, and removes the ancillary chunks of a PNG file.

A PNG file is a signature, followed by chunks. Each chunk has a length, a type, data, and the CRC-32 of type and data
(PNG specification, sections 5.2 to 5.6). The pixel data is one zlib stream of rows, and a filter byte precedes each row
(sections 7 to 10). The check inflates this stream to count the rows, but computes no pixels.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection
from types import ModuleType
from typing import IO, Final

from qwen_edit_async.images.findings import BLOCK, CUT_SHORT, DamageError, Findings
from qwen_edit_async.images.kinds import MAX_PIXELS

_zlib: ModuleType
try:
    from isal import isal_zlib as _zlib
except ImportError:  # without the extra ``fast``, a check takes two to three times as long
    _zlib = zlib

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_MAX_CHUNK_BYTES: Final = 2**31 - 1
_MAX_CHUNKS: Final = 50_000
"""No real picture comes near this limit. The limit bounds the time to check a file of empty chunks."""

_IHDR_BYTES: Final = 13
_INFLATED_BYTES: Final = 256 * 1024
"""Bytes inflated at a time."""

_KEPT: Final = frozenset({b"IHDR", b"eXIf", b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM"})
"""The chunk types whose first block of data the check keeps."""

_SRGB_CODE: Final = b"\1\x0d\0\1"
"""The cICP data of sRGB."""

_SRGB_PRIMARIES: Final = (31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000)
"""The cHRM values of sRGB: x and y of white, red, green and blue."""

_SAME_PRIMARIES: Final = 1000
"""The largest invisible difference between two cHRM values."""

_SRGB_GAMMAS: Final = range(45_000, 46_000)
"""The gAMA values that look the same as the value of sRGB, 45455."""

_CRITICAL: Final = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
_PALETTE_BYTES: Final = range(3, 3 * 256 + 1, 3)
_FILTERS: Final = bytes(range(5))
_INDEXED: Final = 3
_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples per pixel, by colour type."""

_DEPTHS: Final = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Permitted bits per sample, by colour type."""

_ADAM7: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""The passes of an interlaced picture: first column, first row, and the steps between columns and rows."""

_WHOLE: Final = ((0, 0, 1, 1),)


def check_png(file: IO[bytes], size: int, *, block: int = BLOCK) -> Findings:
    """Check a whole file, reading at most ``block`` bytes at a time.

    Raises:
        DamageError: A chunk is cut short, misplaced or damaged before the last row is complete. Other damage is in the
            findings.
    """
    return _Check(file, block).read(size)


def essentials(data: bytes, broken: Collection[str] = ()) -> tuple[bytes, tuple[str, ...]]:
    """Remove the ancillary chunks of a PNG file in memory, except intact ones of the types tRNS, iCCP and eXIf.

    Return the remaining file, and the types of the tRNS and iCCP chunks that were removed. Chunks whose type is in
    ``broken`` are removed even if their checksum is right.
    """
    kept, lost, start = [data[:8]], [], 8
    while head := data[start : start + 8]:
        end = start + 12 + int.from_bytes(head[:4])
        intact = zlib.crc32(data[start + 4 : end - 4]) == int.from_bytes(data[end - 4 : end])
        kind = head[4:].decode("latin-1")
        if kind[:1].isupper() or (kind in {"tRNS", "iCCP", "eXIf"} and intact and kind not in broken):
            kept.append(data[start:end])
        elif kind in {"tRNS", "iCCP"}:
            lost.append(kind)
        start = end
    return b"".join(kept), tuple(lost)


class _Check:
    def __init__(self, file: IO[bytes], block: int) -> None:
        self._file = file
        self._block = block
        self._kept: dict[bytes, bytes] = {}
        self._sides = (0, 0)
        self._has_pixels = False
        self._previous = b""
        self._is_whole = False  # all rows were in intact chunks
        self._lacks_palette = False
        self._rows: _Rows | None = None
        self._flaw = ""
        self._remark = ""

    def read(self, size: int) -> Findings:
        """Check the file up to its last chunk. Raise an error only if its structure is broken before the last row."""
        if (start := self._take(len(_SIGNATURE))) != _SIGNATURE:
            raise DamageError(f"it begins with {start!r}")
        self._read_chunk()
        self._take_header()
        try:
            self._read_chunks()
        except DamageError as error:
            if not self._is_whole:
                raise
            self._note(str(error))
        if self._rows is not None:
            self._note(self._rows.missing)
        return Findings(
            damage=self._flaw,
            conversion_reason=f"is a PNG file with damaged metadata: {self._remark}" if self._remark else "",
            sides=self._sides,
            trailing=size - self._file.tell(),
            exif=self._kept.get(b"eXIf", b""),
            colours=self._colours(),
        )

    def _take_header(self) -> None:
        width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", self._kept[b"IHDR"])
        if not width or not height:
            raise DamageError("it has no pixels")
        self._sides = (width, height)
        self._lacks_palette = colour == _INDEXED
        if depth not in _DEPTHS.get(colour, ()) or compression or filtering or interlace > 1:
            self._note("its header is not valid")
        elif width * height <= MAX_PIXELS:  # a larger picture is refused without inflating it
            self._rows = _Rows(width, height, depth * _CHANNELS[colour], interlaced=bool(interlace))

    def _read_chunks(self) -> None:
        for _ in range(_MAX_CHUNKS):
            if self._read_chunk() == b"IEND":
                return
        raise DamageError(f"it has more than {_MAX_CHUNKS:,} chunks")

    def _read_chunk(self) -> bytes:
        """Read a chunk, and return its type."""
        head = self._take(8)
        left, kind = int.from_bytes(head[:4]), head[4:]
        self._check_place(left, kind)
        crc = _zlib.crc32(kind)
        while left:
            piece = self._take(min(left, self._block))
            left -= len(piece)
            crc = _zlib.crc32(piece, crc)
            if kind == b"IDAT" and self._rows is not None:
                self._note(self._rows.feed(piece))
            elif kind in _KEPT:
                self._kept.setdefault(kind, piece)
        if int.from_bytes(self._take(4)) != crc:
            if kind[:1].isupper():  # upper case marks a critical chunk
                raise DamageError(f"its chunk {kind!r} is damaged")
            self._remark = self._remark or f"its chunk {kind!r} is damaged"
        self._previous = kind
        self._is_whole = self._rows is not None and not self._rows.missing
        return kind

    def _check_place(self, length: int, kind: bytes) -> None:
        """Refuse a chunk that breaks the file's structure, and note other flaws."""
        if length > _MAX_CHUNK_BYTES or not kind.isalpha():
            raise DamageError(f"{kind!r} of {length} bytes is not a chunk")
        if (kind == b"IHDR") == (b"IHDR" in self._kept) or (kind == b"IHDR" and length != _IHDR_BYTES):
            raise DamageError("its header is missing, repeated or of the wrong length")
        if kind == b"IEND" and (length or not self._has_pixels):
            raise DamageError("it ends without pixels" if not length else "its end is damaged")
        if kind[:1].isupper() and kind not in _CRITICAL:
            self._note(f"its chunk {kind!r} is of an unknown kind")
        if kind == b"PLTE" and length not in _PALETTE_BYTES:
            self._note("its palette is damaged")
        self._lacks_palette = self._lacks_palette and kind != b"PLTE"
        if kind == b"IDAT" and self._lacks_palette:
            self._note("it has no palette before its pixels")
        if kind == b"IDAT" and self._has_pixels and self._previous != b"IDAT":
            self._note(f"its chunk {self._previous!r} interrupts its pixel data")
        self._has_pixels = self._has_pixels or (kind == b"IDAT" and length > 0)

    def _colours(self) -> str:
        """Return the type of the chunk that sets colours other than sRGB; empty if there is none.

        An iCCP chunk overrides gAMA and cHRM. The type iCCP is not returned, because conversions handle ICC profiles.
        """
        if self._kept.get(b"cICP", _SRGB_CODE) != _SRGB_CODE:
            return "cICP"
        if self._kept.keys() & {b"iCCP", b"sRGB", b"cICP"}:
            return ""
        if (gamma := self._kept.get(b"gAMA")) is not None and int.from_bytes(gamma) not in _SRGB_GAMMAS:
            return "gAMA"
        primaries = self._kept.get(b"cHRM", b"")
        if len(primaries) != 4 * len(_SRGB_PRIMARIES):
            return ""
        pairs = zip(struct.unpack(">8I", primaries), _SRGB_PRIMARIES, strict=True)
        return "cHRM" if any(abs(value - usual) > _SAME_PRIMARIES for value, usual in pairs) else ""

    def _note(self, flaw: str) -> None:
        self._flaw = self._flaw or flaw

    def _take(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise DamageError(CUT_SHORT)
        return data


class _Rows:
    """Counts the rows in a picture's zlib stream, and checks the filter byte of each row."""

    def __init__(self, width: int, height: int, pixel_bits: int, *, interlaced: bool) -> None:
        self._inflate = _zlib.decompressobj()
        self._passes: list[tuple[int, int]] = []  # for each pass, the bytes of one row and of all rows
        for column, row, column_step, row_step in _ADAM7 if interlaced else _WHOLE:
            columns, rows = -(-(width - column) // column_step), -(-(height - row) // row_step)
            if columns > 0 and rows > 0:
                row_bytes = 1 + (columns * pixel_bits + 7) // 8
                self._passes.append((row_bytes, row_bytes * rows))
        self._expected = sum(size for _, size in self._passes)
        self._seen = 0
        self._position = 0  # the bytes seen of the current pass

    @property
    def missing(self) -> str:
        """A clause that says how much of the picture was read; empty if the picture is complete."""
        share = 100 * self._seen // self._expected
        return f"it has data for {share} % of its pixels" if self._passes else ""

    def feed(self, data: bytes) -> str:
        """Inflate the next piece of the stream. Return a clause that describes its damage; empty if it is intact."""
        try:
            while self._passes:
                inflated = self._inflate.decompress(data, _INFLATED_BYTES)
                if not self._take(inflated):
                    return "its pixel data is damaged"
                data = self._inflate.unconsumed_tail
                if len(inflated) < _INFLATED_BYTES:
                    break
        except _zlib.error:
            return "its pixel data is damaged"
        return ""

    def _take(self, inflated: bytes) -> bool:
        """Count the inflated rows, and return whether their filter bytes are valid."""
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
