"""The identity of an edit, and the names of its files. Pure.

The identity of an edit is its row's key or, for a picture in a folder, the path below the folder. Otherwise, the
identity is the first image's name and a hash of the images, the instruction and the parameters. The hash covers each
image's path, its URL without the signature, or its content in memory. The journal allots file names when it plans an
edit, and never changes them.
"""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import unquote, urlsplit

import attrs

from qwen_edit_async.batch.rules.signatures import unsigned
from qwen_edit_async.files import safe_stem
from qwen_edit_async.images.kinds import is_data_uri, is_url
from qwen_edit_async.models import EditParameters, EditRequest

_PARAMETERS: Final = tuple(field.name for field in attrs.fields(EditParameters))
_STEM_CHARACTERS: Final = 100
_IDENTITY_CHARACTERS: Final = 16
_NAMELESS: Final = "edit"


def identity_of(request: EditRequest, hash_of: Callable[[object], str], folder: str = "") -> str:
    """Return the identity of a request: its key, or else a readable stem and a hash.

    Args:
        request: The request.
        hash_of: Called with each image in memory and each data URI; returns the hash of the content.
        folder: The folder that holds the row's table. The folder's path is removed from the images' paths, so
            identities stay the same when the folder is moved.
    """
    if request.key:
        return storable(request.key)
    prefix = f"{folder}/" if "://" in folder else os.path.join(folder, "")
    names = [
        hash_of(image) if (locator := image_locator(image)) is None else unsigned(locator.removeprefix(prefix))
        for image in request.images
    ]
    return f"{stem_of(request)}-{_hash(names, request.instruction, _given(request.parameters))[:_IDENTITY_CHARACTERS]}"


def storable(text: str) -> str:
    """Return the text in a form that UTF-8 can encode.

    Lone surrogates become question marks. A changed text ends with a hash, so that different texts stay different.
    """
    stored = text.encode("utf-8", "replace").decode("utf-8")
    return text if stored == text else f"{stored}-{_hash(text)[:_IDENTITY_CHARACTERS]}"


def stem_of(request: EditRequest) -> str:
    """Return the stem of an edit's file names, made from its key, or else from its first image's name."""
    if request.key:
        return safe_stem(request.key) or _NAMELESS
    return safe_stem(image_stem(request.images[0]))[:_STEM_CHARACTERS] or _NAMELESS


def allot(stem: str, is_taken: Callable[[str], bool], numbers: dict[str, int]) -> str:
    """Return a free name: the stem, or else the stem with ``-2``, ``-3`` and so on.

    Args:
        stem: The wanted name.
        is_taken: Called with a case-folded name; returns whether another edit has it.
        numbers: The last number given to each case-folded stem, so that the search need not begin at 2.
    """
    wanted = folded(stem)
    if not is_taken(wanted):
        return stem
    number = numbers.get(wanted, 1) + 1
    while is_taken(folded(f"{stem}-{number}")):
        number += 1
    numbers[wanted] = number
    return f"{stem}-{number}"


def folded(name: str) -> str:
    """Case-fold a name and convert it to Unicode form NFC, because some file systems ignore case and Unicode form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def image_stem(image: object) -> str:
    """Return the file name of an image without its extension; empty for an image in memory or a data URI."""
    text = image_locator(image)
    if text is None:
        return ""
    path = unquote(urlsplit(text).path) if is_url(text) else text
    return os.path.splitext(os.path.basename(path.rstrip("/")))[0]


def image_locator(image: object) -> str | None:
    """Return the path or URL of an image; ``None`` for an image in memory or a data URI."""
    if isinstance(image, str):
        return None if is_data_uri(image) else image
    return str(image) if isinstance(image, os.PathLike) else None


def content_hash(image_hashes: Sequence[str], request: EditRequest) -> str:
    """Return a hash of the images' content (in order), the instruction and the parameters of an edit."""
    return _hash([*image_hashes], request.instruction, _given(request.parameters))


def stamp_of(image_stamps: Sequence[str | None], request: EditRequest) -> str:
    """Return a hash of a request and of its images' stamps; empty if an image has no stamp.

    An image's stamp changes when its file changes. The stamp is made without reading the file.
    """
    return "" if None in image_stamps else content_hash([*map(str, image_stamps)], request)


def describe(request: EditRequest) -> str:
    """Return the request as JSON. Images in memory and data URIs become ``null``, and URLs lose their signatures."""
    locators = [image_locator(image) for image in request.images]
    members = {
        "images": [None if locator is None else unsigned(locator) for locator in locators],
        "instruction": request.instruction,
        "parameters": _given(request.parameters),
    }
    return json.dumps(members, ensure_ascii=False)


def _given(parameters: EditParameters) -> dict[str, object]:
    return {name: value for name in _PARAMETERS if (value := getattr(parameters, name)) is not None}


def _hash(*parts: object) -> str:
    text = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()
