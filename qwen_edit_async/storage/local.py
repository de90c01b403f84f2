"""Files in local folders. Blocking."""

from __future__ import annotations

import errno
import filecmp
import os
import secrets
from pathlib import Path

from qwen_edit_async.storage.part import Part

PART_NAME_CHARACTERS = 40
"""The maximum number of characters that the name of a part file takes from the final name."""


class PartFile(Part[Path]):
    """A local file that has a temporary name in its final folder until it is complete. A missing folder is created.

    Args:
        target: The planned final path.
        replace: Whether the file may replace an existing file whose content differs.

    Raises:
        OSError: The file can't be created.
    """

    def __init__(self, target: Path, *, replace: bool = True) -> None:
        self._replace = replace
        self._path = target.with_name(f".{target.name[:PART_NAME_CHARACTERS]}.{secrets.token_hex(4)}.part")
        target.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(target, self._path.open("x+b"))

    def commit(self, target: Path) -> Path:
        """Move the file to its final name; see :meth:`Part.commit`."""
        with self._lock:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            if target != self._target and target.exists():
                target = self._target
            if not self._replace and target.exists() and not filecmp.cmp(self._path, target, shallow=False):
                raise FileExistsError(errno.EEXIST, "another file has this name", str(target))
            return self._path.replace(target)

    def close(self) -> None:
        """Close the file, and remove it unless it has its final name."""
        with self._lock:
            try:
                self._file.close()
            finally:
                self._path.unlink(missing_ok=True)
