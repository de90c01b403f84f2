"""The report of a bulk run, as an object, as text and as JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

import attrs
import cattrs

from qwen_edit_async.text import counted, visible

PAGE_NAME: Final = "report.html"
JSON_NAME: Final = "report.json"
SHOWN_KEYS: Final = 5


@attrs.frozen
class Percentiles:
    """The median and the 95th percentile of a time, in seconds."""

    p50: float
    p95: float


@attrs.frozen(kw_only=True)
class FailureGroup:
    """Edits or rows with the same problem.

    Attributes:
        reason: The problem, usually without text of the rows, such as keys, unless the group has only one row.
        count: The number of edits or rows.
        keys: The keys of up to 50 of these edits or rows.
    """

    reason: str
    count: int
    keys: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the group as one line, with the first few keys."""
        shown = self.keys[:SHOWN_KEYS]
        keys = f": {', '.join(shown)}{', …' if self.count > len(shown) else ''}" if shown else ""
        return f"{self.count} × {self.reason}{keys}"


@attrs.frozen(kw_only=True)
class JournalSummary:
    """Totals over all edits of a journal, from all runs.

    Attributes:
        planned: Edits that are not submitted yet. Rows that no run has read do not count.
        in_flight: Edits whose task is not known to have ended.
        unsaved: Completed edits with unsaved pictures.
        saved: Edits that are done.
        failed: Edits whose task failed, and edits that failed before they had a task.
        retryable: Failed edits without a task. The next run tries them again.
        uncertain: Edits that may have a task with an unknown id, and edits whose task the service does not know.
        replaced: Edits that a new edit replaced, because their row changed.
        pictures: Saved pictures of the edits that are done.
        short: Done edits with fewer pictures than requested.
        damaged: Done edits with a damaged picture, which was kept because it was paid for.
        tasks: Tasks that were or may have been created.
        cost: The total of the costs that the service stated, in the account's currency. Failed edits are included.
        price: The highest known price of a picture.
        highest: The highest known cost of an edit.
        unpriced: Completed edits without a cost.
        doubtful: Pictures of submissions without a task id, and of completed edits without a cost. They may be charged.
        queued: The time that edits waited for a slot of the session and for permission to send.
        running: The time from the service's acceptance of the task to the reply that reported the task's end.
        lag: An upper bound on the time from the task's end to the reply that reported the end.
        checks_per_edit: The average number of status checks of an edit.
        retries: Submissions, not counting the first of each edit.
        repeats: Submissions that were repeated with consent. Each may have caused a second charge for its edit.
        uncertain_keys: The keys of up to 100 uncertain edits.
        unsaved_tasks: The task ids of up to 100 completed edits with unsaved pictures, by the edits' keys.
        failures: Edits with errors (in a report, also refused rows), grouped by reason, the most frequent reason first.
    """

    planned: int = 0
    in_flight: int = 0
    unsaved: int = 0
    saved: int = 0
    failed: int = 0
    retryable: int = 0
    uncertain: int = 0
    replaced: int = 0
    pictures: int = 0
    short: int = 0
    damaged: int = 0
    tasks: int = 0
    cost: Decimal = Decimal(0)
    price: Decimal | None = None
    highest: Decimal = Decimal(0)
    unpriced: int = 0
    doubtful: int = 0
    queued: Percentiles | None = None
    running: Percentiles | None = None
    lag: Percentiles | None = None
    checks_per_edit: float | None = None
    retries: int = 0
    repeats: int = 0
    uncertain_keys: tuple[str, ...] = ()
    unsaved_tasks: Mapping[str, str] = attrs.field(factory=dict)
    failures: tuple[FailureGroup, ...] = ()


@attrs.frozen(kw_only=True)
class BatchReport(JournalSummary):
    """The report of a bulk run: the journal's totals over all runs, and the facts of this run.

    Attributes:
        folder: The folder of the results; empty for a hub whose callers save the results.
        elapsed: Seconds that this run took.
        refused: Rows that this run refused. They are malformed, have changed since an earlier run, have disappeared, or
            have the key of another request.
        changed: Refused rows that have an edit in the journal. The journal's totals already count these edits.
        rows: Rows or pictures of the input, including bad ones; 0 if the run did not count them.
        stopped: The reason why the run ended early; empty if it did not.
        limit: ``"max_tasks"`` or ``"max_cost"`` if that limit ended the run; raise the limit to go on.
        error: The error that ended the run, because every other edit would have failed with the same error.
        gallery: The path of ``report.html``; empty if the page was not written.
        gallery_problem: The reason why the page could not be written.
    """

    folder: str
    elapsed: float
    refused: int = 0
    changed: int = 0
    rows: int = 0
    stopped: str = ""
    limit: str = ""
    error: Exception | None = attrs.field(default=None, eq=False)
    gallery: str = ""
    gallery_problem: str = ""

    @property
    def total(self) -> int:
        """The number of edits in the journal that were not replaced, plus refused rows without an edit."""
        return self.saved + self.unfinished + self.failed + self.uncertain + self.refused - self.changed

    @property
    def unfinished(self) -> int:
        """The number of edits that another run would continue without further consent."""
        return self.planned + self.in_flight + self.unsaved

    @property
    def unread(self) -> int:
        """The number of rows that the run did not reach."""
        return max(self.rows - self.total, 0) if self.stopped else 0

    @property
    def can_go_on(self) -> bool:
        """Whether another run of the same batch has work to do without further consent."""
        return bool(self.unfinished or self.retryable or self.unread or (self.stopped and not self.rows))

    @property
    def ok(self) -> bool:
        """Whether every edit is done."""
        return self.saved == self.total and not self.changed and not self.stopped

    def text(self) -> str:
        """Return the report as a few lines of text."""
        total = self.total + self.unread
        where = f" in {self.folder}" if self.folder else ""
        lines = [f"{self.saved} of {counted(total, 'edit')} done, {counted(self.pictures, 'picture')}{where}"]
        lines += [f"  {count} {words}" for count, words in self._rest() if count]
        lines.append(f"cost {self._cost()} · {self.elapsed:.1f} s")
        lines += self.figures()
        lines += [group.text() for group in self.failures]
        if self.unsaved_tasks:
            listed = ", ".join(f"{key} (task {task_id})" for key, task_id in self.unsaved_tasks.items())
            lines.append(f"completed, but not saved: {listed}{', …' if self.unsaved > len(self.unsaved_tasks) else ''}")
        if self.uncertain:
            listed = ", ".join(self.uncertain_keys) + (", …" if self.uncertain > len(self.uncertain_keys) else "")
            lines.append(f"uncertain (submitted again only with resubmit_uncertain=True): {listed}")
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
        """Return a line for each known time, and a line for the status checks and repeated submissions."""
        lines = [
            f"{name}: half within {value.p50:.1f} s, 95 % within {value.p95:.1f} s"
            for name, value in (("queued", self.queued), ("running", self.running), ("end noticed", self.lag))
            if value is not None
        ]
        if self.checks_per_edit is not None:
            lines.append(
                f"{self.checks_per_edit:.1f} status checks per edit, {counted(self.retries, 'submission')} repeated"
            )
        return lines

    def to_json(self) -> str:
        """Return the report as a JSON object. Amounts of money are decimal strings, and times are seconds."""
        derived = {"total": self.total, "unread": self.unread, "ok": self.ok}
        return json.dumps(_converter.unstructure(self) | derived, ensure_ascii=False, indent=2)

    def facts(self, shown: int) -> dict[str, object]:
        """Return the values for the head of a page that shows at most ``shown`` edits."""
        facts = self._facts()
        if (known := self.total - self.refused + self.changed) > shown:
            facts["on this page"] = f"{shown} of {counted(known, 'edit')}, those with errors first"
        if self.refused:
            facts["not on this page"] = f"{counted(self.refused, 'refused row')}; see report.json for the reasons"
        return facts

    def _repr_html_(self) -> str:
        """Return the report as a table, for a notebook."""
        from qwen_edit_async.display.cards import report_html  # noqa: PLC0415  # only notebooks need these cards

        facts = self._facts() | {"time": f"{self.elapsed:.1f} s"}
        if self.can_go_on:
            facts["next"] = self._next()
        if self.gallery_problem:
            facts["report.html"] = f"could not be written: {self.gallery_problem}"
        return report_html(facts, [group.text() for group in self.failures], self.gallery)

    def _facts(self) -> dict[str, object]:
        facts: dict[str, object] = {"done": f"{self.saved} of {counted(self.total, 'edit')}", "pictures": self.pictures}
        facts |= {words.partition(":")[0]: count for count, words in self._rest() if count}
        facts["cost"] = self._cost()
        if self.running is not None:
            facts["running"] = f"half within {self.running.p50:.1f} s, 95 % within {self.running.p95:.1f} s"
        if self.stopped:
            facts["stopped"] = self.stopped
        return facts

    def _next(self) -> str:
        changed = f" with a higher {self.limit}" if self.limit else ""
        return f"run it again{changed} to go on: no edit is paid for twice"

    def _cost(self) -> str:
        return f"{self.cost}" + (f" (+ {counted(self.unpriced, 'edit')} without a price)" if self.unpriced else "")

    def _rest(self) -> tuple[tuple[int, str], ...]:
        return (
            (self.short, "with fewer pictures than requested"),
            (self.damaged, "with a damaged picture: the file is kept unchanged"),
            (self.planned + self.unread, "not submitted yet"),
            (self.in_flight, "in flight when the run ended"),
            (self.unsaved, "completed, but not saved"),
            (self.failed, "failed"),
            (self.uncertain, "uncertain: a task may exist, and be charged"),
            (self.refused, "refused: malformed, gone, changed, or with the key of another request"),
            (self.repeats, "submitted again with consent, although a task may exist"),
        )


def make_report(summary: JournalSummary, *, refused: Iterable[FailureGroup] = (), **facts: Any) -> BatchReport:
    """Return the report of a run from the journal's totals and the refused rows by reason.

    ``facts`` has the other fields of :class:`BatchReport`.
    """
    refused = tuple(refused)
    failures = tuple(sorted((*summary.failures, *refused), key=lambda group: -group.count))
    count = sum(group.count for group in refused)
    return BatchReport(**attrs.asdict(summary, recurse=False) | facts | {"failures": failures, "refused": count})


_converter: Final = cattrs.Converter()
_converter.register_unstructure_hook(Decimal, str)
_converter.register_unstructure_hook(Decimal | None, lambda amount: None if amount is None else str(amount))
_converter.register_unstructure_hook(Exception | None, lambda error: None if error is None else str(error))
