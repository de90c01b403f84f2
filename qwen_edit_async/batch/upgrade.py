"""Names and hashes of journals whose edits were known by their signed URLs (before version 3). Blocking.

The functions answer with what is in the journal already where there is nothing to change, or where it can't be told.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import PurePath

from qwen_edit_async.batch.content import hash_image, hash_text
from qwen_edit_async.batch.plan import automatic_key, content_hash
from qwen_edit_async.batch.sources import folded, hashed_key, unsigned
from qwen_edit_async.errors import InvalidEditError
from qwen_edit_async.images.kinds import is_url
from qwen_edit_async.models import EditParameters, EditRequest
from qwen_edit_async.session.results import safe_stem


def add_functions(connection: sqlite3.Connection) -> None:
    """Let the journal's statements call this module's functions."""
    connection.create_function("unsigned_digest", 2, unsigned_digest)
    connection.create_function("unsigned_key", 2, unsigned_key)
    connection.create_function("stem_of", 1, lambda key: folded(safe_stem(key)))


def unsigned_digest(described: str, digest: str) -> str:
    """Return an edit's content hash without the signatures in its URLs.

    An image file has to have the content that it had when the edit was planned.
    """
    request = _signed_request(described)
    if request is None:
        return digest
    images = [str(image) for image in request.images]
    try:
        hashes = {image: hash_image(image, image) for image in images if not is_url(image)}
    except InvalidEditError:
        return digest
    before = content_hash([hashes.get(image) or hash_text(image) for image in images], request)
    if digest != before:
        return digest
    return content_hash([hashes.get(image) or hash_text(unsigned(image)) for image in images], request)


def unsigned_key(described: str, key: str) -> str:
    """Return an edit's key without the signatures in its URLs, if the key was made of them."""
    request = _signed_request(described)
    if request is None:
        return key
    images = [str(image) for image in request.images]
    for before, after in _automatic_keys(request, images):
        if key == before or (key.startswith(before) and re.fullmatch("-[0-9]+", key[len(before) :])):
            return after + key[len(before) :]
    return key


def _automatic_keys(request: EditRequest, images: list[str]) -> Iterator[tuple[str, str]]:
    """Yield each key that the request may have been given, and the one that it has now."""
    yield automatic_key(images, request), automatic_key([unsigned(image) for image in images], request)
    folders = {
        os.path.join(folder, "")  # noqa: PTH118  # text, no access
        for image in images
        if not is_url(image)
        for folder in PurePath(image).parents
    }
    for folder in ("", *folders):  # wherever the table is
        below = [image.removeprefix(folder) for image in images]
        yield hashed_key(below, request), hashed_key([unsigned(image) for image in below], request)


def _signed_request(described: str) -> EditRequest | None:
    """Return the edit that a journal describes, if it has signed URLs and no images in memory."""
    try:
        asked = json.loads(described)
        images = asked["images"]
        if None in images or all(unsigned(image) == image for image in images):
            return None
        return EditRequest(images, asked["instruction"], EditParameters(**asked["parameters"]))
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError, InvalidEditError):
        return None
