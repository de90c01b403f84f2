"""Faces, which are synchronous wrappers of async objects, and the thread that runs their event loop."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import threading
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager
from typing import Any, Concatenate, Final, Generic, ParamSpec, Self, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from qwen_edit_async.errors import SessionClosedError

A = TypeVar("A")
P = ParamSpec("P")
T = TypeVar("T")

_ENDING_SECONDS: Final = 5.0
_WAKING_SECONDS: Final = 0.5

_ALL: Final = functools.WRAPPER_ASSIGNMENTS
_END: Final[Any] = object()


class LoopThread:
    """An event loop in its own thread. When the interpreter exits, it does not wait for the thread.

    In a forked process, and in a copy made by pickle, the loop does not run.

    Args:
        around: Returns a context manager. Inside it, each call copies the caller's context variables.
    """

    def __init__(self, around: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext) -> None:
        self._around = around
        self._thread: threading.Thread | None = None
        self._portal: BlockingPortal | None = None
        self._process = os.getpid()

    def __enter__(self) -> Self:
        """Start the loop, unless it was started before."""
        if self._thread is None:
            started: Future[BlockingPortal] = Future()
            run = functools.partial(anyio.run, _serve, started)
            self._thread = threading.Thread(target=run, name="qwen-edit-async", daemon=True)
            self._thread.start()
            self._portal = started.result()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the loop when all calls have ended. Wait at most a few seconds for that."""
        if self._thread is not None and self._portal is not None and self._process == os.getpid():
            self._portal.start_task_soon(self._portal.stop)
            self._thread.join(_ENDING_SECONDS)

    def __reduce__(self) -> tuple[type[LoopThread], tuple[()]]:
        return LoopThread, ()

    def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a function on the loop, and return its result. Ctrl-C during the wait cancels an async function.

        Raises:
            SessionClosedError: If the loop is not running, or if its own thread makes this call.
        """
        ended = threading.Event()

        async def run() -> Any:
            try:
                result = function(*args, **options)
                return await result if inspect.iscoroutine(result) else result
            finally:
                ended.set()

        try:
            with self._around():
                future = self._running().start_task_soon(run)
        except RuntimeError:
            raise SessionClosedError("the session is closed, or called from its own thread: create another") from None
        try:
            while not wait([future], _WAKING_SECONDS).done:  # the timeout lets Python handle pending signals
                pass
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            ended.wait()
            raise

    def iterate(self, make: Callable[[], AsyncIterable[T]]) -> Iterator[T]:
        """Yield the items of an async iterable. Close it at the end, or when the caller stops early."""
        items: Any = self.call(lambda: aiter(make()))
        try:
            while (item := self.call(lambda: _await(anext(items, _END)))) is not _END:
                yield item
        finally:
            with contextlib.suppress(SessionClosedError):  # the loop has ended, which also ended the iterable
                self.call(lambda: _await(items.aclose()))

    def _running(self) -> BlockingPortal:
        if self._portal is None or self._process != os.getpid():
            raise SessionClosedError("the session is not open in this process: use `with EditSession() as session:`")
        return self._portal


class Face(Generic[A]):
    """A synchronous wrapper of an async object. Attributes that the face does not define come from the object."""

    def __init__(self, wrapped: A, loop: LoopThread) -> None:
        self._wrapped = wrapped
        self._loop = loop

    @classmethod
    def returned_by(cls, method: Callable[Concatenate[Any, P], Any]) -> Callable[Concatenate[Any, P], Self]:
        """Return a synchronous method that calls an async method, and returns a face of its result."""
        call: Callable[..., Any] = blocking(method)
        return like(method, _ALL)(lambda self, *args, **options: cls(call(self, *args, **options), self._loop))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._wrapped, name)

    def __repr__(self) -> str:
        return repr(self._wrapped)


def like(
    method: Callable[Concatenate[Any, P], object], attributes: Sequence[str] = ()
) -> Callable[[Callable[..., T]], Callable[Concatenate[Any, P], T]]:
    """Return a decorator that gives a method the signature of an async method, and some of its attributes."""
    return functools.wraps(method, assigned=attributes)


def blocking(method: Callable[Concatenate[Any, P], Awaitable[T]]) -> Callable[Concatenate[Any, P], T]:
    """Return a synchronous method that calls an async method, and returns its result."""
    return like(method, _ALL)(lambda self, *args, **options: self._loop.call(method, self._wrapped, *args, **options))


async def _await(awaitable: Awaitable[T]) -> T:
    return await awaitable


async def _serve(started: Future[BlockingPortal]) -> None:
    async with BlockingPortal() as portal:
        started.set_result(portal)
        await portal.sleep_until_stopped()
