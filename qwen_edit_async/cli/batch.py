"""``qwen-edit batch`` makes one edit for each picture in a folder, each match of a pattern, or each row of a table."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Annotated, Any

import attrs

from qwen_edit_async.cli.command import Command
from qwen_edit_async.cli.display import ProgressBar, Screen, print_output
from qwen_edit_async.cli.messages import ExitCode, exit_code
from qwen_edit_async.cli.options import (
    BatchOptions,
    ConnectionOptions,
    Instruction,
    Output,
    ParameterOptions,
    SubmissionOptions,
    shell_text,
)
from qwen_edit_async.errors import ConfigurationError
from qwen_edit_async.storage.paths import FilePath
from qwen_edit_async.text import counted

if TYPE_CHECKING:
    from qwen_edit_async.batch import BatchPlan, EditBatch
    from qwen_edit_async.display.cards import Progress
    from qwen_edit_async.session.session import EditSession

_NAMED_PROBLEMS = 10
_REFRESH_SECONDS = 0.2


def batch(
    source: str,
    /,
    *,
    instruction: Annotated[str | None, Instruction] = None,
    output: Output,
    options: BatchOptions | None = None,
    parameters: ParameterOptions | None = None,
    submission: SubmissionOptions | None = None,
    connection: ConnectionOptions | None = None,
) -> int:
    """Edit many pictures.

    Results are saved as KEY-0.png, KEY-1.png and so on. KEY is the row's key, or the picture's name if there is no key.

    To continue after an interruption, run the same command again. A journal beside the results, or in --journal,
    records every step, so no edit is paid for twice. report.html shows each picture before and after its edit.
    report.json is for programs.

    After Ctrl-C, tasks in flight continue at the service and are charged. The exception is --protocol queue: the
    service is asked to cancel the tasks that have not begun. The next run gets the results of all other tasks.
    With --protocol dashscope, edits without a reply become uncertain instead.

    Args:
        source: A folder, a quoted pattern ("photos/*.jpg"), or a table (.csv, .tsv, .jsonl or .parquet, or a folder
            of .parquet files). Any of these may be in a bucket (s3://BUCKET/TABLE.csv). A table's columns are image,
            image2, image3, instruction, key and the parameters. Paths in a table are relative to the table's folder.
            Without --strict, bad rows are left out.
        instruction: The instruction for rows without their own.
        output: The folder for the results, which may be in a bucket: s3://BUCKET/FOLDER, gs://… or az://….
        options: Options for the input, output and limits.
        parameters: The parameters for rows without their own.
        submission: Options for submissions.
        connection: Options for the connection.
    """
    options, parameters = options or BatchOptions(), parameters or ParameterOptions()
    connection, submission = connection or ConnectionOptions(), submission or SubmissionOptions()
    code, options = _with_price(options, parameters, submission, connection)
    if code:
        return code
    edits = _edits(source, output, instruction, options, parameters, submission)
    if options.dry_run:
        return _print_plan(edits, fit=submission.fit)
    return _BulkRun(Command(Screen(), connection, submission, options.concurrency, output), edits)()


def _with_price(
    options: BatchOptions, parameters: ParameterOptions, submission: SubmissionOptions, connection: ConnectionOptions
) -> tuple[int, BatchOptions]:
    """With ``--ask-price``, request the price from the service. Return the exit code, and options with the price."""
    if (options.price is not None or options.ask_price) and not options.dry_run and options.max_cost is None:
        raise ConfigurationError("--price and --ask-price need --dry-run or --max-cost: add one of these")
    if options.price is not None and options.ask_price:
        raise ConfigurationError("--price and --ask-price exclude each other: give only one of them")
    if not options.ask_price:
        return ExitCode.DONE, options
    command = Command(Screen(), connection, submission)

    async def work(session: EditSession) -> int:
        from qwen_edit_async.batch.price import price_of_picture  # noqa: PLC0415  # slow to import

        nonlocal options
        estimate = await price_of_picture(session, parameters.parameters())
        options = attrs.evolve(options, price=estimate.cost)
        command.screen.note(f"the service charges {estimate.cost:f} {estimate.currency}".rstrip() + " a picture")
        return ExitCode.DONE

    return command(work), options


def _edits(  # noqa: PLR0917  # the command's arguments
    source: str,
    output: FilePath,
    instruction: str | None,
    options: BatchOptions,
    parameters: ParameterOptions,
    submission: SubmissionOptions,
) -> EditBatch:
    from qwen_edit_async.batch import EditBatch  # noqa: PLC0415  # slow to import

    return EditBatch(
        source,
        output,
        journal=options.journal,
        instruction=instruction,
        parameters=parameters.parameters(),
        recursive=options.recursive,
        strict=submission.strict,
        max_cost=options.max_cost,
        price=options.price,
        max_tasks=options.max_tasks,
        stop_after_failures=options.stop_after_failures,
        resubmit_uncertain=submission.resubmit_uncertain,
        gallery_limit=options.gallery_limit,
        overwrite=options.overwrite,
        edit_changed=options.edit_changed,
    )


def _print_plan(edits: EditBatch, *, fit: bool) -> int:
    plan = asyncio.run(edits.plan(fit=fit))
    print_output(shell_text(plan.text()))
    return ExitCode.DONE if plan.ok else ExitCode.FAILED


class _BulkRun:
    """Runs a batch, and shows its problems, progress and report on a screen."""

    def __init__(self, command: Command, edits: EditBatch) -> None:
        self._command = command
        self._screen = command.screen
        self._edits = edits

    def __call__(self) -> int:
        """Run the batch, print its report, and return the exit code."""
        code = self._command(self._work)
        if self._edits.progress.begun:
            self._print_report()
        return code

    async def _work(self, session: EditSession) -> int:
        """Run the batch and show its progress."""
        bar = ProgressBar(self._screen, functools.partial(self._state, session))
        with bar.showing():
            refreshing = asyncio.create_task(self._refresh(bar, asyncio.current_task()))
            try:
                report = await self._edits.run(session, on_plan=self._print_problems, service=self._command.service)
            except asyncio.CancelledError:
                self._command.journalled = self._edits.report is not None
                raise
            finally:
                refreshing.cancel()
                await asyncio.wait([refreshing])
        self._command.journalled = True
        if report.error is not None:
            self._screen.error(str(report.error))
            return exit_code(report.error)
        return ExitCode.DONE if report.ok else ExitCode.FAILED

    def _print_problems(self, plan: BatchPlan) -> None:
        """Print the plan's notes and bad rows."""
        for note in plan.notes:
            self._screen.note(note)
        if lines := plan.problem_lines(_NAMED_PROBLEMS):
            self._screen.warning("\n".join(lines))

    async def _refresh(self, bar: ProgressBar, work: asyncio.Task[Any] | None) -> None:
        """Keep the bar up to date until the run ends or is interrupted."""
        shown = ""
        while work is None or not work.cancelling():
            held = self._edits.progress.held
            if held and held != shown:
                self._screen.warning(f"{held}; nothing more is submitted until an edit is saved")
            shown = held
            bar.refresh()
            await asyncio.sleep(_REFRESH_SECONDS)
        self._screen.line("stopping: recording running tasks and writing the report (Ctrl-C skips the report)")

    def _state(self, session: EditSession, seconds: float) -> Progress:
        from qwen_edit_async.batch.outcome import shown  # noqa: PLC0415  # slow to import

        return shown(self._edits.progress, session.statistics(), seconds)

    def _print_report(self) -> None:
        """Print the report, and the number and folder of the pictures."""
        if (report := self._edits.report) is not None:
            for line in report.text().splitlines():
                self._screen.line(line, whole=True)
        count = self._edits.progress.pictures
        print_output(f"{counted(count, 'picture')} {'is' if count == 1 else 'are'} in {self._command.output}")
