"""Makes safe file names, and files that get their final name only when they are complete."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, TypeVar

T = TypeVar("T")

_UNSAFE_IN_NAMES = re.compile(r"[^\w.-]+")
_DEVICE = re.compile(r"^(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])\.", re.IGNORECASE)
"""Names that Windows reserves for devices, with any text after the first dot."""

_MAX_STEM_BYTES = 160

PART_NAME_CHARACTERS = 40
"""The number of characters of the final name that are part of a part file's name."""


class PartFile:
    """A file that is written under a temporary name in its final folder.

    The methods block. A lock protects the file when a cancelled caller closes it while a write is still running.

    Raises:
        OSError: The file can't be created. A missing folder is created first.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._path = target.with_name(f".{target.name[:PART_NAME_CHARACTERS]}.{secrets.token_hex(4)}.part")
        try:
            self._file = self._path.open("x+b")
        except FileNotFoundError:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("x+b")
        self._lock = threading.Lock()

    def write(self, offset: int, piece: Iterable[bytes]) -> int:
        """Write a piece, and return the offset of its end."""
        with self._lock:
            self._file.seek(offset)
            self._file.writelines(piece)
            return self._file.tell()

    def finish(self, offset: int, piece: Iterable[bytes], inspect: Callable[[IO[bytes], int], T]) -> T:
        """Write the last piece, cut off any bytes after it, and return the result of inspecting the complete file.

        ``inspect`` is called with the file and its size.
        """
        size = self.write(offset, piece)
        with self._lock:
            self._file.truncate(size)
            return inspect(self._file, size)

    def commit(self, target: Path) -> Path:
        """Move the file to its final name, and return the final path.

        A file with the planned name is replaced. If ``target`` is another name and is taken, the planned name is used.
        """
        with self._lock:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            if target != self._target and target.exists():
                target = self._target
            return self._path.replace(target)

    def close(self) -> None:
        """Close the file, and remove it unless it has its final name."""
        with self._lock:
            try:
                self._file.close()
            finally:
                self._path.unlink(missing_ok=True)


def safe_stem(text: str) -> str:
    """Convert any text, even from a server, to a safe file name without suffix."""
    stem = _DEVICE.sub(r"\1_.", _UNSAFE_IN_NAMES.sub("_", text).lstrip("."))
    stem = stem.encode("utf-8", "replace")[:_MAX_STEM_BYTES].decode("utf-8", "ignore")
    if stem == text:
        return stem
    # Different texts may become equal, so a hash keeps them apart.
    return f"{stem}-{hashlib.blake2s(text.encode('utf-8', 'replace'), digest_size=4).hexdigest()}"
