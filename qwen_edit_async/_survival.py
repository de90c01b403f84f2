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
_LAST_EDGE = 7200.0
_LOG_STEP = 0.04
_STEPS = math.ceil(math.log(_LAST_EDGE / _FIRST_EDGE) / _LOG_STEP)
_EDGES = (0.0, *(_FIRST_EDGE * math.exp(_LOG_STEP * step) for step in range(_STEPS + 1)))
_WIDTHS = tuple(end - start for start, end in pairwise(_EDGES))
_LAST = len(_WIDTHS) - 1

_UNKNOWING = tuple(1 / max(1.0, (start + end) / 2) for start, end in pairwise(_EDGES))
"""Hazard of a duration of which nothing is known: it may end in the next second as well as in the next tenfold."""

_ENDS_BETWEEN_ESTIMATES = 15
_STRETCHES_BETWEEN_ESTIMATES = 100
_LEAST_PROBABILITY = 1e-9


class Survival:
    """The distribution of a duration, as far as it is known.

    An end inside a stretch is spread over it in proportion to the estimate, one step of Turnbull's self-consistency
    (J. R. Stat. Soc. B 38, 1976). Old evidence fades exponentially. To take in evidence costs O(1), for an end O(steps
    of the grid in the stretch); every so often the estimate is renewed, O(grid); a question is O(log grid). Durations
    may have any unit; those from 0.05 to 7200 are told apart, by steps of 4 %.

    Args:
        memory: After how many more ends the weight of evidence has faded to 1/e.
        strength: How many ends, for each e-fold of age, the prior weighs as much as.
        prior: The estimate to believe for want of evidence; by default the hazard of 1 / age, under which checks back
            off.

    Attributes:
        hazard: The estimate, for each step of the grid.
    """

    hazard: list[float]

    def __init__(self, *, memory: float, strength: float, prior: Survival | None = None) -> None:
        self._decay = math.exp(-1 / memory)
        self._most_time = [2 * memory * width for width in _WIDTHS]
        self._strength = strength * _LOG_STEP
        self._prior = prior
        self._events = [0.0] * len(_WIDTHS)
        self._time = [0.0] * len(_WIDTHS)
        self._weight = 0.0
        self._clear_news()
        self._estimate()

    def survived(self, start: float, end: float) -> None:
        """A task of age ``start`` ran on, at least until age ``end``."""
        first, last = _step_of(start), _step_of(end)
        self._entering[first] += 1
        self._entering[last + 1] -= 1
        self._new_time[first] -= start - _EDGES[first]
        self._new_time[last] -= _EDGES[last + 1] - end
        self._stretches += 1
        self._renew_if_worthwhile()

    def ended(self, start: float, end: float) -> None:
        """A task that ran at age ``start`` ended before age ``end``."""
        first, last = _step_of(start), _step_of(end)
        edges = (start, *_EDGES[first + 1 : last + 1], end)
        hazards = (self._hazard_until(start), *self._cumulated[first + 1 : last + 1], self._hazard_until(end))
        running = [math.exp(hazards[0] - hazard) for hazard in hazards]
        over = running[-1]
        ending = max(_LEAST_PROBABILITY, 1 - over)
        left = 1.0
        for step, (low, high), still_running in zip(range(first, last + 1), pairwise(edges), running[1:], strict=True):
            still_left = (still_running - over) / ending
            self._new_events[step] += left - still_left
            self._new_time[step] += (high - low) * (left + still_left) / 2
            left = still_left
        self._ends += 1
        self._renew_if_worthwhile()

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
        goal = self._roots_until(age) + math.sqrt(2 * cost)
        step = min(_LAST, bisect_right(self._cumulated_roots, goal) - 1)
        return _EDGES[step] + (goal - self._cumulated_roots[step]) / self._roots[step]

    def _hazard_until(self, age: float) -> float:
        step = _step_of(age)
        return self._cumulated[step] + self.hazard[step] * (age - _EDGES[step])

    def _roots_until(self, age: float) -> float:
        step = _step_of(age)
        return self._cumulated_roots[step] + self._roots[step] * (age - _EDGES[step])

    def _renew_if_worthwhile(self) -> None:
        enough = min(_ENDS_BETWEEN_ESTIMATES, 1 + self._weight / 10)
        if self._ends >= enough or self._stretches >= _STRETCHES_BETWEEN_ESTIMATES:
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
        self._new_events = [0.0] * len(_WIDTHS)
        self._new_time = [0.0] * len(_WIDTHS)
        self._entering = [0] * (len(_WIDTHS) + 1)
        self._ends = 0
        self._stretches = 0

    def _estimate(self) -> None:
        prior = self._prior.hazard if self._prior is not None else _UNKNOWING
        strength = self._strength
        self.hazard = [
            (events + strength) / (time + strength / believed)
            for events, time, believed in zip(_smoothed(self._events), _smoothed(self._time), prior, strict=True)
        ]
        self._roots = list(map(math.sqrt, self.hazard))
        self._cumulated = _cumulate(self.hazard)
        self._cumulated_roots = _cumulate(self._roots)


def _step_of(age: float) -> int:
    if age < _FIRST_EDGE:
        return 0
    return min(_LAST, 1 + int(math.log(age / _FIRST_EDGE) / _LOG_STEP))


def _smoothed(values: list[float]) -> list[float]:
    """Each with a quarter of its neighbours' and a half of its own."""
    before, after = values[:1] + values[:-1], values[1:] + values[-1:]
    return [(left + 2 * value + right) / 4 for left, value, right in zip(before, values, after, strict=True)]


def _cumulate(rates: list[float]) -> list[float]:
    return [0.0, *accumulate(map(operator.mul, rates, _WIDTHS))]
