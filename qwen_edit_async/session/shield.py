"""What must be done at the end of a session or a run, however often whoever ends it is cancelled meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import anyio


async def see_through(work: Coroutine[Any, Any, None]) -> None:
    """Wait for work to end; a cancellation is raised afterwards.

    A shield holds off scopes, which cancel at every await, but no :meth:`asyncio.Task.cancel`: so the work has a task
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
            task.exception()  # or else it would be told as one that nobody has seen
        raise cancelled
    finally:
        cancelled = None  # its traceback holds this frame, which would make a cycle
