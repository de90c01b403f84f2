"""Locks a journal for one run at a time. The operating system frees the lock when the run's process dies."""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from qwen_edit_async.errors import JournalError

_HELD: Final = frozenset({errno.EAGAIN, errno.EACCES, errno.EDEADLK})
_NOT_SUPPORTED: Final = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL})


@contextlib.contextmanager
def run_lock(path: Path) -> Iterator[None]:
    """Lock a file while the ``with`` block runs. Fail at once if another run holds the lock.

    Raises:
        JournalError: If another run holds the lock, or if the file system has no locks.
        OSError: If the file can't be opened, or can't be locked for another reason.
    """
    with path.open("a+b") as file:
        try:
            _lock(file)
        except OSError as error:
            if error.errno in _HELD:
                raise JournalError(
                    f"{path.parent} is in use by another run", hint="wait until that run ends, or stop it"
                ) from None
            if error.errno in _NOT_SUPPORTED:
                raise JournalError(
                    f"the file system of {path.parent} has no locks, so two runs could pay for the same edits; nothing "
                    "was submitted",
                    hint="choose an output folder on another file system",
                ) from None
            raise
        try:
            yield
        finally:
            _unlock(file)


def _lock(file: IO[bytes]) -> None:
    if sys.platform == "win32":
        import msvcrt  # noqa: PLC0415  # exists only on Windows

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl  # noqa: PLC0415  # does not exist on Windows

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _unlock(file: IO[bytes]) -> None:
    """Free the lock. Closing the file would not free it while a process that was forked meanwhile has it open, too."""
    if sys.platform != "win32":  # Windows does not fork, so closing the file frees the lock
        import fcntl  # noqa: PLC0415  # does not exist on Windows

        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)
