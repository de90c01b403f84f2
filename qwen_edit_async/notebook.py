"""Bulk edits in a notebook: progress that updates in place, grids of before and after.

::

    from qwen_edit_async.notebook import show, track

    outcomes = [outcome async for outcome in track(session.edit_many(requests), total=len(requests), session=session)]
    show(outcomes)

A result shows its pictures by itself once they are saved, read or opened. None of this needs a widget or an extra: it
speaks the display protocol of IPython, which every Jupyter kernel has. Anywhere else nothing is shown.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ._display import EditView, Progress, grid_html, progress_html
from ._results import EditResult
from ._stream import EditOutcome
from ._thumbnails import in_notebook

if TYPE_CHECKING:
    from ._session import EditSession

__all__ = ["Grid", "Progress", "ProgressDisplay", "TrackedOutcomes", "show", "track"]

_SECONDS_BETWEEN_UPDATES = 0.1


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
        self._done = 0
        self._failed = 0
        self._cost: Decimal | None = None

    def progress(self) -> Progress:
        return Progress(
            done=self._done,
            failed=self._failed,
            total=self._total,
            in_flight=self._session.statistics().in_flight if self._session is not None else None,
            cost=self._cost,
            seconds=self._clock() - self._started_at,
        )

    def show(self, *, final: bool = False) -> None:
        self._display.update(self.progress(), final=final)

    async def count(self, coming: Awaitable[EditOutcome]) -> EditOutcome:
        try:
            outcome = await coming
        except BaseException:  # the end, or an interrupt
            self.show(final=True)
            raise
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


class Grid:
    """Edits side by side, before and after; a notebook shows it."""

    def __init__(self, edits: Iterable[EditOutcome | EditResult], limit: int) -> None:
        everything = tuple(edits)
        self._views: tuple[EditView, ...] = tuple(edit._view() for edit in everything[:limit])  # noqa: SLF001  # our own
        self._left_out = len(everything) - len(self._views)

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
    return Grid(edits, limit)
