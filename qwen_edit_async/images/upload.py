"""Opens images (bytes, data URIs, paths, open files and remote paths) as uploads. Blocking.

An upload encodes its image as Base64 text for a JSON body, chunk by chunk. Each attempt to submit opens large local
files again, and encodes every chunk again. So an abandoned attempt can't disturb the next one.
"""

from __future__ import annotations

import binascii
import contextlib
import functools
import io
import json
import os
import tempfile
import threading
from collections.abc import Callable
from io import BytesIO
from typing import IO, Any, Final, TypeAlias, TypeVar

import attrs

from qwen_edit_async.errors import EditWarning
from qwen_edit_async.images.findings import ImageError
from qwen_edit_async.images.kinds import base64_start, is_data_uri
from qwen_edit_async.images.source import check_regular, check_size, copy_stream, local_path, reading

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

SPOOL_BYTES: Final = 1024 * 1024
"""The size up to which a copied or converted image stays in memory. A larger image is put in a temporary file."""

_TEXT_PIECE: Final = 512 * 1024
"""Characters of Base64 text that are decoded at a time: a multiple of 4."""


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


def open_image(image: Any, limit: int) -> tuple[IO[bytes], Upload]:
    """Open an image. Return its file, positioned at the start, and its upload, whose ``head`` is still empty.

    If the file is ``upload.file``, :meth:`Upload.close` closes it. Otherwise, the caller must close it.

    Raises:
        ImageError: The image can't be read, is empty, or has more than ``limit`` bytes.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return _open_bytes(bytes(image), limit)
    if is_data_uri(image):
        return _open_data_uri(image, limit)
    path = local_path(image)
    return _open_stream(image, limit) if path is None else _open_path(path, limit)


def open_temporary(file: IO[bytes], size: int) -> tuple[IO[bytes], Upload]:
    """Return a temporary file, positioned at the start, and its upload, as :func:`open_image` does.

    A small file is closed, and its copy in memory is returned instead.
    """
    file.seek(0)
    if size > SPOOL_BYTES:
        return file, spooled_upload(file, size)
    with file:
        return _open_bytes(file.read(), size)


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
    """Read part of a file, and check the file's size and time.

    A ``BufferedReader`` has its own lock, so another thread may close the file during a read.
    """
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


def _open_bytes(data: bytes, limit: int) -> tuple[IO[bytes], Upload]:
    check_size(len(data), limit)
    return BytesIO(data), bytes_upload(data)


def _open_path(path: str, limit: int) -> tuple[IO[bytes], Upload]:
    with reading(), contextlib.ExitStack() as undo:
        check_regular(path)
        file = undo.enter_context(open(path, "rb"))  # noqa: PTH123  # the path is a str
        status = os.fstat(file.fileno())
        check_size(status.st_size, limit)
        if status.st_size <= RAW_CHUNK:
            return _open_bytes(file.read(), limit)
        undo.pop_all()
    return file, path_upload(path, status)


def _open_data_uri(uri: str, limit: int) -> tuple[IO[bytes], Upload]:
    start = base64_start(uri)
    size = (len(uri) - start) // 4 * 3 - uri.count("=", -2)
    check_size(size, limit)
    try:
        pieces = [
            binascii.a2b_base64(uri[offset : offset + _TEXT_PIECE], strict_mode=True)
            for offset in range(start, len(uri), _TEXT_PIECE)
        ]
    except ValueError:
        raise ImageError("is a data URI with broken Base64") from None
    data = b"".join(pieces)
    if len(data) != size:  # padding in the middle
        raise ImageError("is a data URI with broken Base64")
    return _open_bytes(data, limit)


def _open_stream(image: Any, limit: int) -> tuple[IO[bytes], Upload]:
    with contextlib.ExitStack() as undo:
        file = undo.enter_context(tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES))
        with reading(Exception):  # each library of remote files raises its own kind of error
            size = copy_stream(image, file, limit)
        undo.pop_all()
    return open_temporary(file, size)
