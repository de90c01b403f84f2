"""Finds, checks and reads the files behind images: local paths, open files and remote paths. Blocking."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
import stat
import threading
from collections.abc import Iterator
from typing import IO, Any, Final
from weakref import WeakValueDictionary

from qwen_edit_async.contract import MAX_IMAGE_BYTES
from qwen_edit_async.images.findings import ImageError
from qwen_edit_async.images.kinds import BinaryReader, is_data_uri, is_url

_PIECE_BYTES: Final = 384 * 1024
"""Bytes of a stream to copy at a time."""


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
    except IsADirectoryError:  # its str() can raise: it may hold a zipfile.Path of an archive in memory, without a name
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


def copy_stream(image: Any, file: IO[bytes], limit: int) -> int:
    """Copy the unread part of a stream to a file, and return the number of bytes."""
    with exclusive_access(image), contextlib.ExitStack() as stack:
        if isinstance(image, BinaryReader):
            reader = image
            stack.enter_context(_put_back(reader))
        else:
            reader = stack.enter_context(contextlib.closing(open_remote(image)))
            stack.enter_context(exclusive_access(reader))
        size = 0
        while size <= limit and (piece := read_piece(reader, min(_PIECE_BYTES, limit + 1 - size))):
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
