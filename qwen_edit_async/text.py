"""Text to show: what users or the service gave means nothing in HTML, nor to a terminal, and is not long. Pure."""

from __future__ import annotations

import html
import re

_SHOWN_CHARACTERS = 200
_NOT_SHOWN = re.compile(r"[\0-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def escape(value: object) -> str:
    """Any value as text that means nothing in HTML, neither between tags nor in an attribute in quotes."""
    text = str(value).replace("\0", "\ufffd")
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"))  # JSON can hold surrogates, UTF-8 can't


def visible(text: str) -> str:
    """Text without what could take over a terminal, control characters, or can't be written, half a character."""
    return _NOT_SHOWN.sub("\ufffd", text)


def quoted(value: object) -> str:
    """Quote a value in a message; a long one is cut."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
