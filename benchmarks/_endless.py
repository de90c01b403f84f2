"""A service whose tasks never end: it gives the same answer to every status check, with as little work as possible."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
from collections.abc import Iterator
from multiprocessing.connection import Connection

BODY = b'{"id": "d758n65e878c73cmdg20", "status": "in_progress", "model": "qwen_image_edit_plus", "progress": 0.5}'
_REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
_END_OF_HEAD = b"\r\n\r\n"


@contextlib.contextmanager
def serve_endless() -> Iterator[str]:
    """Serve in a new process, and yield the URL."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_run, args=(theirs,))
    process.start()
    theirs.close()
    try:
        yield ours.recv()
    finally:
        ours.close()
        process.join()


class _Answering(asyncio.Protocol):
    """Answers the requests of one connection. Requests have no body."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._unfinished = b""

    def data_received(self, data: bytes) -> None:
        *heads, self._unfinished = (self._unfinished + data).split(_END_OF_HEAD)
        self._transport.write(_REPLY * len(heads))


def _run(connection: Connection) -> None:
    asyncio.run(_serve(connection))


async def _serve(connection: Connection) -> None:
    server = await asyncio.get_running_loop().create_server(_Answering, "127.0.0.1", 0)
    connection.send(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    with contextlib.suppress(EOFError):
        await asyncio.to_thread(connection.recv)
