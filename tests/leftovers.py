"""What a test can leave behind: asyncio tasks, open files and sockets."""

from __future__ import annotations

import asyncio
from pathlib import Path

_OPEN_FILES = Path("/proc/self/fd")


def running_tasks() -> set[asyncio.Task[object]]:
    """Return all tasks except the test runner's own and those of aiohttp's server.

    The server's tasks wait a while for the rest of unread request bodies.
    """
    foreign = ("TestRunner.", "RequestHandler.start")
    return {task for task in asyncio.all_tasks() if not task.get_coro().__qualname__.startswith(foreign)}


def open_files() -> set[tuple[str, str]]:
    """Return the number and target of each open file and socket, on systems with ``/proc``."""
    found = set()
    for path in _OPEN_FILES.iterdir() if _OPEN_FILES.is_dir() else ():
        try:
            found.add((path.name, str(path.readlink())))
        except FileNotFoundError:  # the listing's own file
            continue
    return found
