"""Edits of a folder's pictures, or of those that match a pattern. Blocking.

Files are looked at (16 bytes each), since formats are recognised by content.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from qwen_edit_async._errors import ConfigurationError
from qwen_edit_async._images import sniff
from qwen_edit_async._models import EditRequest

from ._item import EditDefaults, SourceItem

_HEAD_BYTES: Final = 16
_NAMED_OTHERS: Final = 3


def picture_items(
    paths: Iterable[str | OSError],
    where: str,
    defaults: EditDefaults,
    exclude: str | None,
    note: Callable[[str], None],
    *,
    advice: Callable[[], str] = str,
) -> Iterator[SourceItem]:
    """An edit for each file that is a picture, or can't be read, and so may be one: whoever reads it says why not.

    Args:
        paths: The files, and what else there is: a folder that can't be read makes no edit.
        where: What they are called together.
        defaults: The edit.
        exclude: A folder, as an absolute path without links, whose content is left out.
        note: Told what else was left out.
        advice: Called if there is no picture; says what to do.

    Raises:
        ConfigurationError: If there is no instruction, or no picture.
    """
    if defaults.instruction is None:
        raise ConfigurationError("pictures say nothing about what to do with them: give an instruction")
    named: list[str] = []
    others = count = 0
    for path in paths:
        if isinstance(path, OSError):
            yield SourceItem(problem=f"can't be read: {path.strerror}", place=str(path.filename))
            continue
        if not os.path.isfile(path) or (exclude is not None and _is_inside(path, exclude)):  # noqa: PTH113  # 100,000 texts, no 100,000 Paths
            continue
        if is_picture(path):
            count += 1
            yield SourceItem(request=EditRequest(path, defaults.instruction, defaults.parameters))
        else:
            others += 1
            if len(named) < _NAMED_OTHERS:
                named.append(os.path.basename(path))  # noqa: PTH119  # as above
    if not count:
        raise ConfigurationError(f"there is no JPEG, PNG, BMP, TIFF, WEBP or GIF picture in {where}{advice()}")
    if others:
        names = ", ".join(named) + (", …" if others > len(named) else "")
        note(f"{others} of the files are no pictures that the service takes, and are left out: {names}")


def files_of(folder: str, *, recursive: bool) -> Iterator[str | OSError]:
    """A folder's files by name; an error for each of its folders that can't be read.

    Hidden ones are other programs' business: previews, or downloads that are not whole yet.

    Raises:
        ConfigurationError: If the folder itself can't be read.
    """
    errors: list[OSError] = []
    for root, folders, files in os.walk(folder, onerror=errors.append):
        yield from errors
        errors.clear()
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        yield from (os.path.join(root, name) for name in sorted(files) if not name.startswith("."))  # noqa: PTH118  # as above
    for error in errors:
        if error.filename == folder:
            raise ConfigurationError(f"{folder} can't be read: {error.strerror}")
        yield error


def _is_inside(path: str, folder: str) -> bool:
    return os.path.realpath(path).startswith(os.path.join(folder, ""))  # noqa: PTH118  # as above


def is_picture(path: str) -> bool:
    """Whether a file begins as a picture does, or can't be read, and so may be one."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # as above
            return sniff(file.read(_HEAD_BYTES)) is not None
    except OSError:
        return True
