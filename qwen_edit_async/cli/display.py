"""Output of commands: results, messages, and the progress of bulk runs.

Results go to the standard output stream. All other text goes to the standard error stream.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs

from qwen_edit_async.cli.options import shell_text
from qwen_edit_async.display.cards import Progress
from qwen_edit_async.errors import EditWarning
from qwen_edit_async.text import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress

_NOTES_OF_A_KIND = 3
_UNSAFE_IN_JSON = re.compile(r"[\x7f-\x9f\ud800-\udfff]")
"""Lone surrogates, and the control characters that :mod:`json` does not escape."""

_SECONDS_BETWEEN_LINES = 60.0


def print_output(text: str) -> None:
    """Write a result to the standard output stream."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def print_json(value: object) -> None:
    """Write a result for programs, as one line of JSON."""
    text = json.dumps(value, ensure_ascii=False)
    print_output(_UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


class Screen:
    """Messages on the standard error stream.

    Attributes:
        console: The rich console. If a progress bar is shown, the console prints lines above the bar.
    """

    def __init__(self) -> None:
        # Import rich.progress now, because a later import would block the event loop.
        import rich.progress  # noqa: F401, PLC0415  # slow to import
        from rich.console import Console  # noqa: PLC0415  # slow to import

        # With FORCE_COLOR, rich would draw animations even outside terminals. These options keep only the colors.
        colors: Any = Console(stderr=True).color_system
        self.console: Console = Console(
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
        """Print a line. Replace Python options in the text with shell options.

        On a terminal, wrap the line between words. With ``whole``, do not wrap the line, so that users can copy it.
        """
        self.console.print(visible(shell_text(text)), style=style, soft_wrap=whole or not self.console.is_terminal)

    def command(self, *arguments: str) -> None:
        """Print a command to copy. Its paths stay as they are, even if they contain the name of a Python option."""
        self.console.print(f"  {visible(shlex.join(arguments))}", soft_wrap=True)

    def error(self, text: str) -> None:
        """Print the error that ended the command."""
        self.line(f"error: {text}", "bold red")

    def warning(self, text: str) -> None:
        """Print a warning."""
        self.line(f"warning: {text}", "yellow")

    def note(self, text: str, kind: str = "") -> None:
        """Print a note once, and at most three notes of a kind. :meth:`close` prints the number of omitted notes."""
        if text in self._notes:
            return
        self._notes.add(text)
        kind = kind or text
        self._kinds[kind] = count = self._kinds.get(kind, 0) + 1
        if count <= _NOTES_OF_A_KIND:
            self.line(f"note: {text}", "dim")

    def close(self) -> None:
        """Print the number of omitted notes of each kind."""
        for kind, count in self._kinds.items():
            if count > _NOTES_OF_A_KIND:
                self.line(f"note: {count - _NOTES_OF_A_KIND} more: {kind}", "dim")

    @contextmanager
    def warnings_as_notes(self) -> Iterator[None]:
        """While the block runs, print this package's warnings as notes. Hide Pillow's warnings, which name no file."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            warnings.simplefilter("always", EditWarning)
            python_shows = warnings.showwarning

            def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
                if isinstance(message, EditWarning):
                    self.note(str(message), message.summary)
                else:
                    python_shows(message, category, *rest, **more)

            warnings.showwarning = show
            yield


@attrs.define
class ProgressBar:
    """Shows the progress of a bulk run: on a terminal as a bar, elsewhere as a line every minute.

    Attributes:
        screen: The screen to draw on.
        state: Called with the seconds since the start. Returns the progress.
        clock: Returns the time in seconds.
    """

    screen: Screen
    state: Callable[[float], Progress]
    clock: Callable[[], float] = time.monotonic
    _started_at: float = attrs.field(default=0.0, init=False)
    _next_line_at: float = attrs.field(default=0.0, init=False)
    _bar: RichProgress | None = attrs.field(default=None, init=False)

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Show the bar while the block runs, if the standard error stream is a terminal."""
        self._started_at = self.clock()
        self._next_line_at = self._started_at + _SECONDS_BETWEEN_LINES
        if not self.screen.console.is_terminal:
            yield
            return
        from rich import progress as rich  # noqa: PLC0415  # slow to import

        # Only `refresh` draws, because rich's own thread would draw at the same time as the event loop.
        bar = self._bar = rich.Progress(
            rich.BarColumn(16),
            rich.TextColumn("{task.description}"),
            console=self.screen.console,
            auto_refresh=False,
            transient=True,
        )
        bar.add_task("", total=None)
        with bar:
            yield
        self._bar = None

    def refresh(self) -> None:
        """Draw the bar again, or print a line if one is due."""
        now = self.clock()
        if self._bar is not None:
            state = self.state(now - self._started_at)
            self._bar.update(self._bar.task_ids[0], total=state.total, completed=state.ended, description=state.text())
            self._bar.refresh()
        elif not self.screen.console.is_terminal and now >= self._next_line_at:
            self._next_line_at = now + _SECONDS_BETWEEN_LINES
            self.screen.line(self.state(now - self._started_at).text())
