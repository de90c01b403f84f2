"""The journal's SQLite database. Blocking, and for one thread only."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import attrs

from qwen_edit_async.batch.journal.rows import (
    DAMAGED,
    OUTCOME_COLUMNS,
    explain,
    read_only_address,
    to_column,
    to_entry,
    to_outcome,
)
from qwen_edit_async.batch.journal.schema import APPLICATION_ID, COUNT_DAMAGED, SCHEMA, VERSION
from qwen_edit_async.batch.journal.summary import read_summary, read_totals
from qwen_edit_async.batch.outcome import BatchOutcome
from qwen_edit_async.batch.rules.decide import ORIGINS, Entry, Fingerprint, State
from qwen_edit_async.batch.rules.identity import allot, describe, folded, stem_of
from qwen_edit_async.batch.rules.report import JournalSummary
from qwen_edit_async.errors import InvalidEditError, JournalError
from qwen_edit_async.log import log
from qwen_edit_async.models import EditRequest, requested_pictures
from qwen_edit_async.protocol.base import check_task_id
from qwen_edit_async.storage.bucket import BucketPath
from qwen_edit_async.storage.paths import FilePath
from qwen_edit_async.text import quoted

PATIENCE: Final = 10.0
"""Seconds to wait for another program that has locked the journal."""

_ENTRY: Final = ", ".join(field.name for field in attrs.fields(Entry))

_UNFINISHED: Final = (
    f"SELECT {_ENTRY}, {OUTCOME_COLUMNS} FROM edits "
    "WHERE state NOT IN ('saved', 'replaced', 'failed') OR (state = 'failed' AND task_id IS NULL)"
)
"""Selects the edits that a run may still submit, wait for or save."""

_HAS_TASKS: Final = (
    "SELECT EXISTS (SELECT 1 FROM edits WHERE task_id IS NOT NULL OR state IN ('submitting', 'uncertain'))"
)
_REPLACE: Final = (
    "UPDATE edits SET state = 'replaced', identity = NULL, reason = NULL, "
    "repeats = repeats + (state = 'uncertain' AND task_id IS NULL) WHERE number = ?"
)
"""If an uncertain edit has no task id, ``repeats`` counts its replacement, because both edits may be charged."""

_KEEP_TASK_ID: Final = (
    "former_task_ids = nullif(trim(coalesce(former_task_ids, '') || ' ' || coalesce(task_id, '')), '')"
)
_INTERRUPTED: Final = "the run ended while the edit was being submitted: a task may exist, and be charged"


class Store:
    """An open journal database.

    Args:
        read_only: Whether to open the file for reading only. SQLite then changes the file only to undo the unfinished
            transaction of a run that died.
        checked: Whether to check the whole file for damage.

    Raises:
        JournalError: If the file can't be opened or created, is damaged, is not a journal, or is of another version.
    """

    def __init__(self, path: Path, *, read_only: bool = False, checked: bool = True) -> None:
        self._path = path
        self._numbers: dict[str, int] = {}
        name = read_only_address(path) if read_only else path
        with ExitStack() as undo:
            try:
                self._connection = sqlite3.connect(name, timeout=PATIENCE, isolation_level=None, uri=read_only)
                undo.callback(self.close)
                self._connection.row_factory = sqlite3.Row
                self.is_empty: bool = not self._is_journal()
                if not read_only:
                    self._configure()
                    if self.is_empty:
                        self._connection.executescript(SCHEMA)
                if checked and not (read_only and self.is_empty):
                    self._check()
            except (sqlite3.Error, UnicodeDecodeError, InvalidEditError) as error:
                raise explain(error, path) from error
            undo.pop_all()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def transact(self, operations: Sequence[Callable[[], Any]]) -> list[Any]:
        """Run operations in one transaction. Return each operation's result, or the :class:`JournalError` it raised.

        Raises:
            JournalError: If the transaction failed, so that nothing was written.
        """
        results: list[Any] = []
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for operation in operations:
                try:
                    results.append(operation())
                except JournalError as error:  # raised before the operation wrote anything
                    results.append(error)
            self._connection.execute("COMMIT")
        except (sqlite3.Error, UnicodeDecodeError) as error:
            with suppress(sqlite3.Error):  # after some errors, SQLite has already rolled back
                self._connection.execute("ROLLBACK")
            raise explain(error, self._path) from error
        return results

    def bind(self, service: str) -> None:
        """Record the service whose tasks the journal holds. Refuse another service if a task may already exist.

        Raises:
            JournalError: If the journal has tasks of another service.
        """
        known = self._connection.execute("SELECT origin FROM service").fetchone()
        if known is not None and known["origin"] == service:
            return
        if known is not None and self._one(_HAS_TASKS):
            raise JournalError(
                f"the journal {self._path} has tasks of {known['origin']}, but this run uses {service}",
                hint="give this run another output folder, or use the service that has these tasks",
            )
        self._connection.execute("INSERT OR REPLACE INTO service VALUES (1, ?)", (service,))

    def find(self, identity: str) -> Entry | None:
        """Return the edit with this identity; ``None`` if no edit has it."""
        return next(iter(self._select("identity = ?", identity)), None)

    def is_taken(self, folded_name: str) -> bool:
        """Return whether an edit already has this case-folded name."""
        return bool(self._one("SELECT EXISTS (SELECT 1 FROM edits WHERE folded_name = ?)", folded_name))

    def plan(self, identity: str, request: EditRequest, fingerprint: Fingerprint) -> Entry:
        """Return the edit with this identity. If there is none, plan one, and allot its name."""
        if (entry := self.find(identity)) is not None:
            return entry
        name = allot(stem_of(request), self.is_taken, self._numbers)
        columns = _columns_of(request, fingerprint) | {
            "identity": identity,
            "key": request.key or name,
            "name": name,
            "folded_name": folded(name),
            "state": State.PLANNED,
        }
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        values = [*map(to_column, columns.values())]
        return self._change(f"INSERT INTO edits ({names}) VALUES ({marks})", values)

    def redraft(self, number: int, request: EditRequest, fingerprint: Fingerprint) -> Entry:
        """Replace the request of an edit that was never paid for, and return the edit."""
        columns = _columns_of(request, fingerprint)
        changes = ", ".join(f"{name} = ?" for name in columns)
        values = [*map(to_column, columns.values()), number]
        return self._change(f"UPDATE edits SET {changes} WHERE number = ?", values)

    def replace(self, number: int, identity: str, request: EditRequest, fingerprint: Fingerprint) -> Entry:
        """Plan a new edit that takes over the identity of an earlier edit. The earlier edit keeps its files."""
        self._connection.execute(_REPLACE, (number,))
        return self.plan(identity, request, fingerprint)

    def restamp(self, number: int, stamp: str) -> None:
        """Replace the stamp of an edit whose content has not changed; see :class:`Fingerprint`."""
        self._connection.execute("UPDATE edits SET stamp = ? WHERE number = ?", (stamp, number))

    def move(self, number: int, state: State, /, **columns: Any) -> None:
        """Record an edit's new state, and the given columns.

        Raises:
            JournalError: If the edit can't move to that state from its current state.
        """
        changes = "".join(f", {column} = ?" for column in columns)
        if state is State.SUBMITTING:
            changes += ", attempts = attempts + 1"
        if "task_id" in columns:  # earlier ids are kept, because the account still has these tasks
            changes += f", {_KEEP_TASK_ID}"
        origins = ", ".join(f"'{origin.value}'" for origin in ORIGINS[state])
        cursor = self._connection.execute(
            f"UPDATE edits SET state = '{state.value}'{changes} WHERE number = ? AND state IN ({origins})",
            (*map(to_column, columns.values()), number),
        )
        if cursor.rowcount != 1:
            raise JournalError(f"edit {number} can't become {state.value} from its current state")

    def save(self, number: int, paths: Sequence[FilePath], damage: str | None = None) -> None:
        """Mark an edit as *saved*. Record the names and sizes of its files, and a description of any damage.

        Raises:
            JournalError: If the edit can't move to *saved* from its current state.
        """
        files = [(path.name, _size(path)) for path in paths]
        self.move(number, State.SAVED, files=files, damage=damage, reason=None, problem=None)

    def save_elsewhere(self, name: str, files: Sequence[tuple[str, int]], problem: str | None) -> bool:
        """Record the names and sizes of the files that a caller saved, or the problem that prevented saving.

        An edit that is not *completed* stays as it is. Return whether the edit was *completed*.

        Raises:
            JournalError: If no edit has that name.
        """
        folded_name = to_column(folded(name))
        if not self.is_taken(folded_name):
            raise JournalError(f"the journal {self._path} has no edit with the name {quoted(name)}")
        completed = self._select("folded_name = ? AND state = 'completed'", folded_name)
        for entry in completed:
            if problem is None:
                self.move(entry.number, State.SAVED, files=files, reason=None, problem=None)
            else:
                self.move(entry.number, State.COMPLETED, reason=problem, problem=problem)
        return bool(completed)

    def recover(self) -> int:
        """Mark edits as uncertain if an earlier run ended while submitting them. Return the number of these edits."""
        return self._connection.execute(
            "UPDATE edits SET state = 'uncertain', reason = ?, problem = ? WHERE state = 'submitting'",
            (_INTERRUPTED, _INTERRUPTED),
        ).rowcount

    def unfinished(self, after: int, limit: int) -> list[Entry]:
        """Return the first ``limit`` edits with numbers above ``after`` whose tasks may have unsaved pictures."""
        has_task = "state IN ('submitted', 'completed', 'uncertain') AND task_id IS NOT NULL"
        return self._select(f"{has_task} AND number > ? ORDER BY number LIMIT ?", after, limit)

    def unsaved(self) -> list[str]:
        """Return the names of the files that completed edits still lack."""
        completed = self._select("state = 'completed'")
        return [f"{entry.name}-{index}.png" for entry in completed for index in range(len(entry.urls))]

    def outcome(self, identity: str) -> BatchOutcome | None:
        """Return the current outcome of the edit with this identity; ``None`` if no edit has it."""
        return next((outcome for _, outcome in self.outcomes(self._path.parent, "identity = ?", identity)), None)

    def outcomes(self, folder: FilePath, where: str, *values: Any) -> list[tuple[int, BatchOutcome]]:
        """Return the numbers and outcomes of the edits that an SQL condition selects. ``folder`` holds the results."""
        rows = self._connection.execute(f"SELECT {OUTCOME_COLUMNS} FROM edits WHERE {where}", values)
        return [(row["number"], to_outcome(row, self._path, folder)) for row in rows]

    def errors_first(self, limit: int) -> list[int]:
        """Return the numbers of at most ``limit`` edits, those with errors first. Replaced edits are left out."""
        query = "SELECT number FROM edits WHERE state != 'replaced' ORDER BY problem IS NULL, number LIMIT ?"
        return [number for (number,) in self._connection.execute(query, (limit,))]

    def totals(self) -> JournalSummary:
        """Return the totals that plans and budgets need."""
        return read_totals(self._connection)

    def summary(self) -> JournalSummary:
        """Return the totals that reports need."""
        return read_summary(self._connection)

    def _is_journal(self) -> bool:
        """Return ``True`` for a journal of this version, and ``False`` for an empty file. Refuse any other file."""
        version, owner = self._one("PRAGMA user_version"), self._one("PRAGMA application_id")
        if owner != APPLICATION_ID:
            if owner or version or self._one("SELECT EXISTS (SELECT 1 FROM sqlite_master)"):
                raise JournalError(f"{self._path} is a database of another program")
            return False
        if version > VERSION:
            raise JournalError(
                f"{self._path} was written by a later version of qwen-edit-async", hint="update qwen-edit-async"
            )
        if version < VERSION:
            raise JournalError(
                f"{self._path} was written by an earlier version of qwen-edit-async, and was left as it is",
                hint="finish the batch with the version that wrote it, or choose another output folder",
            )
        return True

    def _configure(self) -> None:
        mode = ""
        with suppress(sqlite3.OperationalError):  # some network drives lack the shared memory that WAL needs
            mode = self._one("PRAGMA journal_mode = WAL")
        if mode != "wal":
            # With PERSIST, the rollback file stays, so read_only_address() never calls the journal immutable.
            self._one("PRAGMA journal_mode = PERSIST")
            log.warning(
                "%s: SQLite can't keep a write-ahead log on this file system, so the journal is slower", self._path
            )
        # With NORMAL, a power cut may undo the last commits. A later run could then pay for the same edits again.
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA fullfsync = ON")  # on macOS, fsync alone does not flush the drive's cache

    def _check(self) -> None:
        """Refuse a damaged file, because an edit whose identity, state or task id is lost would be paid for again."""
        if self._one("PRAGMA integrity_check(1)") != "ok" or self._one(COUNT_DAMAGED):
            raise JournalError(f"the journal {self._path}: {DAMAGED}")
        for (task_id,) in self._connection.execute("SELECT task_id FROM edits WHERE task_id IS NOT NULL"):
            check_task_id(task_id)  # otherwise, a bad id could end a run that has already submitted edits
        for row in self._connection.execute(_UNFINISHED):  # otherwise, a run could pay for an edit, and fail only then
            to_entry(row)
            to_outcome(row, self._path, self._path.parent)

    def _select(self, where: str, *values: Any) -> list[Entry]:
        rows = self._connection.execute(f"SELECT {_ENTRY} FROM edits WHERE {where}", values)
        return [*map(to_entry, rows)]

    def _change(self, statement: str, values: Sequence[Any]) -> Entry:
        (row,) = self._connection.execute(f"{statement} RETURNING {_ENTRY}", values)
        return to_entry(row)

    def _one(self, query: str, *values: Any) -> Any:
        return self._connection.execute(query, values).fetchone()[0]


@contextmanager
def reading(path: Path, *, checked: bool) -> Iterator[Store]:
    """Open a journal for reading while the block runs.

    Raises:
        JournalError: If the journal can't be opened or checked, or if a read in the block fails.
    """
    try:
        with closing(Store(path, read_only=True, checked=checked)) as store:
            yield store
    except sqlite3.Error as error:
        raise explain(error, path) from error


def _columns_of(request: EditRequest, fingerprint: Fingerprint) -> dict[str, Any]:
    return {
        "digest": fingerprint.digest,
        "stamp": fingerprint.stamp,
        "request": describe(request),
        "pictures": requested_pictures(request.parameters),
    }


def _size(path: FilePath) -> int:
    if isinstance(path, BucketPath):
        return path.size
    try:
        return path.stat().st_size
    except OSError:
        return -1  # the file was removed, and the next run will find it missing
