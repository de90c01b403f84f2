"""The JSON body of a submission, streamed: its images become text while it is sent.

It has an exact size, so that the request carries Content-Length; it can be sent again from the start; and at any moment
it holds about one chunk of one image.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from aiohttp import Payload
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import StreamWriter

from qwen_edit_async.errors import APIConnectionError, APITimeoutError, QwenEditError
from qwen_edit_async.images.encode import Upload
from qwen_edit_async.threads import Offloader

_GATHERED_BYTES: Final = 64 * 1024
"""Smaller pieces are sent together, so that a short body leaves in one packet with the request's head."""

_NEVER_STALLS_BYTES: Final = 32 * 1024
"""The connection's own buffer takes a shorter body at once."""


class JSONBody(Payload):
    """A JSON text with gaps, and the images that fill them.

    Args:
        parts: The JSON text, cut where the images' texts belong: one part more than there are images.
        images: The images. They stay open, since they belong to whoever prepared the edit.
        offloader: Makes the chunks that need a disk.
        stall_timeout: Seconds that the connection may take to accept one chunk.

    Attributes:
        sent_whole: Whether the service may have the whole of it. True from just before the last chunk is handed to the
            connection until the next attempt begins: ``False`` is a certainty.
        on_sent: Called when the connection has taken the last piece.
        end_reply: Ends the reading of the reply with what has come of it; ``None`` as long as nothing has.
        failure: The error of the last attempt on our side: a file that was changed, or a connection that took no
            more. It never refers to an exception of the HTTP library.
    """

    _default_content_type = "application/json"
    _autoclose = True

    def __init__(
        self, parts: Sequence[bytes], images: Sequence[Upload], offloader: Offloader, *, stall_timeout: float
    ) -> None:
        if len(parts) != len(images) + 1:
            raise ValueError(f"{len(parts)} parts do not enclose {len(images)} images")
        super().__init__(None)
        self._parts = tuple(parts)
        self._images = tuple(images)
        self._offloader = offloader
        self._stall_timeout = stall_timeout
        self._text = self._short_text()
        if self._text is not None:
            self._body_size = len(self._text)
        else:
            self._body_size = sum(map(len, self._parts)) + sum(image.text_size for image in self._images)
        self._size = self._body_size
        self.sent_whole: bool = False
        self.failure: QwenEditError | None = None
        self._withdrawn = False
        self.on_sent: Callable[[], None] | None = None
        self.end_reply: Callable[[], None] | None = None

    def _short_text(self) -> bytes | None:
        """Return the whole text, if it is short and there already."""
        text, room = [self._parts[0]], _NEVER_STALLS_BYTES
        for image, part in zip(self._images, self._parts[1:], strict=True):
            if not image.in_memory or image.chunks != 1 or (room := room - image.text_size) < 0:
                return None
            text += (image.chunk(0), part)
        whole = b"".join(text)
        return whole if len(whole) < _NEVER_STALLS_BYTES else None

    def withdraw(self) -> None:
        """Keep the last piece from being sent: the HTTP library may write on for a step after a cancellation."""
        self._withdrawn = True

    def cut_reply_short(self) -> bool:
        """Wait for no more of the reply; returns whether one has begun."""
        if self.end_reply is None:
            return False
        self.end_reply()
        return True

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the whole text. All of it is read on the calling thread and held in memory."""
        pieces = (piece if isinstance(piece, bytes) else piece[0].chunk(piece[1]) for piece in self._pieces())
        return b"".join(pieces).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send the whole body, from the start.

        Raises:
            APITimeoutError: If the connection took longer than ``stall_timeout`` to accept a chunk.
            InvalidEditError: If an image's file is not what it was when the edit was prepared.
        """
        self.sent_whole = False
        self.failure = None
        if self._text is not None:
            await self._write_short(writer, self._text)
            return
        remaining = self._body_size
        pending = bytearray()
        try:
            for piece in self._pieces():
                large = piece if isinstance(piece, bytes) else await self._make(*piece)
                if len(large) < _GATHERED_BYTES:
                    pending += large
                    large = b""
                if pending and (large or len(pending) >= min(_GATHERED_BYTES, remaining)):
                    remaining -= len(pending)
                    await self._hand_over(writer, pending, last=not remaining)
                    pending = bytearray()
                if large:  # as it is: copying it would take as long as making it
                    remaining -= len(large)
                    await self._hand_over(writer, large, last=not remaining)
                    large = b""  # gone, before the next is made
        except QwenEditError as error:
            self.failure = error.for_task(None)  # without the traceback, which leads back here
            raise

    async def _write_short(self, writer: AbstractStreamWriter, text: bytes) -> None:
        """Send a short body in one piece; it takes no pass of the event loop, unless the connection may be closed."""
        try:
            if _has_news(writer):
                await _notice_close(writer)
            if self._withdrawn:
                raise APIConnectionError("the submission was given up before it was sent whole")
        except QwenEditError as error:
            self.failure = error.for_task(None)
            raise
        self.sent_whole = True
        await writer.write(text)
        if self.on_sent is not None:
            self.on_sent()

    async def _hand_over(self, writer: AbstractStreamWriter, chunk: bytes | bytearray, *, last: bool) -> None:
        if last:
            await _notice_close(writer)
        if self._withdrawn:
            raise APIConnectionError("the submission was given up before it was sent whole")
        self.sent_whole = last
        content = memoryview(chunk)  # what the socket does not take at once is not sliced by copying
        await self._write_in_time(writer, content)
        if last and self.on_sent is not None:
            self.on_sent()

    async def _write_in_time(self, writer: AbstractStreamWriter, content: memoryview) -> None:
        limit = asyncio.timeout(self._stall_timeout)
        try:
            async with limit:
                return await writer.write(content)
        except TimeoutError:
            if not limit.expired():
                raise
        raise APITimeoutError(
            f"sending stalled: the connection took no more of the request for {self._stall_timeout:g} s",
            request_sent=self.sent_whole,
        )

    def _pieces(self) -> Iterator[bytes | tuple[Upload, int]]:
        """Yield the text that is there, and the chunks of images that are still to be made."""
        yield self._parts[0]
        for image, part in zip(self._images, self._parts[1:], strict=True):
            yield from ((image, index) for index in range(image.chunks))
            yield part

    async def _make(self, image: Upload, index: int) -> bytes:
        if not image.in_memory:
            return await self._offloader.run(image.chunk, index)
        if index:  # a fast connection never makes us wait, so that this is what lets others run
            await asyncio.sleep(0)
        return image.chunk(index)


def _has_news(writer: AbstractStreamWriter) -> bool:
    """Return whether the connection has something to read, such as its end."""
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


async def _notice_close(writer: AbstractStreamWriter) -> None:
    """Let the event loop see whether the service has closed the connection, because an unsent body creates no task."""
    for _ in range(2):  # what the first pass of the loop finds is handled behind us, before the second
        await asyncio.sleep(0)
    if isinstance(writer, StreamWriter) and (writer.transport is None or writer.transport.is_closing()):
        raise APIConnectionError("the service closed the connection before the request was sent whole")
