"""Sends replies, and applies faults to them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from aiohttp import web

from qwen_edit_async.emulator.faults import Answer, Drop, Hang, Redirect, Rewrite, Slow, Truncate
from qwen_edit_async.emulator.replies import Reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.typedefs import Handler

    from qwen_edit_async.emulator.faults import RequestAction
    from qwen_edit_async.emulator.service import Service

_OK = 200
_TOO_MANY_REQUESTS = 429
_SLOW_SLICES_PER_SECOND = 20


@web.middleware
async def ignore_disconnects(request: web.Request, handler: Handler) -> web.StreamResponse:
    """End a request when its client disconnects. Otherwise, aiohttp would log a traceback."""
    try:
        return await handler(request)
    except ConnectionError:
        raise web.HTTPBadRequest from None  # nobody reads this reply


async def deliver(
    service: Service,
    request: web.Request,
    action: RequestAction | None,
    process: Callable[[], Awaitable[Reply]],
) -> web.StreamResponse:
    """Answer a request with the reply of `process`. A fault's action may change or replace the reply."""
    if action is None:
        return _plain(service, await process())
    reply = Reply(_OK, b"")
    if action.accepted:
        reply = await process()
    elif not isinstance(action, Drop) or action.read_body:
        await request.read()
    match action:
        case Answer():
            return _plain(service, action.reply)
        case Rewrite():
            return _plain(service, action.function(reply))
        case Redirect():
            service.redirects += 1
            return web.Response(status=action.status, headers={"Location": action.location or service.results_url})
        case Drop() | Hang() | Truncate():
            return await _break(service, request, reply, action)
        case Slow():
            return await _be_slow(service, request, reply, action)


async def _be_slow(service: Service, request: web.Request, reply: Reply, action: Slow) -> web.StreamResponse:
    """Answer after a delay, at the action's speed. Close the connection if the emulator closes during the delay."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(action.delay):
            await service.closing.wait()
    if service.closing.is_set():
        return await _break(service, request, reply, Hang(action.accepted))
    if action.bytes_per_second is None:
        return _plain(service, reply)
    return await _trickle(service, request, reply, action.bytes_per_second)


async def _break(
    service: Service, request: web.Request, reply: Reply, action: Drop | Hang | Truncate
) -> web.StreamResponse:
    """Close the connection.

    `Drop` closes it at once, `Truncate` after a part of the body, and `Hang` when the emulator closes.
    """
    response: web.StreamResponse = web.Response()
    if isinstance(action, Hang):
        await service.closing.wait()
    elif isinstance(action, Truncate):
        response = await _begin(service, request, reply)
        await response.write(reply.body[: int(len(reply.body) * action.share)])
    if request.transport is not None:
        request.transport.close()
    return response  # aiohttp needs a response, but can't send it: the connection is closed


def _plain(service: Service, reply: Reply) -> web.Response:
    return web.Response(status=reply.status, body=reply.body, headers=_headers(service, reply))


def _headers(service: Service, reply: Reply) -> dict[str, str]:
    """Return a reply's headers. Count the reply if its status is 429."""
    service.refused += reply.status == _TOO_MANY_REQUESTS
    return {"Content-Type": reply.content_type, **reply.headers}


async def _begin(service: Service, request: web.Request, reply: Reply) -> web.StreamResponse:
    response = web.StreamResponse(status=reply.status, headers=_headers(service, reply))
    response.content_length = len(reply.body)
    await response.prepare(request)
    return response


async def _trickle(service: Service, request: web.Request, reply: Reply, bytes_per_second: float) -> web.StreamResponse:
    response = await _begin(service, request, reply)
    step = max(int(bytes_per_second / _SLOW_SLICES_PER_SECOND), 1)
    for start in range(0, len(reply.body), step):
        await response.write(reply.body[start : start + step])
        await asyncio.sleep(step / bytes_per_second)
    await response.write_eof()
    return response
