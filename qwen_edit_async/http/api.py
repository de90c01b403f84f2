"""HTTP to the service's API: the key, the timeouts, and the errors.

Retrying is not done here: whether a failed call may be repeated depends on what it was for (see
``session.submission`` and ``session.poller``).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import platform
import time
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiohttp
import attrs
from yarl import URL

from qwen_edit_async.errors import APIConnectionError, APITimeoutError, QwenEditError
from qwen_edit_async.http.body import JSONBody
from qwen_edit_async.http.options import Timeouts, check_proxies, may_be_proxied, unused_proxy_hint
from qwen_edit_async.http.secret import Secret
from qwen_edit_async.protocol.base import HEADERS_READ, Call, Reply
from qwen_edit_async.version import __version__

_MAX_REPLY_BYTES = 1024 * 1024

_IDLE_SECONDS = 4.0
"""Seconds for which an idle connection is kept: less than the 5 s of common servers."""

_IDLE_SECONDS_OF_SUBMISSIONS = 1.5
"""The same for connections that submissions use: less than the 2 s of the least patient of common servers. If a server
closes one in that very moment, nobody knows whether a task exists. A status check is simply made again."""


class Transport(Protocol):
    """The HTTP that a session needs. Tests have an implementation in memory."""

    async def open(self) -> None:
        """Get ready, inside the event loop that will be used."""
        ...

    async def send(self, call: Call, body: JSONBody | None = None) -> Reply:
        """Make one call, once.

        Raises:
            APIConnectionError: No reply came; ``request_sent`` tells whether the service may have the whole request.
            QwenEditError: If the body itself failed while it was sent.
        """
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


USER_AGENT = f"qwen-edit-async/{__version__} (aiohttp/{aiohttp.__version__}; Python/{platform.python_version()})"


class OpenResponses:
    """The responses whose bodies are being read. Closing aiohttp's session alone would leave their readers waiting."""

    def __init__(self) -> None:
        self._responses: set[aiohttp.ClientResponse] = set()

    @contextlib.contextmanager
    def reading(self, response: aiohttp.ClientResponse) -> Iterator[None]:
        """Register a response while its body is read."""
        self._responses.add(response)
        try:
            yield
        finally:
            self._responses.discard(response)

    def close(self) -> None:
        """End every reading with an error."""
        for response in self._responses:
            response.close()


@attrs.define(eq=False)
class _Wait:
    """The limited wait of one call for its reply.

    Attributes:
        task: The task that makes the call.
        cancelling: How many cancellations of the task were requested before.
        started: Whether its time runs.
        ends_at: When its time is up, in the event loop's seconds.
        is_cut: Whether the task was cancelled because its time was up.
    """

    task: asyncio.Task[Any]
    cancelling: int
    started: bool = False
    ends_at: float = 0.0
    is_cut: bool = False

    def ended_by_us(self) -> bool:
        """Return whether a cancellation of the task means only that its time was up; takes that back."""
        return self.is_cut and self.task.uncancel() <= self.cancelling


class _Waits:
    """Cuts off calls whose reply takes too long. All have the same limit, so one timer is enough for all of them."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waits: dict[_Wait, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> _Wait:
        """Return a wait of the current task, whose time does not run yet."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("calls are made in tasks")
        return _Wait(task, task.cancelling())

    def start(self, wait: _Wait) -> None:
        """Let the time of a wait run from now on."""
        loop = asyncio.get_running_loop()
        wait.started, wait.ends_at = True, loop.time() + self._seconds
        self._waits.pop(wait, None)
        self._waits[wait] = None
        if self._timer is None:
            self._timer = loop.call_at(wait.ends_at, self._sweep, wait.ends_at)

    def cut(self, wait: _Wait) -> None:
        """End a wait now."""
        if not wait.is_cut:
            self._waits.pop(wait, None)
            wait.is_cut = True
            wait.task.cancel()

    def end(self, wait: _Wait) -> None:
        """Forget a wait."""
        self._waits.pop(wait, None)

    def close(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self, reached: float) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = max(reached, loop.time())  # a timer may fire a hair early
        for wait in list(self._waits):
            if wait.ends_at > now:
                self._timer = loop.call_at(wait.ends_at, self._sweep, wait.ends_at)
                break
            self.cut(wait)


class AiohttpTransport:
    """The transport of real sessions. It follows no redirects, since the key would travel with them."""

    def __init__(
        self,
        base_url: str,
        api_key: Secret,
        timeouts: Timeouts,
        *,
        default_headers: Mapping[str, str],
        trust_env: bool,
    ) -> None:
        self._base_url = base_url
        self._api_key = api_key
        self._timeouts = timeouts
        self._default_headers = default_headers
        self._trust_env = trust_env and may_be_proxied(base_url)
        self._checking: aiohttp.ClientSession | None = None
        self._submitting: aiohttp.ClientSession | None = None
        self._responses = OpenResponses()
        self._waits = _Waits(timeouts.reply)

    async def open(self) -> None:
        """Make the connection pools. The session's slots and the poller's checks bound their size.

        Raises:
            ConfigurationError: If the environment's proxy is to be used, and can't be.
        """
        if self._trust_env:
            check_proxies(urllib.request.getproxies())
        self._checking = self._make_session(_IDLE_SECONDS)
        self._submitting = self._make_session(_IDLE_SECONDS_OF_SUBMISSIONS)

    def _make_session(self, idle_seconds: float) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=idle_seconds),
            headers={
                "User-Agent": USER_AGENT,
                **self._default_headers,
                "Authorization": f"Bearer {self._api_key.reveal()}",
            },
            # No total: aiohttp would set a timer for each call. And an upload may take as long as it moves.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeouts.connect),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=self._trust_env,
        )

    async def send(self, call: Call, body: JSONBody | None = None) -> Reply:
        """Make one call, once; see :meth:`Transport.send`."""
        session = self._checking if body is None else self._submitting
        if session is None:
            raise APIConnectionError("the connection pool is not open")
        failure: BaseException
        try:
            return await self._exchange(session, call, body)
        except asyncio.CancelledError as error:
            failure = asyncio.CancelledError(*error.args)  # by its arguments anyio knows which scope's it is
        except (aiohttp.ClientError, OSError, ValueError) as error:
            failure = self._describe(error, body)
        # Raised out here, so that neither an exception of the HTTP library is its context nor a frame of it in its
        # traceback: both hold the key. So may a response, which no frame that is left has.
        raise failure

    async def _exchange(self, session: aiohttp.ClientSession, call: Call, body: JSONBody | None) -> Reply:
        url = URL(self._base_url + call.path, encoded=True)
        wait, content = self._waits.begin(), bytearray()
        begun: aiohttp.ClientResponse | None = None
        if body is None:
            self._waits.start(wait)
        else:
            body.on_sent = functools.partial(self._waits.start, wait)
        try:
            async with session.request(call.method, url, data=body, allow_redirects=False) as response:
                begun = response
                if body is not None:
                    body.end_reply = functools.partial(self._waits.cut, wait)
                    if not wait.started:  # a reply to less than the whole of it
                        self._waits.start(wait)
                return await self._read(response, content)
        except asyncio.CancelledError:
            if not wait.ended_by_us():
                raise
        finally:
            self._waits.end(wait)
        if begun is None:
            raise TimeoutError
        return self._reply(begun, content, complete=False)

    async def _read(self, response: aiohttp.ClientResponse, content: bytearray) -> Reply:
        """Return what comes of a reply; a torn one may hold a task id, also in ``content`` when it is cut short."""
        with self._responses.reading(response):
            complete = await _read(response, content)
        return self._reply(response, content, complete=complete)

    def _reply(self, response: aiohttp.ClientResponse, content: bytearray, *, complete: bool) -> Reply:
        redact = self._api_key.redact_bytes if complete else self._api_key.redact_torn
        return Reply(
            status=response.status,
            headers={
                name: self._api_key.redact(value)
                for name in HEADERS_READ
                if (value := response.headers.get(name)) is not None
            },
            body=redact(bytes(content)),
            complete=complete,
            url=str(response.url),
            received_at=time.time(),
        )

    async def aclose(self) -> None:
        """Close the connection pools."""
        sessions = [session for session in (self._checking, self._submitting) if session is not None]
        self._checking = self._submitting = None
        self._responses.close()
        self._waits.close()
        for session in sessions:
            await session.close()

    def _describe(self, error: Exception, body: JSONBody | None) -> QwenEditError:
        if body is not None and body.failure is not None:
            return body.failure
        sent = body is not None and body.sent_whole
        fate = (
            "; the service may have the whole request"
            if sent
            else proxy_hint(self._base_url, trust_env=self._trust_env)
        )
        if isinstance(error, TimeoutError):
            connecting = isinstance(error, aiohttp.ConnectionTimeoutError)
            doing = "connecting to" if connecting else "waiting for a reply from"
            return APITimeoutError(f"{doing} {self._base_url} took too long{fate}", request_sent=sent)
        if isinstance(error, ValueError) and not isinstance(error, aiohttp.ClientError) and self._trust_env:
            return APIConnectionError(
                f"{self._base_url} can't be asked: does a netrc entry for it compete with the key?"
            )
        return APIConnectionError(f"no reply from {self._base_url}: {reason_of(error)}{fate}", request_sent=sent)


async def _read(response: aiohttp.ClientResponse, content: bytearray) -> bool:
    """Read as much of the body as comes, up to 1 MiB; returns whether this is all of it."""
    with contextlib.suppress(aiohttp.ClientError, OSError, RuntimeError):  # the last is of a pool that is closed
        while not response.content.at_eof():
            content += await response.content.readany()
            if len(content) > _MAX_REPLY_BYTES:
                del content[_MAX_REPLY_BYTES:]
                return False
        return True
    return False


def proxy_hint(url: str, *, trust_env: bool) -> str:
    """Return a hint that the environment has an unused proxy for this URL, or an empty text."""
    if trust_env or urllib.request.proxy_bypass(urlsplit(url).hostname or ""):
        return ""
    return unused_proxy_hint(url, urllib.request.getproxies())


def reason_of(error: Exception) -> str:
    """Return why a call failed. Most errors' own texts are not used, because they can quote headers."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        flaw = getattr(error.certificate_error, "verify_message", "") or type(error.certificate_error).__name__
        return f"its certificate is not valid: {flaw.rstrip('.')}"
    strerror = getattr(error, "strerror", None)
    return strerror if isinstance(strerror, str) and strerror else type(error).__name__
