"""One run of a batch: lock the folder, read the input, work on the rows, write the reports."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import AsyncIterable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, cast

import anyio
import attrs

from qwen_edit_async.batch.budget import Budget
from qwen_edit_async.batch.content import sweep
from qwen_edit_async.batch.decide import Consent
from qwen_edit_async.batch.gather import Gatherer
from qwen_edit_async.batch.input import BatchInput
from qwen_edit_async.batch.intake import Intake
from qwen_edit_async.batch.journal.journal import JOURNAL_NAME, Journal
from qwen_edit_async.batch.plan import BatchPlan
from qwen_edit_async.batch.publish import publish
from qwen_edit_async.batch.report import JSON_NAME, PAGE_NAME, BatchReport, make_report
from qwen_edit_async.batch.state import BatchProgress, RunState
from qwen_edit_async.batch.survey import SurveyOptions, survey
from qwen_edit_async.display.store import ThumbnailStore
from qwen_edit_async.errors import InvalidEditError, JournalError
from qwen_edit_async.http.options import origin_of
from qwen_edit_async.log import log
from qwen_edit_async.session.session import EditSession
from qwen_edit_async.session.shield import wait_shielded

_LISTED_PROBLEMS: Final = 20

_PREVIEW_SECONDS: Final = 60.0
"""The time for thumbnails at the end of a run. A pair takes 20 to 40 ms."""

_INTERRUPTED_SECONDS: Final = 3.0
"""The time for thumbnails after an interrupt, when the user waits for the prompt."""

_CONCLUDING_SECONDS: Final = 10.0
"""The time for all reports after an interrupt, however slow the disk is."""

_CLOSING_SECONDS: Final = 5.0
"""The longest that a hanging disk may delay the end of a run."""


@attrs.frozen(kw_only=True)
class RunOptions:
    """The options of a batch that concern its runs; see :class:`EditBatch`."""

    strict: bool = False
    consent: Consent = attrs.field(factory=Consent)
    limits: Budget = attrs.field(factory=Budget)
    deadline: float | None = None
    gallery_limit: int = 0


class Run:
    """One run of a batch.

    Args:
        session: The session that edits.
        given: The input, for this run alone.
        options: The options.
        service: The name of the service that the journal belongs to; empty for the session's address.

    Attributes:
        report: The report, once the run has ended or was interrupted.
        active: Whether the run is going on.
    """

    def __init__(self, session: EditSession, given: BatchInput, options: RunOptions, service: str) -> None:
        self._session = session
        self._given = given
        self._options = options
        self._service = service or origin_of(session.base_url)
        self._folder = given.targets.folder
        self._started_at = asyncio.get_running_loop().time()
        self._progress = BatchProgress()
        self._budget = attrs.evolve(options.limits, slots=session.max_in_flight)
        self.report: BatchReport | None = None
        self.active: bool = True

    @property
    def progress(self) -> BatchProgress:
        """A copy of the progress."""
        return attrs.evolve(self._progress, cost=self._budget.spent, held=self._budget.held)

    async def work(self, on_plan: Callable[[BatchPlan], None] | None) -> BatchReport:
        """Do what is left to do; see :meth:`EditBatch.run`."""
        try:
            return await self._locked(on_plan)
        finally:
            self.active = False

    async def _locked(self, on_plan: Callable[[BatchPlan], None] | None) -> BatchReport:
        journal = await Journal.open(self._folder, self._service)
        files = Gatherer(ThreadPoolExecutor(1, "qwen-edit-batch"))
        thumbnails = ThumbnailStore(self._folder)
        try:
            await self._survey(on_plan)
            state = RunState(
                session=self._session,
                journal=journal,
                budget=self._budget,
                files=files,
                given=self._given,
                consent=self._options.consent,
                deadline=self._options.deadline,
                progress=self._progress,
                thumbnails=thumbnails,
                shown=self._options.gallery_limit,
            )
            await files.call(sweep, self._folder, [*await journal.unsaved(), JSON_NAME, PAGE_NAME])
            self._progress.begun = True
            return await self._work(state)
        except asyncio.CancelledError as cancelled:
            note = (
                f"the run was stopped with {self._progress.saved} edits done; run it again to go on: nothing that has "
                f"a task is submitted twice (journal: {self._folder / JOURNAL_NAME})"
            )
            log.warning("%s", note)
            cancelled.add_note(note)
            raise
        finally:
            await wait_shielded(_close(files, thumbnails, journal))

    async def _survey(self, on_plan: Callable[[BatchPlan], None] | None) -> None:
        if not (self._given.described or self._options.strict):
            return
        plan = await make_plan(self._given, self._options)
        self._progress.total = plan.rows
        if self._given.settled:
            self._progress.saved = self._progress.found = plan.saved
            self._progress.pictures = plan.files
        if self._options.strict and not plan.ok:
            problems = "\n".join(plan.problem_lines(_LISTED_PROBLEMS))
            raise InvalidEditError(f"nothing was sent, since the batch is strict: {problems}")
        (on_plan or _log_problems)(plan)

    async def _work(self, state: RunState) -> BatchReport:
        intake = Intake(state)
        try:
            if self._given.described:
                async with contextlib.aclosing(self._given.feed(state.files)) as items:
                    await intake.work(items)
            else:
                await intake.work(cast("Iterable[Any] | AsyncIterable[Any]", self._given.source))
        except (Exception, asyncio.CancelledError) as error:
            with (
                contextlib.suppress(JournalError),  # the first error counts
                anyio.move_on_after(_CONCLUDING_SECONDS, shield=True),
            ):
                stopped = str(error) or "the run was interrupted"
                await self._conclude(state, intake, stopped, _INTERRUPTED_SECONDS)
            raise
        return await self._conclude(state, intake, state.budget.stopped, _PREVIEW_SECONDS)

    async def _conclude(self, state: RunState, intake: Intake, stopped: str, preview_seconds: float) -> BatchReport:
        report = self.report = make_report(
            await state.journal.summary(),
            refused=intake.refused,
            changed=intake.changed,
            folder=str(self._folder),
            elapsed=asyncio.get_running_loop().time() - self._started_at,
            stopped=stopped,
            limit=state.budget.limit,
            error=state.error,
            rows=self._progress.total or 0,
        )
        self._progress.publishing = True
        abandoned = threading.Event()
        write = functools.partial(
            publish,
            report,
            self._folder / JOURNAL_NAME,
            state.thumbnails,
            limit=self._options.gallery_limit,
            preview_seconds=preview_seconds,
            abandoned=abandoned,
        )
        try:
            self.report = await state.files.call(write)
        finally:
            abandoned.set()
        return self.report


async def make_plan(given: BatchInput, options: RunOptions) -> BatchPlan:
    """Return what a run would do, without changing a file.

    Args:
        given: The input.
        options: The options.

    Raises:
        ConfigurationError: If the input can't be read.
        JournalError: If there is a journal that can't be read, or if the journal of earlier runs is lost.
    """
    abandoned = threading.Event()
    looks = SurveyOptions(strict=options.strict, consent=options.consent)
    try:
        plan = await asyncio.to_thread(survey, given, given.targets.folder / JOURNAL_NAME, looks, abandoned)
    finally:
        abandoned.set()
    return attrs.evolve(plan, max_cost=options.limits.max_cost, max_tasks=options.limits.max_tasks)


async def _close(files: Gatherer, thumbnails: ThumbnailStore, journal: Journal) -> None:
    try:
        with anyio.move_on_after(_CLOSING_SECONDS):
            await files.aclose(thumbnails.close)
    finally:
        await journal.aclose()


def _log_problems(plan: BatchPlan) -> None:
    for line in plan.problem_lines(_LISTED_PROBLEMS):
        log.warning("%s", line)
