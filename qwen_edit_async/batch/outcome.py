"""The progress of a bulk run, and the outcome of each edit. Pure, except that :func:`shown` reads the clock."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal

import attrs

from qwen_edit_async.display.cards import WRITING_PAGE, Progress, local_time_in
from qwen_edit_async.models import EditParameters
from qwen_edit_async.statistics import SessionStatistics
from qwen_edit_async.storage.paths import FilePath

BatchStatus = Literal["planned", "submitting", "submitted", "completed", "saved", "failed", "uncertain", "replaced"]


@attrs.frozen(kw_only=True)
class BatchOutcome:
    """The current outcome of one edit of a bulk run.

    Attributes:
        key: The edit's key, or ``name`` for an edit without a key.
        status: The state of the edit. An unfinished edit is ``planned``, ``submitting``, ``submitted`` or
            ``completed`` (its pictures are not saved yet). A finished edit is ``saved``, ``failed``, ``uncertain`` (a
            task may exist, and be charged) or ``replaced`` (by a new edit, because its row changed).
        instruction: The instruction.
        images: The paths of the images, or their URLs without signatures; ``None`` for an image in memory.
        parameters: The parameters that were given, by name.
        files: The files of the edit's pictures, once they are saved.
        name: The beginning of the names of the result files. Each edit has a different name.
        urls: The URLs of the edit's pictures, once the edit is completed; an empty string for a picture without a URL.
        cost: The edit's cost in the account's currency, if the service stated one.
        task_id: The id of the edit's task, if it is known.
        error: The error, if there is one. An edit that did not fail can also have an error, such as a missed deadline.
        notes: Remarks about the edit's pictures, one sentence each.
        damage: A description of the damage to the saved pictures, if there is any.
        attempts: The number of submissions.
        queued: Seconds of waiting for a slot and for permission to send, and of attempts refused with 429. ``queued``,
            ``running``, ``lag`` and ``checks`` are known only if the session that submitted the task also saw its end.
        running: Seconds from the service's acceptance of the task to the reply that reported its end.
        lag: An upper bound, in seconds, on the time from the task's end to the reply that reported the end.
        checks: The number of status checks.
    """

    key: str
    status: BatchStatus
    instruction: str
    images: tuple[str | None, ...] = ()
    parameters: Mapping[str, Any] = attrs.field(factory=dict)
    files: tuple[FilePath, ...] = ()
    name: str = ""
    urls: tuple[str, ...] = attrs.field(default=(), repr=False)
    cost: Decimal | None = None
    task_id: str | None = None
    error: str | None = None
    notes: tuple[str, ...] = ()
    damage: str | None = None
    attempts: int = 0
    queued: float | None = None
    running: float | None = None
    lag: float | None = None
    checks: int | None = None

    @property
    def ok(self) -> bool:
        """Whether the pictures are saved."""
        return self.status == "saved"

    def as_row(self) -> dict[str, Any]:
        """Return a table row, for ``pandas.DataFrame([outcome.as_row() async for outcome in batch.outcomes()])``.

        All rows have the same columns. Times are in seconds, and the cost is a ``Decimal``.
        """
        parameters = {field.name: self.parameters.get(field.name) for field in attrs.fields(EditParameters)}
        row = attrs.asdict(self, recurse=False) | parameters
        del row["parameters"]
        lists = {name: list(row[name]) for name in ("images", "urls", "notes")}
        lists["files"] = [str(path) for path in self.files]
        return row | lists | {"ok": self.ok}


@attrs.define(kw_only=True)
class BatchProgress:
    """The progress of a run.

    Attributes:
        saved: The number of saved edits. An edit that an earlier run saved is counted when its row is read.
        found: How many of the edits that ``saved`` counts were saved by earlier runs.
        pictures: The number of files of the saved edits.
        failed: The number of refused rows, plus the number of edits that had an error in this run.
        in_flight: The number of edits that this run is submitting, or whose tasks it waits for.
        cost: The cost of the whole batch so far.
        total: The number of rows, pictures or requests in the input, including invalid ones; ``None`` if not counted.
        held: Says why the pictures of several completed edits could not be saved. Submissions then wait until an edit
            is saved. Empty if submissions do not wait.
        begun: Whether the run has begun to work on edits.
        publishing: Whether the run has begun to write ``report.html`` and ``report.json``.
    """

    saved: int = 0
    found: int = 0
    pictures: int = 0
    failed: int = 0
    in_flight: int = 0
    cost: Decimal = Decimal(0)
    total: int | None = None
    held: str = ""
    begun: bool = False
    publishing: bool = False


def shown(progress: BatchProgress, counts: SessionStatistics, seconds: float, paused_before: float = 0.0) -> Progress:
    """Return a run's progress in the form that terminals and notebooks show.

    Args:
        progress: The progress of the run.
        counts: The statistics of the run's session.
        seconds: The time since the start of the run.
        paused_before: The seconds that the session spent in pauses before the run.
    """
    return Progress(
        done=progress.saved,
        found=progress.found,
        failed=progress.failed,
        total=progress.total,
        in_flight=progress.in_flight,
        cost=progress.cost or None,
        seconds=seconds,
        paused=counts.paused - paused_before,
        pause_left=counts.pause_left,
        paused_until=local_time_in(counts.pause_left),
        closing=WRITING_PAGE if progress.publishing else "",
    )
