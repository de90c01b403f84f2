"""Makes HTTP calls to the service's API, with the key and within time limits. Errors do not contain the key.

No call is retried here, because retries depend on the kind of call: see ``session.submitter`` and ``session.poller``.
"""

from __future__ import annotations

import asyncio
import platform
import time
import urllib.request
from collections.abc import Mapping
from typing import Protocol

import aiohttp
from yarl import URL

from qwen_edit_async.errors import APIConnectionError, APITimeoutError, QwenEditError
from qwen_edit_async.http.body import JSONBody
from qwen_edit_async.http.network import Network
from qwen_edit_async.http.options import Timeouts, check_proxies
from qwen_edit_async.http.reply_timeouts import ReplyTimeouts
from qwen_edit_async.http.secret import Secret
from qwen_edit_async.protocol.base import HEADERS_READ, Call, Reply
from qwen_edit_async.version import __version__

_MAX_REPLY_BYTES = 1024 * 1024

_IDLE_SECONDS = 4.0
"""Seconds after which an idle connection for calls without a body is closed. Many servers close theirs after 5 s."""

_IDLE_SECONDS_OF_SUBMISSIONS = 1.5
"""Seconds after which an idle connection for submissions is closed. Some servers close theirs after 2 s. The
time is short because a task may exist if the server closes the connection during a submission."""


class Transport(Protocol):
    """The HTTP client of a session. Tests can pass another implementation, which needs no sockets.

    This example's ``write`` receives the chunks of a submission's body::

        class Completes:
            async def open(self) -> None: ...

            async def aclose(self) -> None: ...

            async def write(self, chunk: bytes | bytearray | memoryview) -> None: ...

            async def send(self, call: Call, body: JSONBody | None = None) -> Reply:
                if body is None:  # a status check
                    url = "https://results.example/1.png"
                    output = [{"content": [{"type": "image", "url": url}]}]
                    return Reply(status=200, body=json.dumps({"status": "completed", "output": output}).encode())
                await body.write(self)  # a submission: calls `write` with each chunk
                return Reply(status=200, body=b'{"id": "task-1", "status": "in_progress"}')
    """

    async def open(self) -> None:
        """Prepare for calls. The session calls this method on its event loop."""
        ...

    async def send(self, call: Call, body: JSONBody | None = None) -> Reply:
        """Make one call, without retries.

        Raises:
            APIConnectionError: If no reply arrived. The error's ``request_sent`` says whether the service may have
                received the whole request.
            QwenEditError: If the body could not be sent.
        """
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


USER_AGENT = f"qwen-edit-async/{__version__} (aiohttp/{aiohttp.__version__}; Python/{platform.python_version()})"


class AiohttpTransport:
    """The transport over aiohttp. It does not follow redirects, so no other host receives a call."""

    def __init__(
        self,
        base_url: str,
        api_key: Secret,
        timeouts: Timeouts,
        *,
        default_headers: Mapping[str, str],
        network: Network,
    ) -> None:
        self._base_url = base_url
        self._api_key = api_key
        self._timeouts = timeouts
        self._default_headers = default_headers
        self._network = network.for_calls_to(base_url)
        self._checking: aiohttp.ClientSession | None = None
        self._submitting: aiohttp.ClientSession | None = None
        self._reply_timeouts = ReplyTimeouts(timeouts.reply)

    async def open(self) -> None:
        """Create the connection pools, without limits, because the session limits its submissions and checks.

        Raises:
            ConfigurationError: If the environment names a proxy, or a file with certificates, that can't be used.
        """
        if self._network.trust_env:
            check_proxies(urllib.request.getproxies())
        self._checking = self._make_session(_IDLE_SECONDS)
        self._submitting = self._make_session(_IDLE_SECONDS_OF_SUBMISSIONS)

    def _make_session(self, idle_seconds: float) -> aiohttp.ClientSession:
        has_agent = any(name.lower() == "user-agent" for name in self._default_headers)
        return aiohttp.ClientSession(
            connector=self._network.connector(keepalive_timeout=idle_seconds),
            headers={
                **({} if has_agent else {"User-Agent": USER_AGENT}),
                **self._default_headers,
                "Authorization": f"Bearer {self._api_key.reveal()}",
            },
            # No total limit, because a steady upload may take any time, and aiohttp would set a timer for each call.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeouts.connect),
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=self._network.proxy,
            trust_env=self._network.trust_env,
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
            failure = asyncio.CancelledError(*error.args)  # anyio recognises its cancel scope by the arguments
        except (aiohttp.ClientError, OSError, ValueError) as error:
            failure = self._describe(error, body)
        # Raised outside the handlers, because its context and traceback would otherwise hold objects of aiohttp, which
        # contain the key.
        raise failure

    async def _exchange(self, session: aiohttp.ClientSession, call: Call, body: JSONBody | None) -> Reply:
        url, content, complete = self._base_url + call.path, bytearray(), False
        timeout = self._reply_timeouts.begin()
        if body is None:
            timeout.start()
        elif not call.holds_result:
            body.on_sent = timeout.start
        try:
            async with session.request(
                call.method, URL(url, encoded=True), data=body, headers=call.headers, allow_redirects=False
            ) as response:
                timeout.replied(response)
                if body is not None:
                    body.end_reply = timeout.cut
                complete = await _read(response, content)
        except asyncio.CancelledError:
            if not timeout.was_cut():
                raise
        finally:
            timeout.end()
        if timeout.response is None:
            raise TimeoutError
        return self._reply(timeout.response, url, content, complete=complete)

    def _reply(self, response: aiohttp.ClientResponse, url: str, content: bytearray, *, complete: bool) -> Reply:
        """Return the reply without the key. An incomplete reply is returned too, because it may contain a task id."""
        redact = self._api_key.redact_bytes if complete else self._api_key.redact_torn
        headers = response.headers
        return Reply(
            status=response.status,
            headers={name: self._api_key.redact(headers[name]) for name in HEADERS_READ if name in headers},
            body=redact(bytes(content)),
            complete=complete,
            url=url,
            received_at=time.time(),
        )

    async def aclose(self) -> None:
        """Close the connection pools."""
        sessions = [session for session in (self._checking, self._submitting) if session is not None]
        self._checking = self._submitting = None
        self._reply_timeouts.close()
        for session in sessions:
            await session.close()

    def _describe(self, error: Exception, body: JSONBody | None) -> QwenEditError:
        if body is not None and body.failure is not None:
            return body.failure
        sent = body is not None and body.sent_whole
        url = URL(self._base_url)
        peer = self._network.peer(url, self._base_url, error)
        fate = "; the service may have received the whole request" if sent else self._network.unused_proxy(url)
        if isinstance(error, TimeoutError):
            connecting = isinstance(error, aiohttp.ConnectionTimeoutError)
            doing = "connecting to" if connecting else "waiting for a reply from"
            return APITimeoutError(f"{doing} {peer} took too long{fate}", request_sent=sent)
        if isinstance(error, ValueError) and not isinstance(error, aiohttp.ClientError) and self._network.trust_env:
            return APIConnectionError(
                f"can't call {self._base_url}: if the netrc file has an entry for this host, remove it"
            )
        return APIConnectionError(f"no reply from {peer}: {reason_of(error)}{fate}", request_sent=sent)


async def _read(response: aiohttp.ClientResponse, content: bytearray) -> bool:
    """Read as much of the body as arrives, up to 1 MiB. Return whether the body is complete."""
    stream = response.content
    try:
        while not stream.at_eof():
            content += await stream.readany()
            if len(content) > _MAX_REPLY_BYTES:
                del content[_MAX_REPLY_BYTES:]
                return False
    except (aiohttp.ClientError, OSError, RuntimeError):  # a closed pool raises RuntimeError
        return False
    return True


def reason_of(error: Exception) -> str:
    """Return the reason for a failed call. Most errors' texts are left out, because they can quote headers."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        flaw = getattr(error.certificate_error, "verify_message", "") or type(error.certificate_error).__name__
        return f"its certificate is not valid: {flaw.rstrip('.')}"
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy answered {error.status}"
    strerror = getattr(error, "strerror", None)
    return strerror if isinstance(strerror, str) and strerror else type(error).__name__
