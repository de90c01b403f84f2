"""A key of its own for each item of a source, that can name files. Pure."""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final, TypeAlias
from urllib.parse import unquote, urlsplit

import attrs

from qwen_edit_async.batch.sources.item import SourceItem
from qwen_edit_async.batch.sources.signed import unsigned
from qwen_edit_async.errors import InvalidEditError
from qwen_edit_async.images.kinds import image_name, is_data_uri, is_url
from qwen_edit_async.models import EditRequest
from qwen_edit_async.session.results import safe_stem
from qwen_edit_async.text import quoted

_KEY_CHARACTERS: Final = 100
_HASH_BYTES: Final = 5
_NAMELESS: Final = "edit"

Known: TypeAlias = "Callable[[EditRequest, str, str], str | None]"
"""Of a request, its picture's name if several have it, and that name with the hash: what earlier runs called it."""


class KeyNames:
    """Gives each item of a source a key of its own: the table's, else the first picture's name.

    Where several items have one name, in any case, a short hash is added: of the images' paths as the source has them
    (of their content, for images in memory), the instruction and the parameters. So no key depends on where in the
    source its item is, or on what else is there; items that are the same in all of that are numbered. What earlier runs
    have called an item stays, so that names that come to be, or cease to be, those of several items change nothing. A
    key that a table has twice is the later row's problem.

    Args:
        crowded: See :func:`crowded_names`.
        folder: Where the source is: what lies in it is known by its path from there.
        known: What earlier runs have called an item.
        hash_image: What an image in memory is called in such a hash.
    """

    def __init__(
        self,
        crowded: Collection[str] = frozenset(),
        folder: str = "",
        known: Known = lambda *_: None,
        hash_image: Callable[[Any, str], str] = lambda image, _: _digest(image),
    ) -> None:
        self._hash_image = hash_image
        self._crowded = crowded
        self._prefix = folder and os.path.join(folder, "")  # noqa: PTH118  # text, no access
        self._known = known
        self._taken: set[str] = set()
        self._numbers: dict[str, int] = {}
        self._renamed = 0
        self._example = ""

    @property
    def taken(self) -> set[str]:
        """The keys so far, folded."""
        return self._taken

    @property
    def note(self) -> str:
        """What users may want to know about the names so far; empty if there is nothing."""
        if not self._renamed:
            return ""
        return (
            f"{self._renamed} edits share their picture's name with another: their results get a short hash, such as "
            f"{self._example}"
        )

    def name(self, item: SourceItem) -> SourceItem:
        """The item with its key, or with a problem instead of a request."""
        request = item.request
        if request is None:
            return item
        if request.key is not None:
            key = as_key(request.key)
            if folded(key) in self._taken:
                return attrs.evolve(item, request=None, problem=f"the key {quoted(key)} is that of another row")
        else:
            try:
                key = self._choose(request)
            except InvalidEditError as error:  # an image in memory that can't be read
                return attrs.evolve(item, request=None, problem=str(error))
        self._taken.add(folded(key))
        return item if key == request.key else attrs.evolve(item, request=attrs.evolve(request, key=key))

    def _choose(self, request: EditRequest) -> str:
        plain = _plain_name(request)
        key = hashed = self._hashed(request)
        if folded(plain) in self._crowded:
            key = self._known(request, plain, hashed) or hashed
        elif plain:
            key = self._known(request, "", hashed) or plain
        if folded(key) in self._taken:
            key = hashed
        while folded(key) in self._taken:
            self._numbers[hashed] = self._numbers.get(hashed, 1) + 1
            key = f"{hashed}-{self._numbers[hashed]}"
        if plain and key != plain:
            self._renamed += 1
            self._example = self._example or f"{key} for {plain}"
        return key

    def _hashed(self, request: EditRequest) -> str:
        images = [
            image.removeprefix(self._prefix)
            if isinstance(image, str) and not is_data_uri(image)
            else self._hash_image(image, image_name(image, position))
            for position, image in enumerate(request.images, 1)
        ]
        return hashed_key([unsigned(image) for image in images], request)


def hashed_key(images: Sequence[str], request: EditRequest) -> str:
    """Return the key of a request that shares its picture's name with others, or has none."""
    parameters = attrs.asdict(request.parameters, filter=lambda _, value: value is not None)
    text = json.dumps([images, request.instruction, parameters])
    return f"{_plain_name(request) or _NAMELESS}-{_digest(text.encode(), _HASH_BYTES)}"


def crowded_names(items: Iterable[SourceItem]) -> set[str]:
    """Names, folded, that no item may take from its picture: those of several pictures, and the table's own keys.

    If all items have keys of their own, there is nothing to keep them for.
    """
    own: set[str] = set()
    seen: set[str] = set()
    crowded: set[str] = set()
    for item in items:
        if item.request is None:
            continue
        if item.request.key is not None:
            own.add(folded(as_key(item.request.key)))
            continue
        name = folded(_plain_name(item.request))
        if name in seen:
            crowded.add(name)
        seen.add(name)
    return crowded | own if seen else set()


def image_stem(image: object) -> str:
    """The name of a picture without its ending, out of its path or URL; empty for one in memory, or a data URI."""
    if not isinstance(image, str | os.PathLike) or is_data_uri(image):
        return ""
    text = str(image)
    path = unquote(urlsplit(text).path) if is_url(text) else text
    return os.path.splitext(os.path.basename(path.rstrip("/")))[0]  # noqa: PTH119, PTH122  # text, no access


def as_key(text: str) -> str:
    """A text as a key that can name files."""
    return safe_stem(text)[:_KEY_CHARACTERS]


def folded(name: str) -> str:
    """What names have in common whose files would be one on a disk that ignores case, or how letters are composed."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def _plain_name(request: EditRequest) -> str:
    return as_key(image_stem(request.images[0]))


def _digest(data: Any, size: int = 20) -> str:
    content = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    return hashlib.blake2b(content, digest_size=size).hexdigest()
