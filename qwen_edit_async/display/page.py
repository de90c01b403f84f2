"""Writes the gallery page to a file, with thumbnails and links to the pictures. Blocking."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

import attrs

from qwen_edit_async.display.gallery import GalleryEdit, gallery_html
from qwen_edit_async.storage.bucket import BucketPath
from qwen_edit_async.storage.paths import FilePath

_WORKERS: Final = min(4, os.cpu_count() or 1)
_AHEAD: Final = 4 * _WORKERS

_Edit = TypeVar("_Edit")


def write_page(
    path: FilePath,
    edits: Iterable[_Edit],
    draw: Callable[[_Edit], GalleryEdit],
    *,
    title: str = "Edits",
    summary: Mapping[str, object] | None = None,
) -> None:
    """Write the page. If that fails, the file stays as it was.

    Args:
        path: The file. Pictures are linked relative to its folder.
        edits: The edits, in the order of the page. Only a few edits are read in advance.
        draw: Called with each edit, on one of several threads. It may make thumbnails.
        title: The heading of the page.
        summary: Values about all edits, by name, for the head of the page.

    Raises:
        OSError: The page can't be written.
    """
    with ThreadPoolExecutor(_WORKERS, "qwen-edit-gallery") as threads:
        write_atomically(path, gallery_html(_drawn(threads, edits, draw), title=title, summary=summary))


def write_atomically(path: FilePath, pieces: Iterable[str]) -> None:
    """Write a text file. If that fails, the file stays as it was.

    Raises:
        OSError: The file can't be written.
    """
    if isinstance(path, BucketPath):
        with tempfile.TemporaryFile() as file:
            file.writelines(piece.encode("utf-8", "replace") for piece in pieces)
            attrs.evolve(path, replace=True).put(file)
        return
    part = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        with part.open("x", encoding="utf-8", errors="replace", newline="\n") as file:
            file.writelines(pieces)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _drawn(
    threads: ThreadPoolExecutor, edits: Iterable[_Edit], draw: Callable[[_Edit], GalleryEdit]
) -> Iterator[GalleryEdit]:
    """Draw edits in order. Unlike ``threads.map``, this reads only a few edits in advance."""
    waiting: deque[Future[GalleryEdit]] = deque()
    for edit in edits:
        waiting.append(threads.submit(draw, edit))
        if len(waiting) > _AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
