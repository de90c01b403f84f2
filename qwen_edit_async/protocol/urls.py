"""Reads the URLs in replies. Pure."""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote, urljoin

from yarl import URL

_LEGAL: Final = "%:/?#[]@!$&'()*+,;=-._~"
"""The characters that are legal in a URL besides letters and digits (RFC 3986, 2)."""

_UP_TO_HOST: Final = re.compile(r"(?:[^:/?#]+:)?//[^/?#]*")


def to_url(text: str) -> URL:
    """Parse a URL, and escape only illegal characters. Legal characters stay unchanged: a signature may cover them.

    Raises:
        ValueError: The URL is not valid.
    """
    text = text.strip()
    start = _UP_TO_HOST.match(text)
    host_end = start.end() if start is not None else 0
    # A Location header may hold bytes that are not UTF-8; surrogateescape keeps them.
    return URL(text[:host_end] + quote(text[host_end:], safe=_LEGAL, errors="surrogateescape"), encoded=True)


def resolve(text: str, base: URL) -> URL:
    """Parse a URL as :func:`to_url` does, and resolve a relative URL against ``base``.

    Raises:
        ValueError: The URL is not valid.
    """
    url = to_url(text)
    return url if url.scheme else URL(urljoin(str(base), str(url)), encoded=True)


def absolute(text: str, asked_url: str) -> str:
    """Resolve a picture's relative URL against ``asked_url``, the URL of the API call. Return other URLs unchanged."""
    try:
        is_relative = bool(asked_url) and not to_url(text).scheme
        return str(resolve(text, URL(asked_url, encoded=True))) if is_relative else text
    except ValueError:  # the download reports the error
        return text


def expiry_of(text: str) -> datetime | None:
    """Return the time when a signed URL expires, according to its query parameter ``Expires`` (seconds since 1970)."""
    with contextlib.suppress(ValueError, OverflowError, OSError):
        if (seconds := to_url(text).query.get("Expires")) is not None:
            return datetime.fromtimestamp(int(seconds), UTC)
    return None


def path_below(url: object, base_url: str) -> str | None:
    """Return the rest of ``url`` after ``base_url``; ``None`` if ``url`` is not a URL below ``base_url``.

    A URL with control characters is ignored, because parsing would change its path.
    """
    if not isinstance(url, str) or not url or not url.isprintable() or not base_url:
        return None
    try:
        base = to_url(base_url)
        named = resolve(url, base)
        same = _origin(named) == _origin(base)
    except ValueError:
        return None
    prefix = base.raw_path.rstrip("/")
    below = named.raw_path_qs.removeprefix(prefix)
    return below if same and named.raw_path.startswith(prefix + "/") else None


def _origin(url: URL) -> tuple[str, str, int | None]:
    return url.scheme.lower(), (url.raw_host or "").lower(), url.port
