"""The session's semaphore: who may submit next. A thin asyncio shell around the pure :class:`Pacer`."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque

from qwen_edit_async.errors import QwenEditError
from qwen_edit_async.scheduling.pacing import Pacer

_COMPACT_ABOVE = 64


class Slot:
    """The right to have one task in flight, taken and given back by its holder.

    Attributes:
        taken_at: When it was taken, last.
    """

    __slots__ = ("_accepted", "_gate", "_held", "taken_at")

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._held = False
        self._accepted = False
        self.taken_at = math.inf

    async def take(self, *, first: bool = False) -> None:
        """Wait for it, see :meth:`Gate.acquire`."""
        self.taken_at = await self._gate.acquire(first=first)
        self._held = True

    def accepted(self, now: float) -> None:
        """The service took the submission that it was taken for."""
        if self._held:
            self._accepted = True
            self._gate.accepted(now)

    def release(self) -> None:
        """Give it back, if it is held."""
        if self._held:
            self._held = False
            self._gate.release(accepted=self._accepted)


class Gate:
    """Hands out slots, first come first served; a slot is held from before the submission to the task's end."""

    def __init__(self, pacer: Pacer, loop: asyncio.AbstractEventLoop) -> None:
        self.pacer = pacer
        self.closed_by: QwenEditError | None = None
        self._closed = asyncio.Event()
        self._turns = asyncio.Lock()
        self._submissions = asyncio.Lock()
        self._loop = loop
        self._waiters: deque[asyncio.Future[float]] = deque()  # those that were cancelled stay until passed over
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        return self._waiting

    def slot(self) -> Slot:
        """A slot, not taken yet."""
        return Slot(self)

    async def acquire(self, *, first: bool = False) -> float:
        """Wait for a slot, and take it; returns the event loop's time at which that was.

        Args:
            first: Wait ahead of all others: for a submission that was refused for want of room.

        Raises:
            QwenEditError: What the gate was closed with, at once.
        """
        if self.closed_by is not None:
            raise self.closed_by.for_task(None)
        if not self._waiting and self.pacer.wait(now := self._loop.time()) == 0:
            self.pacer.start(now)
            return now
        waiter: asyncio.Future[float] = self._loop.create_future()
        (self._waiters.appendleft if first else self._waiters.append)(waiter)
        self._waiting += 1
        self._admit()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                self._waiting -= 1
                if len(self._waiters) > 2 * self._waiting + _COMPACT_ABOVE:
                    self._waiters = deque(waiter for waiter in self._waiters if not waiter.done())
            elif waiter.exception() is None:
                self.release(accepted=False)
            raise

    def accepted(self, now: float) -> None:
        """The service took a submission."""
        self.pacer.accepted(now)
        self._admit()

    def throttled(self, now: float, sent_at: float, draw: float) -> None:
        """The service had too many requests, see :meth:`Pacer.throttled`."""
        self.pacer.throttled(now, sent_at, draw)
        self._admit()

    def release(self, *, accepted: bool) -> None:
        """Take a slot back."""
        self.pacer.end(accepted=accepted)
        self._admit()

    def submit_at_once(self) -> float | None:
        """The event loop's time, if a submission may be sent now, and nobody waits for that."""
        now, pacer = self._loop.time(), self.pacer
        if now < max(pacer.send_at, pacer.submit_at) or self._turns.locked():
            return None
        pacer.sent(now)
        pacer.submitted(now)
        return now

    async def wait_to_submit(self) -> float:
        """Wait until one more submission may be sent; returns the event loop's time at which that is.

        Raises:
            QwenEditError: What the gate is closed with, as soon as it is.
        """
        async with self._submissions:
            while (pause := self.pacer.submit_at - self._loop.time()) > 0:
                await self.sleep(pause)
            now = await self.wait_turn()
            self.pacer.submitted(now)
            return now

    async def wait_turn(self) -> float:
        """Wait until one more request may be sent to the service; returns the event loop's time at which that is.

        Raises:
            QwenEditError: What the gate is closed with, as soon as it is.
        """
        async with self._turns:
            try:
                while self.pacer.send_at > (now := self._loop.time()):
                    self.pacer.turn_wanted = True
                    await self.sleep(self.pacer.turn_at - now)
            finally:
                self.pacer.turn_wanted = False
            self.pacer.sent(now)
            return now

    async def sleep(self, seconds: float) -> None:
        """Wait that long before something else is sent.

        Raises:
            QwenEditError: What the gate is closed with, as soon as it is.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        if self.closed_by is not None:
            raise self.closed_by.for_task(None)

    def close(self, error: QwenEditError) -> None:
        """Let nobody start any more: everybody who waits, and who comes, gets this error."""
        self.closed_by = self.closed_by or error
        self._closed.set()
        if self._timer is not None:
            self._timer.cancel()
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._waiting -= 1
                waiter.set_exception(error.for_task(None))

    def _admit(self, reached: float = -math.inf) -> None:
        """Let in whom the pacer lets in; ``reached`` is what a timer was set for, which may fire a hair early."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = max(reached, self._loop.time())
        while self._waiters:
            if self._waiters[0].done():
                self._waiters.popleft()
                continue
            wait = self.pacer.wait(now)
            if wait is None:
                return
            if wait > 0:
                self._timer = self._loop.call_at(now + wait, self._admit, now + wait)
                return
            self.pacer.start(now)
            self._waiting -= 1
            self._waiters.popleft().set_result(now)
