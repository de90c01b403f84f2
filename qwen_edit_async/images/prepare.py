"""Turns the images of a request into uploads: opens them, checks them, and converts them if necessary. Blocking.

Nothing is sent until all images are ready, so an image that can't be used costs nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from types import ModuleType
from typing import IO, Any

import attrs

from qwen_edit_async.contract import MAX_IMAGE_BYTES, RECOMMENDED_MAX_SIDE, RECOMMENDED_MIN_SIDE
from qwen_edit_async.errors import ConfigurationError, InvalidEditError
from qwen_edit_async.images.encode import Upload, url_upload
from qwen_edit_async.images.findings import Findings
from qwen_edit_async.images.integrity import find_damage
from qwen_edit_async.images.kinds import (
    HEAD_BYTES,
    MAX_SOURCE_BYTES,
    ArrayLike,
    PillowImage,
    check_format,
    check_size,
    image_name,
    is_url,
)
from qwen_edit_async.images.source import (
    exclusive_access,
    hash_file,
    local_path,
    open_image,
    open_temporary,
    reason_unread,
)
from qwen_edit_async.images.tiff import UPRIGHT
from qwen_edit_async.storage.bucket import BucketPath


def url_uploads(images: Sequence[Any]) -> tuple[Upload, ...] | None:
    """Return the uploads if all images are URLs; otherwise ``None``. This does not block."""
    return tuple(map(url_upload, images)) if all(map(is_url, images)) else None


def prepare(
    images: Sequence[Any], *, fit: bool = False, inline: bool = False, hashed: bool = False
) -> tuple[Upload, ...]:
    """Open and check images, and encode PIL images and arrays. This blocks: call it on a thread.

    The service fetches an image in a bucket from a presigned URL. With ``fit`` or ``inline``, or if the store can't
    sign URLs, the image is read and sent instead.

    With ``fit``, an image that the service would refuse or edit badly is converted. It is turned upright, its longest
    side becomes at most 3072 pixels, and its file at most 7.5 MB. Other images stay unchanged.

    With ``hashed``, an image file is also hashed while it is open.

    Raises:
        InvalidEditError: An image is missing, unreadable, not an image, damaged, or over 10 MB (contract, *Images*).
        ConfigurationError: Pillow is missing, and a PIL image, an array or ``fit`` needs it.
    """
    uploads: list[Upload] = []
    with contextlib.ExitStack() as undo:
        for position, image in enumerate(images, 1):
            uploads.append(_prepare_image(image, image_name(image, position), fit, inline, hashed))
            undo.callback(uploads[-1].close)
        undo.pop_all()
    return tuple(uploads)


def signed_url(image: BucketPath, name: str) -> str | None:
    """Check an image in a bucket, and return a presigned URL of it; ``None`` if its store can't sign URLs. Blocking.

    Raises:
        InvalidEditError: The image is missing, of an unknown format, or over 10 MB.
    """
    url = image.signed_url()
    if url is not None:
        try:
            head, size = image.beginning(HEAD_BYTES)
        except OSError as error:
            raise InvalidEditError(f"{name} {reason_unread(error)}") from None
        check_size(size, name)
        check_format(head, name, image.key)
    return url


def _prepare_image(image: Any, name: str, fit: bool, inline: bool, hashed: bool) -> Upload:  # noqa: FBT001  # the options of prepare()
    if is_url(image):
        return url_upload(image)
    if isinstance(image, BucketPath) and not fit and not inline and (url := signed_url(image, name)) is not None:
        return url_upload(url)
    pillow = _pillow()
    # isinstance() is slow with a protocol, so common kinds are ruled out first.
    is_file = isinstance(image, str | bytes | bytearray | memoryview | os.PathLike)
    if not is_file and isinstance(image, PillowImage | ArrayLike):
        if pillow is None:
            raise ConfigurationError(f'{name} needs Pillow: pip install "qwen-edit-async[images]"')
        with exclusive_access(image):
            encoded = pillow.encode(image, name, fit=fit)
        return _encoded_upload(encoded, name)
    if fit and pillow is None:
        raise ConfigurationError('fit=True needs Pillow: pip install "qwen-edit-async[images]"')
    file, upload = open_image(image, name, MAX_SOURCE_BYTES if fit else MAX_IMAGE_BYTES)
    with contextlib.ExitStack() as undo:
        undo.callback(file.close)
        path = local_path(image) or ""
        media_type, findings = _check_file(file, upload.size, name, path, fit=fit)
        digest = hash_file(file) if hashed and path else ""
        facts = None
        if pillow is not None and media_type is not None:
            facts = pillow.check(file, name, findings, fit=fit)
        if pillow is not None and fit:
            encoded = pillow.fit(file, upload.size, name, findings, path=path, convert=media_type is None)
            if encoded is not None:
                return _encoded_upload(encoded, name, digest)
        if upload.file is file:
            undo.pop_all()
    warnings, notes = ((), ()) if facts is None else (_warnings(facts, name), facts.notes)
    return attrs.evolve(upload, head=_head(str(media_type)), digest=digest, warnings=warnings, notes=notes)


def _check_file(file: IO[bytes], size: int, name: str, path: str, *, fit: bool) -> tuple[str | None, Findings]:
    """Check a file without Pillow. Return its media type, or ``None`` if ``fit`` must convert it, and the findings.

    Raises:
        InvalidEditError: The file is damaged, or not of an accepted kind.
    """
    media_type = check_format(file.read(HEAD_BYTES), name, path, fit=fit)
    if media_type is None:
        return None, Findings()
    findings = find_damage(file, size, media_type)
    if problem := findings.problem(media_type, fit=fit):
        raise InvalidEditError(f"{name} {problem}")
    return media_type, findings


def _pillow() -> ModuleType | None:
    try:
        from qwen_edit_async.images import pillow as module  # noqa: PLC0415  # Pillow is optional, and slow to import
    except ImportError:
        return None
    return module


def _encoded_upload(encoded: Any, name: str, digest: str = "") -> Upload:
    _, upload = open_temporary(encoded.file, encoded.size, name)
    warnings = _size_warnings(encoded.sides, name)
    return attrs.evolve(upload, head=_head(encoded.media_type), digest=digest, warnings=warnings, notes=encoded.notes)


def _head(media_type: str) -> bytes:
    return f"data:{media_type};base64,".encode()


def _warnings(facts: Any, name: str) -> tuple[str, ...]:
    warnings = _size_warnings(facts.sides, name)
    if facts.orientation == UPRIGHT:
        return warnings
    stored = f"{name} is not stored upright (Exif orientation {facts.orientation}), which the service may ignore"
    return (*warnings, f"{stored}: turn it, or let the session do so with fit=True")


def _size_warnings(sides: tuple[int, int], name: str) -> tuple[str, ...]:
    if min(sides) >= RECOMMENDED_MIN_SIDE and max(sides) <= RECOMMENDED_MAX_SIDE:
        return ()
    outcome = "a blurred picture" if min(sides) < RECOMMENDED_MIN_SIDE else "a slow edit"
    best = f"sides of {RECOMMENDED_MIN_SIDE} to {RECOMMENDED_MAX_SIDE} are best"
    return (f"{name} is {sides[0]}×{sides[1]} pixels: expect {outcome}; {best}",)
