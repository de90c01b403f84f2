"""A proxy that forwards requests and breaks connections in ways that an HTTP server can't."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
import struct
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import attrs
from connection_ends import ending

from qwen_edit_async.contract import STATUS_PATH

_TASK_PATH = STATUS_PATH.format(task_id="").encode()


class WireFault(enum.Enum):
    """A fault of a connection. With the first three, the request does not reach the service."""

    RESET_UNREAD = "reset before the request was passed on"
    CLOSED_WHEN_REUSED = "kept-alive connection closed as the request goes out"
    HALF_CLOSED_UNREAD = "half-closed without an answer, the request not passed on"
    RESET_BEFORE_HEADERS = "reset before the reply's headers"
    RESET_AFTER_HEADERS = "reset after the reply's headers"
    HALF_CLOSED = "half-closed without an answer"
    BYTE_A_SECOND = "one byte a second"
    ENDLESS_HEADERS = "one byte of a header every second, without end"
    GARBAGE = "garbage before the status line"


_UNREAD = {WireFault.RESET_UNREAD, WireFault.CLOSED_WHEN_REUSED, WireFault.HALF_CLOSED_UNREAD}


@attrs.define(eq=False)
class WireFaults:
    """A fault and its phase. It strikes one request, or also all later requests with the same request line."""

    fault: WireFault
    phase: str
    once: bool
    victim: bytes | None = None
    spent: bool = False

    def strikes(self, phase: str, request_line: bytes, *, reused: bool) -> bool:
        if phase != self.phase or self.spent or (self.fault is WireFault.CLOSED_WHEN_REUSED and not reused):
            return False
        self.victim = self.victim or request_line
        self.spent = self.once
        return request_line == self.victim


class RawProxy:
    """Forwards requests to one origin, unless a fault strikes."""

    def __init__(self, origin: str, faults: WireFaults) -> None:
        parts = urlsplit(origin)
        self._target = parts.hostname, parts.port
        self._faults = faults
        self._connections: set[asyncio.Task[None]] = set()
        self.url = ""

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[RawProxy]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)
        reused = False
        async with ending(writer):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                request_line = head.partition(b"\r\n")[0]
                strikes = self._faults.strikes(phase_of(request_line), request_line, reused=reused)
                reused = True
                if strikes and self._faults.fault in _UNREAD:
                    await _break(self._faults.fault, b"", reader, writer)
                    return
                reply = await self._ask(head, await reader.readexactly(_length(head)))
                if strikes:
                    await _break(self._faults.fault, reply, reader, writer)
                    return
                writer.write(reply)
                await writer.drain()

    async def _ask(self, head: bytes, body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self._target)
        async with ending(writer):
            writer.write(head[:-2] + b"Connection: close\r\n\r\n" + body)
            return (await reader.read()).replace(b"Connection: close\r\n", b"")


def phase_of(request_line: bytes) -> str:
    if request_line.startswith(b"POST"):
        return "submit"
    return "check" if _TASK_PATH in request_line else "download"


async def _break(fault: WireFault, reply: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    match fault:
        case WireFault.RESET_UNREAD | WireFault.RESET_BEFORE_HEADERS:
            _reset(writer)
        case WireFault.CLOSED_WHEN_REUSED:
            pass
        case WireFault.RESET_AFTER_HEADERS:
            writer.write(reply[: reply.index(b"\r\n\r\n") + 4])
            await asyncio.sleep(1)
            _reset(writer)
        case WireFault.HALF_CLOSED_UNREAD | WireFault.HALF_CLOSED:
            writer.write_eof()
            await reader.read()
        case WireFault.BYTE_A_SECOND:
            await _trickle(reply, writer)
        case WireFault.ENDLESS_HEADERS:
            await _trickle(reply[: reply.index(b"\r\n") + 2] + b"X-More: " + b"0" * 7000, writer)
        case WireFault.GARBAGE:
            writer.write(b"\x15\x03\x01\x00\x02\x02(\r\n" + reply)
            await writer.drain()


async def _trickle(content: bytes, writer: asyncio.StreamWriter) -> None:
    for index in range(len(content)):
        if writer.is_closing():
            return
        writer.write(content[index : index + 1])
        await asyncio.sleep(1)


def _reset(writer: asyncio.StreamWriter) -> None:
    """End the connection with a reset instead of an orderly close."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0
