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
from qwen_edit_async.batch.fingerprint import identify, identities_of, located
from qwen_edit_async.batch.output import BatchOutput
from qwen_edit_async.batch.rules.item import NO_DEFAULTS, EditDefaults, Reading, SourceItem, item_of
from qwen_edit_async.batch.sources import Source, is_source, is_table, read_source, table_folder, tagged
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

    Each row gets an identity, by which later runs recognise the row's edit.

    Attributes:
        source: The user's input.
        reading: The options for reading the input.
        output: The results folder, whose files are not read as input.
        count: The number of rows that the last call of :meth:`survey` read.
        nothing_to_do: Whether a plan found neither work nor problems, so that the run need not read the rows again.
    """

    source: BatchSource
    reading: Reading
    output: BatchOutput
    count: int = attrs.field(default=0, init=False)
    nothing_to_do: bool = attrs.field(default=False, init=False)
    _counts: RowCounts = attrs.field(init=False)

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
        if self.reading.recursive:
            raise ConfigurationError("recursive is for a folder: leave recursive out")
        if self.reading.defaults == EditDefaults() or not isinstance(self.source, Sequence):
            return
        if any(isinstance(each, EditRequest) for each in self.source):
            raise ConfigurationError(NO_DEFAULTS)

    @property
    def described(self) -> bool:
        """Whether the input is a source, such as a folder or a table. Sources are read page by page on a thread."""
        return is_source(self.source)

    @property
    def repeatable(self) -> bool:
        """Whether the input can be read twice."""
        return self.described or (isinstance(self.source, Iterable) and iter(self.source) is not self.source)

    def anew(self, *, fit: bool) -> BatchInput:
        """Return an unread copy of the input for another plan or run."""
        return attrs.evolve(self, output=attrs.evolve(self.output), reading=attrs.evolve(self.reading, fit=fit))

    def survey(self, note: Callable[[str], None]) -> Iterator[SourceItem]:
        """Yield each row with its identity, and count the rows. Blocking.

        Args:
            note: Called with a remark about the input.

        Raises:
            ConfigurationError: If the source can't be read.
        """
        source, self.count, self._counts = self.source, 0, RowCounts()
        if not is_source(source):
            for given in cast("Iterable[object]", source):
                self.count += 1
                if (item := self._claim(item_of(given, self.reading.defaults, self.count))) is not None:
                    yield item
            return
        if not is_table(source, self.reading.base) and self._is_output(source):
            raise ConfigurationError(
                "the results would be among the pictures, and be edited by the next run: use another output folder"
            )
        for item in self._items(source, note):
            self.count += 1
            if item.request is not None:
                self.output.note_inputs(item.request)
            yield item

    def feed(self, thread: Worker) -> AsyncGenerator[SourceItem, None]:
        """Yield each row with its identity. If the input is ``described``, the caller must run :meth:`survey` first."""
        return self._pages(thread) if self.described else self._requests(thread)

    async def _requests(self, thread: Worker) -> AsyncGenerator[SourceItem, None]:
        number, self._counts = 0, await thread.call(RowCounts)
        requests = iterate(cast("Iterable[object] | AsyncIterable[object]", self.source))
        async with contextlib.aclosing(requests):
            async for given in requests:
                number += 1
                if (item := await thread.call(self._claim, item_of(given, self.reading.defaults, number))) is not None:
                    yield item

    async def _pages(self, thread: Worker) -> AsyncGenerator[SourceItem, None]:
        """Yield each row of a source, and then a problem for each row that has disappeared since the survey."""
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
        # missing() also yields a table row that became invalid after the survey, but is still there.
        # So for a table, missing() is used only if this reading had fewer rows than the survey.
        if left > 0 or not is_table(source, self.reading.base):
            for identity in self._counts.missing():
                yield SourceItem(problem="it has disappeared since the run began", place=identity)

    def _claim(self, item: SourceItem) -> SourceItem | None:
        """Return an item with its identity, or with a problem; ``None`` if it repeats an earlier item. Blocking."""
        if item.request is None:
            return item
        identity, content = identities_of(item.request)
        number, first = self._counts.add(identity, content)
        if number == 1:
            return attrs.evolve(item, request=located(item.request, self.reading.base), identity=identity)
        return None if first == content else item.refused("the key belongs to another request")

    def _items(self, source: Source, note: Callable[[str], None]) -> Generator[SourceItem, None, None]:
        """Yield each row with its identity. Equal rows get numbered identities. A row that repeats a key is refused."""
        folder = table_folder(source, self.reading.base)
        exclude = str(self.output.folder) if isinstance(source, BucketPath) else os.path.realpath(self.output.home)
        for item in read_source(source, attrs.evolve(self.reading, note=note, exclude=exclude)):
            request = item.request
            if request is None:
                yield item
                continue
            identity = item.identity or identify(request, folder)
            number, _ = self._counts.add(identity)
            if number > 1 and request.key:
                problem = f"the key {quoted(request.key)} belongs to another row"
                yield item.refused(problem, kind="the key belongs to another row")
                continue
            identity = identity if number == 1 else f"{identity}-{number}"
            yield attrs.evolve(item, request=located(request, self.reading.base), identity=identity)

    def _is_output(self, source: Source) -> bool:
        if isinstance(source, BucketPath):
            return source == self.output.folder
        return Path(self.reading.base, str(source)).resolve() == self.output.home.resolve()
