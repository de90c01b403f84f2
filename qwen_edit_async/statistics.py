"""What a session counts."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class SessionStatistics:
    """A snapshot of everything that a session counts.

    Attributes:
        in_flight: Tasks between the start of their submission and their end, just now.
        waiting: Edits that wait for a slot, just now.
        limit: How many tasks may be in flight just now; "too many requests" lowers it.
        watched: Tasks that the poller waits for, just now; attached ones too.
        pause_left: Seconds until a pause that the service asked for ends, just now; 0 if there is none.
        paused: Seconds that the session has spent in such pauses so far.
        submitted: Tasks that the service accepted.
        completed: Edits that ended with a result.
        failed: Edits that ended with an error after the service had accepted them.
        refused: Edits that ended with an error before.
        cancelled: Edits that were cancelled, before or after.
        uncertain: Submissions of which it is unknown whether the service accepted them.
        resubmitted: Submissions that were repeated though the service may have accepted them; only with consent.
        retries: Submissions that were repeated because the service had certainly refused them.
        throttled: Answers "too many requests", to submissions and status checks.
        checks: Status checks that were answered.
        failed_checks: Status checks that were not, or not understandably.
        downloads: Pictures that were downloaded whole.
        renewals: Result URLs that had expired and were asked for again.
    """

    in_flight: int = 0
    waiting: int = 0
    limit: int = 0
    watched: int = 0
    pause_left: float = 0.0
    paused: float = 0.0
    submitted: int = 0
    completed: int = 0
    failed: int = 0
    refused: int = 0
    cancelled: int = 0
    uncertain: int = 0
    resubmitted: int = 0
    retries: int = 0
    throttled: int = 0
    checks: int = 0
    failed_checks: int = 0
    downloads: int = 0
    renewals: int = 0


@attrs.define
class Counters:
    """What is counted as it happens; the names are those of :class:`SessionStatistics`."""

    submitted: int = 0
    completed: int = 0
    failed: int = 0
    refused: int = 0
    cancelled: int = 0
    uncertain: int = 0
    resubmitted: int = 0
    retries: int = 0
    throttled: int = 0
    checks: int = 0
    failed_checks: int = 0
    downloads: int = 0
    renewals: int = 0
