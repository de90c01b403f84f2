"""The emulator's counters."""

from __future__ import annotations

from decimal import Decimal

import attrs


@attrs.frozen
class RequestRecord:
    """A request that arrived. The values of its headers are not kept, because they include the key."""

    method: str
    path: str
    time: float
    """Time of arrival on the event loop's clock, in seconds."""
    header_names: tuple[str, ...]
    """Names of the headers, in lower case."""


@attrs.frozen(kw_only=True)
class EmulatorStatistics:
    """A snapshot of an emulator's counters."""

    submits: int
    """Submissions that arrived, including rejected ones."""
    checks: int
    """Status checks that arrived."""
    results: int
    """Requests for the result of a task (queue protocol)."""
    cancels: int
    """Cancellations that arrived (queue protocol)."""
    downloads: int
    """Requests for pictures."""
    precharges: int
    """Requests for a cost estimate."""
    refused: int
    """Requests answered with HTTP 429."""
    redirects: int
    """Requests answered with a redirect."""
    tasks_created: int
    tasks_completed: int
    tasks_failed: int
    """Failed tasks, including cancelled ones."""
    tasks_cancelled: int
    unfinished: int
    """Tasks that are waiting or running."""
    peak_unfinished: int
    """The highest number of tasks that were unfinished at the same time."""
    charges: Decimal
    """Money charged for completed tasks."""
    balance: Decimal | None
    """Money left after the costs of completed and unfinished tasks; None if the account has no limit."""
    keys_at_results: int
    """Requests to the results origin with an Authorization header. A correct client never sends this header there."""
    checks_per_task: tuple[int, ...]
    """Number of answered status checks of each task, in the order of the tasks' creation."""
    lags: tuple[float, ...]
    """Seconds from each task's end to the first reply that reported it. Tasks without such a reply are left out."""
