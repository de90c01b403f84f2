"""The readable start of a JSON object that broke off. Pure."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

_OBJECT_OPENS = re.compile(r"\ufeff?\s*\{\s*")
_MEMBER = re.compile(r'("(?:[^"\\]|\\.)*")\s*:\s*', re.DOTALL)
_BETWEEN_MEMBERS = re.compile(r"\s*(?:,\s*|(?=\}))")
_ERROR_REPORT = re.compile(r'"(error|error_message|code|message|detail)"\s*:')


def read_fragment(text: str) -> dict[str, Any]:
    """Return the complete members at the start of a broken object.

    ``request_id`` is left out of an error report, because there it is the id of the report and not of a task.
    """
    members: dict[str, Any] = {}
    decode = json.JSONDecoder().raw_decode
    at = _OBJECT_OPENS.match(text)
    with contextlib.suppress(ValueError, RecursionError):
        while at is not None and (name := _MEMBER.match(text, at.end())) is not None:
            value, end = decode(text, name.end())
            at = _BETWEEN_MEMBERS.match(text, end)
            if at is not None or isinstance(value, str):  # the last digits of a number may be missing
                members[json.loads(name[1])] = value
    if _ERROR_REPORT.search(text):
        members.pop("request_id", None)
    return members
