"""When to ask the service about a task: poll policies. Pure: no I/O, no clock.

A policy is asked for the time of a task's next check after each answer, and is told of every task of the session that
ends, so that it can learn how long edits take.
"""

from __future__ import annotations

import sys
from typing import Protocol, runtime_checkable

import attrs

from qwen_edit_async.errors import ConfigurationError
from qwen_edit_async.models import EditParameters


@attrs.define(kw_only=True, eq=False)
class PolledTask:
    """A task that is being waited for, as a poll policy sees it. Times are the event loop's, in seconds.

    Attributes:
        task_id: The service's name for the task.
        parameters: What was asked for; ``None`` for a task that was submitted elsewhere.
        since: When the service accepted the task, or when this session attached to it.
        attached: Whether the task was submitted elsewhere, so that its real age is unknown.
        checked_at: When the last answered check was sent; equals ``since`` before the first.
        checks: Status checks answered so far.
        progress: 0.0 to 1.0, the last that the service told.
        previous_at: ``checked_at`` of the check before; between the two the task ran.
        previous_progress: ``progress`` as it was then.
    """

    task_id: str
    parameters: EditParameters | None = None
    since: float
    attached: bool = False
    checked_at: float = attrs.field(default=attrs.Factory(lambda self: self.since, takes_self=True))
    checks: int = 0
    progress: float | None = None
    previous_at: float = attrs.field(default=attrs.Factory(lambda self: self.since, takes_self=True))
    previous_progress: float | None = None

    def found_running(self, sent_at: float, progress: float | None) -> None:
        """A check that was sent at ``sent_at`` found the task running."""
        self.previous_at, self.previous_progress = self.checked_at, self.progress
        self.checked_at = sent_at
        self.progress = progress if progress is not None else self.progress


class PollPolicy(Protocol):
    """Decides when to check a task. All calls come from one event loop; none may block."""

    def next_check(self, task: PolledTask, now: float) -> float:
        """When to check the task next, in the event loop's seconds; a time before ``now`` means at once.

        Called when the service accepts a task and after every answer that finds it still running, which a learning
        policy may count as evidence.
        """
        ...

    def ended(self, task: PolledTask, now: float, *, completed: bool) -> None:
        """A task of the session will not be checked again.

        With ``completed`` it ended between ``task.checked_at`` and ``now``; otherwise it failed or was given up, and
        all that is known is that it was still running at ``task.checked_at``.
        """
        ...


@runtime_checkable
class RankingPolicy(PollPolicy, Protocol):
    """A policy that can also tell which tasks are best checked when not all can be."""

    def likelihood(self, task: PolledTask, now: float) -> float:
        """How probable it is that the task has ended since its last check, 0 to 1."""
        ...


def check_seconds(instance: object, attribute: attrs.Attribute[float], value: float) -> None:  # noqa: ARG001  # attrs's signature
    """Refuse what is no positive finite number.

    Raises:
        ConfigurationError: If it is none.
    """
    if not (isinstance(value, int | float) and 0 < value <= sys.float_info.max):
        raise ConfigurationError(f"{attribute.name} is {value!r}: give a positive number")


@attrs.frozen
class FixedInterval:
    """Check every ``interval`` seconds."""

    interval: float = attrs.field(default=3.0, validator=check_seconds)

    def next_check(self, task: PolledTask, now: float) -> float:  # noqa: ARG002  # the protocol's parameter
        """One interval from now."""
        return now + self.interval

    def ended(self, task: PolledTask, now: float, *, completed: bool) -> None:
        """Nothing to learn."""


@attrs.frozen
class Backoff:
    """Check after ``initial`` seconds, then ever more seldom: each interval is ``factor`` times the last.

    Attributes:
        initial: The first interval, in seconds.
        factor: At least 1.
        maximum: The longest interval, in seconds.
    """

    initial: float = attrs.field(default=1.0, validator=check_seconds)
    factor: float = attrs.field(default=1.3, validator=check_seconds)
    maximum: float = attrs.field(default=10.0, validator=check_seconds)

    def __attrs_post_init__(self) -> None:
        if self.factor < 1:
            raise ConfigurationError(f"factor is {self.factor!r}: give 1 or more")

    def next_check(self, task: PolledTask, now: float) -> float:
        """The interval grows with the number of answered checks."""
        try:
            interval = self.initial * self.factor**task.checks
        except OverflowError:
            interval = self.maximum
        return now + min(self.maximum, interval)

    def ended(self, task: PolledTask, now: float, *, completed: bool) -> None:
        """Nothing to learn."""
