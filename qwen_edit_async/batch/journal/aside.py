"""Task ids that a journal could not take, in a file beside it, from which the next run reads them. Blocking.

What keeps a journal from being written is a full disk, mostly: so the file has its room from the start of a run.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import IO, Final

from qwen_edit_async.errors import JournalError
from qwen_edit_async.log import log
from qwen_edit_async.protocol.base import check_task_id

_RESERVED_BYTES: Final = 64 * 1024
"""For the ids of some hundreds of tasks, more than are being submitted when a disk fills up."""


class IdsAside:
    """The file: read, then reserved for this run, written to if need be, and closed.

    Args:
        path: Where it is, or will be.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._is_used = False

    def read(self) -> dict[str, str]:
        """The ids that an earlier run has left, by key; a line that was not written whole is none.

        Raises:
            JournalError: If there is such a file, but it can't be read.
        """
        found: dict[str, str] = {}
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return found
        except OSError as error:
            raise JournalError(f"{self._path}, which may have ids of tasks, can't be read: {error.strerror}") from error
        for line in lines:
            with contextlib.suppress(ValueError, TypeError, RecursionError):
                key, task_id = json.loads(line)
                found[str(key)] = check_task_id(task_id)
        return found

    def reserve(self) -> None:
        """Forget what was left, and take room on the disk."""
        with contextlib.suppress(OSError):  # a journal that can be written needs no such file
            self._file = self._path.open("w+b", buffering=0)
            self._file.write(b"\n" * _RESERVED_BYTES)
            os.fsync(self._file.fileno())
            self._file.seek(0)

    def write(self, key: str, task_id: str) -> None:
        """Keep an id."""
        try:
            self._file = self._file or self._path.open("ab", buffering=0)
            self._file.write(f"{json.dumps([key, task_id])}\n".encode())
            os.fsync(self._file.fileno())
        except OSError as error:
            log.warning("task %s of %r could not be written down: %s", task_id, key, error.strerror)
        else:
            self._is_used = True

    def close(self) -> None:
        """Close the file; it stays only if there is something in it."""
        if self._file is not None:
            self._file.close()
            if not self._is_used:
                self._path.unlink(missing_ok=True)
