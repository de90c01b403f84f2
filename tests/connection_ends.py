"""Closes the connections of the tests' own servers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def ending(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    """Close the connection after the block. Ignore errors of a connection that the other end has closed.

    Waiting also retrieves the error of a reset, which the loop would otherwise report at a garbage collection.
    """
    with contextlib.suppress(asyncio.IncompleteReadError, OSError):
        try:
            yield
        finally:
            writer.close()
            await writer.wait_closed()
