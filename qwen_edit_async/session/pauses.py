"""The time at which a pause ends, for people."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def local_time_in(seconds: float) -> str:
    """Return the local time ``seconds`` from now, such as ``14:32``, with the date if it is not today."""
    now = datetime.now(UTC).astimezone()
    then = (now + timedelta(seconds=seconds)).astimezone()
    return f"{then:%H:%M}" if then.date() == now.date() else f"{then:%Y-%m-%d %H:%M}"
