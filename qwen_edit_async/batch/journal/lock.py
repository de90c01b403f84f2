"""One run at a time on a journal: a lock file that the operating system lets go of when its holder dies.

The lock is the operating system's, so that a dead holder can't keep it; the file's text only says who holds it. On a
file system without locks (some network drives) the text decides: a holder on this machine that is no longer alive, or
whose process id now belongs to a later process, holds nothing.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import IO, Any, Final

from qwen_edit_async.errors import JournalError

_NOT_SUPPORTED: Final = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL})
_LOCKED_BYTE: Final = 1 << 30
"""Windows forbids others to read what is locked: far behind the text, so that they can read who it is."""


class RunLock:
    """Held from :meth:`acquire` to :meth:`release`, or to the end of the process. Blocking."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            JournalError: If another run holds it; the message says which.
            OSError: If the lock file can't be written.
        """
        with contextlib.ExitStack() as undo:
            file = undo.enter_context(self._path.open("a+", encoding="utf-8"))  # closing it gives the lock back
            enforced = _lock(file)
            owner = _read_owner(file)
            if enforced is False or (enforced is None and _may_live(owner)):
                raise JournalError(_refusal(self._path, owner, enforced=enforced is not None))  # closes the file
            file.seek(0)
            file.truncate()
            json.dump(_myself(), file)
            file.flush()
            undo.pop_all()
        self._file = file

    def release(self) -> None:
        """Let go of it, if it is held."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.truncate(0)
            self._file.close()
            self._file = None


def _lock(file: IO[str]) -> bool | None:
    """Whether the operating system gave the lock; ``None`` if it has none for this file system."""
    try:
        if sys.platform == "win32":
            import msvcrt  # noqa: PLC0415  # there only

            file.seek(_LOCKED_BYTE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl  # noqa: PLC0415  # not on Windows

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NOT_SUPPORTED:
            return None
        if error.errno in {errno.EAGAIN, errno.EACCES, errno.EDEADLK}:
            return False
        raise
    return True


def _myself() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started": _started(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _read_owner(file: IO[str]) -> dict[str, Any]:
    file.seek(0)
    try:
        owner = json.loads(file.read() or "{}")
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _may_live(owner: dict[str, Any]) -> bool:
    if not owner:
        return False
    if owner.get("host") != socket.gethostname():
        return True
    pid = owner.get("pid")
    if not isinstance(pid, int) or sys.platform == "win32":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's process: it lives
    return owner.get("started") == _started(pid)


def _started(pid: int) -> str:
    """When a process started, in the operating system's own reckoning; empty where that is not told."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return fields[19]  # the 22nd of all, after the name in parentheses, which is the 2nd


def _refusal(path: Path, owner: dict[str, Any], *, enforced: bool) -> str:
    who = "another run"
    if owner:
        who = f"a run in process {owner.get('pid')} on {owner.get('host')} (since {owner.get('since')})"
    advice = "wait for its end, or stop it" if enforced else f"if it is dead, delete {path}"
    return f"{path.parent} is being written by {who}: {advice}"
