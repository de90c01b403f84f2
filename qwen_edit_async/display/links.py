"""Links from a page, or from a notebook's output, to files on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from qwen_edit_async.text import escape


def relative_path(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> str | None:
    """Return the path from a folder to a file, with ``/`` between folders; ``None`` if the drives differ."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:
        return None


def href(path: str) -> str:
    """Return a relative path as an escaped link, which never has a scheme or a host."""
    return escape(f"./{quote(path, errors='replace')}")
