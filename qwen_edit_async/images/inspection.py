"""Checks and hashes an image file in one read. Blocking."""

from __future__ import annotations

import hashlib
import io
import os
from typing import IO, Any, Final, cast

import attrs

from qwen_edit_async.images.integrity import Findings, find_damage
from qwen_edit_async.images.kinds import sniff
from qwen_edit_async.images.source import open_image

_BLOCK: Final = 1024 * 1024
_HEAD_BYTES: Final = 16
_DIGEST_BYTES: Final = 20


@attrs.frozen
class Inspection:
    """The findings of one read of an image file.

    Attributes:
        size: The size in bytes.
        media_type: The media type that the content shows; ``None`` if the service does not take it.
        findings: What is wrong with the file.
        digest: The BLAKE2b hash of the content, 40 hexadecimal digits.
    """

    size: int
    media_type: str | None
    findings: Findings
    digest: str


def inspect(image: Any, name: str, limit: int) -> Inspection:
    """Open an image of any kind but a URL, a PIL image or an array, and read it once.

    Raises:
        InvalidEditError: If the image can't be read, is empty, or has more than ``limit`` bytes.
    """
    file, upload = open_image(image, name, limit)
    try:
        hashed = _HashedFile(file)
        media_type = sniff(hashed.read(_HEAD_BYTES))
        findings = Findings() if media_type is None else find_damage(cast("IO[bytes]", hashed), upload.size, media_type)
        return Inspection(upload.size, media_type, findings, hashed.hexdigest())
    finally:
        file.close()


class _HashedFile(io.RawIOBase):
    """A binary file that hashes its content while it is read, once and in order, wherever the reader goes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        self._hashed_to = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read some bytes."""
        start = self._file.tell()
        if start > self._hashed_to:
            self._catch_up(start)
        data = self._file.read(-1 if size is None else size)
        new = self._hashed_to - start
        if len(data) > new:
            self._hash.update(memoryview(data)[new:])
            self._hashed_to = start + len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a position."""
        return self._file.seek(offset, whence)

    def hexdigest(self) -> str:
        """Read what is left, and return the hash of the whole content."""
        self._catch_up(None)
        return self._hash.hexdigest()

    def _catch_up(self, end: int | None) -> None:
        """Hash what was skipped, up to a position or to the end of the file."""
        self._file.seek(self._hashed_to)
        while (left := _BLOCK if end is None else end - self._hashed_to) > 0:
            block = self._file.read(min(_BLOCK, left))
            if not block:
                break
            self._hash.update(block)
            self._hashed_to += len(block)
        if end is not None:
            self._file.seek(end)
