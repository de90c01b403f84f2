"""Rows are counted by identity, in two readings."""

from __future__ import annotations

from qwen_edit_async.batch.counts import RowCounts


def test_equal_rows_are_counted():
    counts = RowCounts()
    assert [counts.add(identity) for identity in ("a", "b", "a", "a")] == [1, 1, 2, 3]


def test_another_reading_begins_at_one_and_misses_what_has_fewer_rows():
    counts = RowCounts()
    for identity in ("z", "a", "a", "same"):
        counts.add(identity)
    counts.start_again()
    assert [counts.add(identity) for identity in ("a", "same", "new")] == [1, 1, 1]
    assert list(counts.missing()) == ["a", "z"]
