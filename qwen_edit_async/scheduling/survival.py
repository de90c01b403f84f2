"""How long tasks last, estimated online from tasks that ended and from tasks that still run. Pure: no I/O, no clock.

Evidence is a stretch of a task's life: it ran all through it, or it ended somewhere inside. The estimate is the hazard
(ends a second among the tasks that run): ends divided by time at risk, for each step of a grid of ages.
"""

from __future__ import annotations

import math
import operator
from bisect import bisect_right
from itertools import accumulate, pairwise

_FIRST_EDGE = 0.05
_LAST_EDGE = 3600.0
_LOG_STEP = 0.08
_STEPS = math.ceil(math.log(_LAST_EDGE / _FIRST_EDGE) / _LOG_STEP)
_EDGES = (0.0, *(_FIRST_EDGE * math.exp(_LOG_STEP * step) for step in range(_STEPS + 1)))
_WIDTHS = tuple(end - start for start, end in pairwise(_EDGES))
_SIZE = len(_WIDTHS)

_UNKNOWING = [1 / max(1.0, (start + end) / 2) for start, end in pairwise(_EDGES)]
"""Hazard of a duration of which nothing is known: it may end in the next second as well as in the next tenfold."""

_NEWS_SHARE = 0.3
_MOST_NEWS = 30.0
"""The estimate is renewed when the news weigh three tenths of all evidence, or as much as 30 ends."""

_NEWS_IN_A_STRETCH = 0.1
"""Ends that the news of a task that runs on are counted as, lest a service that slows down be noticed late."""

_LEAST_PROBABILITY = 1e-9


class Survival:
    """The distribution of a duration, as far as it is known.

    An end inside a stretch is spread over it in proportion to the estimate, one step of Turnbull's self-consistency
    (J. R. Stat. Soc. B 38, 1976). Old evidence fades exponentially. A question and evidence of a task that runs on cost
    O(log grid), an end O(steps of the grid in its stretch); the estimate is renewed, O(grid), the more seldom the more
    ends it knows.
    Durations may have any unit; those from 0.05 to 3600 are told apart, by steps of 8 %.

    Args:
        memory: After how many more ends the weight of evidence has faded to 1/e.
        strength: How many ends, for each e-fold of age, the prior weighs as much as.
        prior: The estimate of all that this is a kind of: it is believed for want of evidence, and learns from whatever
            this one learns from. By default the hazard of 1 / age is believed, under which checks back off.

    Attributes:
        hazard: The estimate, for each step of the grid.
    """

    hazard: list[float]
    _new_events: list[float]
    _new_time: list[float]
    _entering: list[int]
    _ends: int
    _news: float
    _enough_news: float

    def __init__(self, *, memory: float, strength: float, prior: Survival | None = None) -> None:
        self._decay = math.exp(-1 / memory)
        self._most_time = [2 * memory * width for width in _WIDTHS]
        self._strength = strength * _LOG_STEP
        self._prior = prior
        self._events = [0.0] * _SIZE
        self._time = [0.0] * _SIZE
        self._weight = 0.0
        self._clear_news()
        self._estimate()

    def survived(self, start: float, end: float) -> None:
        """A task of age ``start`` ran on, at least until age ``end``.

        The steps from ``first`` to before ``after`` were all entered. That is noted at both ends only, as differences,
        which :meth:`_renew` sums up: so it costs the same however many steps there are. Less than the whole of the
        first and of the last was spent in them.
        """
        first = bisect_right(_EDGES, start, 1, _SIZE) - 1
        after = bisect_right(_EDGES, end, 1, _SIZE)
        self._entering[first] += 1
        self._entering[after] -= 1
        self._new_time[first] -= start - _EDGES[first]
        self._new_time[after - 1] -= _EDGES[after] - end
        self._news += _NEWS_IN_A_STRETCH
        if self._news >= self._enough_news:
            self._renew()

    def ended(self, start: float, end: float) -> None:
        """A task that ran at age ``start`` ended before age ``end``."""
        ending = max(_LEAST_PROBABILITY, self.probability(start, end))
        left, age, hazard = 1.0, start, 0.0
        last = bisect_right(_EDGES, end, 1, _SIZE) - 1
        for step in range(bisect_right(_EDGES, start, 1, _SIZE) - 1, last):
            until = _EDGES[step + 1]
            hazard += self.hazard[step] * (until - age)
            still_left = max(0.0, 1 + math.expm1(-hazard) / ending)
            self._new_events[step] += left - still_left
            self._new_time[step] += (until - age) * (left + still_left) / 2
            left, age = still_left, until
        # Whatever is left ended in the last step: so an end counts as one however small the differences above were.
        self._new_events[last] += left
        self._new_time[last] += (end - age) * left / 2
        self._ends += 1
        self._news += 1
        if self._news >= self._enough_news:
            self._renew()

    def probability(self, start: float, end: float) -> float:
        """That a task that runs at age ``start`` ends before age ``end``."""
        return -math.expm1(self._hazard_until(start) - self._hazard_until(end))

    def log_likelihood(self, start: float, end: float, *, ended: bool) -> float:
        """Of the evidence that a task that ran at age ``start`` did, or did not, end before age ``end``."""
        if ended:
            return math.log(max(_LEAST_PROBABILITY, self.probability(start, end)))
        return self._hazard_until(start) - self._hazard_until(end)

    def check_age(self, age: float, cost: float) -> float:
        """At which age to check a task that runs at ``age``, if a check costs ``cost``, in units of age."""
        step = bisect_right(_EDGES, age, 1, _SIZE) - 1
        goal = self._cumulated_roots[step] + self._roots[step] * (age - _EDGES[step]) + math.sqrt(2 * cost)
        step = bisect_right(self._cumulated_roots, goal, 1, _SIZE) - 1
        return _EDGES[step] + (goal - self._cumulated_roots[step]) / self._roots[step]

    def hear(self, kind: Survival) -> None:
        """Add the news of a kind to its own."""
        self._new_events = list(map(operator.add, self._new_events, kind._new_events))
        self._new_time = list(map(operator.add, self._new_time, kind._new_time))
        self._entering = list(map(operator.add, self._entering, kind._entering))
        self._ends += kind._ends
        self._news += kind._news
        if self._news >= self._enough_news:
            self._renew()

    def _hazard_until(self, age: float) -> float:
        step = bisect_right(_EDGES, age, 1, _SIZE) - 1
        return self._cumulated[step] + self.hazard[step] * (age - _EDGES[step])

    def _renew(self) -> None:
        if self._prior is not None:
            self._prior.hear(self)
        self._take_in_news()
        self._clear_news()
        self._estimate()

    def _take_in_news(self) -> None:
        fading = self._decay**self._ends
        self._events = [events * fading + new for events, new in zip(self._events, self._new_events, strict=True)]
        self._time = [
            time * fading + new + passing * width
            for time, new, passing, width in zip(
                self._time, self._new_time, accumulate(self._entering[:-1]), _WIDTHS, strict=True
            )
        ]
        # However long nothing ends: that must not weigh for ever.
        for step, most in enumerate(self._most_time):
            if self._time[step] > most:
                self._events[step] *= most / self._time[step]
                self._time[step] = most
        self._weight = self._weight * fading + self._ends

    def _clear_news(self) -> None:
        self._new_events = [0.0] * _SIZE
        self._new_time = [0.0] * _SIZE
        self._entering = [0] * (_SIZE + 1)
        self._ends = 0
        self._news = 0.0
        self._enough_news = min(_MOST_NEWS, 1 + self._weight * _NEWS_SHARE)

    def _estimate(self) -> None:
        prior = self._prior.hazard if self._prior is not None else _UNKNOWING
        strength = self._strength
        self.hazard = [
            (events + strength) / (time + strength / believed)
            for events, time, believed in zip(self._events, self._time, prior, strict=True)
        ]
        self._roots = list(map(math.sqrt, self.hazard))
        self._cumulated = _cumulate(self.hazard)
        self._cumulated_roots = _cumulate(self._roots)


def _cumulate(rates: list[float]) -> list[float]:
    return [0.0, *accumulate(map(operator.mul, rates, _WIDTHS))]
