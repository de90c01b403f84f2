"""The journal's SQLite database. Blocking, and for one thread only."""

from __future__ import annotations

import functools
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import attrs

from qwen_edit_async.batch.journal.sqlite import COUNT_DAMAGED, DAMAGED, explain, read_only_address
from qwen_edit_async.batch.plan import ORIGINS, State
from qwen_edit_async.batch.report import JournalSummary
from qwen_edit_async.batch.sources import folded
from qwen_edit_async.batch.tally import Totals, read_summary, read_totals
from qwen_edit_async.batch.upgrade import add_functions
from qwen_edit_async.errors import InvalidEditError, JournalError
from qwen_edit_async.log import log
from qwen_edit_async.protocol.base import check_task_id
from qwen_edit_async.protocol.replies import cost_of
from qwen_edit_async.session.results import safe_stem

_APPLICATION_ID: Final = 0x51574544
_BUSY_SECONDS: Final = 10.0

_MIGRATIONS: Final = (
    """
    CREATE TABLE edits (
        number INTEGER PRIMARY KEY,
        key TEXT NOT NULL UNIQUE,
        stem TEXT NOT NULL UNIQUE COLLATE NOCASE,
        digest TEXT NOT NULL,
        stamp TEXT NOT NULL,
        request TEXT NOT NULL,
        pictures INTEGER NOT NULL,
        state TEXT NOT NULL,
        task_id TEXT,
        urls TEXT,
        usage TEXT,
        cost TEXT,
        files TEXT,
        reason TEXT,
        problem TEXT,
        attempts INTEGER NOT NULL DEFAULT 0,
        repeats INTEGER NOT NULL DEFAULT 0,
        queued REAL,
        running REAL,
        lag REAL,
        checks INTEGER
    );
    """,
    """
    ALTER TABLE edits ADD COLUMN former_task_ids TEXT;
    CREATE TABLE service (only INTEGER PRIMARY KEY CHECK (only = 1), origin TEXT NOT NULL);
    """,
    # Of several edits that are one now, the one that was paid for gets the name.
    """
    ALTER TABLE edits ADD COLUMN former_key TEXT;
    UPDATE edits SET digest = unsigned_digest(request, digest) WHERE request LIKE '%://%?%';
    UPDATE OR IGNORE edits SET former_key = key, key = unsigned_key(request, key), stem = stem_of(unsigned_key(request, key))
        WHERE request LIKE '%://%?%' AND (task_id IS NOT NULL OR state IN ('submitting', 'uncertain'))
        AND unsigned_key(request, key) != key;
    UPDATE OR IGNORE edits SET former_key = key, key = unsigned_key(request, key), stem = stem_of(unsigned_key(request, key))
        WHERE request LIKE '%://%?%' AND task_id IS NULL AND state NOT IN ('submitting', 'uncertain')
        AND unsigned_key(request, key) != key;
    """,  # noqa: E501  # SQL
)
"""One script a schema version: a journal of an older version is brought up to date, step by step, when it is opened.

Who only reads an older one is given a copy in memory that is up to date: it tells what a run will find.
"""

_ENTRY_COLUMNS: Final = "number, key, digest, stamp, state, pictures, task_id, urls, files, repeats, cost"


@attrs.frozen(kw_only=True)
class Draft:
    """An edit that is to be planned; the fields are the journal's columns."""

    key: str
    stem: str
    digest: str
    stamp: str
    request: str
    pictures: int


@attrs.frozen(kw_only=True)
class Entry:
    """An edit as the journal has it.

    Attributes:
        number: The journal's own.
        key: Its name in the batch.
        stem: What its files are called.
        digest: Hash of the request; empty if its images could not be read.
        stamp: Hash of its files' names, sizes and times; empty if they have none.
        state: Where it stands.
        pictures: How many pictures it is to give.
        task_id: If it has been submitted.
        urls: Of its results, once it is completed.
        files: Names and sizes in bytes of its pictures, once they are saved.
        repeats: How often it was submitted again though a task may have existed.
        cost: What the service says that it cost, also before it is saved.
    """

    number: int
    key: str
    stem: str
    digest: str
    stamp: str
    state: State
    pictures: int
    task_id: str | None = None
    urls: tuple[str, ...] = ()
    files: tuple[tuple[str, int], ...] = ()
    repeats: int = 0
    cost: Decimal | None = None


class Store:
    """The database file, open.

    Args:
        path: The file.
        read_only: Whether it is only looked at: no file is made or changed, but for undoing what a run that died was
            just writing.

    Raises:
        JournalError: If it can't be opened or made, is no journal, or is one of a later version.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path = path
        name = read_only_address(path) if read_only else path
        with ExitStack() as undo:
            try:
                self._connection = sqlite3.connect(name, timeout=_BUSY_SECONDS, isolation_level=None, uri=read_only)
                undo.callback(self.close)
                if not read_only:
                    self._configure()
                self._migrate(read_only=read_only)
                self._check()
            except (sqlite3.Error, UnicodeDecodeError, InvalidEditError) as error:
                raise explain(error, path) from error
            undo.pop_all()

    def close(self) -> None:
        """Close the file; the write-ahead log is merged into it."""
        self._connection.close()

    def transact(self, operations: Sequence[Callable[[], Any]]) -> list[Any]:
        """Run operations in one transaction; what one of them returned, or the :class:`JournalError` it raised.

        Raises:
            JournalError: If nothing of it all could be written.
        """
        results: list[Any] = []
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for operation in operations:
                try:
                    results.append(operation())
                except JournalError as error:  # it refused before it wrote
                    results.append(error)
            self._connection.execute("COMMIT")
        except (sqlite3.Error, UnicodeDecodeError) as error:
            with suppress(sqlite3.Error):  # some errors have rolled back already
                self._connection.execute("ROLLBACK")
            raise explain(error, self._path) from error
        return results

    def bind(self, service: str) -> None:
        """Take the journal for a service's; as long as no task of another one may be in it, it can be anybody's.

        Raises:
            JournalError: If it is another service's.
        """
        known = self._connection.execute("SELECT origin FROM service").fetchone()
        if known == (service,):
            return
        if known is not None and self._one(_HAS_TASKS):
            raise JournalError(
                f"the journal {self._path} has tasks of {known[0]}, which {service} does not know: "
                "give this run another output folder, or go on with the service that has them"
            )
        self._connection.execute("INSERT OR REPLACE INTO service VALUES (1, ?)", (service,))

    def find(self, key: str) -> Entry | None:
        """The edit of that name."""
        row = self._connection.execute(f"SELECT {_ENTRY_COLUMNS} FROM edits WHERE key = ?", (key,)).fetchone()  # noqa: S608  # constants
        return None if row is None else _entry(row)

    def plan(self, draft: Draft) -> Entry | None:
        """The edit of that name, planned now if it is new; ``None`` if its files would be those of another edit."""
        try:
            cursor = self._connection.execute(
                "INSERT INTO edits (key, stem, digest, stamp, request, pictures, state) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*map(_storable, attrs.astuple(attrs.evolve(draft, stem=folded(draft.stem)))), State.PLANNED.value),
            )
        except sqlite3.IntegrityError:
            return self.find(draft.key)
        return Entry(
            number=cursor.lastrowid or 0,
            key=draft.key,
            stem=draft.stem,
            digest=draft.digest,
            stamp=draft.stamp,
            state=State.PLANNED,
            pictures=draft.pictures,
        )

    def redraft(self, number: int, draft: Draft) -> None:
        """Replace what is asked for; for an edit that was never paid for."""
        self._connection.execute(
            "UPDATE edits SET digest = ?, stamp = ?, request = ?, pictures = ? WHERE number = ?",
            (draft.digest, draft.stamp, _storable(draft.request), draft.pictures, number),
        )

    def replace(self, edit: Entry, key: str, files: Sequence[tuple[str, int]], draft: Draft) -> Entry | None:
        """Plan a new edit of a key, and keep the one before, with its task and its cost, under another key.

        Args:
            edit: The edit that had the key.
            key: Its new key.
            files: Its pictures under their new names.
            draft: The new edit.

        Returns:
            The new edit; ``None`` if the other key is taken.
        """
        columns = (key, folded(safe_stem(key)), json.dumps(files), edit.number)
        try:
            self._connection.execute(_REPLACE, tuple(map(_storable, columns)))
        except sqlite3.IntegrityError:
            return None
        return self.plan(draft)

    def restamp(self, number: int, stamp: str) -> None:
        """Replace the stamp of an edit whose files were looked at, and have the content that they had."""
        self._connection.execute("UPDATE edits SET stamp = ? WHERE number = ?", (stamp, number))

    def move(self, number: int, state: State, columns: dict[str, Any]) -> None:
        """Record a step of an edit.

        Args:
            number: The edit.
            state: Where it stands from now on.
            columns: What else is known.

        Raises:
            JournalError: If the edit can't come there from where it stands.
        """
        cursor = self._connection.execute(
            _move_statement(state, tuple(columns)), (*map(_storable, columns.values()), number)
        )
        if cursor.rowcount != 1:
            raise JournalError(f"edit {number} can't become {state.value} from where it stands")

    def take_in(self, task_ids: Mapping[str, str]) -> None:
        """Record tasks, by their edits' keys, whose ids came when the journal could not be written."""
        for key, task_id in task_ids.items():
            edit = self.find(key) or self._renamed(key)
            if edit is not None and edit.state in {State.SUBMITTING, State.UNCERTAIN} and edit.task_id != task_id:
                self.move(edit.number, State.SUBMITTED, {"task_id": task_id, "reason": None, "problem": None})
                log.warning("%r is task %s, which the run before could not journal", key, task_id)

    def _renamed(self, former_key: str) -> Entry | None:
        row = self._connection.execute("SELECT key FROM edits WHERE former_key = ?", (former_key,)).fetchone()
        return None if row is None else self.find(row[0])

    def save(self, number: int, paths: Sequence[Path]) -> None:
        """Record that an edit's pictures are there, with their sizes.

        Raises:
            JournalError: If the edit can't come there from where it stands.
        """
        files = json.dumps([(path.name, _size(path)) for path in paths])
        self.move(number, State.SAVED, {"files": files, "reason": None, "problem": None})

    def recover(self) -> int:
        """Call uncertain what an earlier run was submitting when it ended; how many there are."""
        return self._connection.execute(
            "UPDATE edits SET state = 'uncertain', reason = ?, problem = ? WHERE state = 'submitting'",
            (_INTERRUPTED, _INTERRUPTED),
        ).rowcount

    def unfinished(self, after: int, limit: int) -> list[Entry]:
        """Edits that have a task, but not all of its pictures, by their numbers."""
        rows = self._connection.execute(
            f"SELECT {_ENTRY_COLUMNS} FROM edits WHERE state IN ('submitted', 'completed', 'uncertain') "  # noqa: S608  # constants
            "AND task_id IS NOT NULL AND number > ? ORDER BY number LIMIT ?",
            (after, limit),
        )
        return [_entry(row) for row in rows]

    def unsaved(self) -> list[str]:
        """Names of the pictures that are there to be downloaded."""
        rows = self._connection.execute(f"SELECT {_ENTRY_COLUMNS} FROM edits WHERE state = 'completed'")  # noqa: S608  # constants
        return [f"{entry.stem}-{index}.png" for entry in map(_entry, rows) for index in range(len(entry.urls))]

    def totals(self) -> Totals:
        """What has been done so far."""
        return read_totals(self._connection)

    def summary(self) -> JournalSummary:
        """Everything that a report says of the journal."""
        return read_summary(self._connection)

    def _configure(self) -> None:
        mode = ""
        with suppress(sqlite3.OperationalError):  # how some network drives say that they have no shared memory
            (mode,) = self._connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            # Not DELETE: between two transactions, too, the file beside it tells readers that there may be a run.
            (mode,) = self._connection.execute("PRAGMA journal_mode = PERSIST").fetchone()
            log.warning("%s is where SQLite can't keep a write-ahead log: the journal will be slower", self._path)
        # FULL: with WAL, NORMAL keeps the file consistent, but a power cut may undo the last commits. One of those
        # could hold the id of a task that was paid for, or the intent without which it would be paid for twice.
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA fullfsync = ON")  # macOS: fsync alone stops at the drive's cache

    def _migrate(self, *, read_only: bool) -> None:
        version = self._one("PRAGMA user_version")
        owner = self._one("PRAGMA application_id")
        if version > len(_MIGRATIONS):
            raise JournalError(f"{self._path} was written by a later version of qwen-edit-async: update it")
        if (owner or version) and owner != _APPLICATION_ID:
            raise JournalError(f"{self._path} is a database of something else")
        if version == len(_MIGRATIONS):
            return
        if read_only:
            copy = sqlite3.connect(":memory:", isolation_level=None)
            with closing(self._connection) as original:
                self._connection = copy
                original.backup(copy)
        add_functions(self._connection)
        for number, script in enumerate(_MIGRATIONS[version:], version + 1):
            self._connection.executescript(
                f"BEGIN IMMEDIATE; {script} PRAGMA application_id = {_APPLICATION_ID}; "
                f"PRAGMA user_version = {number}; COMMIT;"
            )

    def _check(self) -> None:
        """Refuse a damaged file: an edit whose key, state or task is lost would be submitted, and paid for, again."""
        if self._one("PRAGMA integrity_check(1)") != "ok" or self._one(COUNT_DAMAGED):
            raise JournalError(f"the journal {self._path}: {DAMAGED}")
        for (task_id,) in self._connection.execute("SELECT task_id FROM edits WHERE task_id IS NOT NULL"):
            check_task_id(task_id)  # here already: later it would end a run that has submitted others

    def _one(self, query: str, parameters: Sequence[Any] = ()) -> Any:
        return self._connection.execute(query, parameters).fetchone()[0]


_REPLACE: Final = (
    "UPDATE edits SET state = 'replaced', key = ?, stem = ?, files = ?, reason = NULL, "
    "repeats = repeats + (state = 'uncertain' AND task_id IS NULL) WHERE number = ?"
)
"""An uncertain edit without a task counts as repeated from now on: it may still be charged."""

_HAS_TASKS: Final = (
    "SELECT EXISTS (SELECT 1 FROM edits WHERE task_id IS NOT NULL OR state IN ('submitting', 'uncertain'))"
)

_INTERRUPTED: Final = "the run ended while the edit was submitted: a task may exist, and be charged"


@functools.cache
def _move_statement(state: State, columns: tuple[str, ...]) -> str:
    """There are only as many as kinds of steps."""
    changes = "".join(f", {column} = ?" for column in columns)
    if state is State.SUBMITTING:
        changes += ", attempts = attempts + 1"
    if "task_id" in columns:  # of a repeat: the account still has the task before
        changes += ", former_task_ids = nullif(trim(coalesce(former_task_ids, '') || ' ' || coalesce(task_id, '')), '')"
    origins = ", ".join(f"'{origin.value}'" for origin in ORIGINS[state])
    return f"UPDATE edits SET state = '{state.value}'{changes} WHERE number = ? AND state IN ({origins})"  # noqa: S608  # our own names


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1  # somebody has taken it away: the next run will find it missing


def _entry(row: Sequence[Any]) -> Entry:
    number, key, digest, stamp, state, pictures, task_id, urls, files, repeats, cost = row
    try:
        return Entry(
            number=number,
            key=key,
            stem=safe_stem(key),
            digest=digest,
            stamp=stamp,
            state=State(state),
            pictures=pictures,
            task_id=task_id,
            urls=tuple(str(url) for url in json.loads(urls or "[]")),
            files=tuple((str(name), int(size)) for name, size in json.loads(files or "[]")),
            repeats=repeats,
            cost=cost_of(cost),
        )
    except (ValueError, TypeError, AttributeError):
        raise JournalError(f"edit {number} of the journal: {DAMAGED}") from None


def _storable(value: Any) -> Any:
    """Text that SQLite can hold: a file's name or a service's words may have surrogates, which UTF-8 has not."""
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) and not value.isascii() else value
