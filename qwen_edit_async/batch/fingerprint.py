"""Hashes the images of requests, to identify edits and to notice changed images. Blocking."""

from __future__ import annotations

import contextlib
import hashlib
import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from qwen_edit_async.batch.rules.decide import Entry, Fingerprint
from qwen_edit_async.batch.rules.identity import content_hash, identity_of, stamp_of, storable
from qwen_edit_async.batch.rules.signatures import unsigned
from qwen_edit_async.errors import InvalidEditError
from qwen_edit_async.images.findings import ImageError
from qwen_edit_async.images.kinds import ArrayLike, BinaryReader, PillowImage, is_data_uri, is_url, map_images
from qwen_edit_async.images.source import (
    check_regular,
    exclusive_access,
    local_path,
    new_digest,
    open_remote,
    read_piece,
    reading,
)
from qwen_edit_async.images.upload import Upload
from qwen_edit_async.models import EditRequest
from qwen_edit_async.storage.bucket import BucketPath

_PIECE_BYTES: Final = 1024 * 1024


@attrs.frozen
class ImageHash:
    """An image that another process holds, known by its hash from :func:`hash_image`."""

    digest: str

    def open(self, _mode: str = "rb", /) -> Any:
        """Raise an error, because another process holds the image."""
        raise OSError("another process holds the image")


def stamp(request: EditRequest) -> str:
    """Return a hash of a request and of its files' paths, sizes and times.

    Return an empty string if an image is neither a URL nor an existing regular file.
    """
    try:
        return stamp_of([_stamp(image) for image in request.images], request)
    except (OSError, ValueError):
        return ""


def identify(request: EditRequest, folder: str = "") -> str:
    """Return the identity of a request; see :func:`identity_of`.

    If the request has no key, its images without a path or URL are hashed.
    """
    return identity_of(request, _hash_or_nothing, folder)


def identities_of(request: EditRequest) -> tuple[str, str]:
    """Return the identity of a request, and the identity that it would have without its key.

    The function blocks only if an image has neither a path nor a URL.
    """
    content = identify(attrs.evolve(request, key=None) if request.key else request)
    return storable(request.key) if request.key else content, content


def _hash_or_nothing(image: object) -> str:
    try:
        return hash_image(image)
    except ImageError:  # the edit fails later, with the reason
        return ""


def located(request: EditRequest, folder: str) -> EditRequest:
    """Return the request with its relative paths joined to a folder."""
    images = tuple(_located(image, folder) for image in request.images)
    return request if all(map(operator.is_, images, request.images)) else attrs.evolve(request, images=images)


def fingerprint_of(request: EditRequest, entry: Entry | None = None) -> Fingerprint:
    """Return the fingerprint of a request.

    ``entry`` is the edit in the journal; ``None`` for a new edit. The images of a journalled edit are read only if the
    request's stamp is empty or differs from the edit's stamp. The images of a new edit are hashed here only if the
    stamp is empty or all images are URLs. Otherwise, these images are hashed when they are sent.
    """
    stamped = stamp(request)
    if entry is None and stamped and not all(map(is_url, request.images)):
        return Fingerprint(stamp=stamped)
    if entry is not None and stamped and stamped == entry.stamp:
        return Fingerprint(entry.digest, stamped)
    try:
        hashes = map_images(hash_image, request.images)
    except InvalidEditError as error:
        return Fingerprint(problem=error)
    return Fingerprint(content_hash(hashes, request), stamped)


def digest_of(request: EditRequest, uploads: Sequence[Upload]) -> str:
    """Return the hash of a request whose images are files or URLs. An image is not read if its upload has a hash."""
    each = iter(uploads)
    return content_hash(map_images(lambda image: next(each).digest or hash_image(image), request.images), request)


def _located(image: Any, folder: str) -> Any:
    path = local_path(image)
    if path is None or os.path.isabs(path):
        return image
    return os.path.join(folder, path) if isinstance(image, str) else Path(folder, path)


def _stamp(image: Any) -> str | None:
    if is_url(image):
        return unsigned(image)
    path = local_path(image)
    if path is None:
        return None
    status = check_regular(path)
    # Programs can set mtime, but not ctime. On Windows, ctime is the time of creation, so the stamp needs both.
    return f"{path}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def hash_image(image: Any) -> str:
    """Return the hash of an image's content, of a bucket file's tag, or of a URL without its signature.

    Raises:
        ImageError: If the image can't be read, or can't be read twice.
    """
    if isinstance(image, ImageHash):
        return image.digest
    digest = new_digest()
    with reading(Exception):  # an object of another library can raise anything
        _feed(digest, image)
    return digest.hexdigest()


def _feed(digest: hashlib.blake2b, image: Any) -> None:
    if isinstance(image, str) and (is_url(image) or is_data_uri(image)):
        digest.update(unsigned(image).encode())
    elif isinstance(image, bytes | bytearray | memoryview):
        digest.update(image)
    elif isinstance(image, BucketPath):
        digest.update(image.tag().encode())
    elif (path := local_path(image)) is not None:
        check_regular(path)
        with open(path, "rb", buffering=0) as file:
            _feed_file(digest, file)
    else:
        with exclusive_access(image):
            _feed_object(digest, image)


def _feed_object(digest: hashlib.blake2b, image: Any) -> None:
    if isinstance(image, PillowImage):
        digest.update(f"{image.size} {getattr(image, 'mode', '')}".encode())
        digest.update(image.tobytes())
    elif isinstance(image, ArrayLike):
        digest.update(str(image.__array_interface__["shape"]).encode())
        digest.update(_array_bytes(image))
    elif isinstance(image, BinaryReader):
        _feed_reader(digest, image)
    else:
        with contextlib.closing(open_remote(image)) as file, exclusive_access(file):
            _feed_file(digest, file)


def _feed_file(digest: hashlib.blake2b, file: Any) -> None:
    while piece := read_piece(file, _PIECE_BYTES):
        digest.update(piece)


def _feed_reader(digest: hashlib.blake2b, image: Any) -> None:
    try:
        start = image.tell()
        _feed_file(digest, image)
        image.seek(start)
    except (AttributeError, OSError, TypeError):
        raise ImageError("is a stream that can't be read twice: give its path, or its bytes") from None


def _array_bytes(image: Any) -> bytes:
    return bytes(image.tobytes()) if hasattr(image, "tobytes") else bytes(memoryview(image).cast("B"))
