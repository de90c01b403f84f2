"""The deadline of a submission."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from typing import Final, TypeVar

from qwen_edit_async.errors import APITimeoutError
from qwen_edit_async.session.gate import Gate

T = TypeVar("T")

_LATE_SECONDS: Final = 1.0
"""Seconds to wait for the result after an edit's deadline, because a bulk run journals even a late result."""


class Deadline:
    """Limits the time from taking a slot until the service accepts the edit.

    Waits in line do not count; see :meth:`wait_in_line`. But if the service accepts no edit for ``seconds``, the
    deadline passes even during such a wait. All times are on the event loop's clock.

    Args:
        seconds: The time limit.
        gate: The session's gate, which knows when the service last accepted an edit.

    Attributes:
        passed: A future that is done when the deadline has passed. :meth:`stop` cancels it.
        counts_from: The time when the submission last took a slot, plus the seconds that it has waited in line since
            then. Infinity before the first slot.
    """

    def __init__(self, seconds: float, gate: Gate) -> None:
        self.passed: asyncio.Future[None] = gate.loop.create_future()
        self.counts_from: float = math.inf
        self._seconds = seconds
        self._gate = gate
        self._first_slot_at = math.inf
        self._is_in_line = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def at(self) -> float:
        """The deadline if the submission does not wait again."""
        return self.counts_from + self._seconds

    @property
    def at_in_line(self) -> float:
        """The deadline during a wait in line. It moves whenever the service accepts another edit."""
        return max(self._first_slot_at, self._gate.pacer.accepted_at) + self._seconds

    def start(self, now: float) -> None:
        """Start or restart the time limit when the submission has taken a slot."""
        self.counts_from = now
        self._first_slot_at = min(self._first_slot_at, now)
        self._set_timer()

    async def wait_in_line(self, wait: Awaitable[T]) -> T:
        """Wait for a turn, or for a slot or lock that is needed before a turn."""
        loop = self._gate.loop
        counted = loop.time() - self.counts_from
        self._is_in_line = True
        self._set_timer()
        try:
            return await wait
        finally:
            self._is_in_line = False
            self.counts_from = max(self.counts_from, loop.time() - counted)
            self._set_timer()

    async def wait_for_result(self, reply: Awaitable[T]) -> T:
        """Wait for a reply that holds the result, until shortly after the deadline.

        Raises:
            APITimeoutError: If the reply did not arrive in time.
        """
        limit, end = asyncio.timeout(None), self.at + _LATE_SECONDS
        # The timer only arms the timeout, so a result that arrived while the loop was blocked is handled first.
        timer = self._gate.loop.call_at(end, limit.reschedule, end)
        try:
            async with limit:
                return await reply
        except TimeoutError:
            if not limit.expired():
                raise
            raise APITimeoutError("the service did not give the result in time", request_sent=True) from None
        finally:
            timer.cancel()

    def stop(self) -> None:
        """Stop counting, because the submission has ended or was given up."""
        self.passed.cancel()
        self._set_timer()

    @property
    def _until(self) -> float:
        return self.at_in_line if self._is_in_line else self.at

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self.passed.done():
            self._timer = self._gate.loop.call_at(self._until, self._on_timer, self._until)

    def _on_timer(self, reached: float) -> None:
        if self._until > max(reached, self._gate.loop.time()):  # meanwhile, the service has accepted another edit
            self._set_timer()
        else:
            self.passed.set_result(None)  # its callbacks run later, so a reply that has just arrived goes first
