"""What the emulator counts."""

from __future__ import annotations

from decimal import Decimal

import attrs


@attrs.frozen
class RequestRecord:
    """One request, as it arrived. Header values are not kept: one of them is the key."""

    method: str
    path: str
    time: float
    """The event loop's clock, in seconds."""
    header_names: tuple[str, ...]
    """In lower case."""


@attrs.frozen(kw_only=True)
class EmulatorStatistics:
    """A snapshot of an emulator's counters."""

    submits: int
    """Creation requests that arrived, refused ones too."""
    checks: int
    """Status requests that arrived."""
    downloads: int
    """Result requests that arrived."""
    precharges: int
    """Cost estimates that were asked for."""
    refused: int
    """Requests answered 429."""
    redirects: int
    """Requests answered with a redirect."""
    tasks_created: int
    tasks_completed: int
    tasks_failed: int
    unfinished: int
    """Tasks that wait or run."""
    peak_unfinished: int
    """The most tasks that were unfinished at a time."""
    charges: Decimal
    """Money charged for completed tasks."""
    balance: Decimal | None
    """Money left, less what unfinished tasks will cost; None for an endless account."""
    keys_at_results: int
    """Requests on the results origin that carried an Authorization header: must stay 0."""
    checks_per_task: tuple[int, ...]
    """Status checks answered by each task's state, in the order of creation."""
    lags: tuple[float, ...]
    """Seconds from a task's end to the first check that told it, for each task whose end was told."""
