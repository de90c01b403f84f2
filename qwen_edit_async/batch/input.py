"""What a bulk run is given: requests as they come, or a source of them that can be read as often as needed."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, TypeAlias, cast

import attrs

from qwen_edit_async.batch.content import hash_image, located
from qwen_edit_async.batch.gather import Gatherer
from qwen_edit_async.batch.journal.journal import JOURNAL_NAME
from qwen_edit_async.batch.sources import (
    SAYS_IT_ALL,
    EditDefaults,
    KeyNames,
    Known,
    Source,
    SourceItem,
    crowded_names,
    folded,
    folder_of,
    has_keys,
    is_source,
    read_source,
    request_of,
)
from qwen_edit_async.batch.targets import Targets
from qwen_edit_async.errors import ConfigurationError
from qwen_edit_async.images.kinds import BinaryReader, ImageInput, PillowImage, is_bare_base64, is_data_uri
from qwen_edit_async.models import EditRequest, RequestInput

BatchSource: TypeAlias = "Source | Iterable[RequestInput | ImageInput] | AsyncIterable[RequestInput | ImageInput]"
"""A folder, a pattern of files, a picture, a table's file, a data frame; or requests or images, one by one."""

_SINGLE: Final = (Mapping, bytes, bytearray, memoryview, BinaryReader, PillowImage)
"""One request or image, which would be taken for an iterable of what it consists of."""

_PAGE: Final = 256


@attrs.define(eq=False)
class BatchInput:
    """The input of a batch.

    Attributes:
        source: What the user gave.
        defaults: What to do with each picture or row that does not say.
        recursive: Whether a folder's folders are looked into.
        targets: Where the results go, which is no input.
        folder: Where relative paths are, in whatever folder the process works later.
        fit: Whether pictures in formats that the service does not take are converted, and so are edits.
    """

    source: BatchSource
    defaults: EditDefaults
    recursive: bool
    targets: Targets
    folder: str
    fit: bool = False
    _crowded: set[str] = attrs.field(factory=set)
    _settled: dict[str, str] = attrs.field(factory=dict)
    _count: int = 0
    _keys: set[str] = attrs.field(factory=set)

    def __attrs_post_init__(self) -> None:
        if is_bare_base64(self.source) or is_data_uri(self.source):
            raise ConfigurationError(
                "the input is Base64 text: give a folder, a pattern, a table, or a list of requests"
            )
        if isinstance(self.source, str | os.PathLike):
            self.source = os.path.expanduser(self.source)  # noqa: PTH111  # which takes "~nobody" for an error
        if self.described:
            return
        if not isinstance(self.source, Iterable | AsyncIterable) or isinstance(self.source, _SINGLE):
            raise ConfigurationError(
                f"the input is {type(self.source).__name__!r}: give a folder, a table, a data frame, or a list of "
                "requests or images"
            )
        if self.recursive:
            raise ConfigurationError("recursive is for a folder: leave it out")
        if self.defaults == EditDefaults() or not isinstance(self.source, Sequence):
            return
        if any(isinstance(each, EditRequest) for each in self.source):
            raise ConfigurationError(SAYS_IT_ALL)

    @property
    def described(self) -> bool:
        """Whether it is a source, such as a table: read page by page, on a thread."""
        return is_source(self.source)

    @property
    def repeatable(self) -> bool:
        """Whether it can be read twice."""
        return self.described or (isinstance(self.source, Iterable) and iter(self.source) is not self.source)

    def anew(self, *, fit: bool) -> BatchInput:
        """Return the same input for another plan or run, which knows nothing of this one's."""
        targets = Targets(self.targets.folder, self.targets.overwrite)
        return BatchInput(self.source, self.defaults, self.recursive, targets, self.folder, fit)

    def survey(self, note: Callable[[str], None], known: Known) -> Iterator[SourceItem]:
        """Each item, with its key; a later :meth:`feed` gives the same ones. Blocking.

        Args:
            note: Told what is good to know.
            known: What the journal calls an item that has no key of its own.

        Raises:
            ConfigurationError: If the source can't be read.
        """
        source = self.source
        if not is_source(source):
            return _requests(cast("Iterable[object]", source), self.defaults)
        if (
            not has_keys(source, self.folder)
            and Path(self.folder, str(source)).resolve() == self.targets.folder.resolve()
        ):
            raise ConfigurationError(
                "the results would be among the pictures, and be edited by the next run: use another output folder"
            )
        self._crowded = crowded_names(
            self.targets.noting_inputs(map(self._located, self._read(source, lambda _: None)))
        )
        self._settled = {}

        def settle(request: EditRequest, plain: str, hashed: str) -> str | None:
            key = known(located(request, self.folder), plain, hashed)
            if key is not None and key == (plain or hashed):
                self._settled[hashed] = key  # what the feed could not tell by itself
            return key

        return self._remembered(
            source, KeyNames(self._crowded, folder_of(source, self.folder), settle, hash_image), note
        )

    def _remembered(self, source: Source, names: KeyNames, note: Callable[[str], None]) -> Iterator[SourceItem]:
        count = 0
        for count, item in enumerate(self._items(source, names, note), 1):  # noqa: B007  # counted
            yield item
        self._count, self._keys = count, names.taken

    async def feed(self, thread: Gatherer) -> AsyncGenerator[SourceItem | RequestInput, None]:
        """Each item of a source, after :meth:`survey`; some at a time, so that nothing waits for a disk.

        Those that were there then, and are gone, are items with that problem, at the end.
        """
        source, count, gone = cast("Source", self.source), 0, self._keys

        def settled(*known: object) -> str | None:
            return self._settled.get(str(known[-1]))

        names = KeyNames(self._crowded, folder_of(source, self.folder), settled, hash_image)
        items = self._items(source, names, lambda _: None)
        try:
            while page := await thread.call(lambda: list(islice(items, _PAGE))):
                for item in page:
                    count += 1
                    if item.request is not None:
                        gone.discard(folded(item.request.key or ""))
                    yield item
            # A row of a table that has gone bad meanwhile has no key, but is still there.
            if gone and not (has_keys(source, self.folder) and count >= self._count):
                for key in sorted(gone):
                    yield SourceItem(problem="it was there when the run began, and is gone", place=key)
        finally:
            thread.call(items.close)

    def _items(self, source: Source, names: KeyNames, note: Callable[[str], None]) -> Generator[SourceItem, None, None]:
        for item in self._read(source, note):
            yield self._located(names.name(item))
        if names.note:
            note(names.note)

    def _located(self, item: SourceItem) -> SourceItem:
        return item if item.request is None else attrs.evolve(item, request=located(item.request, self.folder))

    def _read(self, source: Source, note: Callable[[str], None]) -> Iterator[SourceItem]:
        return read_source(
            source,
            self.defaults,
            base=self.folder,
            recursive=self.recursive,
            exclude=self.targets.folder,
            journal=JOURNAL_NAME,
            fit=self.fit,
            note=note,
        )


def _requests(given: Iterable[object], defaults: EditDefaults) -> Iterator[SourceItem]:
    for each in given:
        try:
            yield SourceItem(request=request_of(each, defaults))
        except Exception as error:  # noqa: BLE001  # whatever is wrong with one request is its own problem
            yield SourceItem(problem=str(error))
