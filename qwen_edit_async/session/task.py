"""A task at the service, as users hold it, waiters await it, and the poller schedules it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator
from typing import TYPE_CHECKING

import attrs

from qwen_edit_async.errors import EditCancelledError, QwenEditError, SessionClosedError
from qwen_edit_async.log import log
from qwen_edit_async.models import EditRequest, TaskSnapshot, TaskStatus
from qwen_edit_async.scheduling.schedule import ScheduledTask
from qwen_edit_async.session.gate import Slot

if TYPE_CHECKING:
    from qwen_edit_async.session.poller import Poller
    from qwen_edit_async.session.results import EditResult


def require_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Refuse a call from another event loop than the session's.

    Raises:
        SessionClosedError: If another event loop runs.
    """
    if asyncio.get_running_loop() is not loop:
        raise SessionClosedError("this session was opened on another event loop: open one in each")


class Demand:
    """Counts the calls that wait for something of a session, so that closing can wait for them.

    Attributes:
        count: The number of such calls.
        none_left: Set whenever the last of them is over.
    """

    def __init__(self) -> None:
        self.count: int = 0
        self.none_left: asyncio.Event = asyncio.Event()

    def enter(self) -> None:
        """Count a call that begins to wait."""
        self.count += 1

    def leave(self) -> None:
        """Count a call that no longer waits."""
        self.count -= 1
        if not self.count:
            self.none_left.set()

    def __enter__(self) -> None:
        self.enter()

    def __exit__(self, *_: object) -> None:
        self.leave()


@attrs.define(kw_only=True, eq=False, repr=False)
class EditTask(ScheduledTask):
    """A task at the service, and the wait for it.

    ``await task`` returns its :class:`EditResult`, to any number of waiters. A waiter that is cancelled or times out
    does not affect the others. Awaiting raises :class:`EditFailedError` if the task failed,
    :class:`DeadlineExceededError` if the edit's deadline passed, :class:`EditCancelledError` after :meth:`cancel`,
    :class:`SessionClosedError` if the session was closed meanwhile or runs on another event loop, and the service's
    error if it refuses to tell.

    Attributes:
        request: The edit's request; ``None`` for a task that was attached to.
        notes: Changes made before sending (``fit=True``) and text that the service ignores, a sentence each.
        snapshot: The task as the service last showed it.
        queued: Seconds that the edit waited for its slot and its turn.
        submitting: Seconds from there to the service's acceptance.
        outcome: The result or error that ended the wait; ``None`` until then.
    """

    request: EditRequest | None = None
    notes: tuple[str, ...] = ()
    snapshot: TaskSnapshot
    queued: float = 0.0
    submitting: float = 0.0
    outcome: EditResult | BaseException | None = attrs.field(default=None, init=False)
    _slot: Slot | None = None
    _poller: Poller
    _waiters: list[asyncio.Future[None]] = attrs.field(factory=list, init=False)

    @property
    def id(self) -> str:
        """The service's name for the task; ``session.attach(id)`` waits for it again, at any later time."""
        return self.task_id

    @property
    def status(self) -> TaskStatus:
        """The status of the task, as the service last showed it."""
        return self.snapshot.status

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for the task at the moment."""
        return any(not waiter.done() for waiter in self._waiters)

    def done(self) -> bool:
        """Return whether the wait is over, with a result or an error."""
        return self.outcome is not None

    def cancel(self) -> None:
        """Give the task up: its slot is free and its checks stop at once, and whoever awaits it gets an error.

        The protocol has no cancel: at the service the task runs on and is charged.

        Raises:
            SessionClosedError: If the session runs on another event loop.
        """
        if not self.done():
            require_loop(self._poller.loop)
            message = f"task {self.id} was given up, and runs on at the service: session.attach({self.id!r})"
            self._poller.give_up(self, EditCancelledError(message, task_id=self.id))

    def give_up(self) -> None:
        """Cancel the task if nobody waits for it; remember it if its result came too late for its caller."""
        if self.done():
            self._poller.unclaimed(self.id)
        elif not self.awaited:
            self.cancel()

    async def updates(self) -> AsyncIterator[TaskSnapshot]:
        """Yield the latest snapshot, and then every change that a status check finds, up to the last.

        A slow loop gets the newest snapshot, not all that it missed.

        Raises:
            QwenEditError: As ``await task`` does, except that a failed task simply ends with that snapshot.
        """
        shown: TaskSnapshot | None = None
        while True:
            if self.snapshot is not shown:
                shown = self.snapshot
                yield shown
            elif isinstance(self.outcome, BaseException) and not shown.status.terminal:
                raise self.outcome
            elif self.done():
                return
            else:
                await self._change()

    def show(self, snapshot: TaskSnapshot) -> None:
        """Take in an answer that does not end the wait."""
        if snapshot != self.snapshot:
            self.snapshot = snapshot
            self._wake()

    def end(self, outcome: EditResult | BaseException) -> None:
        """Take in the outcome, give the slot back, and wake all waiters."""
        self.outcome = outcome
        if self._slot is not None:
            self._slot.release()
        self._wake()

    def join(self) -> asyncio.Future[None]:
        """Return a future that completes at the next change of the task."""
        waiter: asyncio.Future[None] = self._poller.loop.create_future()
        self._waiters.append(waiter)
        return waiter

    def leave(self, waiter: asyncio.Future[None]) -> None:
        """Forget a future that :meth:`join` returned."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)

    def __await__(self) -> Generator[object, None, EditResult]:
        return self._result().__await__()

    def __repr__(self) -> str:
        return f"<EditTask {self.id} {self.snapshot.status_word or self.status.value}>"

    async def _result(self) -> EditResult:
        while self.outcome is None:
            await self._change()
        end = ending(self.outcome)
        if isinstance(end, BaseException):
            raise end
        return end

    async def _change(self) -> None:
        require_loop(self._poller.loop)
        waiter = self.join()
        with self._poller.demand:
            try:
                await waiter
            finally:
                self.leave(waiter)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


def give_up(task: EditTask) -> str:
    """Give up a cancelled edit's task, unless others wait for it; returns a sentence that says where its result is."""
    note = f"task {task.id} runs on at the service: session.attach({task.id!r}) gets its result"
    log.warning("an edit was cancelled: %s", note)
    task.give_up()
    return note


def ending(outcome: EditResult | BaseException) -> EditResult | BaseException:
    """Return an outcome for one waiter: each gets an error of its own, with a traceback of its own."""
    return outcome.for_task(outcome.task_id) if isinstance(outcome, QwenEditError) else outcome
