"""Reads the rows of Parquet files, of a data frame (pandas, polars, PyArrow) or of a Hugging Face dataset. Blocking.

A Parquet file needs the extra ``parquet``, and a data frame the extra ``frames``. The extra ``tables`` includes both.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from qwen_edit_async.batch.rules.item import Reading, SourceItem
from qwen_edit_async.batch.rules.rows import Rows
from qwen_edit_async.errors import ConfigurationError
from qwen_edit_async.storage.paths import FilePath
from qwen_edit_async.text import counted

_PAGE: Final = 256
"""The number of rows read at a time. It is small because a row may hold whole pictures."""


def parquet_items(paths: Sequence[FilePath], reading: Reading) -> Iterator[SourceItem]:
    """Yield an edit for each row of one or more Parquet files. In each file, rows are numbered from 1."""
    rows = Rows("", reading)
    for path in paths:
        rows.folder = path.parent
        yield from _file_items(path, path.name if len(paths) > 1 else "", rows)


def _file_items(path: FilePath, place: str, rows: Rows) -> Iterator[SourceItem]:
    parquet = _extra("pyarrow.parquet", "a Parquet file needs PyArrow", "parquet")
    try:
        with (
            contextlib.nullcontext(path) if isinstance(path, Path) else path.open() as source,
            parquet.ParquetFile(source) as file,
        ):
            names = rows.check_columns(str(path), file.schema_arrow.names)
            pages = (page.to_pylist() for page in file.iter_batches(_PAGE))
            items = _items(rows, names, (each.values() for page in pages for each in page), 1, str(path))
            yield from (attrs.evolve(item, place=place) for item in items) if place else items
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read: {error.strerror or error}") from None
    except ValueError as error:  # includes pyarrow.ArrowInvalid
        raise ConfigurationError(f"{path} is not a Parquet file: {error}") from None


def frame_items(frame: Any, reading: Reading) -> Iterator[SourceItem]:
    """Yield an edit for each row of a data frame. Rows are numbered from 0.

    Image paths are relative to the working directory.
    """
    narwhals = _extra("narwhals", "a data frame needs Narwhals", "frames")
    rows = Rows("", reading)
    try:
        native = narwhals.from_native(frame, eager_only=True)
        names = rows.check_columns("the data frame", native.columns)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{type(frame).__name__!r} can't be read as a data frame: {error}") from None
    return _items(rows, names, native.iter_rows(buffer_size=_PAGE), 0, "the data frame")


def dataset_items(dataset: Any, reading: Reading) -> Iterator[SourceItem]:
    """Yield an edit for each row of a Hugging Face dataset. Rows are numbered from 0.

    Image files in the dataset are not decoded. Image paths are relative to the working directory.
    """
    columns = dataset.column_names
    if columns is None:
        raise ConfigurationError("the dataset's columns are not known: name them with features= or cast()")
    rows = Rows("", reading)
    names = rows.check_columns("the dataset", columns)
    for name, feature in dataset.features.items():
        if getattr(feature, "decode", False):  # a column of images or other files
            dataset = dataset.cast_column(name, dataclasses.replace(feature, decode=False))
    # The members of a streamed row can be in another order than the columns.
    values = ([row.get(column) for column in columns] for row in dataset.with_format(None))
    return _items(rows, names, values, 0, "the dataset")


def _items(rows: Rows, names: list[str], values: Iterator[Any], first: int, where: str) -> Iterator[SourceItem]:
    count = 0
    try:
        for count, cells in enumerate(values, 1):
            yield rows.item(first + count - 1, dict(zip(names, cells, strict=True)))
    except (OverflowError, ValueError) as error:  # Python can't represent a cell's value, such as the year 12000
        raise ConfigurationError(f"reading {where} failed after {counted(count, 'row')}: {error}") from None


def _extra(module: str, need: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigurationError(f'{need}: pip install "qwen-edit-async[{extra}]"') from None
