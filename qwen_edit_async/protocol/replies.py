"""Replies as values, and what is wrong with them. Pure: no I/O, no clock.

The one place that knows how services of this kind report errors (part B): by HTTP status, as ``error`` (text or
object), as ``message``, as ``detail``, as ``{"status": {"code", "message"}}``, inside a 200, or as a proxy's HTML page.
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

import attrs

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

_EXCERPT_CHARACTERS = 2_000
_MESSAGE_CHARACTERS = 300
_SERVER_ERRORS = range(500, 600)
_SUCCESSES = range(200, 300)
_REDIRECTS = range(300, 400)

_ERROR_BY_STATUS: Mapping[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    402: InsufficientBalanceError,
    403: PermissionDeniedError,
    404: NotFoundError,
    413: BadRequestError,
    422: BadRequestError,
    429: RateLimitError,
}

_ERROR_BY_CODE: Mapping[int | str | None, type[APIStatusError]] = {
    1002: RateLimitError,
    "RATE_LIMIT_EXCEEDED": RateLimitError,
    **dict.fromkeys(range(40201, 40209), InsufficientBalanceError),
}
"""The service's own codes say more than its HTTP status (part B)."""

_SERVER_ERROR_CODES = frozenset({*_SERVER_ERRORS, "INTERNAL_SERVER_ERROR", "SYNC_TIMEOUT"})
"""Codes that say, inside a successful reply, what a 5xx says: a task may exist."""

_SUCCESS_CODES = frozenset({0, *_SUCCESSES, 20000})
_SUCCESS_WORDS = frozenset({"ok", "success", "successful", "succeeded"})

_MAX_COST_CHARACTERS = 100
_MAX_COST_EXPONENT = 12
HEADERS_READ = ("date", "retry-after", "x-request-id")
"""The headers of a reply that anything is read from."""

_LONGEST_WAIT = 1e9
"""Seconds, 32 years: more in ``Retry-After`` is a point in time, counted from 1970."""

_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_TAG = re.compile(r"<(script|style)\b.*?</\1\s*>|<[^>]*>", re.DOTALL | re.IGNORECASE)


@attrs.frozen(kw_only=True)
class Reply:
    """An HTTP reply.

    Attributes:
        status: The HTTP status.
        headers: Those of :data:`HEADERS_READ` that came.
        body: As much of it as came.
        complete: Whether all of it came.
        url: The URL that was asked.
        received_at: Seconds since 1970, by this machine's clock, when it came.
    """

    status: int
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    body: bytes = attrs.field(default=b"", repr=False)
    complete: bool = True
    url: str = attrs.field(default="", repr=False)
    received_at: float = attrs.field(default=0.0, repr=False)

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return self.status in _SUCCESSES

    def text(self) -> str:
        """The body as text; what is no UTF-8 shows as U+FFFD."""
        return self.body.decode("utf-8", "replace")

    def excerpt(self) -> str:
        """The start of the body, for error messages and logs."""
        return self.text()[:_EXCERPT_CHARACTERS]


def load_object(reply: Reply, *, task_id: str | None = None) -> Mapping[str, Any]:
    """The JSON object of a reply's body.

    Raises:
        APIResponseError: If the body was cut off, or is no JSON object.
    """
    try:
        # Always as UTF-8: of bytes, json would guess the encoding, and could read what was never searched for the key.
        text = reply.body.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogatepass")
        document = json.loads(text) if reply.complete else None
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict):
        return document
    what = "is no JSON object" if reply.complete else "broke off"
    raise APIResponseError(f"the reply's body {what} (HTTP {reply.status})", body=reply.excerpt(), task_id=task_id)


def has_error(document: Mapping[str, Any]) -> bool:
    """Whether a JSON object reports an error in one of the known shapes; codes and words of success are none."""
    code, message = _describe(document)
    error = document.get("error")
    telling = message if code is None or (isinstance(error, str) and error) else code
    return telling is not None and not _means_success(telling)


def is_refusal(document: Mapping[str, Any]) -> bool:
    """Whether a JSON object plainly reports an error. A bare ``message`` may just as well say "accepted"."""
    return has_error({**document, "message": None})


def error_from_reply(reply: Reply, fallback: str = "", *, task_id: str | None = None) -> APIStatusError:
    """The typed error that a reply amounts to; ``fallback`` is its message if the service gives none."""
    try:
        document = load_object(reply)
    except APIResponseError:
        document = {}
    code, message = _describe(document)
    kind = _ERROR_BY_CODE.get(code) or _ERROR_BY_STATUS.get(reply.status)
    if kind is None:
        broke = reply.status in _SERVER_ERRORS or (reply.ok and code in _SERVER_ERROR_CODES)
        kind = InternalServerError if broke else APIStatusError
    if message is None:
        message = fallback or _words(reply, document)
    return kind(
        message[:_MESSAGE_CHARACTERS],
        status_code=reply.status,
        code=code,
        request_id=reply.headers.get("x-request-id") or first_text(document, ("request_id",)),
        retry_after=parse_retry_after(reply.headers, reply.received_at),
        body=reply.excerpt(),
        task_id=task_id,
    )


def parse_retry_after(headers: Mapping[str, str], received_at: float) -> float | None:
    """Seconds that the service asks to wait: ``Retry-After`` as seconds or as a date (RFC 9110, 10.2.3), else ``None``.

    Some services send a point in time as seconds since 1970. It is measured as a date is: against the reply's own
    ``Date``, so that this machine's clock may be wrong.

    Args:
        headers: The reply's.
        received_at: Seconds since 1970 when the reply came, which count if it has no ``Date``.
    """
    value = headers.get("retry-after", "").strip()
    number = float(value) if _SECONDS.fullmatch(value) else None
    if number is not None and number <= _LONGEST_WAIT:
        return number
    retry_at = _timestamp(value) if number is None else number
    if retry_at is None or math.isinf(retry_at):
        return None
    sent_at = _timestamp(headers.get("date", ""))
    return max(0.0, retry_at - (received_at if sent_at is None else sent_at))


def _timestamp(date: str) -> float | None:
    """Seconds since 1970 of a date in any of HTTP's three formats, ``None`` if the text is none.

    One without a zone is in UTC, as HTTP's dates are.
    """
    try:
        moment = parsedate_to_datetime(date)
    except (ValueError, TypeError, OverflowError):
        return None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def code_of(value: Any) -> int | str | None:
    """The service's code, as an integer where it looks like one."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    text = str(value).strip()
    return int(text) if _INTEGER.fullmatch(text) else text or None


def error_code_of(document: Mapping[str, Any]) -> int | str | None:
    """Return the code of an error report; ``error_code`` says more than ``code`` (part B)."""
    return code_of(document.get("error_code")) or code_of(document.get("code"))


def cost_of(value: Any) -> Decimal | None:
    """A cost, from a decimal string, a number or empty text (part B); what can be no cost is ``None``.

    One of a billion digits, or below zero, would break sums, pages and budgets.
    """
    if not isinstance(value, str | int | float) or len(text := str(value).strip()) > _MAX_COST_CHARACTERS:
        return None
    try:
        cost = Decimal(text)
    except InvalidOperation:
        return None
    usable = cost.is_finite() and not cost.is_signed() and abs(cost.adjusted()) < _MAX_COST_EXPONENT
    return cost if usable else None


def first_text(document: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """The first of the members ``names`` that is there, as text."""
    for name in names:
        value = document.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
            return str(value)
    return None


def as_text(value: Any) -> str:
    """What came as JSON, as text to read."""
    try:
        return value if isinstance(value, str) else json.dumps(value)
    except RecursionError:  # nested just less deeply than can be read
        return "an error too deeply nested to be told"


def _describe(document: Mapping[str, Any]) -> tuple[int | str | None, str | None]:
    """Code and message of an error report; both ``None`` if the object is none."""
    for name in ("error", "status"):
        nested = document.get(name)
        if isinstance(nested, Mapping) and nested:
            code, message = _describe_flat({"error_code": document.get("error_code"), **nested})
            return code, message or as_text(nested)
    error = document.get("error")
    if isinstance(error, str) and error:
        return error_code_of(document), error
    return _describe_flat(document)


def _describe_flat(document: Mapping[str, Any]) -> tuple[int | str | None, str | None]:
    message = first_text(document, ("error_message", "message", "detail"))
    if message is None and document.get("detail"):
        message = as_text(document["detail"])
    return error_code_of(document), message


def _means_success(telling: int | str) -> bool:
    return telling in _SUCCESS_CODES if isinstance(telling, int) else telling.strip(" .!").lower() in _SUCCESS_WORDS


def _words(reply: Reply, document: Mapping[str, Any]) -> str:
    """Words for an error that comes without any of the known shapes."""
    if reply.status in _REDIRECTS:
        return "the service redirects, which is not followed with the key: correct base_url"
    text = "" if document else " ".join(_TAG.sub(" ", reply.excerpt()).split())
    return text or "the service gave no reason"
