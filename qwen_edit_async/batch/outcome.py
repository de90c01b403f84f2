"""The progress of a bulk run, and the outcome of each edit. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import attrs

from qwen_edit_async.models import EditParameters

BatchStatus = Literal["planned", "submitting", "submitted", "completed", "saved", "failed", "uncertain", "replaced"]


@attrs.frozen(kw_only=True)
class BatchOutcome:
    """The outcome of an edit of a bulk run, so far.

    Attributes:
        key: The key of the edit; without one, the name of its files.
        status: ``saved`` if all is done; ``failed`` or ``uncertain`` (a task may exist, and be charged); or its
            progress: ``planned``, ``submitting``, ``submitted``, ``completed`` (but its pictures are not saved); or
            ``replaced`` by an edit of its changed row.
        instruction: The instruction.
        images: The paths or URLs of its images; ``None`` for an image in memory.
        parameters: The parameters that were given, by name.
        files: Its pictures, once they are saved.
        cost: Its cost in the account's currency, if the service stated one.
        task_id: The service's id for the task, if it has one.
        error: The error, if it failed.
        notes: Remarks about its pictures, a sentence each.
        attempts: The number of submissions.
        queued: Seconds that it waited for a slot of the session. This and the fields below are known for tasks that
            were submitted and completed in the same run.
        running: Seconds from the service's acceptance to the answer that reported the end.
        lag: Upper bound of the seconds for which the end went unseen.
        checks: The number of status checks.
    """

    key: str
    status: BatchStatus
    instruction: str
    images: tuple[str | None, ...] = ()
    parameters: Mapping[str, Any] = attrs.field(factory=dict)
    files: tuple[Path, ...] = ()
    cost: Decimal | None = None
    task_id: str | None = None
    error: str | None = None
    notes: tuple[str, ...] = ()
    attempts: int = 0
    queued: float | None = None
    running: float | None = None
    lag: float | None = None
    checks: int | None = None

    @property
    def ok(self) -> bool:
        """Whether its pictures are saved."""
        return self.status == "saved"

    def as_row(self) -> dict[str, Any]:
        """Return plain values, for ``pandas.DataFrame([outcome.as_row() async for outcome in batch.outcomes()])``.

        Every outcome has the same columns. Times are in seconds, the cost is a ``Decimal``.
        """
        parameters = {field.name: self.parameters.get(field.name) for field in attrs.fields(EditParameters)}
        row = attrs.asdict(self, recurse=False) | parameters
        del row["parameters"]
        lists = {"images": list(self.images), "files": [str(path) for path in self.files], "notes": list(self.notes)}
        return row | lists | {"ok": self.ok}


@attrs.define(kw_only=True)
class BatchProgress:
    """The progress of a run.

    Attributes:
        saved: Edits that are done, those of earlier runs too, as far as the input was read.
        found: Edits among them that earlier runs had done.
        pictures: The files of these edits.
        failed: Edits that went wrong in this run.
        in_flight: Edits that this run is submitting, or whose tasks it waits for.
        cost: The cost of the whole batch so far.
        total: Rows, pictures or requests of the input, bad ones too; ``None`` if they were not counted beforehand.
        held: The reason why nothing is submitted until a completed edit is saved; empty if submissions go on.
        begun: Whether the run works on edits. Before that it opens its journal and reads its input.
        publishing: Whether the run writes ``report.html`` and ``report.json``, or has written them.
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
