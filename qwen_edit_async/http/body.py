"""The JSON body of a request, whose images are encoded while the body is sent.

The body's exact size is known, so the request has a Content-Length header. Only about one encoded chunk is in memory
at a time. The body can be sent again from the start.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Sequence
from typing import Final, Protocol

from aiohttp import Payload
from aiohttp.http import StreamWriter

from qwen_edit_async.errors import APIConnectionError, APITimeoutError, QwenEditError
from qwen_edit_async.images.upload import Upload
from qwen_edit_async.threads import Offloader

_GATHERED_BYTES: Final = 64 * 1024
"""Smaller pieces are joined, so that a body with small images is sent in few writes."""

_NEVER_STALLS_BYTES: Final = 32 * 1024
"""A smaller body fits into the connection's buffer, so writing it never has to wait."""


class ChunkWriter(Protocol):
    """A connection, or another object that accepts chunks."""

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Accept a chunk."""
        ...


class JSONBody(Payload):
    """A JSON text with gaps for images, and the images that fill the gaps.

    A transport that does not use aiohttp needs only :meth:`write`.

    Args:
        parts: The JSON text, split at the images: image k goes between part k and part k + 1.
        images: The images. The body does not close them.
        offloader: Reads files off the event loop.
        stall_timeout: The maximum number of seconds until the connection accepts a chunk.

    Attributes:
        sent_whole: Whether the service may have received the whole body. It becomes true just before the connection
            gets the last chunk.
        on_sent: Called when the connection has accepted the last chunk.
        end_reply: Makes the transport stop reading the reply and return the part that has arrived; ``None`` until the
            reply begins.
        failure: The error raised while the body was sent, for example because an image file has changed; else ``None``.
    """

    _default_content_type = "application/json"
    _autoclose = True

    def __init__(
        self, parts: Sequence[bytes], images: Sequence[Upload], offloader: Offloader, *, stall_timeout: float
    ) -> None:
        if len(parts) != len(images) + 1:
            raise ValueError(f"{len(parts)} parts for {len(images)} images: give {len(images) + 1}")
        super().__init__(None)
        text = parts[0]
        pieces: list[bytes | Upload] = []
        for image, part in zip(images, parts[1:], strict=True):
            if image.size:
                pieces += (text, image)
                text = part
            else:  # a URL
                text += image.head + part
        self._pieces = (*pieces, text)
        self._size = self._body_size = sum(map(len, parts)) + sum([image.text_size for image in images])
        self._short = text if not pieces and len(text) < _NEVER_STALLS_BYTES else None
        self._offloader = offloader
        self._stall_timeout = stall_timeout
        self.sent_whole: bool = False
        self.failure: QwenEditError | None = None
        self._withdrawn = False
        self.on_sent: Callable[[], None] | None = None
        self.end_reply: Callable[[], None] | None = None

    def withdraw(self) -> None:
        """Make further writes fail, because aiohttp may still try to write a chunk after a cancellation."""
        self._withdrawn = True

    def cut_reply_short(self) -> bool:
        """Stop waiting for the rest of the reply. Return whether any part of the reply has arrived."""
        if self.end_reply is None:
            return False
        self.end_reply()
        return True

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the whole text. Images are read on the calling thread."""
        texts = (
            each if isinstance(each, bytes) else b"".join(map(each.chunk, range(each.chunks))) for each in self._pieces
        )
        return b"".join(texts).decode(encoding, errors)

    async def write(self, writer: ChunkWriter) -> None:
        """Send the whole body, from the start.

        Raises:
            APIConnectionError: If the service closed the connection, or the submission was withdrawn.
            APITimeoutError: If the connection took longer than ``stall_timeout`` to accept a chunk.
            InvalidEditError: If an image's file has changed since the edit was prepared, or can't be read any more.
        """
        self.sent_whole = False
        self.failure = None
        try:
            if self._short is None:
                async with contextlib.aclosing(self._chunks()) as chunks:
                    await self._write_chunks(writer, chunks)
            else:
                await self._write_short(writer, self._short)
        except QwenEditError as error:
            # `for_task` returns a copy without the traceback, which refers to this body and would make a cycle.
            self.failure = error.for_task(None)
            raise
        if self.on_sent is not None:
            self.on_sent()

    async def _write_short(self, writer: ChunkWriter, text: bytes) -> None:
        """Send a short body in one chunk. Yield to the event loop only if the connection may have been closed."""
        if _has_news(writer):
            await _notice_close(writer)
        self._check_wanted()
        self.sent_whole = True
        await writer.write(text)

    async def _write_chunks(self, writer: ChunkWriter, chunks: AsyncIterable[bytes]) -> None:
        remaining = self._body_size
        pending = bytearray()
        async for large in chunks:
            if len(large) < _GATHERED_BYTES:
                pending += large
                large = b""  # noqa: PLW2901  # the piece is in `pending`
            if pending and (large or len(pending) >= min(_GATHERED_BYTES, remaining)):
                remaining -= len(pending)
                await self._hand_over(writer, pending, last=not remaining)
                pending = bytearray()
            if large:  # not copied, because a copy would take as long as the encoding
                remaining -= len(large)
                await self._hand_over(writer, large, last=not remaining)
                large = b""  # noqa: PLW2901  # free the memory before the next chunk is made

    async def _hand_over(self, writer: ChunkWriter, chunk: bytes | bytearray, *, last: bool) -> None:
        if last:
            await _notice_close(writer)
        self._check_wanted()
        self.sent_whole = last
        content = memoryview(chunk)  # keeps the connection from copying bytes that it can't send yet
        await self._write_in_time(writer, content)

    def _check_wanted(self) -> None:
        if self._withdrawn:
            raise APIConnectionError("the submission was given up before the whole request was sent")

    async def _write_in_time(self, writer: ChunkWriter, content: memoryview) -> None:
        limit = asyncio.timeout(self._stall_timeout)
        try:
            async with limit:
                return await writer.write(content)
        except TimeoutError:
            if not limit.expired():
                raise
        raise APITimeoutError(
            f"sending the request stalled: the connection did not accept a chunk within {self._stall_timeout:g} s",
            request_sent=self.sent_whole,
        )

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield each piece of text, and each chunk of each image. A local file stays open until its last chunk."""
        for piece in self._pieces:
            if isinstance(piece, bytes):
                yield piece
                continue
            image = piece if piece.reopen is None else await self._offloader.run(piece.opened)
            try:
                for index in range(image.chunks):
                    yield await self._make(image, index)
            finally:
                if image is not piece:
                    self._offloader.run_soon(image.close)

    async def _make(self, image: Upload, index: int) -> bytes:
        if image.file is not None:
            return await self._offloader.run(image.chunk, index)
        if index:  # a fast connection never suspends this coroutine, so let other tasks run here
            await asyncio.sleep(0)
        return image.chunk(index)


def _has_news(writer: ChunkWriter) -> bool:
    """Return whether the connection may have data to read, or may have been closed."""
    if not isinstance(writer, StreamWriter):
        return False
    transport = writer.transport
    connection = transport.get_extra_info("socket") if transport is not None else None
    if transport is None or transport.is_closing() or connection is None:
        return True
    if not hasattr(select, "poll"):
        return bool(select.select([connection], [], [], 0)[0])
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


async def _notice_close(writer: ChunkWriter) -> None:
    """Raise an error if the service has closed the connection.

    The check comes just before the last chunk is sent, when no task can exist.
    """
    for _ in range(2):  # the loop notices the close during the first sleep, and tells the transport during the second
        await asyncio.sleep(0)
    if isinstance(writer, StreamWriter) and (writer.transport is None or writer.transport.is_closing()):
        raise APIConnectionError("the service closed the connection before the whole request was sent")
