"""Bulk edits in a notebook: progress that updates in place, and grids of before and after pictures.

::

    from qwen_edit_async.notebook import run_batch, show, show_batch, track

    report = await run_batch(batch, session, total=len(requests))
    await show_batch(batch)

    outcomes = [outcome async for outcome in track(session.edit_many(requests), total=len(requests), session=session)]
    show(outcomes)

A cell that ends with an :class:`EditResult` shows the results that ``save``, ``read`` or ``open`` has downloaded, and
the inputs. The module uses IPython's display protocol, so you need not install widgets. Outside of notebooks, the
module shows nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from qwen_edit_async.display.cards import EditView, Progress, grid_html, local_time_in, progress_html
from qwen_edit_async.display.store import ThumbnailStore
from qwen_edit_async.display.thumbnails import in_notebook
from qwen_edit_async.session.results import EditResult
from qwen_edit_async.session.stream import EditOutcome
from qwen_edit_async.statistics import SessionStatistics

if TYPE_CHECKING:
    from qwen_edit_async.batch import BatchOutcome, BatchReport, EditBatch
    from qwen_edit_async.session.session import EditSession

__all__ = ["Grid", "Progress", "ProgressDisplay", "TrackedOutcomes", "run_batch", "show", "show_batch", "track"]

_SECONDS_BETWEEN_UPDATES = 0.1
_SECONDS_BETWEEN_REFRESHES = 0.2


class ProgressDisplay:
    """A line of progress in a cell's output, updated in place.

    Args:
        title: The title of the line.
        clock: Returns the time in seconds.
    """

    def __init__(self, title: str = "", *, clock: Callable[[], float] = time.monotonic) -> None:
        self._title = title
        self._clock = clock
        self._handle: Any = None
        self._shown_at = float("-inf")

    def update(self, progress: Progress, *, final: bool = False) -> None:
        """Show the progress, unless the line changed less than 0.1 s ago. ``final`` progress is always shown."""
        now = self._clock()
        if not in_notebook() or (now - self._shown_at < _SECONDS_BETWEEN_UPDATES and not final):
            return
        self._shown_at = now
        bundle = {"text/html": progress_html(progress, self._title), "text/plain": progress.text()}
        if self._handle is None:
            from IPython import display  # noqa: PLC0415  # only notebooks have IPython

            untyped: Any = display
            self._handle = untyped.display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


@attrs.define
class _Tally:
    """Counts outcomes, and shows the progress."""

    display: ProgressDisplay
    total: int | None
    session: EditSession | None
    clock: Callable[[], float]
    started_at: float
    paused_before: float
    done: int = 0
    failed: int = 0
    cost: Decimal | None = None

    def progress(self) -> Progress:
        counts = _statistics_of(self.session)
        return Progress(
            done=self.done,
            failed=self.failed,
            total=self.total,
            in_flight=counts.in_flight if self.session is not None else None,
            cost=self.cost,
            seconds=self.clock() - self.started_at,
            paused=counts.paused - self.paused_before,
            pause_left=counts.pause_left,
            paused_until=local_time_in(counts.pause_left),
        )

    def show(self, *, final: bool = False) -> None:
        self.display.update(self.progress(), final=final)

    async def count(self, coming: Awaitable[EditOutcome]) -> EditOutcome:
        try:
            outcome = await coming
        except BaseException:  # also a cancellation, or the end of the outcomes: always show the final progress
            self.show(final=True)
            raise
        if not outcome.ok:
            self.failed += 1
        else:
            self.done += 1
            if outcome.result.usage.cost is not None:
                self.cost = (self.cost or Decimal(0)) + outcome.result.usage.cost
        self.show()
        return outcome


class TrackedOutcomes:
    """The outcomes that :func:`track` passes on. They can be looped over once."""

    def __init__(self, outcomes: AsyncIterable[EditOutcome], tally: _Tally) -> None:
        self._outcomes = aiter(outcomes)
        self._tally = tally
        tally.show()

    @property
    def progress(self) -> Progress:
        """The progress so far."""
        return self._tally.progress()

    def __aiter__(self) -> TrackedOutcomes:
        return self

    def __anext__(self) -> Coroutine[Any, Any, EditOutcome]:
        # The edits stop when this object is garbage-collected. If the coroutine referred to this object, the traceback
        # of an error would keep the object alive.
        return self._tally.count(anext(self._outcomes))


def track(
    outcomes: AsyncIterable[EditOutcome],
    *,
    total: int | None = None,
    session: EditSession | None = None,
    title: str = "",
    clock: Callable[[], float] = time.monotonic,
) -> TrackedOutcomes:
    """Pass on the outcomes of ``session.edit_many(...)``, and show the progress: done, failed, cost, rate, time left.

    Args:
        outcomes: The outcomes.
        total: The number of outcomes, if known.
        session: If given, the line also shows the session's tasks in flight and its current pause.
        title: The title of the progress line.
        clock: Returns the time in seconds.
    """
    display, paused_before = ProgressDisplay(title, clock=clock), _statistics_of(session).paused
    return TrackedOutcomes(outcomes, _Tally(display, total, session, clock, clock(), paused_before))


def _statistics_of(session: EditSession | None) -> SessionStatistics:
    return SessionStatistics() if session is None else session.statistics()


async def run_batch(
    batch: EditBatch,
    session: EditSession,
    *,
    total: int | None = None,
    title: str = "",
    clock: Callable[[], float] = time.monotonic,
) -> BatchReport:
    """Run ``batch.run(session)``, show a progress bar, and return the report.

    Interrupting the cell stops the run. To resume the run, call this function again with a batch of the same requests.

    Args:
        batch: The bulk run.
        session: The session.
        total: The number of edits. It is not needed for a folder, a table or a data frame.
        title: The title of the progress line.
        clock: Returns the time in seconds.

    Raises:
        Exception: The errors of :meth:`EditBatch.run`.
    """
    from qwen_edit_async.batch.outcome import shown  # noqa: PLC0415  # slow to import

    display = ProgressDisplay(title, clock=clock)
    started_at, paused_before = clock(), session.statistics().paused

    def show_progress(*, final: bool = False) -> None:
        progress = shown(batch.progress, session.statistics(), clock() - started_at, paused_before)
        known = progress.total if total is None else total
        display.update(attrs.evolve(progress, total=known, closing="" if final else progress.closing), final=final)

    refreshing = asyncio.create_task(_repeat(show_progress))
    try:
        return await batch.run(session)
    finally:
        refreshing.cancel()
        show_progress(final=True)
        await asyncio.wait([refreshing])


async def _repeat(show: Callable[[], None]) -> None:
    while True:  # until the run ends
        show()
        await asyncio.sleep(_SECONDS_BETWEEN_REFRESHES)


class Grid:
    """A grid of edits, each with its pictures before and after, for display in a notebook."""

    def __init__(self, views: Iterable[EditView], left_out: int) -> None:
        self._views = tuple(views)
        self._left_out = left_out

    def __repr__(self) -> str:
        return f"<Grid of {len(self._views)} edits{f', {self._left_out} left out' if self._left_out else ''}>"

    def _repr_html_(self) -> str:
        return grid_html(self._views, left_out=self._left_out)


def show(edits: Iterable[EditOutcome | EditResult], *, limit: int = 24) -> Grid:
    """Return a grid of edits. A notebook shows the grid if this call is the last line of a cell.

    The grid shows only results that ``save``, ``read`` or ``open`` has downloaded, with their inputs.

    Args:
        edits: Outcomes of ``edit_many``, or results of ``edit``.
        limit: The maximum number of edits in the grid. The grid states how many edits it leaves out.
    """
    everything = tuple(edits)
    views = (edit._view() for edit in everything[:limit])  # noqa: SLF001  # private to the package
    return Grid(views, max(len(everything) - limit, 0))


async def show_batch(batch: EditBatch, *, limit: int = 24) -> Grid:
    """Return a grid of the edits in a bulk run's journal. A notebook shows it if this call is the last line of a cell.

    Args:
        batch: The bulk run. It need not have run in this kernel, because only its journal and files are read.
        limit: The maximum number of edits in the grid. The grid states how many edits it leaves out.

    Raises:
        JournalError: The journal is missing, or can't be read.
    """
    shown: list[BatchOutcome] = []
    left_out = 0
    async for outcome in batch.outcomes():
        if len(shown) < limit:
            shown.append(outcome)
        else:
            left_out += 1
    return Grid(await asyncio.to_thread(_views_of, shown, batch.journal.parent), left_out)


def _views_of(outcomes: Iterable[BatchOutcome], folder: Path) -> list[EditView]:
    """Return the edits with their thumbnails, and make thumbnails that the run has not stored. Blocking."""
    with contextlib.closing(ThumbnailStore(folder)) as thumbnails:
        return [_view_of(outcome, thumbnails) for outcome in outcomes]


def _view_of(outcome: BatchOutcome, thumbnails: ThumbnailStore) -> EditView:
    facts = (
        outcome.key,
        "" if outcome.ok else outcome.status,
        f"task {outcome.task_id}" if outcome.task_id is not None else "",
        f"cost {outcome.cost:f}" if outcome.cost is not None else "",
        f"damaged: {outcome.damage}" if outcome.damage else "",
        *outcome.notes,
    )
    return EditView(
        instruction=outcome.instruction,
        before=tuple(filter(None, map(thumbnails.get, outcome.images))),
        after=tuple(filter(None, map(thumbnails.get, outcome.files))),
        facts=tuple(filter(None, facts)),
        error=outcome.error,
    )
