"""The remaining time of a task, extrapolated from the progress that the service reports. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import partial

from qwen_edit_async.scheduling.survival import Survival

_STRENGTH = 0.005
"""The weight of the prior (the estimate before there is evidence), in ended tasks; see :class:`Survival`.

The weight can be small, because no estimate is used until progress is convincing.
"""

_STRATA_OF_A_HALVING = 3

_LEAST_LEFT = 1 / 64
"""The smallest share of a task that is taken as remaining. Reported progress is too inexact for a smaller share."""

_LEAST_DONE, _LEAST_AGE = 0.01, 0.05
"""The smallest progress, and the smallest age in seconds, from which to extrapolate."""

_CONVINCING = 6.0
"""Progress is used if its lead over age exceeds this number of nats (units of the natural logarithm).

The lead measures how much better progress has predicted recent replies than age has. If progress gave a reply a
probability of 0.8, and age gave it 0.4, the lead grows by ln(0.8/0.4), or about 0.7. 6 nats are odds of 400 to 1. With
a lower threshold, progress that is half random is used too often. With a higher threshold, honest progress is used too
late.
"""

_MOST_GAIN = 20.0
"""The maximum lead of progress or age, in nats. A larger lead would take too long to reverse if the service changes."""


class ProgressEvidence:
    """Extrapolates how long a task will still run, and learns the ratio of the actual time to the extrapolated time.

    The accuracy of the extrapolation depends on the share of the task that remains. So each range of this share (1 to
    0.79, 0.79 to 0.63, …) has its own estimate. These estimates also correct progress that is not linear. The class
    compares how well progress and age predicted each reply (Dawid, *The prequential approach*, 1984).
    Progress that is constant or random, or runs backward, gains no lead over age.

    Args:
        memory: The number of ended tasks after which the weight of older evidence has faded to 1/e. The comparison with
            age fades after the same number of replies.
    """

    def __init__(self, memory: float) -> None:
        self._estimates = defaultdict[int, Survival](partial(Survival, memory=memory, strength=_STRENGTH))
        self._decay = math.exp(-1 / memory)
        self._gain = 0.0

    @property
    def convincing(self) -> bool:
        """Whether progress has recently predicted replies much better than age has."""
        return self._gain > _CONVINCING

    def view(self, age: float, progress: float) -> tuple[Survival, float] | None:
        """Return the estimate for a task that reached ``progress`` at ``age``, and the estimate's unit in seconds.

        The unit is the extrapolated remaining time: 30 s for a progress of 0.25 at an age of 10 s. Return ``None`` if
        ``progress`` or ``age`` is too small, or if ``progress`` is over 1.
        """
        if not _LEAST_DONE <= progress <= 1 or age < _LEAST_AGE:
            return None
        left = max(1 - progress, _LEAST_LEFT)
        stratum = int(-math.log2(left) * _STRATA_OF_A_HALVING)
        return self._estimates[stratum], age * left / progress

    def learn(self, by_age: Survival, age: float, progress: float, until: float, *, ended: bool) -> None:
        """Learn that a task with ``progress`` at ``age`` still ran at age ``until``, or had ended by then.

        ``by_age`` is the estimate from the task's age alone. The caller must update ``by_age`` only after this call.
        """
        view = self.view(age, progress)
        if view is None:
            return
        estimate, unit = view
        length = (until - age) / unit
        gain = estimate.log_likelihood(0.0, length, ended=ended) - by_age.log_likelihood(age, until, ended=ended)
        self._gain = max(-_MOST_GAIN, min(_MOST_GAIN, self._gain * self._decay + gain))
        if ended:
            estimate.ended(0.0, length)
        else:
            estimate.survived(0.0, length)
