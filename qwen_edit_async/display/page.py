"""The gallery as a file: thumbnails made, pictures linked, written whole or not at all.

Blocking: call it on a thread.
"""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import attrs

from qwen_edit_async.display.gallery import GalleryItem, GalleryPicture, gallery
from qwen_edit_async.display.thumbnails import make_thumbnail
from qwen_edit_async.images.kinds import is_data_uri, is_url

_WORKERS: Final = min(4, os.cpu_count() or 1)
_AHEAD: Final = 4 * _WORKERS


@attrs.frozen(kw_only=True)
class GalleryEdit:
    """An edit that is to be shown; the meaning of its members is that of :class:`GalleryItem`.

    Attributes:
        inputs: As the request had them.
        outputs: The files that were saved.
        previews: Whether small pictures are made; without, the page shows the files themselves.
    """

    key: str
    instruction: str
    inputs: tuple[Any, ...] = ()
    outputs: tuple[Path, ...] = ()
    parameters: Mapping[str, Any] = attrs.field(factory=dict)
    cost: Decimal | None = None
    task_id: str | None = None
    status: str | None = None
    error: str | None = None
    notes: tuple[str, ...] = ()
    previews: bool = True


def write_gallery(
    path: Path, edits: Iterable[GalleryEdit], *, title: str = "Edits", summary: Mapping[str, object] | None = None
) -> None:
    """Write the page; the name appears with the whole page or not at all. Blocks, with a few threads for thumbnails.

    Args:
        path: Where to; pictures are linked relative to it.
        edits: Pulled as they are written: only a few are held.
        title: The page's heading.
        summary: What is told of the whole, by name, at the top.

    Raises:
        OSError: If it can't be written.
    """
    with ThreadPoolExecutor(_WORKERS, "qwen-edit-gallery") as threads:
        items = _in_parallel(threads, lambda edit: _item(edit, path.parent), edits)
        write_whole(path, gallery(items, title=title, summary=summary))


def write_whole(path: Path, pieces: Iterable[str]) -> None:
    """Write a text file; the name appears with the whole text or not at all. Blocks.

    Raises:
        OSError: If it can't be written.
    """
    part = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        with part.open("x", encoding="utf-8", errors="replace", newline="\n") as file:
            file.writelines(pieces)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _in_parallel(
    threads: ThreadPoolExecutor, function: Callable[[GalleryEdit], GalleryItem], edits: Iterable[GalleryEdit]
) -> Iterator[GalleryItem]:
    """As ``threads.map``, but with only a few ahead of what was taken."""
    waiting: deque[Future[GalleryItem]] = deque()
    for edit in edits:
        waiting.append(threads.submit(function, edit))
        if len(waiting) > _AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _item(edit: GalleryEdit, folder: Path) -> GalleryItem:
    def picture(image: Any) -> GalleryPicture:
        thumbnail = make_thumbnail(image) if edit.previews else None
        return GalleryPicture(thumbnail=thumbnail, path=_link(image, folder), in_full=not edit.previews)

    return GalleryItem(
        key=edit.key,
        instruction=edit.instruction,
        before=tuple(map(picture, edit.inputs)),
        after=tuple(map(picture, edit.outputs)),
        parameters=edit.parameters,
        cost=edit.cost,
        task_id=edit.task_id,
        status=edit.status,
        error=edit.error,
        notes=edit.notes,
    )


def _link(image: Any, folder: Path) -> str | None:
    """Where a picture lies, seen from the page; ``None`` if it is no file, or lies on another drive."""
    if not isinstance(image, str | os.PathLike) or is_url(image) or is_data_uri(image):
        return None
    try:
        return Path(os.path.relpath(os.fspath(image), folder)).as_posix()
    except ValueError:
        return None
