"""Images on their way into a JSON body: as text, chunk by chunk, as often as needed.

Every chunk is made from scratch out of what the image is kept in. There is no reader to close, nothing to rewind, and
an attempt that was given up in the middle can't disturb the next one.
"""

from __future__ import annotations

import abc
import binascii
import functools
import json
import os
import threading
from collections.abc import Callable
from typing import IO, ClassVar, Final

import attrs

from qwen_edit_async.errors import InvalidEditError

_encode: Callable[[bytes | memoryview], bytes]
try:
    import pybase64
except ImportError:  # the extra ``fast`` is not installed: this takes some thirty times as long
    _encode = functools.partial(binascii.b2a_base64, newline=False)
else:
    _encode = pybase64.b64encode


RAW_CHUNK: Final = 384 * 1024
"""Bytes of an image that are encoded at a time: a multiple of 3, so that Base64 pads the last chunk only."""

TEXT_CHUNK: Final = RAW_CHUNK // 3 * 4


class _Buffer(threading.local):
    """Where a thread reads chunks of files into: memory that is fresh each time takes longer than the reading."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(RAW_CHUNK))


_buffer = _Buffer()


def encode_base64(data: bytes | memoryview) -> bytes:
    """The data's Base64 text."""
    return _encode(data)


class SendableImage(abc.ABC):
    """An image as the text of a JSON string, without the quotes.

    Attributes:
        in_memory: Whether a chunk is made without touching a disk, so that it needs no thread.
    """

    in_memory: ClassVar[bool] = True

    @property
    @abc.abstractmethod
    def text_size(self) -> int:
        """Length of the whole text, in bytes."""

    @property
    @abc.abstractmethod
    def chunks(self) -> int:
        """In how many chunks it is made."""

    @abc.abstractmethod
    def chunk(self, index: int) -> bytes:
        """The text's ``index``-th piece, at most 512 KiB and the beginning of a data URI.

        Raises:
            InvalidEditError: If the image's file is not what it was when the edit was prepared.
        """

    def close(self) -> None:  # noqa: B027  # most kinds hold nothing that needs closing
        """Let go of what the image is kept in; chunks can't be made any more."""


@attrs.frozen
class UrlImage(SendableImage):
    """An image that the service fetches by itself."""

    url: str

    @property
    def text_size(self) -> int:
        """Length of the quoted URL, in bytes."""
        return len(self.chunk(0))

    @property
    def chunks(self) -> int:
        """One chunk: a URL is short."""
        return 1

    def chunk(self, index: int) -> bytes:  # noqa: ARG002  # there is only one
        """Return the URL as JSON text, without its quotes."""
        return json.dumps(self.url)[1:-1].encode()


@attrs.frozen(kw_only=True)
class _DataUriImage(SendableImage, abc.ABC):
    """An image that is sent within the body, as a data URI.

    Attributes:
        media_type: As its content says.
        size: Of the image file, in bytes.
    """

    media_type: str
    size: int

    @property
    def text_size(self) -> int:
        return len(self._prefix) + (self.size + 2) // 3 * 4

    @property
    def chunks(self) -> int:
        return -(-self.size // RAW_CHUNK)

    @property
    def _prefix(self) -> bytes:
        return f"data:{self.media_type};base64,".encode()

    def chunk(self, index: int) -> bytes:
        text = self._base64(index)
        return text if index else self._prefix + text

    @abc.abstractmethod
    def _base64(self, index: int) -> bytes:
        """The Base64 text of the ``index``-th 384 KiB."""


@attrs.frozen(kw_only=True)
class _FileContentImage(_DataUriImage, abc.ABC):
    """An image whose file's content is there, to be encoded."""

    def _base64(self, index: int) -> bytes:
        start = index * RAW_CHUNK
        return encode_base64(self._read(start, min(RAW_CHUNK, self.size - start)))

    @abc.abstractmethod
    def _read(self, start: int, size: int) -> bytes | memoryview:
        """So many bytes of the image file, which stay as they are until the same thread reads again."""


@attrs.frozen(kw_only=True)
class BytesImage(_FileContentImage):
    """An image file in memory."""

    data: bytes = attrs.field(repr=False)

    def _read(self, start: int, size: int) -> memoryview:
        return memoryview(self.data)[start : start + size]


@attrs.frozen(kw_only=True)
class Base64Image(_DataUriImage):
    """An image that came as a data URI: its text is passed on.

    Attributes:
        uri: As it came.
        start: Where its Base64 begins.
    """

    uri: str = attrs.field(repr=False)
    start: int

    def _base64(self, index: int) -> bytes:
        start = self.start + index * TEXT_CHUNK
        return self.uri[start : start + TEXT_CHUNK].encode()


@attrs.frozen(kw_only=True)
class FileImage(_FileContentImage):
    """An image file that is opened anew for every chunk, and is to stay as it was.

    Attributes:
        path: Of the file.
        modified: Its ``st_mtime_ns`` when the edit was prepared.
        name: What the image is called in messages.
    """

    path: str
    modified: int
    name: str
    in_memory = False

    def _read(self, start: int, size: int) -> memoryview:
        chunk = _buffer.view[:size]
        try:
            with open(self.path, "rb", buffering=0) as file:  # noqa: PTH123  # a str is all that is here
                status = os.fstat(file.fileno())
                file.seek(start)
                count = file.readinto(chunk)
        except OSError as error:
            raise InvalidEditError(f"{self.name} can't be read any more: {error.strerror}") from None
        if (status.st_size, status.st_mtime_ns, count) != (self.size, self.modified, size):
            raise InvalidEditError(f"{self.name} was changed between the preparation of the edit and its sending")
        return chunk


@attrs.frozen(kw_only=True)
class SpooledImage(_FileContentImage):
    """An image file that was made by us or read from a stream, in a temporary file.

    Attributes:
        file: Closed by :meth:`close`.
        name: What the image is called in messages.
    """

    file: IO[bytes] = attrs.field(repr=False)
    name: str
    in_memory = False
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False, eq=False)

    def _read(self, start: int, size: int) -> bytes:
        try:
            with self._lock:  # an attempt that was given up may still read
                self.file.seek(start)
                data = self.file.read(size)
        except (OSError, ValueError) as error:
            raise InvalidEditError(f"{self.name} can't be read from its temporary file any more: {error}") from None
        return data

    def close(self) -> None:
        """Delete the temporary file."""
        with self._lock:
            self.file.close()
