"""Lists the files of a bucket, and yields an edit for each picture. Blocking.

Pictures are recognised by their names, because it would take too long to read the beginning of every file.
"""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Final

import attrs

from qwen_edit_async.batch.rules.identity import storable
from qwen_edit_async.batch.rules.item import Reading, SourceItem
from qwen_edit_async.batch.sources.folders import NO_INSTRUCTION, PICTURE, left_out_others
from qwen_edit_async.errors import ConfigurationError
from qwen_edit_async.images.kinds import PICTURE_ENDINGS
from qwen_edit_async.models import EditRequest
from qwen_edit_async.storage.bucket import BucketPath, with_tags

_PAGE: Final = 256


def bucket_items(path: BucketPath, reading: Reading) -> Iterator[SourceItem]:
    """Yield an edit for each picture at ``path``, which is a picture, a folder or a pattern in a bucket."""
    defaults = reading.defaults
    if defaults.instruction is None:
        raise ConfigurationError(NO_INSTRUCTION)
    found, others = False, list[str]()
    for name, image in files_of(path, recursive=reading.recursive):
        if reading.exclude and str(image).startswith(f"{reading.exclude}/"):
            continue
        if image.suffix.lower() not in PICTURE_ENDINGS:
            others.append(name)
            continue
        found = True
        request = EditRequest(image, defaults.instruction, defaults.parameters)
        yield SourceItem(request=request, identity=storable(name))
    if not found:
        raise ConfigurationError(f"no file in {path} has the extension of a {PICTURE}, such as .png")
    if others:
        reading.note(left_out_others(others))


def tagged(items: Iterable[SourceItem]) -> Iterator[SourceItem]:
    """Yield the edits. Add the ETags of the images in buckets to their paths, requested for 256 edits at a time."""
    left = iter(items)
    while page := [*islice(left, _PAGE)]:
        images = [image for item in page if item.request is not None for image in item.request.images]
        tags = with_tags(image for image in images if isinstance(image, BucketPath))
        yield from (_tagged(item, tags) for item in page) if tags else page


def _tagged(item: SourceItem, tags: Mapping[BucketPath, BucketPath]) -> SourceItem:
    if item.request is None:
        return item
    images = [tags.get(image, image) if isinstance(image, BucketPath) else image for image in item.request.images]
    return attrs.evolve(item, request=attrs.evolve(item.request, images=images))


def files_of(path: BucketPath, *, recursive: bool = False) -> Iterator[tuple[str, BucketPath]]:
    """Yield pairs: a file's path relative to the searched folder, and the file itself.

    ``path`` is a picture, a folder or a pattern. The search leaves out hidden files and files in hidden folders.
    """
    is_pattern = glob.has_magic(path.name)
    if path.suffix.lower() in PICTURE_ENDINGS and not is_pattern:
        yield path.name, path
        return
    folder, pattern = (path.parent, path.name) if is_pattern else (path, "*")
    try:
        for name, file in folder.files():
            is_hidden = name.startswith(".") or "/." in name
            if (recursive or "/" not in name) and not is_hidden and fnmatch.fnmatchcase(name, pattern):
                yield name, file
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read: {error.strerror}") from None
