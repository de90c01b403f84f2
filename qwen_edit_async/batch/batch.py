"""The bulk run: requests in, pictures and a journal out."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Final

import attrs

from qwen_edit_async.batch.budget import to_money
from qwen_edit_async.batch.decide import Consent
from qwen_edit_async.batch.input import BatchInput, BatchSource
from qwen_edit_async.batch.intake import edit_all
from qwen_edit_async.batch.journal.journal import JOURNAL_NAME
from qwen_edit_async.batch.journal.outcomes import read_page
from qwen_edit_async.batch.outcome import BatchOutcome, BatchProgress
from qwen_edit_async.batch.plan import BatchPlan
from qwen_edit_async.batch.report import BatchReport
from qwen_edit_async.batch.run import Run, RunOptions
from qwen_edit_async.batch.sources import EditDefaults
from qwen_edit_async.batch.survey import make_plan
from qwen_edit_async.batch.targets import Targets
from qwen_edit_async.errors import ConfigurationError, JournalError
from qwen_edit_async.http.options import origin_of
from qwen_edit_async.models import EditParameters
from qwen_edit_async.session.session import EditSession

GALLERY_LIMIT: Final = 2_000
"""The number of edits on the page by default: about 30 MB, which a browser still opens at once."""


class EditBatch:
    """Edits in bulk that survive any interruption: ``report = await batch.run(session)``.

    Every step of every edit is journalled, in SQLite beside the pictures, before anything relies on it. The next run
    goes on from there. It never submits an edit again that has a task. It waits for tasks in flight, downloads the
    pictures of completed ones, and checks the files of saved ones. However a run ends, it writes ``report.html``
    (before and after, of all runs) and ``report.json``.

    An edit is known by its key; a picture of a folder by its path there; any other row by its images' paths or URLs
    (their content, for images in memory), its instruction and its parameters. The signature of a presigned URL does not
    count. If the journal has an edit with another content, the row is refused, or edited anew with ``edit_changed``.

    The pictures are ``{name}-{index}.png``. The name is the key, or else the first picture's name, with ``-2``, ``-3``
    and so on where another edit has it. An edit keeps its name for ever.

    Args:
        requests: The input; give the same again to go on. One of:

            - a folder, a pattern such as ``"photos/*.jpg"``, or a picture: give an ``instruction``;
            - a table: ``.csv``, ``.tsv``, ``.jsonl``, ``.parquet`` (extra ``parquet``), with the columns ``image``,
              ``image2``, ``image3``, ``instruction``, ``key`` and the parameters by name. An empty cell or NaN means
              ``instruction`` and ``parameters``. Other columns become the request's ``metadata``, with a note. Relative
              paths are relative to the table;
            - a pandas or polars data frame with these columns (extra ``frames``). Relative paths are relative to the
              working directory;
            - an iterable, or async iterable, of :class:`EditRequest`, of mappings with their fields, or of images if
              there is an ``instruction``. It is read as room becomes free, so it may be a generator.
        out_dir: The folder for the pictures and the journal, made if it is missing. All relative paths are relative to
            the working directory at the time when the batch is made. ``~`` is the home folder.
        instruction: The instruction for pictures and rows without one.
        parameters: The parameters for pictures and rows without them.
        recursive: Whether the folders of a folder are read as well. Links to folders, hidden folders, system folders
            and the results of other runs are left out, as for the wildcards of a pattern.
        strict: Whether to send nothing at all if a row is bad, or has text that the service would cut off. Otherwise
            bad rows are reported and left out. Needs an input that can be read twice.
        max_cost: The most that the whole batch may cost, in the account's currency. Unfinished edits count with the
            highest known price, so the service has to state costs. Edits go one at a time until a price above 0 is
            known. If edits are free, leave ``max_cost`` out, or use ``max_tasks``.
        price: The price of a picture, for ``max_cost`` until the service has stated one, and for :meth:`plan`.
            :meth:`EditSession.estimate` asks for it.
        max_tasks: The most tasks that the whole batch may create.
        stop_after_failures: The number of failures after which a run submits nothing more. Bad rows and images, which
            are never sent, do not count.
        resubmit_uncertain: Whether to submit edits again that may have a task since an earlier run, or whose task the
            service does not know. Both tasks may be charged. The session's own ``resubmit_uncertain`` does not count.
        edit_changed: Whether to edit a row anew that has changed since it was edited, instead of refusing it. The
            journal keeps the earlier result, and the new one gets another name. An earlier result that can't be
            downloaded does not prevent it; the journal keeps its task's id.
        deadline: Seconds for each edit, from getting a slot to its end; the session's by default.
        gallery_limit: The most edits on ``report.html``, about 15 KB each; those that went wrong come first. With 0
            there is no page. Small pictures are made for at most a minute, or 3 s if the run was interrupted. After
            that the page shows the files themselves.
        overwrite: Whether results replace files that are not of this batch. Otherwise such an edit fails before it is
            submitted. The images of a folder or a table are never replaced.

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
        price: Decimal | float | str | None = None,
        max_tasks: int | None = None,
        stop_after_failures: int | None = None,
        resubmit_uncertain: bool = False,
        edit_changed: bool = False,
        deadline: float | None = None,
        gallery_limit: int = GALLERY_LIMIT,
        overwrite: bool = False,
    ) -> None:
        here = os.getcwd()
        folder = Path(here, os.path.expanduser(out_dir))  # Path.expanduser raises for "~nobody"
        defaults = EditDefaults(instruction, parameters or EditParameters())
        self._input = BatchInput(requests, defaults, recursive, Targets(folder, overwrite), here)
        if strict and not self._input.repeatable:
            raise ConfigurationError(f"strict {_NEEDS_REPEATABLE}")
        self._options = RunOptions(
            strict=strict,
            consent=Consent(resubmit_uncertain=resubmit_uncertain, edit_changed=edit_changed),
            max_cost=to_money(max_cost, "max_cost"),
            price=to_money(price, "price"),
            max_tasks=max_tasks,
            stop_after_failures=stop_after_failures,
            deadline=deadline,
            gallery_limit=gallery_limit,
        )
        self._run: Run | None = None

    @property
    def journal(self) -> Path:
        """The journal's file."""
        return self._input.targets.folder / JOURNAL_NAME

    @property
    def progress(self) -> BatchProgress:
        """The progress of the run, or of the last run."""
        return self._run.progress_now() if self._run is not None else BatchProgress()

    @property
    def report(self) -> BatchReport | None:
        """The report of the last run, also if it was interrupted; ``None`` until it has ended."""
        return self._run.report if self._run is not None else None

    async def outcomes(self) -> AsyncGenerator[BatchOutcome, None]:
        """Yield the outcome of each edit of all runs, in the order in which they were planned.

        It works at any time, also during a run, and holds a few hundred outcomes at a time.

        Raises:
            JournalError: If there is no journal, or it can't be read.
        """
        last = 0
        while page := await asyncio.to_thread(read_page, self.journal, last):
            for _, outcome in page:
                yield outcome
            last = page[-1][0]

    async def plan(self, *, price: Decimal | float | str | None = None, fit: bool = False) -> BatchPlan:
        """Return what a run would do. It needs no session, key or network, and makes and changes no file.

        It reads the whole input and the journal. It checks each image file that would be sent: its size, its format and
        both ends. Damage in the middle shows only when the file is sent.

        Args:
            price: The price of a picture, in the account's currency, to estimate the cost; by default the batch's.
            fit: Whether the session will make images fit that the service would refuse.

        Raises:
            ConfigurationError: If the input or the price is wrong, or if the input can't be read twice.
            JournalError: If there is a journal that can't be read, or if the journal of earlier runs is lost.
        """
        if not self._input.repeatable:
            raise ConfigurationError(f"a plan {_NEEDS_REPEATABLE}")
        each = self._options.price if price is None else to_money(price, "price")
        return attrs.evolve(await make_plan(self._input.anew(fit=fit), self._options), price=each)

    async def run(
        self, session: EditSession, *, on_plan: Callable[[BatchPlan], None] | None = None, service: str = ""
    ) -> BatchReport:
        """Do everything that is left to do.

        The folder is locked first. Folders, tables and data frames are then read once before anything is sent, so that
        their bad rows are known.

        Nothing is submitted while the first pictures are downloaded. If the pictures of an edit can't be downloaded,
        edits go one at a time until one is saved. After three such edits in a row nothing is submitted until one is
        saved. If none can be, the run ends. A later run downloads their pictures first.

        Failed edits are in the report. So is the cause of an early end: the budget, or an error that every other edit
        would meet (``report.error``: an invalid key, no balance). Cancelling the run stops submissions at once. It then
        waits up to 5 s for the ids of tasks, and a few seconds for ``report.html``. Cancelling again skips the page.

        Args:
            session: The session that edits.
            on_plan: Called with the plan before anything is sent, if the input is read beforehand. An exception ends
                the run. By default, bad rows are logged as warnings.
            service: The name of the service that has the tasks; the session's address by default. Give a name if the
                address is a different one in each run.

        Raises:
            ConfigurationError: If a folder, table or data frame can't be read, or lacks a column.
            InvalidEditError: If a row is bad, and the batch is ``strict``: nothing was sent.
            JournalError: If the journal can't be opened or written, if another run has it, or if it is one of another
                service or version. Its notes name the ids of tasks that could not be written.
            SessionClosedError: If the session is not open.
            Exception: If the input raises it.
        """
        session.require_open()
        given = self._input.anew(fit=session.fit)
        if self._run is not None and self._run.active:
            raise JournalError(
                f"{given.targets.folder} is being written by another run of this batch", hint="wait for its end"
            )
        run = self._run = Run(session, given.targets, self._options, service or origin_of(session.base_url))
        async with run.opened():
            return await edit_all(run, given, on_plan)


_NEEDS_REPEATABLE: Final = "needs an input that can be read twice: give a list, a table, a folder or a data frame"
