"""Limits the time that calls wait for their replies. All calls have the same limit, so they share one timer."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import aiohttp


class Wait:
    """The wait of one call for its reply.

    Attributes:
        ends_at: The end of the time limit, in the event loop's seconds; infinity until the limit starts.
        response: The reply whose body is being read; ``None`` until its head has arrived.
    """

    __slots__ = ("_cancelling", "_is_cut", "_task", "_waits", "ends_at", "response")

    def __init__(self, waits: Waits, task: asyncio.Task[Any]) -> None:
        self._waits = waits
        self._task = task
        self._cancelling = task.cancelling()
        self._is_cut = False
        self.ends_at: float = math.inf
        self.response: aiohttp.ClientResponse | None = None

    def start(self) -> None:
        """Start the time limit."""
        self._waits.start(self)

    def replied(self, response: aiohttp.ClientResponse) -> None:
        """Record that the reply has begun. Start the time limit if the reply came before the whole request was sent."""
        self.response = response
        if self.ends_at == math.inf:
            self.start()

    def cut(self) -> None:
        """End the wait early, by cancelling the task that makes the call."""
        if not self._is_cut:
            self._is_cut = True
            self.end()
            self._task.cancel()

    def end(self) -> None:
        """End the time limit."""
        self._waits.forget(self)

    def was_cut(self) -> bool:
        """Return whether only :meth:`cut` cancelled the task, and undo that cancellation."""
        return self._is_cut and self._task.uncancel() <= self._cancelling


class Waits:
    """The waits of a transport's calls, in the order in which their limits end."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waits: dict[Wait, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> Wait:
        """Return a wait of the current task, whose time limit has not started."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("no asyncio task is running: make calls inside one")
        return Wait(self, task)

    def start(self, wait: Wait) -> None:
        """Start the time limit of a wait."""
        loop = asyncio.get_running_loop()
        wait.ends_at = loop.time() + self._seconds
        self.forget(wait)  # its limit may have started before, so it moves to the end
        self._waits[wait] = None
        if self._timer is None:
            self._timer = loop.call_at(wait.ends_at, self._sweep, wait.ends_at)

    def forget(self, wait: Wait) -> None:
        """End the time limit of a wait, if it has started."""
        self._waits.pop(wait, None)

    def close(self) -> None:
        """End the reading of all replies with an error. Closing aiohttp's session alone would not end it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for wait in self._waits:
            if wait.response is not None:
                wait.response.close()

    def _sweep(self, reached: float) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = max(reached, loop.time())  # a timer may fire slightly early
        for wait in list(self._waits):
            if wait.ends_at > now:
                self._timer = loop.call_at(wait.ends_at, self._sweep, wait.ends_at)
                break
            wait.cut()
