"""Plans a run. Planning reads the whole input and the journal, checks image files, and changes no file."""

from __future__ import annotations

import asyncio
import functools
import threading

import attrs

from qwen_edit_async.batch.fingerprint import fingerprint_of
from qwen_edit_async.batch.input import BatchInput
from qwen_edit_async.batch.journal.database import Store, reading
from qwen_edit_async.batch.journal.journal import JOURNAL_NAME, check_not_lost
from qwen_edit_async.batch.rules.decide import PAYS, Action, Entry, Fingerprint, State, decide, instead, refusal
from qwen_edit_async.batch.rules.identity import allot, folded, stem_of
from qwen_edit_async.batch.rules.item import SourceItem
from qwen_edit_async.batch.rules.plan import BatchPlan, Tally
from qwen_edit_async.batch.rules.report import JournalSummary
from qwen_edit_async.batch.run import RunOptions
from qwen_edit_async.batch.sources import tagged
from qwen_edit_async.errors import InvalidEditError, summary_of
from qwen_edit_async.images.kinds import map_images
from qwen_edit_async.images.prepare import check_ends
from qwen_edit_async.models import EditRequest
from qwen_edit_async.text import counted


async def make_plan(given: BatchInput, options: RunOptions) -> BatchPlan:
    """Return the plan of the next run.

    Raises:
        ConfigurationError: If the input can't be read.
        JournalError: If the journal can't be read, or if the journal of earlier runs is lost.
    """
    given_up = threading.Event()
    try:
        plan = await asyncio.to_thread(_survey, given, options, given_up)
    finally:
        given_up.set()
    return attrs.evolve(plan, max_cost=options.max_cost, max_tasks=options.max_tasks)


def _survey(given: BatchInput, options: RunOptions, given_up: threading.Event) -> BatchPlan:
    journal = given.output.home / JOURNAL_NAME
    check_not_lost(journal)
    if not journal.exists():
        return _Survey(given, None, options).plan(given_up)
    with reading(journal, checked=True) as store:
        return _Survey(given, None if store.is_empty else store, options).plan(given_up)


@attrs.define(eq=False)
class _Survey:
    given: BatchInput
    store: Store | None
    options: RunOptions
    tally: Tally = attrs.field(factory=Tally)
    _names: set[str] = attrs.field(factory=set)
    _numbers: dict[str, int] = attrs.field(factory=dict)
    _renamed: int = 0
    _touched: bool = False
    _example: str = ""

    def plan(self, given_up: threading.Event) -> BatchPlan:
        items = self.given.survey(self.tally.note)
        for item in items if self.store is None else tagged(items):
            if given_up.is_set():  # nobody waits for the plan any more
                break
            try:
                self._look_at(item)
            except InvalidEditError as error:
                self.tally.problem(item.label, str(error), summary_of(error))
        if self._renamed:
            self.tally.note(f"{counted(self._renamed, 'result')} renamed, because the name is taken: {self._example}")
        summary = JournalSummary() if self.store is None else self.store.totals()
        plan = self.tally.plan(str(self.given.output.folder), self.given.count, summary)
        # The service may have cancelled the task of an edit that is in flight or uncertain. Its row is then submitted.
        unfinished = plan.submit + plan.attach + plan.download + plan.uncertain
        self.given.nothing_to_do = not (unfinished or plan.problem_count or self._touched)
        return plan

    def _look_at(self, item: SourceItem) -> None:
        if item.request is None:
            raise InvalidEditError(item.problem or "it is not an edit", summary=item.kind)
        request = item.request
        entry = None if self.store is None else self.store.find(item.identity)
        fingerprint = Fingerprint() if entry is None else fingerprint_of(request, entry)
        # The stamp changes if a file's path, size or time changes. A run must journal the new stamp, even if it has no
        # other work.
        self._touched |= entry is not None and fingerprint.stamp != entry.stamp
        action, problem = decide(entry, fingerprint, self.options.consent), None
        if action in PAYS:
            replaces = action in {Action.REPLACE, Action.REPLACE_LATER}
            name = self._name_of(request) if entry is None or replaces else entry.name
            problem = fingerprint.problem or self._problem_of(request, name)
        self._count(action if problem is None else instead(entry), entry, request, problem)

    def _count(
        self, action: Action, entry: Entry | None, request: EditRequest, problem: InvalidEditError | None
    ) -> None:
        tally = self.tally
        if action in PAYS:
            tally.submission(request.parameters)
        elif action in {Action.RECORD_PROBLEM, Action.REPORT_PROBLEM}:
            raise problem or refusal(self.options.consent)
        elif entry is None or entry.state in {State.SUBMITTED, State.COMPLETED}:
            return  # the journal's totals already count this edit
        elif action is Action.VERIFY and self.given.output.are_whole(entry.files):
            tally.counts["saved"] += 1
            tally.counts["files"] += len(entry.files)
        elif action is Action.VERIFY:
            tally.counts["download"] += 1
        elif entry.state is State.FAILED:
            tally.counts["failed"] += 1
        else:
            tally.counts["uncertain"] += 1

    def _name_of(self, request: EditRequest) -> str:
        """Return the name that the journal would allot to a new edit."""
        stem = stem_of(request)
        name = allot(stem, self._is_taken, self._numbers)
        self._names.add(folded(name))
        if name != stem:
            self._renamed += 1
            self._example = self._example or f"{name} instead of {stem}"
        return name

    def _is_taken(self, folded_name: str) -> bool:
        return folded_name in self._names or (self.store is not None and self.store.is_taken(folded_name))

    def _problem_of(self, request: EditRequest, name: str) -> InvalidEditError | None:
        try:
            map_images(functools.partial(check_ends, fit=self.given.reading.fit), request.images)
            for existing in self.given.output.existing(request, name):
                self.tally.counts["existing"] += 1
                self.tally.existing_example = self.tally.existing_example or existing
        except InvalidEditError as error:
            return error
        for cut in request.silently_cut():
            if self.options.strict:
                return InvalidEditError(cut)
            self.tally.note("some texts exceed the service's limit: the service ignores the excess")
        return None
