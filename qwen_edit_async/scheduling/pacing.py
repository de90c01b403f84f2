"""How much may be sent at once, and when. Pure: no I/O, no clock, no randomness of its own.

One :class:`Pacer` a session. "Too many requests" can mean two things, and no reply says which: that too many tasks of
the account run, or that too many requests came within a second. So both limits are learned:

- How many tasks may be in flight. At first twice as many as run may be, so that what was never tried is not tried by
  hundreds at once. A refusal lowers that to how many run. From then on one submission at a time tries whether there is
  more room: soon at first, ever more rarely while the answer is no, or a yes is soon taken back.
- How many requests a second may be sent, see :class:`RequestRate`.

The pause that a ``Retry-After`` asks for holds for everything, and tries that cost it are the rarer, the longer it is.
Where requests have to wait for one another, status checks and all else take turns, so that neither keeps the other from
being sent.
"""

from __future__ import annotations

import math
from collections import deque

import attrs

_UNPROVEN_LIMIT = 8
_FIRST_PROBE = 1.0
_LAST_PROBE = 240.0
_LAST_PROBE_OF_NONE = 30.0
_FIRST_HOLD = 5.0
_LAST_HOLD = 320.0
_MOST_SILENCES = 40
"""A refused try that costs a silence waits as often as that as it would wait in half seconds, but so often at most."""

_RAISE = 1.25
_MARGIN = 0.95
_LOWEST_RATE = 0.2
_SECOND = 1.0
_COURTESY = 0.001


@attrs.define
class RequestRate:
    """Requests a second that the service lets in: unlimited until it refuses, then learned.

    A refusal lowers the rate at once: to a little less than what was let in within the last second, but to no less than
    half of what has worked. Requests are then spaced evenly. While they have to wait for that, the rate is raised by a
    quarter from time to time: soon at first, ever more rarely while that is taken back by a refusal.

    Refusals that have nothing to do with how much is sent are taken for such all the same: where a service refuses 2 %
    of its requests at random, edits take about a fourth longer, and with 10 % several times as long.

    Attributes:
        limit: Requests a second; infinity before the first refusal.
        next_at: When the next may be sent.
        raised: Whether it was raised since the last refusal, and so may be too high.
    """

    limit: float = math.inf
    next_at: float = -math.inf
    raised: bool = False
    _let_in_at: deque[float] = attrs.field(factory=deque)
    _worked: float = 2.0
    _lowered_at: float = -math.inf
    _raise_at: float = math.inf
    _hold: float = _FIRST_HOLD
    _delayed: bool = False

    def sent(self, now: float) -> None:
        """One was sent."""
        if self.limit < math.inf:
            self._delayed = self._delayed or now - self.next_at < 1 / self.limit
            self.next_at = max(now, self.next_at) + 1 / self.limit

    def let_in(self, now: float) -> None:
        """One was answered as it should be."""
        self._let_in_at.append(now)
        self._worked = max(self._worked, self._recently(now))
        if now >= self._raise_at and self._delayed:
            if self.raised:
                self._hold = max(_FIRST_HOLD, self._hold / 2)
            self.limit *= _RAISE
            self.raised = True
            self._raise_at = now + self._hold
            self._delayed = False

    def refused(self, now: float, sent_at: float) -> None:
        """One was refused. If it was sent before the limit was last lowered, that says nothing new."""
        if sent_at <= self._lowered_at:
            return
        if self.raised:
            self._hold = min(_LAST_HOLD, 2 * self._hold)
            lowered = self.limit / _RAISE
        else:
            self._hold = _FIRST_HOLD
            lowered = min(self._worked, self.limit) / 2
        lowered = max(_LOWEST_RATE, lowered, min(_MARGIN * self._recently(now), _MARGIN * self.limit))
        self.limit = lowered
        self.next_at = now + 1 / lowered
        self._lowered_at = now
        self._raise_at = now + self._hold
        self._delayed = self.raised = False

    def _recently(self, now: float) -> int:
        while self._let_in_at and self._let_in_at[0] <= now - _SECOND:
            self._let_in_at.popleft()
        return len(self._let_in_at)


@attrs.define
class Pacer:
    """Decides whether one more submission may start, or request be sent. Times are the event loop's, in seconds.

    Attributes:
        max_in_flight: The most tasks between the start of their submission and their end.
        submit_rate: The most submissions a second, evenly spaced, those that are made again included; ``None`` for as
            many as there are slots.
        limit: How many may be in flight without trying whether the service has room for them.
        in_flight: How many are.
        running: How many of them the service has accepted.
        resume_at: Nothing is sent to the service before this time.
        pauses: Seconds of all pauses so far, the rest of the current one included.
        accepted_at: When the service last accepted a submission.
        submit_at: When the next submission may be sent, as far as ``submit_rate`` is concerned.
        turn_wanted: Whether a request that is no check of the poller's waits to be sent.
    """

    max_in_flight: int
    submit_rate: float | None = None
    limit: int = _UNPROVEN_LIMIT
    in_flight: int = 0
    running: int = 0
    resume_at: float = -math.inf
    pauses: float = 0.0
    accepted_at: float = -math.inf
    rate: RequestRate = attrs.field(factory=RequestRate)
    submit_at: float = -math.inf
    turn_wanted: bool = False
    _check_went_last: bool = False
    _next_start: float = -math.inf
    _probe_at: float = -math.inf
    _probe_wait: float = _FIRST_PROBE
    _raised: bool = False
    _raised_at: float = -math.inf
    _shut_out: bool = False
    _lowered_at: float = -math.inf

    @property
    def send_at(self) -> float:
        """When the next request may be sent."""
        return max(self.resume_at, self.rate.next_at)

    @property
    def check_at(self) -> float:
        """When the poller may send the next check: like any request, but after another check it lets others go first.

        Those wait a little longer than for :attr:`send_at`, so that else a check that is due goes first: what it finds
        ended makes room.
        """
        yields = self.turn_wanted and self._check_went_last
        return self.send_at + (2 * _COURTESY if yields else 0.0)

    @property
    def turn_at(self) -> float:
        """When to send a request that had to wait for its turn."""
        return self.send_at + _COURTESY

    def sent(self, now: float, *, check: bool = False) -> None:
        """A request was sent; ``check`` tells whether it is one of the poller's."""
        self.rate.sent(now)
        self._check_went_last = check

    def submitted(self, now: float) -> None:
        """What was sent is a submission."""
        if self.submit_rate is not None:
            self.submit_at = max(self.submit_at, now) + 1 / self.submit_rate

    def wait(self, now: float) -> float | None:
        """Seconds until one more may start (0: now); ``None`` if that takes an end or an answer first."""
        if self.in_flight >= min(self.max_in_flight, self.limit + 1):
            return None
        start_at = max(self.resume_at, self._next_start, self.submit_at)
        if self.in_flight >= self.limit:
            start_at = max(start_at, self._probe_at)
        return max(0.0, start_at - now)

    def start(self, now: float) -> None:
        """One more starts."""
        if self.in_flight >= self.limit:
            self._probe_at = now + self._probe_wait
        self.in_flight += 1
        if self.submit_rate is not None:
            self._next_start = max(now, self._next_start) + 1 / self.submit_rate

    def end(self, *, accepted: bool) -> None:
        """One ended, was given up, or could not be submitted."""
        self.in_flight -= 1
        self.running -= accepted

    def accepted(self, now: float) -> None:
        """The service took a submission."""
        self.accepted_at = now
        self.running += 1
        if self._shut_out:  # what was refused while nothing ran said nothing of how many may
            self._shut_out = False
            self._probe_wait = _FIRST_PROBE
        if self._lowered_at == -math.inf:
            self.limit = max(self.limit, 2 * self.running)
        elif self.running > self.limit:
            self.limit = self.running
            if self._raised:  # the raise before was not taken back
                self._probe_wait = max(_FIRST_PROBE, self._probe_wait / 2)
            self._raised = True
            self._raised_at = now
            self._probe_at = now + self._probe_wait
        self.rate.let_in(now)

    def throttled(self, now: float, sent_at: float, draw: float) -> None:
        """The service had too many requests for a submission.

        Which limit that is charged to:

        - no rate was learned yet, or nothing runs: both, since it may be either, and what is too low is soon raised;
        - the rate was raised since the last refusal, and there was room within the limit: the rate alone;
        - otherwise (it was a try for more room, or the rate had proved itself): the limit in flight alone.

        Args:
            now: The event loop's time.
            sent_at: When it was sent.
            draw: A random number from 0 to 1, so that several clients of one account come back at different times.
        """
        if sent_at <= self._lowered_at:
            return
        probe = self.running >= self.limit
        if self.rate.limit == math.inf or not self.running:
            self.rate.refused(now, sent_at)
        elif self.rate.raised and not probe:
            self.rate.refused(now, sent_at)
            return
        self.limit = min(self.limit, self.running)
        tried = probe or self._raised
        if tried:
            self._probe_wait = min(_LAST_PROBE, 2 * self._probe_wait)
        elif now - self._raised_at > self._probe_wait:  # else it takes back what that try gained
            self._probe_wait = _FIRST_PROBE
        self._raised = False
        self._shut_out = not self.running
        resume_at = max(now, self.resume_at)
        wait = self._probe_wait if self.running else min(self._probe_wait, _LAST_PROBE_OF_NONE)
        if tried and self.running:
            wait = max(wait, (resume_at - now) * min(2 * wait, _MOST_SILENCES))
        self._probe_at = resume_at + wait * (0.75 + draw / 2)
        self._lowered_at = now

    def pause(self, until: float, now: float) -> None:
        """Send nothing before ``until``."""
        self.pauses += max(0.0, until - max(now, self.resume_at))
        self.resume_at = max(self.resume_at, until)

    def pause_left(self, now: float) -> float:
        """Seconds until the current pause ends; 0 if there is none."""
        return max(0.0, self.resume_at - now)
