"""Chooses the task to check next if more checks are due than ``poll_rate`` allows. Pure: no clock, no randomness."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from itertools import islice
from typing import Generic, TypeVar

_BURST_SECONDS = 0.05
_CANDIDATES = 32
_PATIENCE_ROUNDS = 3

H = TypeVar("H", bound=Hashable)


class CheckLimiter(Generic[H]):
    """Limits the checks per second, and chooses the task for each check.

    For each check, the limiter looks at the next 32 waiting tasks, and chooses the task that has most likely ended.
    Choosing among 32 takes constant time, and is nearly as good as choosing among all. A task that has waited for three
    rounds goes first; older tasks delay it by at most one more round. A round is the time to check all waiting tasks
    once. So if at most n tasks wait at a time, no task waits longer than ``4 * n / rate`` seconds.

    Args:
        rate: The maximum number of checks per second. After an idle time, ``1 + 0.05 * rate`` checks may start at once.
        likelihood: Called with a task and a time. Returns the probability that the task has ended by then. Without
            this function, the task that has waited longest goes first.

    Attributes:
        ready_at: The earliest time of the next check.
        seconds: The time between two checks at this rate.
    """

    def __init__(self, rate: float, likelihood: Callable[[H, float], float] | None = None) -> None:
        self.ready_at: float = -math.inf
        self.seconds: float = 1 / rate
        self._likelihood = likelihood
        self._waiting_since: OrderedDict[H, float] = OrderedDict()
        self._ring: OrderedDict[H, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._ring)

    def add(self, task: H, now: float) -> None:
        """Add a task that waits for its check. A task that already waits keeps its place."""
        self._waiting_since.setdefault(task, now)
        self._ring.setdefault(task)

    def discard(self, task: H) -> None:
        """Remove a task if it waits."""
        self._waiting_since.pop(task, None)
        self._ring.pop(task, None)

    def spend(self, now: float) -> None:
        """Count a check that starts now."""
        self.ready_at = max(self.ready_at, now - _BURST_SECONDS) + self.seconds

    def take(self, now: float) -> H | None:
        """Remove and return the task to check now. Return ``None`` if no task waits or no check may start."""
        if now < self.ready_at or not self._ring:
            return None
        self.spend(now)
        task = self._choose(now)
        self.discard(task)
        return task

    def _choose(self, now: float) -> H:
        longest, since = next(iter(self._waiting_since.items()))
        likelihood = self._likelihood
        if likelihood is None or now - since >= _PATIENCE_ROUNDS * len(self._ring) * self.seconds:
            return longest
        candidates = list(islice(self._ring, _CANDIDATES))
        for candidate in candidates:  # the next check looks at others first
            self._ring.move_to_end(candidate)
        return max(candidates, key=lambda task: likelihood(task, now))
