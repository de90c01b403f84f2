"""The background tasks of an open session, and the wait for replies to sent submissions when the session ends."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import attrs

from qwen_edit_async.log import log
from qwen_edit_async.session.gate import Gate
from qwen_edit_async.session.submission import Submission


@attrs.define(eq=False)
class BackgroundTasks:
    """Tasks that are cancelled when the session ends: submissions, and the work of ``edit_many``."""

    _gate: Gate
    _tasks: dict[asyncio.Task[None], Submission | None] = attrs.field(factory=dict, init=False)

    def start(self, work: Coroutine[Any, Any, None], submission: Submission | None = None) -> asyncio.Task[None]:
        """Start a background task. ``submission`` is the submission whose work the task does, if any.

        ``work`` must not raise an :class:`Exception`.

        Raises:
            SessionClosedError: If the session is closed.
        """
        if self._gate.ended:
            work.close()
            self._gate.check_open()
        task = self._gate.loop.create_task(work)
        self._tasks[task] = submission
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # marks a KeyboardInterrupt or SystemExit as retrieved, so asyncio does not report it
        if (submission := self._tasks.pop(task)) is not None:
            submission.end_wait()

    async def finish_sent(self, grace: float) -> None:
        """Wait up to ``grace`` seconds for the replies to sent submissions.

        The time counts from now. If the callers have given up all these submissions, it counts from the last of these
        moments. If only part of a reply arrives in time, use that part, because it may contain the task's id. This may
        take ``grace`` seconds more.
        """
        sent = {task: each for task, each in self._tasks.items() if each is not None and each.sent_whole}
        if not sent:
            return
        now = self._gate.loop.time()
        left = max(0.0, max(min(each.given_up_at, now) for each in sent.values()) + grace - now)
        log.info("waiting up to %g s for the replies to %d submissions", left, len(sent))
        _, late = await asyncio.wait(sent, timeout=left)
        if begun := [task for task in late if sent[task].cut_reply_short()]:
            await asyncio.wait(begun, timeout=grace)

    async def stop(self) -> None:
        """Cancel all background tasks, and wait until they have ended."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
