"""Opens an image (bytes, data URI, path, open file or remote path) as a binary file. Blocking."""

from __future__ import annotations

import binascii
import contextlib
import hashlib
import inspect
import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from io import BytesIO
from typing import IO, Any, Final
from weakref import WeakValueDictionary

from qwen_edit_async.contract import MAX_IMAGE_BYTES
from qwen_edit_async.images.encode import RAW_CHUNK, Upload, bytes_upload, path_upload, spooled_upload
from qwen_edit_async.images.findings import ImageError
from qwen_edit_async.images.kinds import BinaryReader, base64_start, is_data_uri, is_url

SPOOL_BYTES: Final = 1024 * 1024
"""The size up to which a copied or converted image stays in memory. A larger image is put in a temporary file."""

_TEXT_PIECE: Final = 512 * 1024
"""Characters of Base64 text that are decoded at a time: a multiple of 4."""


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


def local_path(image: Any) -> str | None:
    """Return the path of an image in a local file; ``None`` for any other image."""
    if isinstance(image, str):
        return None if is_url(image) or is_data_uri(image) else image
    if not isinstance(image, os.PathLike):
        return None
    try:
        path = os.fsdecode(os.fspath(image))
    except Exception:  # noqa: BLE001  # a path of another library can raise anything if it is not local
        return None
    return None if "://" in path and hasattr(image, "open") else path


def check_size(size: int, limit: int = MAX_IMAGE_BYTES) -> None:
    """Refuse an image file that is empty or over the limit: by default 10 × 1024 × 1024 bytes (contract, *Images*)."""
    if size == 0:
        raise ImageError("is empty")
    if size > limit:
        advice = "shrink it, or let the session do so with fit=True" if limit == MAX_IMAGE_BYTES else "shrink it"
        raise ImageError(f"is over the limit of {limit:,} bytes: {advice}")


def check_regular(path: str) -> os.stat_result:
    """Return the status of a local file. Call this before opening a file, because opening a pipe blocks.

    Raises:
        ImageError: The path is invalid, or the file is not a regular file.
        OSError: The file's status can't be read.
    """
    try:
        status = os.stat(path)  # noqa: PTH116  # the path is a str
    except ValueError:  # the path contains NUL, or can't be encoded
        raise ImageError("is not a path") from None
    if stat.S_ISDIR(status.st_mode):
        raise ImageError("is a directory: give the files in it")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("is not a regular file: open it, and pass the open file")
    return status


def open_remote(image: Any) -> Any:
    """Open a remote path or another object with an ``open()`` method, and return its binary file."""
    try:
        return image.open("rb")
    except TypeError:  # fsspec's OpenFile already has a mode
        return image.open()


@contextlib.contextmanager
def reading(errors: type[Exception] = OSError) -> Iterator[None]:
    """Turn an error in the block into an :class:`ImageError` that says why an image can't be read."""
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError("does not exist") from None
    except IsADirectoryError:  # its text can fail: the name of an archive in memory is None
        raise ImageError("is a directory: give the files in it") from None
    except errors as error:
        raise ImageError(f"can't be read: {getattr(error, 'strerror', None) or error}") from None


def hash_file(file: Any) -> str:
    """Return a hash of a whole binary file."""
    file.seek(0)
    return hashlib.file_digest(file, new_digest).hexdigest()


def new_digest() -> hashlib.blake2b:
    """Return a new hash object of the kind that journals use."""
    return hashlib.blake2b(digest_size=20)


def read_piece(reader: Any, size: int) -> bytes:
    """Read up to ``size`` bytes of a binary file. Return empty bytes at the end of the file.

    Raises:
        ImageError: The file returns something other than bytes.
    """
    try:
        piece = reader.read(size)
    except UnicodeDecodeError:  # raised by a file in text mode
        piece = ""
    if isinstance(piece, bytes | bytearray | memoryview):
        return bytes(piece)
    if inspect.iscoroutine(piece):
        piece.close()
    if isinstance(piece, str):
        raise ImageError('is a file in text mode: open it with mode "rb"')
    raise ImageError(f"is not a binary file: its read() returns {type(piece).__name__!r}")


_INNER: Final = ("fp", "raw", "fileobj", "file")
"""The attributes in which PIL images, buffers, file wrappers and archive members keep the file that they read."""

_DEEPEST: Final = 8
"""The longest chain of ``_INNER`` attributes to follow. A mock object has every attribute, so its chain never ends."""

_locks: WeakValueDictionary[int, threading.RLock] = WeakValueDictionary()
"""The lock of each shared object, by the object's id. An entry disappears when no thread uses the lock any more.

Edits can share an open file, or a picture that Pillow has not loaded yet. Without a lock, two threads that read the
same object would each get a part of its bytes. Each object has its own lock, so a file that hangs delays only the
edits that share it.
"""

_guard = threading.Lock()


@contextlib.contextmanager
def exclusive_access(image: Any) -> Iterator[None]:
    """Lock the object, and the file behind it, while the block runs. Other threads wait."""
    with _lock_of(image):
        file = _innermost(image)  # kept until the end of the block, so that no other object gets its id
        with _lock_of(file):
            yield


def _lock_of(shared: object) -> threading.RLock:
    with _guard:
        return _locks.setdefault(id(shared), threading.RLock())


def _innermost(image: Any) -> Any:
    """Return the file behind an object. For a member of a tar archive, this is the archive's file."""
    with contextlib.suppress(Exception):  # an object of another library can raise anything
        for _ in range(_DEEPEST):
            inner = next((file for name in _INNER if hasattr(file := getattr(image, name, None), "read")), None)
            if inner is None:
                break
            image = inner
    return image


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
            size = _copy(image, file, limit)
        undo.pop_all()
    return open_temporary(file, size)


def _copy(image: Any, file: IO[bytes], limit: int) -> int:
    """Copy the unread part of a stream to a file, and return the number of bytes."""
    with exclusive_access(image), contextlib.ExitStack() as stack:
        if isinstance(image, BinaryReader):
            reader = image
            stack.enter_context(_put_back(reader))
        else:
            reader = stack.enter_context(contextlib.closing(open_remote(image)))
            stack.enter_context(exclusive_access(reader))
        size = 0
        while size <= limit and (piece := read_piece(reader, min(RAW_CHUNK, limit + 1 - size))):
            size += file.write(piece)
    if not size:
        raise ImageError(
            "is empty, or was already read to its end: if edits share the file, give each edit the file's path or bytes"
        )
    check_size(size, limit)
    return size


@contextlib.contextmanager
def _put_back(reader: Any) -> Iterator[None]:
    """Restore the file's position after the block, if the file can seek, so that another edit reads the same bytes."""
    position = None
    with contextlib.suppress(Exception):  # if the file is broken, reading it will show the error
        position = reader.tell()
    if inspect.iscoroutine(position):
        position.close()
    try:
        yield
    finally:
        if isinstance(position, int):
            with contextlib.suppress(Exception):
                reader.seek(position)
