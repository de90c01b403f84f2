"""One run of a batch: its input, read as room becomes free, and the row that works on each edit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable, Mapping
from typing import Any, Final, TypeVar

import anyio
import attrs

from qwen_edit_async.batch.content import Content, key_without_reading, located, read_content, read_key, stamp
from qwen_edit_async.batch.journal.database import Draft, Entry
from qwen_edit_async.batch.plan import Change, State, change_of, describe, key_of, other_request, pictures_of
from qwen_edit_async.batch.report import FailureGroup
from qwen_edit_async.batch.row import Row, Surroundings
from qwen_edit_async.batch.sources import SourceItem, request_of
from qwen_edit_async.batch.targets import Targets
from qwen_edit_async.errors import InvalidEditError
from qwen_edit_async.log import log
from qwen_edit_async.models import EditRequest, RequestInput
from qwen_edit_async.session.results import safe_stem
from qwen_edit_async.session.shield import see_through
from qwen_edit_async.session.stream import pull

T = TypeVar("T")

_PAGE: Final = 256
_SPARE_ROWS: Final = 16
_SAMPLE_KEYS: Final = 50
_MAX_REASONS: Final = 100
_GRACE: Final = 5.0
"""Seconds that an ending run waits for the ids of tasks whose submission was sent, and given up."""

_HANDLED: Final = frozenset({State.SUBMITTED, State.COMPLETED})
"""The journal's own edits come first in a run: what is met in these states later was worked on, in vain."""

_SAME_FILES: Final = "the key would name the same files as another key of the journal"

_NEEDS_INPUT: Final = frozenset({State.PLANNED, State.FAILED})
"""In these states the request would have to be sent; in all others the journal is enough."""


class Intake:
    """Reads requests, and has a bounded number of rows at work.

    Args:
        around: What the rows share.
    """

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._permits = asyncio.Semaphore(2 * around.session.max_in_flight + _SPARE_ROWS)
        self._rows: set[asyncio.Task[None]] = set()
        self._resumed: set[str] = set()  # no more than were in flight, or unsaved, when the last run ended
        self._crash: BaseException | None = None
        self._fresh = False
        self._refused: dict[str, list[str]] = {}
        self._refusals: dict[str, int] = {}

    @property
    def refused(self) -> list[FailureGroup]:
        """Requests that the journal could not take."""
        return [
            FailureGroup(reason=reason, count=count, keys=tuple(self._refused[reason]))
            for reason, count in self._refusals.items()
        ]

    async def work(self, requests: Iterable[RequestInput] | AsyncIterable[RequestInput | SourceItem]) -> None:
        """Work on every edit, those of the journal first, until all is done or the budget is spent.

        Raises:
            JournalError: If the journal fails.
            Exception: What the input raised; what it gave before is done first.
        """
        around = self._around
        if count := await around.journal.recover():
            log.warning("%d edits were being submitted when the last run ended: tasks may exist", count)
        totals = await around.journal.totals()
        self._fresh = not totals.edits
        around.budget.resume(
            spent=totals.cost,
            tasks=totals.tasks,
            price=totals.price,
            unpriced=totals.unpriced,
            doubtful=totals.doubtful,
        )
        input_error: Exception | None = None
        try:
            try:
                await self._feed(self._unfinished(), self._resume)
                if isinstance(requests, AsyncIterable):
                    await self._feed_until_stopped(pull(requests))
                else:
                    await self._feed(pull(requests), self._take)
            except Exception as error:  # noqa: BLE001  # the input's own, raised when what came before it is done
                input_error = error
            while self._rows:
                await asyncio.wait(self._rows)
        finally:
            await see_through(self._stop_rows())
        if self._crash is not None:
            for key, task_id in around.unwritten.items():
                self._crash.add_note(f"not in the journal: {key!r} is task {task_id}: session.attach({task_id!r})")
            raise self._crash
        if input_error is not None:
            raise input_error

    async def _feed(self, items: AsyncGenerator[T, None], work: Callable[[T], Coroutine[Any, Any, None]]) -> None:
        """Start a row for each item, as room becomes free."""
        async with contextlib.aclosing(items):
            async for item in items:
                await self._permits.acquire()
                if self._around.budget.stopped:
                    self._permits.release()
                    return
                row = asyncio.create_task(work(item))
                self._rows.add(row)
                row.add_done_callback(self._row_ended)

    async def _feed_until_stopped(self, requests: AsyncGenerator[RequestInput | SourceItem, None]) -> None:
        """Take requests that may never come: once the run is stopped they are not waited for."""
        feeding = asyncio.create_task(self._feed(requests, self._take))
        stopping = asyncio.create_task(self._until_stopped())
        try:
            await asyncio.wait((feeding, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            feeding.cancel()
            stopping.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait((feeding, stopping))
        if not feeding.cancelled():
            feeding.result()

    async def _until_stopped(self) -> None:
        while not self._around.budget.stopped:
            await self._around.change()

    def _row_ended(self, row: asyncio.Task[None]) -> None:
        self._rows.discard(row)
        self._permits.release()
        self._around.news.set()
        if not row.cancelled() and (error := row.exception()) is not None:
            # The journal, or a mistake of ours: nobody may go on as if it were written.
            self._crash = self._crash or error
            self._around.budget.stop(str(error))
            for other in self._rows:
                other.cancel()

    async def _stop_rows(self) -> None:
        """End what still runs, when the run is cancelled, and wait for the fate of submissions that were sent."""
        for row in self._rows:
            row.cancel()
        if self._rows:
            await asyncio.wait(self._rows)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GRACE):
                while self._around.attempts:
                    await self._around.change()

    async def _unfinished(self) -> AsyncGenerator[Entry, None]:
        last = 0
        while entries := await self._around.journal.unfinished(last, _PAGE):
            for entry in entries:
                yield entry
            last = entries[-1].number

    async def _resume(self, entry: Entry) -> None:
        row = Row(entry, self._around)
        async with self._claimed(entry.key):
            await row.finish()
            if not (row.is_uncertain and self._around.resubmit_uncertain):  # or else its request is taken once more
                self._resumed.add(entry.key)

    async def _take(self, given: RequestInput | SourceItem) -> None:
        if isinstance(given, SourceItem):
            if given.request is None:
                self._refuse(given.problem or "it makes no edit", given.label)
                return
            given = given.request
        try:
            request = request_of(given, self._around.defaults)
        except Exception as error:  # noqa: BLE001  # whatever is wrong with one request ends it alone
            self._refuse(str(error), given.get("key") if isinstance(given, Mapping) else None)
            return
        if (key := key_without_reading(request)) is None:
            key = await self._around.files.call(_read_key, request)
        if key != key.encode("utf-8", "replace").decode("utf-8"):
            self._refuse(
                "the key is no text that can be written: it has half a character (a lone surrogate)", ascii(key)
            )
            return
        async with self._claimed(key):
            await self._work_on(located(request, self._around.inputs, key), key)

    @contextlib.asynccontextmanager
    async def _claimed(self, key: str) -> AsyncGenerator[None, None]:
        """Nobody else works on that edit meanwhile; what is read of it afterwards is how it stands."""
        around = self._around
        while key in around.live:
            await around.change()
        around.live.add(key)
        try:
            yield
        finally:
            around.live.discard(key)
            around.news.set()

    async def _work_on(self, request: EditRequest, key: str) -> None:
        around = self._around
        entry = None if self._fresh else await around.journal.find(key)
        examined = await around.files.call(_examine, request, entry, around.targets)
        content, error = examined.content, examined.error
        draft = Draft(
            key=key,
            stem=safe_stem(key),
            digest=content.digest,
            stamp=content.stamp,
            request=describe(request),
            pictures=pictures_of(request.parameters),
        )
        entry = entry or await around.journal.plan(draft)
        if entry is None:
            self._refuse(_SAME_FILES, key)
            return
        if error is None and content.digest != entry.digest:
            entry = await self._change(entry, draft, request)
            if entry is None:
                return
        elif error is None and content.stamp != entry.stamp:
            around.journal.restamp(entry.number, content.stamp)
        row = Row(entry, around)
        if examined.in_the_way is not None and entry.state is State.UNCERTAIN and around.resubmit_uncertain:
            self._refuse(str(examined.in_the_way), key)  # it stays uncertain, so that it stays reckoned with
            return
        error = error or examined.in_the_way
        if error is not None and entry.state in _NEEDS_INPUT:
            await row.fail(error, request)
        elif entry.state not in _HANDLED and key not in self._resumed:
            await row.finish(request)

    async def _change(self, entry: Entry, draft: Draft, request: EditRequest) -> Entry | None:
        """The edit of a request that was changed since the journal took it; ``None`` if it is refused."""
        around = self._around
        match change_of(entry.state, has_task=entry.task_id is not None, edit_changed=around.edit_changed):
            case Change.REFUSE:
                self._refuse(other_request(edit_changed=around.edit_changed), entry.key)
                return None
            case Change.REDRAFT:
                await around.journal.redraft(entry.number, draft)
                return attrs.evolve(entry, digest=draft.digest, stamp=draft.stamp, pictures=draft.pictures)
            case Change.REPLACE:
                key = f"{entry.key}-replaced-{entry.number}"
                try:
                    files = await around.files.call(_set_aside, request, entry, key, around.targets)
                except InvalidEditError as error:
                    self._refuse(str(error), entry.key)
                    return None
                self._resumed.discard(entry.key)
                new = await around.journal.replace(entry, key, files, draft)
                if new is None:
                    self._refuse(_SAME_FILES, key)
                return new

    def _refuse(self, reason: str, key: object) -> None:
        around = self._around
        around.counts.failed += 1
        log.warning("refused %r: %s", key, reason)
        reason = reason if reason in self._refusals or len(self._refusals) < _MAX_REASONS else "other reasons: see log"
        self._refusals[reason] = self._refusals.get(reason, 0) + 1
        keys = self._refused.setdefault(reason, [])
        if key is not None and len(keys) < _SAMPLE_KEYS:
            keys.append(str(key))


@attrs.frozen
class _Examined:
    content: Content
    error: InvalidEditError | None = None
    in_the_way: InvalidEditError | None = None


def _read_key(request: EditRequest) -> str:
    """Return the key also of a request that can't be read, and so will fail. Blocking."""
    try:
        return read_key(request)
    except InvalidEditError:
        return key_of(request, [""] * len(request.images))


def _set_aside(request: EditRequest, entry: Entry, key: str, targets: Targets) -> list[tuple[str, int]]:
    """Make room for the results of an edit that replaces another, whose pictures get the name of a new key. Blocking.

    Raises:
        InvalidEditError: If other files are in the way, or the pictures can't be renamed.
    """
    targets.existing(request, entry.key, former=[name for name, _ in entry.files])
    return targets.set_aside(entry, safe_stem(key))


def _examine(request: EditRequest, entry: Entry | None, targets: Targets) -> _Examined:
    """What a request is: as the journal knows it if its files look as they did, or else by their content. Blocking."""
    if entry is not None and entry.stamp and stamp(request) == entry.stamp:
        examined = _Examined(Content(entry.key, entry.digest, entry.stamp))
    else:
        try:
            examined = _Examined(read_content(request))
        except InvalidEditError as error:
            return _Examined(Content(key_of(request, [""] * len(request.images)), digest="", stamp=""), error)
    if entry is None or entry.state in _NEEDS_INPUT or entry.state is State.UNCERTAIN:
        try:
            targets.existing(request, examined.content.key)
        except InvalidEditError as error:
            return attrs.evolve(examined, in_the_way=error)
    return examined
