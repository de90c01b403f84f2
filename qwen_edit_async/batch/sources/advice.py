"""Hints for a source without pictures. Blocking."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Final

from qwen_edit_async.text import counted

_BRACES: Final = re.compile(r"\{[^{}]*,[^{}]*\}")


def folder_advice(folder: Path, table_endings: Collection[str], *, recursive: bool) -> str:
    """Return a hint about the tables or the subfolders in a folder; empty if it has none."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    if advice := _table_advice(map(str, entries), table_endings):
        return advice
    folders = sum(entry.is_dir() for entry in entries)
    if folders and not recursive:
        searched = "folder was" if folders == 1 else "folders were"
        return f". Its {folders} {searched} not searched: use recursive=True"
    return ""


def pattern_advice(pattern: str, table_endings: Collection[str], matches: Callable[[str], Iterable[str]]) -> str:
    """Return a hint that says why a pattern may match less than intended; empty if no reason is found.

    Args:
        pattern: The pattern.
        table_endings: The endings of tables.
        matches: Called with a pattern; returns the files and folders that match.
    """
    if found := _BRACES.search(pattern):
        folder = os.path.dirname(pattern[: found.start()]) or "."
        return (
            f". A pattern can't have braces: give the folder, or a pattern such as {f'{folder}/*'!r}. "
            "Both skip files that are not pictures"
        )
    for folder in map(str, Path(pattern).parents):  # the longest path first
        if glob.has_magic(folder) and Path(folder).exists():
            escaped = glob.escape(folder) + pattern[len(folder) :]
            return f". In a pattern, [ and ] stand for one of several characters: write {escaped!r}"
    paths = list(matches(pattern))
    if advice := _table_advice(paths, table_endings):
        return advice
    if "**" in pattern:
        return ""
    if any(os.path.isdir(path) for path in paths):
        return f". It matches folders, but not the files in them: write {os.path.join(pattern, '*')!r}"
    folder, name = os.path.split(pattern)
    if any(os.path.isdir(path) for path in matches(os.path.join(folder, "*"))):
        return f". The folders below were not searched: write {os.path.join(folder, '**', name)!r}"
    return ""


def _table_advice(paths: Iterable[str], table_endings: Collection[str]) -> str:
    tables = [path for path in paths if os.path.splitext(path)[1].lower() in table_endings]
    if not tables:
        return ""
    return f". It holds {counted(len(tables), 'table')}: give each as a source of its own, such as {tables[0]}"
