"""What the images of a request are, for the journal: hashed by content, or stamped. Blocking."""

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

from qwen_edit_async.batch.plan import content_hash, image_locator, key_of, stamp_of
from qwen_edit_async.batch.sources import unsigned
from qwen_edit_async.errors import InvalidEditError
from qwen_edit_async.files import PART_NAME_CHARACTERS
from qwen_edit_async.images.kinds import ArrayLike, BinaryReader, PillowImage, image_name, is_data_uri, is_url
from qwen_edit_async.images.source import check_regular, local_path, opened, read_piece
from qwen_edit_async.images.turns import turn_at
from qwen_edit_async.models import EditRequest

_PIECE_BYTES: Final = 1024 * 1024
_PART_NAME: Final = re.compile(r"\.(.*)\.[0-9a-f]{8}\.part", re.DOTALL)
_PNG_END: Final = b"\0\0\0\0IEND\xae\x42\x60\x82"
_TAIL_BYTES: Final = 4096
"""The end of a PNG file is looked for here, because results with a few more bytes are kept."""


@attrs.frozen
class Content:
    """What a request is.

    Attributes:
        key: Its name in the batch.
        digest: Hash of its content.
        stamp: Hash of its files' names, sizes and times instead of their content; empty if it has images in memory.
    """

    key: str
    digest: str
    stamp: str = ""


def stamp(request: EditRequest) -> str:
    """The request's stamp, without reading a file; empty if it can't be told."""
    try:
        return stamp_of([_stamp(image) for image in request.images], request)
    except (OSError, ValueError):
        return ""


def key_without_reading(request: EditRequest) -> str | None:
    """The request's key, if no image has to be read to tell it."""
    located = all(image_locator(image) is not None for image in request.images)
    return key_of(request, [""] * len(request.images)) if request.key or located else None


def read_key(request: EditRequest) -> str:
    """Return the request's key, with a look at images that have no name.

    Raises:
        InvalidEditError: If one can't be read, or not twice.
    """
    hashes = [
        hash_image(image, image_name(image, position)) if image_locator(image) is None else ""
        for position, image in enumerate(request.images, 1)
    ]
    return key_of(request, hashes)


def located(request: EditRequest, folder: str, key: str | None = None) -> EditRequest:
    """Return the request with its relative paths as paths in a folder, and with a key if that is given."""
    images = tuple(_located(image, folder) for image in request.images)
    key = key or request.key
    if key == request.key and all(map(operator.is_, images, request.images)):
        return request
    return attrs.evolve(request, images=images, key=key)


def read_content(request: EditRequest) -> Content:
    """Hash the request's images.

    Raises:
        InvalidEditError: If one can't be read, or not twice.
    """
    stamped = stamp(request)
    hashes = [hash_image(image, image_name(image, position)) for position, image in enumerate(request.images, 1)]
    return Content(key_of(request, hashes), content_hash(hashes, request), stamped)


def sweep(folder: Path, names: Iterable[str]) -> None:
    """Delete the beginnings of files of these names that a run left behind when it was killed.

    Those of other names may be downloads of somebody else, which are under way.
    """
    left = {name[:PART_NAME_CHARACTERS] for name in names}
    for path in folder.glob(".*.part"):
        if (match := _PART_NAME.fullmatch(path.name)) is not None and match[1] in left:
            path.unlink(missing_ok=True)


def are_whole(folder: Path, files: Sequence[tuple[str, int]]) -> bool:
    """Whether all saved pictures are there, of their sizes, and, if they are PNG files, with the end of one."""
    try:
        return bool(files) and all(_ends_well(folder / name, size) for name, size in files)
    except OSError:
        return False


def _ends_well(path: Path, size: int) -> bool:
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - _TAIL_BYTES))
        return end == size and (path.suffix != ".png" or _PNG_END in file.read())


def _located(image: Any, folder: str) -> Any:
    path = None if is_url(image) or is_data_uri(image) else local_path(image)
    if path is None or os.path.isabs(path):  # noqa: PTH117  # text
        return image
    return os.path.join(folder, path) if isinstance(image, str) else Path(folder, path)  # noqa: PTH118  # text


def _stamp(image: Any) -> str | None:
    if is_url(image):
        return unsigned(image)
    path = local_path(image)
    if path is None:
        return None
    status = os.stat(path)  # noqa: PTH116  # a str
    # Tools that copy can set the time of the content; that of the last change of anything (on Windows, of the making),
    # they can't.
    return f"{path}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def hash_text(text: str) -> str:
    """Return the hash of a URL that has no signature."""
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


def hash_image(image: Any, name: str) -> str:
    """Return the hash of an image's content, or of its URL without the signature.

    Raises:
        InvalidEditError: If it can't be read, or not twice.
    """
    digest = hashlib.blake2b(digest_size=20)
    try:
        _feed(digest, image, name)
    except InvalidEditError:
        raise
    except FileNotFoundError:
        raise InvalidEditError(f"{name} does not exist") from None
    except Exception as error:  # noqa: BLE001  # an object of another library raises what it likes
        reason = getattr(error, "strerror", None) or error
        raise InvalidEditError(f"{name} can't be read: {reason}") from None
    return digest.hexdigest()


def _feed(digest: hashlib.blake2b, image: Any, name: str) -> None:
    if isinstance(image, str) and (is_url(image) or is_data_uri(image)):
        digest.update(unsigned(image).encode())
    elif isinstance(image, bytes | bytearray | memoryview):
        digest.update(image)
    elif (path := local_path(image)) is not None:
        check_regular(path, name)
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123  # a str
            _feed_file(digest, file, name)
    else:
        with turn_at(image):
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
        with contextlib.closing(opened(image)) as file:
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
