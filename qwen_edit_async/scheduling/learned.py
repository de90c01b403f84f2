"""The poll policy that learns how long edits take. Pure: no I/O, no clock, no randomness."""

from __future__ import annotations

import math

import attrs

from qwen_edit_async.contract import DEFAULT_OUTPUT_PIXELS, MIN_N
from qwen_edit_async.models import EditParameters
from qwen_edit_async.scheduling.policies import PolledTask, check_seconds
from qwen_edit_async.scheduling.progress import ProgressEvidence
from qwen_edit_async.scheduling.survival import Survival

_STRENGTH_OF_IGNORANCE = 0.15
"""Ends for each e-fold of age: what is assumed of the unknown gives way to the first evidence."""

_STRENGTH_OF_ALL = 2.0
"""Ends for each e-fold of age: tasks of a kind are believed to last as all do until a few of them have ended."""

_DEFAULT_KIND = (MIN_N, 0)


@attrs.define(eq=False)
class Learned:
    """Check when it is worth most, as learned from the session's own tasks.

    The sum to minimise is the lag from a task's end to the check that finds it, plus ``poll_cost`` for each check.
    Where the hazard (ends a second among running tasks) is h, the best interval between checks is √(2·poll_cost/h):
    seldom while hardly any task ends, often when many do (Keller, *Optimum checking schedules for systems subject to
    random failure*, Management Science 21, 1974; after Barlow, Hunter and Proschan, *Optimum checking procedures*,
    J. SIAM 11, 1963). So a check is due whenever the integral of √(h/(2·poll_cost)) has grown by 1. The hazard is ends
    divided by time at risk, in which running tasks count as well (Kaplan and Meier, *Nonparametric estimation from
    incomplete observations*, 1958); an end between two checks is spread between them (Turnbull, 1976); evidence fades,
    so that it follows the service. Tasks of one ``n`` and size have an estimate of their own, which begins as that of
    all tasks, which begins as the hazard 1/age: then intervals grow with the age. ``progress`` is extrapolated, and the
    hazard learned in units of the time that seems to remain; it is used while it foretells answers better than age does
    (Dawid, *The prequential approach*, 1984).

    One session, or several on one event loop, may use an instance; it keeps nothing of a task.

    Attributes:
        poll_cost: Seconds of lag that are worth one check. A fourth of it means half the lag and twice the checks. With
            the default there are a fifth fewer checks than with one every 3 s, the habit of the service's own clients,
            at about 0.7 of the lag (simulated, 20 s a task).
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
    _progress: ProgressEvidence = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._all = self._estimate(_STRENGTH_OF_IGNORANCE)
        self._of_unknown_age = self._estimate(_STRENGTH_OF_IGNORANCE)
        self._progress = ProgressEvidence(self.memory)

    def next_check(self, task: PolledTask, now: float) -> float:
        """Where it is worth most: ``poll_cost`` to ``max_interval`` after the last check was sent, but not before now.

        If ``poll_cost`` is the greater of the two, it is ``max_interval`` after it.
        """
        estimate, age = self._estimate_of(task), task.checked_at - task.since
        if task.checked_at > task.previous_at:
            start = task.previous_at - task.since
            if task.previous_progress is not None and not task.attached:
                self._progress.learn(estimate, start, task.previous_progress, age, ended=False)
            estimate.survived(start, age)
        view = self._view_by_progress(task, age)
        if view is None:
            interval = estimate.check_age(age, self.poll_cost) - age
        else:
            remaining, unit = view
            interval = remaining.check_age(0.0, self.poll_cost / unit) * unit
        # A check sooner than poll_cost after another saves less lag than it costs.
        return max(now, task.checked_at + min(max(interval, self.poll_cost), self.max_interval))

    def ended(self, task: PolledTask, now: float, *, completed: bool) -> None:
        """Learn from it; of a task that failed or was given up, its checks have told everything."""
        if not completed:
            return
        estimate, age, until = self._estimate_of(task), task.checked_at - task.since, now - task.since
        if task.progress is not None and not task.attached:
            self._progress.learn(estimate, age, task.progress, until, ended=True)
        estimate.ended(age, until)

    def likelihood(self, task: PolledTask, now: float) -> float:
        """How probable it is that the task has ended since its last check, 0 to 1."""
        age = task.checked_at - task.since
        view = self._view_by_progress(task, age)
        if view is None:
            return self._estimate_of(task).probability(age, now - task.since)
        remaining, unit = view
        return remaining.probability(0.0, (now - task.checked_at) / unit)

    def _view_by_progress(self, task: PolledTask, age: float) -> tuple[Survival, float] | None:
        if task.progress is None or task.attached or not self._progress.convincing:
            return None
        return self._progress.view(age, task.progress)

    def _estimate_of(self, task: PolledTask) -> Survival:
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
    if parameters is None:
        return _DEFAULT_KIND
    number = parameters.n or MIN_N
    if parameters.size is None:
        return number, 0
    width, height = parameters.size
    return number, round(math.log2(width * height / DEFAULT_OUTPUT_PIXELS))
