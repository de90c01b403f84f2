"""The kinds of sources, and their rows. Blocking."""

from __future__ import annotations

import functools
import glob
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, TypeGuard, runtime_checkable

from qwen_edit_async.batch.sources.advice import folder_advice, pattern_advice
from qwen_edit_async.batch.sources.folders import Search, is_picture, picture_items
from qwen_edit_async.batch.sources.frames import frame_items, parquet_items
from qwen_edit_async.batch.sources.item import EditDefaults, SourceItem
from qwen_edit_async.batch.sources.tables import csv_items, jsonl_items
from qwen_edit_async.errors import ConfigurationError
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


Source: TypeAlias = "str | os.PathLike[str] | DataFrameLike"
"""A folder, a pattern of files, a picture, a table, or a data frame."""

_TABLES: Final = {
    ".csv": csv_items,
    ".tsv": csv_items,
    ".jsonl": jsonl_items,
    ".ndjson": jsonl_items,
    ".parquet": parquet_items,
    ".pq": parquet_items,
}
_TABLE_ADVICE: Final = (
    f"Tables are {', '.join([*_TABLES][:-1])} or {[*_TABLES][-1]}: "
    "save a spreadsheet as CSV, write JSON as one object per line, and unpack an archive"
)


def is_source(value: object) -> TypeGuard[Source]:
    """Return whether a value is a :data:`Source`, and not an iterable of requests."""
    return isinstance(value, str | os.PathLike | DataFrameLike)


def has_keys(source: Source, base: str = "") -> bool:
    """Return whether a source is a table, which may have keys; for ``base`` see :func:`read_source`."""
    return not isinstance(source, str | os.PathLike) or (
        (path := Path(base, source)).suffix.lower() in _TABLES and os.path.isfile(path)  # noqa: PTH113  # False for a name too long
    )


def read_source(
    source: Source,
    defaults: EditDefaults,
    *,
    base: str = "",
    recursive: bool = False,
    exclude: Path | None = None,
    journal: str = "",
    fit: bool = False,
    note: Callable[[str], None] = lambda _: None,
) -> Iterator[SourceItem]:
    """Yield the rows of a source as they are read. A row that is not an edit has a problem.

    Args:
        source: A directory, a glob, a picture, a data frame, or a table: ``.csv`` or ``.tsv`` (UTF-8; commas,
            semicolons or tabs), ``.jsonl`` or ``.ndjson``, ``.parquet``. Relative paths in a table are relative to it.
        defaults: The defaults for rows that leave something out.
        base: The folder that a relative source is in; empty for the working directory. A data frame's paths stay as
            they are.
        recursive: Whether the folders of a directory are read as well.
        exclude: A folder that is not input, such as the folder of the results.
        journal: The name of the file that marks a folder with the results of a run. Such folders and system folders are
            left out of the folders of a directory, and of those that wildcards in a pattern stand for.
        fit: Whether pictures in formats that the service does not take are converted, and become edits.
        note: Called with a remark about each kind of file that was left out.

    Raises:
        ConfigurationError: If the source is missing or can't be read, or if it has no pictures or no instruction.
    """
    if not isinstance(source, str | os.PathLike):
        return frame_items(source, defaults, note)
    path = Path(base, source)
    search = Search(None if exclude is None else os.path.realpath(exclude), journal)
    if os.path.isdir(path):  # noqa: PTH112  # False for a name that is too long, where a Path raises
        where = f"{path} and its folders" if recursive else str(path)
        advice = functools.partial(folder_advice, path, _TABLES, recursive=recursive)
        found = search.files_of(str(path), recursive=recursive)
        return picture_items(found, where, defaults, search, note, folder=str(path), fit=fit, advice=advice)
    if not os.path.exists(path):  # noqa: PTH110  # as above
        if not glob.has_magic(str(source)):
            raise ConfigurationError(
                f"there is no directory, file or pattern of files {quoted(str(source))}{pattern_advice(str(source))}"
            )
        where = f"what matches {quoted(str(source))}"
        advice = functools.partial(pattern_advice, str(source))
        found = search.matches_of(str(source), base)
        folder = os.path.join(base, _folder_before(str(source)))  # noqa: PTH118  # as above
        return picture_items(found, where, defaults, search, note, folder=folder, fit=fit, advice=advice)
    if (table_items := _TABLES.get(path.suffix.lower())) is not None:
        return table_items(path, defaults, note)
    if not is_picture(str(path)):
        raise ConfigurationError(
            f"{path} is neither a JPEG, PNG, BMP, TIFF, WEBP or GIF picture nor a table. {_TABLE_ADVICE}"
        )
    return picture_items([str(path)], str(path), defaults, Search(), note, folder=str(path.parent), fit=fit)


def table_folder(source: Source, base: str = "") -> str:
    """Return the folder that a table is in, which its paths begin with; empty for a data frame."""
    return str(Path(base, source).parent) if isinstance(source, str | os.PathLike) else ""


def _folder_before(pattern: str) -> str:
    """Return the folder in front of a pattern's first wildcard."""
    while glob.has_magic(pattern):
        pattern = os.path.dirname(pattern)  # noqa: PTH120  # text, no access
    return pattern
