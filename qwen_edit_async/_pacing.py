"""How much may be submitted at once, and when. Pure: no I/O, no clock.

One :class:`Pacer` a session. It holds the in-flight limit, which "too many requests" lowers at once and success raises
slowly (additive increase, multiplicative decrease), the submission rate, and the pause that a ``Retry-After`` asks for.
"""

from __future__ import annotations

import math

import attrs


@attrs.define
class Pacer:
    """Decides whether one more submission may start. Times are the event loop's, in seconds.

    Attributes:
        max_in_flight: The most tasks between the start of their submission and their end.
        submit_rate: The most submissions a second, evenly spaced; ``None`` for as many as there are slots.
        limit: How many may be in flight just now: at most ``max_in_flight``, at least 1.
        in_flight: How many are.
        resume_at: Nothing is sent to the service before this time.
    """

    max_in_flight: int
    submit_rate: float | None = None
    limit: float = attrs.field(default=attrs.Factory(lambda self: float(self.max_in_flight), takes_self=True))
    in_flight: int = 0
    resume_at: float = -math.inf
    _next_start: float = -math.inf
    _lowered_at: float = -math.inf

    def wait(self, now: float) -> float | None:
        """Seconds until one more may start (0: now); ``None`` if that takes an end or a release first."""
        if self.in_flight >= int(self.limit):
            return None
        return max(0.0, self.resume_at - now, self._next_start - now)

    def start(self, now: float) -> None:
        """One more starts."""
        self.in_flight += 1
        if self.submit_rate is not None:
            self._next_start = max(now, self._next_start) + 1 / self.submit_rate

    def end(self) -> None:
        """One ended, was given up, or could not be submitted."""
        self.in_flight -= 1

    def accepted(self) -> None:
        """The service took a submission: the limit grows by one for each ``limit`` of them."""
        self.limit = min(float(self.max_in_flight), self.limit + 1 / self.limit)

    def throttled(self, now: float, started_at: float) -> None:
        """The service had too many requests: halve what is in flight.

        A refusal of a submission that started before the last halving says nothing new.
        """
        if started_at >= self._lowered_at:
            self.limit = max(1.0, min(self.limit, self.in_flight) / 2)
            self._lowered_at = now

    def pause(self, until: float) -> None:
        """Send nothing before ``until``."""
        self.resume_at = max(self.resume_at, until)
