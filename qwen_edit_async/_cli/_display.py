"""What people see: lines on the standard error stream, and a progress bar where that is a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal

import attrs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from qwen_edit_async._markup import visible

_NOTES_OF_A_KIND = 3
_SECONDS_BETWEEN_LINES = 10.0


def put(text: str) -> None:
    """Write a result to the standard output stream."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Screen:
    """The standard error stream; results go past this, to the standard output stream.

    Attributes:
        console: Where lines go, above the progress bar if there is one.
    """

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._notes: set[str] = set()
        self._kinds: dict[str, int] = {}

    def line(self, text: str, style: str | None = None, *, whole: bool = False) -> None:
        """A line, wrapped between words on a terminal unless it is to be kept ``whole``, such as one to be copied."""
        self.console.print(visible(text), style=style, soft_wrap=whole or not self.console.is_terminal)

    def error(self, text: str) -> None:
        """What ended the command."""
        self.line(f"error: {text}", "bold red")

    def warning(self, text: str) -> None:
        """What may cost money."""
        self.line(f"warning: {text}", "yellow")

    def note(self, text: str) -> None:
        """What is good to know; once each, and only the first few of a kind: then :meth:`close` counts the others."""
        if text in self._notes:
            return
        self._notes.add(text)
        kind = text.partition(": ")[2] or text
        self._kinds[kind] = count = self._kinds.get(kind, 0) + 1
        if count <= _NOTES_OF_A_KIND:
            self.line(f"note: {text}", "dim")

    def close(self) -> None:
        """Say how many notes were left out."""
        for kind, count in self._kinds.items():
            if count > _NOTES_OF_A_KIND:
                self.line(f"note: {count - _NOTES_OF_A_KIND} more: {kind}", "dim")


@attrs.define
class Tally:
    """How a bulk run stands.

    Attributes:
        total: Edits in all.
        done: Edits whose pictures are saved.
        failed: Edits that came to nothing.
        pictures: Pictures that are saved.
        cost: What the service charged, as far as it says.
        started_at: When the run began, in seconds of the clock of :class:`BatchProgress`.
    """

    total: int
    done: int = 0
    failed: int = 0
    pictures: int = 0
    cost: Decimal | None = None
    started_at: float = 0.0

    def charge(self, cost: Decimal | None) -> None:
        """Add what an edit cost."""
        if cost is not None:
            self.cost = (self.cost or Decimal(0)) + cost

    def describe(self, now: float, in_flight: int | None = None) -> str:
        """Everything but the number of edits done, to be put after that."""
        seconds = now - self.started_at
        parts = [
            f"{self.failed} failed" if self.failed else "",
            f"{in_flight} in flight" if in_flight is not None else "",
            f"cost {self.cost.normalize():f}" if self.cost is not None else "",
            f"{self.done / seconds:.1f}/s" if self.done and seconds > 0 else "",
        ]
        return "".join(f" · {part}" for part in parts if part)


class BatchProgress:
    """Shows a tally while it changes: a bar on a terminal, a line from time to time elsewhere."""

    def __init__(
        self,
        screen: Screen,
        tally: Tally,
        in_flight: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._screen = screen
        self._tally = tally
        self._in_flight = in_flight
        self._clock = clock
        self._next_line_at = 0.0
        self._bar: Progress | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show it while the block runs."""
        self._tally.started_at = self._clock()
        self._next_line_at = self._tally.started_at + _SECONDS_BETWEEN_LINES
        if not self._screen.console.is_terminal:
            yield
            return
        # Drawn by `refresh` alone: no thread beside the event loop, which owns everything that is shown.
        bar = self._bar = Progress(
            BarColumn(16),
            MofNCompleteColumn(),
            TextColumn("{task.description} · ETA"),
            TimeRemainingColumn(),
            console=self._screen.console,
            auto_refresh=False,
            transient=True,
        )
        bar.add_task("", total=self._tally.total)
        with bar:
            yield
        self._bar = None

    def refresh(self) -> None:
        """Draw the bar anew, or write a line if it is time."""
        now = self._clock()
        tally = self._tally
        if self._bar is not None:
            state = tally.describe(now, self._in_flight())
            self._bar.update(self._bar.task_ids[0], completed=tally.done + tally.failed, description=state)
            self._bar.refresh()
        elif not self._screen.console.is_terminal and now >= self._next_line_at:
            self._next_line_at = now + _SECONDS_BETWEEN_LINES
            state = tally.describe(now, self._in_flight())
            self._screen.line(f"{tally.done + tally.failed} of {tally.total}{state}")
