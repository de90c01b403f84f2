"""Bulk edits in a notebook: progress that updates in place, grids of before and after.

::

    from qwen_edit_async.notebook import run_batch, show, show_batch, track

    report = await run_batch(batch, session, total=len(requests))
    await show_batch(batch)

    outcomes = [outcome async for outcome in track(session.edit_many(requests), total=len(requests), session=session)]
    show(outcomes)

A result shows its pictures by itself once they are saved, read or opened. None of this needs a widget or an extra: it
speaks the display protocol of IPython, which every Jupyter kernel has. Anywhere else nothing is shown.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable
from contextlib import ExitStack
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from qwen_edit_async.display.cards import WRITING_PAGE, EditView, Progress, grid_html, progress_html
from qwen_edit_async.display.thumbnails import in_notebook, make_thumbnail
from qwen_edit_async.session.pauses import local_time_in
from qwen_edit_async.session.results import EditResult
from qwen_edit_async.session.stream import EditOutcome
from qwen_edit_async.statistics import SessionStatistics

if TYPE_CHECKING:
    from qwen_edit_async.batch import BatchOutcome, BatchReport, EditBatch
    from qwen_edit_async.session.session import EditSession

__all__ = ["Grid", "Progress", "ProgressDisplay", "TrackedOutcomes", "run_batch", "show", "show_batch", "track"]

_SECONDS_BETWEEN_UPDATES = 0.1
_SECONDS_BETWEEN_LOOKS = 0.2


class ProgressDisplay:
    """A line of a cell's output that is updated in place. Whoever runs something feeds it.

    Args:
        title: What it is the progress of.
        clock: Seconds, to limit updates to ten a second.
    """

    def __init__(self, title: str = "", *, clock: Callable[[], float] = time.monotonic) -> None:
        self._title = title
        self._clock = clock
        self._handle: Any = None
        self._shown_at = float("-inf")

    def update(self, progress: Progress, *, final: bool = False) -> None:
        """Show how it stands, unless it was shown less than a tenth of a second ago; ``final`` is always shown."""
        now = self._clock()
        if not in_notebook() or (now - self._shown_at < _SECONDS_BETWEEN_UPDATES and not final):
            return
        self._shown_at = now
        bundle = {"text/html": progress_html(progress, self._title), "text/plain": progress.text()}
        if self._handle is None:
            from IPython import display  # noqa: PLC0415  # there is one, since this is a notebook

            untyped: Any = display
            self._handle = untyped.display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


class _Tally:
    """Counts outcomes as they come, and shows how it stands."""

    def __init__(
        self,
        display: ProgressDisplay,
        total: int | None,
        session: EditSession | None,
        clock: Callable[[], float],
    ) -> None:
        self._display = display
        self._total = total
        self._session = session
        self._clock = clock
        self._started_at = clock()
        self._paused_before = self._statistics().paused
        self._done = 0
        self._failed = 0
        self._cost: Decimal | None = None

    def _statistics(self) -> SessionStatistics:
        return SessionStatistics() if self._session is None else self._session.statistics()

    def progress(self) -> Progress:
        counts = self._statistics()
        return Progress(
            done=self._done,
            failed=self._failed,
            total=self._total,
            in_flight=counts.in_flight if self._session is not None else None,
            cost=self._cost,
            seconds=self._clock() - self._started_at,
            paused=counts.paused - self._paused_before,
            pause_left=counts.pause_left,
            paused_until=local_time_in(counts.pause_left),
        )

    def show(self, *, final: bool = False) -> None:
        self._display.update(self.progress(), final=final)

    async def count(self, coming: Awaitable[EditOutcome]) -> EditOutcome:
        with ExitStack() as ending:  # whatever it ends with: the last outcome, an error, or an interrupt
            ending.callback(self.show, final=True)
            outcome = await coming
            ending.pop_all()
        if outcome.result is None:
            self._failed += 1
        else:
            self._done += 1
            if outcome.result.usage.cost is not None:
                self._cost = (self._cost or Decimal(0)) + outcome.result.usage.cost
        self.show()
        return outcome


class TrackedOutcomes:
    """Outcomes on their way through :func:`track`; loop over it once."""

    def __init__(self, outcomes: AsyncIterable[EditOutcome], tally: _Tally) -> None:
        self._outcomes = aiter(outcomes)
        self._tally = tally
        tally.show()

    @property
    def progress(self) -> Progress:
        """How it stands."""
        return self._tally.progress()

    def __aiter__(self) -> TrackedOutcomes:
        return self

    def __anext__(self) -> Coroutine[Any, Any, EditOutcome]:
        # No coroutine of this object, so that a traceback that is kept does not keep the edits running.
        return self._tally.count(anext(self._outcomes))


def track(
    outcomes: AsyncIterable[EditOutcome],
    *,
    total: int | None = None,
    session: EditSession | None = None,
    title: str = "",
    clock: Callable[[], float] = time.monotonic,
) -> TrackedOutcomes:
    """Show the progress of ``session.edit_many(...)`` while looping over it: done, failed, cost, rate, time left.

    Args:
        outcomes: What is looped over.
        total: How many there will be, if that is known.
        session: Tells how many tasks are in flight, if it is given.
        title: What it is the progress of.
        clock: Seconds.
    """
    return TrackedOutcomes(outcomes, _Tally(ProgressDisplay(title, clock=clock), total, session, clock))


async def run_batch(
    batch: EditBatch,
    session: EditSession,
    *,
    total: int | None = None,
    title: str = "",
    clock: Callable[[], float] = time.monotonic,
) -> BatchReport:
    """Run a bulk run, and show its progress: ``await batch.run(session)`` with a bar.

    Interrupting the cell stops the run, which can be gone on with: call this again with a batch of the same requests.

    Args:
        batch: What is run.
        session: With which.
        total: How many edits there are, if that is known; for folders, tables and data frames it is.
        title: What it is the progress of.
        clock: Seconds.

    Raises:
        Exception: As :meth:`EditBatch.run`.
    """
    display = ProgressDisplay(title, clock=clock)
    started_at, paused_before = clock(), session.statistics().paused

    def look(*, final: bool = False) -> None:
        seen, counts = batch.progress, session.statistics()
        progress = Progress(
            done=seen.saved,
            failed=seen.failed,
            total=seen.total if total is None else total,
            in_flight=seen.in_flight,
            cost=seen.cost or None,
            seconds=clock() - started_at,
            found=seen.found,
            paused=counts.paused - paused_before,
            pause_left=counts.pause_left,
            paused_until=local_time_in(counts.pause_left),
            closing=WRITING_PAGE if seen.publishing and not final else "",
        )
        display.update(progress, final=final)

    async def keep_looking() -> None:
        while True:  # the end of the run cancels it
            look()
            await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)

    looking = asyncio.create_task(keep_looking())
    try:
        return await batch.run(session)
    finally:
        looking.cancel()
        look(final=True)
        await asyncio.wait([looking])


class Grid:
    """Edits side by side, before and after; a notebook shows it."""

    def __init__(self, views: Iterable[EditView], left_out: int) -> None:
        self._views = tuple(views)
        self._left_out = left_out

    def __repr__(self) -> str:
        return f"<Grid of {len(self._views)} edits{f', {self._left_out} left out' if self._left_out else ''}>"

    def _repr_html_(self) -> str:
        return grid_html(self._views, left_out=self._left_out)


def show(edits: Iterable[EditOutcome | EditResult], *, limit: int = 24) -> Grid:
    """A grid of outcomes or results, as the last line of a cell; of those whose pictures were saved, read or opened.

    Args:
        edits: What ``edit_many`` or ``edit`` gave.
        limit: How many are shown; the others are counted.
    """
    everything = tuple(edits)
    views = (edit._view() for edit in everything[:limit])  # noqa: SLF001  # our own
    return Grid(views, max(len(everything) - limit, 0))


async def show_batch(batch: EditBatch, *, limit: int = 24) -> Grid:
    """A grid of a bulk run's edits, those of earlier runs as well, as the last line of a cell.

    Args:
        batch: Whose journal and pictures are looked at; it need not have run in this kernel.
        limit: How many are shown; the others are counted.

    Raises:
        JournalError: If there is no journal, or it can't be read.
    """
    shown: list[BatchOutcome] = []
    left_out = 0
    async for outcome in batch.outcomes():
        if len(shown) < limit:
            shown.append(outcome)
        else:
            left_out += 1
    return Grid(await asyncio.to_thread(lambda: [_view_of(outcome) for outcome in shown]), left_out)


def _view_of(outcome: BatchOutcome) -> EditView:
    """Reads the pictures of an edit. Blocks."""
    facts = (
        outcome.key,
        "" if outcome.ok else outcome.status,
        f"task {outcome.task_id}" if outcome.task_id is not None else "",
        f"cost {outcome.cost:f}" if outcome.cost is not None else "",
        *outcome.notes,
    )
    return EditView(
        instruction=outcome.instruction,
        before=tuple(filter(None, map(make_thumbnail, outcome.images))),
        after=tuple(filter(None, map(make_thumbnail, outcome.files))),
        facts=tuple(filter(None, facts)),
        error=outcome.error,
    )
