"""Starts the submissions of a session, and runs its background tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import attrs

from qwen_edit_async.errors import EditWarning, InvalidEditError
from qwen_edit_async.images.prepare import url_uploads
from qwen_edit_async.log import log
from qwen_edit_async.models import EditRequest
from qwen_edit_async.session.observer import CallSite, SubmissionObserver
from qwen_edit_async.session.options import Limits
from qwen_edit_async.session.parts import SessionParts
from qwen_edit_async.session.poller import Poller
from qwen_edit_async.session.submission import Submission
from qwen_edit_async.session.task import EditTask


@attrs.define(eq=False)
class Submitter:
    """Starts submissions, and runs the session's background tasks."""

    parts: SessionParts
    poller: Poller
    _tasks: dict[asyncio.Task[None], Submission | None] = attrs.field(factory=dict, init=False)

    async def submit(
        self, request: EditRequest, limits: Limits, observer: SubmissionObserver | None = None
    ) -> EditTask:
        """Submit an edit, and return its task once the edit is accepted."""
        submission = self.begin(request, limits, observer=observer)
        with self.poller.active_calls:
            try:
                return await submission.accepted
            except asyncio.CancelledError as cancelled:
                if fate := submission.give_up():
                    cancelled.add_note(fate)
                raise

    def begin(
        self,
        request: EditRequest,
        limits: Limits,
        *,
        observer: SubmissionObserver | None = None,
        call_site: CallSite | None = None,
    ) -> Submission:
        """Start the submission of an edit. Warnings point at ``call_site``, by default the running line of user code.

        Raises:
            InvalidEditError: If the service would ignore the end of a text, and the session is strict.
            SessionClosedError: If the session is closed.
        """
        cut, uploads = request.silently_cut(), url_uploads(request.images)
        if call_site is None and (cut or uploads is None):
            call_site = CallSite.of_caller()
        if cut and self.parts.options.strict:
            raise InvalidEditError("; ".join(cut))
        if call_site is not None:
            for sentence in cut:
                call_site.warn(EditWarning(sentence, "the service ignores the end of a text"))
        submission = Submission(self.parts, self.poller, request, limits, observer, call_site, cut, uploads)
        submission.task = self.spawn(submission.run(), submission)
        return submission

    def spawn(self, work: Coroutine[Any, Any, None], submission: Submission | None = None) -> asyncio.Task[None]:
        """Start a background task, which is cancelled when the session ends.

        ``work`` must not raise an :class:`Exception`.

        Raises:
            SessionClosedError: If the session is closed.
        """
        if self.parts.gate.ended:
            work.close()
            self.parts.gate.check_open()
        task = self.poller.loop.create_task(work)
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

        The time counts from now, or from the last give-up if all submissions were given up. If only part of a reply
        arrives in time, use that part, because it may contain the task's id.
        """
        sent = {task: each for task, each in self._tasks.items() if each is not None and each.sent_whole}
        if not sent:
            return
        now = self.parts.gate.loop.time()
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
