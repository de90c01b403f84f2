"""Before and after, for people: many edits as one HTML page that stands by itself. Pure: no I/O, no clock.

The page comes as pieces of text, one edit at a time, so that ten thousand need no more memory than ten. Thumbnails are
embedded; the pictures in full are links to files that lie beside the page. Everything that is shown came from users or
from the service, and is escaped.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final, Literal
from urllib.parse import quote

import attrs

from qwen_edit_async.display.assets import CONTENT_SECURITY_POLICY, SCRIPT, STYLE
from qwen_edit_async.display.thumbnails import Thumbnail
from qwen_edit_async.text import escape

_GROUP: Final = 120
"""Cards that are laid out together while the page is still being read: a whole number of rows, however wide they are.
Otherwise each piece that is read would lay out all cards anew."""

_Kind = Literal["before", "after"]


@attrs.frozen(kw_only=True)
class GalleryPicture:
    """A picture of an edit.

    Attributes:
        thumbnail: What is embedded; ``None`` if there is nothing to show.
        path: Where the picture in full lies, relative to the page, with ``/`` between folders; ``None`` if nowhere.
        in_full: Whether the picture in full is shown where there is no thumbnail.
    """

    thumbnail: Thumbnail | None = None
    path: str | None = None
    in_full: bool = False

    @property
    def source(self) -> str | None:
        """What an image element shows, escaped; ``None`` for nothing."""
        if self.thumbnail is not None:
            return self.thumbnail.data_uri
        return _href(self.path) if self.in_full and self.path is not None else None


@attrs.frozen(kw_only=True)
class GalleryItem:
    """An edit, as the gallery shows it.

    Attributes:
        key: What it is called.
        instruction: What was asked for.
        before: Its input images, in their order; compared with is the last, whose shape the output has.
        after: Its output images, in their order.
        parameters: By name, as the request had them; what is ``None`` is left out.
        cost: In the account's currency, where it is known.
        task_id: The service's name for the task, if there was one.
        status: How it stands, unless it is done.
        error: Why there is no output, if there is none.
        notes: What else there is to know, a sentence each.
    """

    key: str
    instruction: str
    before: tuple[GalleryPicture, ...] = ()
    after: tuple[GalleryPicture, ...] = ()
    parameters: Mapping[str, Any] = attrs.field(factory=dict)
    cost: Decimal | None = None
    task_id: str | None = None
    status: str | None = None
    error: str | None = None
    notes: tuple[str, ...] = ()


def gallery(
    items: Iterable[GalleryItem], *, title: str = "Edits", summary: Mapping[str, object] | None = None
) -> Iterator[str]:
    """The page, in pieces.

    Args:
        items: The edits, in the order in which they are shown; one at a time is pulled.
        title: The page's heading.
        summary: What is told of the whole, by name, at the top.
    """
    yield (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(CONTENT_SECURITY_POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n<script>{SCRIPT}</script>\n</head>\n<body>\n"
        f'<header><h1 dir="auto">{escape(title)}</h1>{_facts("summary", summary or {})}</header>\n'
        '<div class="tools" role="search">'
        '<input type="search" id="search" placeholder="Filter by text" aria-label="Filter by text" autocomplete="off">'
        '<label><input type="checkbox" id="failed" autocomplete="off"> Failed only</label>'
        '<output id="count" for="search failed" aria-live="polite"></output>'
        '<span class="hint">← → from edit to edit, Enter opens</span></div>\n<main><section class="group">\n'
    )
    for index, item in enumerate(items):
        if index and index % _GROUP == 0:
            yield '</section><section class="group">\n'
        yield _card(item)
    yield (
        '</section></main>\n<p class="nothing" hidden>No edit fits.</p>\n'
        '<dialog><nav><button type="button" id="previous">← Previous</button>'
        '<button type="button" id="next">Next →</button><button type="button" id="close">Close</button></nav>'
        '<div id="viewed"></div></dialog>\n</body>\n</html>\n'
    )


def _card(item: GalleryItem) -> str:
    failed = " failed" if item.error is not None else ""
    facts = {
        **({"status": item.status} if item.status is not None else {}),
        **{name: value for name, value in item.parameters.items() if value is not None},
        **({"cost": f"{item.cost:f}"} if item.cost is not None else {}),
        **({"task": item.task_id} if item.task_id is not None else {}),
        **({"note": "; ".join(item.notes)} if item.notes else {}),
    }
    error = f'<p class="error" dir="auto">{escape(item.error or "failed")}</p>' if failed else ""
    return (
        f'<article class="card{failed}">{_comparison(item)}{_strip(item)}<div class="text">'
        f'<h2><button type="button" dir="auto">{escape(item.key)}</button></h2>'
        f'<p class="instruction" dir="auto">{escape(item.instruction)}</p>{error}{_facts("facts", facts)}'
        f"{_files(item)}</div></article>\n"
    )


def _comparison(item: GalleryItem) -> str:
    before = item.before[-1] if item.before else GalleryPicture()
    after = item.after[0] if item.after else GalleryPicture()
    pictures = _image(before, "before", f"Before: {item.key}") + _image(after, "after", f"After: {item.instruction}")
    if before.source is not None and after.source is not None:
        return (
            f'<div class="compare">{pictures}<span class="divider"></span><span class="side left">before</span>'
            '<span class="side right">after</span><input type="range" min="0" max="100" value="50" step="1" '
            f'autocomplete="off" aria-label="How much of the picture is shown as before: {escape(item.key)}"></div>'
        )
    if before.source is None and after.source is None:
        return '<div class="compare"><span class="missing">no preview</span></div>'
    side = "before" if after.source is None else "after"
    return f'<div class="compare single">{pictures}<span class="side left">{side}</span></div>'


def _image(picture: GalleryPicture, kind: _Kind, text: str) -> str:
    if picture.source is None:
        return ""
    small = picture.thumbnail
    sides = f'width="{small.width}" height="{small.height}" ' if small is not None else ""
    return (
        f'<img class="{kind}" alt="{escape(text)}" loading="lazy" decoding="async" draggable="false" '
        f'{sides}src="{picture.source}"{_full(picture)}>'
    )


def _strip(item: GalleryItem) -> str:
    """Buttons that choose which of several pictures are compared."""
    if max(len(item.before), len(item.after)) <= 1:
        return ""
    before = _choices(item.before, "before", chosen=len(item.before) - 1)
    after = _choices(item.after, "after", chosen=0)
    return f'<ul class="strip">{before}<li class="arrow" aria-hidden="true">→</li>{after}</ul>'


def _choices(pictures: tuple[GalleryPicture, ...], kind: _Kind, *, chosen: int) -> str:
    return "".join(
        f'<li><button type="button" data-kind="{kind}"{_full(picture)} aria-pressed="{str(index == chosen).lower()}">'
        f'<img alt="Compare {kind} {index + 1}" loading="lazy" decoding="async" src="{picture.source}">'
        "</button></li>"
        for index, picture in enumerate(pictures)
        if picture.source is not None
    )


def _files(item: GalleryItem) -> str:
    links = "".join(
        f'<a href="{_href(picture.path)}" target="_blank" rel="noopener">{escape(posixpath.basename(picture.path))}</a>'
        for picture in (*item.before, *item.after)
        if picture.path is not None
    )
    return f'<p class="files">{links}</p>' if links else ""


def _full(picture: GalleryPicture) -> str:
    return f' data-full="{_href(picture.path)}"' if picture.path is not None else ""


def _href(path: str) -> str:
    """A link that can lead nowhere but to a file: no scheme, no host."""
    return escape(f"./{quote(path, errors='replace')}")


def _facts(name: str, facts: Mapping[str, object]) -> str:
    rows = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(_plain(value))}</dd></div>" for key, value in facts.items())
    return f'<dl class="{name}">{rows}</dl>' if rows else ""


def _plain(value: object) -> object:
    match value:
        case bool():
            return "yes" if value else "no"
        case int(width), int(height):
            return f"{width}×{height}"
        case _:
            return value
