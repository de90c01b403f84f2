"""Counts the rows of a source in a temporary file, so that memory does not grow. Blocking."""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Iterator

from qwen_edit_async.errors import ConfigurationError

_SETUP = """
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    CREATE TABLE rows (
        identity TEXT PRIMARY KEY, content TEXT NOT NULL, before INTEGER NOT NULL, now INTEGER NOT NULL
    ) WITHOUT ROWID;
    BEGIN;
"""


class RowCounts:
    """The number of rows with each identity, in the current reading of a source and in the previous reading."""

    def __init__(self) -> None:
        # An empty name means a temporary file. Several threads use this connection, but never at the same time.
        self._connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._connection.executescript(_SETUP)
        weakref.finalize(self, self._connection.close)

    def add(self, identity: str, content: str = "") -> tuple[int, str]:
        """Count a row. Return the number of rows with this identity so far, and the ``content`` of the first such row.

        Raises:
            ConfigurationError: If the temporary file can't be written.
        """
        statement = (
            "INSERT INTO rows VALUES (?, ?, 0, 1) ON CONFLICT DO UPDATE SET now = now + 1 RETURNING now, content"
        )
        try:
            counted: tuple[int, str] = self._connection.execute(statement, (identity, content)).fetchone()
        except sqlite3.Error as error:
            raise ConfigurationError(
                f"the rows can't be counted in a temporary file: {error}", hint="set SQLITE_TMPDIR to another folder"
            ) from error
        return counted

    def start_again(self) -> None:
        """Start to count the rows of the next reading."""
        self._connection.execute("UPDATE rows SET before = now, now = 0")

    def missing(self) -> Iterator[str]:
        """Yield each identity that had more rows in the previous reading than in the current one."""
        for (identity,) in self._connection.execute("SELECT identity FROM rows WHERE now < before ORDER BY identity"):
            yield identity
