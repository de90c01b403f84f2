"""What SQLite has to be told, and what it tells, in plain words. Pure but for a look whether a file is there."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from qwen_edit_async.batch.plan import State
from qwen_edit_async.errors import InvalidEditError, JournalError

DAMAGED: Final = (
    "it is damaged: put a copy of it back; in another folder everything would be submitted, and paid for, again"
)

COUNT_DAMAGED: Final = (
    f"SELECT count(*) FROM edits WHERE state NOT IN ({', '.join(repr(state.value) for state in State)}) "  # noqa: S608  # our own words
    "OR typeof(key) != 'text' OR (task_id IS NULL AND state IN ('submitted', 'completed', 'saved'))"
)
"""Counts rows that no run writes, and that SQLite's own check does not see: it has no checksums."""

_EXPLANATIONS: Final = (
    ("SQLITE_FULL", "the disk is full"),
    ("SQLITE_READONLY", "it can't be written: is the folder, or its file system, read-only?"),
    ("SQLITE_CANTOPEN", "it can't be opened or made: may the folder be written?"),
    ("SQLITE_NOTADB", "it is no SQLite database"),
    ("SQLITE_CORRUPT", DAMAGED),
    ("SQLITE_BUSY", "another program has locked it"),
    ("SQLITE_LOCKED", "another program has locked it"),
    ("SQLITE_IOERR", "the disk failed"),
)


def explain(error: sqlite3.Error | UnicodeDecodeError | InvalidEditError, path: Path) -> JournalError:
    """An error of SQLite in plain words, or of what it gave: its own words for damage, too, can be no text at all."""
    name = getattr(error, "sqlite_errorname", "") or "" if isinstance(error, sqlite3.Error) else "SQLITE_CORRUPT"
    words = next((words for prefix, words in _EXPLANATIONS if name.startswith(prefix)), str(error))
    return JournalError(f"the journal {path}: {words}")


def read_only_address(path: Path) -> str:
    """What opens a journal for reading only, on a read-only file system too, and leaves no file beside it.

    If a run died in the middle of writing where there is no write-ahead log, SQLite first undoes what that began, for
    which it has to write.
    """
    if path.with_name(f"{path.name}-journal").exists():
        mode = "mode=rw"  # or else SQLite refuses what is to be undone; if nothing is, it need not write
    elif path.with_name(f"{path.name}-wal").exists():
        mode = "mode=ro"
    else:  # nobody has it open just now: then SQLite is told so, and needs no files of its own to share it
        mode = "mode=ro&immutable=1"
    return f"{path.absolute().as_uri()}?{mode}"
