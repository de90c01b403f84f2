"""How a bulk run went, as an object, as text and as JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Final

import attrs

from qwen_edit_async.batch.plan import State
from qwen_edit_async.text import visible

SHOWN_KEYS: Final = 5


@attrs.frozen
class Percentiles:
    """Half of the values, and 95 of 100, are no greater; in seconds."""

    p50: float
    p95: float


@attrs.frozen(kw_only=True)
class FailureGroup:
    """Edits that failed for the same reason.

    Attributes:
        reason: In words, without what names one edit.
        count: How many.
        keys: Of up to 50 of them.
    """

    reason: str
    count: int
    keys: tuple[str, ...] = ()

    def text(self) -> str:
        """All of it in one line, with the first few keys."""
        shown = self.keys[:SHOWN_KEYS]
        keys = f": {', '.join(shown)}{', …' if self.count > len(shown) else ''}" if shown else ""
        return f"{self.count} × {self.reason}{keys}"


@attrs.frozen(kw_only=True)
class JournalSummary:
    """What a journal says of all its edits; see :class:`BatchReport`."""

    counts: Mapping[State, int]
    pictures: int = 0
    short: int = 0
    cost: Decimal = Decimal(0)
    unpriced: int = 0
    queued: Percentiles | None = None
    running: Percentiles | None = None
    lag: Percentiles | None = None
    checks_per_edit: float | None = None
    retries: int = 0
    repeats: int = 0
    uncertain_keys: tuple[str, ...] = ()
    unsaved_tasks: Mapping[str, str] = attrs.field(factory=dict)
    failures: tuple[FailureGroup, ...] = ()
    retryable: int = 0


@attrs.frozen(kw_only=True)
class BatchReport:
    """How a bulk run went. It speaks of the whole batch, earlier runs included.

    Attributes:
        folder: Where the pictures and the journal are.
        elapsed: Seconds that this run took.
        planned: Edits that were not submitted yet, as far as the input was read.
        in_flight: Edits that have a task, whose end has not been seen.
        unsaved: Edits that are completed, but not all of whose pictures could be saved.
        saved: Edits that are done.
        failed: Edits that failed for good, or before they had a task.
        retryable: Those of them that had no task: another run tries them again.
        uncertain: Edits of which it is unknown whether a task exists.
        refused: Requests of this run that the journal does not have: malformed, gone since the run began, or with the
            key of another request.
        pictures: Files of the edits that are done.
        short: Edits that are done, with fewer pictures than were asked for.
        cost: What edits cost, in the account's currency, as far as the service says; those that failed too.
        unpriced: Completed edits for which the service named no cost.
        queued: Time that edits waited for a slot of the session.
        running: Time from the service's acceptance to the answer that told the end.
        lag: Upper bound of how long the end went unseen.
        checks_per_edit: Status checks that an edit took, on average.
        retries: Submissions beyond each edit's first.
        repeats: Those of them, with consent, after which an edit may have been charged twice.
        uncertain_keys: Of up to 100 uncertain edits.
        unsaved_tasks: Task ids by key, of up to 100 edits that are completed but not saved.
        failures: What went wrong, the most frequent first.
        rows: Rows or pictures of the input, bad ones too; 0 where they were not counted beforehand.
        stopped: Why the run ended before its input did; empty if it did not.
        limit: ``"max_tasks"`` or ``"max_cost"`` if that ended it: only a run with another goes on.
        error: What the run was stopped by, if it was an error.
        gallery: The page with the pictures before and after; empty if it was not written.
        gallery_problem: Why it could not be written.
    """

    folder: str
    elapsed: float
    planned: int = 0
    in_flight: int = 0
    unsaved: int = 0
    saved: int = 0
    failed: int = 0
    retryable: int = 0
    uncertain: int = 0
    refused: int = 0
    pictures: int = 0
    short: int = 0
    cost: Decimal = Decimal(0)
    unpriced: int = 0
    queued: Percentiles | None = None
    running: Percentiles | None = None
    lag: Percentiles | None = None
    checks_per_edit: float | None = None
    retries: int = 0
    repeats: int = 0
    uncertain_keys: tuple[str, ...] = ()
    unsaved_tasks: Mapping[str, str] = attrs.field(factory=dict)
    failures: tuple[FailureGroup, ...] = ()
    rows: int = 0
    stopped: str = ""
    limit: str = ""
    error: Exception | None = attrs.field(default=None, eq=False)
    gallery: str = ""
    gallery_problem: str = ""

    @property
    def total(self) -> int:
        """All edits, as far as the input was read."""
        return self.saved + self.unfinished + self.failed + self.uncertain + self.refused

    @property
    def unfinished(self) -> int:
        """Edits that another run would go on with, without being asked to."""
        return self.planned + self.in_flight + self.unsaved

    @property
    def unread(self) -> int:
        """Rows of the input that the run did not come to."""
        return max(self.rows - self.total, 0) if self.stopped else 0

    @property
    def can_go_on(self) -> bool:
        """Whether another run of the same would find something to do, without being asked to."""
        return bool(self.unfinished or self.retryable or self.unread or (self.stopped and not self.rows))

    @property
    def ok(self) -> bool:
        """Whether everything was done."""
        return self.saved == self.total and not self.stopped

    def text(self) -> str:
        """The report for people, in a few lines."""
        total = self.total + self.unread
        lines = [f"{self.saved} of {total} edits done, {self.pictures} pictures in {self.folder}"]
        lines += [f"  {count} {words}" for count, words in self._rest() if count]
        lines.append(f"cost {self._cost()} · {self.elapsed:.1f} s")
        lines += self.figures()
        lines += [group.text() for group in self.failures]
        if self.unsaved_tasks:
            listed = ", ".join(f"{key} (task {task_id})" for key, task_id in self.unsaved_tasks.items())
            lines.append(f"completed, but not saved: {listed}{', …' if self.unsaved > len(self.unsaved_tasks) else ''}")
        if self.uncertain:
            listed = ", ".join(self.uncertain_keys) + (", …" if self.uncertain > len(self.uncertain_keys) else "")
            lines.append(f"uncertain, and repeated only with consent (resubmit_uncertain): {listed}")
        if self.stopped:
            lines.append(f"stopped: {self.stopped}")
        if self.can_go_on:
            lines.append(self._next())
        if self.gallery:
            lines.append(f"before and after: {self.gallery}")
        if self.gallery_problem:
            lines.append(f"report.html could not be written: {self.gallery_problem}")
        return visible("\n".join(lines))

    def figures(self) -> list[str]:
        """How long edits took, and what they took to watch, a line each; as far as that is known."""
        lines = [
            f"{name}: half within {value.p50:.1f} s, 95 % within {value.p95:.1f} s"
            for name, value in (("queued", self.queued), ("running", self.running), ("end unseen", self.lag))
            if value is not None
        ]
        if self.checks_per_edit is not None:
            lines.append(f"{self.checks_per_edit:.1f} status checks an edit, {self.retries} submissions repeated")
        return lines

    def to_json(self) -> str:
        """The report as a JSON object; the cost is a decimal string, times are seconds."""
        report = attrs.asdict(self) | {
            "cost": str(self.cost),
            "error": None if self.error is None else str(self.error),
            "total": self.total,
            "unread": self.unread,
            "ok": self.ok,
        }
        return json.dumps(report, ensure_ascii=False, indent=2)

    def facts(self, shown: int) -> dict[str, object]:
        """Return the report for the head of a page that shows at most this many edits."""
        facts = self._facts()
        if (known := self.total - self.refused) > shown:
            facts["on this page"] = f"{shown} of {known} edits, those that went wrong first"
        if self.refused:
            facts["not on this page"] = f"{self.refused} that were refused: report.json says why"
        return facts

    def _repr_html_(self) -> str:
        """Return the report as a table, for a notebook."""
        from qwen_edit_async.display.cards import report_html  # noqa: PLC0415  # only notebooks need it

        facts = self._facts() | {"time": f"{self.elapsed:.1f} s"}
        if self.can_go_on:
            facts["next"] = self._next()
        if self.gallery_problem:
            facts["report.html"] = f"could not be written: {self.gallery_problem}"
        return report_html(facts, [group.text() for group in self.failures], self.gallery)

    def _facts(self) -> dict[str, object]:
        facts: dict[str, object] = {"done": f"{self.saved} of {self.total} edits", "pictures": self.pictures}
        facts |= {words.partition(":")[0]: count for count, words in self._rest() if count}
        facts["cost"] = self._cost()
        if self.running is not None:
            facts["running"] = f"half within {self.running.p50:.1f} s, 95 % within {self.running.p95:.1f} s"
        if self.stopped:
            facts["stopped"] = self.stopped
        return facts

    def _next(self) -> str:
        changed = f" with another {self.limit}" if self.limit else ""
        return f"run it again{changed} to go on: nothing that has a task is submitted twice"

    def _cost(self) -> str:
        return f"{self.cost}{f' (+ {self.unpriced} edits without a price)' if self.unpriced else ''}"

    def _rest(self) -> tuple[tuple[int, str], ...]:
        return (
            (self.short, "with fewer pictures than were asked for"),
            (self.planned + self.unread, "not submitted yet"),
            (self.in_flight, "still in flight"),
            (self.unsaved, "completed, but not saved"),
            (self.failed, "failed"),
            (self.uncertain, "uncertain: a task may exist, and be charged"),
            (self.refused, "refused: malformed, gone, or with the key of another request"),
            (self.repeats, "uncertain submissions repeated with consent"),
        )


def make_report(
    summary: JournalSummary,
    *,
    folder: str,
    elapsed: float,
    refused: Iterable[FailureGroup] = (),
    stopped: str = "",
    limit: str = "",
    error: Exception | None = None,
    rows: int = 0,
) -> BatchReport:
    """The report of a run.

    Args:
        summary: What the journal says.
        folder: Where it lies.
        elapsed: Seconds that the run took.
        refused: Requests that the journal could not take.
        stopped: Why the run ended before its input did.
        limit: The limit of the whole batch that ended it, by name.
        error: What it was stopped by.
        rows: Of the input; 0 if they were not counted.
    """
    counts = summary.counts
    refused = tuple(refused)
    return BatchReport(
        folder=folder,
        elapsed=elapsed,
        planned=counts[State.PLANNED],
        in_flight=counts[State.SUBMITTED],
        unsaved=counts[State.COMPLETED],
        saved=counts[State.SAVED],
        failed=counts[State.FAILED],
        retryable=summary.retryable,
        uncertain=counts[State.UNCERTAIN] + counts[State.SUBMITTING],  # the run's end waits for their fate no more
        refused=sum(group.count for group in refused),
        pictures=summary.pictures,
        short=summary.short,
        cost=summary.cost,
        unpriced=summary.unpriced,
        queued=summary.queued,
        running=summary.running,
        lag=summary.lag,
        checks_per_edit=summary.checks_per_edit,
        retries=summary.retries,
        repeats=summary.repeats,
        uncertain_keys=summary.uncertain_keys,
        unsaved_tasks=summary.unsaved_tasks,
        failures=tuple(sorted((*summary.failures, *refused), key=lambda group: -group.count)),
        rows=rows,
        stopped=stopped,
        limit=limit,
        error=error,
    )
