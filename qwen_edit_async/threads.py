"""Runs blocking work (reading, decoding and encoding images) on threads, away from the event loop.

The calls use the loop's ``run_in_executor``, because the tests' virtual clock waits for such calls, but not for anyio's
threads. The calls have their own executor, so that they can't delay host name lookups on the loop's default executor.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from qwen_edit_async.errors import SessionClosedError
from qwen_edit_async.log import log

P = ParamSpec("P")
T = TypeVar("T")

_CLOSING_GRACE = 5.0
"""The number of seconds that closing waits for busy threads."""


class Offloader:
    """Threads that run blocking calls for coroutines, at most ``max_workers`` calls at a time."""

    def __init__(self, max_workers: int, thread_name_prefix: str = "qwen-edit") -> None:
        self._executor = ThreadPoolExecutor(max_workers, thread_name_prefix)
        self._name = thread_name_prefix
        self._closing = False

    async def run(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``func`` on a thread and wait for its result.

        Cancellation ends the wait at once. If the call has not begun, it never begins. If the call is running, it
        continues. Then its result, or each item of a tuple, is closed if it has a ``close()``. An exception is dropped.

        Raises:
            SessionClosedError: The offloader is closed.
        """
        if self._closing:
            raise SessionClosedError("the session is closed: open another session")
        late: Future[T] = Future()

        def call() -> T:
            late.set_result(result := func(*args, **kwargs))
            return result

        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, call)
        except asyncio.CancelledError:
            late.add_done_callback(lambda done: self.run_soon(_close, done.result()))
            raise

    def run_soon(self, func: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call ``func`` on a thread without waiting, to clean up after a cancellation."""
        try:
            self._executor.submit(func, *args, **kwargs)
        except RuntimeError:  # the executor is shut down
            threading.Thread(target=func, args=args, kwargs=kwargs, name=self._name).start()

    async def aclose(self) -> None:
        """Refuse further calls, and wait up to 5 s for the running and queued calls.

        A thread that waits for a hanging disk can't be ended. The interpreter waits for such a thread at exit.
        """
        self._closing = True
        closer = ThreadPoolExecutor(1, f"{self._name}-close")
        try:
            async with asyncio.timeout(_CLOSING_GRACE):
                await asyncio.get_running_loop().run_in_executor(closer, self._executor.shutdown)
        except TimeoutError:
            log.warning("reading or writing a file has not ended after %.0f s: closing anyway", _CLOSING_GRACE)
        finally:
            closer.shutdown(wait=False)


def _close(result: Any) -> None:
    for each in result if isinstance(result, tuple) else (result,):
        close = getattr(each, "close", None)
        if callable(close):
            close()
