"""Limits how long calls wait for their replies. All calls have the same limit, so they share one timer."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import aiohttp


class ReplyTimeout:
    """The time limit of one call's wait for its reply.

    Attributes:
        ends_at: The end of the limit, by the event loop's clock; infinity until the limit starts.
        response: The reply whose body is being read; ``None`` until its head has arrived.
    """

    __slots__ = ("_cancelling", "_is_cut", "_task", "_timeouts", "ends_at", "response")

    def __init__(self, timeouts: ReplyTimeouts, task: asyncio.Task[Any]) -> None:
        self._timeouts = timeouts
        self._task = task
        self._cancelling = task.cancelling()
        self._is_cut = False
        self.ends_at: float = math.inf
        self.response: aiohttp.ClientResponse | None = None

    def start(self) -> None:
        """Start the time limit."""
        self._timeouts.start(self)

    def replied(self, response: aiohttp.ClientResponse) -> None:
        """Record that the reply has begun. Start the time limit, if it has not started."""
        self.response = response
        if self.ends_at == math.inf:
            self.start()

    def cut(self) -> None:
        """End the wait now, by cancelling the task that makes the call."""
        if not self._is_cut:
            self._is_cut = True
            self.end()
            self._task.cancel()

    def end(self) -> None:
        """Remove the time limit."""
        self._timeouts.forget(self)

    def was_cut(self) -> bool:
        """Undo a cancellation by :meth:`cut`. Return whether the task was cancelled by :meth:`cut` alone."""
        return self._is_cut and self._task.uncancel() <= self._cancelling


class ReplyTimeouts:
    """The time limits of a transport's calls, the earliest first."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeouts: dict[ReplyTimeout, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> ReplyTimeout:
        """Return a time limit for a call of the current asyncio task. The limit has not started yet."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("no asyncio task is running: make calls inside a task")
        return ReplyTimeout(self, task)

    def start(self, timeout: ReplyTimeout) -> None:
        """Start or restart a time limit."""
        loop = asyncio.get_running_loop()
        timeout.ends_at = loop.time() + self._seconds
        self.forget(timeout)  # a restarted limit moves to the end
        self._timeouts[timeout] = None
        if self._timer is None:
            self._set_timer(loop, timeout.ends_at)

    def forget(self, timeout: ReplyTimeout) -> None:
        """Remove a time limit, if it has started."""
        self._timeouts.pop(timeout, None)

    def close(self) -> None:
        """Stop reading replies. Closing aiohttp's session alone would let the reads continue."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for timeout in self._timeouts:
            if timeout.response is not None:
                timeout.response.close()

    def _set_timer(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        # The sweep does not run at once, so that a reply that arrived while the loop was blocked goes first.
        self._timer = loop.call_at(at, loop.call_soon, self._sweep, at)

    def _sweep(self, reached: float) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = max(reached, loop.time())  # a timer may fire slightly early
        for timeout in list(self._timeouts):
            if timeout.ends_at > now:
                self._set_timer(loop, timeout.ends_at)
                break
            timeout.cut()
