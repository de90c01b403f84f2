"""Files that get their final names only when they are complete. Blocking."""

from __future__ import annotations

import abc
import contextlib
import errno
import filecmp
import os
import secrets
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Generic, TypeVar

P = TypeVar("P")
T = TypeVar("T")

PART_NAME_CHARACTERS = 40
"""The maximum number of characters that the name of a part file takes from the final name."""


class Part(abc.ABC, Generic[P]):
    """A file that is being written.

    A cancelled caller may close the file while a write is still running, so a lock protects the file.

    Args:
        target: The planned name.
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

        If a file with other content has the name ``target``, this file gets its planned name instead.

        Raises:
            OSError: The file can't be written, or another file has its final name.
        """

    def close(self) -> None:
        """Close the file, and remove it unless it has its final name."""
        with self._lock:
            self._file.close()


class PartFile(Part[Path]):
    """A local file that has a temporary name in its final folder until it is complete. A missing folder is created.

    ``replace`` says whether the file may replace an existing file whose content differs.

    Raises:
        OSError: The file can't be created.
    """

    def __init__(self, target: Path, *, replace: bool = True) -> None:
        self._replace = replace
        self._path = target.with_name(f".{target.name[:PART_NAME_CHARACTERS]}.{secrets.token_hex(4)}.part")
        with contextlib.suppress(FileExistsError):  # if a file has the folder's name, open() raises a clearer error
            target.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(target, self._path.open("x+b"))

    def commit(self, target: Path) -> Path:
        """Move the file to its final name; see :meth:`Part.commit`."""
        with self._lock:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            if target != self._target and self._is_taken(target):
                target = self._target
            if not self._replace and self._is_taken(target):
                raise FileExistsError(errno.EEXIST, "another file has this name", str(target))
            return self._path.replace(target)

    def _is_taken(self, target: Path) -> bool:
        # A file with the same content may be that of an earlier run that was killed just after it wrote the file.
        return target.exists() and not filecmp.cmp(self._path, target, shallow=False)

    def close(self) -> None:
        """Close the file, and remove it unless it has its final name."""
        try:
            super().close()
        finally:
            self._path.unlink(missing_ok=True)
