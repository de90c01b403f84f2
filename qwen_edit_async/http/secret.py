"""Holds the API key, and removes it from texts. Pure."""

from __future__ import annotations

import re
from html.entities import html5
from typing import NoReturn

_SHORTEST_REDACTED = 8
_SHORTEST_TORN = 4
_SURROGATES = "surrogatepass"
_BETWEEN = "\0{0,3}"  # UTF-16 and UTF-32 put zeros between ASCII characters
_TORN = _BETWEEN + r"(?:\\{1,4}(?:[ux][0-9A-Fa-f]{0,3})?|%[0-9A-Fa-f]?|&#?\w*)?\Z"  # an escape may be cut off
# The pattern leaves out a lone ampersand, as in most URLs. Each match leads to the slow search for the secret.
_ENTITY = re.compile(r"&(?:#|\w+;)", re.ASCII)
_NAMES = [name for name, text in html5.items() if text.isascii() and name.endswith(";")]


class Secret:
    """ASCII text that logs and tracebacks do not show, because the repr hides it."""

    __slots__ = ("_pattern", "_text", "_torn", "_whole")

    def __init__(self, text: str) -> None:
        self._text = text
        # Short secrets are not removed, because they may be part of other words, such as a task's id.
        long_enough = len(text) >= _SHORTEST_REDACTED
        spellings = [_spelling(character) for character in text] if long_enough else []
        # The patterns are compiled only when needed, because compiling takes longer than the rest of a session's start.
        self._whole = _BETWEEN.join(spellings).encode()
        self._pattern: re.Pattern[bytes] | None = None
        begin, rest = _BETWEEN.join(spellings[:_SHORTEST_TORN]), spellings[_SHORTEST_TORN:]
        self._torn = (begin + "".join(f"(?:{_BETWEEN}{spelling}|{_TORN})" for spelling in rest)).encode()

    def __repr__(self) -> str:
        return "Secret('***')"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret can't be pickled or copied")

    def reveal(self) -> str:
        """Return the text itself."""
        return self._text

    def redact(self, text: str) -> str:
        """Remove the secret from a text, because a service may quote a key that it refuses."""
        data = text.encode("utf-8", _SURROGATES)
        redacted = self.redact_bytes(data)
        return text if redacted is data else redacted.decode("utf-8", _SURROGATES)

    def redact_bytes(self, data: bytes) -> bytes:
        """Remove the secret from undecoded text, even if the secret is escaped for JSON, a URL or HTML."""
        # For most replies, `_may_be_in` is enough. It searches text, which is much faster than searching bytes.
        if not self._whole or not self._may_be_in(data.decode("latin-1")):
            return data
        if self._pattern is None:
            self._pattern = re.compile(self._whole)
        return self._pattern.sub(b"***", data)

    def _may_be_in(self, text: str) -> bool:
        """Return whether a text contains the secret, or an escape that may stand for one of its characters."""
        is_escaped = "\\" in text or "%" in text or "\0" in text or _ENTITY.search(text) is not None
        return is_escaped or self._text in text

    def redact_torn(self, data: bytes) -> bytes:
        """Remove the secret from undecoded text, even if the text ends within the secret, after four characters."""
        return re.sub(self._torn, b"***", data) if self._torn else data


def _spelling(character: str) -> str:
    """Return a pattern for all spellings of an ASCII character.

    Each alternative begins with a literal character, so that the search is fast. JSON inside JSON doubles the
    backslashes of its escapes. The pattern matches at most four, because a reply full of backslashes would otherwise
    take too long. JavaScript has a shorter escape, and HTML has names for most symbols.
    """
    plain, code = re.escape(character), ord(character)
    digits = "".join(f"[{digit}{digit.upper()}]" for digit in f"{code:02x}")
    escaped = f"u00{digits}|x{digits}" + ("" if character.isalnum() else f"|{plain}")
    entities = [f"#0*{code};", f"#[xX]0*{digits};", *(name for name in _NAMES if html5[name] == character)]
    # The plain character comes last: a plain ``%`` would also match the start of its own escape, ``%25``.
    return rf"(?:\\\\{{0,3}}(?:{escaped})|%{digits}|&(?:{'|'.join(entities)})|{plain})"
