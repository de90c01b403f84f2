"""HTTP replies, and HTTP errors in the shapes of all protocols. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import attrs

ErrorShape = Literal["contract", "object", "string", "message", "detail", "status", "dashscope", "html", "empty"]
"""The known shapes of an HTTP error from the service, or from a proxy in front of the service."""

_JSON = "application/json"
_HTML = "<!DOCTYPE html><html><head><title>{status}</title></head><body><h1>{status} {message}</h1></body></html>"


@attrs.frozen
class Reply:
    """An HTTP reply."""

    status: int
    body: bytes = attrs.field(repr=False)
    content_type: str = _JSON
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str])


def json_reply(members: Mapping[str, Any], status: int = 200) -> Reply:
    """Return a JSON reply."""
    return Reply(status, json.dumps(members).encode())


def error_reply(
    status: int, code: int | str, message: str, *, shape: ErrorShape = "contract", request_id: str = "report"
) -> Reply:
    """Return an HTTP error in one of the known shapes. Only the shape `dashscope` has a `request_id`."""
    match shape:
        case "html":
            return Reply(status, _HTML.format(status=status, message=message).encode(), "text/html")
        case "empty":
            return Reply(status, b"", "text/plain")
        case "string":
            members: dict[str, Any] = {"error": message}
        case "object":
            members = {"error": {"code": str(code), "message": message}}
        case "status":
            members = {"status": {"code": code, "message": message}, "data": None}
        case "dashscope":
            members = {"code": str(code), "message": message, "request_id": request_id}
        case "message" | "detail":
            members = {shape: message}
        case "contract":
            members = {"error": {"code": code, "error_message": message}}
    return json_reply(members, status)
