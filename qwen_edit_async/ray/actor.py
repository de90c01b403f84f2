"""The hub's actor, which runs in a process of its own on the head node."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from qwen_edit_async.batch import BatchOutcome, BatchReport, EditHub
from qwen_edit_async.http.hosts import ResultHosts
from qwen_edit_async.http.options import resolve_result_hosts
from qwen_edit_async.models import EditRequest
from qwen_edit_async.session.session import EditSession
from qwen_edit_async.statistics import SessionStatistics


class HubActor:
    """The actor: an :class:`EditHub` and its session, which the first call opens."""

    def __init__(self, folder: str, limits: dict[str, Any], session: dict[str, Any]) -> None:
        self._arguments = (folder, limits, session)
        self._stack = contextlib.AsyncExitStack()
        self._opening = asyncio.Lock()
        self._opened: tuple[EditSession, EditHub] | None = None

    async def _parts(self) -> tuple[EditSession, EditHub]:
        async with self._opening:
            if self._opened is None:
                folder, limits, options = self._arguments
                async with contextlib.AsyncExitStack() as opening:
                    session = await opening.enter_async_context(EditSession(**options))
                    hub = await opening.enter_async_context(EditHub(folder, session, save=False, **limits))
                    self._stack, self._opened = opening.pop_all(), (session, hub)
            return self._opened

    async def open(self) -> tuple[str, dict[str, Any], dict[str, Any]]:
        """Open the session and the journal, and return the arguments of the actor."""
        await self._parts()
        return self._arguments

    async def edit(self, request: EditRequest) -> BatchOutcome:
        """Make an edit unless it is finished, and return its outcome. If it succeeded, the status is ``completed``."""
        return await (await self._parts())[1].edit(request)

    async def record(self, name: str, files: Sequence[tuple[str, int]], error: str | None) -> None:
        """Record that a worker saved an edit's pictures, or why it could not."""
        await (await self._parts())[1].record(name, files, error)

    async def renew(self, task_id: str) -> tuple[str, ...]:
        """Return new URLs of the pictures of a task."""
        return (await (await self._parts())[0].status(task_id)).urls

    async def result_hosts(self) -> ResultHosts:
        """Return the hosts that pictures may be downloaded from."""
        session, allowed = (await self._parts())[0], self._arguments[2].get("allow_result_hosts", ())
        return resolve_result_hosts(session.base_url, allowed)

    async def statistics(self) -> SessionStatistics:
        """Return the counts of the session."""
        return (await self._parts())[0].statistics()

    async def report(self) -> BatchReport:
        """Return the report on all edits of the folder so far."""
        return await (await self._parts())[1].write_report()

    async def stop(self) -> BatchReport | None:
        """Close the hub and its session, and return the last report."""
        _, hub = await self._parts()
        await self._stack.aclose()
        return hub.report
