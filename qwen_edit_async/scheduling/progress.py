"""What the progress that a service tells says of the time that remains, and whether to believe it. Pure."""

from __future__ import annotations

import math

from qwen_edit_async.scheduling.survival import Survival

_STRENGTH = 0.005
"""Ends for each e-fold of the time that seems to remain: it is not believed before there is evidence anyhow."""

_STRATA_OF_A_HALVING = 3

_LEAST_LEFT = 1 / 64
"""What remains at least, whatever progress says: its error is larger by then."""

_LEAST_DONE, _LEAST_AGE = 0.01, 0.05
"""Progress below this, or told at a younger age, in seconds, is too little to extrapolate from."""

_CONVINCING = 3.0
"""Nats by which progress must have foretold better than age before it is believed: odds of 20 to 1."""

_MOST_GAIN = 20.0
"""Nats; more would make a service that begins to lie believed for long, and one that once lied never again."""


class ProgressEvidence:
    """Extrapolates progress, and learns how long tasks last in units of the time that seems to remain.

    How far that can be trusted depends on how much remains, hence an estimate for each fifth by which that shrinks,
    which learns what progress means that is not linear. Beside each answer it is noted how much likelier that was by
    progress than by age (Dawid, *The prequential approach*, 1984): what is constant, random or runs backwards gains
    nothing.

    Args:
        memory: After how many more ends what is known of the time that remains, and after how many more answers what
            progress has gained, has faded to 1/e.
    """

    def __init__(self, memory: float) -> None:
        self._memory = memory
        self._estimates: dict[int, Survival] = {}
        self._decay = math.exp(-1 / memory)
        self._gain = 0.0

    @property
    def convincing(self) -> bool:
        """Whether progress has foretold the answers of late so much better than age that it is to be followed."""
        return self._gain > _CONVINCING

    def view(self, age: float, progress: float) -> tuple[Survival, float] | None:
        """Of a task that told ``progress`` at ``age``: an estimate of what remains, and the seconds of its unit."""
        if not _LEAST_DONE <= progress <= 1 or age < _LEAST_AGE:
            return None
        left = max(1 - progress, _LEAST_LEFT)
        stratum = int(-math.log2(left) * _STRATA_OF_A_HALVING)
        estimate = self._estimates.get(stratum)
        if estimate is None:
            estimate = self._estimates[stratum] = Survival(memory=self._memory, strength=_STRENGTH)
        return estimate, age * left / progress

    def learn(self, by_age: Survival, age: float, progress: float, until: float, *, ended: bool) -> None:
        """A task that told ``progress`` at ``age`` ran on until the age of ``until``, or ended before it.

        ``by_age`` foretold that as well, and has not learned of it yet.
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
