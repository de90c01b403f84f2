"""Runs an event loop on its own thread, for callers that are not async."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import os
import queue
import sys
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Final, Self, TypeAlias

from qwen_edit_async.errors import SessionClosedError

News: TypeAlias = "queue.SimpleQueue[asyncio.Task[Any] | Callable[[], None] | None]"
"""The queue that a waiting caller reads. A task or ``None`` ends the wait. A function is called during the wait."""

_ENDING_SECONDS: Final = 5.0
_WAKING_SECONDS: Final = 0.5
_END: Final[Any] = object()


class LoopThread:
    """An event loop on its own thread. It does not run in a forked process, or in a copy made by pickle.

    anyio's portal is not used: if Ctrl-C interrupts a call while the loop is busy, the portal makes the call anyway.
    """

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._process = 0
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = asyncio.Event()
        self._crash: BaseException | None = None  # such as SystemExit in a user's function

    def __reduce__(self) -> tuple[type[LoopThread], tuple[()]]:
        return LoopThread, ()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, first: Callable[[], Any] | None = None) -> None:
        """Start the loop, unless it was started before, and make a first call. End a new loop if the call fails."""
        with self._starting:
            is_new, started = self._thread is None, Future[None]()
            try:
                if is_new:
                    self._process = os.getpid()
                    self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
                    self._thread.start()
                    started.result()
                if first is not None:
                    self.call(first)
            except BaseException:  # also Ctrl-C: nobody else would end a loop whose session did not open
                if is_new and not started.cancel():  # a thread that has no loop yet makes none
                    self.stop()
                raise

    def stop(self, last: Callable[[], Any] | None = None) -> None:
        """Make a last call, and end the loop with everything that runs on it. Do nothing if the loop is not running."""
        if threading.current_thread() is self._thread:  # a generator was garbage-collected on this thread
            self._stopped.set()
            return
        try:
            if last is not None:
                self.call(last)
            self._schedule(self._stopped.set)
        except SessionClosedError:  # another thread has ended the loop, or this process is a fork
            return
        except BaseException:  # also Ctrl-C, or an error of the last call: end the loop anyway
            self.stop()
            raise
        if self._thread is not None:
            self._thread.join(_ENDING_SECONDS)

    def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a function on the loop, and return its result. On Ctrl-C, cancel an async function and wait for its end.

        Raises:
            SessionClosedError: The loop is not running, or its own thread makes this call.
        """
        return self._call(functools.partial(function, *args, **options), queue.SimpleQueue())

    def iterate(self, iterable: AsyncIterable[Any], source: CallerIterable | None = None) -> Iterator[Any]:
        """Yield the items of an async iterable. Close it at the end, or when the caller stops early.

        ``source`` is the iterable's own input, if that is a :class:`CallerIterable`.
        """
        news: News = queue.SimpleQueue() if source is None else source.news
        items: Any = self.call(aiter, iterable)

        async def next_item() -> Any:
            return await anext(items, _END)

        async def close() -> None:
            await items.aclose()

        try:
            while (item := self._call(next_item, news)) is not _END:
                yield item
        finally:
            with contextlib.suppress(SessionClosedError):  # the loop has ended, and the iterable with it
                self.call(close)
            if source is not None:
                source.close()

    def _call(self, function: Callable[[], Any], news: News) -> Any:
        tasks: list[asyncio.Task[Any]] = []

        async def run() -> Any:
            result = function()
            return await result if inspect.iscoroutine(result) else result

        def start() -> None:
            tasks.append(asyncio.create_task(run()))
            tasks[0].add_done_callback(news.put)

        def cancel() -> None:  # runs after start(), unless the interrupt came before start() was scheduled
            if tasks and not tasks[0].done():
                tasks[0].cancel()
            else:
                news.put(None)

        try:
            self._schedule(start)
            ended = self._wait(news)
        except BaseException as interrupt:  # Ctrl-C, or an exception from a signal handler
            with contextlib.suppress(SessionClosedError):
                self._schedule(cancel)
                self._wait(news, helping=False)
            for task in tasks:
                for note in _notes_about(task) if task.done() else ():
                    interrupt.add_note(note)
            raise
        if ended is not None and not ended.cancelled():
            return ended.result()
        if self._thread is not None:
            self._thread.join(_ENDING_SECONDS)
        raise self._crash or SessionClosedError("the session was closed before the call had ended")

    def _schedule(self, function: Callable[[], None]) -> None:
        if self._loop is None or self._process != os.getpid() or sys.is_finalizing():
            raise SessionClosedError("the session is not open in this process: use `with EditSession() as session`")
        if threading.current_thread() is self._thread:
            raise SessionClosedError("the session can't be called from its own thread: use another session")
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            raise SessionClosedError("the session is closed: create another") from None

    def _wait(self, news: News, *, helping: bool = True) -> asyncio.Task[Any] | None:
        """Wait for the end of a call. Meanwhile, if ``helping``, call the functions in the queue."""
        while True:
            # Checked before the wait, because the last event may come just before the thread ends.
            is_running = self._thread is not None and self._thread.is_alive()
            try:
                # On Windows, signals are handled only between waits.
                event = news.get(timeout=_WAKING_SECONDS if is_running else 0)
            except queue.Empty:
                if not is_running:
                    return None
                continue
            if event is None or isinstance(event, asyncio.Task):
                return event
            if helping:
                event()

    def _run(self, started: Future[None]) -> None:
        try:
            with asyncio.Runner() as runner:
                self._loop = runner.get_loop()  # on Windows, a loop made on the main thread would take over its signals
                if not started.set_running_or_notify_cancel():
                    return
                started.set_result(None)
                runner.run(self._stopped.wait())
        except BaseException as error:  # noqa: BLE001  # raised again in each waiting caller
            self._crash = error
            if not started.done():
                started.set_exception(error)


def _notes_about(task: asyncio.Task[Any]) -> list[str]:
    """Return the notes of an interrupted call's error, or a note about its result, which may have been paid for."""
    try:
        result = task.result()
    except BaseException as error:  # noqa: BLE001  # also the cancellation that the interrupt caused
        return getattr(error, "__notes__", [])
    is_telling = result is not _END and not isinstance(result, (bytes, type(None)))
    return [f"the interrupted call had already returned {result!r}"] if is_telling else []


class CallerIterable:
    """An async iterable over a caller's iterable. The caller's thread pulls each item, while it waits for a result.

    So the iterable may block: the loop keeps running, and Ctrl-C interrupts the iterable.

    Attributes:
        news: The queue through which the caller is asked to pull an item.
    """

    def __init__(self, items: Iterable[Any]) -> None:
        self.news: News = queue.SimpleQueue()
        self._items = iter(items)

    def close(self) -> None:
        """Drop the iterable. A generator that nobody else holds ends here, on the caller's thread."""
        self._items = iter(())

    async def __aiter__(self) -> AsyncIterator[Any]:
        loop = asyncio.get_running_loop()
        while True:
            pulled: asyncio.Future[Any] = loop.create_future()
            self.news.put(functools.partial(self._pull, loop, pulled))
            if (item := await pulled) is _END:
                return
            yield item

    def _pull(self, loop: asyncio.AbstractEventLoop, pulled: asyncio.Future[Any]) -> None:
        try:
            deliver = functools.partial(pulled.set_result, next(self._items, _END))
        except Exception as error:  # noqa: BLE001  # edit_many raises it after the outcomes of earlier items
            deliver = functools.partial(pulled.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(lambda: None if pulled.done() else deliver())
