"""Makes links from a page, or from a notebook's output, to files."""

from __future__ import annotations

import os
import posixpath
from urllib.parse import quote

from qwen_edit_async.storage.bucket import BucketPath
from qwen_edit_async.text import escape


def relative_path(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> str | None:
    """Return a file's path relative to a folder, with ``/`` between folders; ``None`` if there is no such path."""
    if isinstance(path, BucketPath) and isinstance(folder, BucketPath) and path.root == folder.root:
        return posixpath.relpath(f"/{path.key}", f"/{folder.key}")
    if isinstance(path, BucketPath) or isinstance(folder, BucketPath):
        return None
    try:
        return os.path.relpath(path, folder).replace(os.sep, "/")
    except ValueError:
        return None


def href(path: str) -> str:
    """Return a relative path as an escaped link, which never has a scheme or a host."""
    return escape(f"./{quote(path, errors='replace')}")
