"""Computes the totals of a journal, for budgets and reports, in bounded memory. Blocking."""

from __future__ import annotations

import math
import sqlite3
from decimal import Decimal
from typing import Any, Final

import attrs

from qwen_edit_async.batch.rules.report import FailureGroup, JournalSummary, Percentiles
from qwen_edit_async.protocol.replies import cost_of

_LISTED_KEYS: Final = 100
_SAMPLE_KEYS: Final = 50

_DOUBTFUL: Final = "repeats + (state IN ('uncertain', 'submitting') AND task_id IS NULL)"
"""SQL for the number of an edit's submissions that may have created a task with an unknown id."""

_TOTALS: Final = f"""
    SELECT count(task_id) + total({_DOUBTFUL}) AS tasks,
        total(pictures * ({_DOUBTFUL})) AS doubtful,
        total(max(attempts - 1, 0)) AS retries,
        total(repeats) AS repeats,
        count(*) FILTER (WHERE state = 'planned') AS planned,
        count(*) FILTER (WHERE state = 'submitted') AS in_flight,
        count(*) FILTER (WHERE state = 'completed') AS unsaved,
        count(*) FILTER (WHERE state = 'saved') AS saved,
        count(*) FILTER (WHERE state = 'failed') AS failed,
        count(*) FILTER (WHERE state = 'failed' AND task_id IS NULL) AS retryable,
        count(*) FILTER (WHERE state IN ('uncertain', 'submitting')) AS uncertain,
        count(*) FILTER (WHERE state = 'replaced') AS replaced,
        total(json_array_length(files)) FILTER (WHERE state = 'saved') AS pictures,
        count(*) FILTER (WHERE state = 'saved' AND json_array_length(files) < pictures) AS short,
        count(*) FILTER (WHERE state = 'saved' AND damage IS NOT NULL) AS damaged
    FROM edits
"""
"""Each column has the name of a field of :class:`JournalSummary`.

An edit that a killed run left *submitting* counts as uncertain.
"""


def read_totals(connection: sqlite3.Connection) -> JournalSummary:
    """Return the counts and costs of all edits, for plans and budgets."""
    cursor = connection.execute(_TOTALS)
    totals: dict[str, Any] = {
        name: int(total) for (name, *_), total in zip(cursor.description, cursor.fetchone(), strict=True)
    }
    cost, highest, unpriced, pictures = _cost(connection)
    totals |= {"unpriced": unpriced, "doubtful": totals["doubtful"] + pictures}
    return JournalSummary(**totals, cost=cost, price=_price(connection), highest=highest)


def read_summary(connection: sqlite3.Connection) -> JournalSummary:
    """Return the totals, times and failures of all edits, for reports."""
    uncertain = connection.execute(
        "SELECT key FROM edits WHERE state IN ('uncertain', 'submitting') ORDER BY number LIMIT ?", (_LISTED_KEYS,)
    )
    return attrs.evolve(
        read_totals(connection),
        queued=_percentiles(connection, "queued"),
        running=_percentiles(connection, "running"),
        lag=_percentiles(connection, "lag"),
        checks_per_edit=_one(connection, "SELECT avg(checks) FROM edits"),
        uncertain_keys=tuple(key for (key,) in uncertain),
        unsaved_tasks=_unsaved_tasks(connection),
        failures=_failures(connection),
    )


def _unsaved_tasks(connection: sqlite3.Connection) -> dict[str, str]:
    """Return the task ids of completed, unsaved edits by key, or by ``key (name)`` for a repeated key."""
    tasks: dict[str, str] = {}
    rows = connection.execute(
        "SELECT key, name, task_id FROM edits WHERE state = 'completed' ORDER BY number LIMIT ?", (_LISTED_KEYS,)
    )
    for key, name, task_id in rows:
        tasks[f"{key} ({name})" if key in tasks else key] = task_id
    return tasks


def _cost(connection: sqlite3.Connection) -> tuple[Decimal, Decimal, int, int]:
    """Return the total and highest cost, and the numbers of completed edits without a cost and of their pictures.

    Python adds the costs, because SQLite can't add decimals exactly.
    """
    total, highest, unpriced, pictures = Decimal(0), Decimal(0), 0, 0
    rows = connection.execute(
        "SELECT cost, count(*), count(urls), total(pictures) FILTER (WHERE urls IS NOT NULL) FROM edits GROUP BY cost"
    )
    for text, count, results, made in rows:
        cost = cost_of(text)
        if cost is None:
            unpriced += results
            pictures += int(made)
        else:
            total += cost * count
            highest = max(cost, highest)
    return total, highest, unpriced, pictures


def _price(connection: sqlite3.Connection) -> Decimal | None:
    """Return the highest price of a picture. Edits that are free or made no picture do not count."""
    rows = connection.execute(
        "SELECT DISTINCT cost, min(pictures, (SELECT count(*) FROM json_each(urls) WHERE value != '')) FROM edits "
        "WHERE cost IS NOT NULL AND urls IS NOT NULL"
    )
    return max((cost / made for text, made in rows if made and (cost := cost_of(text))), default=None)


def _percentiles(connection: sqlite3.Connection, column: str) -> Percentiles | None:
    """Return the nearest-rank percentiles of a column. Values that are not numbers are ignored."""
    known = f"FROM edits WHERE typeof({column}) IN ('real', 'integer')"
    count = _one(connection, f"SELECT count(*) {known}")
    if not count:
        return None
    query = f"SELECT {column} {known} ORDER BY {column} LIMIT 1 OFFSET ? - 1"
    return Percentiles(*(_one(connection, query, (math.ceil(count * percent / 100),)) for percent in (50, 95)))


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


def _one(connection: sqlite3.Connection, query: str, parameters: tuple[int, ...] = ()) -> Any:
    return connection.execute(query, parameters).fetchone()[0]
