"""Starts the submissions of a session, and holds the objects and options that they share."""

from __future__ import annotations

import asyncio
from random import Random

import attrs

from qwen_edit_async.errors import InvalidEditError
from qwen_edit_async.images.prepare import url_uploads
from qwen_edit_async.log import log
from qwen_edit_async.models import EditRequest
from qwen_edit_async.scheduling.retry import RetryPolicy
from qwen_edit_async.session.gate import Gate
from qwen_edit_async.session.observer import CallSite, SubmissionObserver
from qwen_edit_async.session.poller import Poller
from qwen_edit_async.session.service import Service
from qwen_edit_async.session.shield import BackgroundTasks
from qwen_edit_async.session.submission import Submission
from qwen_edit_async.statistics import SessionStatistics
from qwen_edit_async.threads import Offloader


@attrs.define(eq=False, kw_only=True)
class Submitter:
    """Starts the submissions of a session.

    Attributes:
        service: The service to submit to.
        gate: Decides when submissions may start and when requests may be sent.
        poller: Watches the accepted tasks.
        background: Runs the submissions.
        offloader: Reads and encodes images.
        counters: The session's counts.
        retry: The number of retries, and the delays between them.
        random: The source of jitter.
        resubmit_uncertain: Whether to repeat a submission although the service may have accepted it.
        stall_timeout: The seconds that the connection may take to accept one chunk of a request's body.
        strict: Whether to refuse text that the service would cut off.
        fit: Whether to change images that the service would refuse.
        closed: Whether the session has ended. A task that is accepted afterwards is not watched.
    """

    service: Service
    gate: Gate
    poller: Poller
    background: BackgroundTasks
    offloader: Offloader
    counters: SessionStatistics
    retry: RetryPolicy
    random: Random
    resubmit_uncertain: bool
    stall_timeout: float
    strict: bool
    fit: bool
    closed: bool = attrs.field(default=False, init=False)
    _under_way: dict[asyncio.Task[None], Submission] = attrs.field(factory=dict, init=False)

    def begin(
        self,
        request: EditRequest,
        seconds: float,
        *,
        observer: SubmissionObserver | None = None,
        call_site: CallSite | None = None,
    ) -> Submission:
        """Start the submission of an edit.

        Args:
            request: The edit.
            seconds: The edit's deadline in seconds, counted from when its slot is taken.
            observer: Called before and after each attempt.
            call_site: The line of the user's code at which warnings point; by default the running one.

        Raises:
            InvalidEditError: If text would be cut off, and the session is strict.
            SessionClosedError: If the session is closed.
        """
        cut, uploads = request.silently_cut(), url_uploads(request.images)
        if call_site is None and (cut or uploads is None):
            call_site = CallSite.of_caller()
        if cut and self.strict:
            raise InvalidEditError("; ".join(cut))
        if call_site is not None:
            for sentence in cut:
                call_site.warn(sentence)
        submission = Submission(self, request, seconds, observer, call_site, cut, uploads)
        submission.task = task = self.background.spawn(submission.run())
        self._under_way[task] = submission
        task.add_done_callback(self._ended)
        return submission

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.pop(task).settle_for_good()

    async def finish_sent(self, grace: float) -> None:
        """Wait up to ``grace`` seconds for the replies to submissions that were sent whole.

        If only a part of a reply has arrived by then, that part is used, because it may contain the task's id.
        """
        sent = {task: submission for task, submission in self._under_way.items() if submission.sent_whole}
        if not sent:
            return
        log.info("waiting up to %g s for the replies to %d submissions", grace, len(sent))
        _, late = await asyncio.wait(sent, timeout=grace)
        if begun := [task for task in late if sent[task].cut_reply_short()]:
            await asyncio.wait(begun, timeout=grace)
