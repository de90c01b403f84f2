"""The gallery: many edits, before and after, as one HTML page that loads nothing from other hosts. Pure.

The page is yielded in pieces, one for each edit, so that ten thousand edits need no more memory than ten. Thumbnails
are embedded, and full pictures are linked. All text is escaped, because it comes from users or from the service.
"""

from __future__ import annotations

import base64
import hashlib
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Final

import attrs

from qwen_edit_async.display.links import href
from qwen_edit_async.display.thumbnails import Thumbnail
from qwen_edit_async.text import escape

_STYLE: Final = Path(__file__).with_name("gallery.css").read_text(encoding="utf-8")
_SCRIPT: Final = Path(__file__).with_name("gallery.js").read_text(encoding="utf-8")

_GROUP: Final = 120
"""The number of cards that the browser lays out together while the page loads.

Without groups, each arriving card would make the browser lay out all cards again. 120 cards fill
complete rows if a row has 1 to 6 cards.
"""


@attrs.frozen(kw_only=True)
class Picture:
    """A picture of an edit.

    Attributes:
        thumbnail: The embedded thumbnail; ``None`` to show the file instead.
        path: The file's path relative to the page's folder, with ``/`` between folders; ``None`` if there is no file.
    """

    thumbnail: Thumbnail | None = None
    path: str | None = None

    @property
    def source(self) -> str | None:
        """The escaped ``src`` of the image element; ``None`` if there is nothing to show."""
        if self.thumbnail is not None:
            return self.thumbnail.data_uri
        return None if self.path is None else href(self.path)


def _visible(pictures: Iterable[Picture]) -> tuple[Picture, ...]:
    return tuple(picture for picture in pictures if picture.source is not None)


@attrs.frozen(kw_only=True)
class GalleryEdit:
    """An edit on the page. Pictures with nothing to show are left out.

    Attributes:
        key: The title of the card.
        before: The input images, in order. At first, the page compares the last input with the first output.
        facts: Further values to show, by name. The page leaves out values that are ``None``.
        error: The reason why there is no output; ``None`` for a successful edit.
    """

    key: str
    instruction: str
    before: tuple[Picture, ...] = attrs.field(default=(), converter=_visible)
    after: tuple[Picture, ...] = attrs.field(default=(), converter=_visible)
    facts: Mapping[str, object] = attrs.field(factory=dict)
    error: str | None = None


def gallery_html(
    edits: Iterable[GalleryEdit], *, title: str = "Edits", summary: Mapping[str, object] | None = None
) -> Iterator[str]:
    """Yield the page in pieces. The edits are read one at a time. ``summary`` has facts about all edits, by name."""
    yield (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_CONTENT_SECURITY_POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n<script>{_SCRIPT}</script>\n</head>\n<body>\n"
        f'<header><h1 dir="auto">{escape(title)}</h1>{_facts("summary", summary or {})}</header>\n'
        '<div class="tools" role="search">'
        '<input type="search" id="search" placeholder="Filter by text" aria-label="Filter by text" autocomplete="off">'
        '<label><input type="checkbox" id="failed" autocomplete="off"> Failed only</label>'
        '<output id="count" for="search failed" aria-live="polite"></output>'
        '<span class="hint">← → select an edit, Enter opens it</span></div>\n<main><section class="group">\n'
    )
    for index, edit in enumerate(edits):
        if index and index % _GROUP == 0:
            yield '</section><section class="group">\n'
        yield _card(edit)
    yield (
        '</section></main>\n<p class="nothing" hidden>No edit matches.</p>\n'
        '<dialog><nav><button type="button" id="previous">← Previous</button>'
        '<button type="button" id="next">Next →</button><button type="button" id="close">Close</button></nav>'
        '<div id="viewed"></div></dialog>\n</body>\n</html>\n'
    )


def _card(edit: GalleryEdit) -> str:
    failed = " failed" if edit.error is not None else ""
    error = f'<p class="error" dir="auto">{escape(edit.error or "failed")}</p>' if failed else ""
    return (
        f'<article class="card{failed}">{_comparison(edit)}{_strip(edit)}<div class="text">'
        f'<h2><button type="button" dir="auto">{escape(edit.key)}</button></h2>'
        f'<p class="instruction" dir="auto">{escape(edit.instruction)}</p>{error}{_facts("facts", edit.facts)}'
        f"{_files(edit)}</div></article>\n"
    )


def _comparison(edit: GalleryEdit) -> str:
    before = _image(edit.before[-1], "before", f"Before: {edit.key}") if edit.before else ""
    after = _image(edit.after[0], "after", f"After: {edit.instruction}") if edit.after else ""
    if before and after:
        return (
            f'<div class="compare">{before}{after}<span class="divider"></span><span class="side left">before</span>'
            '<span class="side right">after</span><input type="range" min="0" max="100" value="50" step="1" '
            f'autocomplete="off" aria-label="Visible part of the picture before the edit: {escape(edit.key)}"></div>'
        )
    if not before and not after:
        return '<div class="compare"><span class="missing">no preview</span></div>'
    side = "before" if before else "after"
    return f'<div class="compare single">{before}{after}<span class="side left">{side}</span></div>'


def _image(picture: Picture, kind: str, text: str) -> str:
    small = picture.thumbnail
    sides = f'width="{small.width}" height="{small.height}" ' if small is not None else ""
    return (
        f'<img class="{kind}" alt="{escape(text)}" loading="lazy" decoding="async" draggable="false" '
        f'{sides}src="{picture.source}"{_full(picture)}>'
    )


def _strip(edit: GalleryEdit) -> str:
    """Return buttons to choose the pictures to compare; an empty string if there is no choice."""
    if max(len(edit.before), len(edit.after)) <= 1:
        return ""
    before = _choices(edit.before, "before", chosen=len(edit.before) - 1)
    after = _choices(edit.after, "after", chosen=0)
    return f'<ul class="strip">{before}<li class="arrow" aria-hidden="true">→</li>{after}</ul>'


def _choices(pictures: tuple[Picture, ...], kind: str, *, chosen: int) -> str:
    return "".join(
        f'<li><button type="button" data-kind="{kind}"{_full(picture)} aria-pressed="{str(index == chosen).lower()}">'
        f'<img alt="Compare {kind} {index + 1}" loading="lazy" decoding="async" src="{picture.source}">'
        "</button></li>"
        for index, picture in enumerate(pictures)
    )


def _files(edit: GalleryEdit) -> str:
    links = "".join(
        f'<a href="{href(picture.path)}" target="_blank" rel="noopener">{escape(posixpath.basename(picture.path))}</a>'
        for picture in (*edit.before, *edit.after)
        if picture.path is not None
    )
    return f'<p class="files">{links}</p>' if links else ""


def _full(picture: Picture) -> str:
    return f' data-full="{href(picture.path)}"' if picture.path is not None else ""


def _facts(name: str, facts: Mapping[str, object]) -> str:
    rows = "".join(
        f"<div><dt>{escape(key)}</dt><dd>{escape(_plain(value))}</dd></div>"
        for key, value in facts.items()
        if value is not None
    )
    return f'<dl class="{name}">{rows}</dl>' if rows else ""


def _plain(value: object) -> object:
    match value:
        case bool():
            return "yes" if value else "no"
        case int(width), int(height):
            return f"{width}×{height}"
        case Decimal():
            return f"{value:f}"
        case _:
            return value


def _source_hash(text: str) -> str:
    """Return the CSP source expression that allows ``text`` as an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


_CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",  # allow nothing except the sources below
        "img-src data: 'self'",  # embedded thumbnails, and files beside the page
        f"style-src {_source_hash(_STYLE)}",
        f"script-src {_source_hash(_SCRIPT)}",
        "base-uri 'none'",
        "form-action 'none'",
    )
)
