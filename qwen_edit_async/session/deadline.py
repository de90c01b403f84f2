"""The deadline of a submission."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

from qwen_edit_async.session.gate import Gate

T = TypeVar("T")


class Deadline:
    """Limits the time from taking a slot until the service accepts the edit.

    A wait for a turn, the right to send a request, does not count. But the deadline passes during such a wait if the
    service accepts no edit for ``seconds``. All times are on the event loop's clock.

    Args:
        seconds: The time limit.
        gate: The session's gate, which knows when the service last accepted an edit.
        on_passed: Called when the deadline has passed, unless :meth:`stop` was called.

    Attributes:
        counts_from: The time when the submission last took a slot, plus its later waits; infinity before that.
    """

    def __init__(self, seconds: float, gate: Gate, on_passed: Callable[[], None]) -> None:
        self.counts_from: float = math.inf
        self._seconds = seconds
        self._gate = gate
        self._on_passed: Callable[[], None] | None = on_passed
        self._first_slot_at = math.inf
        self._is_in_line = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def at(self) -> float:
        """The deadline if the submission does not wait again."""
        return self.counts_from + self._seconds

    @property
    def at_in_line(self) -> float:
        """The deadline during a wait for a turn. It moves whenever the service accepts another edit."""
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

    def stop(self) -> None:
        """Stop counting, because the submission has ended or was given up."""
        self._on_passed = None  # the callback refers to the submission, which would make a reference cycle
        self._set_timer()

    @property
    def _until(self) -> float:
        return self.at_in_line if self._is_in_line else self.at

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._on_passed is not None:
            self._timer = self._gate.loop.call_at(self._until, self._on_timer, self._until)

    def _on_timer(self, reached: float) -> None:
        loop = self._gate.loop
        if self._until > max(reached, loop.time()):  # meanwhile, the service has accepted another edit
            self._set_timer()
        elif self._on_passed is not None:
            loop.call_soon(self._on_passed)  # not at once, so that a reply that has just arrived goes first
