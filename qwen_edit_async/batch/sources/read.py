"""Recognises the kind of a source, and reads its rows. Blocking."""

from __future__ import annotations

import functools
import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, TypeGuard, runtime_checkable

import attrs

from qwen_edit_async.batch.rules.item import EditDefaults, Reading, SourceItem
from qwen_edit_async.batch.sources.buckets import bucket_items, files_of
from qwen_edit_async.batch.sources.folders import PICTURE, Search, is_picture
from qwen_edit_async.batch.sources.frames import dataset_items, frame_items, parquet_items
from qwen_edit_async.batch.sources.tables import csv_items, jsonl_items
from qwen_edit_async.errors import ConfigurationError
from qwen_edit_async.storage.bucket import BucketPath
from qwen_edit_async.storage.paths import FilePath
from qwen_edit_async.text import counted, quoted


@runtime_checkable
class DataFrameLike(Protocol):
    """The members that identify a data frame (pandas, polars, PyArrow)."""

    @property
    def columns(self) -> Any:
        """The columns, or their names."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The numbers of rows and columns."""
        ...


@runtime_checkable
class DatasetLike(Protocol):
    """The members that identify a Hugging Face dataset."""

    @property
    def column_names(self) -> Any:
        """The names of the columns."""
        ...

    @property
    def features(self) -> Any:
        """The types of the columns, by name."""
        ...

    def cast_column(self, column: str, feature: Any) -> Any:
        """Return the dataset with the type of one column changed."""
        ...


Source: TypeAlias = "str | os.PathLike[str] | DataFrameLike | DatasetLike"
"""A folder, a pattern of files, a picture, a table, a data frame, or a dataset."""

_BRACES: Final = re.compile(r"\{[^{}]*,[^{}]*\}")
_TABLES: Final = {".csv": csv_items, ".tsv": csv_items, ".jsonl": jsonl_items, ".ndjson": jsonl_items}
_PARQUET: Final = (".parquet", ".pq")
_TABLE_ENDINGS: Final = (*_TABLES, *_PARQUET)
_TABLE_ADVICE: Final = (
    f"A table has the extension {', '.join(_TABLE_ENDINGS[:-1])} or {_TABLE_ENDINGS[-1]}. "
    "If the file is a spreadsheet, save it as CSV. If it is JSON, write one object per line to a .jsonl file. "
    "If it is an archive, unpack it"
)


def is_source(value: object) -> TypeGuard[Source]:
    """Return whether a value is a :data:`Source`, and not an iterable of requests."""
    return isinstance(value, str | os.PathLike | DataFrameLike | DatasetLike)


def is_table(source: Source, base: str = "") -> bool:
    """Return whether a source is a table, whose rows can have keys. A relative ``source`` starts from ``base``."""
    return not isinstance(source, str | os.PathLike) or bool(_tables_of(source, base))


def _tables_of(source: str | os.PathLike[str], base: str) -> Sequence[FilePath]:
    """Return a table's file, or the Parquet files of a folder or a pattern. Return nothing for other sources."""
    path = BucketPath.of(source) or Path(base, source)
    has_ending = path.suffix.lower() in _TABLE_ENDINGS
    if isinstance(path, BucketPath):
        is_pattern = glob.has_magic(path.name)
        names = ("".join(name.partition("/")[:2]) for name, _ in files_of(path, recursive=not is_pattern))
        parts = _parts(path.parent if is_pattern else path, names)
        return [path] if has_ending and not is_pattern and not parts else parts
    if has_ending and os.path.isfile(path):
        return [path]
    if not os.path.isdir(path):
        return _parts(Path(base), Search(Reading(EditDefaults())).matches_of(str(source), base))
    try:
        return _parts(path, os.listdir(path))
    except OSError:  # the search for pictures reports the error later
        return []


def _parts(folder: FilePath, names: Iterable[str]) -> Sequence[FilePath]:
    """Return the paths of Parquet files. Return nothing if there are other files, or folders.

    Names that start with ``_`` or ``.``, such as ``_SUCCESS``, are ignored. A bucket's folder ends in ``/``.
    """
    parts = []
    for name in names:
        path = folder / name
        if path.name.startswith((".", "_")):
            continue
        if os.path.splitext(name)[1].lower() not in _PARQUET or (isinstance(path, Path) and path.is_dir()):
            return []
        parts.append(path)
    return sorted(parts, key=str)


def read_source(source: Source, reading: Reading) -> Iterator[SourceItem]:
    """Yield the rows of a source as they are read. A row that can't be edited has a ``problem``.

    Relative paths in a table start from the table's folder.

    Raises:
        ConfigurationError: If the source is missing, unreadable or empty, if an instruction or a column is missing or
            wrong, or if an extra is not installed.
    """
    if isinstance(source, DatasetLike):
        return _with_rows(dataset_items(source, reading), "the dataset")
    if not isinstance(source, str | os.PathLike):
        return _with_rows(frame_items(source, reading), "the data frame")
    if not str(source):
        raise ConfigurationError('the source is empty text: give a folder, such as "." for the working directory')
    if tables := _tables_of(source, reading.base):
        items_of = _TABLES.get(tables[0].suffix.lower())
        items = parquet_items(tables, reading) if items_of is None else items_of(tables[0], reading)
        return _with_rows(items, str(tables[0]))
    if (bucket := BucketPath.of(source)) is not None:
        return bucket_items(bucket, reading)
    return _local_items(str(source), reading)


def _with_rows(items: Iterator[SourceItem], where: str) -> Iterator[SourceItem]:
    """Yield the rows of a table. Refuse a table without rows."""
    is_empty = True
    for item in items:
        is_empty = False
        yield item
    if is_empty:
        raise ConfigurationError(f"{where} has no rows")


def _local_items(source: str, reading: Reading) -> Iterator[SourceItem]:
    path, search = Path(reading.base, source), Search(reading)
    if os.path.isdir(path):
        where = f"{path} and its folders" if reading.recursive else str(path)
        advice = functools.partial(_folder_advice, path, recursive=reading.recursive)
        return search.items(search.files_of(str(path)), where, str(path), advice)
    if not os.path.exists(path):
        return _pattern_items(search, source, reading.base)
    if not is_picture(str(path)):
        raise ConfigurationError(f"{path} is neither a {PICTURE} nor a table. {_TABLE_ADVICE}")
    # A picture given by its path is edited even if it is in the folder of the results.
    single = Search(attrs.evolve(reading, exclude=""))
    return single.items([str(path)], str(path), str(path.parent))


def _pattern_items(search: Search, pattern: str, base: str) -> Iterator[SourceItem]:
    def advice() -> str:
        return _pattern_advice(pattern, lambda other: search.matches_of(other, base))

    if not glob.has_magic(pattern):
        raise ConfigurationError(f"there is no file or folder {quoted(pattern)}{advice()}")
    where = f"the files that match {quoted(pattern)}"
    return search.items(search.matches_of(pattern, base), where, os.path.join(base, _folder_of(pattern)), advice)


def _folder_of(pattern: str) -> str:
    """Return the folder before the first wildcard of a pattern."""
    while glob.has_magic(pattern):
        pattern = os.path.dirname(pattern)
    return pattern


def table_folder(source: Source, base: str = "") -> str:
    """Return the folder that the identities of a table file's rows are relative to; empty for any other source.

    It does not depend on which files match a pattern, because a new file must not change the rows of other files.
    """
    if not isinstance(source, str | os.PathLike) or not (tables := _tables_of(source, base)):
        return ""
    if isinstance(tables[0], BucketPath) or os.path.exists(Path(base, source)):
        return str(tables[0].parent)
    return str(Path(base, _folder_of(str(source))))


def _folder_advice(folder: Path, *, recursive: bool) -> str:
    """Return a hint about the tables or subfolders of a folder, or an empty string."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    if advice := _table_advice(map(str, entries)):
        return advice
    folders = sum(entry.is_dir() for entry in entries)
    if folders and not recursive:
        searched = "folder was" if folders == 1 else "folders were"
        return f". Its {folders} {searched} not searched: use recursive=True"
    return ""


def _pattern_advice(pattern: str, matches: Callable[[str], Iterable[str]]) -> str:
    """Return a hint about why a pattern may match less than intended; empty if no reason is found.

    ``matches`` is called with a pattern, and returns the files and folders that match.
    """
    if found := _BRACES.search(pattern):
        folder = os.path.dirname(pattern[: found.start()]) or "."
        return (
            f". A pattern can't have braces: give the folder, or a pattern such as {f'{folder}/*'!r}. "
            "Files that are not pictures are skipped"
        )
    for folder in map(str, Path(pattern).parents):  # the longest path first
        if glob.has_magic(folder) and Path(folder).exists():
            escaped = glob.escape(folder) + pattern[len(folder) :]
            return f". In a pattern, *, ? and [ are wildcards. If they belong to the folder's name, write {escaped!r}"
    paths = list(matches(pattern))
    if advice := _table_advice(paths):
        return advice
    if "**" in pattern:
        return ""
    if any(os.path.isdir(path) for path in paths):
        return f". The pattern matches folders, but not the files in them: write {os.path.join(pattern, '*')!r}"
    folder, name = os.path.split(pattern)
    if any(os.path.isdir(path) for path in matches(os.path.join(folder, "*"))):
        return f". Subfolders were not searched: write {os.path.join(folder, '**', name)!r}"
    return ""


def _table_advice(paths: Iterable[str]) -> str:
    tables = [path for path in paths if os.path.splitext(path)[1].lower() in _TABLE_ENDINGS]
    if not tables:
        return ""
    return f". Found {counted(len(tables), 'table')} instead: give each table as a separate source, such as {tables[0]}"
