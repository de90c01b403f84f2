"""The counts of a session."""

from __future__ import annotations

from decimal import Decimal

import attrs


@attrs.define(kw_only=True)
class SessionStatistics:
    """The counts of a session. ``session.statistics()`` returns a copy, which does not change.

    Attributes:
        in_flight: Tasks in flight now, from the start of their submission to their end.
        waiting: Edits that wait for a slot now.
        limit: The current limit on tasks in flight. A 429 reply (too many requests) lowers the limit.
        watched: Tasks that the session polls now, including attached tasks.
        pause_left: Seconds until the current Retry-After pause ends; 0 if there is none.
        paused: Seconds spent in Retry-After pauses so far.
        submitted: Tasks that the service accepted.
        completed: Edits that ended with a result.
        failed: Edits that ended with an error after the service had accepted them.
        refused: Edits that ended with an error before the service accepted them.
        cancelled: Edits that were cancelled, before or after the service accepted them.
        cancellations: Given-up tasks that the service cancelled.
        uncertain: Submissions that the service may have accepted.
        resubmitted: Uncertain submissions that were repeated with ``resubmit_uncertain``.
        retries: Submissions that were repeated because the service had certainly not accepted them.
        throttled: Replies with 429 (too many requests) to submissions, status checks and estimates.
        checks: Status checks and estimates with a valid reply.
        failed_checks: Status checks and estimates that failed or had an unclear reply.
        downloads: Downloads that ended with a usable picture.
        renewals: Expired result URLs that were renewed.
        cost: The total of the costs that the service stated, in the account's currency.
        queued: The total seconds that accepted edits were queued; see :class:`EditTimings`.
        submitting: The total seconds that accepted edits were being submitted; see :class:`EditTimings`.
        running: The total seconds that tasks ran; see :class:`EditTimings`.
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
    cancellations: int = 0
    uncertain: int = 0
    resubmitted: int = 0
    retries: int = 0
    throttled: int = 0
    checks: int = 0
    failed_checks: int = 0
    downloads: int = 0
    renewals: int = 0
    cost: Decimal = Decimal(0)
    queued: float = 0.0
    submitting: float = 0.0
    running: float = 0.0
