"""Reads the outcomes of a bulk run from its journal. Blocking.

A run can write to the journal between two reads, because each read is a short transaction.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final

from qwen_edit_async.batch.journal.database import PATIENCE, is_journal
from qwen_edit_async.batch.journal.rows import OUTCOME_COLUMNS, explain, read_only_address, to_outcome
from qwen_edit_async.batch.outcome import BatchOutcome
from qwen_edit_async.errors import JournalError
from qwen_edit_async.storage.paths import FilePath

PAGE: Final = 256


def read_page(
    journal: Path, after: int, folder: FilePath, limit: int = PAGE, patience: float = PATIENCE
) -> list[tuple[int, BatchOutcome]]:
    """Return a page of outcomes, each with its edit's number in the journal.

    Args:
        journal: The path of the journal.
        after: The number of the last edit already read.
        folder: The folder of the results.
        limit: The maximum number of outcomes.
        patience: Seconds to wait for another program that has locked the journal.

    Raises:
        JournalError: If the journal is missing or can't be read.
    """
    with _reading(journal, patience) as connection:
        rows = connection.execute(
            f"SELECT {OUTCOME_COLUMNS} FROM edits WHERE number > ? ORDER BY number LIMIT ?",
            (after, limit),
        )
        return [(row["number"], to_outcome(row, journal, folder)) for row in rows]


def read_chosen(journal: Path, folder: FilePath, limit: int) -> Generator[BatchOutcome, None, None]:
    """Yield outcomes for ``report.html``: first the edits with errors, then the others.

    Each group is in the journal's order. An edit is left out if a new edit took its place, because its row had changed.

    Raises:
        JournalError: If the journal is missing or can't be read.
    """
    with _reading(journal) as connection:
        chosen = connection.execute(
            "SELECT number FROM edits WHERE state != 'replaced' ORDER BY problem IS NULL, number LIMIT ?", (limit,)
        )
        for (number,) in chosen.fetchall():
            query = f"SELECT {OUTCOME_COLUMNS} FROM edits WHERE number = ?"
            yield to_outcome(connection.execute(query, (number,)).fetchone(), journal, folder)


@contextlib.contextmanager
def _reading(journal: Path, patience: float = PATIENCE) -> Iterator[sqlite3.Connection]:
    missing = JournalError(f"there is no journal in {journal.parent}: no run has begun there")
    if not journal.exists():
        raise missing
    try:
        with contextlib.closing(sqlite3.connect(read_only_address(journal), uri=True, timeout=patience)) as connection:
            connection.row_factory = sqlite3.Row
            if not is_journal(connection, journal):
                raise missing
            yield connection
    except sqlite3.Error as error:
        raise explain(error, journal) from error
