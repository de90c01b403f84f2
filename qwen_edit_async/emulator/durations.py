"""Durations of the emulated tasks, in seconds. Pure: the caller passes the random source."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import attrs

if TYPE_CHECKING:
    import random


@attrs.frozen
class LogNormal:
    """Durations like those of most hosted models: many near the median, and a long tail."""

    median: float = attrs.field(default=2.0, validator=attrs.validators.gt(0))
    """The median duration in seconds."""
    sigma: float = attrs.field(default=0.4, validator=attrs.validators.ge(0))
    """The standard deviation of the logarithm. With 0.4, nine of ten tasks take between half and twice the median."""

    def __call__(self, random_source: random.Random) -> float:
        """Draw one duration in seconds."""
        return random_source.lognormvariate(math.log(self.median), self.sigma)


@attrs.frozen
class Bimodal:
    """Fast and slow tasks. A task may be slow because of a cold start or a moderation queue, for example."""

    fast: float
    """The duration of a fast task in seconds."""
    slow: float
    """The duration of a slow task in seconds."""
    slow_share: float = 0.1
    """The probability that a task is slow."""

    def __call__(self, random_source: random.Random) -> float:
        """Draw one duration in seconds."""
        return self.slow if random_source.random() < self.slow_share else self.fast


@attrs.frozen
class AfterChecks:
    """Ends a running task at its ``checks``-th status check, so tests do not depend on time."""

    checks: int = attrs.field(default=1, validator=attrs.validators.ge(1))


Duration: TypeAlias = "float | AfterChecks | Callable[[random.Random], float]"
"""Seconds, a number of checks, or a function that draws seconds."""


def draw(duration: Duration, random_source: random.Random) -> float | None:
    """Return the duration of one task in seconds, or None if status checks end the task."""
    if isinstance(duration, AfterChecks):
        return None
    return duration(random_source) if callable(duration) else duration
