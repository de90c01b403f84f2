"""The life of the emulated tasks: slots, durations, billing. Pure, but for the ids: every call is told the time.

Nothing runs in the background. A task's state follows from the clock when it is asked for: `TaskTable.advance` finishes
what is due by then and starts what waited for a slot, in O(log n) a task.

```
 queued ──slot──► running ──due, picture ready──► completed
                     │  └────due, refused────────► failed
                     └──a "stuck" fault: never
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
    from qwen_edit_async.emulator.sizes import Size
    from qwen_edit_async.emulator.validation import Submission

RATE_LIMIT_CODE = 1002
_BALANCE_CODE = 40201
_ID_ALPHABET = "0123456789abcdefghijklmnopqrstuv"
_ID_LENGTH = 20


@attrs.frozen
class Failure:
    """Why a task failed, as its ``error`` member says it."""

    code: int | str
    message: str
    shape: Literal["contract", "object", "string"] = "contract"
    """``contract``: code, ``error_message``; ``object``: code as text, ``message``; ``string``: the message alone."""


@attrs.frozen
class TaskFault:
    """What becomes of a created task."""

    kind: Literal["stuck", "failed", "vanished"]
    failure: Failure | None = None
    after_checks: int = 0


@attrs.define(eq=False)
class TaskRecord:
    """One task, to be read only; its fields change as it goes on. Times are the loop's clock, in seconds."""

    id: str
    number: int
    """1 for the first task created."""
    submission: Submission
    """The parsed request."""
    seed: int
    """The requested seed, or the drawn one."""
    cost: Decimal
    created_at: float
    duration: float | None
    """Seconds of work, or None when the number of checks decides."""
    fault: TaskFault | None = None
    body: object = attrs.field(default=None, repr=False)
    """The parsed JSON, with ``keep_bodies=True``."""
    status: Literal["queued", "running", "completed", "failed"] = "queued"
    picture_ready: bool = True
    """False while the engine works on it."""
    image_sizes: tuple[Size, ...] = ()
    """Width and height of the input images in pixels, once an engine that reads images has seen them."""
    failure: Failure | None = None
    checks: int = 0
    """Status checks that were answered by the task's state."""
    started_at: float | None = None
    finished_at: float | None = None
    seen_at: float | None = None
    """When a status check first told the end."""

    @property
    def is_finished(self) -> bool:
        """Whether it completed or failed."""
        return self.status in {"completed", "failed"}

    @property
    def lag(self) -> float | None:
        """Seconds from the end to the first status check that told it, or None before that check."""
        if self.seen_at is None or self.finished_at is None:
            return None
        return self.seen_at - self.finished_at

    @property
    def is_vanished(self) -> bool:
        """Whether the service has forgotten it."""
        return self.fault is not None and self.fault.kind == "vanished" and self.checks >= self.fault.after_checks


class TaskTable:
    """All tasks of one emulator, and its account."""

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
        self.charges = Decimal(0)
        self.completed = 0
        self.failed = 0
        self.unfinished = 0
        self.peak_unfinished = 0
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
        """Return what the submission costs when it succeeds."""
        return self._price * submission.n

    def create(self, submission: Submission, now: float, *, picture_ready: bool) -> TaskRecord:
        """Create a task, or refuse it.

        Args:
            submission: The parsed request.
            now: The clock, in seconds.
            picture_ready: False when `picture_done` will be called.

        Raises:
            RejectedError: 402 when the balance does not cover it, 429 when no slot is free and nothing may wait.
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
            created_at=now,
            duration=None if seconds is None else seconds * self._time_scale,
            picture_ready=picture_ready,
        )
        self.records[record.id] = record
        if self.balance is not None:
            self.balance -= cost  # given back if the task fails: only what succeeds is billed
        self.unfinished += 1
        self.peak_unfinished = max(self.peak_unfinished, self.unfinished)
        return record

    def enqueue(self, record: TaskRecord) -> None:
        """Let a created task start, at once or when a slot falls free."""
        if self._has_free_slot():
            self._start(record, record.created_at)
        else:
            self._waiting.append(record)

    def advance(self, now: float) -> None:
        """Finish every task that is due by now, and start the tasks that waited for it."""
        while self._due and self._due[0][0] <= now:
            due, _, record = heapq.heappop(self._due)
            if record.picture_ready:
                self._finish(record, due)

    def picture_done(self, record: TaskRecord, now: float, failure: Failure | None = None) -> None:
        """Note that the engine is through with a task; a task that was due before ends now."""
        self.advance(now)  # takes a task that is due off the heap before it can count as ready
        record.picture_ready = True
        record.failure = record.failure or failure
        is_due = record.duration is not None and self._due_at(record) <= now
        if record.status == "running" and is_due and not _is_stuck(record):
            self._finish(record, now)

    def check(self, record: TaskRecord, now: float) -> None:
        """Count a status check; where checks decide, it may end the task."""
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

    def progress(self, record: TaskRecord, now: float) -> float:
        """Return how far an unfinished task is, from 0.0 to 0.99."""
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
        if self._waiting and self._has_free_slot():
            self._start(self._waiting.popleft(), now)


def _is_stuck(record: TaskRecord) -> bool:
    return record.fault is not None and record.fault.kind == "stuck"
