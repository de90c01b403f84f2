"""Submits edits: waits for a slot and for a turn to send, sends the request, and retries if the rules allow.

Each submission runs in a background task of the session, so it can outlive its caller.
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Final

import attrs

from qwen_edit_async.errors import (
    APIStatusError,
    BadRequestError,
    EditCancelledError,
    EditWarning,
    InvalidEditError,
    QwenEditError,
)
from qwen_edit_async.events import EditRetried, EditSubmitted, EditThrottled
from qwen_edit_async.http.body import JSONBody
from qwen_edit_async.images.prepare import prepare, url_uploads
from qwen_edit_async.log import about, log
from qwen_edit_async.models import EditRequest
from qwen_edit_async.protocol.base import Call, WireProtocol
from qwen_edit_async.protocol.choice import MALFORMED_STATUSES
from qwen_edit_async.scheduling.retry import CallFailure, judge_submission, pause_after
from qwen_edit_async.session.background import BackgroundTasks
from qwen_edit_async.session.observer import CallSite, SubmissionObserver
from qwen_edit_async.session.options import Limits
from qwen_edit_async.session.parts import SessionParts
from qwen_edit_async.session.poller import Poller
from qwen_edit_async.session.submission import Submission
from qwen_edit_async.session.task import EditTask
from qwen_edit_async.tasks import TaskSnapshot, TaskStatus

_UNKNOWN_CALL_STATUSES: Final = frozenset({404, 405})

_REASONS: Final = {
    CallFailure.REFUSED: "the service did not accept the last attempt",
    CallFailure.THROTTLED: "the service rejected the last attempt because of too many requests",
    CallFailure.UNCERTAIN: "the service may have accepted the last attempt",
}
"""The reasons to submit again, for the log."""


@attrs.define(eq=False)
class Submitter:
    """Submits the edits of a session."""

    parts: SessionParts
    poller: Poller
    background: BackgroundTasks

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
        submission = Submission(self.parts, request, limits, observer, call_site, cut, uploads)
        submission.work = self.background.start(self.run(submission), submission)
        return submission

    async def run(self, submission: Submission) -> None:
        """Submit the edit, and retry until the service accepts it or an error ends it."""
        try:
            submission.deadline.start(await submission.slot.take())
            if submission.uploads is None:
                await self._prepare(submission)
            snapshot = await self._submit(submission)
        except Exception as error:  # noqa: BLE001  # passed to the caller
            submission.slot.release()
            if not submission.accepted.done():
                submission.refuse(error)
        else:
            self._succeed(submission, snapshot)
        finally:
            submission.deadline.stop()
            submission.close_images()

    async def _prepare(self, submission: Submission) -> None:
        options, images = self.parts.options, submission.request.images
        fit, inline, hashed = options.fit, options.inline, submission.observer is not None
        uploads = await self.parts.offloader.run(prepare, images, fit=fit, inline=inline, hashed=hashed)
        submission.uploads = uploads
        notes = [note for upload in uploads for note in upload.notes]
        warnings = [warning for upload in uploads for warning in upload.warnings]
        submission.notes = (*notes, *submission.notes, *map(str, warnings))
        for note in notes:
            log.info("%s", note)
        if submission.call_site is not None:
            for warning in warnings:
                submission.call_site.warn(warning)

    async def _submit(self, submission: Submission) -> TaskSnapshot:
        while True:
            try:
                return await self._attempt_accepted_form(submission)
            except QwenEditError as error:
                failure = self._judge(submission, error)
                if failure is None:
                    raise
            await self._wait_before_attempt(submission, failure)

    async def _attempt_accepted_form(self, submission: Submission) -> TaskSnapshot:
        """Make an attempt in the form that the service accepts. If it is unknown, try one form after the other."""
        parts = self.parts
        if parts.forms.alternative is not None:
            await submission.deadline.wait_in_line(parts.form_trial.acquire())
            try:
                if parts.forms.alternative is not None:
                    return await self._attempt_each_form(submission)
            finally:
                parts.form_trial.release()
        return await self._attempt(submission, parts.protocol)

    async def _attempt_each_form(self, submission: Submission) -> TaskSnapshot:
        """Make an attempt. If the service refuses it as malformed, make another in the other form."""
        protocol, first_refusal = self.parts.protocol, None
        while True:
            try:
                return await self._attempt(submission, protocol)
            except BadRequestError as error:
                if (other := self.parts.forms.after(protocol, error)) is None:
                    # If the request is malformed in both forms, the form is not the cause.
                    if first_refusal is not None and error.status_code in MALFORMED_STATUSES:
                        raise first_refusal from None
                    raise
                protocol, first_refusal = other, error

    async def _attempt(self, submission: Submission, protocol: WireProtocol) -> TaskSnapshot:
        """Wait for a turn, and send the request. Call the observer before and after."""
        if submission.accepted.done():
            raise EditCancelledError("the edit was given up before this attempt")
        parts, observer, uploads = self.parts, submission.observer, submission.uploads or ()
        turn = parts.gate.submit_at_once()
        if turn is None:
            turn = await submission.deadline.wait_in_line(parts.gate.wait_turn(submission=True))
        submission.sent_at, submission.sent_among = turn, parts.gate.pacer.in_flight
        call = protocol.submission(submission.request)
        body = JSONBody(call.parts, uploads, parts.offloader, stall_timeout=parts.options.timeouts.send)
        if observer is not None:
            await observer.about_to_submit(uploads)
        fate: TaskSnapshot | CallFailure = CallFailure.REFUSED
        try:
            parts.gate.check_open()
            submission.pending = body
            fate = snapshot = await self._exchange(submission, protocol, call, body)
        except BaseException as error:  # the observer must learn the outcome in any case
            if isinstance(error, QwenEditError):
                fate = judge_submission(error)
            elif body.sent_whole:  # a cancellation, or a bug in this package
                fate = CallFailure.UNCERTAIN
            # Keep `pending` after a cancellation, because `Submission.sent_whole` reads it.
            if isinstance(error, Exception):
                submission.pending = None
            raise
        finally:
            if observer is not None:
                observer.settled(fate)
        submission.pending = None
        earlier = parts.protocol
        if parts.forms.adopt(protocol):
            log.warning(
                "the service refused the request body of %r, but accepted that of %r, which is used from now on",
                earlier,
                protocol,
            )
        return snapshot

    async def _exchange(
        self, submission: Submission, protocol: WireProtocol, call: Call, body: JSONBody
    ) -> TaskSnapshot:
        """Send the request, and return the task that the reply names. A refusal may name a charged task too."""
        sending = self.parts.transport.send(call, body)
        try:
            reply = await (submission.deadline.wait_for_result(sending) if call.holds_result else sending)
            return protocol.read_submission(reply)
        except APIStatusError as error:
            if error.task_id is None:
                if error.status_code in _UNKNOWN_CALL_STATUSES:
                    error.hint = f"check that base_url (QWEN_EDIT_BASE_URL) serves the protocol {protocol.name!r}"
                raise
            self._apply_to_session(submission, error)
            about(error.task_id).warning(
                "the service refused a submission, but named task %s: %s", error.task_id, error
            )
            return TaskSnapshot(task_id=error.task_id, status=TaskStatus.UNKNOWN)

    def _judge(self, submission: Submission, error: QwenEditError) -> CallFailure | None:
        """Record a failed attempt. Return the kind of failure if another attempt may follow, or else ``None``.

        The failure may slow the session's requests or close its gate, even if nobody waits for the submission any more.
        """
        parts, deadline, attempts = self.parts, submission.deadline, submission.attempts
        failure = self._apply_to_session(submission, error)
        # A submission that was given up after sending was counted as uncertain. This failure replaces that count.
        parts.counters.uncertain += (failure is CallFailure.UNCERTAIN) - (submission.given_up_at < math.inf)
        again = attempts.failed(
            error,
            failure,
            resumes_at=parts.gate.loop.time() + pause_after(error),
            deadline=deadline.at,
            deadline_in_line=deadline.at_in_line,
        )
        if failure is CallFailure.THROTTLED and not again:
            error.hint = "the deadline of the edit leaves no time for another attempt"
        if not again or submission.accepted.done():
            return None
        self._report_retry(submission, error, failure)
        return failure

    async def _wait_before_attempt(self, submission: Submission, failure: CallFailure) -> None:
        deadline, options = submission.deadline, self.parts.options
        if failure is CallFailure.THROTTLED:  # wait for another slot, ahead of all new edits
            submission.slot.release()
            deadline.start(await deadline.wait_in_line(submission.slot.take(first=True)))
        else:
            delay = options.retry.delay(submission.attempts.count - 1, options.random.random())
            await self.parts.gate.sleep(delay)

    def _apply_to_session(self, submission: Submission, error: QwenEditError) -> CallFailure:
        """Slow the session's requests, or close its gate, as a failure requires. Return the kind of failure."""
        parts, failure = self.parts, judge_submission(error)
        if failure is CallFailure.ENDS_SESSION:
            parts.gate.close(error)
        parts.gate.hold_back(error)
        if failure is CallFailure.THROTTLED:
            parts.counters.throttled += 1
            if not submission.accepted.done():
                parts.tell(EditThrottled, request=submission.request, error=error)
            parts.gate.throttled(parts.gate.loop.time(), submission.sent_at, parts.options.random.random())
        return failure

    def _report_retry(self, submission: Submission, error: QwenEditError, failure: CallFailure) -> None:
        """Count, report and log the next attempt."""
        counters, attempt, uncertain = self.parts.counters, submission.attempts.count, failure is CallFailure.UNCERTAIN
        counters.retries += not uncertain
        counters.resubmitted += uncertain
        self.parts.tell(EditRetried, request=submission.request, attempt=attempt, error=error, uncertain=uncertain)
        level = logging.WARNING if uncertain else logging.INFO
        log.log(level, "submitting again (attempt %d): %s: %s", attempt, _REASONS[failure], error)

    def _succeed(self, submission: Submission, snapshot: TaskSnapshot) -> None:
        """Pass the accepted edit's task to the caller and to the poller."""
        parts, now, accepted = self.parts, self.parts.gate.loop.time(), submission.accepted
        parts.counters.submitted += 1
        submission.slot.accepted(now, submission.sent_at, submission.sent_among)
        if accepted.done() or parts.gate.ended:
            submission.slot.release()
            parts.counters.uncertain -= submission.given_up_at < math.inf
            self.poller.remember_orphan(snapshot, owned=submission.observer is None)
            if not accepted.done():
                parts.counters.failed += 1
                submission.fail(self.poller.closed_error(snapshot.task_id))
            return
        # In a protocol without tasks, the edit ran while the session waited for the reply.
        began = now if parts.protocol.has_tasks else submission.sent_at
        queued, submitting = submission.phases(began)
        task = EditTask(
            task_id=snapshot.task_id,
            parameters=submission.request.parameters,
            since=began,
            deadline=submission.deadline.at,
            request=submission.request,
            notes=submission.notes,
            snapshot=snapshot,
            owned=submission.observer is None,
            queued=queued,
            submitting=submitting,
            slot=submission.slot,
            poller=self.poller,
        )
        task.checked_at = now
        parts.counters.queued += queued
        parts.counters.submitting += submitting
        accepted.set_result(task)  # first, because `on_event` may cancel the caller
        try:
            if parts.options.on_event is not None:
                timings = task.timings(began, ended=False)
                parts.tell(EditSubmitted, request=submission.request, task_id=task.task_id, timings=timings)
        finally:  # an interrupt in `on_event` must not lose the task
            self.poller.watch(task)
