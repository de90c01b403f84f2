"""Starts a row for each edit of a run, and limits the number of rows at work."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable
from typing import Any, Final, TypeVar

import anyio
import attrs

from qwen_edit_async.batch.content import examine, located
from qwen_edit_async.batch.decide import SENDS, Action, Content, Entry, decide, instead, refusal
from qwen_edit_async.batch.identity import describe, pictures_of, reason_of, stem_of
from qwen_edit_async.batch.input import Claims
from qwen_edit_async.batch.journal.database import Store
from qwen_edit_async.batch.journal.rows import Draft
from qwen_edit_async.batch.report import FailureGroup
from qwen_edit_async.batch.row import Row
from qwen_edit_async.batch.sources import SourceItem, item_of
from qwen_edit_async.batch.state import RunState
from qwen_edit_async.errors import InvalidEditError
from qwen_edit_async.log import log
from qwen_edit_async.models import EditRequest
from qwen_edit_async.session.shield import pull, wait_shielded

T = TypeVar("T")

_PAGE: Final = 256
_SPARE_ROWS: Final = 16
_SAMPLE_KEYS: Final = 50
_MAX_REASONS: Final = 100
_GRACE: Final = 5.0
"""Seconds that an ending run waits for the ids of tasks whose request was sent."""


class Intake:
    """Starts rows, and limits the number of them at work.

    Args:
        run: The state that the rows share.

    Attributes:
        changed: The number of refused rows whose key is in the journal.
    """

    def __init__(self, run: RunState) -> None:
        self.changed: int = 0
        self._run = run
        self._permits = asyncio.Semaphore(2 * run.session.max_in_flight + _SPARE_ROWS)
        self._rows: set[asyncio.Task[None]] = set()
        self._claims = Claims()
        self._live: set[str] = set()
        self._resumed: set[int] = set()  # at most the edits that were in flight or unsaved when the last run ended
        self._crash: BaseException | None = None
        self._refused: dict[str, FailureGroup] = {}

    @property
    def refused(self) -> list[FailureGroup]:
        """The refused rows, grouped by reason."""
        return [*self._refused.values()]

    async def work(self, items: Iterable[Any] | AsyncIterable[Any]) -> None:
        """Work on every edit, those of the journal first, until all are done or the run is stopped.

        Args:
            items: Rows of a source, or what users give as requests.

        Raises:
            JournalError: If the journal fails.
            Exception: If the input raises it; the rows before it are done first.
        """
        run = self._run
        if count := await run.journal.do(Store.recover):
            log.warning("%d edits were being submitted when the last run ended: tasks may exist", count)
        if not run.journal.is_new:
            known = await run.journal.do(Store.summary)
            run.budget.resume(
                spent=known.cost,
                tasks=known.tasks,
                price=known.price,
                unpriced=known.unpriced,
                doubtful=known.doubtful,
            )
        input_error: Exception | None = None
        try:
            try:
                await self._feed(self._unfinished(), self._resume)
                if isinstance(items, AsyncIterable):
                    await self._feed_until_stopped(pull(items))
                else:
                    await self._feed(pull(items), self._take)
            except Exception as error:  # noqa: BLE001  # an error of the input is raised when the rows before it are done
                input_error = error
            while self._rows:
                await asyncio.wait(self._rows)
        finally:
            await wait_shielded(self._stop_rows())
        if self._crash is not None:
            for key, task_id in run.unwritten:
                self._crash.add_note(f"not in the journal: {key!r} is task {task_id}: session.attach({task_id!r})")
            raise self._crash
        if input_error is not None:
            raise input_error

    async def _feed(self, items: AsyncGenerator[T, None], work: Callable[[T], Coroutine[Any, Any, None]]) -> None:
        """Start a row for each item as room becomes free."""
        async with contextlib.aclosing(items):
            async for item in items:
                await self._permits.acquire()
                if self._run.budget.stopped:
                    self._permits.release()
                    return
                row = asyncio.create_task(work(item))
                self._rows.add(row)
                row.add_done_callback(self._row_ended)

    async def _feed_until_stopped(self, items: AsyncGenerator[Any, None]) -> None:
        """Work on items that may never come. A run that is stopped does not wait for them."""
        feeding = asyncio.create_task(self._feed(items, self._take))
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
        while not self._run.budget.stopped:
            await self._run.change()

    def _row_ended(self, row: asyncio.Task[None]) -> None:
        self._rows.discard(row)
        self._permits.release()
        self._run.news.set()
        if not row.cancelled() and (error := row.exception()) is not None:
            # The journal failed, or our code: no row may go on as if its step were written.
            self._crash = self._crash or error
            self._run.budget.stop(str(error))
            for other in self._rows:
                other.cancel()

    async def _stop_rows(self) -> None:
        """Cancel the rows that still work, and wait for the replies to submissions that were sent."""
        for row in self._rows:
            row.cancel()
        if self._rows:
            await asyncio.wait(self._rows)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GRACE):
                while self._run.attempts:
                    await self._run.change()

    async def _unfinished(self) -> AsyncGenerator[Entry, None]:
        last = 0
        while entries := await self._run.journal.do(Store.unfinished, last, _PAGE):
            for entry in entries:
                yield entry
            last = entries[-1].number

    async def _resume(self, entry: Entry) -> None:
        """Work on an edit that has a task, even if the input no longer has its row."""
        async with self._alone(entry.identity):
            await Row(entry, self._run).carry_out(decide(entry, None, self._run.consent))
            self._resumed.add(entry.number)

    async def _take(self, given: Any) -> None:
        """Work on a row."""
        run = self._run
        item = given if isinstance(given, SourceItem) else item_of(given, run.given.defaults)
        if item.request is None:
            self._refuse(item.problem or "it is not an edit", item.label)
            return
        try:
            identity = item.identity or await run.files.call(self._claims.identify, item.request)
        except InvalidEditError as error:
            self._refuse(reason_of(error, item.request), item.request.key or item.label)
            return
        if not identity:
            return
        async with self._alone(identity):
            await self._work_on(identity, located(item.request, run.given.folder))

    @contextlib.asynccontextmanager
    async def _alone(self, identity: str) -> AsyncGenerator[None, None]:
        """Wait until no other row works on an edit, and keep others from it."""
        while identity in self._live:
            await self._run.change()
        self._live.add(identity)
        try:
            yield
        finally:
            self._live.discard(identity)
            self._run.news.set()

    async def _work_on(self, identity: str, request: EditRequest) -> None:
        run = self._run
        entry = None if run.journal.is_new else await run.journal.do(Store.find, identity)
        content = await run.files.call(examine, request, entry)
        draft = _draft(identity, request, content)
        if entry is None:
            entry = await run.journal.do(Store.plan, draft)
        if content.digest == entry.digest and content.stamp != entry.stamp:
            run.journal.do(Store.restamp, entry.number, content.stamp)
        action, problem = decide(entry, content, run.consent), None
        if action in SENDS:
            try:
                if content.problem is not None:
                    raise content.problem
                entry = await self._redrafted(action, entry, draft)
                await run.files.call(run.given.targets.existing, request, entry.name)
            except InvalidEditError as error:
                action, problem = instead(entry), error
        await self._carry_out(action, entry, request, problem)

    async def _redrafted(self, action: Action, entry: Entry, draft: Draft) -> Entry:
        """Return the edit to be submitted, after the journal has its request as it is now."""
        if action is Action.REPLACE:
            return await self._run.journal.do(Store.replace, entry.number, draft)
        if draft.digest == entry.digest:
            return entry
        await self._run.journal.do(Store.redraft, entry.number, draft)
        return attrs.evolve(entry, digest=draft.digest, stamp=draft.stamp, pictures=draft.pictures)

    async def _carry_out(
        self, action: Action, entry: Entry, request: EditRequest, problem: InvalidEditError | None
    ) -> None:
        row = Row(entry, self._run)
        if action in {Action.REFUSE, Action.REPLACE_LATER}:  # its task did not end in this run
            self.changed += 1
            self._refuse(reason_of(problem or refusal(self._run.consent), request), entry.key)
        elif problem is not None:
            await row.fail(problem, request)
        elif action in SENDS or (action is Action.VERIFY and entry.number not in self._resumed):
            await row.carry_out(action, request)
        # Else its task was waited for before the first row was read, or nothing is left to do.

    def _refuse(self, reason: str, key: str) -> None:
        self._run.progress.failed += 1
        log.warning("refused %r: %s", key, reason)
        reason = reason if reason in self._refused or len(self._refused) < _MAX_REASONS else "other reasons: see log"
        group = self._refused.get(reason, FailureGroup(reason=reason, count=0))
        keys = (*group.keys, key) if key and len(group.keys) < _SAMPLE_KEYS else group.keys
        self._refused[reason] = FailureGroup(reason=reason, count=group.count + 1, keys=keys)


def _draft(identity: str, request: EditRequest, content: Content) -> Draft:
    return Draft(
        identity=identity,
        key=request.key or None,
        stem=stem_of(request),
        digest=content.digest,
        stamp=content.stamp,
        request=describe(request),
        pictures=pictures_of(request.parameters),
    )
