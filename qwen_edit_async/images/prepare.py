"""From the images of a request to images that can be sent: opened, checked, encoded or made to fit. Blocking.

Nothing is sent before this has succeeded: what the contract calls an error, or can't be decoded, costs no request.
"""

from __future__ import annotations

import binascii
import contextlib
import inspect
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from io import BytesIO
from types import ModuleType
from typing import IO, Any, Final

import attrs

from qwen_edit_async.contract import MAX_IMAGE_BYTES, RECOMMENDED_MAX_SIDE, RECOMMENDED_MIN_SIDE
from qwen_edit_async.errors import ConfigurationError, InvalidEditError
from qwen_edit_async.images.encode import (
    RAW_CHUNK,
    TEXT_CHUNK,
    Base64Image,
    BytesImage,
    FileImage,
    SendableImage,
    SpooledImage,
    UrlImage,
)
from qwen_edit_async.images.integrity import find_damage
from qwen_edit_async.images.kinds import (
    ArrayLike,
    BinaryReader,
    PillowImage,
    base64_start,
    check_format,
    check_size,
    image_name,
    is_data_uri,
    is_url,
    sniff,
)
from qwen_edit_async.images.turns import turn_at
from qwen_edit_async.models import EditRequest

_MAX_SOURCE_BYTES: Final = 256 * 1024 * 1024
"""Largest file that ``fit`` reads in order to shrink it."""

_SPOOL_BYTES: Final = 1024 * 1024
"""Up to this size a temporary file, and what is kept of it until it is sent, stays in memory."""

_HEAD_BYTES: Final = 16


@attrs.frozen
class PreparedEdit:
    """A request's images, ready to be sent, as often as needed, until :meth:`close`.

    Attributes:
        images: In the request's order.
        warnings: What the service takes, but not well: a sentence for each image with a side under 384 or over 3072
            pixels (contract, *Images*; needs Pillow).
        changes: What ``fit`` did, a sentence for each image that it changed.
    """

    images: tuple[SendableImage, ...]
    warnings: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()

    def close(self) -> None:
        """Delete the temporary files."""
        for image in self.images:
            image.close()


def prepare_urls(request: EditRequest) -> PreparedEdit | None:
    """A request whose images the service fetches by itself; ``None`` if one has to be read here."""
    images = tuple(UrlImage(image) for image in request.images if is_url(image))
    return PreparedEdit(images) if len(images) == len(request.images) else None


def prepare(request: EditRequest, *, fit: bool = False) -> PreparedEdit:
    """Open and check a request's images, and encode those that are no files yet. Blocks: call it on a thread.

    With ``fit`` an image that needs it is turned upright (EXIF), shrunk (longest side to 3072 pixels) and re-encoded to
    under 7.5 MB instead of being refused; one that needs nothing is passed on as it is.

    Raises:
        InvalidEditError: If an image is missing, unreadable, no image, damaged, or over 10 MB (contract, *Images*).
        ConfigurationError: If Pillow is needed and missing: for PIL images, arrays and ``fit``.
    """
    with contextlib.ExitStack() as stack:
        prepared = []
        for position, image in enumerate(request.images, 1):
            prepared.append(_prepare_image(image, image_name(image, position), fit=fit))
            stack.callback(prepared[-1].image.close)
        stack.pop_all()
    return PreparedEdit(
        images=tuple(each.image for each in prepared),
        warnings=tuple(each.warning for each in prepared if each.warning),
        changes=tuple(each.change for each in prepared if each.change),
    )


@attrs.frozen
class _PreparedImage:
    image: SendableImage
    warning: str = ""
    change: str = ""


@attrs.frozen
class _Source:
    """An image file, wherever it is.

    Attributes:
        file: At its start; to be closed, unless ``sendable`` gave an image that lives in it.
        size: In bytes.
        sendable: Makes the image that is sent, given its media type.
    """

    file: IO[bytes]
    size: int
    sendable: Callable[[str], SendableImage]


def _prepare_image(image: Any, name: str, *, fit: bool) -> _PreparedImage:
    if is_url(image):
        return _PreparedImage(UrlImage(image))
    pillow = _pillow()
    # What is asked first is told at once; whether something has a protocol's members takes longer.
    is_file = isinstance(image, str | bytes | bytearray | memoryview | os.PathLike)
    if not is_file and isinstance(image, PillowImage | ArrayLike):
        if pillow is None:
            raise ConfigurationError(f'{name} needs Pillow: pip install "qwen-edit-async[images]"')
        with turn_at(image):
            encoded = pillow.encode(image, name, fit=fit)
        return _from_encoded(encoded, name)
    if fit and pillow is None:
        raise ConfigurationError('fit=True needs Pillow: pip install "qwen-edit-async[images]"')
    with contextlib.ExitStack() as stack:
        source = _open(image, name, _MAX_SOURCE_BYTES if fit else MAX_IMAGE_BYTES)
        stack.callback(source.file.close)
        head = source.file.read(_HEAD_BYTES)
        if pillow is not None and fit:
            encoded = pillow.fit(source.file, source.size, sniff(head), name)
            if encoded is not None:
                return _from_encoded(encoded, name)
        media_type = check_format(head, name)
        damage = find_damage(source.file, source.size, media_type)
        if damage is not None:
            raise InvalidEditError(f"{name} is no whole {media_type.removeprefix('image/').upper()} file: {damage}")
        sides = None if pillow is None else pillow.check(source.file, media_type, name)
        sendable = source.sendable(media_type)
        if isinstance(sendable, SpooledImage):
            stack.pop_all()
        return _PreparedImage(sendable, _warning(sides, name))


def _pillow() -> ModuleType | None:
    try:
        from qwen_edit_async.images import pillow as module  # noqa: PLC0415  # Pillow is optional, and slow to import
    except ImportError:
        return None
    return module


def _from_encoded(encoded: Any, name: str) -> _PreparedImage:
    image = _keep(encoded.file, encoded.size, encoded.media_type, name)
    return _PreparedImage(image, _warning(encoded.sides, name), encoded.change)


def _warning(sides: tuple[int, int] | None, name: str) -> str:
    if sides is None or (min(sides) >= RECOMMENDED_MIN_SIDE and max(sides) <= RECOMMENDED_MAX_SIDE):
        return ""
    outcome = "a blurred picture" if min(sides) < RECOMMENDED_MIN_SIDE else "a slow edit"
    return (
        f"{name} is {sides[0]}×{sides[1]} pixels: expect {outcome}; "
        f"sides of {RECOMMENDED_MIN_SIDE} to {RECOMMENDED_MAX_SIDE} are best"
    )


def _open(image: Any, name: str, limit: int) -> _Source:
    if is_data_uri(image):
        return _open_data_uri(image, name, limit)
    if isinstance(image, bytes | bytearray | memoryview):
        return _open_bytes(bytes(image), name, limit)
    path = local_path(image)
    return _open_stream(image, name, limit) if path is None else _open_path(path, name, limit)


def local_path(image: Any) -> str | None:
    """The path of a file that the operating system can open; a remote path may have none, or a URL for one."""
    if isinstance(image, str):
        return image
    if not isinstance(image, os.PathLike):
        return None
    try:
        path = os.fsdecode(os.fspath(image))
    except Exception:  # noqa: BLE001  # code of other libraries: each raises its own kind where no local path is
        return None
    return None if "://" in path and hasattr(image, "open") else path


def _open_bytes(data: bytes, name: str, limit: int) -> _Source:
    check_size(len(data), name, limit)
    return _Source(
        BytesIO(data), len(data), lambda media_type: BytesImage(media_type=media_type, size=len(data), data=data)
    )


def _open_path(path: str, name: str, limit: int) -> _Source:
    try:
        check_regular(path, name)
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open(path, "rb"))  # noqa: PTH123  # a str is all that is here
            status = os.fstat(file.fileno())
            check_size(status.st_size, name, limit)
            if status.st_size <= RAW_CHUNK:
                return _open_bytes(file.read(), name, limit)
            stack.pop_all()
    except FileNotFoundError:
        raise InvalidEditError(f"{name} does not exist") from None
    except OSError as error:
        raise InvalidEditError(f"{name} can't be read: {error.strerror}") from None
    return _Source(
        file,
        status.st_size,
        lambda media_type: FileImage(
            media_type=media_type, size=status.st_size, path=path, modified=status.st_mtime_ns, name=name
        ),
    )


def check_regular(path: str, name: str) -> int:
    """The size of a local file; to be asked before it is opened, since that would wait at a pipe.

    Raises:
        InvalidEditError: If it is no path, or no regular file.
        OSError: If it can't be looked at.
    """
    try:
        status = os.stat(path)  # noqa: PTH116  # a str is all that is here
    except ValueError:  # a NUL, or what can't be encoded
        raise InvalidEditError(f"{name} is no path") from None
    mode = status.st_mode
    if not stat.S_ISREG(mode):
        kind = "a directory: give the files in it" if stat.S_ISDIR(mode) else "no regular file: pass it opened"
        raise InvalidEditError(f"{name} is {kind}")
    return status.st_size


def _open_data_uri(uri: str, name: str, limit: int) -> _Source:
    start = base64_start(uri, name)
    size = (len(uri) - start) // 4 * 3 - uri.count("=", -2)
    check_size(size, name, limit)
    file = _temporary_file()
    try:
        for offset in range(start, len(uri), TEXT_CHUNK):
            file.write(binascii.a2b_base64(uri[offset : offset + TEXT_CHUNK], strict_mode=True))
        if file.tell() != size:
            raise ValueError("padding in the middle")  # noqa: TRY301  # one kind of broken Base64 among others
    except ValueError:
        file.close()
        raise InvalidEditError(f"{name} is a data URI with broken Base64") from None
    file.seek(0)
    return _Source(file, size, lambda media_type: Base64Image(media_type=media_type, size=size, uri=uri, start=start))


def _open_stream(image: Any, name: str, limit: int) -> _Source:
    file = _temporary_file()
    try:
        with turn_at(image), contextlib.ExitStack() as stack:
            if isinstance(image, BinaryReader):
                reader = image
                stack.enter_context(_put_back(reader))
            else:
                reader = stack.enter_context(contextlib.closing(opened(image)))
            size = 0
            while size <= limit and (piece := read_piece(reader, min(RAW_CHUNK, limit + 1 - size), name)):
                size += file.write(piece)
        if not size:
            raise InvalidEditError(f"{name} is empty, or was already read to its end")  # noqa: TRY301  # closes file
        check_size(size, name, limit)
    except InvalidEditError:
        file.close()
        raise
    except Exception as error:  # noqa: BLE001  # a remote file raises what its library likes
        file.close()
        raise InvalidEditError(f"{name} can't be read: {error}") from None
    file.seek(0)
    return _Source(file, size, lambda media_type: _keep(file, size, media_type, name))


@contextlib.contextmanager
def _put_back(reader: Any) -> Iterator[None]:
    """Let the next edit of the same file begin where this one begins, unless it is a stream."""
    position = None
    with contextlib.suppress(Exception):  # a file of another library; reading shows what is wrong with it
        position = reader.tell()
    if inspect.iscoroutine(position):
        position.close()
    yield
    if isinstance(position, int):
        with contextlib.suppress(Exception):
            reader.seek(position)


def opened(image: Any) -> Any:
    """The binary file that a remote path, or the like, opens."""
    try:
        return image.open("rb")
    except TypeError:  # fsspec's OpenFile has its mode already
        return image.open()


def read_piece(reader: Any, size: int, name: str) -> bytes:
    """Up to ``size`` bytes of a binary file; none at its end.

    Raises:
        InvalidEditError: If it gives something else.
    """
    piece = reader.read(size)
    if isinstance(piece, bytes | bytearray | memoryview):
        return bytes(piece)
    if inspect.iscoroutine(piece):
        piece.close()
    if isinstance(piece, str):
        raise InvalidEditError(f'{name} is a file in text mode: open it with mode "rb"')
    raise InvalidEditError(f"{name} is no binary file: its read() gives {type(piece).__name__!r}")


def _keep(file: IO[bytes], size: int, media_type: str, name: str) -> SendableImage:
    """What to send a temporary file's content from: the file if it is on a disk, else plain bytes."""
    if size > _SPOOL_BYTES:
        return SpooledImage(media_type=media_type, size=size, file=file, name=name)
    with file:
        file.seek(0)
        return BytesImage(media_type=media_type, size=size, data=file.read())


def _temporary_file() -> IO[bytes]:
    return tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)
