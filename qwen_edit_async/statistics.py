"""The counts that a session keeps."""

from __future__ import annotations

import attrs


@attrs.define(kw_only=True)
class SessionStatistics:
    """The counts of a session; ``session.statistics()`` returns a copy that no longer changes.

    Attributes:
        in_flight: Tasks between the start of their submission and their end, at the moment.
        waiting: Edits that wait for a slot, at the moment.
        limit: The number of tasks that may be in flight at the moment; "too many requests" lowers it.
        watched: Tasks that the poller waits for at the moment, attached ones included.
        pause_left: Seconds until a pause that the service asked for ends, at the moment; 0 if there is none.
        paused: Seconds that the session has spent in such pauses so far.
        submitted: Tasks that the service accepted.
        completed: Edits that ended with a result.
        failed: Edits that ended with an error after the service had accepted them.
        refused: Edits that ended with an error before the service accepted them.
        cancelled: Edits that were cancelled, before or after the service accepted them.
        uncertain: Submissions that the service may or may not have accepted.
        resubmitted: Submissions that were repeated with consent, though the service may have accepted them.
        retries: Submissions that were repeated because the service had certainly refused them.
        throttled: Answers "too many requests", to submissions and status checks.
        checks: Status checks that were answered.
        failed_checks: Status checks without an answer, or with one that can't be understood.
        downloads: Pictures that were downloaded completely.
        renewals: Expired result URLs that were asked for again.
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
