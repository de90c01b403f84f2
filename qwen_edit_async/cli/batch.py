"""``qwen-edit batch`` makes one edit for each picture in a folder, each match of a pattern, or each row of a table."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

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
from qwen_edit_async.models import EditParameters
from qwen_edit_async.text import counted

if TYPE_CHECKING:
    from qwen_edit_async.batch import BatchPlan, EditBatch
    from qwen_edit_async.session.session import EditSession

_NAMED_PROBLEMS = 10
_REFRESH_SECONDS = 0.2


def batch(
    source: str,
    /,
    *,
    instruction: Annotated[str | None, Instruction] = None,
    output: Output,
    options: BatchOptions = BatchOptions(),
    parameters: ParameterOptions = ParameterOptions(),
    submission: SubmissionOptions = SubmissionOptions(),
    connection: ConnectionOptions = ConnectionOptions(),
) -> int:
    """Edit many pictures.

    Results are saved as KEY-0.png, KEY-1.png and so on. KEY is the row's key, or the picture's name if there is no key.

    To continue after an interruption, run the same command again. A journal beside the results, or in --journal,
    records every step, so no edit is paid for twice. report.html shows each picture before and after its edit.
    report.json is for programs.

    After Ctrl-C, tasks in flight continue at the service and are charged. The exception is --protocol queue: the
    service is asked to cancel the tasks that have not begun. The next run gets the results of all other tasks.
    With --protocol dashscope, edits that still await a reply become uncertain.

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
    price = options.price
    if (price is not None or options.ask_price) and not options.dry_run and options.max_cost is None:
        raise ConfigurationError("--price and --ask-price need --dry-run or --max-cost: add one of these")
    if price is not None and options.ask_price:
        raise ConfigurationError("--price and --ask-price exclude each other: give only one of them")
    if options.ask_price:
        code, price = _ask_price(Command(Screen(), connection, submission), parameters.parameters())
        if code:
            return code
    from qwen_edit_async.batch import EditBatch  # noqa: PLC0415  # slow to import

    edits = EditBatch(
        source,
        output,
        instruction=instruction,
        parameters=parameters.parameters(),
        price=price,
        strict=submission.strict,
        resubmit_uncertain=submission.resubmit_uncertain,
        **options.batch_options(),
    )
    if options.dry_run:
        plan = asyncio.run(edits.plan(fit=submission.fit))
        print_output(shell_text(plan.text()))
        return ExitCode.DONE if plan.ok else ExitCode.FAILED
    return _run(Command(Screen(), connection, submission, options.concurrency, output), edits, submission.service)


def _ask_price(command: Command, parameters: EditParameters) -> tuple[int, Decimal | None]:
    """Request the price of a picture from the service. Return the exit code and the price."""
    price = None

    async def work(session: EditSession) -> int:
        from qwen_edit_async.batch.price import price_of_picture  # noqa: PLC0415  # slow to import

        nonlocal price
        estimate = await price_of_picture(session, parameters)
        price = estimate.cost
        command.screen.note(f"the service charges {estimate.cost:f} {estimate.currency}".rstrip() + " a picture")
        return ExitCode.DONE

    return command(work), price


def _run(command: Command, edits: EditBatch, service: str) -> int:
    from qwen_edit_async.batch.outcome import shown  # noqa: PLC0415  # slow to import

    screen = command.screen

    def print_problems(plan: BatchPlan) -> None:
        for note in plan.notes:
            screen.note(note)
        if lines := plan.problem_lines(_NAMED_PROBLEMS):
            screen.warning("\n".join(lines))

    async def work(session: EditSession) -> int:
        bar = ProgressBar(screen, lambda seconds: shown(edits.progress, session.statistics(), seconds))
        with bar.showing():
            refreshing = asyncio.create_task(_refresh(bar, edits, screen, asyncio.current_task()))
            try:
                report = await edits.run(session, on_plan=print_problems, service=service)
            except asyncio.CancelledError:
                command.journalled = edits.report is not None
                raise
            finally:
                refreshing.cancel()
                await asyncio.wait([refreshing])
        command.journalled = True
        if report.error is not None:
            screen.error(str(report.error))
            return exit_code(report.error)
        return ExitCode.DONE if report.ok else ExitCode.FAILED

    code = command(work)
    if edits.progress.begun:
        report = edits.report
        for line in report.text().splitlines() if report is not None else ():
            screen.line(line, whole=True)
        # A run that ended early may not have read the rows of all saved edits.
        count = edits.progress.pictures if report is None else report.pictures
        print_output(f"{counted(count, 'picture')} {'is' if count == 1 else 'are'} in {command.output}")
    return code


async def _refresh(bar: ProgressBar, edits: EditBatch, screen: Screen, work: asyncio.Task[int] | None) -> None:
    """Keep the bar up to date until the run ends or is interrupted."""
    shown = ""
    while work is None or not work.cancelling():
        held = edits.progress.held
        if held and held != shown:
            screen.warning(f"{held}; nothing more is submitted until an edit is saved")
        shown = held
        bar.refresh()
        await asyncio.sleep(_REFRESH_SECONDS)
    screen.line("stopping: recording running tasks and writing the report (Ctrl-C skips the report)")
