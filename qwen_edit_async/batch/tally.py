"""What a journal has in all, for budgets and reports. Blocking; memory does not grow with the number of edits."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

import attrs

from qwen_edit_async.batch.plan import State
from qwen_edit_async.batch.report import FailureGroup, JournalSummary, Percentiles
from qwen_edit_async.protocol.replies import cost_of

_LISTED_KEYS: Final = 100
_SAMPLE_KEYS: Final = 50

_DOUBTFUL: Final = "repeats + (state = 'uncertain' AND task_id IS NULL)"
"""How often an edit was submitted without a task id to show for it."""


@attrs.frozen(kw_only=True)
class Totals:
    """What a journal has.

    Attributes:
        edits: How many.
        tasks: How many were created for them, or may have been.
        cost: What edits cost, as far as the service says.
        price: The highest for a picture; ``None`` if none is known.
        unpriced: Completed edits that came without a cost.
        doubtful: Pictures of submissions that may have been charged, without a task that could tell.
    """

    edits: int
    tasks: int
    cost: Decimal
    price: Decimal | None
    unpriced: int
    doubtful: int


def read_totals(connection: sqlite3.Connection) -> Totals:
    """What has been done so far."""
    edits, tasks, doubtful = connection.execute(
        f"SELECT count(*), count(task_id) + total({_DOUBTFUL}), total(pictures * ({_DOUBTFUL})) FROM edits"  # noqa: S608  # constants
    ).fetchone()
    rows = connection.execute("SELECT DISTINCT cost, pictures, urls IS NOT NULL FROM edits WHERE cost IS NOT NULL")
    prices = (
        cost / pictures
        for text, pictures, has_result in rows
        if (cost := cost_of(text)) is not None and (cost or has_result)  # an edit that failed may have cost nothing
    )
    price = max(prices, default=None)
    cost, unpriced = _cost(connection)
    return Totals(edits=edits, tasks=int(tasks), cost=cost, price=price, unpriced=unpriced, doubtful=int(doubtful))


def read_summary(connection: sqlite3.Connection) -> JournalSummary:
    """Everything that a report says of the journal."""
    counts = dict(connection.execute("SELECT state, count(*) FROM edits GROUP BY state"))
    cost, unpriced = _cost(connection)
    uncertain = connection.execute(
        "SELECT key FROM edits WHERE state IN ('uncertain', 'submitting') ORDER BY number LIMIT ?", (_LISTED_KEYS,)
    )
    unsaved = connection.execute(
        "SELECT key, task_id FROM edits WHERE state = 'completed' ORDER BY number LIMIT ?", (_LISTED_KEYS,)
    )
    return JournalSummary(
        counts={state: counts.get(state.value, 0) for state in State},
        pictures=int(_one(connection, "SELECT total(json_array_length(files)) FROM edits WHERE state = 'saved'")),
        short=_one(
            connection, "SELECT count(*) FROM edits WHERE state = 'saved' AND json_array_length(files) < pictures"
        ),
        cost=cost,
        unpriced=unpriced,
        queued=_percentiles(connection, "queued"),
        running=_percentiles(connection, "running"),
        lag=_percentiles(connection, "lag"),
        checks_per_edit=_one(connection, "SELECT avg(checks) FROM edits"),
        retries=int(_one(connection, "SELECT total(max(attempts - 1, 0)) FROM edits")),
        repeats=int(_one(connection, "SELECT total(repeats) FROM edits")),
        uncertain_keys=tuple(key for (key,) in uncertain),
        unsaved_tasks=dict(unsaved),
        failures=_failures(connection),
        retryable=_one(connection, "SELECT count(*) FROM edits WHERE state = 'failed' AND task_id IS NULL"),
    )


def _cost(connection: sqlite3.Connection) -> tuple[Decimal, int]:
    """Exact, so not by SQLite's sum: the total, and how many completed edits came without a cost."""
    total, unpriced = Decimal(0), 0
    rows = connection.execute("SELECT cost, count(*), count(urls) FROM edits GROUP BY cost")
    for text, count, results in rows:
        cost = cost_of(text)  # earlier versions wrote down whatever the service said
        if cost is None:
            unpriced += results
        else:
            total += cost * count
    return total, unpriced


def _percentiles(connection: sqlite3.Connection, column: str) -> Percentiles | None:
    """By nearest rank; the values never leave SQLite. What is no number was damaged, and is left out."""
    known = f"FROM edits WHERE typeof({column}) IN ('real', 'integer')"
    count = _one(connection, f"SELECT count(*) {known}")
    if not count:
        return None
    query = f"SELECT {column} {known} ORDER BY {column} LIMIT 1 OFFSET ?"
    return Percentiles(
        p50=_one(connection, query, (_rank(count, 50),)),
        p95=_one(connection, query, (_rank(count, 95),)),
    )


def _failures(connection: sqlite3.Connection) -> tuple[FailureGroup, ...]:
    groups = connection.execute(
        "SELECT reason, count(*) FROM edits WHERE reason IS NOT NULL GROUP BY reason ORDER BY count(*) DESC, reason"
    ).fetchall()
    return tuple(
        FailureGroup(
            reason=reason,
            count=count,
            keys=tuple(
                key
                for (key,) in connection.execute(
                    "SELECT key FROM edits WHERE reason = ? ORDER BY number LIMIT ?", (reason, _SAMPLE_KEYS)
                )
            ),
        )
        for reason, count in groups[:_LISTED_KEYS]
    )


def _one(connection: sqlite3.Connection, query: str, parameters: Sequence[Any] = ()) -> Any:
    return connection.execute(query, parameters).fetchone()[0]


def _rank(count: int, percent: int) -> int:
    return -(-count * percent // 100) - 1
