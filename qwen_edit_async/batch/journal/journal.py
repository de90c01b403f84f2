"""The journal of a bulk run, for coroutines. A step that was awaited is on the disk."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Self

import attrs

from qwen_edit_async.batch.decide import Entry, State
from qwen_edit_async.batch.gather import Call, Gatherer
from qwen_edit_async.batch.journal.database import Store
from qwen_edit_async.batch.journal.lock import RunLock
from qwen_edit_async.batch.journal.loss import check_not_lost
from qwen_edit_async.batch.journal.rows import Draft
from qwen_edit_async.batch.report import JournalSummary
from qwen_edit_async.errors import JournalError

JOURNAL_NAME: Final = "qwen-edit-journal.sqlite3"
LOCK_NAME: Final = "qwen-edit-journal.lock"

_PATIENCE: Final = 0.005
"""Seconds for which steps are gathered for one transaction. Each transaction costs a sync of the disk."""


class Journal:
    """An open journal; made by :meth:`open`."""

    def __init__(self, file: _File, executor: ThreadPoolExecutor) -> None:
        self._file = file
        self._store = file.store
        self._thread = Gatherer(executor, self._transact, patience=_PATIENCE)
        self._broken: JournalError | None = None

    @classmethod
    async def open(cls, folder: Path, service: str = "") -> Self:
        """Lock a folder, and open the journal in it; both are made if they are missing.

        Args:
            folder: The folder.
            service: The service whose tasks the journal is to hold; empty for any.

        Raises:
            JournalError: If another run has it, if it can't be opened or written, if it has tasks of another service,
                or if the journal of earlier runs is lost.
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

    @property
    def is_new(self) -> bool:
        """Whether this run has made it."""
        return self._store.is_empty

    async def aclose(self) -> None:
        """Write the steps that were asked for, and close the file, also if the wait for that is cut short."""
        await self._thread.aclose(self._close)

    async def find(self, identity: str) -> Entry | None:
        """Return the edit of an identity."""
        return await self._thread.call(self._store.find, identity)

    async def plan(self, draft: Draft) -> Entry:
        """Return the edit of an identity. A new one is planned, and its name allotted."""
        return await self._thread.call(self._store.plan, draft)

    async def redraft(self, number: int, draft: Draft) -> None:
        """Replace the request of an edit that was never paid for."""
        await self._thread.call(self._store.redraft, number, draft)

    async def replace(self, number: int, draft: Draft) -> Entry:
        """Plan a new edit of an identity. The earlier edit keeps its task, its cost, its name and its files."""
        return await self._thread.call(self._store.replace, number, draft)

    def restamp(self, number: int, stamp: str) -> None:
        """Replace an edit's stamp, so that the next run need not read its files. Nobody waits for this."""
        self._thread.call(self._store.restamp, number, stamp)

    def move(self, number: int, state: State, **columns: Any) -> asyncio.Future[None]:
        """Record a step; awaiting it is waiting for the disk.

        Raises:
            JournalError: When awaited: if the edit can't come to that state, or if the journal can't be written.
        """
        return self._thread.call(self._store.move, number, state, columns)

    def save(self, number: int, paths: Sequence[Path]) -> asyncio.Future[None]:
        """Record that an edit's pictures are saved; awaiting it is waiting for the disk.

        Raises:
            JournalError: When awaited: if the edit can't come to that state, or if the journal can't be written.
        """
        return self._thread.call(self._store.save, number, paths)

    async def recover(self) -> int:
        """Mark the edits as uncertain that an earlier run was submitting when it ended. Return their number."""
        return await self._thread.call(self._store.recover)

    async def unfinished(self, after: int, limit: int) -> list[Entry]:
        """Return a page of the edits that have a task but not all of its pictures, by their numbers."""
        return await self._thread.call(self._store.unfinished, after, limit)

    async def unsaved(self) -> list[str]:
        """Return the names of the pictures that wait to be downloaded."""
        return await self._thread.call(self._store.unsaved)

    async def summary(self) -> JournalSummary:
        """Return the sums that budgets and reports need."""
        return await self._thread.call(self._store.summary)

    def _transact(self, calls: Sequence[Call]) -> list[Any]:
        """Make all calls in one transaction, on the journal's thread."""
        if self._broken is None:
            try:
                return self._store.transact(calls)
            except Exception as error:  # noqa: BLE001  # after any error, nothing was written
                # Later steps rely on the one that was lost. Nothing more is written, so that the file stays consistent.
                self._broken = error if isinstance(error, JournalError) else JournalError(f"it failed: {error!r}")
        return [self._broken.for_task(None) for _ in calls]

    def _close(self) -> None:
        self._broken = self._broken or JournalError("the journal is closed")
        self._file.close()


@attrs.frozen
class _File:
    """A journal's file and its lock; blocking."""

    store: Store
    lock: RunLock

    def close(self) -> None:
        try:
            self.store.close()
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
            (refused,) = store.transact([functools.partial(store.bind, service)])
            if refused is not None:
                raise refused
        undo.pop_all()
    return _File(store, lock)


def _discard(executor: ThreadPoolExecutor, opening: asyncio.Future[_File]) -> None:
    """Close a file that was opened for a caller who has gone."""
    if opening.exception() is None:
        executor.submit(opening.result().close)
    executor.shutdown(wait=False)
