"""Turns the cells of a table's row into an edit. Pure.

An empty cell (nothing, blanks, NaN, NA) takes the default.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

import attrs

from qwen_edit_async.batch.rules.item import Reading, SourceItem
from qwen_edit_async.errors import ConfigurationError, InvalidEditError
from qwen_edit_async.images.kinds import (
    ArrayLike,
    BinaryReader,
    Openable,
    PillowImage,
    is_bare_base64,
    is_data_uri,
    unwrapped,
)
from qwen_edit_async.models import IMAGE_NAMES, PARAMETER_NAMES, EditRequest, named_parameters
from qwen_edit_async.storage.bucket import BucketPath
from qwen_edit_async.text import quoted

_COLUMNS: Final = frozenset({*IMAGE_NAMES, "instruction", "key", "parameters", *PARAMETER_NAMES})
_KINDS: Final = (bytes, bytearray, memoryview, PillowImage, ArrayLike, BinaryReader, Openable)
_INTEGERS: Final = frozenset({"n", "seed"})
_BOOLEANS: Final = frozenset({"prompt_extend", "watermark"})
_TEXTS: Final = frozenset({"instruction", "negative_prompt"})
_HALF_CHARACTER: Final = re.compile("[\\ud800-\\udfff]")
_LISTED_CHARACTERS: Final = 200
_TYPO_SIMILARITY: Final = 0.8
_WORDS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_NOTHING: Final = frozenset({"", "nan", "na", "n/a", "<na>", "none", "null", "nat"})
"""Words by which spreadsheets and data frames mark an empty cell. In the column ``key``, such a word is a key."""


@attrs.define(eq=False)
class Rows:
    """Turns the rows of a table into edits.

    Attributes:
        folder: The folder, possibly in a bucket, from which relative paths start; empty for the working directory.
        reading: The options for reading the table.
        typed: Whether to keep the types of cells, as for JSON. Otherwise, text such as ``"3"`` may become a number.
    """

    folder: str | os.PathLike[str]
    reading: Reading
    typed: bool = False
    _noted: set[str] = attrs.field(factory=set)

    def check_columns(self, where: str, names: Iterable[object]) -> list[str]:
        """Return the normalized names of the columns.

        Raises:
            ConfigurationError: If a needed column is missing, or if a name is repeated or likely a typo.
        """
        columns = [column_name(name) for name in names]
        if (typo := _typo(columns)) is not None:
            raise ConfigurationError(f"{where}: {typo}")
        if "image" not in columns:
            raise ConfigurationError(f"{where} has no column 'image': its columns are {_listed(columns)}")
        if len(set(filter(None, columns))) < len([*filter(None, columns)]):
            raise ConfigurationError(f"{where} has two columns with the same name")
        if "instruction" not in columns and self.reading.defaults.instruction is None:
            raise ConfigurationError(
                f"{where} has no column 'instruction': add one, or give an instruction for all rows"
            )
        self._note_unused(columns)
        return columns

    def item_of_fields(self, row: int, fields: Mapping[str, Any]) -> SourceItem:
        """Return the edit of a row that names its own columns, as in JSON Lines."""
        named = {column_name(name): value for name, value in fields.items()}
        if (typo := _typo(named)) is not None:
            return SourceItem(row=row, problem=typo)
        self._note_unused(named)
        return self.item(row, named)

    def item(self, row: int, fields: Mapping[str, Any]) -> SourceItem:
        """Return the edit of a row whose column names are normalized."""
        defaults = self.reading.defaults
        try:
            cells = {name: value for name, each in fields.items() if (value := cell_value(name, each)) is not None}
            if (given := cells.pop("parameters", None)) is not None:
                cells = _parameters_of(given) | cells
            _check_cells(cells)
            options = {name: self._parameter(name, cells[name]) for name in PARAMETER_NAMES & cells.keys()}
            request = EditRequest(
                [self._located(cells[name]) for name in IMAGE_NAMES if name in cells],
                cells.get("instruction", defaults.instruction or ""),
                attrs.evolve(defaults.parameters, **options) if options else defaults.parameters,
                key=_key(cells["key"]) if "key" in cells else None,
                metadata={name: value for name, value in cells.items() if name not in _COLUMNS},
            )
        except InvalidEditError as error:
            return SourceItem(row=row, problem=str(error), kind=error.summary)
        return SourceItem(row=row, request=request)

    def _parameter(self, name: str, value: Any) -> Any:
        """Return the value of a parameter in its Python type. :class:`EditParameters` checks the value."""
        if isinstance(value, str):
            return value if self.typed else _from_text(name, value)
        if name in _INTEGERS and isinstance(value, float) and value.is_integer():
            return int(value)  # an empty cell turns a data frame's column of integers into floats
        if name in _BOOLEANS and not self.typed and type(value) in {int, float} and value in {0, 1}:
            return bool(value)
        return value

    def _located(self, image: Any) -> Any:
        image = unwrapped(image)
        if isinstance(image, BucketPath):
            return image
        if isinstance(image, os.PathLike):
            image = os.fspath(image)
        if not isinstance(image, str):
            if isinstance(image, _KINDS):
                return image
            raise InvalidEditError(f"an image is {quoted(image)}: give a path, an http(s) URL or a data URI")
        if is_data_uri(image) or is_bare_base64(image) or "://" in image or not self.folder:
            return image
        if isinstance(self.folder, BucketPath) and not os.path.isabs(image):
            return self.folder / image
        return os.path.join(self.folder, image)

    def _note_unused(self, names: Iterable[str]) -> None:
        if new := [name for name in names if name and name not in _COLUMNS and name not in self._noted]:
            self._noted.update(new)
            self.reading.note(f"columns that are not used: {_listed(new)}")


def column_name(name: object) -> str:
    """Return a column's name in lower case, with underscores for spaces and hyphens."""
    return str(name).strip().lower().replace(" ", "_").replace("-", "_")


def cell_value(name: str, value: Any) -> Any:
    """Return the value of a cell as a Python object; ``None`` for an empty cell. Blanks around text are removed."""
    if isinstance(value, str):
        value = value.strip()
        return None if value.lower() in _NOTHING and (not value or name != "key") else value
    if hasattr(value, "item") and getattr(value, "shape", None) == ():  # a NumPy scalar
        value = value.item()
    if value is None or type(value).__name__ in {"NAType", "NaTType"} or (isinstance(value, float) and value != value):  # noqa: PLR0124  # only NaN differs from itself
        return None
    return value


def _listed(names: Iterable[str]) -> str:
    text = ", ".join(names) or "none"
    return text if len(text) <= _LISTED_CHARACTERS else f"{text[:_LISTED_CHARACTERS]}…"


def _typo(names: Iterable[str]) -> str | None:
    for name in names:
        if name not in _COLUMNS and (near := difflib.get_close_matches(name, _COLUMNS, 1, _TYPO_SIMILARITY)):
            return f"there is no column {quoted(name)}: did you mean {near[0]!r}?"
    return None


def _check_cells(cells: Mapping[str, Any]) -> None:
    if "image" not in cells:
        others = any(name in cells for name in IMAGE_NAMES)
        raise InvalidEditError(
            "the column 'image' is empty, though another image is given" if others else "there is no image"
        )
    for name in _TEXTS & cells.keys():
        # EditRequest allows lone surrogates, because a JSON body can hold them. In a table, they are likely a mistake.
        if isinstance(cells[name], str) and _HALF_CHARACTER.search(cells[name]):
            raise InvalidEditError(f"the {name} has half a character (a lone surrogate)")


def _parameters_of(cell: Any) -> dict[str, Any]:
    if not isinstance(cell, Mapping):
        raise InvalidEditError(f"the parameters are {cell!r:.200}: give an object, or a column for each parameter")
    return {name: value for name, value in named_parameters(cell).items() if value is not None}


def _key(value: Any) -> str:
    if isinstance(value, bool) or (isinstance(value, Collection) and not isinstance(value, str)):
        raise InvalidEditError(f"the key is {quoted(value)}: give text or a number")
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _from_text(name: str, text: str) -> Any:
    if name in _BOOLEANS:
        return _WORDS.get(text.lower(), text)
    if name in _INTEGERS:
        with contextlib.suppress(ValueError):
            return int(text.removesuffix(".0"))
    return text
