"""A key of its own for each item of a source, that can name files. Pure."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Final
from urllib.parse import unquote, urlsplit

import attrs

from qwen_edit_async._images import is_data_uri, is_url
from qwen_edit_async._results import safe_stem

from ._item import SourceItem

_KEY_CHARACTERS: Final = 100


class KeyNames:
    """Gives each item of a source a key of its own: the table's, else the first picture's name.

    Keys differ in more than case, for file systems that ignore it. Where pictures share a name, the later ones get a
    number; a key that a table has twice is the later row's problem.

    Args:
        reserved: The table's own keys, case-folded: no picture's name takes them from their rows.
    """

    def __init__(self, reserved: Collection[str] = frozenset()) -> None:
        self._reserved = reserved
        self._taken: set[str] = set()
        self._numbers: dict[str, int] = {}
        self._renamed = 0
        self._example = ""

    @property
    def note(self) -> str:
        """What users may want to know about the names so far; empty if there is nothing."""
        if not self._renamed:
            return ""
        return (
            f"{self._renamed} pictures share a name with another: their results get a number, such as {self._example}"
        )

    def name(self, item: SourceItem) -> SourceItem:
        """The item with its key, or with a problem instead of a request."""
        request = item.request
        if request is None:
            return item
        if request.key is not None:
            key = as_key(request.key)
            folded = key.casefold()
            if folded in self._taken:
                return attrs.evolve(item, request=None, problem=f"the key {key!r} is that of another row")
        else:
            stem = key = as_key(image_stem(str(request.images[0])) or f"row-{item.row}")
            while (folded := key.casefold()) in self._taken or folded in self._reserved:
                self._numbers[stem] = self._numbers.get(stem, 1) + 1
                key = f"{stem}-{self._numbers[stem]}"
            if key != stem:
                self._renamed += 1
                self._example = self._example or f"{key} for {stem}"
        self._taken.add(folded)
        return item if key == request.key else attrs.evolve(item, request=attrs.evolve(request, key=key))


def image_stem(image: str) -> str:
    """The name of a picture without its ending, out of its path or URL; empty for a data URI."""
    if is_data_uri(image):
        return ""
    path = unquote(urlsplit(image).path) if is_url(image) else image
    return os.path.splitext(os.path.basename(path.rstrip("/")))[0]  # noqa: PTH119, PTH122  # text, no access


def as_key(text: str) -> str:
    """A text as a key that can name files."""
    return safe_stem(text)[:_KEY_CHARACTERS]
