"""Files in local folders that get their final name only when they are complete. Blocking."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, TypeVar

T = TypeVar("T")

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
