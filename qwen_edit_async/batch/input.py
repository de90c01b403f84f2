"""The input of a bulk run: an iterable of requests, or a source that can be read repeatedly."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, TypeAlias, cast

import attrs

from qwen_edit_async.batch.counts import RowCounts
from qwen_edit_async.batch.fingerprint import identify, located
from qwen_edit_async.batch.identity import image_locator
from qwen_edit_async.batch.journal.journal import JOURNAL_NAME
from qwen_edit_async.batch.sources import (
    NO_DEFAULTS,
    EditDefaults,
    Source,
    SourceItem,
    has_keys,
    is_source,
    item_of,
    read_source,
    table_folder,
    tagged,
)
from qwen_edit_async.batch.targets import Targets
from qwen_edit_async.batch.worker import Worker
from qwen_edit_async.errors import ConfigurationError
from qwen_edit_async.images.kinds import BinaryReader, ImageInput, PillowImage, is_bare_base64, is_data_uri
from qwen_edit_async.models import EditRequest, RequestInput
from qwen_edit_async.session.stream import iterate
from qwen_edit_async.storage.bucket import BucketPath
from qwen_edit_async.text import quoted

BatchSource: TypeAlias = "Source | Iterable[RequestInput | ImageInput] | AsyncIterable[RequestInput | ImageInput]"
"""A folder, a file pattern, a picture, a table, a data frame, a dataset, or an iterable of requests or images."""

_SINGLE: Final = (Mapping, bytes, bytearray, memoryview, BinaryReader, PillowImage)
"""The types of a single request or image that could be mistaken for an iterable of requests or images."""

_PAGE: Final = 256


@attrs.define(eq=False)
class BatchInput:
    """The input of a batch, and the state of one plan or run that reads it.

    Attributes:
        source: The input as the user gave it.
        defaults: The instruction and the parameters for pictures and rows without them.
        recursive: Whether to read subfolders.
        targets: The folder of the results, which is not input.
        folder: The folder that relative paths start from.
        fit: Whether to convert images that the service would refuse.
        count: The number of rows that the last survey read.
        nothing_to_do: Whether a plan found nothing to do for any row, so that the run need not read the rows again.
    """

    source: BatchSource
    defaults: EditDefaults
    recursive: bool
    targets: Targets
    folder: str
    fit: bool = False
    count: int = 0
    nothing_to_do: bool = attrs.field(default=False, init=False)
    _counts: RowCounts = attrs.field(init=False)
    _contents: dict[str, str] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        if is_bare_base64(self.source) or is_data_uri(self.source):
            raise ConfigurationError(
                "the input is Base64 text: give a folder, a pattern, a table, or a list of requests"
            )
        if (bucket := BucketPath.of(self.source)) is not None:
            self.source = bucket
        elif isinstance(self.source, str | os.PathLike):
            self.source = os.path.expanduser(self.source)  # Path.expanduser raises for "~nobody"
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
            raise ConfigurationError(NO_DEFAULTS)

    @property
    def described(self) -> bool:
        """Whether the input is a source, such as a table, which is read page by page on a thread."""
        return is_source(self.source)

    @property
    def repeatable(self) -> bool:
        """Whether the input can be read twice."""
        return self.described or (isinstance(self.source, Iterable) and iter(self.source) is not self.source)

    def anew(self, *, fit: bool) -> BatchInput:
        """Return the same input for another plan or run, not read yet."""
        targets = Targets(self.targets.folder, self.targets.overwrite, self.targets.home)
        return BatchInput(self.source, self.defaults, self.recursive, targets, self.folder, fit)

    def survey(self, note: Callable[[str], None]) -> Iterator[SourceItem]:
        """Yield each row with its identity, and count the rows. Blocking.

        Args:
            note: Called with a remark about the input.

        Raises:
            ConfigurationError: If the source can't be read.
        """
        source, self.count, self._counts = self.source, 0, RowCounts()
        if not is_source(source):
            self._contents.clear()
            for given in cast("Iterable[object]", source):
                self.count += 1
                if (item := self._claim(item_of(given, self.defaults, self.count))) is not None:
                    yield item
            return
        if not has_keys(source, self.folder) and self._is_output(source):
            raise ConfigurationError(
                "the results would be among the pictures, and be edited by the next run: use another output folder"
            )
        for item in self._items(source, note):
            self.count += 1
            if item.request is not None:
                self.targets.note_inputs(item.request)
            yield item

    def feed(self, thread: Worker) -> AsyncGenerator[SourceItem, None]:
        """Yield each row with its identity. A source must have been surveyed. It is read in pages on a thread."""
        return self._pages(thread) if self.described else self._requests(thread)

    async def _requests(self, thread: Worker) -> AsyncGenerator[SourceItem, None]:
        self._contents.clear()
        number = 0
        requests = iterate(cast("Iterable[object] | AsyncIterable[object]", self.source))
        async with contextlib.aclosing(requests):
            async for given in requests:
                number += 1
                item = item_of(given, self.defaults, number)
                in_memory = item.request is not None and None in map(image_locator, item.request.images)
                claimed = await thread.call(self._claim, item) if in_memory else self._claim(item)
                if claimed is not None:
                    yield claimed

    async def _pages(self, thread: Worker) -> AsyncGenerator[SourceItem, None]:
        """Yield each row of a source, and then a problem for each row that has disappeared since the survey."""
        if self.nothing_to_do:
            return
        items = self._read_again(cast("Source", self.source))
        try:
            while page := await thread.call(lambda: list(islice(items, _PAGE))):
                for item in page:
                    yield item
        finally:
            thread.call(items.close)

    def _read_again(self, source: Source) -> Generator[SourceItem, None, None]:
        self._counts.start_again()
        left = self.count
        for item in tagged(self._items(source, lambda _: None)):
            left -= 1
            yield item
        # A table row that became invalid after the survey has no identity, but still exists.
        if left > 0 or not has_keys(source, self.folder):
            for identity in self._counts.missing():
                yield SourceItem(problem="it has disappeared since the run began", place=identity)

    def _claim(self, item: SourceItem) -> SourceItem | None:
        """Return an item with its identity, or with a problem if its key belongs to another request. Blocking.

        Return ``None`` if an earlier item was the same request.
        """
        request = item.request
        if request is None:
            return item
        identity = identify(request)
        content = identify(attrs.evolve(request, key=None)) if request.key else identity
        known = self._contents.get(identity)
        if known is None:
            self._contents[identity] = content
            return attrs.evolve(item, request=located(request, self.folder), identity=identity)
        if known == content:
            return None
        return attrs.evolve(item, request=None, problem="the key belongs to another request")

    def _items(self, source: Source, note: Callable[[str], None]) -> Generator[SourceItem, None, None]:
        """Yield each row with its identity. Equal rows get numbered identities. A repeated key is a problem."""
        folder = table_folder(source, self.folder)
        for item in self._read(source, note):
            request = item.request
            if request is None:
                yield item
                continue
            identity = item.identity or identify(request, folder)
            number = self._counts.add(identity)
            if number > 1 and request.key:
                problem = f"the key {quoted(request.key)} belongs to another row"
                yield SourceItem(row=item.row, place=item.place, problem=problem)
                continue
            identity = identity if number == 1 else f"{identity}-{number}"
            request = located(request, self.folder)
            yield SourceItem(row=item.row, place=item.place, request=request, identity=identity)

    def _is_output(self, source: Source) -> bool:
        if isinstance(source, BucketPath):
            return source == self.targets.folder
        return Path(self.folder, str(source)).resolve() == self.targets.home.resolve()

    def _read(self, source: Source, note: Callable[[str], None]) -> Iterator[SourceItem]:
        return read_source(
            source,
            self.defaults,
            base=self.folder,
            recursive=self.recursive,
            exclude=str(self.targets.folder) if isinstance(source, BucketPath) else os.path.realpath(self.targets.home),
            journal=JOURNAL_NAME,
            fit=self.fit,
            note=note,
        )
