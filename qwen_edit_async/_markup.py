"""Escaping: what comes from users or from the service means nothing in HTML. Pure."""

from __future__ import annotations

import html


def escape(value: object) -> str:
    """Any value as text that means nothing in HTML, neither between tags nor in an attribute in quotes."""
    text = str(value).replace("\0", "\ufffd")
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"))  # JSON can hold surrogates, UTF-8 can't
