"""Reads the rows of a Parquet file or of a data frame (pandas, polars, PyArrow). Blocking.

A file needs the extra ``parquet``, and a data frame the extra ``frames``. The extra ``tables`` includes both.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from qwen_edit_async.batch.sources.item import EditDefaults, SourceItem
from qwen_edit_async.batch.sources.rows import Rows
from qwen_edit_async.errors import ConfigurationError
from qwen_edit_async.text import counted

_PAGE: Final = 256
"""Rows per page. It is small because a row may hold whole pictures."""


def parquet_items(path: Path, defaults: EditDefaults, note: Callable[[str], None]) -> Iterator[SourceItem]:
    """Yield an edit for each row, numbered from 1. The file is read a page of rows at a time.

    Raises:
        ConfigurationError: If the file is not a Parquet table with these columns, or if PyArrow is not installed.
    """
    parquet = _extra("pyarrow.parquet", "a Parquet file needs PyArrow", "parquet")
    rows = Rows(str(path.parent), defaults, typed=False, note=note)
    try:
        with parquet.ParquetFile(path) as file:
            names = rows.check_columns(str(path), file.schema_arrow.names)
            pages = (page.to_pylist() for page in file.iter_batches(_PAGE))
            yield from _items(rows, names, (each.values() for page in pages for each in page), 1, str(path))
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read: {error.strerror or error}") from None
    except ValueError as error:  # PyArrow's own errors are ValueErrors
        raise ConfigurationError(f"{path} is not a Parquet file: {error}") from None


def frame_items(frame: Any, defaults: EditDefaults, note: Callable[[str], None]) -> Iterator[SourceItem]:
    """Yield an edit for each row, numbered by its position from 0. Paths are relative to the working directory.

    Raises:
        ConfigurationError: If a column or the rows are missing, or if Narwhals is not installed.
    """
    narwhals = _extra("narwhals", "a data frame needs Narwhals", "frames")
    rows = Rows("", defaults, typed=False, note=note)
    try:
        native = narwhals.from_native(frame, eager_only=True)
        names = rows.check_columns("the data frame", native.columns)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{type(frame).__name__!r} can't be read as a data frame: {error}") from None
    yield from _items(rows, names, native.iter_rows(buffer_size=_PAGE), 0, "the data frame")


def _items(rows: Rows, names: list[str], values: Iterator[Any], first: int, where: str) -> Iterator[SourceItem]:
    count = 0
    try:
        for count, cells in enumerate(values, 1):
            yield rows.item(first + count - 1, dict(zip(names, cells, strict=True)))
    except (OverflowError, ValueError) as error:  # a cell that Python has no value for, such as a date in year 12000
        raise ConfigurationError(f"{where} can't be read beyond {counted(count, 'row')}: {error}") from None
    if not count:
        raise ConfigurationError(f"{where} has no rows")


def _extra(module: str, need: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigurationError(f'{need}: pip install "qwen-edit-async[{extra}]"') from None
