"""Reads the outcomes of a bulk run from its journal. Blocking.

A run can write to the journal between two reads, because each read is a short transaction.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final

from qwen_edit_async.batch.journal.database import Store, reading
from qwen_edit_async.batch.outcome import BatchOutcome
from qwen_edit_async.errors import JournalError
from qwen_edit_async.storage.paths import FilePath

PAGE: Final = 256


def read_page(journal: Path, after: int, folder: FilePath) -> list[tuple[int, BatchOutcome]]:
    """Return the numbers and the outcomes of the first 256 edits with numbers above ``after``.

    Raises:
        JournalError: If the journal is missing or can't be read.
    """
    with _begun(journal) as store:
        return store.outcomes(folder, "number > ? ORDER BY number LIMIT ?", after, PAGE)


def read_chosen(journal: Path, folder: FilePath, limit: int) -> Generator[BatchOutcome, None, None]:
    """Yield outcomes for ``report.html``; see :meth:`Store.errors_first`.

    Raises:
        JournalError: If the journal is missing or can't be read.
    """
    with _begun(journal) as store:
        for number in store.errors_first(limit):
            yield from (outcome for _, outcome in store.outcomes(folder, "number = ?", number))


@contextlib.contextmanager
def _begun(journal: Path) -> Iterator[Store]:
    missing = JournalError(f"there is no journal in {journal.parent}: no run has begun there")
    if not journal.exists():
        raise missing
    with reading(journal, checked=False) as store:
        if store.is_empty:
            raise missing
        yield store
