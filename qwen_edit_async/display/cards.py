"""Edits and their progress as HTML and as text, for notebooks. Pure: no I/O, no clock.

Styles are inline, and colors are the notebook's own: that holds in light and dark, and where style sheets are removed.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

import attrs

from qwen_edit_async.display.thumbnails import THUMBNAIL_SIDE, Thumbnail
from qwen_edit_async.text import escape

WRITING_PAGE = "writing the page"
"""What a run does when all its edits have ended."""

_SLOWEST_PER_SECOND = 0.95
_GRID_SIDE = 112
_SOFT = "opacity:.7;font-size:85%"


@attrs.frozen(kw_only=True)
class EditView:
    """What is shown of an edit.

    Attributes:
        instruction: What was asked for.
        before: Thumbnails of its inputs.
        after: Thumbnails of its outputs.
        facts: What else is told, a few words each.
        error: Why there is no output, if there is none.
    """

    instruction: str = ""
    before: tuple[Thumbnail, ...] = ()
    after: tuple[Thumbnail, ...] = ()
    facts: tuple[str, ...] = ()
    error: str | None = None


@attrs.frozen(kw_only=True)
class Progress:
    """How a bulk run stands.

    Attributes:
        done: Edits that went well.
        failed: Edits that did not.
        total: Edits in all, if that is known.
        in_flight: Tasks at the service, if that is known.
        cost: What the service charged, as far as it says.
        seconds: How long the run has taken.
        found: Edits that had ended before it, which tell nothing of its rate.
        paused: Seconds of the run that were pauses, which the service asked for.
        pause_left: Seconds until the current pause ends; 0 for no pause.
        paused_until: The local time when it ends.
        closing: What is done now that all edits have ended, instead of rate and time left; empty as long as some run.
    """

    done: int = 0
    failed: int = 0
    total: int | None = None
    in_flight: int | None = None
    cost: Decimal | None = None
    seconds: float = 0.0
    found: int = 0
    paused: float = 0.0
    pause_left: float = 0.0
    paused_until: str = ""
    closing: str = ""

    @property
    def ended(self) -> int:
        """Edits that ended, well or not."""
        return self.done + self.failed

    def text(self) -> str:
        """All of it in one line."""
        working = self.seconds - self.paused
        rate = (self.ended - self.found) / working if working > 0 and not self.closing else 0.0
        rest = None if self.total is None else max(self.total - self.ended, 0)
        left = f"{_duration(self.pause_left + rest / rate)} left" if rest and rate else _duration(self.seconds)
        pause = f"paused by the service until {self.paused_until} · " if self.pause_left else ""
        parts = (
            f"{self.ended} edits" if self.total is None else f"{self.ended} of {self.total} edits",
            f"{self.failed} failed" if self.failed else "",
            f"{self.in_flight} in flight" if self.in_flight is not None else "",
            f"cost {self.cost:f}" if self.cost is not None else "",
            _rate(rate) if rate else "",
            self.closing or pause + left,
        )
        return " · ".join(filter(None, parts))


def edit_html(view: EditView, side: int = THUMBNAIL_SIDE) -> str:
    """One edit: its pictures before and after, the instruction, and what else is known.

    Args:
        view: The edit.
        side: Longest side of a picture, in pixels; half of it where there are several.
    """
    arrow = '<span aria-hidden="true" style="align-self:center">→</span>' if view.before and view.after else ""
    pictures = _pictures(view.before, "before", side) + arrow + _pictures(view.after, "after", side)
    error = (
        f'<div style="border-left:3px solid #c5221f;padding-left:.5em" dir="auto">{escape(view.error)}</div>'
        if view.error is not None
        else ""
    )
    return (
        '<div style="max-width:70em">'
        + (f'<div style="display:flex;flex-wrap:wrap;gap:.5em">{pictures}</div>' if pictures else "")
        + (
            f'<div dir="auto" style="overflow-wrap:anywhere">{escape(view.instruction)}</div>'
            if view.instruction
            else ""
        )
        + error
        + f'<div style="{_SOFT};overflow-wrap:anywhere">{escape(" · ".join(view.facts))}</div></div>'
    )


def grid_html(views: Iterable[EditView], *, left_out: int = 0) -> str:
    """Many edits, side by side."""
    cells = "".join(
        '<div style="flex:0 1 20em;border:1px solid #8886;border-radius:6px;padding:.5em">'
        f"{edit_html(view, _GRID_SIDE)}</div>"
        for view in views
    )
    more = f'<div style="{_SOFT}">… and {left_out} more</div>' if left_out else ""
    return f'<div style="display:flex;flex-wrap:wrap;gap:.6em">{cells}</div>{more}'


def progress_html(progress: Progress, title: str = "") -> str:
    """A bar, and all of it in one line."""
    bar = ""
    if progress.total:
        ended = min(progress.ended, progress.total)
        bar = f'<progress max="{progress.total}" value="{ended}" style="width:20em"></progress> '
    heading = f"<b>{escape(title)}</b> " if title else ""
    return f'<div style="font-variant-numeric:tabular-nums">{heading}{bar}{escape(progress.text())}</div>'


def _pictures(thumbnails: tuple[Thumbnail, ...], kind: str, side: int) -> str:
    if len(thumbnails) > 1:
        side //= 2
    return "".join(
        f'<figure style="margin:0"><img alt="{kind}" src="{thumbnail.data_uri}" '
        f'style="max-width:{side}px;max-height:{side}px;display:block;margin:0">'
        f'<figcaption style="{_SOFT}">{kind}</figcaption></figure>'
        for thumbnail in thumbnails
    )


def _rate(per_second: float) -> str:
    return f"{per_second:.1f}/s" if per_second >= _SLOWEST_PER_SECOND else f"{60 * per_second:.1f}/min"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
