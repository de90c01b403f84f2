"""Ends the connections of the tests' own servers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def ending(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    """End the connection after the block. It is no error if the other end was faster.

    Waiting for the end also retrieves the error of a reset, which the loop reports otherwise when it collects garbage.
    """
    with contextlib.suppress(asyncio.IncompleteReadError, OSError):
        try:
            yield
        finally:
            writer.close()
            await writer.wait_closed()
