"""Checks a JPEG file from marker to marker (ITU T.81, annex B), without decoding a pixel.

A file that was cut short often has too few scans, restart markers or bytes for its size in pixels. The check finds
such a file even if an end marker was appended. The check misses most other damage within the pixel data.
"""

from __future__ import annotations

import re
from typing import IO, Final

import attrs

from qwen_edit_async.images.findings import BLOCK, CUT_SHORT, LACKS_SCANS, DamageError, Findings

_SOI, _EOI, _SOS, _DRI = 0xD8, 0xD9, 0xDA, 0xDD
_FRAMES: Final = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_SEQUENTIAL: Final = frozenset({0xC0, 0xC1})
_HUFFMAN_PROGRESSIVE: Final = 0xC2
_PROGRESSIVE: Final = frozenset({_HUFFMAN_PROGRESSIVE, 0xCA})
"""The markers of progressive frames with Huffman coding (0xC2) and with arithmetic coding (0xCA)."""

_BETWEEN_SCANS: Final = frozenset({0xC4, 0xCC, _SOS, 0xDB, 0xDC, _DRI, *range(0xE0, 0xF0), 0xFE})
"""The markers that may follow a scan: tables, scans, application data and comments."""

_SEGMENT: Final = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
"""The start of a segment. Pixel data does not match, because it has 0, a restart code or 0xFF after each 0xFF."""

_RESTART: Final = re.compile(rb"\xff([\xd0-\xd7])")
_RESTARTS: Final = bytes(range(0xD0, 0xD8))
_MAX_SEGMENTS: Final = 1000
_MAX_SCANS: Final = 100
_MAX_STRAY_BYTES: Final = 64 * 1024
"""No real picture comes near these three limits. They bound the time that decoders need."""

_BAD_SEGMENTS: Final = "its segments are damaged"
_BAD_PIXELS: Final = "its pixel data is damaged"
_USUAL_BLOCK_BITS: Final = 24
"""Bits per block of 8×8 samples. A file with fewer bits may lack most of its data. A photo has 40 to 200 bits."""

_COEFFICIENTS: Final = 64
"""The number of coefficients of a block of 8×8 samples. A decoder needs two bytes for each coefficient."""

_ALL_COEFFICIENTS: Final = 2**_COEFFICIENTS - 1


def check_jpeg(file: IO[bytes], _size: int, *, block: int = BLOCK) -> Findings:
    """Check a whole file, reading ``block`` bytes at a time.

    Raises:
        DamageError: The file is damaged.
    """
    return _Check(file, block).read()


def coefficient_bytes(file: IO[bytes]) -> int:
    """Return how many bytes of memory a decoder needs to keep coefficients between scans; 0 if it keeps none.

    Raises:
        DamageError: The file's header is damaged.
    """
    file.seek(0)
    check = _Check(file, 1024)
    frame = check.read_header()
    scanned = check.scan_header()[0]
    if frame.kind not in _PROGRESSIVE and scanned == len(frame.components):
        return 0
    return 2 * _COEFFICIENTS * frame.units(bytes(frame.components))[1]


@attrs.frozen
class _Frame:
    """A frame header: its marker, the size in pixels, and the sampling factors of each component."""

    kind: int
    width: int
    height: int
    components: dict[int, tuple[int, int]]

    @classmethod
    def parse(cls, kind: int, segment: bytes) -> _Frame:
        components = {segment[at]: divmod(segment[at + 1], 16) for at in range(6, len(segment) - 2, 3)}
        if not components or not all(across and down for across, down in components.values()):
            raise DamageError(_BAD_SEGMENTS)
        return cls(kind, int.from_bytes(segment[3:5]), int.from_bytes(segment[1:3]), components)

    def units(self, scanned: bytes) -> tuple[int, int]:
        """Return the number of coding units (MCUs) and the number of blocks in a scan of the given components."""
        try:
            factors = [self.components[component] for component in scanned]
        except KeyError:
            raise DamageError(_BAD_SEGMENTS) from None
        widest = max(across for across, _ in self.components.values())
        tallest = max(down for _, down in self.components.values())
        if len(factors) == 1:  # not interleaved: every unit is one block
            across, down = factors[0]
            blocks = -(-self.width * across // (8 * widest)) * -(-self.height * down // (8 * tallest))
            return blocks, blocks
        units = -(-self.width // (8 * widest)) * -(-self.height // (8 * tallest))
        return units, units * sum(across * down for across, down in factors)


class _Check:
    def __init__(self, file: IO[bytes], block: int) -> None:
        self._file = file
        self._block = block
        self._data = b""
        self._at = 0
        self._frame: _Frame | None = None
        self._interval = 0
        self._segments = 0
        self._stray_bytes = 0
        self._scans = 0
        self._sent: dict[int, int] = {}  # for each component, a bit mask of the coefficients whose lowest bit was read

    def read_header(self) -> _Frame:
        """Read everything up to and including the marker of the first scan, and return the frame header."""
        self._skip(2)
        while (marker := self._marker()) != _SOS:
            if marker in {_SOI, _EOI}:
                raise DamageError(_BAD_SEGMENTS)
            self._segment(marker)
        if self._frame is None:
            raise DamageError(_BAD_SEGMENTS)
        return self._frame

    def read(self) -> Findings:
        """Read up to the end marker, and return the findings."""
        frame = self.read_header()
        thin, end = self._scan(frame), self._position
        while (marker := self._marker()) != _EOI:
            if marker not in _BETWEEN_SCANS:
                raise DamageError(_BAD_PIXELS)
            if marker == _SOS:
                self._scan(frame)
            else:
                self._segment(marker)
        if any(self._sent.get(component) != _ALL_COEFFICIENTS for component in frame.components):
            raise DamageError(LACKS_SCANS)
        return Findings(doubtful_end=end if thin else None)

    def _segment(self, marker: int) -> None:
        length = max(2, int.from_bytes(self._take(2))) - 2
        if marker in _FRAMES:
            self._frame = _Frame.parse(marker, self._take(length))
        elif marker == _DRI:
            self._interval = int.from_bytes(self._take(length)[:2])
        else:
            self._skip(length)

    def scan_header(self) -> bytes:
        """Read and return the header of a scan."""
        header = self._take(max(2, int.from_bytes(self._take(2))) - 2)
        if not header or len(header) != 4 + 2 * header[0]:
            raise DamageError(_BAD_SEGMENTS)
        return header

    def _scan(self, frame: _Frame) -> bool:
        """Read a scan, and return whether it has suspiciously little data."""
        header = self.scan_header()
        scanned, (first, last, bits) = header[1 : 1 + 2 * header[0] : 2], header[-3:]
        if frame.kind not in _PROGRESSIVE:
            first, last, bits = 0, _COEFFICIENTS - 1, 0
        self._scans += 1
        if self._scans > _MAX_SCANS:
            raise DamageError(f"it has more than {_MAX_SCANS} scans")
        if not bits & 15:  # the scan has the lowest bit of each of its coefficients
            for component in scanned:
                self._sent[component] = self._sent.get(component, 0) | (2 << last) - (1 << first)
        size, restarts = self._pixel_data()
        if not frame.height:  # a later DNL segment has the height, so the number of blocks is not known yet
            return False
        units, blocks = frame.units(scanned)
        if self._interval:
            needed = -(-units // self._interval) - 1
            if restarts != (_RESTARTS * (len(restarts) // 8 + 1))[: len(restarts)]:
                raise DamageError(_BAD_PIXELS)
            if len(restarts) < needed:
                raise DamageError(f"it has data for {100 * len(restarts) // (needed + 1)} % of its pixels")
        least_bits = 2 if frame.kind in _SEQUENTIAL else int(frame.kind == _HUFFMAN_PROGRESSIVE and not first)
        if 8 * size < least_bits * blocks:
            raise DamageError(f"it has too little data for its {frame.width}×{frame.height} pixels")
        whole = frame.kind in _SEQUENTIAL and len(scanned) == len(frame.components)
        return whole and 8 * size < _USUAL_BLOCK_BITS * blocks

    def _pixel_data(self) -> tuple[int, bytes]:
        """Read up to the next marker that is not a restart. Return the number of bytes, and the restart markers."""
        size, restarts = 0, []
        while True:
            found = _SEGMENT.search(self._data, self._at)
            end = found.start() if found else len(self._data) - self._data.endswith(b"\xff")  # 0xFF may begin a marker
            if self._interval:
                restarts += _RESTART.findall(self._data, self._at, end)
            size += end - self._at
            self._at = end
            if found:
                return size, b"".join(restarts)
            if not self._more():
                raise DamageError(CUT_SHORT)

    def _marker(self) -> int:
        """Skip fill and stray bytes, as decoders do, and return the second byte of the next marker."""
        start = self._position
        while not (found := _SEGMENT.search(self._data, self._at)):
            self._at = max(self._at, len(self._data) - self._data.endswith(b"\xff"))  # 0xFF may begin a marker
            if not self._more():
                raise DamageError(CUT_SHORT)
        self._at = found.end()
        self._segments += 1
        self._stray_bytes += self._position - start
        if self._segments > _MAX_SEGMENTS or self._stray_bytes > _MAX_STRAY_BYTES:
            raise DamageError(_BAD_SEGMENTS)
        return found[0][1]

    @property
    def _position(self) -> int:
        return self._file.tell() - len(self._data) + self._at

    def _take(self, size: int) -> bytes:
        while len(self._data) - self._at < size:
            if not self._more():
                raise DamageError(CUT_SHORT)
        self._at += size
        return self._data[self._at - size : self._at]

    def _skip(self, size: int) -> None:
        beyond = self._at + size - len(self._data)
        if beyond > 0:
            self._file.seek(beyond, 1)
            self._data, self._at = b"", 0
        else:
            self._at += size

    def _more(self) -> bool:
        block = self._file.read(self._block)
        self._data, self._at = self._data[self._at :] + block, 0
        return bool(block)
