"""A wait that a cancellation can't cut short."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def wait_shielded(work: Coroutine[Any, Any, None]) -> None:
    """Wait until the work ends. Delay a cancellation until then.

    A shielded scope of anyio blocks cancellations from outer scopes, but not :meth:`asyncio.Task.cancel`. So the work
    runs in its own task.
    """
    from anyio import CancelScope  # noqa: PLC0415  # slow to import, and needed only when something is closed

    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    with CancelScope(shield=True):
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
            task.exception()  # marks the error as retrieved, so asyncio does not report it
        raise cancelled
    finally:
        cancelled = None  # the error's traceback refers to this frame, which would make a reference cycle
