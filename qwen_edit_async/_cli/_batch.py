"""``qwen-edit batch``: one edit for each picture of a folder or pattern, or for each row of a table."""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from qwen_edit_async._display import Progress
from qwen_edit_async._errors import ConfigurationError

from ._display import BatchProgress, Screen, put
from ._messages import ExitCode, exit_code, plain
from ._options import ConnectionOptions, Flag, Instruction, Output, ParameterOptions, SubmissionOptions
from ._running import Run

if TYPE_CHECKING:
    from qwen_edit_async._batch import BatchPlan, BatchReport, EditBatch
    from qwen_edit_async._session import EditSession

_EMBEDDED = "the embedded service"
"""What journals call it: its address is another one in each run."""

_NAMED_FAILURES = 50
_NAMED_PROBLEMS = 10
_REFRESH_SECONDS = 0.2


def batch(
    source: str,
    /,
    *,
    instruction: Annotated[str | None, Instruction] = None,
    output: Output,
    concurrency: Annotated[int, Parameter(name=("--concurrency", "-c"))] = 16,
    recursive: Flag = False,
    overwrite: Flag = False,
    max_cost: Decimal | None = None,
    max_tasks: int | None = None,
    stop_after_failures: int | None = None,
    gallery_limit: int = 2000,
    dry_run: Flag = False,
    price: Decimal | None = None,
    parameters: ParameterOptions | None = None,
    submission: SubmissionOptions | None = None,
    connection: ConnectionOptions | None = None,
) -> int:
    """Edit many pictures.

    The results are saved as KEY-0.png, KEY-1.png and so on; KEY is the table's, or else the picture's name.

    Whatever interrupts it: the same command goes on where it ended. A journal beside the results says what was done, so
    that nothing is submitted twice, and nothing lost. There are report.html, which shows before and after, and
    report.json as well.

    Args:
        source: A folder, a quoted pattern such as "photos/*.jpg", or a table (.csv, .tsv, .jsonl, .parquet) with the
            columns image, image2, image3, instruction, key and any parameter by its name; paths are relative to the
            table. Bad rows are told before anything is sent, and left out; with --strict, nothing is sent then.
        instruction: What to do with each; the table's own goes before.
        output: The folder for the results.
        concurrency: Tasks at a time.
        recursive: Look into the folder's folders as well.
        overwrite: Replace files that are no results of this batch, instead of leaving out the edits that would.
        max_cost: Submit no more once the whole batch could cost more than this.
        max_tasks: Submit no more once so many tasks were created for the whole batch.
        stop_after_failures: Submit no more after so many failures.
        gallery_limit: How many edits report.html shows at most, those that went wrong first; with 0 there is none.
        dry_run: Only say what would be done, and what is wrong with the source; needs no key, and writes nothing.
        price: With --dry-run: what a picture costs, to estimate the cost.
        parameters: How to edit; the table's own go before.
        submission: What may be submitted, and where.
        connection: How to talk to the service.
    """
    from qwen_edit_async._batch import EditBatch  # noqa: PLC0415  # see the package's docstring

    if price is not None and not dry_run:
        raise ConfigurationError("--price is for --dry-run; --max-cost limits what a run may cost")
    submission = submission or SubmissionOptions()
    edits = EditBatch(
        source,
        output,
        instruction=instruction,
        parameters=(parameters or ParameterOptions()).parameters(),
        recursive=recursive,
        strict=submission.strict,
        max_cost=max_cost,
        max_tasks=max_tasks,
        stop_after_failures=stop_after_failures,
        resubmit_uncertain=submission.resubmit_uncertain,
        gallery_limit=gallery_limit,
        overwrite=overwrite,
    )
    if dry_run:
        plan = asyncio.run(edits.plan(price=price, fit=submission.fit))
        put(plain(plan.text()))
        return ExitCode.DONE if plan.ok else ExitCode.FAILED
    if submission.emulator:
        edits._service = _EMBEDDED  # noqa: SLF001  # our own
    run = Run(
        Screen(),
        connection or ConnectionOptions(),
        submission,
        max_in_flight=concurrency,
        output=output,
    )
    work = _Batch(run, edits)
    code = run(work.work)
    if edits.progress.begun:
        work.report()
    return code


class _Batch:
    """The edits of a source, on their way to files."""

    def __init__(self, run: Run, edits: EditBatch) -> None:
        self._more_to_do = True
        self._limit = ""
        self._run = run
        self._edits = edits
        self._started_at = time.monotonic()
        self._failures: list[tuple[str, int, list[str]]] = []
        self._report: BatchReport | None = None
        self._gallery = ""

    async def work(self, session: EditSession) -> int:
        """Do all that can be done."""
        edits = self._edits
        progress = BatchProgress(self._run.screen, self._state)
        with progress.shown():
            refreshing = asyncio.create_task(self._refresh(progress, asyncio.current_task()))
            try:
                report = await edits.run(session, on_plan=self._begin)
            finally:
                refreshing.cancel()
                self._find_gallery(edits.report)
        return self._conclude(report)

    def _begin(self, plan: BatchPlan) -> None:
        """Say what is left out."""
        screen = self._run.screen
        for note in plan.notes:
            screen.note(note)
        if lines := plan.problem_lines(_NAMED_PROBLEMS):
            screen.warning(plain("\n".join(lines)))

    def _conclude(self, report: BatchReport) -> int:
        self._failures = [(plain(group.reason), group.count, list(group.keys)) for group in report.failures]
        self._report = report
        self._more_to_do = bool(report.unfinished or report.failed or report.stopped)
        self._limit = report.limit
        if report.uncertain:
            self._run.screen.warning(f"{report.uncertain} uncertain: only --resubmit-uncertain submits them again")
        if report.error is not None:
            self._run.screen.error(plain(report.error))
            return exit_code(report.error)
        if report.stopped:
            self._run.screen.warning(f"stopped: {plain(report.stopped)}")
        return ExitCode.DONE if report.ok and not self._failures else ExitCode.FAILED

    async def _refresh(self, progress: BatchProgress, work: asyncio.Task[Any] | None) -> None:
        while work is None or not work.cancelling():  # the end of the batch cancels it
            progress.refresh()
            await asyncio.sleep(_REFRESH_SECONDS)
        self._run.screen.line("stopping: what runs at the service is written down, and the page (Ctrl-C: without it)")

    def _state(self, seconds: float) -> Progress:
        seen = self._edits.progress
        return Progress(
            done=seen.saved,
            found=seen.found,
            failed=seen.failed,
            total=seen.total,
            in_flight=seen.in_flight,
            cost=seen.cost or None,
            seconds=seconds,
        )

    def _find_gallery(self, report: BatchReport | None) -> None:
        """Whichever way the run ended."""
        if report is not None:
            self._gallery = report.gallery
            if report.gallery_problem:
                self._run.screen.warning(f"report.html could not be written: {report.gallery_problem}")

    def report(self) -> None:
        """Say how it went."""
        screen, seen = self._run.screen, self._edits.progress
        failed = sum(count for _, count, _ in self._failures) if self._report is not None else seen.failed
        if self._failures:
            screen.line(f"{failed} failed:", "bold red")
        for why, count, labels in sorted(self._failures, key=lambda each: -each[1]):
            shown = labels[:_NAMED_FAILURES]
            more = f", … and {count - len(shown)} more" if count > len(shown) else ""
            screen.line(f"  {count} × {why}: {', '.join(shown)}{more}")
        if self._report is not None:
            for line in self._report.figures():
                screen.line(line)
        rest = (seen.total or 0) - seen.saved - failed
        not_done = f", {rest} not done" if rest > 0 else ""
        cost = f" · cost {seen.cost.normalize():f}" if seen.cost else ""
        seconds = time.monotonic() - self._started_at
        new = seen.saved - seen.found
        rate = f" · {new / seconds:.1f}/s" if new else ""
        screen.line(f"{seen.saved} of {seen.total} edits done{not_done} · {seconds:.1f} s{cost}{rate}")
        if self._more_to_do:
            changed = f" with another --{self._limit.replace('_', '-')}" if self._limit else ""
            screen.line(f"the same command{changed} goes on from here: nothing that has a task is submitted twice")
        if self._gallery:
            screen.line(f"before and after: {self._gallery}", whole=True)
        one = seen.pictures == 1
        put(f"{seen.pictures} picture{'' if one else 's'} {'is' if one else 'are'} in {self._run.output}")
