"""The tasks that a session waits for: from a task id to a result, an error, or being given up."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable

import attrs

from qwen_edit_async.contract import MAX_N, MIN_N
from qwen_edit_async.display.thumbnails import Previews
from qwen_edit_async.errors import APIResponseError, EditCancelledError, EditFailedError, QwenEditError
from qwen_edit_async.log import log
from qwen_edit_async.models import EditRequest, TaskFailure, TaskSnapshot, TaskStatus, shortfall
from qwen_edit_async.scheduling.schedule import WatchedTask
from qwen_edit_async.session.gate import Slot
from qwen_edit_async.session.results import EditResult, EditTimings, OutputImage, ResultStore
from qwen_edit_async.session.task import EditTask, TaskState
from qwen_edit_async.statistics import Counters

_MAX_GIVEN_UP = 10_000
"""Most ids of given-up tasks that are kept: a session that runs for months must not grow."""


@attrs.define(eq=False, kw_only=True)
class Tracked(WatchedTask):
    """A task that the poller checks, the state that its handle shows, and the slot that it holds.

    Attributes:
        state: What users see.
        request: What was asked for; ``None`` for a task that was submitted elsewhere.
        slot: Held until the end; ``None`` for a task that was submitted elsewhere.
        notes: For the result.
        queued: Seconds that the edit waited for its slot, and for its turn.
        submitting: Seconds from there to the service's acceptance.
    """

    state: TaskState
    request: EditRequest | None = None
    slot: Slot | None = None
    notes: tuple[str, ...] = ()
    queued: float = 0.0
    submitting: float = 0.0


class Tracker:
    """Turns what the poller finds into what the handles give.

    Args:
        store: Where result pictures come from.
        counters: Where ends are counted.
        watch: Begins to check a task.
        forget: Ceases to.
    """

    def __init__(
        self,
        store: ResultStore,
        counters: Counters,
        *,
        watch: Callable[[Tracked], None],
        forget: Callable[[Tracked], None],
    ) -> None:
        self._store = store
        self._counters = counters
        self._watch = watch
        self._forget = forget
        self._tracked: dict[Tracked, None] = {}
        self._handles: dict[str, tuple[Tracked, EditTask]] = {}
        self._given_up: dict[str, None] = {}

    @property
    def unfinished(self) -> tuple[str, ...]:
        """Ids that the service gave out, and whose end was not seen (waited for, or given up) or result not taken."""
        return (*self._given_up, *self._handles)

    def get(self, task_id: str) -> EditTask | None:
        """The handle of a task that is waited for."""
        _, handle = self._handles.get(task_id, (None, None))
        return handle

    def track(self, tracked: Tracked) -> EditTask:
        """Begin to wait for a task."""
        handle = EditTask(
            tracked.state,
            tracked.request,
            notes=tracked.notes,
            on_cancel=functools.partial(self._cancelled, tracked),
        )
        self._given_up.pop(tracked.task_id, None)
        self._tracked[tracked] = None  # not by id: a service may answer two submissions with the same one
        self._handles[tracked.task_id] = tracked, handle
        snapshot = tracked.state.snapshot
        if snapshot.status.terminal and not snapshot.lacks_pictures:
            self.ended(tracked, snapshot)
        else:
            self._watch(tracked)
        return handle

    def orphaned(self, snapshot: TaskSnapshot) -> None:
        """Remember a task whose submission was given up before its id came."""
        self._keep(snapshot.task_id)
        log.warning(
            "task %s came of a submission that had been given up: session.attach(%r) gets its result",
            snapshot.task_id,
            snapshot.task_id,
        )

    def unclaimed(self, task_id: str) -> None:
        """Remember a task whose result came when nobody was there any more to take it."""
        self._keep(task_id)
        log.warning("nobody took the result of task %s: session.attach(%r) gets it again", task_id, task_id)

    def seen(self, tracked: Tracked, snapshot: TaskSnapshot) -> None:
        """Take in an answer that does not end the wait; one that comes after the end is old."""
        if tracked in self._tracked:
            tracked.state.show(snapshot)

    def ended(self, tracked: Tracked, outcome: TaskSnapshot | BaseException) -> None:
        """Take in what ends the wait for a task; the poller no longer checks it."""
        if tracked not in self._tracked:
            return  # given up before
        del self._tracked[tracked]
        if self._handles.get(tracked.task_id, (None,))[0] is tracked:
            del self._handles[tracked.task_id]
        if tracked.slot is not None:
            tracked.slot.release()
        if isinstance(outcome, TaskSnapshot):
            tracked.state.show(outcome)
            end: EditResult | BaseException = self._result(tracked, outcome)
        else:
            end = outcome
        if not isinstance(end, EditResult | EditFailedError):
            self._keep(tracked.task_id)
        if isinstance(end, EditCancelledError):
            self._counters.cancelled += 1
        elif isinstance(end, BaseException):
            self._counters.failed += 1
        else:
            self._counters.completed += 1
        tracked.state.end(end)

    def give_up(self, tracked: Tracked, error: BaseException) -> None:
        """Cease to wait for a task whose end was not seen."""
        self._forget(tracked)
        self.ended(tracked, error)

    def give_up_all(self, make_error: Callable[[str], BaseException]) -> None:
        """Cease to wait for all tasks, each with the error that is made for its id."""
        for tracked in list(self._tracked):
            self.give_up(tracked, make_error(tracked.task_id))

    def abandon_all(self, make_error: Callable[[str], BaseException]) -> None:
        """As :meth:`give_up_all`, when there is no poller left that would have to forget them."""
        for tracked in list(self._tracked):
            self.ended(tracked, make_error(tracked.task_id))

    def _keep(self, task_id: str) -> None:
        """Add the id of a task that was given up; the oldest goes to the log when there are too many."""
        self._given_up[task_id] = None
        if len(self._given_up) > _MAX_GIVEN_UP:
            oldest = next(iter(self._given_up))
            del self._given_up[oldest]
            log.warning("`unfinished` has no more room for task %s: session.attach(%r) gets its result", oldest, oldest)

    def _cancelled(self, tracked: Tracked) -> None:
        error = EditCancelledError(
            f"task {tracked.task_id} was given up, and runs on at the service: session.attach({tracked.task_id!r})",
            task_id=tracked.task_id,
        )
        self.give_up(tracked, error)

    def _result(self, tracked: Tracked, snapshot: TaskSnapshot) -> EditResult | QwenEditError:
        if snapshot.status is TaskStatus.FAILED:
            failure = snapshot.failure or TaskFailure()
            return EditFailedError(
                failure.message or "the service gave no reason", code=failure.code, task_id=snapshot.task_id
            )
        if not snapshot.urls:
            return APIResponseError(
                f"task {snapshot.task_id} is completed, but the service names no picture of it; "
                f"session.attach({snapshot.task_id!r}) asks again",
                body=f"members: {', '.join(snapshot.raw)}",
                task_id=snapshot.task_id,
            )
        named = [(index, url) for index, url in enumerate(snapshot.urls) if url]
        if len(named) > MAX_N:  # whatever a reply names, it fills no disk
            log.warning(
                "task %s names %d pictures, where no edit gives more than %d: the rest is left",
                snapshot.task_id,
                len(named),
                MAX_N,
            )
        asked = (tracked.request.parameters.n or MIN_N) if tracked.request is not None else MIN_N
        missing = shortfall(len(named), asked)
        for note in missing:
            log.warning("task %s: %s", snapshot.task_id, note)
        now = asyncio.get_running_loop().time()
        previews = Previews(tracked.request.images if tracked.request is not None else ())
        return EditResult(
            task_id=snapshot.task_id,
            images=tuple(
                OutputImage(url=url, task_id=snapshot.task_id, index=index, store=self._store, previews=previews)
                for index, url in named[:MAX_N]
            ),
            usage=snapshot.usage,
            metadata=snapshot.metadata,
            timings=EditTimings(
                queued=tracked.queued,
                submitting=tracked.submitting,
                running=now - tracked.since,
                lag=now - tracked.checked_at,
                checks=tracked.checks,
                failed_checks=tracked.failed_checks,
            ),
            notes=(*tracked.notes, *missing),
            request=tracked.request,
            raw=snapshot.raw,
            previews=previews,
        )
