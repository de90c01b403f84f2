"""Reads the rows of a CSV table, or the lines of a JSON Lines file. Blocking."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Iterator
from typing import Final

from qwen_edit_async.batch.rules.item import Reading, SourceItem
from qwen_edit_async.batch.rules.rows import Rows
from qwen_edit_async.errors import ConfigurationError
from qwen_edit_async.storage.paths import FilePath

_DELIMITERS: Final = ",;\t"
_QUOTED: Final = re.compile(r'"[^"]*"')
_DECLARED: Final = re.compile(r'"?sep=(\t|[^\w\s"])"?\s*', re.IGNORECASE)
"""The line in which spreadsheets declare the cell separator."""

_ADVICE: Final = "inside a quoted cell, write each quote twice; put long texts, such as data URIs, in JSON Lines"


def csv_items(path: FilePath, reading: Reading) -> Iterator[SourceItem]:
    """Yield an edit or a problem for each row that is not blank. Rows are numbered as in a spreadsheet.

    Commas, semicolons or tabs separate cells, unless a ``sep=`` line declares another character.
    """
    rows = Rows(path.parent, reading)
    lines = _lines(path)
    header, before, first, delimiter = _header(lines)
    # Without strict=True, an unclosed quote would silently put all rows below into one cell.
    reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True)
    columns: list[str] = []
    for row in itertools.count(header):
        line = before + reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            last = before + reader.line_num
            # Without a header, no column is known. After a bad row of several lines, the next row's start is unknown.
            if row == header or last != line:
                raise ConfigurationError(
                    f"{path}: row {row}, from line {line} to {last}, is badly quoted: {error}"
                ) from None
            problem = f"line {line} can't be read as a row: {error} ({_ADVICE})"
            yield SourceItem(row=row, problem=problem, kind=f"the line can't be read as a row ({_ADVICE})")
            continue
        if row == header:
            columns = rows.check_columns(str(path), cells or [])
        elif cells is None:
            break
        elif any(cell.strip() for cell in cells[len(columns) :]):
            yield SourceItem(row=row, problem=f"it has {len(cells)} cells, but there are {len(columns)} columns")
        elif any(cell.strip() for cell in cells):
            yield rows.item(row, {name: cell for name, cell in zip(columns, cells, strict=False) if name})


def _header(lines: Iterator[str]) -> tuple[int, int, str, str]:
    """Return the row number of the header, the number of lines above it, the header's first line, and the separator."""
    blank, first, declared = 0, "", None
    for first in lines:
        if declared is None and (declared := _DECLARED.fullmatch(first)) is not None:
            continue  # spreadsheets do not count the declaration as a row
        if first.strip(f"{_DELIMITERS} \r\n"):
            break
        blank += 1
    else:
        first = ""
    if declared is not None:
        return blank + 1, blank + 1, first, declared[1]
    return blank + 1, blank, first, max(_DELIMITERS, key=_QUOTED.sub("", first).count)


def jsonl_items(path: FilePath, reading: Reading) -> Iterator[SourceItem]:
    """Yield an edit or a problem for each line that is not blank. A line must be a JSON object."""
    rows = Rows(path.parent, reading, typed=True)
    for row, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield SourceItem(row=row, problem=f"it is not JSON: {error}", kind="it is not JSON")
            continue
        if isinstance(fields, dict):
            yield rows.item_of_fields(row, fields)
        else:
            yield SourceItem(row=row, problem="it is not a JSON object")


def _lines(path: FilePath) -> Iterator[str]:
    try:
        with io.TextIOWrapper(path.open("rb"), encoding="utf-8-sig", newline="") as file:
            yield from file
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is not UTF-8 text: save it as UTF-8") from None
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read: {error.strerror}") from None
