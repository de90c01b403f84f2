"""The poll policy that learns how long edits take. Pure: no I/O, no clock, no randomness."""

from __future__ import annotations

import math
from typing import NamedTuple

import attrs

from ._contract import DEFAULT_OUTPUT_PIXELS, MIN_N
from ._models import EditParameters
from ._polling import PolledTask, check_seconds
from ._survival import Survival

_STRENGTH_OF_IGNORANCE = 0.15
"""Ends for each e-fold of age: what is assumed of the unknown gives way to the first evidence."""

_STRENGTH_BY_PROGRESS = 0.02
"""Likewise, of the time that seems to remain; progress is not trusted before there is evidence anyhow."""

_STRENGTH_OF_ALL = 2.0
"""Ends for each e-fold of age: tasks of a kind are believed to last as all do until a few of them have ended."""

_PROGRESS_STRATA = 7
_LEAST_LEFT = 2.0 ** (1 - _PROGRESS_STRATA)
"""What remains at least, whatever progress says: its error is larger by then."""

_LEAST_DONE, _LEAST_AGE = 0.01, 0.05
"""Progress below this, or told at a younger age, in seconds, is too little to extrapolate from."""

_CONVINCING = 3.0
"""Nats by which progress must have foretold better than age before it is trusted: odds of 20 to 1."""


class _View(NamedTuple):
    """An estimate that a task is looked at with: its last check was at ``start``, both measured in ``unit`` seconds."""

    estimate: Survival
    start: float
    unit: float

    def log_likelihood(self, seconds: float, *, ended: bool) -> float:
        return self.estimate.log_likelihood(self.start, self.start + seconds / self.unit, ended=ended)


@attrs.define(eq=False)
class Learned:
    """Check when it is worth most, as learned from the session's own tasks.

    The sum to minimise is the lag from a task's end to the check that finds it, plus ``poll_cost`` for each check.
    Where the hazard (ends a second among running tasks) is h, the best interval between checks is √(2·poll_cost/h):
    seldom while hardly any task ends, often when many do (Keller, *Optimum checking schedules for systems subject to
    random failure*, Management Science 21, 1974; after Barlow, Hunter and Proschan, 1963). So a check is due whenever
    the integral of √(h/(2·poll_cost)) has grown by 1. The hazard is ends divided by time at risk, in which running
    tasks count as well (Kaplan and Meier, *Nonparametric estimation from incomplete observations*, 1958); an end
    between two checks is spread between them (Turnbull, 1976); evidence fades, so that it follows the service. Tasks of
    one ``n`` and size have an estimate of their own, which begins as that of all tasks, which begins as the hazard
    1/age: then intervals grow with the age. ``progress`` is extrapolated, and the hazard learned in units of the time
    that seems to remain; it is used while it foretells answers better than age does (Dawid, *The prequential
    approach*, 1984).

    One session, or several on one event loop, may use an instance; it keeps nothing of a task.

    Attributes:
        poll_cost: Seconds of lag that are worth one check. A fourth of it means half the lag and twice the checks. With
            the default there are fewer checks than with one every 3 s, the habit of the service's own clients, at two
            thirds of the lag (simulated, 20 s a task).
        max_interval: The longest interval between checks, in seconds, whatever was learned.
        memory: After how many more ends the weight of evidence has faded to 1/e.

    Raises:
        ConfigurationError: If one of them is no positive number.
    """

    poll_cost: float = attrs.field(default=0.2, validator=check_seconds)
    max_interval: float = attrs.field(default=30.0, validator=check_seconds, kw_only=True)
    memory: float = attrs.field(default=100.0, validator=check_seconds, kw_only=True)
    _all: Survival = attrs.field(init=False, repr=False)
    _of_unknown_age: Survival = attrs.field(init=False, repr=False)
    _kinds: dict[tuple[int, int], Survival] = attrs.field(init=False, repr=False, factory=dict)
    _by_progress: tuple[Survival, ...] = attrs.field(init=False, repr=False)
    _progress_gain: float = attrs.field(init=False, repr=False, default=0.0)

    def __attrs_post_init__(self) -> None:
        self._all = self._estimate(_STRENGTH_OF_IGNORANCE)
        self._of_unknown_age = self._estimate(_STRENGTH_OF_IGNORANCE)
        self._by_progress = tuple(self._estimate(_STRENGTH_BY_PROGRESS) for _ in range(_PROGRESS_STRATA))

    def next_check(self, task: PolledTask, now: float) -> float:
        """Where it is worth most: at least ``poll_cost`` and at most ``max_interval`` after the last check was sent."""
        if task.checked_at > task.previous_at:
            self._learn(task, task.previous_at, task.checked_at, task.previous_progress, ended=False)
        estimate, start, unit = self._best_view(task)
        interval = (estimate.check_age(start, self.poll_cost / unit) - start) * unit
        # A check sooner than poll_cost after another saves less lag than it costs.
        return max(now, task.checked_at + min(max(interval, self.poll_cost), self.max_interval))

    def ended(self, task: PolledTask, now: float, *, completed: bool) -> None:
        """Learn from it; of a task that failed or was given up, its checks have told everything."""
        if completed:
            self._learn(task, task.checked_at, now, task.progress, ended=True)

    def likelihood(self, task: PolledTask, now: float) -> float:
        """How probable it is that the task has ended since its last check, 0 to 1."""
        estimate, start, unit = self._best_view(task)
        return estimate.probability(start, start + (now - task.checked_at) / unit)

    def _learn(self, task: PolledTask, last_seen: float, now: float, progress: float | None, *, ended: bool) -> None:
        start, seconds = last_seen - task.since, now - last_seen
        by_age = _View(self._kind_of(task), start, 1.0)
        by_progress = self._view_by_progress(task, start, progress)
        views = [by_age]
        if not task.attached:
            views.append(_View(self._all, start, 1.0))
        if by_progress is not None:
            gain = by_progress.log_likelihood(seconds, ended=ended) - by_age.log_likelihood(seconds, ended=ended)
            self._progress_gain = self._progress_gain * math.exp(-1 / self.memory) + gain
            views.append(by_progress)
        for estimate, age, unit in views:
            learn = estimate.ended if ended else estimate.survived
            learn(age, age + seconds / unit)

    def _best_view(self, task: PolledTask) -> _View:
        age = task.checked_at - task.since
        if self._progress_gain > _CONVINCING:
            by_progress = self._view_by_progress(task, age, task.progress)
            if by_progress is not None:
                return by_progress
        return _View(self._kind_of(task), age, 1.0)

    def _view_by_progress(self, task: PolledTask, age: float, progress: float | None) -> _View | None:
        """The task as its progress shows it, told at ``age``; the unit is the time that seems to remain.

        How far that can be trusted depends on how much remains, hence an estimate for each halving of it.
        """
        if task.attached or progress is None or not _LEAST_DONE <= progress <= 1 or age < _LEAST_AGE:
            return None
        left = max(1 - progress, _LEAST_LEFT)
        return _View(self._by_progress[int(-math.log2(left))], 0.0, age * left / progress)

    def _kind_of(self, task: PolledTask) -> Survival:
        """The estimate for tasks like this; those of unknown age say nothing of the others, nor these of them."""
        if task.attached:
            return self._of_unknown_age
        kind = _kind(task.parameters)
        estimate = self._kinds.get(kind)
        if estimate is None:
            estimate = self._kinds[kind] = self._estimate(_STRENGTH_OF_ALL, self._all)
        return estimate

    def _estimate(self, strength: float, prior: Survival | None = None) -> Survival:
        return Survival(memory=self.memory, strength=strength, prior=prior)


def _kind(parameters: EditParameters | None) -> tuple[int, int]:
    """The number of output images, and how often their area doubles the default one, rounded."""
    parameters = parameters or EditParameters()
    width, height = parameters.size or (DEFAULT_OUTPUT_PIXELS, 1)
    return parameters.n or MIN_N, round(math.log2(width * height / DEFAULT_OUTPUT_PIXELS))
