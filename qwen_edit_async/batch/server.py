"""Serves an :class:`EditHub` over HTTP to workers in other processes, on this machine or in its private network.

::

    POST /edits              takes the fields of an EditRequest as JSON, and returns the outcome as JSON
    GET  /pictures/{name}    returns a saved picture; ``name`` is the last part of the picture's path in the outcome

Each call needs the header ``Authorization: Bearer TOKEN``. ``POST /edits`` answers with 200 when the edit has ended,
successfully or not. It answers with 503 if the edit has not ended, the hub is closed, or the journal failed; retry
later. 400 means bad input, 401 a wrong token, 404 an unknown picture, and 413 a body that is too large.

A worker can request an edit of any picture that the hub's process can read.
"""

from __future__ import annotations

import contextlib
import functools
import hmac
import ipaddress
import json
import os
import ssl
from collections.abc import AsyncGenerator
from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from qwen_edit_async.batch.hub import EditHub
from qwen_edit_async.errors import ConfigurationError, InvalidEditError, JournalError, SessionClosedError
from qwen_edit_async.http.hosts import is_local
from qwen_edit_async.models import request_from_fields
from qwen_edit_async.text import quoted

_MAX_BODY_BYTES: Final = 1024 * 1024
"""The maximum size of a body. Bodies are held in memory, so workers must send larger pictures as paths or URLs."""

_SHUTDOWN_SECONDS: Final = 1.0
"""The maximum time for sending the last replies after the hub has closed."""

_ENDED: Final = frozenset({"saved", "failed", "uncertain"})
_PICTURES: Final = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tiff", ".avif"})


@contextlib.asynccontextmanager
async def serve(
    hub: EditHub, listen: str, token: str, certificate: ssl.SSLContext | None = None
) -> AsyncGenerator[str, None]:
    """Serve a hub while the block runs. Yield the server's address, such as ``http://127.0.0.1:8788``.

    Enter this block before the hub's block. The hub then closes first, and the server can still answer pending calls.

    Args:
        hub: The hub.
        listen: ``ADDRESS:PORT`` with a loopback or private address. Port 0 picks a free port.
        token: The secret that workers send.
        certificate: The TLS settings, from :func:`load_certificate`; ``None`` for connections that are not encrypted.

    Raises:
        ConfigurationError: If ``listen`` has no port, or its address is neither loopback nor private.
        OSError: If the server can't listen at this address, for example because the port is taken.
    """
    host, port = address_of(listen)
    application = web.Application(client_max_size=_MAX_BODY_BYTES, middlewares=[_authorized(token)])
    application.add_routes(
        [
            web.post("/edits", functools.partial(_edit, hub)),
            web.get("/pictures/{name}", functools.partial(_picture, hub)),
        ]
    )
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, ssl_context=certificate)
        await site.start()
        scheme = "http" if certificate is None else "https"
        yield f"{scheme}://{f'[{host}]' if ':' in host else host}:{site.port}"
    finally:
        await runner.cleanup()


def address_of(listen: str) -> tuple[str, int]:
    """Return the address and the port to listen on.

    Raises:
        ConfigurationError: If ``listen`` has no port, or its address is neither loopback nor private.
    """
    try:
        parts = urlsplit(f"//{listen}")
        host, port = parts.hostname or "", parts.port
        is_private = host == "localhost" or (is_local(host) and not ipaddress.ip_address(host).is_unspecified)
    except ValueError:
        is_private, port = False, None
    if not is_private or port is None:
        raise ConfigurationError(
            f"{quoted(listen)} is not an address to listen on: give ADDRESS:PORT with a loopback or private address, "
            "such as 127.0.0.1:8788"
        )
    return host, port


def load_certificate(path: str | os.PathLike[str]) -> ssl.SSLContext:
    """Return the TLS settings of a server, with the certificate from a file.

    Args:
        path: A PEM file with the certificate, the intermediate certificates, and the private key without a password.

    Raises:
        ConfigurationError: If the file can't be used.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(path, password="")  # an empty password, so that OpenSSL does not ask for one
    except (OSError, ValueError) as error:  # includes ssl.SSLError
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(
            f"certificate={quoted(os.fspath(path))} can't be used ({reason}): give a PEM file with the certificate and "
            "its private key"
        ) from None
    return context


def _authorized(token: str) -> Middleware:
    expected = f"Bearer {token}".encode()

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        return await handler(request) if hmac.compare_digest(given, expected) else _error(401, "the token is wrong")

    return check


async def _edit(hub: EditHub, request: web.Request) -> web.Response:
    try:
        edit = request_from_fields(await request.json())
    except InvalidEditError as error:
        return _error(400, str(error))
    except (ValueError, LookupError, RecursionError):
        return _error(400, "the body is not JSON")
    try:
        outcome = await hub.edit(edit)
    except (JournalError, SessionClosedError) as error:
        return _error(503, str(error))
    return _json(outcome.as_row(), status=200 if outcome.status in _ENDED else 503)


async def _picture(hub: EditHub, request: web.Request) -> web.StreamResponse:
    name = request.match_info["name"]
    path = hub.folder / name
    if path.parent != hub.folder or name.startswith(".") or "\0" in name or path.suffix not in _PICTURES:
        return _error(404, "there is no such picture")
    return web.FileResponse(path)


def _error(status: int, message: str) -> web.Response:
    return _json({"error": message}, status=status)


def _json(content: Any, *, status: int = 200) -> web.Response:
    return web.json_response(content, status=status, dumps=functools.partial(json.dumps, default=str))
