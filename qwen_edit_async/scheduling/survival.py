"""Estimates how long tasks run, from ended and running tasks. Pure: no I/O, no clock.

A piece of evidence is a stretch of a task's life. The task either ran through the whole stretch, or ended somewhere
inside. The possible ages of a task are divided into the steps of a grid. The estimate gives each step a hazard: the
number of ends in the step, divided by the total running time in the step. For example, 100 tasks reach an age of 10 s,
and 5 of them end within the next second. In this second, all of them together run for about 98 s, so the hazard is
5/98, or about 0.05 ends per second.
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

_UNINFORMED = [1 / max(1.0, (start + end) / 2) for start, end in pairwise(_EDGES)]
"""The hazard without evidence: 1/age, but at most 1. With it, half of the tasks running at age 10 end before age 20."""

_NEWS_SHARE = 0.3
_MOST_NEWS = 30.0
"""The weight of evidence is roughly the number of ended tasks. The estimate is renewed when the news (the new evidence)
weighs 1 + 0.3 × the weight of the old evidence, or 30 if that is less. After 50 ended tasks, 16 more are enough."""

_NEWS_IN_A_STRETCH = 0.1
"""The weight of the news that a task still runs. With 0, the estimate would adapt late to a slower service."""

_LEAST_PROBABILITY = 1e-9


class Survival:
    """The estimated distribution of a duration.

    The exact time of an end in its stretch is unknown. So the end is divided among the steps of the stretch, in
    proportion to the estimated probability of an end in each step. This is one iteration of Turnbull's self-consistency
    algorithm (J. R. Stat. Soc. B 38, 1976). Old evidence fades exponentially.

    With a grid of n steps, a query or a survived stretch costs O(log n). An end costs O(steps in its stretch). Renewing
    the estimate costs O(n), and happens less often as ends accumulate.

    Durations may have any unit. The edges of the grid are 0, 0.05, and then values up to just over 3600, each about 8 %
    greater than the one before.

    Args:
        memory: The number of ends after which the weight of older evidence has faded to 1/e.
        strength: The weight of ``prior``, as a number of ended tasks for each range of ages from x to e·x. With 2, the
            prior counts as 2 tasks that end between 10 and 27, 2 that end between 27 and 74, and so on.
        prior: The estimate that holds before there is evidence, such as the estimate for all tasks. The prior also
            learns what this estimate learns. The default prior is the hazard 1/age, so checks get rarer as a task ages.

    Attributes:
        hazard: The estimated hazard for each step of the grid.
    """

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

    def _clear_news(self) -> None:
        self._new_events = [0.0] * _SIZE
        self._new_time = [0.0] * _SIZE
        self._entering = [0] * (_SIZE + 1)
        self._ends = 0
        self._news = 0.0
        self._enough_news = min(_MOST_NEWS, 1 + self._weight * _NEWS_SHARE)

    def _estimate(self) -> None:
        prior = self._prior.hazard if self._prior is not None else _UNINFORMED
        strength = self._strength
        self.hazard: list[float] = [
            (events + strength) / (time + strength / believed)
            for events, time, believed in zip(self._events, self._time, prior, strict=True)
        ]
        self._roots = list(map(math.sqrt, self.hazard))
        self._cumulated = _cumulate(self.hazard)
        self._cumulated_roots = _cumulate(self._roots)

    def survived(self, start: float, end: float) -> None:
        """Learn that a task ran from age ``start`` at least until age ``end``.

        For speed, this only notes the steps in which the stretch begins and ends. :meth:`_take_in_news` later counts
        every step of the stretch at full width. So the parts that lie outside the stretch are subtracted here.
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
        """Learn that a task ran at age ``start`` and ended before age ``end``."""
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
        # The last step gets the rest, so that each end counts as exactly 1 despite rounding.
        self._new_events[last] += left
        self._new_time[last] += (end - age) * left / 2
        self._ends += 1
        self._news += 1
        if self._news >= self._enough_news:
            self._renew()

    def probability(self, start: float, end: float) -> float:
        """Return the probability that a task running at age ``start`` ends before age ``end``."""
        return -math.expm1(self._hazard_until(start) - self._hazard_until(end))

    def log_likelihood(self, start: float, end: float, *, ended: bool) -> float:
        """Return the log-likelihood that a task running at age ``start`` has, or has not, ended by age ``end``."""
        if ended:
            return math.log(max(_LEAST_PROBABILITY, self.probability(start, end)))
        return self._hazard_until(start) - self._hazard_until(end)

    def check_age(self, age: float, cost: float) -> float:
        """Return the best age for the next check of a task running at ``age``.

        One check counts as much as a lag of ``cost``. The lag is the time from the task's end to the check that finds
        the end.
        """
        step = bisect_right(_EDGES, age, 1, _SIZE) - 1
        goal = self._cumulated_roots[step] + self._roots[step] * (age - _EDGES[step]) + math.sqrt(2 * cost)
        step = bisect_right(self._cumulated_roots, goal, 1, _SIZE) - 1
        return _EDGES[step] + (goal - self._cumulated_roots[step]) / self._roots[step]

    def learn_from(self, other: Survival) -> None:
        """Learn from the new evidence of another estimate, which has this one as its prior."""
        self._new_events = list(map(operator.add, self._new_events, other._new_events))
        self._new_time = list(map(operator.add, self._new_time, other._new_time))
        self._entering = list(map(operator.add, self._entering, other._entering))
        self._ends += other._ends
        self._news += other._news
        if self._news >= self._enough_news:
            self._renew()

    def _hazard_until(self, age: float) -> float:
        step = bisect_right(_EDGES, age, 1, _SIZE) - 1
        return self._cumulated[step] + self.hazard[step] * (age - _EDGES[step])

    def _renew(self) -> None:
        if self._prior is not None:
            self._prior.learn_from(self)
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
        # Evidence fades only when tasks end. So without this limit, a long time without ends would outweigh later ends.
        for step, most in enumerate(self._most_time):
            if self._time[step] > most:
                self._events[step] *= most / self._time[step]
                self._time[step] = most
        self._weight = self._weight * fading + self._ends


def _cumulate(rates: list[float]) -> list[float]:
    return [0.0, *accumulate(map(operator.mul, rates, _WIDTHS))]
