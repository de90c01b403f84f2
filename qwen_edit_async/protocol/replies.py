"""Errors, costs and texts in the service's replies. Pure: no I/O, no clock.

A reply can report an error by its HTTP status, or in members of its JSON object, such as ``error``, ``message``,
``detail`` and ``status``. An error report may come with HTTP 200, and a proxy may send an HTML page.

Each member is checked before use, because any member can be missing, or have any type.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC
from decimal import Decimal, InvalidOperation
from email.utils import parsedate_to_datetime
from typing import Any

from qwen_edit_async.errors import (
    APIResponseError,
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    InsufficientBalanceError,
    InternalServerError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
)
from qwen_edit_async.protocol.base import Reply
from qwen_edit_async.text import without_signatures

_SERVER_ERRORS = range(500, 600)
SUCCESSES = range(200, 300)
_REDIRECTS = range(300, 400)

_ERROR_BY_STATUS: Mapping[int | str | None, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    402: InsufficientBalanceError,
    403: PermissionDeniedError,
    404: NotFoundError,
    413: BadRequestError,
    422: BadRequestError,
    429: RateLimitError,
    **dict.fromkeys(_SERVER_ERRORS, InternalServerError),
}

_ERROR_BY_CODE: Mapping[int | str | None, type[APIStatusError]] = {
    1002: RateLimitError,
    "ratelimitexceeded": RateLimitError,
    "throttling": RateLimitError,
    **dict.fromkeys(range(40201, 40209), InsufficientBalanceError),
    **dict.fromkeys(("arrearage", "insufficientbalance"), InsufficientBalanceError),
    "invalidapikey": AuthenticationError,
    "accessdenied": PermissionDeniedError,
    "invalidparameter": BadRequestError,
    **dict.fromkeys(("internalservererror", "internalerror", "badgateway"), InternalServerError),
    **dict.fromkeys(("timeout", "requesttimeout", "gatewaytimeout", "synctimeout"), InternalServerError),
}
"""The error for each of the services' own codes, which are more specific than the HTTP status. Text codes are written
as :func:`_family` returns them."""

_ERROR_CODES = frozenset({*_ERROR_BY_CODE, *range(400, 600), 110001, 190000})
"""The codes that always report an error."""

_SUCCESS_CODES = frozenset({0, *SUCCESSES, 20000})
_SUCCESS_WORDS = frozenset({"ok", "success", "successful", "succeeded", "none", "null", "no error", "0", "false"})
_NUMBER_STATUSES = range(400, 600)
"""The numbers in the member ``status`` that are HTTP errors. Any other number may be a task's status."""

_REPORT_NAMES = ("error", "status")
"""The members that may hold an error report as an object, the most specific first."""

_ERROR_NAMES = ("error", "error_code", "error_message")
MESSAGE_NAMES = ("error_message", "message", "detail")
"""The members that may hold the message of an error, the most specific first."""

_MAX_MESSAGE_CHARACTERS = 300
_MAX_COST_CHARACTERS = 100
_MAX_COST_EXPONENT = 12

_LONGEST_WAIT = 1e9
"""The longest wait in seconds (32 years). A greater ``Retry-After`` is a time in seconds since 1970."""

_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_TAG = re.compile(r"<(script|style)\b.*?</\1\s*>|<[^>]*>", re.DOTALL | re.IGNORECASE)


def load_object(reply: Reply, *, task_id: str | None = None) -> Mapping[str, Any]:
    """Parse a reply's body as a JSON object. If the body is a list of one object, return that object.

    Raises:
        APIResponseError: The body is incomplete, or not a JSON object.
    """
    try:
        # json would also decode UTF-16 and UTF-32, in which an API key with JSON escapes would not be redacted.
        text = reply.body.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogatepass")
        document = json.loads(text) if reply.complete else None
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, list) and len(document) == 1:
        document = document[0]
    if isinstance(document, dict):
        return document
    what = "is not a JSON object" if reply.complete else "is incomplete"
    raise APIResponseError(f"the reply's body {what} (HTTP {reply.status})", body=reply.excerpt(), task_id=task_id)


def has_error(document: Mapping[str, Any]) -> bool:
    """Return whether a JSON object reports an error in a known shape. A code or word for success is not an error."""
    code, message = _describe(document)
    error = document.get("error")
    decisive = message if code is None or (isinstance(error, str) and error) else code
    return decisive is not None and not _means_success(decisive)


def has_plain_error(document: Mapping[str, Any]) -> bool:
    """Return whether a JSON object reports an error by a known code, or in a member whose name contains "error".

    Any other code, and a ``message`` or ``detail``, may also mean success.
    """
    code, _ = _describe(document)
    return _family(code) in _ERROR_CODES or has_error({name: document.get(name) for name in _ERROR_NAMES})


def error_from_reply(reply: Reply, *, task_id: str | None = None) -> APIStatusError:
    """Build the typed error that a reply reports."""
    try:
        document = load_object(reply)
    except APIResponseError:
        document = {}
    code, message = _describe(document)
    # An error report that comes with HTTP 200 may have an HTTP error status as its code.
    status = code if reply.ok else reply.status
    kinds = (_ERROR_BY_CODE.get(_family(word)) for word in (code, message))
    kind = next(filter(None, kinds), _ERROR_BY_STATUS.get(status, APIStatusError))
    return kind(
        without_signatures(_words(reply, document) if message is None else message)[:_MAX_MESSAGE_CHARACTERS],
        status_code=reply.status,
        code=code,
        request_id=reply.headers.get("x-request-id") or first_text(document, ("request_id",)),
        retry_after=parse_retry_after(reply.headers, reply.received_at),
        body=reply.excerpt(),
        task_id=task_id,
    )


def parse_retry_after(headers: Mapping[str, str], received_at: float | None) -> float | None:
    """Return the ``Retry-After`` of a reply in seconds (RFC 9110, 10.2.3); ``None`` if there is no valid value.

    The header holds seconds or a date. Some services send a date as seconds since 1970. The date is compared with the
    reply's ``Date``, because this machine's clock may be wrong. ``received_at`` replaces a missing ``Date``. A date
    is ignored if both are missing.
    """
    value = headers.get("retry-after", "").strip()
    number = float(value) if _SECONDS.fullmatch(value) else None
    if number is not None and number <= _LONGEST_WAIT:
        return number
    retry_at = timestamp_of(value) if number is None else number
    if retry_at is None or math.isinf(retry_at):
        return None
    sent_at = timestamp_of(headers.get("date", ""))
    replied_at = received_at if sent_at is None else sent_at
    return None if replied_at is None else max(0.0, retry_at - replied_at)


def timestamp_of(date: str) -> float | None:
    """Convert a date in one of HTTP's three formats to seconds since 1970. Return ``None`` for other text."""
    try:
        moment = parsedate_to_datetime(date)
    except (ValueError, TypeError, OverflowError):
        return None
    # HTTP dates without a zone are in UTC.
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def code_of(value: Any) -> int | str | None:
    """Read a code of the service. Convert digits to an integer."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    text = str(value).strip()
    return int(text) if _INTEGER.fullmatch(text) else text or None


def error_code_of(report: Mapping[str, Any], *outer: Mapping[str, Any]) -> int | str | None:
    """Read the code of an error report.

    ``error_code`` takes precedence over ``code``, even if only an enclosing object in ``outer`` has an ``error_code``.
    """
    codes = (code_of(each.get("error_code")) for each in (report, *outer))
    return next((code for code in codes if code), None) or code_of(report.get("code"))


def _family(code: int | str | None) -> int | str | None:
    """Return a code's letters and digits up to the first dot, in lower case: ``timeout`` for ``TIME_OUT.Algo``.

    All codes that begin with ``Throttling`` are one family.
    """
    if not isinstance(code, str):
        return code
    family = re.sub(r"[\W_]", "", code.partition(".")[0]).lower()
    return "throttling" if family.startswith("throttling") else family


def cost_of(value: Any) -> Decimal | None:
    """Read a cost from a decimal string or a number. Return ``None`` for anything else.

    Negative, very large and very small costs are ignored, because they would break sums and budgets.
    """
    if not isinstance(value, (str, int, float)) or len(text := str(value).strip()) > _MAX_COST_CHARACTERS:
        return None
    try:
        cost = Decimal(text)
    except InvalidOperation:
        return None
    usable = cost.is_finite() and not cost.is_signed() and abs(cost.adjusted()) < _MAX_COST_EXPONENT
    return cost if usable else None


def first_text(document: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """Return the value of the first named member that holds text or an integer, as text."""
    for name in names:
        value = document.get(name)
        if type(value) in {str, int} and value != "":
            return str(value)
    return None


def as_text(value: Any) -> str:
    """Convert a JSON value to readable text."""
    try:
        return value if isinstance(value, str) else json.dumps(value)
    except RecursionError:  # json can read slightly deeper nesting than it can write
        return "JSON that is nested too deeply to show"


def _describe(document: Mapping[str, Any]) -> tuple[int | str | None, str | None]:
    """Return the code and the message of a possible error report. A missing code or message is ``None``."""
    members = [document.get(name) for name in _REPORT_NAMES]
    # Some services always send `error` or `status` as an object. Without an error, all its values are empty or 0.
    reports = [each for each in members if isinstance(each, dict) and any(each.values())]
    report, *outer = (*reports, document)
    error = document.get("error")
    if not reports and isinstance(error, str) and error:
        message: str | None = error
    else:
        message = first_text(report, MESSAGE_NAMES)
        if message is None and report.get("detail"):
            message = as_text(report["detail"])
        if reports:
            message = message or as_text(report)
    code = error_code_of(report, *outer)
    if code is None and type(status := document.get("status")) is int and status in _NUMBER_STATUSES:
        code = status
    return code, message


def _means_success(value: int | str) -> bool:
    return value in _SUCCESS_CODES if isinstance(value, int) else value.strip(" .!").lower() in _SUCCESS_WORDS


def _words(reply: Reply, document: Mapping[str, Any]) -> str:
    """Return a message for an error report of unknown shape."""
    if reply.status in _REDIRECTS:
        return "the service redirects, but the key must not go to another address: correct base_url"
    text = "" if document else " ".join(_TAG.sub(" ", reply.excerpt()).split())
    return text or "the service gave no reason"
