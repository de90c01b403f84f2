"""Makes blocking calls on one thread. Calls that arrive while the thread is busy are collected and made together.

Switching to a thread and back takes longer than most of these calls, so calls that are made together share one switch.
The journal also makes all calls of such a group in one transaction, because each transaction needs a disk sync.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from qwen_edit_async.errors import JournalError

P = ParamSpec("P")
T = TypeVar("T")

Call = Callable[[], Any]


def call_each(calls: Sequence[Call]) -> list[Any]:
    """Return the result of each call, or the exception that it raised."""
    outcomes: list[Any] = []
    for call in calls:
        try:
            outcomes.append(call())
        except Exception as error:  # noqa: BLE001  # the error is raised where the call is awaited
            outcomes.append(error)
    return outcomes


class Worker:
    """Makes calls on a thread, in the order in which they arrive.

    Args:
        executor: An executor with one thread; shut down by :meth:`aclose`.
        call_all: Makes several calls, and returns a result or an exception for each. If ``call_all`` itself raises,
            every call ends with that exception.
        patience: The seconds to wait for more calls before the collected calls are made.
    """

    def __init__(
        self,
        executor: ThreadPoolExecutor,
        call_all: Callable[[Sequence[Call]], list[Any]] = call_each,
        *,
        patience: float = 0.0,
    ) -> None:
        self._executor = executor
        self._call_all = call_all
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[Call, asyncio.Future[Any]]] = []
        self._busy = False
        self._closed = False

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Make a call on the thread. The call is made even if the returned future is cancelled or never awaited.

        Raises:
            JournalError: Raised when the future is awaited, if the call came after :meth:`aclose`.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        future.add_done_callback(_mark_retrieved)
        if self._closed:
            future.set_exception(JournalError("the run has ended"))
            return future
        self._waiting.append((functools.partial(function, *args, **kwargs), future))
        self._begin_soon()
        return future

    async def aclose(self, last: Call = lambda: None) -> None:
        """Make all pending calls and then ``last``, and end the thread. Cancelling does not prevent the calls."""
        self._closed = True
        try:
            try:
                self._begin()
            finally:
                job = self._loop.run_in_executor(self._executor, last)
        finally:
            self._executor.shutdown(wait=False)
        await asyncio.shield(job)

    def _begin_soon(self) -> None:
        """Schedule the start of the waiting calls. Calls that arrive before the start join them."""
        if self._waiting and not self._busy:
            self._busy = True
            self._loop.call_later(self._patience, self._begin)

    def _begin(self) -> None:
        calls, futures = [call for call, _ in self._waiting], [future for _, future in self._waiting]
        self._waiting = []
        if not calls:  # aclose() has already started the calls
            return
        try:
            job = self._loop.run_in_executor(self._executor, self._call_all, calls)
        except BaseException:  # whatever the error, no call has begun, so the callers would wait forever
            for future in futures:
                future.cancel()
            self._busy = False
            raise
        job.add_done_callback(functools.partial(self._ended, futures))

    def _ended(self, futures: list[asyncio.Future[Any]], job: asyncio.Future[list[Any]]) -> None:
        error = job.exception()
        outcomes = job.result() if error is None else [error] * len(futures)
        for future, outcome in zip(futures, outcomes, strict=True):
            if future.done():
                continue
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
        self._busy = False
        self._begin_soon()


def _mark_retrieved(future: asyncio.Future[Any]) -> None:
    """Keep asyncio from logging the error of a future that nobody awaits."""
    if not future.cancelled():
        future.exception()
