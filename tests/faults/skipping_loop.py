"""An event loop with real sockets and threads, whose waits take no time.

Its clock stands still while there is work, and otherwise jumps to the next timer. An hour of retries passes in
milliseconds, and takes the same time by this clock on every machine.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import selectors
from collections.abc import Callable
from typing import Any

_SETTLING_SECONDS = 0.001
"""Real time that data needs to cross a loopback connection."""


class SkippingLoop(asyncio.SelectorEventLoop):
    """An event loop with a skipping clock. Both ends of every connection must be on this loop."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._threads = concurrent.futures.ThreadPoolExecutor(1, "skipping-loop")
        super().__init__(_SkippingSelector(self))

    def time(self) -> float:
        return self._now

    def leap(self, seconds: float) -> None:
        """Advance the clock, as if the machine was suspended or the loop blocked."""
        self._now += seconds

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Run a function on a thread while the loop waits, so that events keep their order."""
        call = (executor or self._threads).submit(func, *args)
        concurrent.futures.wait([call])
        return asyncio.wrap_future(call, loop=self)

    def close(self) -> None:
        self._threads.shutdown()
        super().close()


class _SkippingSelector(selectors.DefaultSelector):
    def __init__(self, loop: SkippingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if events or timeout == 0:
            return events
        if timeout is None:
            return super().select()
        events = super().select(_SETTLING_SECONDS)
        if not events:
            self._loop.leap(timeout)
        return events
