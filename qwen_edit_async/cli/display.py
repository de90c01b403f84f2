"""What people see: lines on the standard error stream, and a progress bar where that is a terminal."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress

from qwen_edit_async.display.cards import Progress
from qwen_edit_async.text import visible

_NOTES_OF_A_KIND = 3
_UNSAFE_IN_JSON = re.compile(r"[\x7f-\x9f\ud800-\udfff]")
"""What JSON need not escape, but takes over a terminal, or is no character."""

_SECONDS_BETWEEN_LINES = 60.0


def put(text: str) -> None:
    """Write a result to the standard output stream."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def put_json(value: object) -> None:
    """Write a result for programs, as one line."""
    text = json.dumps(value, ensure_ascii=False)
    put(_UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


class Screen:
    """The standard error stream; results go past this, to the standard output stream.

    Attributes:
        console: Where lines go, above the progress bar if there is one.
    """

    def __init__(self) -> None:
        # FORCE_COLOR asks rich for colors, and gets them; but a bar's frames are for terminals alone.
        colors: Any = Console(stderr=True).color_system
        self.console = Console(
            stderr=True,
            force_terminal=None if sys.stderr.isatty() else False,
            color_system=colors,
            highlight=False,
            markup=False,
            emoji=False,
        )
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


class ProgressBar:
    """Shows how a bulk run stands: a bar on a terminal, a line a minute elsewhere.

    Args:
        screen: Where.
        state: How it stands, so many seconds after the beginning.
        clock: Seconds.
    """

    def __init__(
        self,
        screen: Screen,
        state: Callable[[float], Progress],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._screen = screen
        self._state = state
        self._clock = clock
        self._started_at = 0.0
        self._next_line_at = 0.0
        self._bar: RichProgress | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show it while the block runs."""
        self._started_at = self._clock()
        self._next_line_at = self._started_at + _SECONDS_BETWEEN_LINES
        if not self._screen.console.is_terminal:
            yield
            return
        # Drawn by `refresh` alone: no thread beside the event loop, which owns everything that is shown.
        bar = self._bar = RichProgress(
            BarColumn(16),
            TextColumn("{task.description}"),
            console=self._screen.console,
            auto_refresh=False,
            transient=True,
        )
        bar.add_task("", total=None)
        with bar:
            yield
        self._bar = None

    def refresh(self) -> None:
        """Draw the bar anew, or write a line if it is time."""
        now = self._clock()
        if self._bar is not None:
            state = self._state(now - self._started_at)
            self._bar.update(self._bar.task_ids[0], total=state.total, completed=state.ended, description=state.text())
            self._bar.refresh()
        elif not self._screen.console.is_terminal and now >= self._next_line_at:
            self._next_line_at = now + _SECONDS_BETWEEN_LINES
            self._screen.line(self._state(now - self._started_at).text())
