"""Reads the first directory of a TIFF file or of Exif data, and recognises TIFF files that can't be sent unchanged.

TIFF 6.0, section 2, describes the format.
"""

from __future__ import annotations

import contextlib
import struct
from typing import IO, Final

from qwen_edit_async.images.findings import CUT_SHORT, DamageError, Findings

ORIENTATION: Final = 274
UPRIGHT: Final = 1
PHOTOMETRIC: Final = 262
BITS: Final = 258
_COMPRESSION, _SAMPLES, _SUBSAMPLING = 259, 277, 530
_REDUCED, _OLD_REDUCED, _MAKE, _PLANES, _MORE_PICTURES = 254, 255, 271, 284, 330
_SAMPLE_FORMAT, _DNG_VERSION = 339, 50706
_READ_TAGS: Final = frozenset(
    {ORIENTATION, PHOTOMETRIC, BITS, _COMPRESSION, _SAMPLES, _SUBSAMPLING}
    | {_REDUCED, _OLD_REDUCED, _MAKE, _PLANES, _MORE_PICTURES, _SAMPLE_FORMAT, _DNG_VERSION}
)
_VALUE_BYTES: Final = dict(enumerate((1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4), 1)) | dict.fromkeys((16, 17, 18), 8)
"""The size of a value in bytes, by its type."""

_NOT_INTEGERS: Final = frozenset({5, 10, 11, 12})
_MAX_VALUES: Final = 64
_MAX_PICTURES: Final = 8
_MAX_OVERLAP: Final = 16
_SENSOR_DATA: Final = frozenset({32803, 34892})
"""Photometric interpretations of a camera's sensor data."""

_UNSIGNED: Final = frozenset({1, 4})
"""The accepted sample formats: unsigned integer, and undefined."""

_OLD_PREVIEW: Final = 2
_SEPARATE_PLANES: Final = 2
_GRAY_AND_ALPHA: Final = 2
_UNCOMPRESSED: Final = 1
_YCBCR: Final = 6
_BIG: Final = 43
_RAW_FORMATS: Final = {"canon": "CR2", "nikon": "NEF", "pentax": "PEF", "samsung": "SRW", "sony": "ARW"}
"""Camera raw formats that are TIFF files, by the first word of the camera's make."""

WHITE_IS_ZERO: Final = 0
_USUAL_BITS: Final = frozenset({1, 2, 4, 8, 16})
_EIGHT_BITS: Final = 8
_TWELVE_BITS: Final = 12

Tags = dict[int, tuple[int, ...]]


def check_tiff(file: IO[bytes], size: int) -> Findings:
    """Check the tags in a TIFF file's first directory. The findings say why the file is refused or must be converted.

    Raises:
        DamageError: The directory is incomplete or damaged.
    """
    head = file.read(10)
    tags = read_directory(file, size)
    if raw := _raw_format(head, file, size, tags):
        return Findings(
            unsupported=f"looks like a camera raw file ({raw} format): "
            "the service might edit only its preview. Export it as a JPEG"
        )
    if kind := _unreadable_kind(head, tags):
        return Findings(unsupported=f"is an unsupported kind of TIFF ({kind}): convert it to an 8-bit PNG")
    if _is_big(head):
        return Findings(conversion_reason="is a BigTIFF file, which many decoders can't read")
    if _TWELVE_BITS in tags.get(BITS, ()):
        return Findings(conversion_reason="is a 12-bit TIFF file, which many decoders misread")
    return Findings()


def read_directory(file: IO[bytes], size: int, at: int | None = None) -> Tags:
    """Return the values of the integer tags that the checks need.

    The tags come from the directory at the position ``at``, or by default from the first directory.

    Raises:
        DamageError: The directory is empty or incomplete, or its values would be far larger than the file.
    """
    file.seek(0)
    head = file.read(16)
    order, big = "<" if head.startswith(b"II") else ">", _is_big(head)
    counted, offset, entry = (f"{order}{codes}" for codes in (("Q", "Q", "HHQ8s") if big else ("H", "I", "HHI4s")))
    (first,) = struct.unpack_from(offset, head.ljust(16, b"\0"), 8 if big else 4)
    file.seek(min(first if at is None else at, size))
    (count,) = struct.unpack(counted, file.read(struct.calcsize(counted)).ljust(struct.calcsize(counted), b"\0"))
    entries = file.read(min(count, 2**16) * struct.calcsize(entry))
    if not count or len(entries) < count * struct.calcsize(entry):
        raise DamageError(CUT_SHORT)
    tags: Tags = {}
    value_bytes = 0
    for tag, kind, number, values in struct.iter_unpack(entry, entries):
        width = _VALUE_BYTES.get(kind, 1)
        value_bytes += min(size, width * number)
        if tag not in _READ_TAGS or kind in _NOT_INTEGERS:
            continue
        wanted = width * min(_MAX_VALUES, number)
        if wanted > len(values):
            file.seek(min(size, *struct.unpack(offset, values)))
            values = file.read(wanted)  # noqa: PLW2901  # the entry held only the position of its values
        whole = values[: wanted - wanted % width]
        tags[tag] = tuple(
            int.from_bytes(whole[at : at + width], "little" if order == "<" else "big")
            for at in range(0, len(whole), width)
        )
    if value_bytes > _MAX_OVERLAP * size:  # decoders would read all these bytes
        raise DamageError("its directory is damaged")
    return tags


def _is_big(head: bytes) -> bool:
    """Return whether a TIFF file that starts with ``head`` is a BigTIFF file, with 64-bit offsets."""
    return int.from_bytes(head[2:4], "little" if head.startswith(b"II") else "big") == _BIG


def _raw_format(head: bytes, file: IO[bytes], size: int, tags: Tags) -> str:
    """Return the name of a file's camera raw format; empty if the file is not a camera raw file.

    A TIFF decoder would decode only the small preview in a camera raw file.
    """
    if head[8:] == b"CR":
        return "CR2"
    if _DNG_VERSION in tags:
        return "DNG"
    begins_reduced = any(value & 1 for value in tags.get(_REDUCED, ())) or _OLD_PREVIEW in tags.get(_OLD_REDUCED, ())
    if not begins_reduced and not _has_sensor_data(file, size, tags):
        return ""
    make = bytes(value & 0xFF for value in tags.get(_MAKE, ())).decode("latin-1").lower()
    return next((name for maker, name in _RAW_FORMATS.items() if make.startswith(maker)), "unknown")


def _has_sensor_data(file: IO[bytes], size: int, tags: Tags) -> bool:
    """Return whether the first picture, or a picture that its directory points to, is a camera's sensor data."""
    pictures = [tags]
    for at in tags.get(_MORE_PICTURES, ())[:_MAX_PICTURES]:
        with contextlib.suppress(DamageError):  # decoders ignore a picture with a damaged directory
            pictures.append(read_directory(file, size, at))
    return any(_SENSOR_DATA.intersection(picture.get(PHOTOMETRIC, ())) for picture in pictures)


def _unreadable_kind(head: bytes, tags: Tags) -> str:
    """Return the name of a kind of TIFF that decoders misread; empty for other files."""
    if _is_big(head) and not head.startswith(b"II"):
        return "big-endian BigTIFF"
    bits = tags.get(BITS) or (1,)
    if not _UNSIGNED.issuperset(tags.get(_SAMPLE_FORMAT, ())):
        return "signed or floating-point samples"
    if not _USUAL_BITS.issuperset(bits) and bits != (_TWELVE_BITS,):
        return f"{max(bits)}-bit samples"
    if max(bits) > _EIGHT_BITS and WHITE_IS_ZERO in tags.get(PHOTOMETRIC, ()):
        return f"{max(bits)}-bit samples with white at 0"
    samples, *_ = tags.get(_SAMPLES) or (1,)
    if _SEPARATE_PLANES in tags.get(_PLANES, ()) and samples > 1:
        if max(bits) > _EIGHT_BITS:
            return "16-bit samples in separate planes"
        if samples == _GRAY_AND_ALPHA:
            return "gray and alpha in separate planes"
    is_plain_ycbcr = _YCBCR in tags.get(PHOTOMETRIC, ()) and _UNCOMPRESSED in tags.get(_COMPRESSION, (_UNCOMPRESSED,))
    if is_plain_ycbcr and max(tags.get(_SUBSAMPLING) or (2,)) > 1:
        return "subsampled YCbCr without compression"
    return ""
