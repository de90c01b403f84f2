"""The outcome of an edit of a bulk run. Pure."""

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
