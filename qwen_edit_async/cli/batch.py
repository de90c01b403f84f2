"""``qwen-edit batch``: one edit for each picture of a folder or pattern, or for each row of a table."""

from __future__ import annotations

import asyncio
import functools
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from qwen_edit_async.cli.display import ProgressBar, Screen, put
from qwen_edit_async.cli.messages import ExitCode, exit_code, plain
from qwen_edit_async.cli.options import (
    ConnectionOptions,
    Flag,
    Instruction,
    Output,
    ParameterOptions,
    SubmissionOptions,
)
from qwen_edit_async.cli.runner import Run
from qwen_edit_async.display.cards import WRITING_PAGE, Progress
from qwen_edit_async.errors import ConfigurationError
from qwen_edit_async.session.pauses import local_time_in

if TYPE_CHECKING:
    from qwen_edit_async.batch import BatchPlan, EditBatch
    from qwen_edit_async.session.session import EditSession

_EMBEDDED = "the embedded service"
"""What journals call it: its address is another one in each run."""

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
    edit_changed: Flag = False,
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
        instruction: What to do with each; the table's own wins.
        output: The folder for the results.
        concurrency: Tasks at a time.
        recursive: Read the folder's folders as well, except for bins, previews and the results of other runs.
        overwrite: Replace files that are no results of this batch, instead of leaving out the edits that would.
        edit_changed: Edit anew what was edited before with another picture, instruction or parameter; the earlier
            result is kept under another name.
        max_cost: Submit no more once the whole batch could cost more than this.
        max_tasks: Submit no more once so many tasks were created for the whole batch.
        stop_after_failures: Submit no more after so many failures.
        gallery_limit: How many edits report.html shows at most, those that went wrong first; with 0 there is none.
        dry_run: Only say what would be done, and what is wrong with the source; needs no key, and writes nothing.
        price: With --dry-run: what a picture costs, to estimate the cost.
        parameters: How to edit; the table's own win.
        submission: What may be submitted, and where.
        connection: How to talk to the service.
    """
    from qwen_edit_async.batch import EditBatch  # noqa: PLC0415  # see the package's docstring

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
        edit_changed=edit_changed,
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
        self._run = run
        self._edits = edits

    async def work(self, session: EditSession) -> int:
        """Do all that can be done."""
        bar = ProgressBar(self._run.screen, functools.partial(self._state, session))
        with bar.shown():
            refreshing = asyncio.create_task(self._refresh(bar, asyncio.current_task()))
            try:
                report = await self._edits.run(session, on_plan=self._begin)
            except asyncio.CancelledError:
                self._run.journalled = self._edits.report is not None
                raise
            finally:
                refreshing.cancel()
        self._run.journalled = True
        if report.error is not None:
            self._run.screen.error(plain(report.error))
            return exit_code(report.error)
        return ExitCode.DONE if report.ok else ExitCode.FAILED

    def _begin(self, plan: BatchPlan) -> None:
        """Say what is left out."""
        screen = self._run.screen
        for note in plan.notes:
            screen.note(note)
        if lines := plan.problem_lines(_NAMED_PROBLEMS):
            screen.warning(plain("\n".join(lines)))

    async def _refresh(self, bar: ProgressBar, work: asyncio.Task[Any] | None) -> None:
        told = ""
        while work is None or not work.cancelling():  # the end of the batch cancels it
            held = self._edits.progress.held
            if held and held != told:
                self._run.screen.warning(plain(f"{held}; nothing more is submitted until one is saved"))
            told = held
            bar.refresh()
            await asyncio.sleep(_REFRESH_SECONDS)
        self._run.screen.line("stopping: what runs at the service is written down, and the page (Ctrl-C: without it)")

    def _state(self, session: EditSession, seconds: float) -> Progress:
        seen, counts = self._edits.progress, session.statistics()
        return Progress(
            done=seen.saved,
            found=seen.found,
            failed=seen.failed,
            total=seen.total,
            in_flight=seen.in_flight,
            cost=seen.cost or None,
            seconds=seconds,
            paused=counts.paused,
            pause_left=counts.pause_left,
            paused_until=local_time_in(counts.pause_left),
            closing=WRITING_PAGE if seen.publishing else "",
        )

    def report(self) -> None:
        """Say how it went, whichever way it ended."""
        if (report := self._edits.report) is not None:
            for line in report.text().splitlines():
                self._run.screen.line(plain(line), whole=True)
        count = self._edits.progress.pictures
        put(f"{count} picture{'' if count == 1 else 's'} {'is' if count == 1 else 'are'} in {self._run.output}")
