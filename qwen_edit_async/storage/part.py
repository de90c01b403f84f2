"""A file that gets its final name only when it is complete. Blocking."""

from __future__ import annotations

import abc
import threading
from collections.abc import Callable, Iterable
from typing import IO, Generic, TypeVar

P = TypeVar("P")
T = TypeVar("T")


class Part(abc.ABC, Generic[P]):
    """A file that is being written.

    A cancelled caller may close the file while a write is still running, so a lock protects the file.

    Args:
        target: The planned name.
        file: The file to write to.
    """

    def __init__(self, target: P, file: IO[bytes]) -> None:
        self._target = target
        self._file = file
        self._lock = threading.Lock()

    def write(self, offset: int, piece: Iterable[bytes]) -> int:
        """Write a piece, and return the offset of its end."""
        with self._lock:
            self._file.seek(offset)
            self._file.writelines(piece)
            return self._file.tell()

    def finish(self, offset: int, piece: Iterable[bytes], inspect: Callable[[IO[bytes], int], T]) -> T:
        """Write the last piece, and cut off any bytes after it. Return the result of ``inspect``.

        ``inspect`` is called with the complete file and its size.
        """
        size = self.write(offset, piece)
        with self._lock:
            self._file.truncate(size)
            return inspect(self._file, size)

    @abc.abstractmethod
    def commit(self, target: P) -> P:
        """Move the file to ``target``, and return the final path.

        If ``target`` is not the planned name and already exists, the file gets the planned name instead.

        Raises:
            OSError: The file can't be written, or another file has its final name.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Close the file, and remove it unless it has its final name."""
