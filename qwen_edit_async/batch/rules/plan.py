"""The plan of a bulk run, as an object and as text. Pure."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any, Final

import attrs

from qwen_edit_async.batch.rules.report import FailureGroup, JournalSummary
from qwen_edit_async.models import EditParameters, requested_pictures
from qwen_edit_async.text import counted, visible

_LISTED_PROBLEMS: Final = 100
_LISTED_GROUPS: Final = 20
_SAMPLE_KEYS: Final = 50


@attrs.frozen
class RowProblem:
    """A row or picture that can't be edited.

    Attributes:
        where: The row (``"row 7"``), the picture's path, or the request's key.
        reason: The reason why it can't be edited.
    """

    where: str
    reason: str


@attrs.frozen
class ParameterGroup:
    """Edits with the same parameters. Their seeds may differ.

    Attributes:
        parameters: The given parameters except the seed, such as ``"n=2, size=1024*1536"``; empty if there are none.
        edits: The number of edits.
        pictures: The number of pictures that the edits make.
    """

    parameters: str
    edits: int
    pictures: int


@attrs.frozen(kw_only=True)
class BatchPlan:
    """The plan of a bulk run, made before anything is sent.

    Attributes:
        folder: The folder for the results.
        rows: Rows, pictures or requests that were read, including bad ones.
        submit: Edits that would be submitted, if the budget lasts.
        pictures: Pictures that the submitted edits would make.
        groups: The edits that would be submitted, grouped by parameters, the largest group first. Only the first 20
            combinations of parameters in the input have a group.
        attach: Edits in flight. The run waits for them even if the input no longer has them.
        download: Edits whose pictures would be downloaded: completed edits, and saved edits with missing or damaged
            files.
        saved: Edits of the input that are done, with all their files intact.
        files: The number of files of the saved edits.
        failed: Edits of the input whose task failed. They are not submitted again.
        uncertain: Edits of the input for which a task may exist. They are submitted again only with consent.
        problems: Up to 100 of the rows that can't be edited.
        problem_count: The number of rows that can't be edited.
        problem_groups: The rows that can't be edited, grouped by kind of problem, the largest group first. If there are
            more than 100 kinds, a last group counts the remaining rows.
        existing: The number of existing files that this batch did not make, and that the run would replace.
        existing_example: The name of one of the files that ``existing`` counts.
        notes: Remarks about the input.
        spent: The cost of the batch so far.
        tasks: Tasks that were or may have been created so far.
        max_cost: The limit on the batch's cost.
        max_tasks: The limit on the number of the batch's tasks.
        price: The assumed price of a picture, in the account's currency.
    """

    folder: str
    rows: int = 0
    submit: int = 0
    pictures: int = 0
    groups: tuple[ParameterGroup, ...] = ()
    attach: int = 0
    download: int = 0
    saved: int = 0
    files: int = 0
    failed: int = 0
    uncertain: int = 0
    problems: tuple[RowProblem, ...] = ()
    problem_count: int = 0
    problem_groups: tuple[FailureGroup, ...] = ()
    existing: int = 0
    existing_example: str = ""
    notes: tuple[str, ...] = ()
    spent: Decimal = Decimal(0)
    tasks: int = 0
    max_cost: Decimal | None = None
    max_tasks: int | None = None
    price: Decimal | None = None

    @property
    def cost(self) -> Decimal | None:
        """The estimated cost of the pictures to be made; ``None`` without a price."""
        return None if self.price is None else self.price * self.pictures

    @property
    def ok(self) -> bool:
        """Whether every row can be edited."""
        return not self.problem_count

    def text(self) -> str:
        """Return the plan as a few lines of text."""
        lines = [f"{counted(self.rows, 'row')} read; the results go to {self.folder}", self._submission()]
        if len(self.groups) > 1 or any(group.parameters for group in self.groups):
            lines += self._group_lines()
        lines += [f"  {count} {words}" for count, words in self._rest() if count]
        lines += [f"  note: {note}" for note in (*self._limits(), *self.notes)]
        return visible("\n".join([*lines, *self.problem_lines()]))

    def problem_lines(self, limit: int = _LISTED_PROBLEMS) -> list[str]:
        """Return a heading with the number of bad rows, and a line for each kind of problem, up to ``limit``.

        Return an empty list if no row is bad.
        """
        if not self.problem_count:
            return []
        listed = self.problem_groups[:limit]
        rest = self.problem_count - sum(group.count for group in listed)
        return [
            f"{self.problem_count} of {counted(self.rows, 'row')} can't be edited:",
            *(visible(f"  {_problem_line(group)}") for group in listed),
            *([f"  … and {rest} more"] if rest else []),
        ]

    def _group_lines(self) -> list[str]:
        lines = [
            f"    {counted(group.edits, 'edit')}, {counted(group.pictures, 'picture')}: "
            f"{group.parameters or 'default parameters'}"
            for group in self.groups
        ]
        if edits := self.submit - sum(group.edits for group in self.groups):
            pictures = self.pictures - sum(group.pictures for group in self.groups)
            lines.append(f"    … and {counted(edits, 'more edit')}, {counted(pictures, 'picture')}")
        return lines

    def _submission(self) -> str:
        cost = "" if self.cost is None else f", about {self.cost.normalize():f} at {self.price} a picture"
        return f"  {self.submit} to submit: {counted(self.pictures, 'picture')}{cost}"

    def _rest(self) -> tuple[tuple[int, str], ...]:
        return (
            (self.attach, "in flight, to be waited for"),
            (self.download, "completed, to be downloaded"),
            (self.saved, "done"),
            (self.failed, "failed at the service, not submitted again"),
            (self.uncertain, "uncertain: a task may exist; submitted again only with resubmit_uncertain=True"),
            (self.existing, f"of the existing files would be replaced, such as {self.existing_example}"),
        )

    def _limits(self) -> list[str]:
        limits = []
        if self.max_tasks is not None and self.tasks + self.submit > self.max_tasks:
            limits.append(
                f"max_tasks={self.max_tasks} allows only {max(self.max_tasks - self.tasks, 0)} of these submissions"
            )
        if self.max_cost is not None and self.cost is not None and self.spent + self.cost > self.max_cost:
            limits.append(f"max_cost={self.max_cost} would end the run early")
        return limits


@attrs.define(eq=False)
class Reasons:
    """Groups rows by the reason why they can't be edited, in bounded memory.

    Attributes:
        count: The number of rows.
    """

    count: int = 0
    _groups: dict[str, FailureGroup] = attrs.field(factory=dict)

    def add(self, reason: str, key: str, kind: str = "") -> None:
        """Count a row. Rows with the same ``kind`` form a group.

        ``kind`` is ``reason`` without any text of the row, such as its key. By default, it is ``reason`` itself.
        """
        self.count += 1
        kind = kind or reason
        known = self._groups.get(kind)
        if known is None and len(self._groups) < _LISTED_PROBLEMS:
            self._groups[kind] = FailureGroup(reason=reason, count=1, keys=(key,) if key else ())
        elif known is not None:
            keys = (*known.keys, key) if key and len(known.keys) < _SAMPLE_KEYS else known.keys
            self._groups[kind] = FailureGroup(reason=kind, count=known.count + 1, keys=keys)

    def all(self) -> tuple[FailureGroup, ...]:
        """Return the groups, the largest first. With more than 100 kinds, a last group counts the other rows."""
        groups = sorted(self._groups.values(), key=lambda group: -group.count)
        others = self.count - sum(group.count for group in groups)
        return (*groups, FailureGroup(reason="other reasons", count=others)) if others else tuple(groups)


@attrs.define(eq=False)
class Tally:
    """Counts the rows of the input for a plan, in bounded memory.

    Attributes:
        counts: The counts, keyed by the names of :class:`BatchPlan`'s fields.
        existing_example: The name of an existing file that would be replaced.
    """

    counts: Counter[str] = attrs.field(factory=Counter)
    existing_example: str = ""
    _problems: list[RowProblem] = attrs.field(factory=list)
    _reasons: Reasons = attrs.field(factory=Reasons)
    _groups: dict[EditParameters, list[int]] = attrs.field(factory=dict)
    _notes: dict[str, None] = attrs.field(factory=dict)

    def problem(self, where: str, reason: str, kind: str) -> None:
        """Count a row that can't be edited. For ``kind``, see :meth:`Reasons.add`."""
        self._reasons.add(reason, where, kind)
        if len(self._problems) < _LISTED_PROBLEMS:
            self._problems.append(RowProblem(where, reason))

    def note(self, text: str) -> None:
        """Keep a remark, unless an equal remark is already kept."""
        self._notes[text] = None

    def submission(self, parameters: EditParameters) -> None:
        """Count an edit to be submitted."""
        pictures = requested_pictures(parameters)
        self.counts.update(submit=1, pictures=pictures)
        kind = parameters if parameters.seed is None else attrs.evolve(parameters, seed=None)
        if kind in self._groups or len(self._groups) < _LISTED_GROUPS:
            group = self._groups.setdefault(kind, [0, 0])
            group[0] += 1
            group[1] += pictures

    def plan(self, folder: str, rows: int, journal: JournalSummary) -> BatchPlan:
        """Make the plan from the counts, the number of rows that were read, and the journal's totals."""
        groups = [ParameterGroup(_describe(kind), *counted) for kind, counted in self._groups.items()]
        counts: dict[str, Any] = self.counts + Counter(attach=journal.in_flight, download=journal.unsaved)
        return BatchPlan(
            **counts,
            folder=folder,
            rows=rows,
            groups=tuple(sorted(groups, key=lambda group: (-group.edits, group.parameters))),
            problems=tuple(self._problems),
            problem_count=self._reasons.count,
            problem_groups=self._reasons.all(),
            existing_example=self.existing_example,
            notes=tuple(self._notes),
            spent=journal.cost,
            tasks=journal.tasks,
        )


def _describe(parameters: EditParameters) -> str:
    given = attrs.asdict(parameters, filter=lambda _, value: value is not None)
    if (size := given.get("size")) is not None:
        given["size"] = f"{size[0]}*{size[1]}"
    return ", ".join(f"{name}={value}" for name, value in given.items())


def _problem_line(group: FailureGroup) -> str:
    return f"{group.keys[0]}: {group.reason}" if group.count == 1 and group.keys else group.text()
