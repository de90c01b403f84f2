"""Edits on demand for many callers that share one account. The edits are journalled as in a bulk run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Final, Self

import anyio
import attrs

from qwen_edit_async.batch.fingerprint import identities_of, located
from qwen_edit_async.batch.intake import ImageLoader, resume, take, unfinished
from qwen_edit_async.batch.journal.database import Store
from qwen_edit_async.batch.outcome import BatchOutcome, BatchProgress, BatchStatus
from qwen_edit_async.batch.output import BatchOutput, local_folder
from qwen_edit_async.batch.rules.budget import to_money
from qwen_edit_async.batch.rules.decide import Consent, Entry, State
from qwen_edit_async.batch.rules.identity import describe, image_locator
from qwen_edit_async.batch.rules.report import BatchReport
from qwen_edit_async.batch.run import Run, RunOptions, open_run
from qwen_edit_async.errors import InvalidEditError, JournalError, SessionClosedError
from qwen_edit_async.models import EditRequest, RequestInput, request_from_fields
from qwen_edit_async.session.session import EditSession
from qwen_edit_async.session.shield import wait_shielded

_CLOSED: Final = "the hub was closed"


class EditHub:
    """Edits on demand with the guarantees of a bulk run: ``outcome = await hub.edit(request)``.

    You can repeat a request as often as you like, because the hub journals edits as :class:`EditBatch` does:

    - A request for an edit in flight waits for that edit.
    - A request for an edit that is saved, or whose task failed, is answered from the journal. Missing or damaged files
      are downloaded again.
    - A request is refused if another edit with the same key has, or may have, a task. It is also refused if its image
      files changed after its edit was submitted.
    - If the hub dies or a reply is lost during a submission, the edit is ``uncertain``: a task may exist.

    The session's limits apply to all callers together. Tasks of an earlier hub count against ``max_in_flight`` until
    they end. Cancelling a call does not stop its edit.

    Use ``async with EditHub(…) as hub:``. Only one hub or bulk run can use a folder at a time. At the end of the block,
    the hub stops the edits in progress. It waits at most 5 s for the ids of tasks that were just submitted. The next
    hub continues the unfinished tasks. With the protocol ``queue``, the closing hub asks the service to cancel tasks
    that have not begun.

    Args:
        out_dir: The folder for the pictures and the journal, created if it is missing. It can be the folder of
            an :class:`EditBatch`: the hub then continues the batch's journal.
        session: The session that edits.
        max_cost: The maximum cost of all edits of the folder, as for :class:`EditBatch`.
        price: The assumed price of a picture for ``max_cost``, as for :class:`EditBatch`.
        max_tasks: The maximum number of tasks that may be created for the folder.
        resubmit_uncertain: Whether a request for an uncertain edit submits it again. The earlier and the new task may
            both be charged.
        deadline: Seconds from taking a slot to the end of an edit; by default the session's ``deadline``.
        service: The name under which the journal records the service; by default the service's address. Give a name if
            the address may change.
        save: Whether the hub saves the pictures. If not, an edit ends as ``completed``. The caller then downloads
            ``outcome.urls`` to files named after ``outcome.name``, and calls :meth:`record`. ``outcome.files`` then
            has the recorded names in ``out_dir``, even if the caller saved the files elsewhere.

    Raises:
        ConfigurationError: If an option is wrong.
    """

    def __init__(
        self,
        out_dir: str | os.PathLike[str],
        session: EditSession,
        *,
        max_cost: Decimal | float | str | None = None,
        price: Decimal | float | str | None = None,
        max_tasks: int | None = None,
        resubmit_uncertain: bool = False,
        deadline: float | None = None,
        service: str = "",
        save: bool = True,
    ) -> None:
        self._working_folder = os.getcwd()
        self._output = BatchOutput(local_folder(out_dir, self._working_folder, "a hub"), overwrite=False)
        self._session = session
        self._service = service
        self._options = RunOptions(
            consent=Consent(resubmit_uncertain=resubmit_uncertain),
            max_cost=to_money(max_cost, "max_cost"),
            price=to_money(price, "price"),
            max_tasks=max_tasks,
            deadline=deadline,
            saves=save,
            on_demand=True,
        )
        self._run: Run | None = None
        self._opened = contextlib.AsyncExitStack()
        self._is_open = False
        self._asked: dict[tuple[str, str], asyncio.Task[BatchOutcome]] = {}
        self._unsaved: set[str] = set()

    @property
    def folder(self) -> Path:
        """The folder of the pictures and the journal."""
        return self._output.home

    @property
    def progress(self) -> BatchProgress:
        """The counts of this hub's edits, and the cost of all edits of the folder.

        A repeated request for a saved edit is counted again, in both ``saved`` and ``found``.
        """
        return self._run.progress_now() if self._run is not None else BatchProgress()

    @property
    def report(self) -> BatchReport | None:
        """The latest report on all edits of the folder, or ``None``. :meth:`write_report` and closing make a report."""
        return self._run.report if self._run is not None else None

    async def __aenter__(self) -> Self:
        """Open the journal, and continue the tasks of an earlier hub or run.

        Raises:
            JournalError: If the journal can't be opened, or if another hub or run uses it.
            SessionClosedError: If the session is not open, or if the hub was opened before.
        """
        self._session.require_open()
        if self._run is not None:
            raise SessionClosedError("a hub can be opened only once: create another")
        async with contextlib.AsyncExitStack() as opening:
            opened = open_run(self._session, self._output, self._options, self._service)
            run = self._run = await opening.enter_async_context(opened)
            opening.push_async_callback(lambda: wait_shielded(_close(run)))
            await run.begin()
            async for entry in unfinished(run):
                if entry.state is State.COMPLETED:
                    self._unsaved.add(entry.name)
                run.start(_resume(run, entry))
            self._opened = opening.pop_all()
        self._is_open = True
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stop the edits in progress, keep the ids of their tasks, and write ``report.json``.

        Raises:
            JournalError: If the journal failed. The error's notes name the ids of tasks that could not be recorded.
        """
        self._is_open = False
        await self._opened.aclose()
        if self._run is not None and kind is None:
            self._run.raise_crash()

    async def edit(self, request: RequestInput, *, load_images: ImageLoader | None = None) -> BatchOutcome:
        """Make an edit unless it is finished, and return its outcome.

        A failed edit raises no exception: see ``outcome.status`` and ``outcome.error``. An edit that has ended is
        ``saved`` (``completed`` if the hub does not save), ``failed`` or ``uncertain``. With any other status, the edit
        has not ended, and you can repeat the request. The error then says why, if the reason is known. The outcome of
        a refused request is also ``failed``, but the edit in the journal stays unchanged.

        Args:
            request: The request, or a mapping with its fields. Without a key, the images' paths or URLs, the
                instruction and the parameters identify the edit. An image in memory is identified by its content.
            load_images: Called with ``outcome.name`` before the edit is submitted. Returns the images to send
                instead of the request's images. If it raises an error, the edit fails and costs nothing, and you can
                repeat the request. If several calls request the same edit at once, only the first call's function is
                used.

        Raises:
            JournalError: If the journal fails. The hub can't be used any more.
            SessionClosedError: If the hub is not open.
        """
        run = self._require_open()
        try:
            request = request if isinstance(request, EditRequest) else request_from_fields(request)
        except InvalidEditError as error:
            return BatchOutcome(key="", status="failed", instruction="", error=str(error))
        in_memory = None in map(image_locator, request.images)
        identity, content = await run.disk.call(identities_of, request) if in_memory else identities_of(request)
        self._require_open()
        row = self._asked.get((identity, content))
        if row is None:
            row = self._asked[identity, content] = run.start(self._answer(run, identity, request, load_images))
            row.add_done_callback(lambda _: self._asked.pop((identity, content)))
        await asyncio.wait([row])
        return _outcome_of(request, "planned", _CLOSED) if row.cancelled() else row.result()

    async def record(self, name: str, files: Sequence[tuple[str, int]] = (), error: str | None = None) -> None:
        """Record that a caller of a hub with ``save=False`` saved an edit's pictures, or could not save them.

        If three completed edits in a row can't be saved, the hub submits nothing more until one is saved. A call for an
        edit that is not ``completed``, such as a second call for a saved edit, changes nothing.

        Args:
            name: The edit's ``outcome.name``.
            files: The names and sizes in bytes of the pictures' files.
            error: The reason why the pictures could not be saved; ``None`` if they were saved.

        Raises:
            JournalError: If the journal fails, or if no edit has that name.
            SessionClosedError: If the hub is not open.
        """
        run = self._require_open()
        # Other types, such as NumPy's, would break the journal, and with it all other edits.
        files = [(str(file), int(size)) for file, size in files]
        error = None if error is None else str(error)
        if not await run.journal.do(Store.save_elsewhere, str(name), files, error):
            return
        if error is not None:
            run.count_unsaved(error, earlier=name in self._unsaved)
        else:
            run.budget.saved()
            run.count_saved(len(files))
        run.notify()

    async def write_report(self) -> BatchReport:
        """Write ``report.json``, and return the report on all edits in the journal so far.

        Raises:
            JournalError: If the journal fails.
            SessionClosedError: If the hub is not open.
        """
        run = self._require_open()
        return await run.write_reports(run.budget.stopped, preview_seconds=0)

    async def wait_failed(self) -> None:
        """Wait until the hub fails, and raise the error. A program that has nothing else to do can await this method.

        Raises:
            JournalError: If the journal fails.
            SessionClosedError: If the hub is not open, or is closed meanwhile.
        """
        run = self._require_open()
        while run.crash is None:
            self._require_open()
            await run.wait_for_change()
        run.raise_crash()

    def _require_open(self) -> Run:
        if self._run is None or not self._is_open:
            raise SessionClosedError("the hub is not open: use `async with EditHub(…) as hub:`")
        return self._run

    async def _answer(
        self,
        run: Run,
        identity: str,
        request: EditRequest,
        load_images: ImageLoader | None,
    ) -> BatchOutcome:
        # Only the end of the run cancels this coroutine. After that, the callers must still get the outcome.
        with contextlib.suppress(asyncio.CancelledError):
            # The lock comes first, so that an edit that waits for an earlier reply takes no room from other edits.
            async with run.row_lock(identity), run.room:
                refused = await take(run, identity, located(request, self._working_folder), load_images=load_images)
            if refused is not None:
                return _outcome_of(request, "failed", str(refused))
        outcome = await run.journal.do(Store.outcome, identity) or _outcome_of(request, "planned")
        done = outcome.ok or (bool(outcome.urls) and not run.options.saves)
        why_not = outcome.error or run.budget.stopped or run.budget.held
        return outcome if done else attrs.evolve(outcome, error=why_not or None)


async def _resume(run: Run, entry: Entry) -> None:
    async with run.row_lock(entry.identity), run.room:
        await resume(run, entry)


async def _close(run: Run) -> None:
    stopped = run.budget.stopped
    run.budget.stop(_CLOSED)
    run.notify()
    await run.cancel_rows()
    with contextlib.suppress(JournalError), anyio.move_on_after(run.options.reporting_seconds):
        await run.write_reports(stopped, preview_seconds=0)


def _outcome_of(request: EditRequest, status: BatchStatus, error: str | None = None) -> BatchOutcome:
    facts = json.loads(describe(request))
    facts["images"] = tuple(facts["images"])
    return BatchOutcome(key=request.key or "", status=status, error=error, **facts)
