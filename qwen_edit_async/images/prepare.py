"""Turns the images of a request into uploads: opens them, checks them, and converts them if necessary. Blocking.

Nothing is sent until all images are ready, so an image that can't be used costs nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import IO, Any

import attrs

from qwen_edit_async.contract import MAX_IMAGE_BYTES, RECOMMENDED_MAX_SIDE, RECOMMENDED_MIN_SIDE
from qwen_edit_async.errors import ConfigurationError, EditWarning
from qwen_edit_async.images.findings import Findings, ImageError
from qwen_edit_async.images.integrity import find_cut, find_damage, pillow_if_installed
from qwen_edit_async.images.kinds import (
    ACCEPTED,
    HEAD_BYTES,
    MAX_SOURCE_BYTES,
    ArrayLike,
    PillowImage,
    check_format,
    image_name,
    is_url,
    map_images,
)
from qwen_edit_async.images.source import check_regular, check_size, exclusive_access, hash_file, local_path, reading
from qwen_edit_async.images.tiff import UPRIGHT
from qwen_edit_async.images.upload import Upload, open_image, open_temporary, url_upload
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

    With ``fit``, a file is converted if it is too large, is not upright, has a format that the service refuses, or has
    a flaw that many decoders can't handle. It is turned upright, and reduced to at most 3072 pixels a side and 7.5 MB.
    Other images, and http(s) URLs, stay unchanged.

    With ``hashed``, a local image file is also hashed while it is open.

    Raises:
        InvalidEditError: An image is missing, unreadable, damaged, too large, or of an unsupported kind. The maximum
            size of a file is 10 MB (contract, *Images*), or 256 MB with ``fit``.
        ConfigurationError: Pillow is missing, and a PIL image, an array or ``fit`` needs it.
    """
    with contextlib.ExitStack() as undo:

        def prepare_one(image: Any) -> Upload:
            upload = _prepare_image(image, fit, inline, hashed)
            undo.callback(upload.close)
            return upload

        uploads = map_images(prepare_one, images)
        undo.pop_all()
    each = enumerate(zip(uploads, images, strict=True), 1)
    return tuple(named(upload, image_name(image, position), position) for position, (upload, image) in each)


def named(upload: Upload, name: str, position: int) -> Upload:
    """Return a copy of an upload with the image's name. The copy's warnings, notes and errors begin with the name."""
    return attrs.evolve(
        upload,
        name=name,
        position=position,
        warnings=tuple(EditWarning(f"{name} {warning}", warning.summary) for warning in upload.warnings),
        notes=tuple(f"{name} {note}" for note in upload.notes),
    )


def signed_url(image: BucketPath) -> str | None:
    """Check an image in a bucket, and return its presigned URL; ``None`` if the store can't sign URLs. Blocking.

    Raises:
        ImageError: The image is missing, of an unsupported format, or over 10 MB.
    """
    url = image.signed_url()
    if url is not None:
        with reading():
            head, size = image.beginning(HEAD_BYTES)
        check_size(size)
        check_format(head, image.key)
    return url


def _prepare_image(image: Any, fit: bool, inline: bool, hashed: bool) -> Upload:  # noqa: FBT001  # the options of prepare()
    if is_url(image):
        return url_upload(image)
    if isinstance(image, BucketPath) and not fit and not inline and (url := signed_url(image)) is not None:
        return url_upload(url)
    pillow = pillow_if_installed()
    # isinstance() with a typing protocol is slow, so common kinds are ruled out first.
    is_file = isinstance(image, str | bytes | bytearray | memoryview | os.PathLike)
    is_picture = not is_file and isinstance(image, PillowImage | ArrayLike)
    if pillow is None and (fit or is_picture):
        what = "a PIL image or an array" if is_picture else "fit=True"
        raise ConfigurationError(f'{what} needs Pillow: pip install "qwen-edit-async[images]"')
    if is_picture:
        with exclusive_access(image):
            return _encoded_upload(pillow.encode(image, fit=fit))
    file, upload = open_image(image, MAX_SOURCE_BYTES if fit else MAX_IMAGE_BYTES)
    with contextlib.ExitStack() as undo:
        undo.callback(file.close)
        path = local_path(image) or ""
        kind, findings = _check_file(file, upload.size, path, fit=fit)
        digest = hash_file(file) if hashed and path else ""
        facts = pillow.check(file, findings, fit=fit) if pillow is not None and kind in ACCEPTED else None
        if fit and (encoded := pillow.fit(file, upload.size, findings, path=path)) is not None:
            return _encoded_upload(encoded, digest)
        if upload.file is file:
            undo.pop_all()
    warnings, notes = ((), ()) if facts is None else (_warnings(facts), facts.notes)
    return attrs.evolve(upload, head=_head(kind), digest=digest, warnings=warnings, notes=notes)


def check_ends(image: Any, *, fit: bool) -> None:
    """Check the size, the beginning and the end of a local image file. Ignore other images. Blocking.

    Raises:
        ImageError: The file is not an image that can be sent.
    """
    if (path := local_path(image)) is None:
        return
    with reading():
        size = check_regular(path).st_size
        check_size(size, MAX_SOURCE_BYTES if fit else MAX_IMAGE_BYTES)
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123  # a str
            _check_file(file, size, path, fit=fit, find=find_cut)


def _check_file(
    file: IO[bytes],
    size: int,
    path: str,
    *,
    fit: bool,
    find: Callable[[IO[bytes], int, str], Findings] = find_damage,
) -> tuple[str, Findings]:
    """Check a file without Pillow. Raise an :class:`ImageError` if it is damaged, or not of an accepted kind."""
    kind = check_format(file.read(HEAD_BYTES), path, fit=fit)
    findings = find(file, size, kind)
    if problem := findings.problem(kind, fit=fit):
        raise ImageError(problem)
    return kind, findings


def _encoded_upload(encoded: Any, digest: str = "") -> Upload:
    _, upload = open_temporary(encoded.file, encoded.size)
    warnings = _size_warnings(encoded.sides)
    return attrs.evolve(upload, head=_head(encoded.kind), digest=digest, warnings=warnings, notes=encoded.notes)


def _head(kind: str) -> bytes:
    return f"data:image/{kind.lower()};base64,".encode()


def _warnings(facts: Any) -> tuple[EditWarning, ...]:
    warnings = _size_warnings(facts.sides)
    if facts.orientation == UPRIGHT:
        return warnings
    advice = "turn it, or let the session do so with fit=True"
    stored = f"is upright only with its Exif orientation ({facts.orientation}), which the service may ignore"
    return (*warnings, EditWarning(f"{stored}: {advice}", advice))


def _size_warnings(sides: tuple[int, int]) -> tuple[EditWarning, ...]:
    if min(sides) >= RECOMMENDED_MIN_SIDE and max(sides) <= RECOMMENDED_MAX_SIDE:
        return ()
    outcome = "a blurred picture" if min(sides) < RECOMMENDED_MIN_SIDE else "a slow edit"
    advice = f"expect {outcome}; sides of {RECOMMENDED_MIN_SIDE} to {RECOMMENDED_MAX_SIDE} are best"
    return (EditWarning(f"is {sides[0]}×{sides[1]} pixels: {advice}", advice),)
