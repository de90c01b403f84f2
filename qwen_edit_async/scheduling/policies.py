"""Poll policies, which decide when to check a task's status. Pure: no I/O, no clock."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import attrs

from qwen_edit_async.checks import positive
from qwen_edit_async.errors import ConfigurationError
from qwen_edit_async.models import EditParameters


class PolledTask(Protocol):
    """A task that the session waits for, as a poll policy sees it. Times are the event loop's, in seconds."""

    @property
    def task_id(self) -> str:
        """The task's id."""
        ...

    @property
    def parameters(self) -> EditParameters | None:
        """The edit's parameters; ``None`` for a task that was submitted elsewhere."""
        ...

    @property
    def since(self) -> float:
        """The time when the service accepted the task, or when this session attached to it."""
        ...

    @property
    def started_at(self) -> float:
        """The earliest possible start: the time of the last check that found the task queued, or else ``since``."""
        ...

    @property
    def attached(self) -> bool:
        """Whether the task was submitted elsewhere, so that its real age is unknown."""
        ...

    @property
    def checked_at(self) -> float:
        """The sending time of the last check that found the task unfinished; ``since`` if there was no such check."""
        ...

    @property
    def checks(self) -> int:
        """The number of checks answered so far."""
        ...

    @property
    def progress(self) -> float | None:
        """The newest progress that the service reported, 0.0 to 1.0."""
        ...

    @property
    def previous_at(self) -> float:
        """The value that ``checked_at`` had before its last change; ``since`` if it never changed."""
        ...

    @property
    def previous_progress(self) -> float | None:
        """The value of ``progress`` at ``previous_at``."""
        ...


@runtime_checkable
class PollPolicy(Protocol):
    """Decides when to check a task. All methods are called on one event loop, and must not block.

    A policy can also have a method ``likelihood(task, now)``. It returns the probability, from 0 to 1, that the task
    has ended since its last check. If more checks are due than ``poll_rate`` allows, the likeliest tasks go first.
    """

    def next_check(self, task: PolledTask, now: float) -> float:
        """Return the time of the next check, in the event loop's seconds. A time before ``now`` means at once.

        Called when the service accepts a task, and after every check that finds the task unfinished. A policy can
        learn from each such check.
        """
        ...

    def ended(self, task: PolledTask, now: float, *, completed: bool) -> None:
        """Called with a task that the session will not check again.

        If ``completed``, the task ended between ``task.checked_at`` and ``now``. Otherwise the task failed or was given
        up after ``task.checked_at``.
        """
        ...


@attrs.frozen
class FixedInterval:
    """Checks each task every ``interval`` seconds."""

    interval: float = attrs.field(default=3.0, validator=positive)

    def next_check(self, task: PolledTask, now: float) -> float:  # noqa: ARG002  # the protocol's parameter
        """Return the time one interval from now."""
        return now + self.interval

    def ended(self, task: PolledTask, now: float, *, completed: bool) -> None:
        """Learn nothing."""


@attrs.frozen
class Backoff:
    """Checks each task after ``initial`` seconds, and then after intervals that grow.

    Attributes:
        initial: The first interval, in seconds.
        factor: The ratio of each interval to the previous one, at least 1.
        maximum: The longest interval, in seconds.
    """

    initial: float = attrs.field(default=1.0, validator=positive)
    factor: float = attrs.field(default=1.3, validator=positive)
    maximum: float = attrs.field(default=10.0, validator=positive)

    def __attrs_post_init__(self) -> None:
        if self.factor < 1:
            raise ConfigurationError(f"factor is {self.factor!r}: give 1 or more")

    def next_check(self, task: PolledTask, now: float) -> float:
        """Return the time after the next interval, which depends on the number of answered checks."""
        try:
            interval = self.initial * self.factor**task.checks
        except OverflowError:
            interval = self.maximum
        return now + min(self.maximum, interval)

    def ended(self, task: PolledTask, now: float, *, completed: bool) -> None:
        """Learn nothing."""
