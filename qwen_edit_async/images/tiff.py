"""Reads the first directory of a TIFF file, or of Exif data, and tells which kinds of TIFF can't be sent as they are.

The format is described in TIFF 6.0, section 2.
"""

from __future__ import annotations

from typing import IO, Final

ORIENTATION: Final = 274
PHOTOMETRIC: Final = 262
_REDUCED, _OLD_REDUCED, _BITS, _MAKE, _PLANES, _MORE_PICTURES = 254, 255, 258, 271, 284, 330
_SAMPLE_FORMAT, _DNG_VERSION = 339, 50706
_READ_TAGS: Final = frozenset(
    {ORIENTATION, PHOTOMETRIC, _REDUCED, _OLD_REDUCED, _BITS, _MAKE, _PLANES, _MORE_PICTURES}
    | {_SAMPLE_FORMAT, _DNG_VERSION}
)
_VALUE_BYTES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 13: 4, 16: 8, 18: 8}
"""The size of a value of the types BYTE, ASCII, SHORT, LONG, IFD, LONG8 and IFD8."""

_MAX_VALUES: Final = 64
_SENSOR_DATA: Final = frozenset({32803, 34892})
"""Photometric interpretations of a camera's sensor data."""

_UNSIGNED: Final = frozenset({1, 4})
"""Sample formats: unsigned integer, and undefined."""

_OLD_PREVIEW: Final = 2
_SEPARATE_PLANES: Final = 2
_BIG: Final = 43
_RAW_FORMATS: Final = {"canon": "CR2", "nikon": "NEF", "pentax": "PEF", "samsung": "SRW", "sony": "ARW"}
"""Camera raw formats that are TIFF files, by the first word of the camera's make."""

WHITE_IS_ZERO: Final = 0
_EIGHT_BITS: Final = 8
_TWELVE_BITS: Final = 12
_SIXTEEN_BITS: Final = 16

Tags = dict[int, tuple[int, ...]]


def read_directory(file: IO[bytes], size: int) -> Tags | None:
    """Return some of the tags of the file's first directory; ``None`` if the file ends before the directory does."""
    file.seek(0)
    head = file.read(16)
    order: Final = "little" if head.startswith(b"II") else "big"
    if is_big(head):
        directory, count_bytes, offset_bytes = int.from_bytes(head[8:16], order), 8, 8
    else:
        directory, count_bytes, offset_bytes = int.from_bytes(head[4:8], order), 2, 4
    if not 0 < directory <= size - count_bytes:
        return None
    file.seek(directory)
    count, entry_bytes = int.from_bytes(file.read(count_bytes), order), 4 + 2 * offset_bytes
    if not count or directory + count_bytes + count * entry_bytes > size:
        return None
    tags: Tags = {}
    for position in range(min(count, 2**16)):
        file.seek(directory + count_bytes + position * entry_bytes)
        entry = file.read(entry_bytes)
        tag, kind = int.from_bytes(entry[:2], order), int.from_bytes(entry[2:4], order)
        if tag not in _READ_TAGS or kind not in _VALUE_BYTES:
            continue
        width = _VALUE_BYTES[kind]
        value_bytes = width * min(_MAX_VALUES, int.from_bytes(entry[4 : 4 + offset_bytes], order))
        values = entry[4 + offset_bytes :]
        if value_bytes > offset_bytes:
            file.seek(min(size, int.from_bytes(values, order)))
            values = file.read(value_bytes)
        values = values[:value_bytes]
        tags[tag] = tuple(int.from_bytes(values[at : at + width], order) for at in range(0, len(values), width))
    return tags


def is_big(head: bytes) -> bool:
    """Return whether a TIFF file that starts with ``head`` is a BigTIFF file, with 64-bit offsets."""
    return int.from_bytes(head[2:4], "little" if head.startswith(b"II") else "big") == _BIG


def raw_format(head: bytes, tags: Tags) -> str:
    """Return the name of a camera raw format, or nothing. A program that takes it for a TIFF edits a small preview."""
    if head[8:10] == b"CR":
        return "CR2"
    if _DNG_VERSION in tags:
        return "DNG"
    begins_reduced = any(value & 1 for value in tags.get(_REDUCED, ())) or _OLD_PREVIEW in tags.get(_OLD_REDUCED, ())
    if not begins_reduced and _MORE_PICTURES not in tags and not _SENSOR_DATA.intersection(tags.get(PHOTOMETRIC, ())):
        return ""
    make = bytes(value & 0xFF for value in tags.get(_MAKE, ())).decode("latin-1").lower()
    return next((name for maker, name in _RAW_FORMATS.items() if make.startswith(maker)), "unknown")


def unreadable_kind(head: bytes, tags: Tags) -> str:
    """Return the kind of a TIFF file that decoders misread or show as black and white, in words, or nothing."""
    if is_big(head) and not head.startswith(b"II"):
        return "big-endian BigTIFF"
    bits = tags.get(_BITS, (1,))
    if not _UNSIGNED.issuperset(tags.get(_SAMPLE_FORMAT, ())):
        return "signed or floating-point samples"
    if max(bits, default=1) > _SIXTEEN_BITS:
        return f"{max(bits)}-bit samples"
    if max(bits, default=1) > _EIGHT_BITS and WHITE_IS_ZERO in tags.get(PHOTOMETRIC, ()):
        return f"{max(bits)}-bit samples with white at 0"
    if max(bits, default=1) == _SIXTEEN_BITS and len(bits) > 1 and _SEPARATE_PLANES in tags.get(_PLANES, ()):
        return "16-bit samples in separate planes"
    return ""


def unusual_kind(head: bytes, tags: Tags) -> str:
    """Return why a TIFF file has to be converted, as the predicate of a sentence, or nothing."""
    if is_big(head):
        return "is a BigTIFF file, which many decoders can't read"
    return "is a 12-bit TIFF file, which many decoders misread" if _TWELVE_BITS in tags.get(_BITS, ()) else ""
