"""Runs an event loop on a thread of its own, for callers that are not async."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import threading
from collections.abc import AsyncIterable, Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from typing import Any, Final, Self, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from qwen_edit_async.errors import SessionClosedError

T = TypeVar("T")

_ENDING_SECONDS: Final = 5.0
_WAKING_SECONDS: Final = 0.5
_END: Final[Any] = object()


class LoopThread:
    """An event loop on its own thread. It does not run in a forked process, or in a copy made by pickle.

    The class does not use anyio's ``start_blocking_portal``, which joins the thread when an unclosed session is
    garbage-collected. While the interpreter exits, this join would wait forever.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._thread: threading.Thread | None = None
        self._portal: BlockingPortal | None = None

    def __enter__(self) -> Self:
        if self._thread is None:
            started: Future[BlockingPortal] = Future()
            self._thread = threading.Thread(target=anyio.run, args=(_serve, started), daemon=True)
            self._thread.start()
            self._portal = started.result()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None and self._portal is not None and self._process == os.getpid():
            self._portal.start_task_soon(self._portal.stop)
            self._thread.join(_ENDING_SECONDS)

    def __reduce__(self) -> tuple[type[LoopThread], tuple[()]]:
        return LoopThread, ()

    def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a function on the loop, and return its result. On Ctrl-C, cancel an async function and wait for its end.

        Raises:
            SessionClosedError: If the loop is not running, or if its own thread makes this call.
        """
        notes: Future[Sequence[str]] = Future()

        async def run() -> Any:
            try:
                result = function(*args, **options)
                return await result if inspect.iscoroutine(result) else result
            finally:
                notes.set_result(getattr(sys.exception(), "__notes__", ()))

        if self._portal is None or self._process != os.getpid():
            raise SessionClosedError("the session is not open in this process: use `with EditSession() as session`")
        try:
            future = self._portal.start_task_soon(run)
        except RuntimeError:
            message = "the session is closed, or was called from its own thread: use another session"
            raise SessionClosedError(message) from None
        try:
            while not wait([future], _WAKING_SECONDS).done:  # the timeout lets Python handle pending signals
                pass
        except KeyboardInterrupt as interrupt:
            future.cancel()
            for note in notes.result():
                interrupt.add_note(note)
            raise
        return future.result()

    def iterate(self, iterable: AsyncIterable[T]) -> Iterator[T]:
        """Yield the items of an async iterable. Close it at the end, or when the caller stops early."""
        items: Any = self.call(aiter, iterable)

        async def next_item() -> Any:
            return await anext(items, _END)

        async def close() -> None:
            await items.aclose()

        try:
            while (item := self.call(next_item)) is not _END:
                yield item
        finally:
            with contextlib.suppress(SessionClosedError):  # the loop has ended, and the iterable with it
                self.call(close)


async def _serve(started: Future[BlockingPortal]) -> None:
    async with BlockingPortal() as portal:
        started.set_result(portal)
        await portal.sleep_until_stopped()
