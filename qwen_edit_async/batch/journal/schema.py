"""The tables of the journal, and the check of their values."""

from __future__ import annotations

from typing import Final

from qwen_edit_async import contract
from qwen_edit_async.batch.rules.decide import State

APPLICATION_ID: Final = 0x51574544
VERSION: Final = 5
"""A journal whose schema has another version is refused."""

SCHEMA: Final = f"""
    BEGIN IMMEDIATE;
    CREATE TABLE edits (
        number INTEGER PRIMARY KEY,
        identity TEXT UNIQUE,
        key TEXT NOT NULL,
        name TEXT NOT NULL,
        folded_name TEXT NOT NULL UNIQUE,
        digest TEXT NOT NULL,
        stamp TEXT NOT NULL,
        request TEXT NOT NULL,
        pictures INTEGER NOT NULL,
        state TEXT NOT NULL,
        task_id TEXT,
        former_task_ids TEXT,
        urls TEXT,
        usage TEXT,
        cost TEXT,
        files TEXT,
        damage TEXT,
        reason TEXT,
        problem TEXT,
        attempts INTEGER NOT NULL DEFAULT 0,
        repeats INTEGER NOT NULL DEFAULT 0,
        queued REAL,
        running REAL,
        lag REAL,
        checks INTEGER
    );
    CREATE TABLE service (only INTEGER PRIMARY KEY CHECK (only = 1), origin TEXT NOT NULL);
    PRAGMA application_id = {APPLICATION_ID};
    PRAGMA user_version = {VERSION};
    COMMIT;
"""
"""The identity of a replaced edit is NULL, because the new edit takes over the identity."""

COUNT_DAMAGED: Final = (
    f"SELECT count(*) FROM edits WHERE state NOT IN ({', '.join(repr(state.value) for state in State)}) "
    "OR (identity IS NULL) != (state = 'replaced') OR typeof(identity) NOT IN ('text', 'null') "
    "OR typeof(name) != 'text' OR (task_id IS NULL AND state IN ('submitted', 'completed', 'saved')) "
    f"OR pictures NOT BETWEEN {contract.MIN_N} AND {contract.MAX_N}"
)
"""Counts rows with impossible values. SQLite stores no checksums, so its integrity check misses damaged values."""
