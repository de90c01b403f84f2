"""The pause that an overloaded service asks for, kept by the whole session."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from qwen_edit_async.errors import QwenEditError
from qwen_edit_async.log import log
from qwen_edit_async.scheduling.pacing import Pacer
from qwen_edit_async.scheduling.retry import pause_after

_TOLD_FROM: Final = 300.0
"""Seconds of silence that nobody should have to wonder about."""


def hold_back(pacer: Pacer, error: QwenEditError, now: float) -> None:
    """Let nothing be sent for as long as a failure asks for."""
    seconds = pause_after(error)
    if now + seconds > max(now, pacer.resume_at) + _TOLD_FROM:
        log.warning("nothing is sent to the service for %.0f s, since it asks for that: %s", seconds, error)
    pacer.pause(now + seconds, now)


def local_time_in(seconds: float) -> str:
    """Return the local time ``seconds`` from now, such as ``14:32``."""
    return f"{(datetime.now(UTC) + timedelta(seconds=seconds)).astimezone():%H:%M}"
