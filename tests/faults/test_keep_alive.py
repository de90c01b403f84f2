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
from qwen_edit_async.http.body import JSONBody

pytestmark = [pytest.mark.anyio, pytest.mark.may_block("the event loop stands still while a thread closes")]

PATIENCE = 5.0
"""Seconds to wait for anything."""


class IdleCloser:
    """A service on a thread that answers one request per connection, and closes it on command."""

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
        """Close the idle connection while the event loop is blocked."""
        self.close_now.set()
        assert self.closed.wait(PATIENCE)

    def join(self) -> None:
        self._thread.join(2 * PATIENCE)
        assert not self._thread.is_alive()


@pytest.mark.parametrize("moment", ["before the edit", "before it is sent", "as it is sent"])
async def test_a_submission_on_a_closed_connection_is_sent_again(moment, monkeypatch):
    service = await asyncio.to_thread(IdleCloser)
    options = {"envelope": "flat", "max_retries": 1, "random": NoJitter()}
    async with EditSession("sk-test", base_url=service.url, **options) as session:
        first = await session.submit("https://pictures.example/cat.png", "snow")
        first.cancel()
        if moment == "before the edit":
            service.close()
        else:
            place = (AiohttpTransport, "send") if moment == "before it is sent" else (JSONBody, "write")
            original = getattr(*place)

            async def close_first(*arguments):
                if not service.closed.is_set():
                    service.close()
                return await original(*arguments)

            monkeypatch.setattr(*place, close_first)
        second = await session.submit("https://pictures.example/cat.png", "snow")
        assert (first.id, second.id) == ("t1", "t2")
        second.cancel()
    await asyncio.to_thread(service.join)
    assert len(service.requests) == 2
