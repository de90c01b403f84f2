"""The bulk run: requests in, pictures and a journal out."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Final

import attrs

from qwen_edit_async.batch.input import BatchInput, BatchSource
from qwen_edit_async.batch.intake import edit_all
from qwen_edit_async.batch.journal.journal import JOURNAL_NAME
from qwen_edit_async.batch.journal.outcomes import read_page
from qwen_edit_async.batch.outcome import BatchOutcome, BatchProgress
from qwen_edit_async.batch.output import output_at
from qwen_edit_async.batch.rules.budget import to_money
from qwen_edit_async.batch.rules.decide import Consent
from qwen_edit_async.batch.rules.item import EditDefaults, Reading
from qwen_edit_async.batch.rules.plan import BatchPlan
from qwen_edit_async.batch.rules.report import BatchReport
from qwen_edit_async.batch.run import Run, RunOptions, open_run
from qwen_edit_async.batch.survey import make_plan
from qwen_edit_async.errors import ConfigurationError
from qwen_edit_async.models import EditParameters
from qwen_edit_async.session.session import EditSession
from qwen_edit_async.storage.paths import AnyPath

GALLERY_LIMIT: Final = 2_000
"""The default ``gallery_limit``. The page is then about 30 MB, which browsers open quickly."""


class EditBatch:
    """A bulk run that can be interrupted and resumed: ``report = await batch.run(session)``.

    The run writes to a SQLite journal before it submits an edit and after each later step. The next run continues from
    the journal. It waits for tasks in flight, downloads the pictures of completed edits, and checks the files of
    saved edits. An edit that has, or may have, a task is resubmitted only with your consent: ``resubmit_uncertain`` or
    ``edit_changed``. A run that has begun to work on edits writes ``report.html`` and ``report.json`` at its end, even
    after an interrupt. These reports cover all runs of the batch.

    An edit is identified by its row's ``key``. Without a key, a folder's picture is identified by its path in the
    folder. Any other row is identified by its instruction, its parameters, and its images' paths or URLs. An image in
    memory is identified by its content. The signature of a presigned URL is ignored. A row that has changed since its
    edit got a task is refused by default. With ``edit_changed``, the row is edited again.

    Pictures are saved as ``{name}-{index}.png``. The name is made from the key, or else from the first image's
    name. The suffixes ``-2``, ``-3`` and so on keep names unique. An edit keeps its name in all runs.

    Before a run has saved its first edit, submissions pause while pictures are downloaded. If an edit's pictures can't
    be downloaded, edits run one at a time until an edit is saved. If the pictures of three edits in a row can't be
    downloaded, submissions wait until an edit in progress is saved. If none of the edits in progress can be saved, the
    run ends. The next run starts with the missing downloads.

    Args:
        requests: The input. To resume a batch, give the same input again. One of:

            - a folder, a pattern such as ``"photos/*.jpg"``, or a picture; these need an ``instruction``. In a bucket,
              pictures are recognised by their extensions;
            - a table: ``.csv``, ``.tsv``, ``.jsonl``, ``.parquet`` (extra ``parquet``). Its columns are ``image``,
              ``image2``, ``image3``, ``instruction``, ``key`` and one for each parameter. ``image`` is required, and
              ``instruction`` too if the batch has none. If the cell of an instruction or a parameter is empty or
              NaN, the batch's value is used. Other columns become the request's ``metadata``, and the plan has a note
              that names them. Relative paths are relative to the table's folder. A folder or a pattern with only
              Parquet files is one table. A table may be in a bucket;
            - a pandas or polars data frame (extra ``frames``) or a Hugging Face dataset with these columns. Paths are
              relative to the working directory;
            - an iterable, or async iterable, of :class:`EditRequest` objects, of mappings with the same fields, or of
              images if there is an ``instruction``. Items are read one by one as edits end, so a generator works.
        out_dir: The folder for the pictures and the journal, created if it is missing. Relative paths, except those in
            tables, are relative to the working directory in which the batch is created. ``~`` is the home folder. A
            folder in a bucket (``s3://``, ``gs://``, ``az://``, or a tuple ``(store, path)`` with an obstore store)
            holds only the pictures and the reports.
        journal: The local folder for the journal, created if it is missing. Required if the results are in a bucket;
            otherwise leave it out.
        instruction: The instruction for pictures and rows without one.
        parameters: The parameters for pictures and rows without them.
        recursive: Whether to read subfolders. Hidden folders, system folders, links to folders, and folders with
            results of other runs are left out. A pattern's wildcards skip the same folders, but only ``**`` skips
            links. In a bucket, only hidden folders and the results of this batch are left out.
        strict: Whether to send nothing if any row is bad or has text that the service would cut off. By default, bad
            rows are reported and skipped. A strict batch needs an input that can be read twice.
        max_cost: The maximum cost of the whole batch, in the account's currency. Unfinished edits, and completed edits
            without a stated cost, count at the highest known price. If the price rises, edits that were already sent
            can exceed the limit. Until a price above 0 is known, edits run one at a time, and nothing more is submitted
            after an edit that may have been charged, such as an uncertain one. If the service states no costs, nothing
            more is submitted after an edit has completed. If edits are free, use ``max_tasks`` instead.
        price: The assumed price of a picture, for :meth:`plan` and ``max_cost``. ``max_cost`` ignores this price
            once the service states a higher price, or if the service stated a price in an earlier run.
            :meth:`EditSession.estimate` asks the service for a price.
        max_tasks: The maximum number of tasks that the whole batch may create.
        stop_after_failures: The number of failures after which a run submits nothing more. Bad rows and images, which
            are never sent, do not count.
        resubmit_uncertain: Whether to resubmit an edit if an earlier run may have created a task for it, or if the
            service does not know its task. The earlier and the new task may both be charged. The session's
            ``resubmit_uncertain`` is ignored.
        edit_changed: Whether to edit a changed row again instead of refusing it. The journal keeps the earlier result,
            or only its task's id if the pictures can't be downloaded. The new result gets another name.
        deadline: Seconds from taking a slot to the end of an edit; by default the session's ``deadline``.
        gallery_limit: The maximum number of edits on ``report.html``; 0 for no page. Each edit takes about 15 KB.
            Edits with errors come first. When a run ends, it makes missing thumbnails for at most a minute, or for 3 s
            after an interrupt. Edits without thumbnails show their picture files.
        overwrite: Whether results may replace files that this batch did not make. Otherwise an edit that would replace
            such a file fails before it is submitted. The input images of a folder or a table are never replaced.

    Raises:
        ConfigurationError: If an option is wrong.
    """

    def __init__(
        self,
        requests: BatchSource,
        out_dir: AnyPath,
        *,
        journal: str | os.PathLike[str] | None = None,
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
        output = output_at(out_dir, journal, here, overwrite=overwrite)
        defaults = EditDefaults(instruction, parameters or EditParameters())
        self._input = BatchInput(requests, Reading(defaults, base=here, recursive=recursive), output)
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
        """The path of the journal."""
        return self._input.output.home / JOURNAL_NAME

    @property
    def progress(self) -> BatchProgress:
        """The progress of the current or last run."""
        return self._run.progress_now() if self._run is not None else BatchProgress()

    @property
    def report(self) -> BatchReport | None:
        """The report of the last run, even if interrupted; ``None`` until the run ends, or if it could not begin."""
        return self._run.report if self._run is not None else None

    async def outcomes(self) -> AsyncGenerator[BatchOutcome, None]:
        """Yield the outcome of each edit of all runs, in the order in which the edits were planned.

        You can call this method at any time, even during a run. At most a few hundred outcomes are in memory.

        Raises:
            JournalError: If there is no journal, or it can't be read.
        """
        last, folder = 0, self._input.output.folder
        while page := await asyncio.to_thread(read_page, self.journal, last, folder):
            for _, outcome in page:
                yield outcome
            last = page[-1][0]

    async def plan(self, *, price: Decimal | float | str | None = None, fit: bool = False) -> BatchPlan:
        """Return the plan of the next run. Planning needs no session and no key, and uses the network only for buckets.

        The plan covers the whole input and the journal. For each local image file to be sent, planning checks the size,
        the format, and the file's beginning and end. Damage in the middle is found only when the file is sent. Planning
        changes no file, except that SQLite may undo the unfinished write of a run that died.

        Args:
            price: The price of a picture, in the account's currency, to estimate the cost; by default the batch's
                ``price``.
            fit: Whether the session has ``fit=True``, which converts images that the service would refuse.

        Raises:
            ConfigurationError: If the input or the price is wrong, or if the input can't be read twice.
            JournalError: If the journal can't be read, or if the journal of earlier runs is lost.
        """
        if not self._input.repeatable:
            raise ConfigurationError(f"a plan {_NEEDS_REPEATABLE}")
        each = self._options.price if price is None else to_money(price, "price")
        return attrs.evolve(await make_plan(self._input.anew(fit=fit), self._options), price=each)

    async def run(
        self, session: EditSession, *, on_plan: Callable[[BatchPlan], None] | None = None, service: str = ""
    ) -> BatchReport:
        """Submit, await and save all unfinished edits, and write the reports.

        The run first locks the journal. If the input is a folder, a table or a data frame, or if the batch is
        ``strict``, the run then makes a plan of the whole input. So bad rows are found before anything is sent.

        An error that every other edit would also have, such as an invalid key, ends the run and is in ``report.error``.
        Cancelling the run stops submissions at once. The run then waits up to 5 s for the ids of tasks, and up to 10 s
        for the reports. Cancelling again skips the reports.

        A cancelled run does not cancel tasks in progress at the service, because they are charged in any case. The next
        run gets their results. With the protocol ``queue``, tasks that have not begun are cancelled at the service, and
        the next run submits their edits again. With ``dashscope``, only the reply to a submission holds the result, so
        edits without a reply become uncertain.

        Args:
            session: The session that edits.
            on_plan: Called with the plan, if there is one, before anything is sent. An error that ``on_plan`` raises
                ends the run. Without ``on_plan``, bad rows are logged as warnings.
            service: The service's name in the journal; by default the service's address. Give a name if the address
                may change.

        Raises:
            ConfigurationError: If a folder, table or data frame can't be read, or lacks a column.
            InvalidEditError: If a row is bad, and the batch is ``strict``. Nothing was sent.
            JournalError: If the journal is lost, can't be opened or written, is used by another run, has tasks of
                another service, or is of another version. The error's notes name the tasks that could not be recorded.
            SessionClosedError: If the session is not open.
            Exception: Any error that the input raises while it is read.
        """
        session.require_open()
        given = self._input.anew(fit=session.fit)
        if self._run is not None and self._run.closed:
            self._run = None  # so that ``progress`` is empty if the journal can't be locked
        async with open_run(session, given.output, self._options, service) as run:
            self._run = run
            return await edit_all(run, given, on_plan)


_NEEDS_REPEATABLE: Final = "needs an input that can be read twice: give a list, a table, a folder or a data frame"
