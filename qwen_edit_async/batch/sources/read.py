"""Recognises the kind of a source, and reads its rows. Blocking."""

from __future__ import annotations

import functools
import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, TypeGuard, runtime_checkable

from qwen_edit_async.batch.sources.advice import folder_advice, pattern_advice
from qwen_edit_async.batch.sources.buckets import bucket_items, files_of
from qwen_edit_async.batch.sources.folders import PICTURE, Search, is_picture
from qwen_edit_async.batch.sources.frames import dataset_items, frame_items, parquet_items
from qwen_edit_async.batch.sources.item import EditDefaults, SourceItem
from qwen_edit_async.batch.sources.tables import csv_items, jsonl_items
from qwen_edit_async.errors import ConfigurationError
from qwen_edit_async.storage.bucket import BucketPath
from qwen_edit_async.storage.paths import FilePath
from qwen_edit_async.text import quoted


@runtime_checkable
class DataFrameLike(Protocol):
    """The members by which a data frame (pandas, polars, PyArrow) is recognised."""

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
    """The members by which a dataset of Hugging Face is recognised."""

    @property
    def column_names(self) -> Any:
        """The names of the columns."""
        ...

    @property
    def features(self) -> Any:
        """The types of the columns, by name."""
        ...

    def cast_column(self, column: str, feature: Any) -> Any:
        """Return the dataset with another type of a column."""
        ...


Source: TypeAlias = "str | os.PathLike[str] | DataFrameLike | DatasetLike"
"""A folder, a pattern of files, a picture, a table, a data frame, or a dataset."""

_TABLES: Final = {".csv": csv_items, ".tsv": csv_items, ".jsonl": jsonl_items, ".ndjson": jsonl_items}
_PARQUET: Final = (".parquet", ".pq")
_TABLE_ENDINGS: Final = (*_TABLES, *_PARQUET)
_TABLE_ADVICE: Final = (
    f"Tables are {', '.join(_TABLE_ENDINGS[:-1])} or {_TABLE_ENDINGS[-1]}: "
    "save a spreadsheet as CSV, write JSON as one object per line, and unpack an archive"
)


def is_source(value: object) -> TypeGuard[Source]:
    """Return whether a value is a :data:`Source`, and not an iterable of requests."""
    return isinstance(value, str | os.PathLike | DataFrameLike | DatasetLike)


def has_keys(source: Source, base: str = "") -> bool:
    """Return whether a source is a table, whose rows can have keys. ``base`` is as in :func:`read_source`."""
    return not isinstance(source, str | os.PathLike) or bool(_tables_of(source, base))


def _tables_of(source: str | os.PathLike[str], base: str) -> Sequence[FilePath]:
    """Return the file of a table, or the Parquet files of a folder or a pattern; none if the source is not a table."""
    path = BucketPath.of(source) or Path(base, source)
    is_table = path.suffix.lower() in _TABLE_ENDINGS
    if isinstance(path, BucketPath):
        is_pattern = glob.has_magic(path.name)
        parts = _parts(path.parent if is_pattern else path, (name for name, _ in files_of(path)))
        return [path] if is_table and not is_pattern and not parts else parts
    if is_table and os.path.isfile(path):
        return [path]
    if not os.path.isdir(path):
        return _parts(Path(base), glob.iglob(str(source), root_dir=base or None))
    try:
        return _parts(path, os.listdir(path))
    except OSError:  # reading the folder's pictures reports the error
        return []


def _parts(folder: FilePath, names: Iterable[str]) -> Sequence[FilePath]:
    """Return the paths of Parquet files; none if there are other files. Files such as ``_SUCCESS`` are ignored."""
    parts = []
    for name in names:
        path = folder / name
        if path.suffix.lower() in _PARQUET:
            parts.append(path)
        elif not path.name.startswith((".", "_")):
            return []
    return sorted(parts, key=str)


def read_source(
    source: Source,
    defaults: EditDefaults,
    *,
    base: str = "",
    recursive: bool = False,
    exclude: str = "",
    journal: str = "",
    fit: bool = False,
    note: Callable[[str], None] = lambda _: None,
) -> Iterator[SourceItem]:
    """Yield the rows of a source as they are read. A row that can't be edited has a ``problem``.

    Args:
        source: The source. Relative paths in a table are relative to it.
        defaults: The instruction and the parameters for rows without them.
        base: The folder that a relative source is in; empty for the working directory.
        recursive: Whether to read subfolders.
        exclude: The real path, or the URL, of a folder that is not input, such as the folder of the results.
        journal: The name of the file that marks a folder with the results of a run.
        fit: Whether pictures in formats that the service refuses are converted. Otherwise they are reported as
            problems.
        note: Called with a remark about files or columns that are left out.

    Raises:
        ConfigurationError: If the source is missing or can't be read, or if it has no pictures or no instruction.
    """
    if isinstance(source, DatasetLike):
        return dataset_items(source, defaults, note)
    if not isinstance(source, str | os.PathLike):
        return frame_items(source, defaults, note)
    if tables := _tables_of(source, base):
        items_of = _TABLES.get(tables[0].suffix.lower())
        return parquet_items(tables, defaults, note) if items_of is None else items_of(tables[0], defaults, note)
    if (bucket := BucketPath.of(source)) is not None:
        return bucket_items(bucket, defaults, note=note, recursive=recursive, exclude=exclude)
    search = Search(defaults=defaults, note=note, fit=fit, exclude=exclude, journal=journal)
    return _local_items(search, str(source), base, recursive=recursive)


def _local_items(search: Search, source: str, base: str, *, recursive: bool) -> Iterator[SourceItem]:
    path = Path(base, source)
    if os.path.isdir(path):
        return _folder_items(search, path, recursive=recursive)
    if not os.path.exists(path):
        return _pattern_items(search, source, base)
    if not is_picture(str(path)):
        raise ConfigurationError(f"{path} is neither a {PICTURE} nor a table. {_TABLE_ADVICE}")
    single = Search(defaults=search.defaults, note=search.note, fit=search.fit)  # it may be the result of another run
    return single.items([str(path)], str(path), str(path.parent))


def _folder_items(search: Search, folder: Path, *, recursive: bool) -> Iterator[SourceItem]:
    where = f"{folder} and its folders" if recursive else str(folder)
    advice = functools.partial(folder_advice, folder, _TABLE_ENDINGS, recursive=recursive)
    return search.items(search.files_of(str(folder), recursive=recursive), where, str(folder), advice)


def _pattern_items(search: Search, pattern: str, base: str) -> Iterator[SourceItem]:
    advice = functools.partial(pattern_advice, pattern, _TABLE_ENDINGS, functools.partial(search.matches_of, base=base))
    if not glob.has_magic(pattern):
        raise ConfigurationError(f"there is no directory, file or pattern of files {quoted(pattern)}{advice()}")
    folder = pattern
    while glob.has_magic(folder):  # the folder before the first wildcard
        folder = os.path.dirname(folder)
    where = f"the files that match {quoted(pattern)}"
    return search.items(search.matches_of(pattern, base), where, os.path.join(base, folder), advice)


def table_folder(source: Source, base: str = "") -> str:
    """Return a table's folder, which its relative paths start from; empty for any other source."""
    tables = _tables_of(source, base) if isinstance(source, str | os.PathLike) else ()
    return str(tables[0].parent) if tables else ""
