"""Uploads: images as Base64 text in a JSON body, encoded chunk by chunk.

Each attempt to submit opens local files again, and reads and encodes every chunk again. So an abandoned attempt can't
disturb the next one.
"""

from __future__ import annotations

import binascii
import functools
import io
import json
import os
import threading
from collections.abc import Callable
from typing import IO, Any, Final, TypeAlias, TypeVar

import attrs

from qwen_edit_async.errors import EditWarning
from qwen_edit_async.images.findings import ImageError

T = TypeVar("T")

Read: TypeAlias = Callable[[int, int], bytes | memoryview]
"""A function that is called with a start and a size, and returns that part of an image file."""

encode_base64: Callable[[bytes | memoryview], bytes]
try:
    import pybase64
except ImportError:  # without the extra ``fast``, encoding takes about thirty times as long
    encode_base64 = functools.partial(binascii.b2a_base64, newline=False)
else:
    encode_base64 = pybase64.b64encode

RAW_CHUNK: Final = 384 * 1024
"""Bytes of an image per chunk: a multiple of 3, so that only the last chunk is padded."""


@attrs.define(kw_only=True)  # not frozen, because a frozen object takes twice as long to create
class Upload:
    """An image as the text of a JSON string, without the quotes.

    Attributes:
        head: The text before the Base64 data. For a URL, this is the whole text.
        size: The size of the image file in bytes; 0 for a URL.
        read: Reads a part of the image file.
        file: The open file that ``read`` reads; :meth:`close` closes it. ``None`` for a URL, for an image in
            memory, and for a local file that :meth:`opened` has not opened.
        reopen: Opens the local file, and returns the file and its ``read``. ``None`` for other uploads.
        digest: The hash of a local image file before any conversion; empty if it was not requested.
        name: The name of the image in messages.
        position: The position of the image in its request, counted from 1.
        warnings: Warnings that say why the service may edit the image badly.
        notes: Sentences about changes that ``fit`` made, and about parts of the image that the service ignores.
    """

    head: bytes = b""
    size: int = 0
    read: Read = attrs.field(default=lambda _start, _size: b"", repr=False)
    file: IO[bytes] | None = attrs.field(default=None, repr=False)
    reopen: Callable[[], tuple[IO[bytes], Read]] | None = attrs.field(default=None, repr=False)
    digest: str = ""
    name: str = ""
    position: int = 0
    warnings: tuple[EditWarning, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def text_size(self) -> int:
        """The length of the whole text in bytes."""
        return len(self.head) + (self.size + 2) // 3 * 4

    @property
    def chunks(self) -> int:
        """The number of chunks."""
        return max(1, -(-self.size // RAW_CHUNK))

    def chunk(self, index: int) -> bytes:
        """Return a chunk of the text: at most 512 KiB of Base64. The first chunk begins with the head.

        Raises:
            InvalidEditError: The image file has changed since the edit was prepared, or can't be read any more.
        """
        start = index * RAW_CHUNK
        text = encode_base64(self._named(self.read, start, min(RAW_CHUNK, self.size - start)))
        return text if index else self.head + text

    def opened(self) -> Upload:
        """Open a local file, and return an upload that owns the open file. For other images, return the upload itself.

        Raises:
            InvalidEditError: The file can't be read any more.
        """
        if self.reopen is None:
            return self
        file, read = self._named(self.reopen)
        return attrs.evolve(self, file=file, read=read)

    def close(self) -> None:
        """Close the file that the upload owns, if there is one. Afterwards, :meth:`chunk` can't read it."""
        if self.file is not None:
            self.file.close()

    def _named(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function. If it raises an :class:`ImageError`, raise an error that names the image."""
        try:
            return function(*arguments)
        except ImageError as error:
            raise error.named(self.name, self.position) from None


def url_upload(url: str) -> Upload:
    """Return the upload of a URL, which the service fetches itself."""
    return Upload(head=json.dumps(url)[1:-1].encode())


def bytes_upload(data: bytes) -> Upload:
    """Return the upload of an image file in memory."""
    return Upload(size=len(data), read=lambda start, size: memoryview(data)[start : start + size])


def path_upload(path: str, status: os.stat_result) -> Upload:
    """Return the upload of a local file. Reading fails if the file has changed.

    Each read opens the file, unless the upload comes from :meth:`Upload.opened`.
    """

    def reopen() -> tuple[IO[bytes], Read]:
        try:
            file = io.BufferedReader(io.FileIO(path))  # the buffer of open() can be large on a network drive
        except OSError as error:
            raise ImageError(f"can't be read any more: {error.strerror}") from None
        return file, functools.partial(_read_unchanged, file, status)

    def read(start: int, size: int) -> bytes | memoryview:
        file, read_file = reopen()
        with file:
            return read_file(start, size)

    return Upload(size=status.st_size, read=read, reopen=reopen)


def _read_unchanged(file: io.BufferedReader[Any], status: os.stat_result, start: int, size: int) -> bytes:
    """Read part of a file, and check the file's size and time. The reader's own lock lets any thread close it."""
    try:
        file.seek(start)
        chunk = file.read(size)
        now = os.fstat(file.fileno())
    except OSError as error:
        raise ImageError(f"can't be read any more: {error.strerror}") from None
    if (now.st_size, now.st_mtime_ns, len(chunk)) != (status.st_size, status.st_mtime_ns, size):
        raise ImageError("has changed since the edit was prepared: submit the edit again")
    return chunk


def spooled_upload(spooled: IO[bytes], size: int) -> Upload:
    """Return the upload of a temporary file, which the upload owns from now on."""
    lock = threading.Lock()

    def read(start: int, size: int) -> bytes:
        try:
            with lock:  # an abandoned attempt may still be reading
                spooled.seek(start)
                return spooled.read(size)
        except (OSError, ValueError) as error:
            raise ImageError(f"can't be read from its temporary file any more: {error}") from None

    return Upload(size=size, read=read, file=spooled)
