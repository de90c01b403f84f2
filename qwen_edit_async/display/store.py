"""Keeps the thumbnails of files in one SQLite file, so that each thumbnail is made once. Blocking.

If the SQLite file can't be read or written, each thumbnail is made whenever it is needed.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from qwen_edit_async.display.links import relative_path
from qwen_edit_async.display.thumbnails import Thumbnail, make_thumbnail
from qwen_edit_async.images.findings import ImageError
from qwen_edit_async.images.source import check_regular, local_path
from qwen_edit_async.log import log
from qwen_edit_async.storage.bucket import BucketPath

STORE_NAME: Final = "qwen-edit-thumbnails.sqlite3"

_WORKERS: Final = min(4, os.cpu_count() or 1)

_SETUP: Final = """
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = OFF;
    CREATE TABLE IF NOT EXISTS thumbnails (
        path TEXT PRIMARY KEY, stamp TEXT NOT NULL, content BLOB NOT NULL, width INTEGER NOT NULL,
        height INTEGER NOT NULL
    );
"""
"""SQLite does not sync the file to disk, because a lost thumbnail can be made again."""


class ThumbnailStore:
    """The thumbnails of a bulk run's inputs and results. The store can be used from any thread.

    Paths of pictures are stored relative to the folder of the SQLite file where possible, so the folder and the
    pictures can be moved together.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._makers = ThreadPoolExecutor(_WORKERS, "qwen-edit-thumbnails")
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def get(self, image: Any, *, current: bool = False) -> Thumbnail | None:
        """Return the thumbnail of a file; ``None`` if the image is not a file, or if no thumbnail can be made.

        A local file that has changed gets a new thumbnail. With ``current``, so does a file in a bucket.
        """
        known = self._name_and_stamp(image, current=current)
        return None if known is None else self._find(known) or self._make(image, known)

    def get_all(self, images: Iterable[Any], may_make: Callable[[], bool]) -> dict[Any, Thumbnail | None]:
        """Return a mapping from each file to its thumbnail, or to ``None`` if there is no thumbnail.

        Missing files, and images that are not files, are left out. ``may_make`` returns whether to make a missing
        thumbnail. It is called on several threads.
        """
        known = {image: file for image in images if (file := self._name_and_stamp(image)) is not None}

        def find_or_make(image: Any) -> Thumbnail | None:
            return self._find(known[image]) or (self._make(image, known[image]) if may_make() else None)

        with ThreadPoolExecutor(_WORKERS, "qwen-edit-thumbnails") as makers:
            return dict(zip(known, makers.map(find_or_make, known), strict=True))

    def make_soon(self, images: Iterable[Any]) -> None:
        """Make the thumbnails of files on background threads. Return at once."""
        for image in images:
            self._makers.submit(self.get, image, current=True)

    def finish(self) -> None:
        """Wait for the thumbnails in progress. Thumbnails that :meth:`make_soon` has only queued are not made."""
        self._makers.shutdown(cancel_futures=True)

    def close(self) -> None:
        """Call :meth:`finish`, and close the SQLite file."""
        self.finish()
        with self._lock:
            if self._connection is not None:
                self._connection.close()

    def _find(self, known: tuple[str, str]) -> Thumbnail | None:
        row = self._query("SELECT content, width, height FROM thumbnails WHERE path = ? AND ? IN (stamp, '')", known)
        return None if row is None else Thumbnail(*row)

    def _make(self, image: Any, known: tuple[str, str]) -> Thumbnail | None:
        thumbnail = make_thumbnail(image)
        if thumbnail is not None:
            values = (*known, thumbnail.content, thumbnail.width, thumbnail.height)
            self._query("INSERT OR REPLACE INTO thumbnails VALUES (?, ?, ?, ?, ?)", values)
        return thumbnail

    def _query(self, statement: str, values: tuple[Any, ...]) -> Any:
        try:
            with self._lock:
                if self._connection is None:
                    file = self._folder / STORE_NAME
                    self._connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
                    self._connection.executescript(_SETUP)
                return self._connection.execute(statement, values).fetchone()
        except (sqlite3.Error, UnicodeError) as error:  # some file names are not valid UTF-8
            log.debug("the thumbnail store in %s failed: %s", self._folder, error)
            return None

    def _name_and_stamp(self, image: Any, *, current: bool = False) -> tuple[str, str] | None:
        """Return a file's path, and a stamp of its size and modification time; ``None`` if the image is not a file.

        The stamp of a file in a bucket is its tag if ``current``. Otherwise it is empty, which stands for any stamp,
        because requesting each file's tag would take long.
        """
        bucket, path = BucketPath.of(image), local_path(image)
        try:
            if bucket is not None:
                return str(bucket), bucket.tag() if current else ""
            if path is None:
                return None
            status = check_regular(path)
        except (OSError, ImageError):
            return None
        return relative_path(path, self._folder) or path, f"{status.st_size}:{status.st_mtime_ns}"
