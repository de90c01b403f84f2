"""URLs that replies name, read byte for byte. Pure."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

from yarl import URL

_LEGAL: Final = "%:/?#[]@!$&'()*+,;=-._~"
"""Beside letters and digits, what a URL may hold (RFC 3986, 2)."""

_UP_TO_HOST: Final = re.compile(r"(?:[^:/?#]+:)?//[^/?#]*")


def to_url(text: str) -> URL:
    """Read a URL byte for byte, because a signature may cover its spelling; escape only what no URL may hold.

    Raises:
        ValueError: If it is not valid.
    """
    text = text.strip()
    start = _UP_TO_HOST.match(text)
    host_end = start.end() if start is not None else 0
    # As UTF-8; bytes of a header that are not UTF-8 are kept, too.
    return URL(text[:host_end] + quote(text[host_end:], safe=_LEGAL, errors="surrogateescape"), encoded=True)


def resolve(text: str, base: URL) -> URL:
    """Read a URL that may be relative to ``base``, the URL of the reply that names it; see :func:`to_url`."""
    url = to_url(text)
    return url if url.scheme else base.join(url)


def absolute(text: str, asked_url: str) -> str:
    """Return a result's URL as it came, or resolved against the URL whose reply names it if it is relative."""
    try:
        is_relative = bool(asked_url) and not to_url(text).scheme
        return str(resolve(text, URL(asked_url, encoded=True))) if is_relative else text
    except ValueError:  # found again, and told, when it is fetched
        return text
