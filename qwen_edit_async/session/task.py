"""The handle of a task that was submitted or attached to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from typing import TYPE_CHECKING

from qwen_edit_async.errors import QwenEditError, SessionClosedError
from qwen_edit_async.models import EditRequest, TaskSnapshot, TaskStatus

if TYPE_CHECKING:
    from qwen_edit_async.session.results import EditResult


def require_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Refuse what is done on another event loop than that of the session.

    Raises:
        SessionClosedError: If another one runs.
    """
    if asyncio.get_running_loop() is not loop:
        raise SessionClosedError("this session was opened on another event loop: open one in each")


class TaskState:
    """What is known of a task, and who waits to know more. Each waiter has a future of its own."""

    __slots__ = ("_ends", "_loop", "_news", "_on_engaged", "outcome", "snapshot")

    def __init__(self, snapshot: TaskSnapshot, on_engaged: Callable[[int], None]) -> None:
        self.snapshot: TaskSnapshot = snapshot
        self.outcome: EditResult | BaseException | None = None
        self._loop = asyncio.get_running_loop()
        self._on_engaged = on_engaged
        self._news: set[asyncio.Future[None]] = set()
        self._ends: set[asyncio.Future[None]] = set()

    @property
    def awaited(self) -> bool:
        """Whether somebody waits."""
        return any(not waiter.cancelled() for waiter in self._news | self._ends)

    def show(self, snapshot: TaskSnapshot) -> None:
        """Take in an answer of the service."""
        if snapshot != self.snapshot:
            self.snapshot = snapshot
            _wake(self._news)

    def end(self, outcome: EditResult | BaseException) -> None:
        """Take in the outcome, unless there is one."""
        if self.outcome is None:
            self.outcome = outcome
            _wake(self._news)
            _wake(self._ends)

    async def changed(self) -> None:
        """Wait for the next snapshot or the outcome."""
        await self._wait_among(self._news)

    async def ended(self) -> EditResult | BaseException:
        """Wait for the outcome, unless it is there."""
        while (outcome := self.outcome) is None:
            await self._wait_among(self._ends)
        return outcome

    def require_own_loop(self) -> None:
        """See :func:`require_loop`: what is set on one loop wakes nobody on another."""
        require_loop(self._loop)

    async def _wait_among(self, waiters: set[asyncio.Future[None]]) -> None:
        self.require_own_loop()
        waiter: asyncio.Future[None] = self._loop.create_future()
        waiters.add(waiter)
        self._on_engaged(1)
        try:
            await waiter
        finally:
            waiters.discard(waiter)
            self._on_engaged(-1)


def _wake(waiters: set[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)


class EditTask:
    """A task at the service, and the wait for it.

    ``await task`` gives its :class:`EditResult`, to any number of waiters: that one of them is cancelled or times out
    is nothing to the others. It raises :class:`EditFailedError` if the task failed, :class:`DeadlineExceededError` if
    the edit's deadline passed, :class:`EditCancelledError` after :meth:`cancel`, :class:`SessionClosedError` if the
    session was closed meanwhile or runs on another event loop, and the service's error if it refuses to tell.
    """

    def __init__(
        self,
        state: TaskState,
        request: EditRequest | None,
        *,
        notes: tuple[str, ...] = (),
        on_cancel: Callable[[], None],
    ) -> None:
        self._state = state
        self._request = request
        self._notes = notes
        self._on_cancel = on_cancel

    @property
    def id(self) -> str:
        """The service's name for the task; ``session.attach(id)`` waits for it again, at any later time."""
        return self._state.snapshot.task_id

    @property
    def request(self) -> EditRequest | None:
        """What was asked for; ``None`` for a task that was attached to."""
        return self._request

    @property
    def notes(self) -> tuple[str, ...]:
        """What was changed before sending (``fit=True``), or will be ignored by the service, a sentence each."""
        return self._notes

    @property
    def snapshot(self) -> TaskSnapshot:
        """The task as the service last showed it."""
        return self._state.snapshot

    @property
    def status(self) -> TaskStatus:
        """Where the task stands, as the service last showed it."""
        return self._state.snapshot.status

    @property
    def progress(self) -> float | None:
        """0.0 to 1.0, if the service tells it."""
        return self._state.snapshot.progress

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for it just now."""
        return self._state.awaited

    def done(self) -> bool:
        """Whether the wait is over, with a result or an error."""
        return self._state.outcome is not None

    def cancel(self) -> None:
        """Give the task up: its slot is free and its checks stop at once, and whoever awaits it gets an error.

        The protocol has no cancel: at the service the task runs on and is charged.

        Raises:
            SessionClosedError: If the session runs on another event loop.
        """
        if not self.done():
            self._state.require_own_loop()
            self._on_cancel()

    async def updates(self) -> AsyncIterator[TaskSnapshot]:
        """Every change that a status check finds, beginning with the latest snapshot and ending with the last.

        A slow loop gets the newest snapshot, not all that it missed.

        Raises:
            QwenEditError: As ``await task`` does, except that a task which failed simply ends with that snapshot.
        """
        shown: TaskSnapshot | None = None
        while True:
            if self._state.snapshot is not shown:
                shown = self._state.snapshot
                yield shown
            elif isinstance(self._state.outcome, BaseException) and not shown.status.terminal:
                raise self._state.outcome
            elif self.done():
                return
            else:
                await self._state.changed()

    def __await__(self) -> Generator[object, None, EditResult]:
        return self._wait().__await__()

    def __repr__(self) -> str:
        return f"<EditTask {self.id} {self._state.snapshot.status_word or self.status.value}>"

    async def _wait(self) -> EditResult:
        outcome = await self._state.ended()
        if isinstance(outcome, QwenEditError):
            raise outcome.for_task(outcome.task_id)  # each waiter has its own, with a traceback of its own
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome
