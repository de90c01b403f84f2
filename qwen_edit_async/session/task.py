"""A task at the service: users await it, and the poller checks it."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Generator
from typing import Protocol

import attrs

from qwen_edit_async.errors import EditCancelledError, QwenEditError, SessionClosedError
from qwen_edit_async.log import about
from qwen_edit_async.models import EditRequest
from qwen_edit_async.scheduling.schedule import ScheduledTask
from qwen_edit_async.session.cancellations import Cancellations
from qwen_edit_async.session.gate import Slot
from qwen_edit_async.session.results import EditResult
from qwen_edit_async.tasks import EditTimings, TaskSnapshot, TaskStatus


def require_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Check that the session's event loop is the running one.

    Raises:
        SessionClosedError: If another event loop is running, or none.
    """
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        raise SessionClosedError("no event loop is running: use the session in its own event loop") from None
    if running is not loop:
        raise SessionClosedError("this session was opened on another event loop: open a session in each loop")


class ActiveCalls:
    """Counts a session's unfinished calls, so that closing the session can wait for them to end.

    Attributes:
        none_left: Set when the last unfinished call ends, or when the session crashes.
    """

    def __init__(self) -> None:
        self.count: int = 0
        self.none_left: asyncio.Event = asyncio.Event()

    def enter(self) -> None:
        """Record that a call begins."""
        self.count += 1

    def leave(self) -> None:
        """Record that a call has ended."""
        self.count -= 1
        if not self.count:
            self.none_left.set()

    def __enter__(self) -> None:
        self.enter()

    def __exit__(self, *_: object) -> None:
        self.leave()


class TaskPoller(Protocol):
    """The members of :class:`Poller` that a task uses. Importing the class itself would cause an import cycle."""

    loop: asyncio.AbstractEventLoop
    active_calls: ActiveCalls
    cancellations: Cancellations

    def give_up(self, task: EditTask, error: Exception) -> None:
        """Stop watching a task. Its waiters get the error."""
        ...

    def remember_unclaimed(self, task_id: str) -> None:
        """Remember a task whose result nobody fetched."""
        ...

    def way_back(self, task_id: str) -> str:
        """Return a clause that says how to get the result of a given-up task."""
        ...


@attrs.define(kw_only=True, eq=False, repr=False)
class EditTask(ScheduledTask):
    """A task at the service.

    ``await task`` returns its :class:`EditResult`. Any number of callers may await a task. If a caller is cancelled or
    times out, the task and the other callers go on. Awaiting a task raises:

    - :class:`EditFailedError` if the task failed;
    - :class:`DeadlineExceededError` if the edit's deadline passed;
    - :class:`EditCancelledError` after :meth:`cancel`;
    - :class:`SessionClosedError` if the session was closed meanwhile, or runs on another event loop;
    - another :class:`QwenEditError` if the service does not give the task's status or pictures.

    Attributes:
        request: The edit's request; ``None`` for an attached task.
        notes: Sentences about changes by ``fit=True``, ignored text, and images that the service may edit badly.
        snapshot: The service's newest reply about the task.
        context: The context variables of the caller who submitted or attached the task. The session uses them for the
            task's status checks, events and cancellation.
        queued: See :class:`EditTimings`.
        submitting: See :class:`EditTimings`.
        outcome: The result that ``await task`` returns, or the error that it raises; ``None`` until there is one.
        owned: Whether :meth:`cancel` also cancels the task at the service, if the protocol allows that. At first, it is
            false for an attached task, and for a task whose :class:`SubmissionObserver`, such as a journal, keeps the
            id. A bulk run sets it before it cancels a queued task.
    """

    request: EditRequest | None = None
    notes: tuple[str, ...] = ()
    snapshot: TaskSnapshot
    context: contextvars.Context = attrs.field(factory=contextvars.copy_context, init=False)
    queued: float = 0.0
    submitting: float = 0.0
    owned: bool = False
    outcome: EditResult | Exception | None = attrs.field(default=None, init=False)
    _slot: Slot | None = None
    _poller: TaskPoller
    _waiters: list[asyncio.Future[None]] = attrs.field(factory=list, init=False)

    @property
    def id(self) -> str:
        """The task's id. If the protocol has status checks, ``session.attach(id)`` can get the task's result later."""
        return self.task_id

    @property
    def status(self) -> TaskStatus:
        """The task's status in the service's newest reply."""
        return self.snapshot.status

    @property
    def awaited(self) -> bool:
        """Whether anything awaits the task now."""
        return any(not waiter.done() for waiter in self._waiters)

    def timings(self, now: float, *, ended: bool) -> EditTimings:
        """Return the durations of the phases up to ``now``. ``ended`` says whether a check showed the task's end."""
        return EditTimings(
            queued=self.queued,
            submitting=self.submitting,
            running=now - self.since,
            lag=now - self.checked_at if ended else 0.0,
            checks=self.checks,
            failed_checks=self.failed_checks,
        )

    def done(self) -> bool:
        """Return whether the task has a result or an error."""
        return self.outcome is not None

    def cancel(self) -> None:
        """Stop watching the task and free its slot. Callers that await the task get :class:`EditCancelledError`.

        With the protocol ``queue``, the session asks the service to cancel an ``owned`` task. If the service
        refuses, or is not asked, the task runs on and is charged.

        Raises:
            SessionClosedError: If the session runs on another event loop.
        """
        if not self.done():
            require_loop(self._poller.loop)
            self._poller.give_up(
                self, EditCancelledError(f"task {self.id} was given up", hint=self.fate, task_id=self.id)
            )

    @property
    def fate(self) -> str:
        """A sentence about what happens to the task at the service if the session gives up the task."""
        if self.owned and self._poller.cancellations.possible(self.snapshot):
            return (
                f"the service is asked to cancel task {self.id}: if the task runs on, session.attach({self.id!r}) gets "
                "its result"
            )
        return self._fate_if_left

    @property
    def _fate_if_left(self) -> str:
        state = "has ended" if self.done() else "runs on at the service"
        return f"task {self.id} {state}: {self._poller.way_back(self.id)}"

    def cancel_unless_awaited(self) -> str:
        """Cancel the task of a cancelled edit, unless other callers await it. Return what happens to the task."""
        fate = self._fate_if_left if self.done() or self.awaited else self.fate
        about(self.id).warning("an edit was cancelled: %s", fate)
        if self.done():
            self._poller.remember_unclaimed(self.id)
        elif not self.awaited:
            self.cancel()
        return fate

    async def updates(self) -> AsyncIterator[TaskSnapshot]:
        """Yield the newest snapshot, and then a snapshot for each change until the task ends.

        A caller that reads slowly misses snapshots that newer ones have replaced.

        Raises:
            QwenEditError: The error that ``await task`` raises. If the last snapshot shows that the task ended, even
                by failure, the iteration ends without an error.
        """
        shown: TaskSnapshot | None = None
        while True:
            if self.snapshot is not shown:
                shown = self.snapshot
                yield shown
            elif isinstance(self.outcome, Exception) and not shown.status.terminal:
                raise self.outcome
            elif self.done():
                return
            else:
                await self._change()

    def update(self, snapshot: TaskSnapshot) -> None:
        """Record a new snapshot of a task that has not ended, and wake all waiters."""
        self.snapshot = snapshot
        self._wake()

    def set_outcome(self, outcome: EditResult | Exception) -> None:
        """Record the outcome, wake all waiters, and release the slot.

        The waiters run before the next edit gets the slot, so a bulk run knows the cost before it submits that edit.
        """
        self.outcome = outcome
        self._wake()
        if self._slot is not None:
            self._slot.release()

    def __await__(self) -> Generator[object, None, EditResult]:
        return self._result().__await__()

    def __repr__(self) -> str:
        return f"<EditTask {self.id} {self.snapshot.status_word or self.status.value}>"

    async def _result(self) -> EditResult:
        while self.outcome is None:
            await self._change()
        end = outcome_for_waiter(self.outcome)
        if isinstance(end, Exception):
            raise end
        return end

    def next_change(self) -> asyncio.Future[None]:
        """Return a future that is done when the snapshot or outcome changes. Until then, :attr:`awaited` is true."""
        waiter: asyncio.Future[None] = self._poller.loop.create_future()
        self._waiters.append(waiter)
        return waiter

    async def _change(self) -> None:
        require_loop(self._poller.loop)
        waiter = self.next_change()
        with self._poller.active_calls:
            try:
                await waiter
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


def outcome_for_waiter(outcome: EditResult | Exception) -> EditResult | Exception:
    """Return an outcome to pass to one waiter. For a :class:`QwenEditError`, return a copy with its own traceback."""
    return outcome.for_task(outcome.task_id) if isinstance(outcome, QwenEditError) else outcome
