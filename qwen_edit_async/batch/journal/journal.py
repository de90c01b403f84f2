"""The journal of a bulk run, for coroutines: what is awaited is on the disk."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Self

import attrs

from qwen_edit_async.batch.gather import Call, Gatherer
from qwen_edit_async.batch.journal.aside import IdsAside
from qwen_edit_async.batch.journal.database import Draft, Entry, Store
from qwen_edit_async.batch.journal.lock import RunLock
from qwen_edit_async.batch.plan import State
from qwen_edit_async.batch.publish import check_not_lost
from qwen_edit_async.batch.report import JournalSummary
from qwen_edit_async.batch.tally import Totals
from qwen_edit_async.errors import JournalError
from qwen_edit_async.log import log

JOURNAL_NAME: Final = "qwen-edit-journal.sqlite3"
LOCK_NAME: Final = "qwen-edit-journal.lock"
ASIDE_NAME: Final = "qwen-edit-journal.ids"

_PATIENCE: Final = 0.005
"""Seconds for which steps are gathered for one transaction: nothing beside how long an edit takes, and each transaction
costs a sync of the disk and writes whole pages."""


class Journal:
    """An open journal; made by :meth:`open`."""

    def __init__(self, file: _File, executor: ThreadPoolExecutor) -> None:
        self._file = file
        self._store = file.store
        self._executor = executor
        self._thread = Gatherer(executor, self._transact, patience=_PATIENCE)
        self._broken: JournalError | None = None

    @classmethod
    async def open(cls, folder: Path, service: str = "") -> Self:
        """Make the folder and the journal in it, or open what is there, and lock it.

        Args:
            folder: Where it is, or will be.
            service: Whose tasks it is to hold; empty if that does not matter.

        Raises:
            JournalError: If it can't be opened or written, if another run, or another service, has it, or if that of
                earlier runs is lost.
        """
        executor = ThreadPoolExecutor(1, "qwen-edit-journal")
        opening = asyncio.get_running_loop().run_in_executor(executor, _open, folder, service)
        with contextlib.ExitStack() as undo:
            undo.callback(executor.shutdown, wait=False)
            try:
                file = await asyncio.shield(opening)
            except asyncio.CancelledError:
                undo.pop_all()  # the thread is needed to close what it is opening
                opening.add_done_callback(functools.partial(_discard, executor))
                raise
            undo.pop_all()
        return cls(file, executor)

    async def aclose(self) -> None:
        """Write what is still to be written, and close the file, also if the wait for that is cut short."""
        await self._thread.aclose(self._close)

    async def find(self, key: str) -> Entry | None:
        """The edit of that name."""
        return await self._thread.call(self._store.find, key)

    async def plan(self, draft: Draft) -> Entry | None:
        """The edit of that name, planned now if it is new; ``None`` if its files would be those of another edit."""
        return await self._thread.call(self._store.plan, draft)

    def save(self, number: int, paths: Sequence[Path]) -> asyncio.Future[None]:
        """Record that an edit's pictures are there; awaiting it is waiting for the disk.

        Raises:
            JournalError: When awaited: if the edit can't come there, or if the journal can't be written.
        """
        return self._thread.call(self._store.save, number, paths)

    async def redraft(self, number: int, draft: Draft) -> None:
        """Replace what is asked for; for an edit that was never paid for."""
        await self._thread.call(self._store.redraft, number, draft)

    async def replace(self, edit: Entry, key: str, files: Sequence[tuple[str, int]], draft: Draft) -> Entry | None:
        """Plan a new edit of a key, and keep the one before under another; see :meth:`Store.replace`."""
        return await self._thread.call(self._store.replace, edit, key, files, draft)

    def restamp(self, number: int, stamp: str) -> None:
        """Replace an edit's stamp, whenever that is written: it saves the next run a look at the files."""
        self._thread.call(self._store.restamp, number, stamp)

    def move(self, number: int, state: State, **columns: Any) -> asyncio.Future[None]:
        """Record a step; awaiting it is waiting for the disk.

        Raises:
            JournalError: When awaited: if the edit can't come there, or if the journal can't be written.
        """
        return self._thread.call(self._store.move, number, state, columns)

    def set_aside(self, key: str, task_id: str) -> None:
        """Keep a task's id that could not be recorded: the next run that opens the journal records it.

        Once it is closed, its files may be another run's: the log names the id then, and the session's ``unfinished``.
        """
        try:
            self._executor.submit(self._file.aside.write, key, task_id)
        except RuntimeError:  # the thread is gone
            log.warning("task %s of %r came after the journal was closed, and is not in it", task_id, key)

    async def recover(self) -> int:
        """Call uncertain what an earlier run was submitting when it ended; how many there are."""
        return await self._thread.call(self._store.recover)

    async def unfinished(self, after: int, limit: int) -> list[Entry]:
        """Edits that have a task, but not all of its pictures, by their numbers."""
        return await self._thread.call(self._store.unfinished, after, limit)

    async def unsaved(self) -> list[str]:
        """Names of the pictures that are there to be downloaded."""
        return await self._thread.call(self._store.unsaved)

    async def totals(self) -> Totals:
        """What has been done so far."""
        return await self._thread.call(self._store.totals)

    async def summary(self) -> JournalSummary:
        """Everything that a report says of the journal."""
        return await self._thread.call(self._store.summary)

    def _transact(self, calls: Sequence[Call]) -> list[Any]:
        """All calls in one transaction; on the journal's thread."""
        if self._broken is None:
            try:
                return self._store.transact(calls)
            except Exception as error:  # noqa: BLE001  # whatever it was, it was not written
                # What comes later relies on what was lost. From now on nothing is written, so that the file tells a
                # state that was true.
                self._broken = error if isinstance(error, JournalError) else JournalError(f"it failed: {error!r}")
        return [self._broken.for_task(None) for _ in calls]

    def _close(self) -> None:
        self._broken = self._broken or JournalError("the journal is closed")
        self._file.close()


@attrs.frozen
class _File:
    """A journal's file, and those beside it; blocking."""

    store: Store
    aside: IdsAside
    lock: RunLock

    def close(self) -> None:
        try:
            self.store.close()
            self.aside.close()
        finally:
            self.lock.release()


def _open(folder: Path, service: str) -> _File:
    lock = RunLock(folder / LOCK_NAME)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise JournalError(f"the folder {folder} can't be written: {error.strerror}; nothing was submitted") from error
    with contextlib.ExitStack() as undo:  # neither the lock nor the file must outlive the attempt
        undo.callback(lock.release)
        check_not_lost(folder / JOURNAL_NAME)
        store = Store(folder / JOURNAL_NAME)
        undo.callback(store.close)
        if service:
            _do(store, functools.partial(store.bind, service))
        aside = IdsAside(folder / ASIDE_NAME)
        if ids := aside.read():
            _do(store, functools.partial(store.take_in, ids))
        aside.reserve()  # which forgets the ids: they are in the journal now
        undo.pop_all()
    return _File(store, aside, lock)


def _do(store: Store, operation: Call) -> None:
    (outcome,) = store.transact([operation])
    if outcome is not None:
        raise outcome


def _discard(executor: ThreadPoolExecutor, opening: asyncio.Future[_File]) -> None:
    """Close what was opened for somebody who is gone."""
    if opening.exception() is None:
        executor.submit(opening.result().close)
    executor.shutdown(wait=False)
