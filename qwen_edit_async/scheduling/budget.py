"""Which task to check next when not all that are due can be. Pure: no clock, no randomness."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

_BURST_SECONDS = 0.05
_CANDIDATES = 32
_PATIENCE_ROUNDS = 3

H = TypeVar("H", bound=Hashable)


class PollBudget(Generic[H]):
    """A ceiling for checks, spent on the tasks most likely to have ended.

    Each check goes to the likeliest of the next 32 waiting tasks, taken in turn, which costs the same however many wait
    and is nearly as good as the likeliest of all. No task starves: one that has waited for three rounds (a round is the
    number of waiting tasks divided by the rate) goes first, longest wait first. So none waits longer than four rounds,
    ``4 * n / rate`` seconds, n being the most tasks that waited at once meanwhile. Every second check at most goes to a
    task that is urgent; while there are such, that is five rounds.

    Args:
        rate: The most checks a second, infinity for no ceiling; up to 0.05 s of them may come at once.
        likelihood: How probable it is that a task has ended, at a time; by default the longest wait goes first.

    Attributes:
        ready_at: No check may start before this time.
    """

    def __init__(self, rate: float, likelihood: Callable[[H, float], float] | None = None) -> None:
        self.ready_at = -math.inf
        self._rate = rate
        self._likelihood = likelihood
        self._waiting_since: OrderedDict[H, float] = OrderedDict()
        self._ring: list[H] = []
        self._place: dict[H, int] = {}
        self._turn = 0
        self._was_urgent = False

    def __len__(self) -> int:
        return len(self._ring)

    def add(self, task: H, now: float) -> None:
        """A task is due for a check; one that waits already waits on."""
        if task in self._place:
            return
        self._waiting_since[task] = now
        self._place[task] = len(self._ring)
        self._ring.append(task)

    def discard(self, task: H) -> None:
        """Forget a task, if it waits."""
        if task not in self._place:
            return
        del self._waiting_since[task]
        place = self._place.pop(task)
        moved = self._ring.pop()
        if moved is not task:
            self._ring[place] = moved
            self._place[moved] = place

    def take(self, now: float, urgent: H | None = None) -> H | None:
        """The task to check now, if there is one, and a check to spend; an ``urgent`` one that waits may go first."""
        if now < self.ready_at or not self._ring:
            return None
        self.ready_at = max(self.ready_at, now - _BURST_SECONDS) + 1 / self._rate
        if urgent is None or self._was_urgent:
            task, self._was_urgent = self._choose(now), False
        else:
            task, self._was_urgent = urgent, True
        self.discard(task)
        return task

    def _choose(self, now: float) -> H:
        longest, since = next(iter(self._waiting_since.items()))
        likelihood = self._likelihood
        if likelihood is None or now - since >= _PATIENCE_ROUNDS * len(self._ring) / self._rate:
            return longest
        start = self._turn if self._turn < len(self._ring) else 0
        candidates = self._ring[start : start + _CANDIDATES]
        self._turn = start + len(candidates)
        return max(candidates, key=lambda task: likelihood(task, now))
