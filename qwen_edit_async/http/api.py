"""Makes HTTP calls to the service's API, with the key, the timeouts, and errors without secrets.

It never retries, because that depends on the kind of call: see ``session.submission`` and ``session.poller``.
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
"""Seconds that an idle connection stays open, less than the 5 s of common servers."""

_IDLE_SECONDS_OF_SUBMISSIONS = 1.5
"""Seconds that an idle connection for submissions stays open, less than the 2 s of impatient common servers. If the
server closes a connection while a submission is sent, a task may exist. A status check is simply repeated."""


class Transport(Protocol):
    """The HTTP client of a session. Tests can pass an implementation without sockets."""

    async def open(self) -> None:
        """Prepare to send, on the session's event loop."""
        ...

    async def send(self, call: Call, body: JSONBody | None = None) -> Reply:
        """Make one call, without retries.

        Raises:
            APIConnectionError: If no reply came. Its ``request_sent`` says whether the service may have the whole
                request.
            QwenEditError: If the body failed while it was sent.
        """
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


USER_AGENT = f"qwen-edit-async/{__version__} (aiohttp/{aiohttp.__version__}; Python/{platform.python_version()})"


class OpenResponses:
    """The responses whose bodies are being read. Closing aiohttp's session alone would not end these reads."""

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
        """End all reads with an error."""
        for response in self._responses:
            response.close()


@attrs.define(eq=False)
class _Wait:
    """The limited wait of one call for its reply.

    Attributes:
        task: The task that makes the call.
        cancelling: The number of the task's cancellations that were requested before the wait.
        started: Whether the time limit has started.
        ends_at: The end of the time limit, in the event loop's seconds.
        is_cut: Whether the wait was ended early, by cancelling the task.
    """

    task: asyncio.Task[Any]
    cancelling: int
    started: bool = False
    ends_at: float = 0.0
    is_cut: bool = False

    def ended_by_us(self) -> bool:
        """Return whether only :meth:`_Waits.cut` cancelled the task, and undo that cancellation."""
        return self.is_cut and self.task.uncancel() <= self.cancelling


class _Waits:
    """Cuts off calls whose reply takes too long. All calls have the same limit, so they share one timer."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waits: dict[_Wait, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> _Wait:
        """Return a wait of the current task. Its time limit has not started."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("no asyncio task is running: make calls inside one")
        return _Wait(task, task.cancelling())

    def start(self, wait: _Wait) -> None:
        """Start the time limit of a wait."""
        loop = asyncio.get_running_loop()
        wait.started, wait.ends_at = True, loop.time() + self._seconds
        self._waits.pop(wait, None)
        self._waits[wait] = None
        if self._timer is None:
            self._timer = loop.call_at(wait.ends_at, self._sweep, wait.ends_at)

    def cut(self, wait: _Wait) -> None:
        """End a wait early, by cancelling its task."""
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
        now = max(reached, loop.time())  # a timer may fire slightly early
        for wait in list(self._waits):
            if wait.ends_at > now:
                self._timer = loop.call_at(wait.ends_at, self._sweep, wait.ends_at)
                break
            self.cut(wait)


class AiohttpTransport:
    """The transport over aiohttp. It does not follow redirects, because they would receive the key."""

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
        """Create the connection pools. The session's slots and the poller's limit bound their size.

        Raises:
            ConfigurationError: If the environment names a proxy that can't be used.
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
            # No total, because aiohttp would set a timer for each call, and a steady upload may take any time.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeouts.connect),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=self._trust_env,
        )

    async def send(self, call: Call, body: JSONBody | None = None) -> Reply:
        """Make one call, without retries; see :meth:`Transport.send`."""
        session = self._checking if body is None else self._submitting
        if session is None:
            raise APIConnectionError("the connection pool is not open")
        failure: BaseException
        try:
            return await self._exchange(session, call, body)
        except asyncio.CancelledError as error:
            failure = asyncio.CancelledError(*error.args)  # anyio recognises its scope by the arguments
        except (aiohttp.ClientError, OSError, ValueError) as error:
            failure = self._describe(error, body)
        # Raised here, so that its context and traceback refer to no exception, frame or response of the HTTP library.
        # Those contain the key.
        raise failure

    async def _exchange(self, session: aiohttp.ClientSession, call: Call, body: JSONBody | None) -> Reply:
        url = URL(self._base_url + call.path, encoded=True)
        wait, content = self._waits.begin(), bytearray()
        begun: aiohttp.ClientResponse | None = None
        if body is None:
            self._waits.start(wait)
        elif not call.holds_result:
            body.on_sent = functools.partial(self._waits.start, wait)
        try:
            async with session.request(
                call.method, url, data=body, headers=call.headers, allow_redirects=False
            ) as response:
                begun = response
                if body is not None:
                    body.end_reply = functools.partial(self._waits.cut, wait)
                    if not wait.started:  # the service replied before it had the whole request
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
        """Read the reply, and collect its body in ``content``. Even an incomplete reply may contain a task id."""
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
            "; the service may have received the whole request"
            if sent
            else proxy_hint(self._base_url, trust_env=self._trust_env)
        )
        if isinstance(error, TimeoutError):
            connecting = isinstance(error, aiohttp.ConnectionTimeoutError)
            doing = "connecting to" if connecting else "waiting for a reply from"
            return APITimeoutError(f"{doing} {self._base_url} took too long{fate}", request_sent=sent)
        if isinstance(error, ValueError) and not isinstance(error, aiohttp.ClientError) and self._trust_env:
            return APIConnectionError(
                f"no call to {self._base_url} is possible: does the netrc file have an entry for this host?"
            )
        return APIConnectionError(f"no reply from {self._base_url}: {reason_of(error)}{fate}", request_sent=sent)


async def _read(response: aiohttp.ClientResponse, content: bytearray) -> bool:
    """Read as much of the body as arrives, up to 1 MiB. Return whether it is complete."""
    with contextlib.suppress(aiohttp.ClientError, OSError, RuntimeError):  # a closed pool raises RuntimeError
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
