"""Submits one edit: waits for a slot and for a turn to send, sends the request, and retries if the rules allow.

A submission runs in a background task of the session, so it can outlive its caller. If the caller gives up before the
whole request is sent, the submission stops at once and creates no task. If the caller gives up later, the session still
waits for the reply and keeps the task's id.
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Final

import attrs

from qwen_edit_async.errors import (
    APIStatusError,
    DeadlineExceededError,
    EditCancelledError,
    QwenEditError,
    RateLimitError,
    SessionClosedError,
    SubmitUncertainError,
)
from qwen_edit_async.events import EditEnded, EditRetried, EditSubmitted, EditThrottled
from qwen_edit_async.http.body import JSONBody
from qwen_edit_async.images.upload import Upload
from qwen_edit_async.log import about, log
from qwen_edit_async.models import EditRequest
from qwen_edit_async.protocol.base import Call, WireProtocol
from qwen_edit_async.scheduling.retry import Attempts, CallFailure, judge_submission, pause_after
from qwen_edit_async.session.deadline import Deadline
from qwen_edit_async.session.gate import Slot
from qwen_edit_async.session.observer import CallSite, NotNowError, SubmissionObserver
from qwen_edit_async.session.options import Limits
from qwen_edit_async.session.parts import SessionParts
from qwen_edit_async.session.poller import Poller
from qwen_edit_async.session.task import EditTask, closed_error
from qwen_edit_async.tasks import EditTimings, TaskSnapshot, TaskStatus
from qwen_edit_async.text import quoted

_UNKNOWN_CALL_STATUSES: Final = frozenset({404, 405})

_REASONS: Final = {
    CallFailure.REFUSED: "the service did not accept the last attempt",
    CallFailure.THROTTLED: "the service rejected the last attempt because of too many requests",
    CallFailure.UNCERTAIN: "the service may have accepted the last attempt",
}
"""The reasons to submit again, for the log."""


@attrs.define(eq=False)
class Submission:
    """One edit on its way to the service.

    Attributes:
        accepted: A future for the task of the accepted edit, or for the error that ends the submission.
        task: The background task that runs :meth:`run`.
        given_up_at: The time when the submission was given up after its request was sent; infinity otherwise.
    """

    _parts: SessionParts
    _poller: Poller
    _request: EditRequest
    _limits: Limits
    _observer: SubmissionObserver | None
    _call_site: CallSite | None
    _notes: tuple[str, ...]
    _uploads: tuple[Upload, ...] | None
    accepted: asyncio.Future[EditTask] = attrs.field(init=False)
    task: asyncio.Task[None] = attrs.field(init=False)
    given_up_at: float = attrs.field(default=math.inf, init=False)
    _called_at: float = attrs.field(init=False)
    _slot: Slot = attrs.field(init=False)
    _deadline: Deadline = attrs.field(init=False)
    _sent_at: float = attrs.field(default=0.0, init=False)
    _sent_among: int = attrs.field(default=0, init=False)
    _pending: JSONBody | None = attrs.field(default=None, init=False)
    _attempts: Attempts = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        gate = self._parts.gate
        self.accepted = gate.loop.create_future()
        self._called_at = gate.loop.time()
        self._slot = Slot(gate)
        self._deadline = Deadline(self._limits.deadline, gate, self._expire)
        # An observer may belong to a bulk run, whose budget must admit each submission.
        consent = self._parts.options.resubmit_uncertain and self._observer is None
        self._attempts = Attempts(self._limits.max_retries, consent)

    @property
    def sent_whole(self) -> bool:
        """Whether the service may have received a whole request, and has not replied yet."""
        return self._pending is not None and self._pending.sent_whole

    def cut_reply_short(self) -> bool:
        """Stop waiting for the rest of the reply. Return whether any part of the reply has arrived."""
        return self._pending is not None and self._pending.cut_reply_short()

    def give_up(self) -> str:
        """Stop the submission. If the edit was accepted, give up the task unless other callers await it.

        Return a sentence about the task that exists or may exist, or an empty string if there is certainly none.
        """
        if not self.accepted.done() or self.accepted.cancelled():
            self._parts.counters.cancelled += 1
            self.accepted.cancel()
            self._report_end(EditCancelledError("the edit was cancelled before the service accepted it"))
            self._stop_unless_sent()
            return self._fate if self.sent_whole or self._attempts.may_exist else ""
        if (error := self.accepted.exception()) is None:
            return self.accepted.result().cancel_unless_awaited()
        return str(error) if isinstance(error, SubmitUncertainError) or getattr(error, "task_id", None) else ""

    @property
    def _fate(self) -> str:
        name = "an edit" if self._request.key is None else f"the edit {quoted(self._request.key)}"
        return f"{name} was given up after it was sent: a task may exist and be charged"

    def _expire(self) -> None:
        """Stop the submission, because its deadline has passed."""
        if not self.accepted.done():
            error = self._error_when_late()
            self._stop_unless_sent()
            self._refuse(error)

    def _refuse(self, error: Exception) -> None:
        """End the edit with an error, before the service has accepted it."""
        if isinstance(error, NotNowError):
            self.accepted.set_exception(error)
            return
        self._parts.counters.refused += 1
        if self._attempts.may_exist and not isinstance(error, SubmitUncertainError):
            error = _uncertain(error)
        self.accepted.set_exception(error)
        self._report_end(error)

    def _report_end(self, error: Exception) -> None:
        queued, submitting = self._phases(self._parts.gate.loop.time())
        timings = EditTimings(queued=queued, submitting=submitting)
        task_id = getattr(error, "task_id", None)
        self._parts.tell(EditEnded, request=self._request, task_id=task_id, timings=timings, error=error)

    def _phases(self, now: float) -> tuple[float, float]:
        """Return the seconds that the edit was queued, and the seconds of its submission."""
        slot_at = min(self._deadline.counts_from, now)
        return slot_at - self._called_at, now - slot_at

    def _stop_unless_sent(self) -> None:
        """Free the slot, and stop the submission unless the whole request has been sent."""
        self._slot.release()
        self._deadline.stop()
        if self.task.done():
            return
        if not self.sent_whole:
            if self._pending is not None:
                self._pending.withdraw()
            self.task.cancel()
            return
        self.given_up_at = self._parts.gate.loop.time()
        self._parts.counters.uncertain += 1
        self._close_images()
        log.warning("%s; if the task's id arrives, it is logged", self._fate)

    def end_wait(self) -> None:
        """End the caller's wait if the submission stopped without an outcome."""
        if not self.accepted.done():
            self._slot.release()
            self._parts.counters.uncertain += self.sent_whole
            end = "the session was closed" if self._parts.gate.ended else "the program was interrupted"
            self._refuse(
                SubmitUncertainError(f"{end} before the service replied: a task may exist")
                if self.sent_whole
                else SessionClosedError(f"{end} before the edit was sent")
            )

    async def run(self) -> None:
        """Submit the edit, and retry until the service accepts it or an error ends it."""
        try:
            self._deadline.start(await self._slot.take())
            if self._uploads is None:
                await self._prepare()
            snapshot = await self._submit()
        except Exception as error:  # noqa: BLE001  # passed to the caller
            self._slot.release()
            if not self.accepted.done():
                self._refuse(error)
        else:
            self._succeed(snapshot)
        finally:
            self._deadline.stop()
            self._close_images()

    async def _submit(self) -> TaskSnapshot:
        while True:
            try:
                return await self._attempt_accepted_form()
            except QwenEditError as error:
                refusal = error
            await self._recover(refusal)

    async def _prepare(self) -> None:
        hashed = self._observer is not None
        self._uploads = uploads = await self._parts.prepare(self._request.images, hashed=hashed)
        notes = [note for upload in uploads for note in upload.notes]
        warnings = [warning for upload in uploads for warning in upload.warnings]
        self._notes = (*notes, *self._notes, *map(str, warnings))
        for note in notes:
            log.info("%s", note)
        if self._call_site is not None:
            for warning in warnings:
                self._call_site.warn(warning)

    def _succeed(self, snapshot: TaskSnapshot) -> None:
        parts, slot, now = self._parts, self._slot, self._parts.gate.loop.time()
        parts.counters.submitted += 1
        slot.accepted(now, self._sent_at, self._sent_among)
        if self.accepted.done() or parts.gate.ended:
            slot.release()
            parts.counters.uncertain -= self.given_up_at < math.inf
            self._poller.remember_orphan(snapshot, owned=self._observer is None)
            if not self.accepted.done():
                error = closed_error(snapshot.task_id)
                parts.counters.failed += 1
                self.accepted.set_exception(error)
                self._report_end(error)
            return
        # In a protocol without tasks, the edit ran while the session waited for the reply.
        began = now if parts.service.protocol.has_tasks else self._sent_at
        queued, submitting = self._phases(began)
        task = EditTask(
            task_id=snapshot.task_id,
            parameters=self._request.parameters,
            since=began,
            deadline=self._deadline.at,
            request=self._request,
            notes=self._notes,
            snapshot=snapshot,
            owned=self._observer is None,
            queued=queued,
            submitting=submitting,
            slot=slot,
            poller=self._poller,
        )
        task.checked_at = now
        parts.counters.queued += queued
        parts.counters.submitting += submitting
        self.accepted.set_result(task)  # first, because `on_event` may cancel the caller
        try:
            if parts.options.on_event is not None:
                timings = task.timings(began, ended=False)
                parts.tell(EditSubmitted, request=self._request, task_id=task.task_id, timings=timings)
        finally:  # an interrupt in `on_event` must not lose the task
            self._poller.watch(task)

    async def _attempt_accepted_form(self) -> TaskSnapshot:
        """Make an attempt in the form that the service accepts, or in both forms if that form is unknown."""
        service = self._parts.service
        if service.alternative is not None:
            await self._deadline.wait_in_line(service.trial.acquire())
            try:
                if service.alternative is not None:
                    return await service.try_forms(self._attempt)
            finally:
                service.trial.release()
        return await self._attempt(service.protocol)

    async def _attempt(self, protocol: WireProtocol) -> TaskSnapshot:
        """Wait for a turn, and send the request. Call the observer before and after."""
        if self.accepted.done():
            raise EditCancelledError("the edit was given up before this attempt")
        parts, observer = self._parts, self._observer
        turn = parts.gate.submit_at_once()
        if turn is None:
            turn = await self._deadline.wait_in_line(parts.gate.wait_turn(submission=True))
        self._sent_at, self._sent_among = turn, parts.gate.pacer.in_flight
        call = protocol.submission(self._request)
        body = parts.body(call, self._uploads or ())
        if observer is not None:
            await observer.about_to_submit(self._uploads or ())
        fate: TaskSnapshot | CallFailure = CallFailure.REFUSED
        try:
            parts.gate.check_open()
            self._pending = body
            fate = snapshot = await self._exchange(protocol, call, body)
        except BaseException as error:  # the observer must learn the outcome in any case
            if isinstance(error, QwenEditError):
                fate = judge_submission(error)
            elif body.sent_whole:  # a cancellation, or a bug in this package
                fate = CallFailure.UNCERTAIN
            if isinstance(error, Exception):  # after a cancellation, `sent_whole` still needs `_pending`
                self._pending = None
            raise
        finally:
            if observer is not None:
                observer.settled(fate)
        self._pending = None
        parts.service.adopt(protocol)
        return snapshot

    async def _exchange(self, protocol: WireProtocol, call: Call, body: JSONBody) -> TaskSnapshot:
        """Send the request, and return the task that the reply names. A refusal may name a charged task too."""
        try:
            return await self._parts.service.submit(protocol, call, body, deadline=self._deadline.at)
        except APIStatusError as error:
            if error.task_id is None:
                if error.status_code in _UNKNOWN_CALL_STATUSES:
                    error.hint = f"check that base_url (QWEN_EDIT_BASE_URL) serves the protocol {protocol.name!r}"
                raise
            self._apply_to_session(error)
            about(error.task_id).warning(
                "the service refused a submission, but named task %s: %s", error.task_id, error
            )
            return TaskSnapshot(task_id=error.task_id, status=TaskStatus.UNKNOWN)

    async def _recover(self, error: QwenEditError) -> None:
        """Wait before the next attempt, or raise the error if no attempt may follow.

        The failure may slow or close the whole session, even if nobody waits for this submission any more.
        """
        parts, attempts = self._parts, self._attempts
        failure = self._apply_to_session(error)
        # A submission that was given up is already counted as uncertain.
        parts.counters.uncertain += (failure is CallFailure.UNCERTAIN) - (self.given_up_at < math.inf)
        again = attempts.failed(
            error,
            failure,
            resumes_at=parts.gate.loop.time() + pause_after(error),
            deadline=self._deadline.at,
            deadline_in_line=self._deadline.at_in_line,
        )
        throttled = failure is CallFailure.THROTTLED
        if throttled and not again:
            error.hint = "the service requests a longer pause than the deadline of the edit allows"
        if not again or self.accepted.done():
            raise error
        self._report_retry(error, failure)
        if throttled:  # wait for another slot, ahead of all new edits
            self._slot.release()
            self._deadline.start(await self._deadline.wait_in_line(self._slot.take(first=True)))
        else:
            options = parts.options
            await parts.gate.sleep(options.retry.delay(attempts.count - 1, options.random.random()))

    def _report_retry(self, error: QwenEditError, failure: CallFailure) -> None:
        """Count, report and log the next attempt."""
        counters, attempt, uncertain = self._parts.counters, self._attempts.count, failure is CallFailure.UNCERTAIN
        counters.retries += not uncertain
        counters.resubmitted += uncertain
        self._parts.tell(EditRetried, request=self._request, attempt=attempt, error=error, uncertain=uncertain)
        level = logging.WARNING if uncertain else logging.INFO
        log.log(level, "submitting again (attempt %d): %s: %s", attempt, _REASONS[failure], error)

    def _apply_to_session(self, error: QwenEditError) -> CallFailure:
        """Slow or close the whole session as a failure requires. Return the kind of failure."""
        parts, failure = self._parts, judge_submission(error)
        if failure is CallFailure.ENDS_SESSION:
            parts.gate.close(error)
        parts.gate.hold_back(error)
        if failure is CallFailure.THROTTLED:
            parts.counters.throttled += 1
            if not self.accepted.done():
                parts.tell(EditThrottled, request=self._request, error=error)
            parts.gate.throttled(parts.gate.loop.time(), self._sent_at, parts.options.random.random())
        return failure

    def _error_when_late(self) -> QwenEditError:
        if self._uploads is None:
            return DeadlineExceededError("the deadline passed while the images were read: nothing was sent")
        if self.sent_whole:
            return SubmitUncertainError("the deadline passed before the service replied: a task may exist")
        if (last := self._attempts.last_error) is None:
            return DeadlineExceededError("the deadline passed before the edit could be submitted")
        if isinstance(last, RateLimitError):
            last.hint = 'the last reply before the deadline was "too many requests"'
        return last

    def _close_images(self) -> None:
        for upload in self._uploads or ():
            upload.close()


def _uncertain(error: Exception) -> SubmitUncertainError:
    """Return the error to raise instead of ``error``, because an attempt may have created a task."""
    uncertain = SubmitUncertainError(
        f"a task may exist and be charged: {error}. Check the account before you submit the edit again. "
        "resubmit_uncertain=True submits again without a check, and may pay twice"
    )
    uncertain.__cause__ = error
    return uncertain
