"""A race: the service closes an idle connection just as a submission is sent on it.

The service runs on a thread, so that it can close the connection while the event loop is busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

import pytest
from jitter import NoJitter

from qwen_edit_async import EditSession
from qwen_edit_async.http.api import AiohttpTransport
from qwen_edit_async.http.network import Network
from qwen_edit_async.http.options import Timeouts
from qwen_edit_async.http.secret import Secret

pytestmark = [pytest.mark.anyio, pytest.mark.may_block("the event loop stands still while a thread closes")]

PATIENCE = 5.0
"""The most seconds to wait for an event."""


class IdleCloser:
    """A service on a thread. It answers one request per connection, and closes the connection on command."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.close_now, self.closed = threading.Event(), threading.Event()
        self.requests: list[bytes] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with self._listener, contextlib.suppress(TimeoutError):  # the test finds missing requests
            for body in (b'{"id": "t1", "status": "in_progress"}', b'{"id": "t2", "status": "in_progress"}'):
                connection, _ = self._listener.accept()
                with connection:
                    connection.settimeout(PATIENCE)
                    request = bytearray()
                    while b"}]}]}}" not in request and (piece := connection.recv(65536)):
                        request += piece
                    self.requests.append(bytes(request))
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                    self.close_now.wait(PATIENCE)
                self.closed.set()

    def close(self) -> None:
        """Close the idle connection, if it is still open, while the event loop is blocked."""
        self.close_now.set()
        assert self.closed.wait(PATIENCE)

    def join(self) -> None:
        self._thread.join(2 * PATIENCE)
        assert not self._thread.is_alive()


class ClosingTransport(AiohttpTransport):
    """A transport whose second submission meets a connection that closes at a given moment."""

    def __init__(self, service: IdleCloser, moment: str) -> None:
        super().__init__(service.url, Secret("sk-test"), Timeouts(), default_headers={}, network=Network())
        self._service, self._moment = service, moment

    async def send(self, call, body=None):
        if body is not None and self._service.requests:
            if self._moment == "before it is sent":
                self._service.close()
            elif self._moment == "as it is sent":
                body.write = self._closing_before(body.write)
        return await super().send(call, body)

    def _closing_before(self, write):
        async def close_and_write(writer):
            self._service.close()
            await write(writer)

        return close_and_write


@pytest.mark.parametrize("moment", ["before the edit", "before it is sent", "as it is sent"])
async def test_a_submission_on_a_closed_connection_is_sent_again(moment):
    service = await asyncio.to_thread(IdleCloser)
    options = {"envelope": "flat", "max_retries": 1, "random": NoJitter()}
    transport = ClosingTransport(service, moment)
    async with EditSession("sk-test", base_url=service.url, transport=transport, **options) as session:
        first = await session.submit("https://pictures.example/cat.png", "snow")
        first.cancel()
        if moment == "before the edit":
            service.close()
        second = await session.submit("https://pictures.example/cat.png", "snow")
        assert (first.id, second.id) == ("t1", "t2")
        second.cancel()
    await asyncio.to_thread(service.join)
    assert len(service.requests) == 2
