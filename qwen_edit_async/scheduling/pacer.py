"""Limits the tasks in flight and the rate of requests. Pure: no I/O, no clock, no randomness of its own.

A session has one :class:`Pacer`. A refusal with 429 ("too many requests") may mean too many running tasks of the
account, or too many requests in a second. No reply says which, so the pacer learns both limits:

- The number of tasks in flight. Until the first refusal, the limit is twice the largest number of running tasks so
  far, but at least 8. So the pacer approaches an unknown limit step by step. A refusal lowers the limit to the number
  of running tasks. After that, a single submission probes for a higher limit from time to time. Probes become rarer
  when the service refuses a probe, or when a refusal undoes a rise of the limit.
- The number of requests per second, see :class:`RequestRate`.

At most 100 submissions wait for their replies at a time, so that few are uncertain if the network fails.

In some protocols, the reply to a submission holds the result, so a task runs until this reply arrives. The limit of 100
does not apply to these protocols.

A ``Retry-After`` pause delays all requests. A long pause after a refused probe also delays the next probe. When
requests have to wait, status checks and other requests take turns.
"""

from __future__ import annotations

import math
from collections import deque

import attrs

_MAX_SUBMITTING = 100  # tasks in flight that the service has not accepted yet; each needs a connection
_UNPROVEN_LIMIT = 8  # tasks in flight before the service has accepted any task
_FIRST_PROBE = 1.0  # seconds from a refusal to the next probe, doubled with each refused probe
_LAST_PROBE = 240.0  # the longest time between probes
_LAST_PROBE_WHEN_IDLE = 30.0  # the longest time between probes while no task runs
_MOST_PAUSES = 40  # longest wait after a refused probe, in multiples of the pause that the service requests

_FIRST_HOLD = 5.0  # seconds between two rises of the rate, doubled with each rise that a refusal undoes
_LAST_HOLD = 320.0  # the longest time between two rises
_RAISE = 1.25  # factor by which the rate rises
_MARGIN = 0.95  # after a refusal, the rate falls to this share of the requests accepted in the last second
_LOWEST_RATE = 0.2
_SECOND = 1.0
_COURTESY = 0.001  # seconds that a request waits to let another request go first


@attrs.define(eq=False)
class RequestRate:
    """The learned limit of requests per second.

    A refusal lowers the rate to slightly less than the number of requests accepted in the last second. After 40
    accepted requests, for example, the rate is 38. But one refusal at most halves the current rate, or the highest rate
    that worked if that is lower. After the first refusal, requests are spaced evenly. As long as this spacing delays
    requests, the rate rises by a quarter from time to time. Rises become rarer when refusals undo them.

    A 429 for an unrelated reason also lowers the rate. If a service refuses 2 % of its requests at random, edits take
    about a quarter longer. If it refuses 10 %, edits take several times as long.

    Attributes:
        limit: The maximum number of requests per second; infinity before the first refusal.
        next_at: The earliest time of the next request.
        raised: Whether the rate has risen since the last refusal, and so may be too high.
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
        """Record that a request was sent."""
        if self.limit < math.inf:
            self._delayed = self._delayed or now - self.next_at < 1 / self.limit
            self.next_at = max(now, self.next_at) + 1 / self.limit

    def let_in(self, now: float) -> None:
        """Record that the service accepted a request, and raise the rate if a rise is due."""
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
        """Lower the rate after a refusal, unless the request was sent before the rate was last lowered."""
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


@attrs.define(eq=False)
class Pacer:
    """Decides when the next submission may start and when the next request may be sent.

    All times are the event loop's, in seconds.

    Attributes:
        max_in_flight: The maximum number of tasks in flight. A task is in flight from the start of its
            submission to its end.
        submit_rate: The maximum number of submissions per second, including repeated ones. A rate also spaces
            submissions evenly. ``None`` means no limit.
        limit: The learned maximum number of tasks in flight. One task above the limit may probe for a higher limit.
        in_flight: The number of tasks in flight.
        running: The number of tasks in flight that the service has accepted.
        resume_at: The end of the latest ``Retry-After`` pause; no request is sent earlier.
        pauses: The total of all pauses in seconds, including the rest of the current pause.
        accepted_at: The time when the service last accepted a submission.
        rate: The learned limit of requests per second.
        submit_at: The earliest time of the next submission under ``submit_rate``.
        turn_wanted: Whether a request other than a check waits to be sent.
        replies_hold_results: Whether the reply to a submission holds the result.
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
    replies_hold_results: bool = False
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
        """The earliest time of the next request."""
        return max(self.resume_at, self.rate.next_at)

    @property
    def check_at(self) -> float:
        """The earliest time of the poller's next check.

        A due check normally goes first, because it may find that a task has ended, which frees a slot. Right after a
        check, a request of another kind goes first.
        """
        yields = self.turn_wanted and self._check_went_last
        return self.send_at + (2 * _COURTESY if yields else 0.0)

    @property
    def turn_at(self) -> float:
        """The earliest time of a request, other than a check, that had to wait for its turn."""
        return self.send_at + _COURTESY

    def sent(self, now: float, *, check: bool = False) -> None:
        """Record that a request was sent. ``check`` says whether the request is a status check of the poller."""
        self.rate.sent(now)
        self._check_went_last = check

    def submitted(self, now: float) -> None:
        """Record that the request sent at ``now`` is a submission."""
        if self.submit_rate is not None:
            self.submit_at = max(self.submit_at, now) + 1 / self.submit_rate

    def wait(self, now: float) -> float | None:
        """Return the seconds until another task may start.

        Return ``None`` if a task must first end, or a submission must first get its reply.
        """
        submitting = 0 if self.replies_hold_results else self.in_flight - self.running
        if self.in_flight >= min(self.max_in_flight, self.limit + 1) or submitting >= _MAX_SUBMITTING:
            return None
        start_at = max(self.resume_at, self._next_start, self.submit_at)
        if self.in_flight >= self.limit:
            start_at = max(start_at, self._probe_at)
        return max(0.0, start_at - now)

    def start(self, now: float) -> None:
        """Record that a task starts."""
        if self.in_flight >= self.limit:
            self._probe_at = now + self._probe_wait
        self.in_flight += 1
        if self.submit_rate is not None:
            self._next_start = max(now, self._next_start) + 1 / self.submit_rate

    def end(self, *, accepted: bool) -> None:
        """Record that a task ended, was given up, or could not be submitted.

        ``accepted`` says whether the service had accepted the task's submission.
        """
        self.in_flight -= 1
        self.running -= accepted

    def accepted(self, now: float, sent_at: float = -math.inf, among: int = 0) -> None:
        """Record that the service accepted a submission, and raise the limit if it proved too low.

        The submission was sent at ``sent_at``, when ``among`` tasks were in flight. Both values matter only if replies
        hold results. If one of those tasks had been refused, the refusal would have arrived before this result. So the
        service can run all of them.
        """
        self.accepted_at = now
        self.running += 1
        worked = self.running
        if self.replies_hold_results and sent_at > self._lowered_at:
            worked = among
        if self._shut_out:  # a refusal while no task ran says nothing about the number of tasks
            self._shut_out = False
            self._probe_wait = _FIRST_PROBE
        if self._lowered_at == -math.inf:
            self.limit = max(self.limit, 2 * worked)
        elif worked > self.limit:
            self.limit = worked
            if self._raised:  # no refusal has undone the previous rise
                self._probe_wait = max(_FIRST_PROBE, self._probe_wait / 2)
            self._raised = True
            self._raised_at = now
            self._probe_at = now + self._probe_wait
        self.rate.let_in(now)

    def throttled(self, now: float, sent_at: float, draw: float) -> None:
        """Lower one or both limits after a submission was refused with 429.

        - No rate has been learned yet, or no task runs: lower both limits. A limit that is too low soon rises again.
        - The rate has risen since the last refusal, and the submission was not a probe: lower only the rate.
        - Otherwise: lower only the limit of tasks in flight.

        ``draw`` is a random number from 0 to 1. It makes clients of the same account probe at different times.
        """
        running = max(0, self.in_flight - 1) if self.replies_hold_results else self.running
        if sent_at <= self._lowered_at:
            if self.replies_hold_results:  # only the tasks still in flight can be running
                self.limit = min(self.limit, running)
            return
        probe = running >= self.limit
        if self.rate.limit == math.inf or not running:
            self.rate.refused(now, sent_at)
        elif self.rate.raised and not probe:
            self.rate.refused(now, sent_at)
            return
        self.limit = min(self.limit, running)
        tried = probe or self._raised
        if tried:
            self._probe_wait = min(_LAST_PROBE, 2 * self._probe_wait)
        elif now - self._raised_at > self._probe_wait:  # the last rise is too old to have caused the refusal
            self._probe_wait = _FIRST_PROBE
        self._raised = False
        self._shut_out = not running
        resume_at = max(now, self.resume_at)
        wait = self._probe_wait if running else min(self._probe_wait, _LAST_PROBE_WHEN_IDLE)
        if tried and running:
            wait = max(wait, (resume_at - now) * min(2 * wait, _MOST_PAUSES))
        self._probe_at = resume_at + wait * (0.75 + draw / 2)
        self._lowered_at = now

    def pause(self, until: float, now: float) -> None:
        """Pause all requests until ``until``."""
        self.pauses += max(0.0, until - max(now, self.resume_at))
        self.resume_at = max(self.resume_at, until)

    def pause_left(self, now: float) -> float:
        """Return the seconds until the current pause ends; 0 if there is none."""
        return max(0.0, self.resume_at - now)
