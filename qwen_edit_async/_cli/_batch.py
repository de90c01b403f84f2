"""``qwen-edit batch``: one edit for each picture of a folder or pattern, or for each row of a table."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from qwen_edit_async._errors import ConfigurationError, QwenEditError
from qwen_edit_async._models import EditRequest
from qwen_edit_async._results import safe_stem
from qwen_edit_async._sources import EditDefaults, SourceItem, name_items, read_source

from ._display import BatchProgress, Screen, Tally, put
from ._messages import CREDENTIAL_ERRORS, ExitCode, reason
from ._options import ConnectionOptions, Flag, Instruction, Output, ParameterOptions, SubmissionOptions
from ._running import Run

if TYPE_CHECKING:
    from qwen_edit_async._results import EditResult
    from qwen_edit_async._session import EditSession

_DOWNLOADS = 8
_UNSAVED = 256
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
    parameters: ParameterOptions | None = None,
    submission: SubmissionOptions | None = None,
    connection: ConnectionOptions | None = None,
) -> int:
    """Edit many pictures.

    The results are saved as KEY-0.png, KEY-1.png and so on; KEY is the table's, or else the picture's name.

    Args:
        source: A folder, a quoted pattern such as "photos/*.jpg", or a table (.csv, .tsv, .jsonl) with the columns
            image, image2, image3, instruction, key and any parameter by its name; paths are relative to the table.
        instruction: What to do with each; the table's own goes before.
        output: The folder for the results.
        concurrency: Tasks at a time.
        recursive: Look into the folder's folders as well.
        overwrite: Replace results that exist already, instead of stopping before anything is sent.
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
    run = Run(
        screen,
        connection or ConnectionOptions(),
        submission or SubmissionOptions(),
        max_in_flight=concurrency,
        output=output,
    )
    edits = _Batch(run, items)
    code = run(edits.work)
    if edits.began:
        edits.report()
    return code


class _Batch:
    """The edits of a source, on their way to files."""

    def __init__(self, run: Run, items: list[SourceItem]) -> None:
        self.began = False
        self._run = run
        self._items = items
        self._requests = [item.request for item in items if item.request is not None]
        self._tally = Tally(total=len(items))
        self._failures: dict[str, list[str]] = {}
        self._code = ExitCode.DONE
        self._stopped = False
        self._downloads = asyncio.Semaphore(_DOWNLOADS)
        self._unsaved = asyncio.Semaphore(_UNSAVED)

    async def work(self, session: EditSession) -> int:
        """Do all that can be done."""
        self.began = True
        for item in self._items:
            if item.problem is not None:
                self._fail(f"row {item.row}", item.problem)
        progress = BatchProgress(self._run.screen, self._tally, lambda: session.statistics().in_flight)
        with progress.shown():
            async with asyncio.TaskGroup() as group:
                refreshing = group.create_task(_refresh(progress))
                await self._edit_all(session)
                refreshing.cancel()
        return self._code

    def report(self) -> None:
        """Say how it went."""
        screen, tally = self._run.screen, self._tally
        if self._failures:
            screen.line(f"{tally.failed} failed:", "bold red")
        for why, labels in sorted(self._failures.items(), key=lambda each: -len(each[1])):
            more = f", … and {len(labels) - _NAMED_FAILURES} more" if len(labels) > _NAMED_FAILURES else ""
            screen.line(f"  {len(labels)} × {why}: {', '.join(labels[:_NAMED_FAILURES])}{more}")
        now = time.monotonic()
        rest = tally.total - tally.done - tally.failed
        not_done = f", {rest} not done" if rest else ""
        took = f"{now - tally.started_at:.1f} s"
        screen.line(f"{tally.done} of {tally.total} edits done{not_done} · {took}{tally.describe(now)}")
        one = tally.pictures == 1
        put(f"{tally.pictures} picture{'' if one else 's'} {'is' if one else 'are'} in {self._run.output}")

    async def _edit_all(self, session: EditSession) -> None:
        async with session.edit_many(self._until_stopped()) as outcomes, asyncio.TaskGroup() as saves:
            async for outcome in outcomes:
                if outcome.error is not None:
                    self._fail_edit(self._requests[outcome.index], outcome.error)
                elif outcome.result is not None:
                    self._run.unsaved[outcome.result.task_id] = None
                    self._tally.charge(outcome.result.usage.cost)
                    # Taking outcomes goes on while pictures are downloaded, up to a bound.
                    await self._unsaved.acquire()
                    saves.create_task(self._save(self._requests[outcome.index], outcome.result))

    def _until_stopped(self) -> Iterator[EditRequest]:
        for request in self._requests:
            if self._stopped:
                return
            yield request

    async def _save(self, request: EditRequest, result: EditResult) -> None:
        try:
            async with self._downloads:
                paths = await result.save(self._run.output)
        except QwenEditError as error:
            self._fail(str(request.key), reason(error, request))
        except OSError as error:
            self._stopped = True  # further edits would be paid for, and could not be kept
            self._fail(str(request.key), f"the result can't be written to {self._run.output}: {error.strerror}")
        else:
            del self._run.unsaved[result.task_id]
            self._tally.done += 1
            self._tally.pictures += len(paths)
        finally:
            self._unsaved.release()

    def _fail_edit(self, request: EditRequest, error: Exception) -> None:
        self._fail(str(request.key), reason(error, request))
        if isinstance(error, CREDENTIAL_ERRORS):
            self._stopped = True
            self._code = ExitCode.CREDENTIALS

    def _fail(self, label: str, why: str) -> None:
        self._tally.failed += 1
        self._failures.setdefault(why, []).append(label)
        self._code = self._code or ExitCode.FAILED


async def _refresh(progress: BatchProgress) -> None:
    while True:  # the end of the batch cancels it
        progress.refresh()
        await asyncio.sleep(_REFRESH_SECONDS)


def _refuse_existing(output: Path, items: list[SourceItem]) -> None:
    """Refuse to write over what an earlier run paid for."""
    if not output.is_dir():
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
