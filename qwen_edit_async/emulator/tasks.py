"""The life of the emulated tasks: slots, durations, billing. Pure, except that ids are random.

Methods take the current time as an argument. Nothing runs in the background. `TaskTable.advance` brings all tasks up to
a given time: it finishes due tasks and starts queued tasks, in O(log n) per task.

```
 queued ──slot──► running ──due, picture ready──► completed
                     │  └────due, failure────────► failed
                     └──a "stuck" fault: stays running
```
"""

from __future__ import annotations

import heapq
import random
import secrets
from collections import deque
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

import attrs

from qwen_edit_async.emulator.durations import AfterChecks, Duration, draw
from qwen_edit_async.emulator.validation import RejectedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qwen_edit_async.emulator.sizes import Size
    from qwen_edit_async.emulator.validation import Submission

RATE_LIMIT_CODE = 1002
_BALANCE_CODE = 40201
ProtocolName = Literal["generation", "queue", "dashscope"]
_ID_ALPHABET = "0123456789abcdefghijklmnopqrstuv"
_ID_LENGTH = 20


@attrs.frozen
class Failure:
    """The reason why a task failed, for the ``error`` member of replies."""

    code: int | str
    message: str
    shape: Literal["contract", "object", "string"] = "contract"
    """Form of the ``error`` member. The generation protocol has these forms.

    ``contract``: ``code``, ``error_message``. ``object``: ``code`` as text, ``message``. ``string``: only the message.
    """


@attrs.frozen
class TaskFault:
    """A fault that happens to a created task."""

    kind: Literal["stuck", "failed", "vanished"]
    failure: Failure | None = None
    after_checks: int = 0


@attrs.define(eq=False)
class TaskRecord:
    """One task. Only the emulator changes its fields. Times are on the event loop's clock, in seconds."""

    id: str
    number: int
    """Number of the task, in the order of creation, from 1."""
    submission: Submission
    """The parsed request."""
    seed: int
    """The requested seed, or a random one."""
    cost: Decimal
    protocol: ProtocolName
    """The protocol of the submission. Calls of other protocols do not find the task."""
    created_at: float
    duration: float | None
    """Seconds that the task runs; None with `AfterChecks`."""
    fault: TaskFault | None = None
    body: object = attrs.field(default=None, repr=False)
    """The request's parsed JSON, if ``keep_bodies=True``."""
    status: Literal["queued", "running", "completed", "failed"] = "queued"
    picture_ready: bool = True
    """False while the task must wait for the engine to make its pictures."""
    image_sizes: tuple[Size, ...] = ()
    """Width and height of the input images in pixels, once an engine has read them."""
    failure: Failure | None = None
    checks: int = 0
    """Number of answered status checks."""
    started_at: float | None = None
    finished_at: float | None = None
    seen_at: float | None = None
    """Time of the first reply that reported the end. In a protocol without status checks, that is the reply to
    the submission."""
    on_change: Callable[[], object] | None = attrs.field(default=None, repr=False)
    """Called when the task starts, when it ends, and when the emulator closes."""

    @property
    def is_finished(self) -> bool:
        """Whether the task completed or failed."""
        return self.status in {"completed", "failed"}

    @property
    def lag(self) -> float | None:
        """Seconds from the task's end to `seen_at`, or None before that time."""
        if self.seen_at is None or self.finished_at is None:
            return None
        return self.seen_at - self.finished_at

    @property
    def is_vanished(self) -> bool:
        """Whether the service has forgotten the task."""
        return self.fault is not None and self.fault.kind == "vanished" and self.checks >= self.fault.after_checks


class TaskTable:
    """All tasks of an emulator, and the emulator's account."""

    def __init__(
        self,
        *,
        duration: Duration,
        time_scale: float,
        slots: int | None,
        queue: bool,
        price: Decimal,
        balance: Decimal | None,
        seed: int,
    ) -> None:
        self.records: dict[str, TaskRecord] = {}
        self.balance = balance
        self.charges: Decimal = Decimal(0)
        self.completed: int = 0
        self.failed: int = 0
        self.cancelled: int = 0
        self.unfinished: int = 0
        self.peak_unfinished: int = 0
        self._duration = duration
        self._time_scale = time_scale
        self._slots = slots
        self._queue = queue
        self._price = price
        self._random = random.Random(seed)  # noqa: S311 - replayable durations, not secrets
        self._running = 0
        self._waiting: deque[TaskRecord] = deque()
        self._due: list[tuple[float, int, TaskRecord]] = []

    def cost(self, submission: Submission) -> Decimal:
        """Return the cost of a submission whose task completes."""
        return self._price * submission.n

    def create(
        self, submission: Submission, now: float, *, picture_ready: bool, protocol: ProtocolName = "generation"
    ) -> TaskRecord:
        """Create a task. If `picture_ready` is false, the task can't complete before `picture_done` is called.

        Raises:
            RejectedError: The balance is too low (402), or no slot is free and tasks may not wait (429).
        """
        cost = self.cost(submission)
        if self.balance is not None and cost > self.balance:
            raise RejectedError("the balance is too low", status=402, code=_BALANCE_CODE)
        if not self._queue and not self._has_free_slot():
            raise RejectedError("too many concurrent tasks", status=429, code=RATE_LIMIT_CODE)
        seconds = draw(self._duration, self._random)
        seed = self._random.getrandbits(31)
        record = TaskRecord(
            id="".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH)),
            number=len(self.records) + 1,
            submission=submission,
            seed=seed if submission.seed is None else submission.seed,
            cost=cost,
            protocol=protocol,
            created_at=now,
            duration=None if seconds is None else seconds * self._time_scale,
            picture_ready=picture_ready,
        )
        self.records[record.id] = record
        if self.balance is not None:
            self.balance -= cost  # refunded if the task fails, because only completed tasks are billed
        self.unfinished += 1
        self.peak_unfinished = max(self.peak_unfinished, self.unfinished)
        return record

    def enqueue(self, record: TaskRecord) -> None:
        """Start a created task, at once or when a slot becomes free."""
        if self._has_free_slot():
            self._start(record, record.created_at)
        else:
            self._waiting.append(record)

    def advance(self, now: float) -> None:
        """Finish every due task whose pictures are ready, and start queued tasks in the slots that become free."""
        while self._due and self._due[0][0] <= now:
            due, _, record = heapq.heappop(self._due)
            if record.picture_ready and record.status == "running":  # a cancelled task is not running
                self._finish(record, due)

    def picture_done(self, record: TaskRecord, now: float, failure: Failure | None = None) -> None:
        """Record that the engine has made a task's pictures, or has failed. A task that is already due ends now."""
        self.advance(now)  # first, so that advance() does not end this task at a due time in the past
        record.picture_ready = True
        record.failure = record.failure or failure
        is_due = record.duration is not None and self._due_at(record) <= now
        if record.status == "running" and is_due and not _is_stuck(record):
            self._finish(record, now)

    def check(self, record: TaskRecord, now: float) -> None:
        """Count a status check. With `AfterChecks`, the check may end the task."""
        record.checks += 1
        if (
            isinstance(self._duration, AfterChecks)
            and record.status == "running"
            and record.picture_ready
            and record.checks >= self._duration.checks
            and not _is_stuck(record)
        ):
            self._finish(record, now)
        if record.is_finished and record.seen_at is None:
            record.seen_at = now

    def end_unchecked(self, record: TaskRecord, now: float) -> None:
        """End a task whose protocol has no status checks, if the task has no duration and its pictures are ready."""
        if record.duration is None and record.status == "running" and record.picture_ready and not _is_stuck(record):
            self._finish(record, now)

    def cancel(self, record: TaskRecord, now: float, failure: Failure) -> None:
        """End an unfinished task with a failure. The task is not billed."""
        if record.status == "queued":
            self._waiting.remove(record)
            self._running += 1  # counted as running, because _finish() frees a slot
        record.failure, record.fault = failure, None
        self.cancelled += 1
        self._finish(record, now)

    def next_due(self) -> float | None:
        """Return the earliest time at which a task may be due, or None if no task has a due time."""
        return self._due[0][0] if self._due else None

    def progress(self, record: TaskRecord, now: float) -> float:
        """Return the progress of an unfinished task, from 0.0 to 0.99."""
        if record.started_at is None:
            return 0.0
        if isinstance(self._duration, AfterChecks):
            share = record.checks / self._duration.checks
        else:
            share = (now - record.started_at) / record.duration if record.duration else 1.0
        return round(min(share, 0.99), 2)

    def _has_free_slot(self) -> bool:
        return self._slots is None or self._running < self._slots

    def _due_at(self, record: TaskRecord) -> float:
        return (record.started_at or 0.0) + (record.duration or 0.0)

    def _start(self, record: TaskRecord, now: float) -> None:
        record.status = "running"
        record.started_at = now
        _announce(record)
        self._running += 1
        if record.duration is not None and not _is_stuck(record):
            heapq.heappush(self._due, (self._due_at(record), record.number, record))

    def _finish(self, record: TaskRecord, now: float) -> None:
        if record.fault is not None and record.fault.failure is not None:
            record.failure = record.fault.failure
        record.finished_at = now
        self._running -= 1
        self.unfinished -= 1
        if record.failure is None:
            record.status = "completed"
            self.completed += 1
            self.charges += record.cost
        else:
            record.status = "failed"
            self.failed += 1
            if self.balance is not None:
                self.balance += record.cost
        _announce(record)
        if self._waiting and self._has_free_slot():
            self._start(self._waiting.popleft(), now)


def _announce(record: TaskRecord) -> None:
    if record.on_change is not None:
        record.on_change()


def _is_stuck(record: TaskRecord) -> bool:
    return record.fault is not None and record.fault.kind == "stuck"
