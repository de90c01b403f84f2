"""Works on a bounded number of edits at a time: first the journal's unfinished edits, then the rows of the input.

Every function that uses the journal raises :class:`JournalError` if the journal fails.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Container, Coroutine, Sequence
from typing import Any, Final, TypeAlias, TypeVar

import anyio
import attrs

from qwen_edit_async.batch.fingerprint import fingerprint_of
from qwen_edit_async.batch.input import BatchInput
from qwen_edit_async.batch.journal.database import Store
from qwen_edit_async.batch.journal.journal import JOURNAL_NAME
from qwen_edit_async.batch.row import Row
from qwen_edit_async.batch.rules.decide import SENDS, Action, Entry, Fingerprint, decide, instead, refusal
from qwen_edit_async.batch.rules.item import SourceItem
from qwen_edit_async.batch.rules.plan import BatchPlan
from qwen_edit_async.batch.rules.report import BatchReport
from qwen_edit_async.batch.run import Run
from qwen_edit_async.batch.survey import make_plan
from qwen_edit_async.errors import InvalidEditError, JournalError, summary_of
from qwen_edit_async.images.kinds import ImageInput
from qwen_edit_async.log import log
from qwen_edit_async.models import EditRequest
from qwen_edit_async.session.shield import wait_shielded
from qwen_edit_async.text import counted

T = TypeVar("T")

ImageLoader: TypeAlias = Callable[[str], Awaitable[Sequence[ImageInput]]]
"""An async function that takes an edit's name and returns the edit's images."""

_PAGE: Final = 256
_LISTED_PROBLEMS: Final = 20

_PREVIEW_SECONDS: Final = 60.0
"""The maximum time for making thumbnails at the end of a run. An edit's thumbnails take 20 to 40 ms."""

_INTERRUPTED_SECONDS: Final = 3.0
"""The maximum time for making thumbnails after an interrupt, when the user waits for the program to end."""


async def edit_all(run: Run, given: BatchInput, on_plan: Callable[[BatchPlan], None] | None) -> BatchReport:
    """Make all edits of an input in an opened run, and write the reports; see :meth:`EditBatch.run`."""
    try:
        await _survey(run, given, on_plan)
        await run.begin()
        try:
            await _work(run, given)
        except (Exception, asyncio.CancelledError) as error:
            with (
                contextlib.suppress(JournalError),  # must not hide the error that ended the run
                anyio.move_on_after(run.options.reporting_seconds, shield=True),
            ):
                await run.write_reports(str(error) or "the run was interrupted", _INTERRUPTED_SECONDS)
            raise
        return await run.write_reports(run.budget.stopped, _PREVIEW_SECONDS)
    except asyncio.CancelledError as cancelled:
        note = (
            f"the run was stopped with {counted(run.progress.saved, 'edit')} done; run it again to go on: no edit is "
            f"paid for twice (journal: {run.output.home / JOURNAL_NAME})"
        )
        log.warning("%s", note)
        cancelled.add_note(note)
        raise


async def _survey(run: Run, given: BatchInput, on_plan: Callable[[BatchPlan], None] | None) -> None:
    strict = run.options.strict
    if not (given.described or strict):
        return
    plan = await make_plan(given, run.options)
    run.progress.total = plan.rows
    if given.nothing_to_do:
        run.progress.saved = run.progress.found = plan.saved
        run.progress.pictures = plan.files
    if strict and not plan.ok:
        problems = "\n".join(plan.problem_lines(_LISTED_PROBLEMS))
        raise InvalidEditError(f"nothing was sent, because the batch is strict: {problems}")
    (on_plan or _log_problems)(plan)


def _log_problems(plan: BatchPlan) -> None:
    for line in plan.problem_lines(_LISTED_PROBLEMS):
        log.warning("%s", line)


async def _work(run: Run, given: BatchInput) -> None:
    """Work on all edits. If the run stops submitting, read no further input, but finish the edits already begun.

    Raises:
        JournalError: If the journal fails.
        Exception: The exception of the input, once the edits already begun have ended.
    """
    feeding = asyncio.create_task(_feed_all(run, given))
    feeding.add_done_callback(lambda _: run.notify())
    try:
        while not (feeding.done() or run.budget.stopped):
            await run.wait_for_change()
        feeding.cancel()
        await asyncio.wait([feeding])
        while run.rows:
            await asyncio.wait(run.rows)
    finally:
        await wait_shielded(_end(run, feeding))
    run.raise_crash()
    if not feeding.cancelled():
        feeding.result()


async def _end(run: Run, feeding: asyncio.Task[None]) -> None:
    feeding.cancel()
    await asyncio.gather(feeding, return_exceptions=True)
    await run.cancel_rows()


async def _feed_all(run: Run, given: BatchInput) -> None:
    resumed: set[int] = set()  # stays small: only edits that earlier runs began, but did not finish

    async def finish(entry: Entry) -> None:
        async with run.row_lock(entry.identity):
            await resume(run, entry)
        resumed.add(entry.number)

    async def begin(item: SourceItem) -> None:
        if item.request is None:
            run.refuse(item.problem or "it is not an edit", item.label, item.kind)
            return
        async with run.row_lock(item.identity):
            await take(run, item.identity, item.request, resumed)

    await _feed(run, unfinished(run), finish)
    if not given.nothing_to_do:
        await _feed(run, given.feed(run.disk), begin)


async def _feed(run: Run, items: AsyncGenerator[T, None], work: Callable[[T], Coroutine[Any, Any, None]]) -> None:
    """Start the work on each item as soon as there is room for it. Stop when the run stops submitting."""
    async with contextlib.aclosing(items):
        async for item in items:
            await run.room.acquire()
            if run.budget.stopped:
                return
            run.start(work(item)).add_done_callback(lambda _: run.room.release())


async def unfinished(run: Run) -> AsyncGenerator[Entry, None]:
    """Yield the journal's edits that have a task, but may lack pictures."""
    last = 0
    while entries := await run.journal.do(Store.unfinished, last, _PAGE):
        for entry in entries:
            yield entry
        last = entries[-1].number


async def resume(run: Run, entry: Entry) -> None:
    """Work on an edit that has a task, even if the input no longer has its row."""
    await Row(entry, run).carry_out(decide(entry, None, run.options.consent))


async def take(
    run: Run, identity: str, request: EditRequest, resumed: Container[int] = (), load_images: ImageLoader | None = None
) -> InvalidEditError | None:
    """Carry out the action for a row. Return the reason if the row is refused.

    ``resumed`` has the journal numbers of the edits that this run has already resumed. ``load_images`` is called before
    the edit is submitted, and returns the images to send.
    """
    consent = run.options.consent
    entry, fingerprint = await _planned(run, identity, request)
    action, problem = decide(entry, fingerprint, consent), None
    if action in SENDS:
        try:
            entry = await _redrafted(run, action, entry, request, fingerprint)
            await run.disk.call(run.output.existing, request, entry.name)  # may refuse to replace a file
            if load_images is not None:
                request = await _loaded(request, load_images, entry.name)
        except InvalidEditError as error:
            action, problem = instead(entry), error
    if action in {Action.REPORT_PROBLEM, Action.REPLACE_LATER}:  # REPLACE_LATER: the earlier task is still in flight
        problem = problem or refusal(consent)
        run.changed += 1
        run.refuse(summary_of(problem), entry.key)
        return problem
    if action is Action.RECORD_PROBLEM and problem is not None:
        await Row(entry, run).fail(problem)
    elif action in SENDS or entry.number not in resumed:
        await Row(entry, run, request).carry_out(action)
    return None


async def _planned(run: Run, identity: str, request: EditRequest) -> tuple[Entry, Fingerprint]:
    """Return the row's edit in the journal and the row's current fingerprint. If the journal lacks the edit, add it."""
    entry = await run.journal.do(Store.find, identity)
    fingerprint = await run.disk.call(fingerprint_of, request, entry)
    if entry is None:
        entry = await run.journal.do(Store.plan, identity, request, fingerprint)
    if fingerprint.digest == entry.digest and fingerprint.stamp != entry.stamp:
        run.journal.do(Store.restamp, entry.number, fingerprint.stamp)
    return entry, fingerprint


async def _loaded(request: EditRequest, load_images: ImageLoader, name: str) -> EditRequest:
    """Return the request with the images to send.

    Raises:
        InvalidEditError: If ``load_images`` raises any error.
    """
    try:
        return attrs.evolve(request, images=await load_images(name))
    except InvalidEditError:
        raise
    except Exception as error:
        raise InvalidEditError(f"the images can't be loaded: {str(error) or type(error).__name__}") from error


async def _redrafted(run: Run, action: Action, entry: Entry, request: EditRequest, fingerprint: Fingerprint) -> Entry:
    """Return the edit to be submitted. If its request has changed, record the new request in the journal.

    Raises:
        InvalidEditError: If an image can't be read.
    """
    if fingerprint.problem is not None:
        raise fingerprint.problem
    if action is Action.REPLACE:
        return await run.journal.do(Store.replace, entry.number, entry.identity, request, fingerprint)
    if fingerprint.digest == entry.digest:
        return entry
    return await run.journal.do(Store.redraft, entry.number, request, fingerprint)
