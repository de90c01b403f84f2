"""One edit on its way to the service, with the ways to end its submission.

If the caller gives up before the whole request is sent, the submission stops at once and creates no task. If the caller
gives up later, the session still waits for the reply and keeps the task's id.
"""

from __future__ import annotations

import asyncio
import math

import attrs

from qwen_edit_async.errors import (
    DeadlineExceededError,
    EditCancelledError,
    QwenEditError,
    SessionClosedError,
    SubmitUncertainError,
)
from qwen_edit_async.events import EditEnded
from qwen_edit_async.http.body import JSONBody
from qwen_edit_async.images.upload import Upload
from qwen_edit_async.log import log
from qwen_edit_async.models import EditRequest
from qwen_edit_async.scheduling.retry import Attempts
from qwen_edit_async.session.deadline import Deadline
from qwen_edit_async.session.gate import Slot
from qwen_edit_async.session.observer import CallSite, NotNowError, SubmissionObserver
from qwen_edit_async.session.options import Limits
from qwen_edit_async.session.parts import SessionParts
from qwen_edit_async.session.task import EditTask
from qwen_edit_async.tasks import EditTimings
from qwen_edit_async.text import quoted


@attrs.define(eq=False)
class Submission:
    """One edit on its way to the service. A :class:`Submitter` does the work.

    Attributes:
        observer: Called before and after each attempt.
        call_site: The line of the user's code at which warnings about the images point.
        notes: Sentences for the result, about ignored text and about the images.
        uploads: The images; ``None`` until they are prepared.
        accepted: A future for the task of the accepted edit, or for the error that ends the submission.
        work: The background task that does the work.
        attempts: Counts the attempts, and decides whether to make another.
        pending: The body of the request whose reply has not arrived; ``None`` if there is none.
        sent_at: The time of the last turn to send.
        sent_among: The number of tasks in flight at that time.
        given_up_at: The time when the submission was given up after its request was sent; infinity otherwise.
    """

    _parts: SessionParts
    request: EditRequest
    _limits: Limits
    observer: SubmissionObserver | None
    call_site: CallSite | None
    notes: tuple[str, ...]
    uploads: tuple[Upload, ...] | None
    accepted: asyncio.Future[EditTask] = attrs.field(init=False)
    work: asyncio.Task[None] = attrs.field(init=False)
    slot: Slot = attrs.field(init=False)
    deadline: Deadline = attrs.field(init=False)
    attempts: Attempts = attrs.field(init=False)
    pending: JSONBody | None = attrs.field(default=None, init=False)
    sent_at: float = attrs.field(default=0.0, init=False)
    sent_among: int = attrs.field(default=0, init=False)
    given_up_at: float = attrs.field(default=math.inf, init=False)
    _called_at: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        gate = self._parts.gate
        self.accepted = gate.loop.create_future()
        self._called_at = gate.loop.time()
        self.slot = Slot(gate)
        self.deadline = Deadline(self._limits.deadline, gate)
        self.deadline.passed.add_done_callback(self._expire)
        # With an observer, no uncertain submission is repeated, because a bulk run's budget must admit each submission.
        consent = self._parts.options.resubmit_uncertain and self.observer is None
        self.attempts = Attempts(self._limits.max_retries, consent)

    @property
    def sent_whole(self) -> bool:
        """Whether the service may have received a whole request, and has not replied yet."""
        return self.pending is not None and self.pending.sent_whole

    def cut_reply_short(self) -> bool:
        """Stop waiting for the rest of the reply. Return whether any part of the reply has arrived."""
        return self.pending is not None and self.pending.cut_reply_short()

    def give_up(self) -> str:
        """Stop the submission. If the edit was accepted, give up the task unless other callers await it.

        Return a sentence about the task that exists or may exist, or an empty string if there is certainly none.
        """
        if not self.accepted.done() or self.accepted.cancelled():
            self._parts.counters.cancelled += 1
            self.accepted.cancel()
            self._report_end(EditCancelledError("the edit was cancelled before the service accepted it"))
            self._stop_unless_sent()
            return self._fate if self.sent_whole or self.attempts.may_exist else ""
        if (error := self.accepted.exception()) is None:
            return self.accepted.result().cancel_unless_awaited()
        return str(error) if isinstance(error, SubmitUncertainError) or getattr(error, "task_id", None) else ""

    @property
    def _fate(self) -> str:
        name = "an edit" if self.request.key is None else f"the edit {quoted(self.request.key)}"
        return f"{name} was given up after it was sent: a task may exist and be charged"

    def _expire(self, passed: asyncio.Future[None]) -> None:
        """Called when the deadline has passed or was stopped. Stops the submission if the deadline has passed."""
        if not passed.cancelled() and not self.accepted.done():
            error = self._error_when_late()
            self._stop_unless_sent()
            self.refuse(error)

    def _error_when_late(self) -> QwenEditError:
        if self.uploads is None:
            return DeadlineExceededError("the deadline passed while the images were read: nothing was sent")
        if self.sent_whole:
            return SubmitUncertainError("the deadline passed before the service replied: a task may exist")
        return self.attempts.error_when_late()

    def refuse(self, error: Exception) -> None:
        """End the edit with an error, because no reply shows that the service accepted it."""
        if isinstance(error, NotNowError):
            self.accepted.set_exception(error)
        else:
            self._parts.counters.refused += 1
            self.fail(self.attempts.final_error(error))

    def fail(self, error: Exception) -> None:
        """End the caller's wait with an error."""
        self.accepted.set_exception(error)
        self._report_end(error)

    def end_wait(self) -> None:
        """End the caller's wait if the work stopped without an outcome."""
        if not self.accepted.done():
            self.slot.release()
            self._parts.counters.uncertain += self.sent_whole
            end = "the session was closed" if self._parts.gate.ended else "the program was interrupted"
            self.refuse(
                SubmitUncertainError(f"{end} before the service replied: a task may exist")
                if self.sent_whole
                else SessionClosedError(f"{end} before the edit was sent")
            )

    def close_images(self) -> None:
        """Close the files of the images."""
        for upload in self.uploads or ():
            upload.close()

    def phases(self, now: float) -> tuple[float, float]:
        """Return the seconds that the edit was queued, and the seconds of its submission."""
        slot_at = min(self.deadline.counts_from, now)
        return slot_at - self._called_at, now - slot_at

    def _report_end(self, error: Exception) -> None:
        queued, submitting = self.phases(self._parts.gate.loop.time())
        timings = EditTimings(queued=queued, submitting=submitting)
        task_id = getattr(error, "task_id", None)
        self._parts.tell(EditEnded, request=self.request, task_id=task_id, timings=timings, error=error)

    def _stop_unless_sent(self) -> None:
        """Free the slot, and stop the work unless the whole request has been sent."""
        self.slot.release()
        self.deadline.stop()
        if self.work.done():
            return
        if not self.sent_whole:
            if self.pending is not None:
                self.pending.withdraw()
            self.work.cancel()
            return
        self.given_up_at = self._parts.gate.loop.time()
        self._parts.counters.uncertain += 1
        self.close_images()
        log.warning("%s; if the task's id arrives, it is logged", self._fate)
