"""Makes text from users and the service safe for HTML and terminals, and short enough for messages. Pure."""

from __future__ import annotations

import html
import re

_SHOWN_CHARACTERS = 200
_NOT_SHOWN = re.compile(r"[\0-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

_QUERY = re.compile(r"\?[^\s\"'<>]*")
_SIGNATURE = re.compile(r"sig(?:nature)?=", re.IGNORECASE)


def escape(value: object) -> str:
    """Convert a value to text that is safe in HTML content and in quoted attributes."""
    text = str(value).replace("\0", "\ufffd")
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"))  # JSON can hold lone surrogates, UTF-8 can't


def visible(text: str) -> str:
    """Replace control characters that could take over a terminal, and lone surrogates, which can't be encoded."""
    return _NOT_SHOWN.sub("\ufffd", text)


def without_signatures(text: str) -> str:
    """Cut off the queries of presigned URLs, because whoever knows a signature can read the file."""
    # One pattern for a whole signed query would take quadratic time for a long run of question marks.
    return _QUERY.sub(lambda query: "?…" if _SIGNATURE.search(query[0]) else query[0], text)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 task``, ``2 tasks``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def quoted(value: object) -> str:
    """Return the ``repr`` of a value for a message, cut off if it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
