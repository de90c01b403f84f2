"""Hints for a source without pictures. Blocking."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

_BRACES: Final = re.compile(r"\{[^{}]*,[^{}]*\}")


def folder_advice(folder: Path, table_endings: Collection[str], *, recursive: bool) -> str:
    """Return which of a folder's entries could be a source; empty if none could."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    tables = [entry for entry in entries if entry.suffix.lower() in table_endings]
    if tables:
        count = f"{len(tables)} table{'' if len(tables) == 1 else 's'}"
        return f". It holds {count}: give each as a source of its own, such as {tables[0]}"
    folders = sum(entry.is_dir() for entry in entries)
    if folders and not recursive:
        searched = "folder was" if folders == 1 else "folders were"
        return f". Its {folders} {searched} not searched: use recursive=True"
    return ""


def pattern_advice(pattern: str) -> str:
    """Return why a pattern may match less than was meant; empty if the pattern shows no reason."""
    if found := _BRACES.search(pattern):
        folder = os.path.dirname(pattern[: found.start()]) or "."
        return (
            f". A pattern can't have braces: give the folder, or a pattern such as {f'{folder}/*'!r}. "
            "Both skip files that are not pictures"
        )
    for folder in map(str, Path(pattern).parents):  # the longest first
        if glob.has_magic(folder) and Path(folder).exists():
            escaped = glob.escape(folder) + pattern[len(folder) :]
            return f". In a pattern, [ and ] stand for one of several characters: write {escaped!r}"
    if any(map(os.path.isdir, glob.glob(pattern, recursive=True))):
        return f". It matches folders, but not the files in them: write {os.path.join(pattern, '*')!r}"
    return ""
