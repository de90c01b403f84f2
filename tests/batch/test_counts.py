"""Rows are counted by identity, in two readings."""

from __future__ import annotations

import sqlite3

import pytest

from qwen_edit_async.batch.counts import RowCounts
from qwen_edit_async.errors import ConfigurationError


def test_equal_rows_are_counted():
    counts = RowCounts()
    assert [counts.add(identity)[0] for identity in ("a", "b", "a", "a")] == [1, 1, 2, 3]


def test_another_reading_begins_at_one_and_misses_what_has_fewer_rows():
    counts = RowCounts()
    for identity in ("z", "a", "a", "same"):
        counts.add(identity)
    counts.start_again()
    assert [counts.add(identity)[0] for identity in ("a", "same", "new")] == [1, 1, 1]
    assert list(counts.missing()) == ["a", "z"]


def test_a_full_disk_is_an_error_that_names_the_remedy(monkeypatch):
    class FullDisk(sqlite3.Connection):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.execute("PRAGMA max_page_count = 3")

    monkeypatch.setattr("sqlite3.connect", FullDisk)
    counts = RowCounts()
    with pytest.raises(ConfigurationError, match="temporary file: database or disk is full; set SQLITE_TMPDIR"):
        sum(counts.add(f"{number:050}")[0] for number in range(1_000))


def test_the_content_of_the_first_row_is_kept():
    counts = RowCounts()
    assert [counts.add("a", content) for content in ("one", "two", "one")] == [(1, "one"), (2, "one"), (3, "one")]
