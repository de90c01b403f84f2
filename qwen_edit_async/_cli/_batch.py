"""``qwen-edit batch``: one edit for each picture of a folder or pattern, or for each row of a table."""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import attrs
from cyclopts import Parameter

from qwen_edit_async._errors import ConfigurationError
from qwen_edit_async._results import safe_stem
from qwen_edit_async._sources import EditDefaults, SourceItem, name_items, read_source

from ._display import BatchProgress, Screen, Tally, put
from ._messages import ExitCode, exit_code, plain
from ._options import ConnectionOptions, Flag, Instruction, Output, ParameterOptions, SubmissionOptions
from ._running import Run

if TYPE_CHECKING:
    from qwen_edit_async._batch import BatchReport, EditBatch
    from qwen_edit_async._session import EditSession

_NAMED_FAILURES = 50
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
        source: A folder, a quoted pattern such as "photos/*.jpg", or a table (.csv, .tsv, .jsonl) with the columns
            image, image2, image3, instruction, key and any parameter by its name; paths are relative to the table.
        instruction: What to do with each; the table's own goes before.
        output: The folder for the results.
        concurrency: Tasks at a time.
        recursive: Look into the folder's folders as well.
        overwrite: Replace files that the journal does not know, instead of stopping before anything is sent.
        max_cost: Submit no more once the whole batch could cost more than this.
        max_tasks: Submit no more once so many tasks were created for the whole batch.
        stop_after_failures: Submit no more after so many failures.
        gallery_limit: How many edits report.html shows at most, those that went wrong first; with 0 there is none.
        parameters: How to edit; the table's own go before.
        submission: What may be submitted, and where.
        connection: How to talk to the service.
    """
    screen = Screen()
    if Path(source).is_dir() and Path(source).resolve() == output.resolve():
        raise ConfigurationError(
            "the results would be among the pictures, and be edited by the next run: use another -o"
        )
    defaults = EditDefaults(instruction, (parameters or ParameterOptions()).parameters())
    found = read_source(source, defaults, recursive=recursive, exclude=output, note=screen.note)
    items = name_items(found, screen.note)
    if not overwrite:
        _refuse_existing(output, items)
    submission = submission or SubmissionOptions()
    run = Run(
        screen,
        connection or ConnectionOptions(),
        submission,
        max_in_flight=concurrency,
        output=output,
    )
    options = _Options(max_cost, max_tasks, stop_after_failures, submission.resubmit_uncertain, gallery_limit)
    edits = _Batch(run, items, options)
    code = run(edits.work)
    if edits.began:
        edits.report()
    return code


@attrs.frozen
class _Options:
    """What the bulk run is told; the fields are its arguments."""

    max_cost: Decimal | None
    max_tasks: int | None
    stop_after_failures: int | None
    resubmit_uncertain: bool
    gallery_limit: int


class _Batch:
    """The edits of a source, on their way to files."""

    def __init__(self, run: Run, items: list[SourceItem], options: _Options) -> None:
        self.began = False
        self._more_to_do = True
        self._run = run
        self._items = items
        self._options = options
        self._tally = Tally(total=len(items))
        self._failures: list[tuple[str, int, list[str]]] = []
        self._gallery = ""

    async def work(self, session: EditSession) -> int:
        """Do all that can be done."""
        from qwen_edit_async._batch import EditBatch  # noqa: PLC0415  # see the package's docstring

        self.began = True
        bad: dict[str, list[str]] = {}
        for item in self._items:
            if item.problem is not None:
                bad.setdefault(item.problem, []).append(f"row {item.row}")
        self._failures = [(why, len(rows), rows) for why, rows in bad.items()]
        edits = EditBatch(
            (item.request for item in self._items if item.request is not None),
            self._run.output,
            **attrs.asdict(self._options),
        )
        progress = BatchProgress(self._run.screen, self._tally, lambda: edits.progress.in_flight)
        with progress.shown():
            refreshing = asyncio.create_task(self._refresh(edits, progress))
            try:
                report = await edits.run(session)
            finally:
                refreshing.cancel()
                self._count(edits)
                self._find_gallery(edits.report)
        return self._conclude(report)

    def _conclude(self, report: BatchReport) -> int:
        self._failures += [(plain(group.reason), group.count, list(group.keys)) for group in report.failures]
        self._tally.failed = sum(count for _, count, _ in self._failures)
        self._more_to_do = bool(report.unfinished or report.failed or report.stopped)
        if report.uncertain:
            self._run.screen.warning(f"{report.uncertain} uncertain: only --resubmit-uncertain submits them again")
        if report.error is not None:
            self._run.screen.error(plain(report.error))
            return exit_code(report.error)
        if report.stopped:
            self._run.screen.warning(f"stopped: {plain(report.stopped)}")
        return ExitCode.DONE if report.ok and not self._failures else ExitCode.FAILED

    async def _refresh(self, edits: EditBatch, progress: BatchProgress) -> None:
        while True:  # the end of the batch cancels it
            self._count(edits)
            progress.refresh()
            await asyncio.sleep(_REFRESH_SECONDS)

    def _count(self, edits: EditBatch) -> None:
        seen, tally = edits.progress, self._tally
        tally.done, tally.found, tally.pictures, tally.cost = seen.saved, seen.found, seen.pictures, seen.cost or None
        tally.failed = seen.failed + sum(count for _, count, _ in self._failures)

    def _find_gallery(self, report: BatchReport | None) -> None:
        """Whichever way the run ended."""
        if report is not None:
            self._gallery = report.gallery
            if report.gallery_problem:
                self._run.screen.warning(f"report.html could not be written: {report.gallery_problem}")

    def report(self) -> None:
        """Say how it went."""
        screen, tally = self._run.screen, self._tally
        if self._failures:
            screen.line(f"{tally.failed} failed:", "bold red")
        for why, count, labels in sorted(self._failures, key=lambda each: -each[1]):
            shown = labels[:_NAMED_FAILURES]
            more = f", … and {count - len(shown)} more" if count > len(shown) else ""
            screen.line(f"  {count} × {why}: {', '.join(shown)}{more}")
        now = time.monotonic()
        rest = tally.total - tally.done - tally.failed
        not_done = f", {rest} not done" if rest else ""
        took = f"{now - tally.started_at:.1f} s"
        screen.line(f"{tally.done} of {tally.total} edits done{not_done} · {took}{tally.describe(now)}")
        if self._more_to_do:
            screen.line("the same command goes on from here: nothing that has a task is submitted twice")
        if self._gallery:
            screen.line(f"before and after: {self._gallery}", whole=True)
        one = tally.pictures == 1
        put(f"{tally.pictures} picture{'' if one else 's'} {'is' if one else 'are'} in {self._run.output}")


def _refuse_existing(output: Path, items: list[SourceItem]) -> None:
    """Refuse to write over what did not come of this batch."""
    from qwen_edit_async._batch import JOURNAL_NAME  # noqa: PLC0415  # see the package's docstring

    if not output.is_dir() or (output / JOURNAL_NAME).exists():
        return
    names = {path.name.casefold() for path in output.iterdir()}
    existing = [
        name
        for item in items
        if item.request is not None
        for index in range(item.request.parameters.n or 1)
        if (name := f"{safe_stem(str(item.request.key))}-{index}.png").casefold() in names
    ]
    if existing:
        raise ConfigurationError(
            f"{len(existing)} of the files to be written exist already in {output}, such as {existing[0]}: "
            "use another -o, or --overwrite"
        )
