"""The session's semaphore: who may submit next, and when. An asyncio shell around the pure :class:`Pacer`."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import OrderedDict
from typing import Final

from qwen_edit_async.errors import QwenEditError
from qwen_edit_async.log import log
from qwen_edit_async.scheduling.pacing import Pacer
from qwen_edit_async.scheduling.retry import pause_after

_LOGGED_PAUSE: Final = 300.0
"""A pause of more seconds than this is logged, so that nobody wonders why nothing happens."""

_arrivals = itertools.count()


class Slot:
    """The right to have one task in flight.

    Attributes:
        taken_at: When it was taken last, in the event loop's seconds.
    """

    __slots__ = ("_accepted", "_gate", "_held", "taken_at")

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._held = False
        self._accepted = False
        self.taken_at: float = math.inf

    async def take(self, *, first: bool = False) -> None:
        """Wait for the slot; see :meth:`Gate.acquire`."""
        self.taken_at = await self._gate.acquire(first=first)
        self._held = True

    def accepted(self, now: float) -> None:
        """Record that the service accepted the submission."""
        if self._held:
            self._accepted = True
            self._gate.accepted(now)

    def release(self) -> None:
        """Give the slot back, if it is held."""
        if self._held:
            self._held = False
            self._gate.release(accepted=self._accepted)


class Line:
    """Futures that wait for their turn, first come, first served. Joining and leaving cost O(1)."""

    def __init__(self) -> None:
        self._waiters: OrderedDict[asyncio.Future[float], int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiters)

    @property
    def front(self) -> float:
        """The arrival number of the first waiter; infinity if nobody waits."""
        for waiter, arrival in self._waiters.items():
            if not waiter.done():
                return arrival
        return math.inf

    def join(self, waiter: asyncio.Future[float], *, first: bool = False) -> None:
        """Add a waiter at the end, or at the front."""
        self._waiters[waiter] = next(_arrivals)
        if first:
            self._waiters.move_to_end(waiter, last=False)

    def leave(self, waiter: asyncio.Future[float]) -> None:
        """Remove a waiter, if it still waits."""
        self._waiters.pop(waiter, None)

    def go(self, now: float) -> None:
        """Give the first waiter its turn."""
        done = False
        while not done:  # those that were cancelled are passed over
            waiter, _ = self._waiters.popitem(last=False)
            if done := not waiter.done():
                waiter.set_result(now)

    def refuse(self, error: QwenEditError) -> None:
        """End every waiting with an error."""
        while self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            if not waiter.done():
                waiter.set_exception(error.for_task(None))


class Gate:
    """Hands out slots and turns to send, each first come, first served.

    A slot is held from before the submission to the task's end. A turn is the right to send one request.

    Attributes:
        pacer: The limits, as far as they are known.
        closed_by: The error that ends every waiting, once the gate is closed.
    """

    def __init__(self, pacer: Pacer, loop: asyncio.AbstractEventLoop) -> None:
        self.pacer = pacer
        self.closed_by: QwenEditError | None = None
        self._loop = loop
        self._slots = Line()
        self._submissions = Line()
        self._calls = Line()
        self._sleepers = Line()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """The number of edits that wait for a slot."""
        return len(self._slots)

    def slot(self) -> Slot:
        """Return a slot that is not taken yet."""
        return Slot(self)

    async def acquire(self, *, first: bool = False) -> float:
        """Wait for a slot, and take it; returns when that was, in the event loop's seconds.

        Args:
            first: Whether to wait ahead of all others, because a submission was refused for want of room.

        Raises:
            QwenEditError: The error that the gate is closed with, at once.
        """
        now = self._loop.time()
        if not self._slots and self.closed_by is None and self.pacer.wait(now) == 0:
            self.pacer.start(now)
            return now
        waiter = self._loop.create_future()
        try:
            return await self._wait_in(self._slots, waiter, first=first)
        except asyncio.CancelledError:
            if not waiter.cancelled() and waiter.exception() is None:
                self.release(accepted=False)
            raise

    def accepted(self, now: float) -> None:
        """Record that the service accepted a submission."""
        self.pacer.accepted(now)
        self._admit_if_wanted()

    def throttled(self, now: float, sent_at: float, draw: float) -> None:
        """Record that the service refused a submission for too many requests; see :meth:`Pacer.throttled`."""
        self.pacer.throttled(now, sent_at, draw)
        self._admit_if_wanted()

    def release(self, *, accepted: bool) -> None:
        """Take a slot back."""
        self.pacer.end(accepted=accepted)
        self._admit_if_wanted()

    def hold_back(self, error: QwenEditError) -> None:
        """Send nothing for as long as the service asks with an error's ``Retry-After``."""
        seconds, now = pause_after(error), self._loop.time()
        if now + seconds > max(now, self.pacer.resume_at) + _LOGGED_PAUSE:
            log.warning("nothing is sent to the service for %.0f s, since it asks for that: %s", seconds, error)
        self.pacer.pause(now + seconds, now)

    def submit_at_once(self) -> float | None:
        """Take a turn to send a submission, if one may be sent now and nobody waits; returns the time, or ``None``."""
        now, pacer = self._loop.time(), self.pacer
        if self._submissions or self._calls or now < pacer.send_at or now < pacer.submit_at:
            return None
        pacer.sent(now)
        pacer.submitted(now)
        return now

    async def wait_to_submit(self) -> float:
        """Wait for a turn to send a submission; returns when it came, in the event loop's seconds.

        Raises:
            QwenEditError: The error that the gate is closed with, at once.
        """
        return await self._wait_in(self._submissions, self._loop.create_future())

    async def wait_turn(self) -> float:
        """Wait for a turn to send another request; returns when it came, in the event loop's seconds.

        Raises:
            QwenEditError: The error that the gate is closed with, at once.
        """
        return await self._wait_in(self._calls, self._loop.create_future())

    async def sleep(self, seconds: float) -> None:
        """Wait that long before something else is sent.

        Raises:
            QwenEditError: The error that the gate is closed with, at once.
        """
        waiter = self._loop.create_future()
        timer = self._loop.call_later(seconds, _wake, waiter)
        try:
            await self._wait_in(self._sleepers, waiter)
        finally:
            timer.cancel()

    def close(self, error: QwenEditError) -> None:
        """Let nobody start any more: all who wait, and all who come, get this error."""
        self.closed_by = self.closed_by or error
        if self._timer is not None:
            self._timer.cancel()
        for line in (self._slots, self._submissions, self._calls, self._sleepers):
            line.refuse(error)

    async def _wait_in(self, line: Line, waiter: asyncio.Future[float], *, first: bool = False) -> float:
        if self.closed_by is not None:
            raise self.closed_by.for_task(None)
        line.join(waiter, first=first)
        try:
            self._admit()
            return await waiter
        finally:
            line.leave(waiter)
            if waiter.cancelled():
                self._admit()

    def _admit_if_wanted(self) -> None:
        if self._slots:
            self._admit()

    def _admit(self, reached: float = -math.inf) -> None:
        """Give every turn that has come; ``reached`` is the time that a timer was set for: it may fire a hair early."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = max(reached, self._loop.time())
        until = min(self._admit_to_slots(now), self._admit_to_send(now))
        if until < math.inf and self.closed_by is None:
            self._timer = self._loop.call_at(until, self._admit, until)

    def _admit_to_slots(self, now: float) -> float:
        """Hand out free slots; returns when the next one may come free by time alone."""
        while self._slots.front < math.inf:
            wait = self.pacer.wait(now)
            if wait is None:
                return math.inf
            if wait > 0:
                return now + wait
            self.pacer.start(now)
            self._slots.go(now)
        return math.inf

    def _admit_to_send(self, now: float) -> float:
        """Let requests be sent; returns when the next one may be."""
        pacer = self.pacer
        while True:
            submission = self._submissions.front
            may_submit = now >= pacer.submit_at and submission < math.inf
            pacer.turn_wanted = may_submit or self._calls.front < math.inf
            if not pacer.turn_wanted:
                return pacer.submit_at if submission < math.inf else math.inf
            if now < pacer.send_at:
                return pacer.turn_at
            if may_submit and submission < self._calls.front:
                self._submissions.go(now)
                pacer.submitted(now)
            else:
                self._calls.go(now)
            pacer.sent(now)


def _wake(waiter: asyncio.Future[float]) -> None:
    if not waiter.done():
        waiter.set_result(0.0)
