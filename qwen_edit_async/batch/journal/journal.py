"""The asynchronous interface to a journal."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar

from qwen_edit_async.batch.journal.database import Store
from qwen_edit_async.batch.journal.lock import run_lock
from qwen_edit_async.batch.rules.report import JSON_NAME, PAGE_NAME
from qwen_edit_async.batch.worker import Call, Worker
from qwen_edit_async.errors import JournalError

P = ParamSpec("P")
T = TypeVar("T")

JOURNAL_NAME: Final = "qwen-edit-journal.sqlite3"
LOCK_NAME: Final = "qwen-edit-journal.lock"

_PATIENCE: Final = 0.005
"""Seconds to wait for more changes before a transaction begins, because each transaction costs a disk sync."""

_PAGE_START: Final = (
    b'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy"'
)
_HEADER_BYTES: Final = 100
"""The size of a SQLite database's header. A shorter file holds no journal."""


class Journal:
    """An open journal. Create it with :meth:`open`."""

    def __init__(self, store: Store, held: contextlib.ExitStack, executor: ThreadPoolExecutor) -> None:
        self._store = store
        self._held = held
        self._thread = Worker(executor, self._transact, patience=_PATIENCE)
        self._broken: JournalError | None = None

    @classmethod
    async def open(cls, folder: Path, service: str) -> Self:
        """Lock a folder, and open the journal in it. Create the folder and the journal if they are missing.

        ``service`` is the name or address of the service. A journal has the tasks of one service only.

        Raises:
            JournalError: If the journal can't be opened or written, is used by another run, has tasks of another
                service, or is missing or empty beside an earlier run's report.
        """
        executor = ThreadPoolExecutor(1, "qwen-edit-journal")
        held = contextlib.ExitStack()
        try:
            store = await asyncio.get_running_loop().run_in_executor(executor, _open, folder, service, held)
        except BaseException:  # a cancellation must release the lock, too
            executor.submit(held.close)  # runs after _open(), which a cancellation does not stop
            executor.shutdown(wait=False)
            raise
        return cls(store, held, executor)

    async def aclose(self) -> None:
        """Write all pending changes and close the file, even if this call is cancelled."""
        await self._thread.aclose(self._held.close)

    def do(self, method: Callable[Concatenate[Store, P], T], /, *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Call a method of the store on the journal's thread. The future completes when the changes are on disk.

        Calls are made in order, even if they are not awaited.

        Raises:
            JournalError: Raised when the future is awaited, if the method failed or the journal can't be written.
        """
        return self._thread.call(method, self._store, *args, **kwargs)

    def _transact(self, calls: Sequence[Call]) -> list[Any]:
        """Make all calls in one transaction, on the journal's thread."""
        if self._broken is None:
            try:
                return self._store.transact(calls)
            except Exception as error:  # noqa: BLE001  # any error leaves the transaction uncommitted
                # Later changes may rely on the lost changes, so nothing more is written.
                self._broken = error if isinstance(error, JournalError) else JournalError(f"journal error: {error!r}")
        return [self._broken.for_task(None) for _ in calls]


def _open(folder: Path, service: str, held: contextlib.ExitStack) -> Store:
    """Lock the folder, and return the open database. Closing ``held`` closes the database and frees the lock."""
    with contextlib.ExitStack() as undo:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            undo.enter_context(run_lock(folder / LOCK_NAME))
        except OSError as error:
            raise JournalError(
                f"the folder {folder} can't be written: {error.strerror}; nothing was submitted"
            ) from error
        check_not_lost(folder / JOURNAL_NAME)
        store = Store(folder / JOURNAL_NAME)
        undo.callback(store.close)
        (refused,) = store.transact([functools.partial(store.bind, service)])
        if refused is not None:
            raise refused
        held.push(undo.pop_all())
    return store


def check_not_lost(journal: Path) -> None:
    """Refuse to begin a new journal beside an earlier report, because all edits would be paid for again.

    Raises:
        JournalError: If there is an earlier report, and the journal beside it is missing or empty.
    """
    with contextlib.suppress(OSError):  # the file may be missing; opening the journal reports any other error
        if journal.stat().st_size >= _HEADER_BYTES:
            return
    for report, is_ours in ((journal.with_name(JSON_NAME), _is_report), (journal.with_name(PAGE_NAME), _is_page)):
        with contextlib.suppress(OSError, ValueError):
            if is_ours(report):
                raise JournalError(
                    f"the journal {journal} is missing or empty, but {report.name} is from an earlier run: "
                    "restore a backup of the journal. A run in another folder would pay for every edit again"
                )


def _is_report(path: Path) -> bool:
    report = json.loads(path.read_bytes())
    return isinstance(report, dict) and {"folder", "saved", "uncertain_keys"} <= report.keys()


def _is_page(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_PAGE_START)) == _PAGE_START
