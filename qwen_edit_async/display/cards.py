"""Edits, progress and reports as HTML and text.

The output depends only on the arguments, the time and the working directory.

Styles are inline, because some programs remove style sheets. Most colors come from the notebook, so the cards suit
light and dark notebooks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import attrs

from qwen_edit_async.display.links import href, relative_path
from qwen_edit_async.display.thumbnails import THUMBNAIL_SIDE, Thumbnail
from qwen_edit_async.text import counted, escape

WRITING_PAGE = "writing the page"
"""The name of the last step of a bulk run, after the work on edits."""

_SLOWEST_PER_SECOND = 0.95
_SOFT = "opacity:.7;font-size:85%"


@attrs.frozen(kw_only=True)
class EditView:
    """An edit as a notebook shows it. ``error`` says why there is no output."""

    instruction: str = ""
    before: tuple[Thumbnail, ...] = ()
    after: tuple[Thumbnail, ...] = ()
    facts: tuple[str, ...] = ()
    error: str | None = None


@attrs.frozen(kw_only=True)
class Progress:
    """The state of a bulk run.

    Attributes:
        done: The number of edits that succeeded.
        total: The number of edits, if known.
        cost: The cost reported by the service, if any.
        seconds: The time since the start of the run.
        found: The number of edits that earlier runs saved. The rate does not count them.
        paused: The seconds that the run has spent in Retry-After pauses.
        pause_left: The seconds until the current pause ends; 0 without a pause.
        paused_until: The local time when the current pause ends; empty without a pause.
        closing: The name of the run's last step; empty while the run works on edits. In :meth:`text`, this name
            replaces the rate, the pause and the time.
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
        """The number of edits that succeeded or failed."""
        return self.done + self.failed

    def text(self) -> str:
        """Return the state of the run in one line."""
        working = self.seconds - self.paused
        rate = (self.ended - self.found) / working if working > 0 and not self.closing else 0.0
        rest = None if self.total is None else max(self.total - self.ended, 0)
        left = f"{_duration(self.pause_left + rest / rate)} left" if rest and rate else _duration(self.seconds)
        pause = f"paused by the service until {self.paused_until} · " if self.pause_left else ""
        parts = (
            counted(self.ended, "edit") if self.total is None else f"{self.ended} of {counted(self.total, 'edit')}",
            f"{self.failed} failed" if self.failed else "",
            f"{self.in_flight} in flight" if self.in_flight is not None else "",
            f"cost {self.cost:f}" if self.cost is not None else "",
            _rate(rate) if rate else "",
            self.closing or pause + left,
        )
        return " · ".join(filter(None, parts))


def edit_html(view: EditView, side: int = THUMBNAIL_SIDE) -> str:
    """Return the card of one edit: its pictures before and after, its instruction, and its facts.

    A picture's sides have at most ``side`` pixels. Several inputs or outputs are shown at half this size.
    """
    arrow = '<span aria-hidden="true" style="align-self:center">→</span>' if view.before and view.after else ""
    pictures = _pictures(view.before, "before", side) + arrow + _pictures(view.after, "after", side)
    facts = " · ".join(f'<span style="display:inline-block">{escape(fact)}</span>' for fact in view.facts)
    return (
        '<div style="max-width:70em">'
        + (f'<div style="display:flex;flex-wrap:wrap;gap:.5em">{pictures}</div>' if pictures else "")
        + _paragraph(view.instruction, "overflow-wrap:anywhere")
        + _paragraph(view.error, "border-left:3px solid #c5221f;padding-left:.5em")
        + f'<div style="{_SOFT};overflow-wrap:anywhere">{facts}</div></div>'
    )


def grid_html(views: Iterable[EditView], *, left_out: int = 0) -> str:
    """Return the cards of many edits, side by side, and a line with the number of edits that are left out."""
    cells = "".join(
        '<div style="flex:0 1 20em;border:1px solid #8886;border-radius:6px;padding:.5em">'
        f"{edit_html(view, side=112)}</div>"
        for view in views
    )
    more = f'<div style="{_SOFT}">… and {left_out} more</div>' if left_out else ""
    return f'<div style="display:flex;flex-wrap:wrap;gap:.6em">{cells}</div>{more}'


def progress_html(progress: Progress, title: str = "") -> str:
    """Return a progress bar, and the state of the run in one line."""
    bar = ""
    if progress.total:
        ended = min(progress.ended, progress.total)
        bar = f'<progress max="{progress.total}" value="{ended}" style="width:20em"></progress> '
    heading = f"<b>{escape(title)}</b> " if title else ""
    return f'<div style="font-variant-numeric:tabular-nums">{heading}{bar}{escape(progress.text())}</div>'


def report_html(facts: Mapping[str, object], failures: Iterable[str], page: str) -> str:
    """Return a table about a bulk run, with a line for each kind of failure.

    ``page`` is the path of ``report.html``; empty if there is none. The link is relative to the working directory.
    """
    rows = [(name, escape(value)) for name, value in facts.items()]
    if lines := "<br>".join(map(escape, failures)):
        rows.append(("failures", lines))
    if page:
        rows.append(("before and after", _page_link(page)))
    cell = "text-align:left;vertical-align:top"
    table = "".join(
        f'<tr><th scope="row" style="{cell};white-space:nowrap">{escape(name)}</th>'
        f'<td dir="auto" style="{cell};overflow-wrap:anywhere">{content}</td></tr>'
        for name, content in rows
    )
    return f"<table>{table}</table>"


def _page_link(page: str) -> str:
    path = None if "://" in page else relative_path(page, os.curdir)  # a page in a bucket has no relative path
    if path is None:
        return escape(page)
    return f'<a href="{href(path)}" target="_blank" rel="noopener">{escape(path)}</a>'


def _pictures(thumbnails: tuple[Thumbnail, ...], kind: str, side: int) -> str:
    if len(thumbnails) > 1:
        side //= 2
    return "".join(
        f'<figure style="margin:0"><img alt="{kind}" src="{thumbnail.data_uri}" '
        f'style="max-width:{side}px;max-height:{side}px;display:block;margin:0">'
        f'<figcaption style="{_SOFT}">{kind}</figcaption></figure>'
        for thumbnail in thumbnails
    )


def _paragraph(text: str | None, style: str) -> str:
    return f'<div dir="auto" style="{style}">{escape(text)}</div>' if text else ""


def _rate(per_second: float) -> str:
    return f"{per_second:.1f}/s" if per_second >= _SLOWEST_PER_SECOND else f"{60 * per_second:.1f}/min"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


def local_time_in(seconds: float) -> str:
    """Return the local time ``seconds`` from now, such as ``14:32``. Add the date if that time is not today."""
    now = datetime.now(UTC).astimezone()
    then = (now + timedelta(seconds=seconds)).astimezone()
    return f"{then:%H:%M}" if then.date() == now.date() else f"{then:%Y-%m-%d %H:%M}"
