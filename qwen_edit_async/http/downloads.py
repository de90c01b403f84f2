"""Fetches result pictures: without the key, complete or not at all.

Results lie on other hosts than the API, behind signed URLs that expire. A download streams, and is then judged. It is
repeated when it fails or is not a picture. A URL that has expired is renewed by asking the task again, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import secrets
import socket
import threading
import urllib.request
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from pathlib import Path
from random import Random

import aiohttp
from yarl import URL

from qwen_edit_async.errors import DownloadError, QwenEditError
from qwen_edit_async.http.api import USER_AGENT, OpenResponses
from qwen_edit_async.http.hosts import MAX_SHOWN, ResultHosts, host_of, is_public, not_public
from qwen_edit_async.http.options import Timeouts
from qwen_edit_async.images.kinds import MAX_PIXELS
from qwen_edit_async.images.verdict import Verdict, judge
from qwen_edit_async.log import log
from qwen_edit_async.protocol.urls import resolve, to_url
from qwen_edit_async.scheduling.retry import RetryPolicy
from qwen_edit_async.statistics import Counters
from qwen_edit_async.threads import Offloader

MAX_RESULT_BYTES = 64 * 1024 * 1024
"""Largest result that is downloaded; 2048 x 2048 pixels of RGBA are 16 MiB uncompressed."""

PART_NAME_CHARACTERS = 40
"""As much of a picture's name has the file that becomes it."""

_PIECE_BYTES = 1024 * 1024
_LEAST_BYTES_PER_SECOND = 1024
_MAX_CONNECTIONS = 32
_MAX_HEADER_BYTES = 32 * 1024
_MAX_REDIRECTS = 10
_OK = 200
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_EXPIRED_STATUSES = frozenset({400, 401, 403, 404, 410})
_PASSING_STATUSES = frozenset({408, 425, 429, *range(500, 600)})


class Downloader:
    """Fetches result pictures for a session, over connections that never saw its key.

    Args:
        offloader: For writing files.
        retry: How often and when a failed download is repeated.
        timeouts: For connecting, and for waiting between pieces.
        counters: Where downloads are counted.
        random: For jitter.
        renew: Asks a task again, and gives its result URLs.
        hosts: Where results may lie.
        trust_env: Whether to use the environment's proxies.
    """

    def __init__(
        self,
        offloader: Offloader,
        retry: RetryPolicy,
        timeouts: Timeouts,
        counters: Counters,
        *,
        random: Random,
        renew: Callable[[str], Awaitable[tuple[str, ...]]],
        hosts: ResultHosts,
        trust_env: bool,
    ) -> None:
        self._offloader = offloader
        self._retry = retry
        self._timeouts = timeouts
        self._counters = counters
        self._random = random
        self._renew = renew
        self._hosts = hosts
        self._trust_env = trust_env
        self._trusting: aiohttp.ClientSession | None = None
        self._guarded: aiohttp.ClientSession | None = None
        self._responses = OpenResponses()

    async def open(self) -> None:
        """Make the connection pools: one connects to any address, the other to public ones only."""
        self._trusting = self._make_session(None)
        self._guarded = self._make_session(_public_socket)

    def _make_session(self, socket_factory: aiohttp.SocketFactoryType | None) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_MAX_CONNECTIONS, socket_factory=socket_factory),
            headers={"User-Agent": USER_AGENT},
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=self._timeouts.connect, sock_read=self._timeouts.reply
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            max_field_size=_MAX_HEADER_BYTES,
            max_line_size=_MAX_HEADER_BYTES,
            # Never trust_env: netrc's passwords would go to whatever host a reply names.
        )

    async def aclose(self) -> None:
        """Close the connection pools."""
        self._responses.close()
        for session in filter(None, (self._trusting, self._guarded)):
            await session.close()
        self._trusting = self._guarded = None

    async def read(self, url: str, task_id: str, index: int) -> bytes:
        """Download a picture into memory.

        Raises:
            DownloadError: If no complete picture came.
        """
        content = bytearray()

        async def receive(pieces: AsyncIterator[bytes]) -> Verdict:
            content.clear()
            async for piece in pieces:
                content.extend(piece)
            return await self._offloader.run(judge, io.BytesIO(content), len(content))

        _tell_flaw(await self._fetch(url, task_id, index, receive), task_id, index)
        return bytes(content)

    async def save(self, url: str, task_id: str, index: int, path: Path) -> Path:
        """Write a picture to ``path``, and make its folder. The name has the complete picture, or what it had before.

        Returns:
            The file's path: of the right ending, if the picture is not of the kind that the path's ending names.

        Raises:
            DownloadError: If no complete picture came.
            OSError: If it can't be written.
        """
        part = await self._offloader.run(_PartFile, path)
        # The last piece is written with the end of the file: a small picture is all in it, and each call of a thread
        # costs more than the writing.
        offset, last, saved = 0, b"", path

        async def receive(pieces: AsyncIterator[bytes]) -> Verdict:
            nonlocal offset, last, saved
            offset, last = 0, b""
            async for piece in pieces:
                if last:
                    await self._offloader.run(part.write, offset, last)
                    offset += len(last)
                last = piece
            verdict, saved = await self._offloader.run(part.finish, offset, last)
            return verdict

        with contextlib.ExitStack() as undo:
            undo.callback(self._offloader.run_soon, part.close)
            _tell_flaw(await self._fetch(url, task_id, index, receive), task_id, index)
            undo.pop_all()
        return saved

    async def _fetch(
        self, url: str, task_id: str, index: int, receive: Callable[[AsyncIterator[bytes]], Awaitable[Verdict]]
    ) -> Verdict:
        """Hand the pieces of a download to ``receive``, anew for each attempt, until it judges them a picture."""
        attempt, renewed = 0, False
        while True:
            try:
                async with contextlib.aclosing(self._pieces(url)) as pieces:
                    verdict = await receive(pieces)
                if (refusal := _refusal(verdict)) is not None:
                    raise refusal  # one way for an attempt to fail among others
            except _FetchError as error:
                failure = error
            else:
                self._counters.downloads += 1
                return verdict
            if failure.expired and not renewed:
                renewed = True
                url = await self._renewed(task_id, index, failure)
                continue
            attempt += 1
            if failure.final or failure.expired or attempt > self._retry.max_retries:
                raise _download_error(task_id, index, failure)
            log.info("downloading image %d of task %s again: %s", index, task_id, failure)
            await asyncio.sleep(self._retry.delay(attempt, self._random.random()))

    async def _renewed(self, task_id: str, index: int, failure: _FetchError) -> str:
        try:
            urls = await self._renew(task_id)
        except QwenEditError as error:
            download_error = _download_error(task_id, index, failure)
            download_error.__cause__ = error
            raise download_error from error
        if not any(urls[index : index + 1]):
            raise _download_error(task_id, index, failure)
        self._counters.renewals += 1
        return urls[index]

    async def _pieces(self, url: str) -> AsyncGenerator[bytes, None]:
        """Yield the body of one attempt in pieces of about 1 MiB; end normally only if all of it came."""
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
                    async with contextlib.aclosing(_body(response, self._timeouts.reply)) as pieces:
                        async for piece in pieces:
                            yield piece
                    return
            failure = _FetchError("its host redirects again and again", final=True)
        except asyncio.CancelledError as error:
            failure = asyncio.CancelledError(*error.args)
        except (ValueError, RuntimeError, aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            failure = _failure_of(error, target)
        # Raised out here, so that neither an exception of the HTTP library is its context nor a frame of it, which may
        # hold the password of a proxy, in its traceback.
        raise failure

    @contextlib.asynccontextmanager
    async def _asked(self, url: URL, came_from: URL | None) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """The answer of one host; redirects are not followed by the HTTP library, which would follow them anywhere."""
        # Through a proxy, what is connected to is the proxy, wherever it is; it is the one that resolves names.
        proxy = _proxy_for(url) if self._trust_env else None
        session = self._trusting if proxy is not None or self._hosts.trusts(url) else self._guarded
        if session is None:
            raise _FetchError("the session is closed", final=True)
        if (problem := self._hosts.problem(url, came_from)) is not None:
            raise _FetchError(problem, final=True)
        # Headers that trickle in never let the timeout between two pieces pass.
        async with asyncio.timeout(self._timeouts.connect + self._timeouts.reply):
            response = await session.get(url, allow_redirects=False, proxy=proxy)
        async with response:
            with self._responses.reading(response):
                yield response


def _refusal(verdict: Verdict) -> _FetchError | None:
    """Return why a download is not a picture of an acceptable size, if it isn't."""
    width, height = verdict.sides
    if width * height > MAX_PIXELS:
        return _FetchError(f"it is {width}×{height}, which no edit gives", final=True)
    return _FetchError(verdict.problem) if verdict.problem else None


def _tell_flaw(verdict: Verdict, task_id: str, index: int) -> None:
    if verdict.flaw:
        log.warning("image %d of task %s %s; it is kept as it is", index, task_id, verdict.flaw)


async def _body(response: aiohttp.ClientResponse, patience: float) -> AsyncGenerator[bytes, None]:
    """Yield the pieces of a response of an acceptable size that does not trickle in."""
    _check_response(response)
    piece, total = bytearray(), 0
    loop = asyncio.get_running_loop()
    started_at = loop.time()
    while True:
        # What is no data, such as chunk headers or trailers, never lets the timeout between two pieces pass.
        async with asyncio.timeout(patience):
            data = await response.content.readany()
        if not data:
            break
        total += len(data)
        seconds = loop.time() - started_at
        if seconds > patience and total < seconds * _LEAST_BYTES_PER_SECOND:
            raise _FetchError(f"it came too slowly, {total} bytes in {seconds:.0f} s")
        if total > MAX_RESULT_BYTES:
            raise _FetchError(f"it has more than {MAX_RESULT_BYTES} bytes", final=True)
        piece += data
        if len(piece) >= _PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece)


def _proxy_for(url: URL) -> URL | None:
    """The proxy of the environment for this URL; one that speaks https is not used, as for calls of the API."""
    proxy = URL(urllib.request.getproxies().get(url.scheme, ""))
    return proxy if proxy.scheme == "http" and not urllib.request.proxy_bypass(host_of(url)) else None


class _NotPublicError(OSError):
    """A connection to an address that is not public was about to be made."""


def _public_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket for an address that a name was resolved to; asked here, no later change of the name makes a difference.

    Raises:
        _NotPublicError: If the address is not public.
    """
    family, kind, protocol, _, (host, *_) = address
    if not is_public(str(host)):
        raise _NotPublicError(errno.EACCES, "not public")
    return socket.socket(family=family, type=kind, proto=protocol)


class _PartFile:
    """A file that is being written beside its final name; the lock keeps a given-up write and its cleaning up apart."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._path = target.with_name(f".{target.name[:PART_NAME_CHARACTERS]}.{secrets.token_hex(4)}.part")
        try:
            self._file = self._path.open("x+b")
        except FileNotFoundError:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("x+b")
        self._lock = threading.Lock()

    def write(self, offset: int, piece: bytes) -> None:
        """Write a piece."""
        with self._lock:
            self._file.seek(offset)
            self._file.write(piece)

    def finish(self, offset: int, piece: bytes) -> tuple[Verdict, Path]:
        """Write the last piece, drop what an earlier attempt left behind it, and judge the whole file.

        An acceptable picture gets its name: with the ending that suits it, unless a file of that name exists.
        """
        with self._lock:
            self._file.seek(offset)
            self._file.write(piece)
            self._file.truncate()
            verdict = judge(self._file, offset + len(piece))
            if _refusal(verdict) is not None:
                return verdict, self._path
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            target = verdict.rename(self._target)
            if target != self._target and target.exists():
                target = self._target
            return verdict, self._path.replace(target)

    def close(self) -> None:
        """Remove the file, unless it has its name."""
        with self._lock:
            try:
                self._file.close()
            finally:
                self._path.unlink(missing_ok=True)


class _FetchError(Exception):
    """Why one attempt failed, and whether another makes sense."""

    def __init__(self, reason: str, *, expired: bool = False, final: bool = False) -> None:
        super().__init__(reason)
        self.expired = expired
        self.final = final


def _failure_of(error: Exception, target: URL | None) -> _FetchError:
    """What an attempt failed with; ``target`` is what was asked."""
    match error:
        case ValueError():  # of aiohttp, and of what it parses URLs with
            return _FetchError("its URL is not valid", final=True)
        case RuntimeError():  # what aiohttp says then
            return _FetchError("the session was closed", final=True)
        case aiohttp.ClientConnectorError(os_error=_NotPublicError()) if target is not None:
            return _FetchError(not_public(target), final=True)
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError() if target is not None:
            return _FetchError(f"its host {host_of(target)[:MAX_SHOWN]!r} can't be reached ({type(error).__name__})")
        case _:
            return _FetchError(type(error).__name__)


def _check_response(response: aiohttp.ClientResponse) -> None:
    if response.status != _OK:
        raise _FetchError(
            f"its host answered {response.status}",
            expired=response.status in _EXPIRED_STATUSES,
            final=response.status not in _PASSING_STATUSES,
        )
    if (response.content_length or 0) > MAX_RESULT_BYTES:
        raise _FetchError(f"it has {response.content_length} bytes", final=True)


def _download_error(task_id: str, index: int, failure: _FetchError) -> DownloadError:
    return DownloadError(
        f"image {index} of task {task_id} could not be downloaded: {failure}; "
        f"session.attach({task_id!r}) gives it another chance",
        task_id=task_id,
    )
