"""Sources of randomness for tests."""

from __future__ import annotations

from random import Random


class NoJitter(Random):
    """Always draws 0, so that retries need no wait."""

    def random(self) -> float:
        return 0.0


class Drawing(Random):
    """Always draws the same number."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def random(self) -> float:
        return self.number
