"""The bulk run: requests in, pictures in a folder, and a journal beside them that survives anything."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading
from collections.abc import AsyncGenerator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Final, cast

import anyio
import attrs

from qwen_edit_async.batch.content import sweep
from qwen_edit_async.batch.forecast import BatchPlan
from qwen_edit_async.batch.gather import Gatherer
from qwen_edit_async.batch.input import BatchInput, BatchSource
from qwen_edit_async.batch.intake import Intake
from qwen_edit_async.batch.journal.journal import JOURNAL_NAME, Journal
from qwen_edit_async.batch.outcomes import BatchOutcome, read_page
from qwen_edit_async.batch.plan import Budget, to_money
from qwen_edit_async.batch.publish import JSON_NAME, PAGE_NAME, check_not_lost, publish
from qwen_edit_async.batch.report import BatchReport, make_report
from qwen_edit_async.batch.row import Surroundings
from qwen_edit_async.batch.sources import EditDefaults
from qwen_edit_async.batch.survey import SurveyOptions, survey
from qwen_edit_async.batch.targets import Targets
from qwen_edit_async.errors import ConfigurationError, InvalidEditError, JournalError
from qwen_edit_async.http.options import check_not_negative, check_positive, origin_of
from qwen_edit_async.log import log
from qwen_edit_async.models import EditParameters, RequestInput
from qwen_edit_async.session.session import EditSession
from qwen_edit_async.session.shield import see_through

_TOLD_PROBLEMS: Final = 20

GALLERY_LIMIT: Final = 2_000
"""Edits that the page shows unless told otherwise: about 50 MB, which a browser still opens at once."""

_PREVIEW_SECONDS: Final = 60.0
"""For how long small pictures are made at the end of a run; a pair takes 20 to 40 ms."""

_INTERRUPTED_SECONDS: Final = 3.0
"""Likewise when the run was interrupted, and somebody waits for the prompt."""

_CONCLUDING_SECONDS: Final = 10.0
"""How long an interrupted run may take for its reports altogether, however slow the disk is."""

_CLOSING_SECONDS: Final = 5.0
"""How long a file that is being looked at, on a disk that hangs, may hold up the end of a run."""


@attrs.frozen(kw_only=True)
class BatchProgress:
    """Where a run stands.

    Attributes:
        saved: Edits that are done, those that earlier runs had done too, as far as the input was read.
        found: Those of them that earlier runs had done.
        pictures: Their files.
        failed: Edits that went wrong in this run.
        in_flight: Edits that this run submits, or whose tasks it waits for.
        cost: What the whole batch has cost so far.
        total: Rows, pictures or requests of the input, bad ones too; ``None`` where they were not counted beforehand.
        held: Why nothing is submitted until a completed edit is saved; empty if nothing keeps it from being.
        begun: Whether the run has its journal, before which it does nothing.
        publishing: Whether it does nothing more but to write ``report.html`` and ``report.json``, or has done that.
    """

    saved: int = 0
    found: int = 0
    pictures: int = 0
    failed: int = 0
    in_flight: int = 0
    cost: Decimal = Decimal(0)
    total: int | None = None
    held: str = ""
    begun: bool = False
    publishing: bool = False


class EditBatch:
    """Edits in bulk that can be killed at any moment and gone on with: ``report = await batch.run(session)``.

    Every step of every edit is journalled, in SQLite beside the outputs, before anything relies on it. A run that finds
    a journal goes on where the last one ended: what has a task is never submitted again, what is in flight is waited
    for, what is completed is downloaded, saved files are verified. The pictures are ``{key}-{index}.png``. However a
    run ends, ``report.html`` (before and after, of all runs) and ``report.json`` are written beside them.

    An edit is known by its key. A row or picture without one is called as its first picture; a request without one, by
    its images' names (their content, for images in memory), its instruction and its parameters. A key that the journal
    has with another content is refused, or edited anew with ``edit_changed``. The signature of a presigned URL is part
    of neither name nor content.

    Args:
        requests: What to edit. To go on, give the same again. One of:

            - a folder, a pattern such as ``"photos/*.jpg"``, or a picture: give an ``instruction``;
            - a table: ``.csv``, ``.tsv``, ``.jsonl``, ``.parquet`` (extra ``tables``), with the columns ``image``,
              ``image2``, ``image3``, ``instruction``, ``key`` and the parameters by name. Empty cells and NaN leave it
              to ``instruction`` and ``parameters``; other columns become the request's ``metadata``, with a note.
              Relative paths are relative to the table;
            - a pandas or polars data frame with these columns (extra ``tables``); paths are from the working folder;
            - an iterable, or async iterable, of :class:`EditRequest`, of mappings with their fields, or of images if
              there is an ``instruction``. It is read as room becomes free, so it may be a generator.
        out_dir: The folder for pictures and journal; it is made. All relative paths are relative to the working
            directory of the moment in which the batch is made; ``~`` is the home folder.
        instruction: What to do with pictures and rows that do not say.
        parameters: How to edit, where a row does not say.
        recursive: Whether a folder's folders are read as well. As with ``**`` in a pattern, links to folders, hidden
            folders, bins and previews of the system, and folders with the results of other runs are left out.
        strict: Whether to send nothing at all if a row is bad, or has text that the service would cut off; otherwise
            bad rows are reported and left out. Needs an input that can be read twice.
        max_cost: The most that the whole batch may cost, in the account's currency. It is kept by reckoning unfinished
            edits with the highest price seen, and needs a service that names costs.
        max_tasks: The most tasks that the whole batch may create.
        stop_after_failures: After how many failures a run submits nothing more; bad rows and images, which were never
            sent, do not count.
        resubmit_uncertain: Whether to submit again what may have been submitted when the last run ended, and what the
            service no longer knows: a task may exist, or have existed, so that both may be charged.
        edit_changed: Whether to edit anew what the journal has under the same key with another image, instruction or
            parameters, instead of refusing it. The journal keeps the earlier result, renamed ``KEY-replaced-NUMBER``.
        deadline: Seconds for each edit, from having a slot to its end; the session's by default.
        gallery_limit: How many edits ``report.html`` shows at most, about 25 KB each; those that went wrong come first.
            With 0 there is no such page. Small pictures are made for a minute at most, and for 3 s if the run was
            interrupted: after that the page shows the files themselves.
        overwrite: Whether results replace files of their names that are no results of this batch; otherwise such an
            edit is not submitted, and fails. A folder's or a table's own images are replaced in neither case.

    Raises:
        ConfigurationError: If an option is wrong.
    """

    def __init__(
        self,
        requests: BatchSource,
        out_dir: str | os.PathLike[str],
        *,
        instruction: str | None = None,
        parameters: EditParameters | None = None,
        recursive: bool = False,
        strict: bool = False,
        max_cost: Decimal | float | str | None = None,
        max_tasks: int | None = None,
        stop_after_failures: int | None = None,
        resubmit_uncertain: bool = False,
        edit_changed: bool = False,
        deadline: float | None = None,
        gallery_limit: int = GALLERY_LIMIT,
        overwrite: bool = False,
    ) -> None:
        check_not_negative(gallery_limit, "gallery_limit")
        if max_tasks is not None:
            check_not_negative(max_tasks, "max_tasks")
        if stop_after_failures is not None:
            check_positive(stop_after_failures, "stop_after_failures", integer=True)
        if deadline is not None:
            check_positive(deadline, "deadline")
        here = os.getcwd()  # noqa: PTH109  # a str
        self._folder = Path(here, os.path.expanduser(out_dir))  # noqa: PTH111  # which takes "~nobody" for an error
        defaults = EditDefaults(instruction, parameters or EditParameters())
        self._input = BatchInput(requests, defaults, recursive, Targets(self._folder, overwrite), here)
        if strict and not self._input.repeatable:
            raise ConfigurationError(f"strict {_NEEDS_REPEATABLE}")
        self._strict = strict
        self._limits = Budget(
            max_cost=to_money(max_cost, "max_cost"), max_tasks=max_tasks, stop_after_failures=stop_after_failures
        )
        self._resubmit_uncertain = resubmit_uncertain
        self._edit_changed = edit_changed
        self._deadline = deadline
        self._gallery_limit = gallery_limit
        self._service = ""  # set where the session's address does not tell: see the command line
        self._around: Surroundings | None = None
        self._total: int | None = None
        self._report: BatchReport | None = None
        self._publishing = False
        self._running = False

    @property
    def journal(self) -> Path:
        """The journal's file."""
        return self._folder / JOURNAL_NAME

    @property
    def progress(self) -> BatchProgress:
        """Where the run stands, at any time; cheap."""
        around = self._around
        if around is None:
            return BatchProgress(total=self._total)
        counts = around.counts
        return BatchProgress(
            saved=counts.saved,
            found=counts.found,
            pictures=counts.pictures,
            failed=counts.failed,
            in_flight=counts.in_flight,
            cost=around.budget.spent,
            total=self._total,
            held=around.budget.held,
            begun=True,
            publishing=self._publishing,
        )

    @property
    def report(self) -> BatchReport | None:
        """How the last run went, also if it was interrupted; ``None`` before it has ended."""
        return self._report

    async def outcomes(self) -> AsyncGenerator[BatchOutcome, None]:
        """What became of each edit of the journal, of all runs, in the order in which they were planned.

        It can be looped over at any time, while it runs as well, and holds a few hundred of them at a time.

        Raises:
            JournalError: If there is no journal, or it can't be read.
        """
        last = 0
        while page := await asyncio.to_thread(read_page, self.journal, last):
            for _, outcome in page:
                yield outcome
            last = page[-1][0]

    async def plan(self, *, price: Decimal | float | str | None = None, fit: bool = False) -> BatchPlan:
        """What a run would do, without a session, a key or a network; it makes and changes no file.

        Reads the whole input, looks at each image file that would be sent (that it is there, its size, format and both
        ends: damage in the middle shows only when it is sent), and at the journal, if there is one.

        Args:
            price: What a picture costs, in the account's currency, to estimate the cost.
            fit: Whether the session will make images fit that the service would refuse.

        Raises:
            ConfigurationError: If the input or the price makes no sense, or if the input can't be read twice.
            JournalError: If there is a journal that can't be read, or if that of earlier runs is lost.
        """
        if not self._input.repeatable:
            raise ConfigurationError(f"a plan {_NEEDS_REPEATABLE}")
        each = to_money(price, "price")
        return attrs.evolve(await self._survey(self._input.anew(fit=fit), fit=fit), price=each)

    async def run(self, session: EditSession, *, on_plan: Callable[[BatchPlan], None] | None = None) -> BatchReport:
        """Do all that is still to be done.

        Folders, tables and data frames are read once beforehand: what is wrong with a row is known before anything is
        sent.

        After three completed edits in a row whose pictures can't be downloaded, nothing more is submitted until one is
        saved. If none can be, the run ends, and a later run downloads them.

        Edits that fail are in the report, and so is what ended the run early: the budget, or an error that would have
        been the answer to every other edit (``report.error``: a key that is not valid, no balance). Cancelling it stops
        submitting at once, and waits for nothing but, up to 5 s, the ids of tasks that are just being submitted; and a
        few seconds for ``report.html``, unless it is cancelled once more.

        Args:
            session: What to edit with.
            on_plan: Told what the run will do, before anything is sent, if the input is read beforehand; what it raises
                ends the run. By default, bad rows are logged as warnings.

        Raises:
            ConfigurationError: If a folder, table or data frame can't be read, or lacks a column.
            InvalidEditError: If a row is bad, and the batch is ``strict``: nothing was sent.
            JournalError: If the journal can't be opened or written, another run has it, or it has tasks of another
                service. Notes name the ids of tasks that could not be written down.
            SessionClosedError: If the session is not open.
            Exception: What the input raised.
        """
        session._require_open()  # noqa: SLF001  # our own
        if self._running:
            raise JournalError(f"{self._folder} is being written by another run of this batch: wait for its end")
        self._running = True
        try:
            return await self._run(session, on_plan)
        finally:
            self._running = False

    async def _run(self, session: EditSession, on_plan: Callable[[BatchPlan], None] | None) -> BatchReport:
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        self._around = self._report = None
        self._publishing = False
        given = self._input.anew(fit=session._fit)  # noqa: SLF001  # our own
        if given.described or self._strict:
            plan = await self._survey(given, fit=session._fit)  # noqa: SLF001  # our own
            self._total = plan.rows
            self._judge(plan)
            (on_plan or _log_problems)(plan)
        journal = await Journal.open(self._folder, self._service or origin_of(session._base_url))  # noqa: SLF001  # our own
        files = Gatherer(ThreadPoolExecutor(1, "qwen-edit-batch"))
        try:
            around = self._around = Surroundings(
                session=session,
                journal=journal,
                budget=attrs.evolve(self._limits),
                files=files,
                targets=given.targets,
                inputs=given.folder,
                deadline=self._deadline,
                resubmit_uncertain=self._resubmit_uncertain,
                edit_changed=self._edit_changed,
                defaults=EditDefaults() if self._input.described else self._input.defaults,
            )
            await files.call(sweep, self._folder, [*await journal.unsaved(), JSON_NAME, PAGE_NAME])
            intake = Intake(around)

            async def conclude(stopped: str, preview_seconds: float) -> BatchReport:
                made = make_report(
                    await journal.summary(),
                    folder=str(self._folder),
                    elapsed=loop.time() - started_at,
                    refused=intake.refused,
                    stopped=stopped,
                    limit=around.budget.limit,
                    error=around.error,
                    rows=self._total or 0,
                )
                self._report = made
                self._publishing = True
                self._report = await self._publish(made, files, preview_seconds)
                return self._report

            try:
                await _work(given, intake, files)
            except (Exception, asyncio.CancelledError) as error:
                with (
                    contextlib.suppress(JournalError),  # which is what ends the run, then
                    anyio.move_on_after(_CONCLUDING_SECONDS, shield=True),
                ):
                    await conclude(str(error) or "the run was interrupted", _INTERRUPTED_SECONDS)
                raise
            return await conclude(around.budget.stopped, _PREVIEW_SECONDS)
        except asyncio.CancelledError as cancelled:
            done = self.progress
            note = (
                f"the run was stopped with {done.saved} edits done; run it again to go on: nothing that has a task is "
                f"submitted twice (journal: {self.journal})"
            )
            log.warning("%s", note)
            cancelled.add_note(note)
            raise
        finally:
            await see_through(_close(files, journal))

    async def _publish(self, report: BatchReport, files: Gatherer, preview_seconds: float) -> BatchReport:
        abandoned = threading.Event()
        try:
            return await files.call(
                functools.partial(
                    publish,
                    report,
                    self.journal,
                    limit=self._gallery_limit,
                    preview_seconds=preview_seconds,
                    abandoned=abandoned,
                )
            )
        finally:
            abandoned.set()

    async def _survey(self, given: BatchInput, *, fit: bool) -> BatchPlan:
        options = SurveyOptions(
            strict=self._strict,
            fit=fit,
            resubmit_uncertain=self._resubmit_uncertain,
            edit_changed=self._edit_changed,
        )
        abandoned = threading.Event()
        await asyncio.to_thread(check_not_lost, self.journal)
        try:
            plan = await asyncio.to_thread(survey, given, self.journal, options, abandoned)
        finally:
            abandoned.set()
        return attrs.evolve(plan, max_cost=self._limits.max_cost, max_tasks=self._limits.max_tasks)

    def _judge(self, plan: BatchPlan) -> None:
        if self._strict and not plan.ok:
            problems = "\n".join(plan.problem_lines(_TOLD_PROBLEMS))
            raise InvalidEditError(f"nothing was sent, since the batch is strict: {problems}")


_NEEDS_REPEATABLE: Final = "needs an input that can be read twice: give a list, a table, a folder or a data frame"


async def _work(given: BatchInput, intake: Intake, files: Gatherer) -> None:
    if not given.described:
        await intake.work(cast("Iterable[RequestInput]", given.source))
        return
    async with contextlib.aclosing(given.feed(files)) as items:
        await intake.work(items)


async def _close(files: Gatherer, journal: Journal) -> None:
    try:
        with anyio.move_on_after(_CLOSING_SECONDS):
            await files.aclose()
    finally:
        await journal.aclose()


def _log_problems(plan: BatchPlan) -> None:
    for line in plan.problem_lines(_TOLD_PROBLEMS):
        log.warning("%s", line)
