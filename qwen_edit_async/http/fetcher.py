"""Requests result pictures over connections that never carry the key.

The service keeps results on other hosts, behind signed URLs. The host of a URL is checked before the request. The size
and speed of the download are checked while it streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncGenerator

import aiohttp
from yarl import URL

from qwen_edit_async.http.api import USER_AGENT, reason_of
from qwen_edit_async.http.hosts import MAX_SHOWN, ResultHosts, host_of, is_public, not_public
from qwen_edit_async.http.network import Network
from qwen_edit_async.http.options import Timeouts
from qwen_edit_async.protocol.urls import resolve, to_url

MAX_RESULT_BYTES = 64 * 1024 * 1024
"""The largest result to download: four times the size of 2048×2048 uncompressed RGBA pixels."""

_LEAST_BYTES_PER_SECOND = 1024
_MAX_HEADER_BYTES = 32 * 1024
_MAX_REDIRECTS = 10
_OK = 200
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_EXPIRED_STATUSES = frozenset({400, 401, 403, 404, 410})
_TEMPORARY_STATUSES = frozenset({408, 425, 429, *range(500, 600)})


class FetchError(Exception):
    """The failure of one attempt. If ``expired``, a new URL may help. If ``final``, the same URL would fail again."""

    def __init__(self, reason: str, *, expired: bool = False, final: bool = False) -> None:
        super().__init__(reason)
        self.expired = expired
        self.final = final


class Fetcher:
    """Requests result URLs and checks the replies. It never has the session's key."""

    def __init__(self, timeouts: Timeouts, hosts: ResultHosts, network: Network) -> None:
        self._timeouts = timeouts
        self._hosts = hosts
        self._network = network
        self._trusting: aiohttp.ClientSession | None = None
        self._guarded: aiohttp.ClientSession | None = None
        self._responses: set[aiohttp.ClientResponse] = set()

    async def open(self) -> None:
        """Create two connection pools: one for any address, one for public addresses only."""
        self._trusting = self._make_session(None)
        self._guarded = self._make_session(_public_socket)

    def _make_session(self, socket_factory: aiohttp.SocketFactoryType | None) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=self._network.connector(socket_factory=socket_factory),
            headers={"User-Agent": USER_AGENT},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeouts.connect),
            cookie_jar=aiohttp.DummyCookieJar(),
            max_field_size=_MAX_HEADER_BYTES,
            max_line_size=_MAX_HEADER_BYTES,
            # trust_env stays off, because it would send passwords from netrc to any host that a reply names.
        )

    async def aclose(self) -> None:
        """Close the connection pools."""
        for response in self._responses:  # closing the pools alone would not end the reads
            response.close()
        for session in filter(None, (self._trusting, self._guarded)):
            await session.close()
        self._trusting = self._guarded = None

    async def chunks(self, url: str) -> AsyncGenerator[bytes, None]:
        """Request a picture once, and yield its bytes as they arrive.

        Raises:
            FetchError: The picture can't be downloaded, or the reply breaks off.
        """
        failure: BaseException
        target: URL | None = None
        try:
            target, came_from = to_url(url), None
            for _ in range(1 + _MAX_REDIRECTS):
                async with self._asked(target, came_from) as response:
                    location = response.headers.get("Location") if response.status in _REDIRECTS else None
                    if location is not None:
                        target, came_from = resolve(location, target), target
                        continue
                    async with contextlib.aclosing(_body(response, self._timeouts.reply)) as chunks:
                        async for chunk in chunks:
                            yield chunk
                    return
            failure = FetchError(f"its host redirects more than {_MAX_REDIRECTS} times", final=True)
        except asyncio.CancelledError as error:
            failure = asyncio.CancelledError(*error.args)
        except (ValueError, RuntimeError, aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            failure = _failure_of(error, target, self._network)
        # Raised outside the handlers, because its context and traceback would otherwise hold objects of aiohttp, which
        # may contain the password of a proxy.
        raise failure

    @contextlib.asynccontextmanager
    async def _asked(self, url: URL, came_from: URL | None) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """Request a URL without following redirects, because aiohttp would follow them to any host."""
        # A proxy resolves the host's name itself, so the address can't be checked. The trusting pool then connects only
        # to the proxy, which the user chose.
        proxy = self._network.proxy_of(url)
        session = self._trusting if proxy is not None or self._hosts.trusts(url) else self._guarded
        if session is None:
            raise FetchError("the session is closed", final=True)
        if (problem := self._hosts.problem(url, came_from)) is not None:
            raise FetchError(problem, final=True)
        # One limit for all headers, because headers that arrive slowly would restart aiohttp's read timeout.
        async with asyncio.timeout(self._timeouts.connect + self._timeouts.reply):
            response = await session.get(url, allow_redirects=False, proxy=proxy)
        async with response:
            self._responses.add(response)
            try:
                yield response
            finally:
                self._responses.discard(response)


async def _body(response: aiohttp.ClientResponse, patience: float) -> AsyncGenerator[bytes, None]:
    """Yield the chunks of a response. Raise an error if its status is not 200, or if it is too large or too slow."""
    if response.status != _OK:
        raise FetchError(
            f"its host answered {response.status}",
            expired=response.status in _EXPIRED_STATUSES,
            final=response.status not in _TEMPORARY_STATUSES,
        )
    if (response.content_length or 0) > MAX_RESULT_BYTES:
        raise FetchError(f"it has {response.content_length} bytes, more than {MAX_RESULT_BYTES}", final=True)
    total = 0
    loop = asyncio.get_running_loop()
    started_at = loop.time()
    while True:
        # aiohttp's own read timeout is not used, because each chunk header or trailer restarts it.
        async with asyncio.timeout(patience):
            data = await response.content.readany()
        if not data:
            return
        total += len(data)
        seconds = loop.time() - started_at
        if seconds > patience and total < seconds * _LEAST_BYTES_PER_SECOND:
            raise FetchError(f"it arrived too slowly ({total} bytes in {seconds:.0f} s)")
        if total > MAX_RESULT_BYTES:
            raise FetchError(f"it has more than {MAX_RESULT_BYTES} bytes", final=True)
        yield data


class _NotPublicError(OSError):
    """Raised instead of connecting to an address that is not public."""


def _public_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Create a socket for a resolved address, if the address is public.

    The connection uses the same address, so a later change in DNS has no effect.

    Raises:
        _NotPublicError: The address is not public.
    """
    family, kind, protocol, _, (host, *_) = address
    if not is_public(str(host)):
        raise _NotPublicError(errno.EACCES, "not public")
    return socket.socket(family=family, type=kind, proto=protocol)


def _failure_of(error: Exception, target: URL | None, network: Network) -> FetchError:
    match error:
        case aiohttp.ClientConnectorError(os_error=_NotPublicError()) if target is not None:
            return FetchError(not_public(target), final=True)
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError() if target is not None:
            peer = network.peer(target, f"its host {host_of(target)[:MAX_SHOWN]!r}", error)
            # The text of an error, except of a certificate error, can contain an IP address. Reports group failures by
            # text, so the same failure would appear once for each address.
            is_flawed = isinstance(error, aiohttp.ClientConnectorCertificateError)
            reason = reason_of(error) if is_flawed else type(error).__name__
            return FetchError(f"{peer} can't be reached ({reason}){network.unused_proxy(target)}")
        case ValueError():  # raised by aiohttp and yarl; certificate errors are ValueErrors too, but are caught above
            return FetchError("its URL is not valid", final=True)
        case RuntimeError():  # raised by aiohttp
            return FetchError("the session was closed", final=True)
        case _:
            return FetchError(type(error).__name__)
