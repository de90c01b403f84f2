"""Finds the pictures and the tables of a folder in a bucket. Blocking.

Pictures are recognised by their names, because requests for the first bytes of all files would take long.
"""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Iterator
from typing import Final

from qwen_edit_async.batch.identity import storable
from qwen_edit_async.batch.sources.folders import PICTURE
from qwen_edit_async.batch.sources.item import EditDefaults, SourceItem
from qwen_edit_async.errors import ConfigurationError
from qwen_edit_async.models import EditRequest
from qwen_edit_async.storage.bucket import BucketPath

_PICTURES: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"})


def bucket_items(
    path: BucketPath, defaults: EditDefaults, *, recursive: bool = False, exclude: str = ""
) -> Iterator[SourceItem]:
    """Yield an edit for a picture, or for each picture of a folder or a pattern in a bucket.

    Args:
        path: The picture, the folder, or a pattern for the names of files in a folder.
        defaults: The instruction and the parameters of each edit.
        recursive: Whether to read subfolders.
        exclude: The URL of a folder that is not input.

    Raises:
        ConfigurationError: If there is no instruction or no picture, or if the bucket can't be read.
    """
    if defaults.instruction is None:
        raise ConfigurationError("nothing says how to edit the pictures: give an instruction")
    found = False
    folder = _folder_of(path)
    for name in files_of(path, recursive=recursive):
        image = folder / name
        if image.suffix.lower() in _PICTURES and not (exclude and str(image).startswith(f"{exclude}/")):
            found = True
            request = EditRequest(image, defaults.instruction, defaults.parameters)
            yield SourceItem(request=request, identity=storable(name))
    if not found:
        raise ConfigurationError(f"there is no file with the name of a {PICTURE} in {path}")


def files_of(path: BucketPath, *, recursive: bool = False) -> Iterator[str]:
    """Yield each file in a folder, each file that matches a pattern, or a single picture, as a path below its folder.

    Hidden files and folders are left out.

    Raises:
        ConfigurationError: If the bucket can't be read.
    """
    if path.suffix.lower() in _PICTURES and not glob.has_magic(path.name):
        yield path.name
        return
    pattern = path.name if glob.has_magic(path.name) else "*"
    try:
        for name, _ in _folder_of(path).files():
            is_hidden = name.startswith(".") or "/." in name
            if (recursive or "/" not in name) and not is_hidden and fnmatch.fnmatchcase(name, pattern):
                yield name
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read: {error.strerror}") from None


def _folder_of(path: BucketPath) -> BucketPath:
    """Return the folder of a picture or of a pattern; the path itself, if it is a folder."""
    return path.parent if path.suffix.lower() in _PICTURES or glob.has_magic(path.name) else path
