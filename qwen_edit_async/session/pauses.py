"""Formats the time at which a pause ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def local_time_in(seconds: float) -> str:
    """Return the local time ``seconds`` from now, such as ``14:32``."""
    return f"{(datetime.now(UTC) + timedelta(seconds=seconds)).astimezone():%H:%M}"
