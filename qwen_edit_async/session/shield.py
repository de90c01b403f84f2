"""Background tasks: some end with the session at the latest, some run to their end though their caller is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

import anyio

from qwen_edit_async.errors import SessionClosedError


class Crew:
    """The background tasks of a session, which end with it.

    Attributes:
        group: The task group that runs them; ``None`` while the session is not running.
    """

    def __init__(self) -> None:
        self.group: asyncio.TaskGroup | None = None

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a coroutine, which must not raise an :class:`Exception`.

        Raises:
            SessionClosedError: If the session is closed.
        """
        if self.group is not None:
            with contextlib.suppress(RuntimeError):  # the group is shutting down
                return self.group.create_task(work)
        work.close()
        raise SessionClosedError("the session is closed")


async def see_through(work: Coroutine[Any, Any, None]) -> None:
    """Wait for work to end; a cancellation meanwhile is raised afterwards.

    A shield holds off the cancellation of scopes, but not that of :meth:`asyncio.Task.cancel`. So the work has a task
    of its own.
    """
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is None:
        task.result()
        return
    try:
        if not task.cancelled():
            task.exception()  # so that asyncio does not report it as never retrieved
        raise cancelled
    finally:
        cancelled = None  # its traceback holds this frame, which would make a cycle
