"""Converts the journal's rows into objects, values into columns, and SQLite's errors into messages."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path, PurePath
from typing import Any, Final, TypeVar

import cattrs

from qwen_edit_async.batch.outcome import BatchOutcome
from qwen_edit_async.batch.rules.decide import Entry, State
from qwen_edit_async.errors import InvalidEditError, JournalError
from qwen_edit_async.protocol.replies import cost_of
from qwen_edit_async.storage.paths import FilePath
from qwen_edit_async.tasks import shortfall

T = TypeVar("T")

DAMAGED: Final = "it is damaged. Restore a backup. A run in another folder would pay for every edit again"

_EXPLANATIONS: Final = (
    ("SQLITE_FULL", "the disk is full"),
    ("SQLITE_READONLY", "it can't be written: is the folder, or its file system, read-only?"),
    ("SQLITE_CANTOPEN", "it can't be opened or created: is the folder writable?"),
    ("SQLITE_NOTADB", "it is not a SQLite database"),
    ("SQLITE_CORRUPT", DAMAGED),
    ("SQLITE_BUSY", "another program has locked it"),
    ("SQLITE_LOCKED", "another program has locked it"),
    ("SQLITE_IOERR", "the disk failed"),
)


_converter: Final = cattrs.Converter(detailed_validation=False)
_converter.register_structure_hook(Decimal | None, lambda text, _: cost_of(text))
_converter.register_structure_hook(FilePath, lambda path, _: path)
_converter.register_unstructure_hook(State, lambda state: state.value)
_converter.register_unstructure_hook(Decimal, str)

OUTCOME_COLUMNS: Final = (
    "number, key, name, state AS status, request, task_id, cost, files, damage, urls, problem AS error, attempts, "
    "queued, running, lag, checks, pictures"
)


def to_entry(row: sqlite3.Row) -> Entry:
    """Return the edit in a row. The row must have a column for each field of :class:`Entry`."""
    return _intact(lambda: _converter.structure(_parsed(row), Entry), f"edit {row['number']} of the journal")


def to_outcome(row: sqlite3.Row, journal: Path, folder: FilePath) -> BatchOutcome:
    """Return the outcome in a row with :data:`OUTCOME_COLUMNS`. ``folder`` holds the results."""

    def structure() -> BatchOutcome:
        columns = _parsed(row)
        files = [folder / name for name, _ in columns["files"]]
        notes = shortfall(len(files), row["pictures"]) if files else ()
        facts = json.loads(row["request"]) | columns | {"files": files, "notes": notes}
        return _converter.structure(facts, BatchOutcome)

    return _intact(structure, f"the journal {journal}")


def _parsed(row: sqlite3.Row) -> dict[str, Any]:
    return dict(row) | {name: json.loads(row[name]) if row[name] else () for name in ("urls", "files")}


def to_column(value: Any) -> Any:
    """Convert a value for SQLite. Lone surrogates become question marks, because UTF-8 can't encode them."""
    value = _converter.unstructure(value)
    if isinstance(value, list | tuple):
        value = json.dumps(value)
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "replace").decode("utf-8")
    return value


def _intact(structure: Callable[[], T], what: str) -> T:
    try:
        return structure()
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise JournalError(f"{what}: {DAMAGED}") from error


def explain(error: sqlite3.Error | UnicodeDecodeError | InvalidEditError, path: Path) -> JournalError:
    """Return an error with a clear message. Text that is not UTF-8, or an invalid task id, is reported as damage."""
    name = getattr(error, "sqlite_errorname", "") or "" if isinstance(error, sqlite3.Error) else "SQLITE_CORRUPT"
    words = next((words for prefix, words in _EXPLANATIONS if name.startswith(prefix)), str(error))
    return JournalError(f"the journal {path}: {words}")


def read_only_address(path: Path) -> str:
    """Return the URI for reading a journal without leaving other files in its folder."""
    if path.with_name(f"{path.name}-journal").exists():
        mode = "mode=rw"  # SQLite may have to undo the transaction of a run that died
    elif path.with_name(f"{path.name}-wal").exists():
        mode = "mode=ro"
    else:  # no run has the journal open, so nothing changes it
        mode = "mode=ro&immutable=1"
    return f"{uri_of(path.absolute())}?{mode}"


def uri_of(path: PurePath) -> str:
    """Return the URI of a file, without a host, because SQLite refuses the host of a Windows share."""
    return re.sub("^file://(?!/)", "file:////", path.as_uri())
