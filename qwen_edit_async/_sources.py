"""Edits out of what lies on a disk: a directory, a glob, one picture, or a CSV or JSONL table.

Nothing here keeps a picture's content: a directory's files are looked at (16 bytes each), since formats are recognised
by content, and the edits hold paths. A table's columns are ``image``, ``image2``, ``image3``, ``instruction``, ``key``
and the parameters of :class:`EditParameters`; others travel along in ``EditRequest.metadata``.

::

    read_source ──► items, one a picture or row ──► name_items: a key of its own for each
"""

from __future__ import annotations

import contextlib
import csv
import difflib
import glob
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import attrs

from ._contract import MAX_IMAGES
from ._errors import ConfigurationError, InvalidEditError
from ._images import is_data_uri, is_url, sniff
from ._models import EditParameters, EditRequest
from ._requests import PARAMETER_NAMES
from ._results import safe_stem

_IMAGE_COLUMNS: Final = ("image", *(f"image{position}" for position in range(2, MAX_IMAGES + 1)))
_COLUMNS: Final = frozenset({*_IMAGE_COLUMNS, "instruction", "key", *PARAMETER_NAMES})
_HEAD_BYTES: Final = 16
_KEY_CHARACTERS: Final = 100
_TYPO_SIMILARITY: Final = 0.8
_DELIMITERS: Final = ",;\t"
_WORDS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@attrs.frozen(kw_only=True)
class SourceItem:
    """One edit of a source, or why one of its rows makes none.

    Attributes:
        row: In a table, the row as an editor numbers it, from 1, the header included; ``None`` elsewhere.
        request: The edit; its ``key`` is the table's, or ``None``.
        problem: Why there is none.
    """

    row: int | None = None
    request: EditRequest | None = None
    problem: str | None = None


@attrs.frozen
class EditDefaults:
    """What holds for each item that does not say otherwise.

    Attributes:
        instruction: What to do.
        parameters: How to do it.
    """

    instruction: str | None = None
    parameters: EditParameters = attrs.field(factory=EditParameters)


def read_source(
    source: str | os.PathLike[str],
    defaults: EditDefaults,
    *,
    recursive: bool = False,
    exclude: Path | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Iterator[SourceItem]:
    """The edits that a source describes, lazily; a table's row that makes none is an item that says why.

    Args:
        source: A directory, a glob, a picture, or a table: ``.csv`` or ``.tsv`` (UTF-8; commas, semicolons or tabs),
            ``.jsonl`` or ``.ndjson``. Relative paths in a table are relative to the table.
        defaults: For what the source does not say.
        recursive: Whether a directory's folders are looked into as well.
        exclude: A folder whose content is no input, such as the one that the results go to.
        note: Told what was left out, a sentence each.

    Raises:
        ConfigurationError: If there is no such source, it can't be read, or nothing in it says what to edit or how.
    """
    path = Path(source)
    if path.is_dir():
        where = f"{path} and its folders" if recursive else str(path)
        found = sorted(each for each in (path.rglob("*") if recursive else path.iterdir()) if _visible(each, path))
        return _pictures(found, where, defaults, exclude, note)
    if not path.exists():
        if not glob.has_magic(str(source)):
            raise ConfigurationError(f"there is no directory, file or pattern of files {str(source)!r}")
        # Path.glob knows no absolute patterns.
        found = sorted(Path(each) for each in glob.glob(str(source), recursive=True))  # noqa: PTH207  # as above
        return _pictures(found, f"what matches {str(source)!r}", defaults, exclude, note)
    if path.suffix.lower() in {".csv", ".tsv"}:
        return _csv_items(path, defaults, note)
    if path.suffix.lower() in {".jsonl", ".ndjson"}:
        return _jsonl_items(path, defaults, note)
    return _pictures([path], str(path), defaults, None, note)


def name_items(items: Iterable[SourceItem], note: Callable[[str], None] = lambda _: None) -> list[SourceItem]:
    """Give each edit a key of its own that can name files: the table's, else the first picture's name.

    Keys differ in more than case, for file systems that ignore it. Where pictures share a name, the later ones get a
    number, and ``note`` is told so; a key that a table has twice is the later row's problem.
    """
    rows = list(items)
    taken: set[str] = set()
    named: dict[int, SourceItem] = {}
    for index, item in enumerate(rows):
        if item.request is not None and item.request.key is not None:
            key = _as_key(item.request.key)
            if key.casefold() in taken:
                named[index] = attrs.evolve(item, request=None, problem=f"the key {key!r} is that of another row")
            else:
                taken.add(key.casefold())
                named[index] = attrs.evolve(item, request=attrs.evolve(item.request, key=key))
    renamed: list[tuple[str, str]] = []
    numbers: dict[str, int] = {}
    for index, item in enumerate(rows):
        if item.request is None or index in named:
            continue
        stem = key = _as_key(image_stem(str(item.request.images[0])) or f"row-{item.row}")
        while key.casefold() in taken:
            numbers[stem] = numbers.get(stem, 1) + 1
            key = f"{stem}-{numbers[stem]}"
        if key != stem:
            renamed.append((stem, key))
        taken.add(key.casefold())
        named[index] = attrs.evolve(item, request=attrs.evolve(item.request, key=key))
    if renamed:
        stem, key = renamed[0]
        note(f"{len(renamed)} pictures share a name with another: their results get a number, such as {key} for {stem}")
    return [named.get(index, item) for index, item in enumerate(rows)]


def image_stem(image: str) -> str:
    """The name of a picture without its ending, out of its path or URL; empty for a data URI."""
    if is_data_uri(image):
        return ""
    return PurePath(unquote(urlsplit(image).path) if is_url(image) else image).stem


def _pictures(
    paths: Iterable[Path],
    where: str,
    defaults: EditDefaults,
    exclude: Path | None,
    note: Callable[[str], None],
) -> Iterator[SourceItem]:
    if defaults.instruction is None:
        raise ConfigurationError("pictures say nothing about what to do with them: give an instruction")
    excluded = exclude.resolve() if exclude is not None else None
    others: list[str] = []
    count = 0
    for path in paths:
        if not path.is_file() or (excluded is not None and path.resolve().is_relative_to(excluded)):
            continue
        if not _is_picture(path):
            others.append(path.name)
            continue
        count += 1
        yield SourceItem(request=EditRequest(str(path), defaults.instruction, defaults.parameters))
    if not count:
        raise ConfigurationError(f"there is no JPEG, PNG, BMP, TIFF, WEBP or GIF picture in {where}")
    if others:
        names = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")  # noqa: PLR2004  # as many as are named
        note(f"{len(others)} of the files are no pictures that the service takes, and are left out: {names}")


def _visible(path: Path, root: Path) -> bool:
    """Hidden files are other programs' business: previews, and downloads that are not whole yet."""
    return not any(part.startswith(".") for part in path.relative_to(root).parts)


def _is_picture(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return sniff(file.read(_HEAD_BYTES)) is not None
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read: {error.strerror}") from None


def _csv_items(path: Path, defaults: EditDefaults, note: Callable[[str], None]) -> Iterator[SourceItem]:
    lines = _lines(path)
    header = next(lines, "")
    delimiter = max(_DELIMITERS, key=header.count)
    columns = [_column(name) for name in next(csv.reader([header], delimiter=delimiter), [])]
    _check_columns(path, columns, defaults, note)
    reader = csv.reader(lines, delimiter=delimiter)
    row = 1
    try:
        for row, cells in enumerate(reader, 2):
            values = [cell.strip() for cell in cells]
            if not any(values):
                continue
            if any(values[len(columns) :]):
                yield SourceItem(row=row, problem=f"it has {len(values)} cells, but there are {len(columns)} columns")
                continue
            fields = {name: value for name, value in zip(columns, values, strict=False) if value}
            yield _item(row, fields, path.parent, defaults, _from_text)
    except csv.Error as error:
        raise ConfigurationError(
            f"{path} is no table after row {row}: {error} (long texts, such as data URIs, belong into JSON Lines)"
        ) from None
    if row == 1:
        raise ConfigurationError(f"{path} has a header, but no rows")


def _jsonl_items(path: Path, defaults: EditDefaults, note: Callable[[str], None]) -> Iterator[SourceItem]:
    count = 0
    noted: set[str] = set()
    for row, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        count += 1
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield SourceItem(row=row, problem=f"it is not JSON: {error}")
            continue
        if not isinstance(fields, dict):
            yield SourceItem(row=row, problem="it is no JSON object")
            continue
        fields = {_column(name): value for name, value in fields.items() if value is not None}
        if (typo := _typo(fields)) is not None:
            yield SourceItem(row=row, problem=typo)
            continue
        if new := [name for name in fields if name not in _COLUMNS and name not in noted]:
            noted.update(new)
            note(_unused(new))
        yield _item(row, fields, path.parent, defaults, lambda _, value: value)
    if not count:
        raise ConfigurationError(f"{path} has no rows")


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from file
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is not UTF-8 text: save it as such") from None
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read: {error.strerror}") from None


def _check_columns(path: Path, columns: list[str], defaults: EditDefaults, note: Callable[[str], None]) -> None:
    if (typo := _typo(columns)) is not None:
        raise ConfigurationError(f"{path}: {typo}")
    if "image" not in columns:
        raise ConfigurationError(f"{path} has no column 'image': its first row names the columns")
    if len(set(columns)) < len(columns):
        raise ConfigurationError(f"{path} has two columns of one name")
    if "instruction" not in columns and defaults.instruction is None:
        raise ConfigurationError(f"{path} has no column 'instruction': add one, or give an instruction for all rows")
    if unused := [name for name in columns if name and name not in _COLUMNS]:
        note(_unused(unused))


def _column(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _typo(names: Iterable[str]) -> str | None:
    for name in names:
        if name not in _COLUMNS and (near := difflib.get_close_matches(name, _COLUMNS, 1, _TYPO_SIMILARITY)):
            return f"there is no column {name!r}: is it {near[0]!r}?"
    return None


def _unused(names: list[str]) -> str:
    return f"the edits make no use of: {', '.join(names)}"


def _item(
    row: int, fields: Mapping[str, Any], folder: Path, defaults: EditDefaults, convert: Callable[[str, Any], Any]
) -> SourceItem:
    try:
        options = {name: convert(name, fields[name]) for name in PARAMETER_NAMES & fields.keys()}
        request = EditRequest(
            [_located(fields[name], folder) for name in _IMAGE_COLUMNS if fields.get(name)],
            fields.get("instruction") or defaults.instruction or "",
            attrs.evolve(defaults.parameters, **options),
            key=str(fields["key"]) if "key" in fields else None,
            metadata={name: value for name, value in fields.items() if name not in _COLUMNS},
        )
    except InvalidEditError as error:
        return SourceItem(row=row, problem=str(error))
    return SourceItem(row=row, request=request)


def _located(image: object, folder: Path) -> str:
    if not isinstance(image, str):
        raise InvalidEditError(f"an image is {image!r}: give a path, an http(s) URL or a data URI")
    return image if is_data_uri(image) or "://" in image else str(folder / image)


def _from_text(name: str, text: str) -> Any:
    """A parameter out of a cell of a CSV table; what is wrong with its value is found by :class:`EditParameters`."""
    if name in {"prompt_extend", "watermark"}:
        return _WORDS.get(text.lower(), text)
    if name in {"n", "seed"}:
        with contextlib.suppress(ValueError):
            return int(text)
    return text


def _as_key(text: str) -> str:
    return safe_stem(text)[:_KEY_CHARACTERS]
