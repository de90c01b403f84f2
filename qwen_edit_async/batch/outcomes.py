"""What became of each edit of a bulk run, read from its journal: for tables and for the page of pictures. Blocking.

Reading disturbs nobody: a run may be writing meanwhile, and no transaction stays open from one page to the next.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Generator, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal

import attrs

from qwen_edit_async.batch.journal.sqlite import DAMAGED, explain, read_only_address
from qwen_edit_async.errors import JournalError
from qwen_edit_async.models import EditParameters, shortfall
from qwen_edit_async.protocol.replies import cost_of

BatchStatus = Literal["planned", "submitting", "submitted", "completed", "saved", "failed", "uncertain", "replaced"]

PAGE: Final = 256
_BUSY_SECONDS: Final = 10.0
_NO_JOURNAL: Final = "there is no journal in {}: no run has begun there"
_COLUMNS: Final = (
    "number, key, state, request, task_id, cost, files, problem, attempts, queued, running, lag, checks, pictures"
)


@attrs.frozen(kw_only=True)
class BatchOutcome:
    """What became of an edit of a bulk run, so far.

    Attributes:
        key: Its name in the batch.
        status: ``saved`` if all is done; ``failed`` or ``uncertain`` (a task may exist, and be charged); or how far it
            came: ``planned``, ``submitting``, ``submitted``, ``completed`` (but its pictures are not saved); or
            ``replaced`` by an edit of its changed input.
        instruction: What was asked for.
        images: Paths or URLs of its inputs; ``None`` for one that was in memory.
        parameters: Those that were given, by name.
        files: Its pictures, once they are saved.
        cost: What it cost, in the account's currency, where that is known.
        task_id: The service's name for the task, if it has one.
        error: What went wrong, if anything did.
        notes: What else there is to know of its pictures, a sentence each.
        attempts: How often it was submitted.
        queued: Seconds that it waited for a slot of the session. This and what follows is known of tasks that were
            submitted and completed in the same run.
        running: Seconds from the service's acceptance to the answer that told the end.
        lag: Upper bound of the seconds for which the end went unseen.
        checks: Status checks that it took.
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
        """The outcome as plain values: ``pandas.DataFrame([outcome.as_row() async for outcome in batch.outcomes()])``.

        The columns are the same for every outcome; times are in seconds, the cost is a ``Decimal``.
        """
        parameters = {field.name: self.parameters.get(field.name) for field in attrs.fields(EditParameters)}
        row = attrs.asdict(self, recurse=False) | parameters
        del row["parameters"]
        lists = {"images": list(self.images), "files": [str(path) for path in self.files], "notes": list(self.notes)}
        return row | lists | {"ok": self.ok}


def read_page(journal: Path, after: int, limit: int = PAGE) -> list[tuple[int, BatchOutcome]]:
    """The next outcomes, with their numbers in the journal.

    Args:
        journal: The file.
        after: The number of the last one before.
        limit: How many at most.

    Raises:
        JournalError: If there is no journal, or it can't be read.
    """
    with _reading(journal) as connection:
        rows = connection.execute(
            f"SELECT {_COLUMNS} FROM edits WHERE number > ? ORDER BY number LIMIT ?",  # noqa: S608  # constants
            (after, limit),
        )
        return [(row[0], _outcome(row, journal)) for row in rows]


def read_chosen(journal: Path, limit: int) -> Generator[BatchOutcome, None, None]:
    """As many outcomes as wished: those that went wrong come first, then all in the journal's order.

    Raises:
        JournalError: If the journal can't be read.
    """
    with _reading(journal) as connection:
        chosen = connection.execute(
            "SELECT number FROM edits WHERE state != 'replaced' ORDER BY problem IS NULL, number LIMIT ?", (limit,)
        )
        for (number,) in chosen.fetchall():
            row = connection.execute(f"SELECT {_COLUMNS} FROM edits WHERE number = ?", (number,)).fetchone()  # noqa: S608  # constants
            yield _outcome(row, journal)


@contextlib.contextmanager
def _reading(journal: Path) -> Iterator[sqlite3.Connection]:
    if not journal.exists():
        raise JournalError(_NO_JOURNAL.format(journal.parent))
    try:
        with contextlib.closing(
            sqlite3.connect(read_only_address(journal), uri=True, timeout=_BUSY_SECONDS)
        ) as connection:
            if not connection.execute("PRAGMA user_version").fetchone()[0]:
                raise JournalError(_NO_JOURNAL.format(journal.parent))
            yield connection
    except sqlite3.Error as error:
        raise explain(error, journal) from error


def _outcome(row: Sequence[Any], journal: Path) -> BatchOutcome:
    _, key, state, request, task_id, cost, files, problem, attempts, queued, running, lag, checks, asked_for = row
    try:
        asked = json.loads(request)
        instruction, images, parameters = asked["instruction"], tuple(asked["images"]), asked["parameters"]
        paths = tuple(journal.parent / name for name, _ in json.loads(files or "[]"))
        notes = shortfall(len(paths), asked_for) if paths else ()
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise JournalError(f"the journal {journal}: {DAMAGED}") from error
    return BatchOutcome(
        key=key,
        status=state,
        instruction=instruction,
        images=images,
        parameters=parameters,
        files=paths,
        cost=cost_of(cost),
        task_id=task_id,
        error=problem,
        notes=notes,
        attempts=attempts,
        queued=queued,
        running=running,
        lag=lag,
        checks=checks,
    )
