"""Decides which submission may start next, and when requests may be sent. The limits come from a :class:`Pacer`."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import OrderedDict
from typing import Final

import attrs

from qwen_edit_async.errors import InsufficientBalanceError, PermissionDeniedError, QwenEditError, SessionClosedError
from qwen_edit_async.log import log
from qwen_edit_async.scheduling.pacer import Pacer
from qwen_edit_async.scheduling.retry import pause_after

_LOGGED_PAUSE: Final = 300.0
"""A pause that adds more than this many seconds of waiting is logged, to explain why nothing happens."""

_arrivals = itertools.count()


@attrs.define(eq=False)
class Slot:
    """The right to have one task in flight, once :meth:`take` has returned."""

    _gate: Gate
    _held: bool = attrs.field(default=False, init=False)
    _accepted: bool = attrs.field(default=False, init=False)

    async def take(self, *, first: bool = False) -> float:
        """Wait for the slot, and take it. Return the event loop's time; see :meth:`Gate.acquire`."""
        now = await self._gate.acquire(first=first)
        self._held = True
        return now

    def accepted(self, now: float, sent_at: float, among: int) -> None:
        """Record that the service accepted the submission; see :meth:`Pacer.accepted`."""
        if self._held:
            self._accepted = True
            self._gate.accepted(now, sent_at, among)

    def release(self) -> None:
        """Give the slot back, if it is held."""
        if self._held:
            self._held = False
            self._gate.release(accepted=self._accepted)


class WaitQueue(OrderedDict[asyncio.Future[float], int]):
    """Futures with their arrival numbers, first come, first served. Joining and leaving cost O(1)."""

    @property
    def front(self) -> float:
        """The arrival number of the first waiter; infinity if nobody waits."""
        for waiter, arrival in self.items():
            if not waiter.done():
                return arrival
        return math.inf

    def join(self, waiter: asyncio.Future[float], *, first: bool = False) -> None:
        """Add a waiter at the end, or at the front if ``first`` is true."""
        self[waiter] = next(_arrivals)
        if first:
            self.move_to_end(waiter, last=False)

    def wake_first(self, now: float) -> None:
        """Wake the first waiter that was not cancelled."""
        done = False
        while not done:
            waiter, _ = self.popitem(last=False)
            if done := not waiter.done():
                waiter.set_result(now)

    def fail_all(self, error: QwenEditError) -> None:
        """Raise an error in all waiters."""
        while self:
            waiter, _ = self.popitem(last=False)
            if not waiter.done():
                waiter.set_exception(error.for_task(None))


class Gate:
    """Hands out slots and turns, first come, first served. Edits refused with 429 get slots before all other edits.

    A slot is held from the start of a submission until its task ends or is given up. A turn is the right to send one
    request. After an :class:`InsufficientBalanceError` or a :class:`PermissionDeniedError`, the closed gate still gives
    turns for free requests, such as status checks.

    Attributes:
        pacer: Learns and applies the limits.
        loop: The session's event loop.
        closed_by: The error that closed the gate; ``None`` while it is open. Refused waiters get a copy of this error.
    """

    def __init__(self, pacer: Pacer, loop: asyncio.AbstractEventLoop) -> None:
        self.pacer = pacer
        self.closed_by: QwenEditError | None = None
        self.loop: asyncio.AbstractEventLoop = loop
        self._slots = WaitQueue()
        self._submissions = WaitQueue()
        self._calls = WaitQueue()
        self._closing: asyncio.Future[None] = loop.create_future()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """The number of edits that wait for a slot."""
        return len(self._slots)

    async def acquire(self, *, first: bool = False) -> float:
        """Wait for a slot, and take it. Return the event loop's time at that moment.

        With ``first``, wait ahead of all other edits, because this edit was refused with 429.
        """
        now = self.loop.time()
        if not self._slots and self.closed_by is None and self.pacer.wait(now) == 0:
            self.pacer.start(now)
            return now
        waiter = self.loop.create_future()
        try:
            return await self._wait_in(self._slots, waiter, first=first)
        except asyncio.CancelledError:
            if not waiter.cancelled() and waiter.exception() is None:
                self.release(accepted=False)
            raise

    def accepted(self, now: float, sent_at: float, among: int) -> None:
        """Record that the service accepted a submission; see :meth:`Pacer.accepted`."""
        self.pacer.accepted(now, sent_at, among)
        self._admit_if_wanted()

    def throttled(self, now: float, sent_at: float, draw: float) -> None:
        """Record that the service refused a submission with 429; see :meth:`Pacer.throttled`."""
        self.pacer.throttled(now, sent_at, draw)
        self._admit_if_wanted()

    def release(self, *, accepted: bool) -> None:
        """Take a slot back."""
        self.pacer.end(accepted=accepted)
        self._admit_if_wanted()

    def hold_back(self, error: QwenEditError) -> None:
        """Pause all requests if an error has a ``Retry-After``; see :func:`pause_after`."""
        seconds, now = pause_after(error), self.loop.time()
        if now + seconds > max(now, self.pacer.resume_at) + _LOGGED_PAUSE:
            log.warning("all requests pause for %.0f s, because the service requested a pause: %s", seconds, error)
        self.pacer.pause(now + seconds, now)

    def submit_at_once(self) -> float | None:
        """Take a turn for a submission, if this needs no wait. Return the time of the turn, or ``None``."""
        now, pacer = self.loop.time(), self.pacer
        if self._submissions or self._calls or now < pacer.send_at or now < pacer.submit_at:
            return None
        pacer.sent(now)
        pacer.submitted(now)
        return now

    async def wait_turn(self, *, submission: bool = False) -> float:
        """Wait for a turn to send a request. Return the event loop's time of the turn."""
        return await self._wait_in(self._submissions if submission else self._calls, self.loop.create_future())

    async def sleep(self, seconds: float) -> None:
        """Wait some seconds, or until the gate closes."""
        self.check_open()
        await asyncio.wait([self._closing], timeout=seconds)
        self.check_open()

    def close(self, error: QwenEditError) -> None:
        """Close the gate. All present and future waiters for slots and submissions get this error.

        A second error changes nothing, unless it is a :class:`SessionClosedError`, which ends the session.
        """
        if self.closed_by is None or (not self.ended and isinstance(error, SessionClosedError)):
            self.closed_by = error
        if not self._closing.done():
            self._closing.set_result(None)
        self._slots.fail_all(error)
        self._submissions.fail_all(error)
        if self._refuses_calls:
            self._calls.fail_all(error)
        self._admit()

    @property
    def ended(self) -> bool:
        """Whether the session has ended."""
        return isinstance(self.closed_by, SessionClosedError)

    @property
    def _refuses_calls(self) -> bool:
        only_submissions = InsufficientBalanceError | PermissionDeniedError
        return self.closed_by is not None and not isinstance(self.closed_by, only_submissions)

    def check_open(self) -> None:
        """Raise the error that closed the gate, if it is closed."""
        if self.closed_by is not None:
            raise self.closed_by.for_task(None)

    async def _wait_in(self, queue: WaitQueue, waiter: asyncio.Future[float], *, first: bool = False) -> float:
        if queue is not self._calls or self._refuses_calls:
            self.check_open()
        queue.join(waiter, first=first)
        try:
            self._admit()
            return await waiter
        finally:
            queue.pop(waiter, None)
            if waiter.cancelled():
                self._admit()

    def _admit_if_wanted(self) -> None:
        if self._slots:
            self._admit()

    def _admit(self, reached: float = -math.inf) -> None:
        """Hand out all slots and turns that are due.

        ``reached`` is the time for which a timer was set. It counts as the present if the timer fires slightly early.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = max(reached, self.loop.time())
        until = min(self._admit_to_slots(now), self._admit_to_send(now))
        if until < math.inf:
            self._timer = self.loop.call_at(until, self._admit, until)

    def _admit_to_slots(self, now: float) -> float:
        """Hand out free slots. Return the time of the next slot; infinity if none is wanted or the time is unknown."""
        while self._slots.front < math.inf:
            wait = self.pacer.wait(now)
            if wait is None:
                return math.inf
            if wait > 0:
                return now + wait
            self.pacer.start(now)
            self._slots.wake_first(now)
        return math.inf

    def _admit_to_send(self, now: float) -> float:
        """Hand out turns. Return the time of the next turn; infinity if no turn is wanted."""
        pacer = self.pacer
        while self._submissions or self._calls:
            submission = self._submissions.front
            may_submit = now >= pacer.submit_at and submission < math.inf
            pacer.turn_wanted = may_submit or self._calls.front < math.inf
            if not pacer.turn_wanted:
                return pacer.submit_at if submission < math.inf else math.inf
            if now < pacer.send_at:
                return pacer.turn_at
            if may_submit and submission < self._calls.front:
                self._submissions.wake_first(now)
                pacer.submitted(now)
            else:
                self._calls.wake_first(now)
            pacer.sent(now)
        pacer.turn_wanted = False
        return math.inf
