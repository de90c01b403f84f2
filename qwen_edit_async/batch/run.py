"""One bulk run: the state that its edits share, and its steps from locking the folder to writing the reports."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any, Final, TypeVar

import anyio
import attrs

from qwen_edit_async.batch.journal.database import Store
from qwen_edit_async.batch.journal.journal import JOURNAL_NAME, Journal
from qwen_edit_async.batch.outcome import BatchProgress
from qwen_edit_async.batch.output import BatchOutput, sweep
from qwen_edit_async.batch.publish import publish
from qwen_edit_async.batch.rules.budget import Budget
from qwen_edit_async.batch.rules.decide import Consent, error_of_run
from qwen_edit_async.batch.rules.plan import Reasons
from qwen_edit_async.batch.rules.report import JSON_NAME, PAGE_NAME, BatchReport, make_report
from qwen_edit_async.batch.worker import Worker
from qwen_edit_async.checks import check_not_negative, check_positive
from qwen_edit_async.display.store import ThumbnailStore
from qwen_edit_async.http.options import origin_of
from qwen_edit_async.log import log
from qwen_edit_async.session.session import EditSession
from qwen_edit_async.session.shield import wait_shielded

T = TypeVar("T")

_SPARE_ROWS: Final = 16


@attrs.frozen(kw_only=True)
class RunOptions:
    """The options of a run. :class:`EditBatch` describes the options that are not listed here.

    Attributes:
        saves: Whether runs save the pictures.
        on_demand: Whether callers request edits one by one, as they do from a hub.
        reporting_seconds: The maximum time for writing the reports after an interrupt, even on a slow disk.
        closing_seconds: The maximum time to wait for pending file work at the end of a run, even if a disk hangs.
    """

    strict: bool = False
    consent: Consent = attrs.field(factory=Consent)
    max_cost: Decimal | None = None
    price: Decimal | None = None
    max_tasks: int | None = None
    stop_after_failures: int | None = None
    deadline: float | None = None
    gallery_limit: int = 0
    saves: bool = True
    on_demand: bool = False
    reporting_seconds: float = 10.0
    closing_seconds: float = 5.0

    def __attrs_post_init__(self) -> None:
        check_not_negative(self.gallery_limit, "gallery_limit")
        if self.max_tasks is not None:
            check_not_negative(self.max_tasks, "max_tasks")
        if self.stop_after_failures is not None:
            check_positive(self.stop_after_failures, "stop_after_failures", integer=True)
        if self.deadline is not None:
            check_positive(self.deadline, "deadline")


@attrs.define(eq=False)
class Run:
    """One run on a locked folder of results; see :func:`open_run`.

    Attributes:
        session: The session that submits the edits.
        output: The folder of the results.
        options: The options.
        journal: The open journal.
        disk: The thread that reads and writes files.
        thumbnails: The thumbnails for ``report.html``.
        budget: The limits, and the costs and tasks so far.
        progress: The progress without ``in_flight``, ``cost`` and ``held``, which :meth:`progress_now` adds.
        error: The error that ended the run, such as a rejected key. All other edits would fail with the same error.
        in_flight: The journal numbers of the edits that are being submitted or whose tasks are awaited.
        unanswered: The identities of the edits whose submission has no reply yet, or whose task id is being journalled.
        unwritten: The key and the task id of each edit whose task id could not be journalled.
        refused: The refused rows, grouped by reason.
        changed: The number of refused rows whose edit is in the journal, such as changed rows.
        report: The report; ``None`` before the run ends or is interrupted.
        room: The semaphore that limits the number of edits in progress.
        rows: The asyncio tasks of the edits in progress.
        crash: The first exception that one of ``rows`` raised, because the journal or this package failed.
        closed: Whether the run has unlocked the folder.
    """

    session: EditSession
    output: BatchOutput
    options: RunOptions
    journal: Journal
    disk: Worker
    thumbnails: ThumbnailStore
    budget: Budget
    room: asyncio.Semaphore
    progress: BatchProgress = attrs.field(factory=BatchProgress)
    error: Exception | None = None
    in_flight: set[int] = attrs.field(factory=set)
    unanswered: set[str] = attrs.field(factory=set)
    unwritten: list[tuple[str, str]] = attrs.field(factory=list)
    refused: Reasons = attrs.field(factory=Reasons)
    changed: int = 0
    report: BatchReport | None = None
    rows: set[asyncio.Task[Any]] = attrs.field(factory=set)
    crash: BaseException | None = None
    closed: bool = False
    _change: asyncio.Event = attrs.field(factory=asyncio.Event)
    _locked: set[str] = attrs.field(factory=set)
    _started_at: float = attrs.field(factory=time.monotonic)

    def progress_now(self) -> BatchProgress:
        """Return the current progress."""
        return attrs.evolve(self.progress, in_flight=len(self.in_flight), cost=self.budget.spent, held=self.budget.held)

    async def begin(self) -> None:
        """Delete unfinished files of earlier runs, mark interrupted submissions as uncertain, and add up the costs."""
        journal = self.journal
        await self.disk.call(sweep, self.output.home, [*await journal.do(Store.unsaved), JSON_NAME, PAGE_NAME])
        self.progress.begun = True
        if count := await journal.do(Store.recover):
            log.warning("edits that were being submitted when the last run ended: %d; their tasks may exist", count)
        self.budget.resume(await journal.do(Store.totals))

    def stop_if_fatal(self, error: Exception, *, attached: bool = False) -> bool:
        """Stop submitting and return ``True`` if all other edits would fail with the same error.

        For ``attached``, see :func:`error_of_run`.
        """
        if (fatal := error_of_run(error, attached=attached)) is None:
            return False
        self.error = self.error or fatal
        self.budget.stop(str(fatal))
        self.notify()
        return True

    def count_saved(self, pictures: int) -> None:
        """Count an edit whose pictures are saved."""
        self.progress.saved += 1
        self.progress.pictures += pictures

    def count_unsaved(self, reason: str, *, earlier: bool) -> None:
        """Count a completed edit whose pictures could not be saved; see :meth:`Budget.unsaved`."""
        if self.budget.unsaved(reason, earlier=earlier):
            log.warning("%s; nothing more is submitted until an edit is saved", self.budget.held)

    def preview_soon(self, number: int, images: Iterable[Any]) -> None:
        """Make an edit's thumbnails in the background, if ``report.html`` can show the edit."""
        if number <= self.options.gallery_limit:
            self.thumbnails.make_soon(images)

    def notify(self) -> None:
        """Wake all waiters in :meth:`wait_for_change`."""
        self._change.set()

    async def wait_for_change(self) -> None:
        """Wait until an edit's state or the budget has changed."""
        self._change.clear()
        await self._change.wait()

    @contextlib.asynccontextmanager
    async def row_lock(self, identity: str) -> AsyncGenerator[None, None]:
        """Wait until no other coroutine is working on an edit. Then reserve the edit while the block runs.

        After the deadline of an edit, the reply to its submission may still arrive. It is awaited, too, because a late
        reply would otherwise change the state of an edit that is being submitted again.
        """
        while identity in self._locked or identity in self.unanswered:
            await self.wait_for_change()
        self._locked.add(identity)
        try:
            yield
        finally:
            self._locked.discard(identity)
            self.notify()

    def refuse(self, reason: str, key: str, kind: str = "") -> None:
        """Count and log a refused row. For ``kind``, see :meth:`Reasons.add`."""
        self.progress.failed += 1
        self.refused.add(reason, key, kind)
        log.warning("refused %r: %s", key, reason)

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start the work on an edit. An exception that the work raises ends the run."""
        row = asyncio.create_task(work)
        self.rows.add(row)
        row.add_done_callback(self._row_ended)
        return row

    def _row_ended(self, row: asyncio.Task[Any]) -> None:
        self.rows.discard(row)
        if not row.cancelled() and (error := row.exception()) is not None:
            # The journal or this package failed. Cancel all other edits, as the journal might miss their next steps.
            self.crash = self.crash or error
            self.budget.stop(str(error))
            self.notify()
            for other in self.rows:
                other.cancel()

    async def cancel_rows(self) -> None:
        """Cancel the edits in progress. Wait briefly for the replies to submissions that were sent."""
        for row in self.rows:
            row.cancel()
        while self.rows:
            await asyncio.wait(self.rows)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.session.reply_grace):
                while self.unanswered:
                    await self.wait_for_change()

    def raise_crash(self) -> None:
        """Raise :attr:`crash`, if it is set, with a note for each task id that was not journalled."""
        if self.crash is not None:
            for key, task_id in self.unwritten:
                self.crash.add_note(
                    f"task {task_id} of {key!r} is not in the journal: session.attach({task_id!r}) gets its result"
                )
            raise self.crash

    async def write_reports(self, stopped: str, preview_seconds: float) -> BatchReport:
        """Write ``report.html`` and ``report.json``, and return the report.

        ``stopped`` is the reason why the run ended early, or an empty string. ``preview_seconds`` is the maximum time
        for making thumbnails.
        """
        report = self.report = make_report(
            await self.journal.do(Store.summary),
            refused=self.refused.all(),
            changed=self.changed,
            folder=str(self.output.folder) if self.options.saves else "",
            elapsed=time.monotonic() - self._started_at,
            stopped=stopped,
            limit=self.budget.limit,
            error=self.error,
            rows=self.progress.total or 0,
        )
        self.progress.publishing = True
        given_up = threading.Event()
        try:
            self.report = await self.disk.call(
                publish,
                report,
                self.output.home / JOURNAL_NAME,
                self.output.folder,
                self.thumbnails,
                limit=self.options.gallery_limit,
                preview_seconds=preview_seconds,
                given_up=given_up,
            )
        finally:
            given_up.set()
        return self.report

    async def aclose(self) -> None:
        """Finish pending file work, within ``closing_seconds``. Then close the journal, which unlocks the folder."""
        try:
            with anyio.move_on_after(self.options.closing_seconds):
                await self.disk.aclose(self.thumbnails.close)
        finally:
            await self.journal.aclose()
            self.closed = True


@contextlib.asynccontextmanager
async def open_run(
    session: EditSession, output: BatchOutput, options: RunOptions, service: str
) -> AsyncGenerator[Run, None]:
    """Lock a folder, and yield a run on it. Call :meth:`Run.begin` before the first edit.

    ``service`` is the service's name in the journal; if empty, the service's address.

    Raises:
        JournalError: If the journal can't be opened, or if another run uses it.
    """
    run = Run(
        session,
        output,
        options,
        journal=await Journal.open(output.home, service or origin_of(session.base_url)),
        disk=Worker(ThreadPoolExecutor(1, "qwen-edit-batch")),
        thumbnails=ThumbnailStore(output.home),
        budget=Budget(
            max_cost=options.max_cost,
            price=options.price,
            max_tasks=options.max_tasks,
            stop_after_failures=options.stop_after_failures,
            slots=session.max_in_flight,
            on_demand=options.on_demand,
        ),
        room=asyncio.Semaphore(2 * session.max_in_flight + _SPARE_ROWS),
    )
    try:
        yield run
    finally:
        await wait_shielded(run.aclose())
