"""Work that blocks (reading, decoding, encoding images) on threads of our own, away from the event loop.

The loop's own ``run_in_executor`` is used, since that is what virtual clocks hold still for; the executor is our own,
since name look-ups share the loop's default one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, ParamSpec, TypeVar

from qwen_edit_async.errors import SessionClosedError
from qwen_edit_async.log import log

P = ParamSpec("P")
T = TypeVar("T")

_CLOSING_GRACE = 5.0
"""Seconds that closing waits for threads that still read or write."""


class Offloader:
    """A few threads that run blocking calls for coroutines.

    Args:
        max_workers: How many calls run at a time; the others queue.
        thread_name_prefix: What the threads are called.
    """

    def __init__(self, max_workers: int, thread_name_prefix: str = "qwen-edit") -> None:
        self._executor = ThreadPoolExecutor(max_workers, thread_name_prefix)
        self._name = thread_name_prefix
        self._closing = False

    async def run(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``func`` on a thread and wait for what it returns.

        Cancelling the wait ends it at once. A call that has not begun by then never does; a result that still comes is
        closed if it, or each of a tuple, has a ``close()``; an exception is dropped.

        Raises:
            SessionClosedError: After :meth:`aclose`.
        """
        if self._closing:
            raise SessionClosedError("the session is closed: it prepares and sends nothing more")
        call = _Call(lambda: func(*args, **kwargs))
        future = asyncio.get_running_loop().run_in_executor(self._executor, call)
        try:
            return await future
        except asyncio.CancelledError:
            for result in call.abandon():
                self.run_soon(_close, result)
            raise

    def run_soon(self, func: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call ``func`` on a thread; nobody waits for it but :meth:`aclose`: for cleaning up when cancelled."""
        if not self._closing:
            self._executor.submit(func, *args, **kwargs)
        else:
            threading.Thread(target=func, args=args, kwargs=kwargs, name=self._name).start()

    async def aclose(self) -> None:
        """Take no more calls and wait up to 5 s, without blocking the loop, for those that run or queue.

        A thread on a disk that hangs can't be ended. It goes on, and the interpreter waits for it at its exit.
        """
        self._closing = True
        closer = ThreadPoolExecutor(1, f"{self._name}-close")
        try:
            async with asyncio.timeout(_CLOSING_GRACE):
                await asyncio.get_running_loop().run_in_executor(closer, self._executor.shutdown)
        except TimeoutError:
            log.warning("reading or writing a file hangs: closed without waiting any longer")
        finally:
            closer.shutdown(wait=False)


class _Call(Generic[T]):
    """One call, whose result goes either to the one who waits or, once that one is gone, out of the world."""

    def __init__(self, func: Callable[[], T]) -> None:
        self._func = func
        self._lock = threading.Lock()
        self._abandoned = False
        self._results: list[T] = []

    def __call__(self) -> T:
        result = self._func()
        with self._lock:
            self._results.append(result)
            abandoned = self._abandoned
        if abandoned:
            _close(result)
        return result

    def abandon(self) -> tuple[T, ...]:
        """Close the result if it comes later; one that is there already is returned, for closing may block."""
        with self._lock:
            self._abandoned = True
            return tuple(self._results)


def _close(result: Any) -> None:
    for each in result if isinstance(result, tuple) else (result,):
        close = getattr(each, "close", None)
        if callable(close):
            close()
