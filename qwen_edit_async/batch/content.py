"""Hashes the images of a request for the journal, and checks saved files. Blocking."""

from __future__ import annotations

import contextlib
import hashlib
import operator
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from qwen_edit_async.batch.decide import Content, Entry
from qwen_edit_async.batch.identity import content_hash, identity_of, stamp_of
from qwen_edit_async.batch.signatures import unsigned
from qwen_edit_async.errors import InvalidEditError
from qwen_edit_async.images.kinds import ArrayLike, BinaryReader, PillowImage, image_name, is_data_uri, is_url
from qwen_edit_async.images.source import (
    check_regular,
    exclusive_access,
    local_path,
    open_remote,
    read_piece,
    reason_unread,
)
from qwen_edit_async.models import EditRequest
from qwen_edit_async.storage.bucket import BucketPath
from qwen_edit_async.storage.local import PART_NAME_CHARACTERS

_PIECE_BYTES: Final = 1024 * 1024
_PART_NAME: Final = re.compile(r"\.(.*)\.[0-9a-f]{8}\.part", re.DOTALL)
_PNG_END: Final = b"\0\0\0\0IEND\xae\x42\x60\x82"
_TAIL_BYTES: Final = 4096
"""The size of the last part of a PNG file, which must contain the end marker. Extra bytes may follow the marker."""


@attrs.frozen
class ImageHash:
    """The hash of an image's content. It stands for an image that another process has, and sends later.

    Attributes:
        digest: The hash, from :func:`hash_image`.
    """

    digest: str

    def open(self, _mode: str = "rb", /) -> Any:
        """Raise an error, because the image is not here."""
        raise OSError("another process has it")


def stamp(request: EditRequest) -> str:
    """Return a hash of a request and of its files' names, sizes and times; empty if an image is not a file or URL."""
    try:
        return stamp_of([_stamp(image) for image in request.images], request)
    except (OSError, ValueError):
        return ""


def identify(request: EditRequest, folder: str = "") -> str:
    """Return the identity of a request. If the request has no key, its images in memory are hashed."""
    return identity_of(request, _hash_or_nothing, folder)


def _hash_or_nothing(image: object, position: int) -> str:
    try:
        return hash_image(image, image_name(image, position))
    except InvalidEditError:  # the edit fails later, with the reason
        return ""


def located(request: EditRequest, folder: str) -> EditRequest:
    """Return the request with its relative paths joined to a folder."""
    images = tuple(_located(image, folder) for image in request.images)
    return request if all(map(operator.is_, images, request.images)) else attrs.evolve(request, images=images)


def examine(request: EditRequest, entry: Entry | None = None) -> Content:
    """Return the hash and the stamp of a request. Files are read only if the stamp differs from the journal's."""
    stamped = stamp(request)
    if entry is not None and stamped and stamped == entry.stamp:
        return Content(entry.digest, stamped)
    try:
        hashes = [hash_image(image, image_name(image, position)) for position, image in enumerate(request.images, 1)]
    except InvalidEditError as error:
        return Content(problem=error)
    return Content(content_hash(hashes, request), stamped)


def sweep(folder: Path, names: Iterable[str]) -> None:
    """Delete the part files that a killed run left behind for files with these names.

    Other part files may be unfinished downloads of other programs.
    """
    left = {name[:PART_NAME_CHARACTERS] for name in names}
    with os.scandir(folder) as entries:  # Path.glob would list them all in memory
        for entry in entries:
            if (match := _PART_NAME.fullmatch(entry.name)) is not None and match[1] in left:
                Path(entry.path).unlink(missing_ok=True)


def are_whole(folder: Path, files: Sequence[tuple[str, int]]) -> bool:
    """Return whether all saved pictures have their recorded sizes, and each PNG file has its end marker."""
    try:
        return bool(files) and all(_ends_well(os.path.join(folder, name), size) for name, size in files)
    except OSError:
        return False


def _ends_well(path: str, size: int) -> bool:
    with open(path, "rb", buffering=0) as file:
        if file.seek(0, os.SEEK_END) != size:
            return False
        file.seek(max(0, size - _TAIL_BYTES))
        return not path.endswith(".png") or _PNG_END in file.read()


def _located(image: Any, folder: str) -> Any:
    path = None if is_url(image) or is_data_uri(image) else local_path(image)
    if path is None or os.path.isabs(path):
        return image
    return os.path.join(folder, path) if isinstance(image, str) else Path(folder, path)


def _stamp(image: Any) -> str | None:
    if is_url(image):
        return unsigned(image)
    path = local_path(image)
    if path is None:
        return None
    status = os.stat(path)
    # Programs can set mtime as they like, but not ctime, the time of the last change (on Windows: of the creation).
    return f"{path}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def hash_image(image: Any, name: str) -> str:
    """Return the hash of an image's content, of its tag in a bucket, or of its URL without the signature.

    Raises:
        InvalidEditError: If the image can't be read, or can't be read twice.
    """
    if isinstance(image, ImageHash):
        return image.digest
    digest = hashlib.blake2b(digest_size=20)
    try:
        _feed(digest, image, name)
    except InvalidEditError:
        raise
    except Exception as error:  # noqa: BLE001  # an object of another library can raise anything
        raise InvalidEditError(f"{name} {reason_unread(error)}") from None
    return digest.hexdigest()


def _feed(digest: hashlib.blake2b, image: Any, name: str) -> None:
    if isinstance(image, str) and (is_url(image) or is_data_uri(image)):
        digest.update(unsigned(image).encode())
    elif isinstance(image, bytes | bytearray | memoryview):
        digest.update(image)
    elif isinstance(image, BucketPath):
        digest.update(image.tag().encode())
    elif (path := local_path(image)) is not None:
        check_regular(path, name)
        with open(path, "rb", buffering=0) as file:
            _feed_file(digest, file, name)
    else:
        with exclusive_access(image):
            _feed_object(digest, image, name)


def _feed_object(digest: hashlib.blake2b, image: Any, name: str) -> None:
    if isinstance(image, PillowImage):
        digest.update(f"{image.size} {getattr(image, 'mode', '')}".encode())
        digest.update(image.tobytes())
    elif isinstance(image, ArrayLike):
        digest.update(str(image.__array_interface__["shape"]).encode())
        digest.update(_array_bytes(image))
    elif isinstance(image, BinaryReader):
        _feed_reader(digest, image, name)
    else:
        with contextlib.closing(open_remote(image)) as file, exclusive_access(file):
            _feed_file(digest, file, name)


def _feed_file(digest: hashlib.blake2b, file: Any, name: str) -> None:
    while piece := read_piece(file, _PIECE_BYTES, name):
        digest.update(piece)


def _feed_reader(digest: hashlib.blake2b, image: Any, name: str) -> None:
    try:
        start = image.tell()
        _feed_file(digest, image, name)
        image.seek(start)
    except (AttributeError, OSError, TypeError):
        raise InvalidEditError(f"{name} is a stream that can't be read twice: give its path, or its bytes") from None


def _array_bytes(image: Any) -> bytes:
    return bytes(image.tobytes()) if hasattr(image, "tobytes") else bytes(memoryview(image).cast("B"))
