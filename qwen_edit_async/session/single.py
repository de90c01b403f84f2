"""One edit in an open session: from its request to the handle of its task, by way of a slot."""

from __future__ import annotations

import asyncio
import functools
import sys
import warnings
from collections.abc import Callable

from qwen_edit_async.errors import DeadlineExceededError, EditWarning, InvalidEditError
from qwen_edit_async.images.encode import Upload
from qwen_edit_async.images.prepare import prepare, url_uploads
from qwen_edit_async.log import log
from qwen_edit_async.models import EditRequest
from qwen_edit_async.session.exchange import SubmissionObserver
from qwen_edit_async.session.results import EditResult
from qwen_edit_async.session.runtime import Host
from qwen_edit_async.session.task import EditTask, TaskState
from qwen_edit_async.session.tracking import Tracked

_NOT_THE_USERS = frozenset({__name__.partition(".")[0], "asyncio"})
"""Packages whose lines no warning points at."""


async def submit_single(
    host: Host,
    request: EditRequest,
    seconds: float,
    observer: SubmissionObserver | None = None,
    *,
    strict: bool,
    fit: bool,
    warn: Callable[[str], None] | None = None,
) -> EditTask:
    """Take a slot, prepare the images, submit, and begin to wait for the task; arguments as in :class:`EditSession`.

    Warnings go to ``warn``. Without it they point at the user's line that awaits this.
    """
    cut = request.silently_cut()
    if cut and strict:
        raise InvalidEditError("; ".join(cut))
    slot = host.gate.slot()
    called_at = host.loop.time()
    uploads: tuple[Upload, ...] = ()
    host.engage(1)
    try:
        await slot.take()
        uploads = await _prepare(host, request, slot.taken_at + seconds, fit=fit)
        warnings_ = (*cut, *(warning for upload in uploads for warning in upload.warnings))
        notes = tuple(note for upload in uploads for note in upload.notes)
        for warning in warnings_:
            (warn or warner())(warning)
        for note in notes:
            log.info("%s", note)
        snapshot = await host.submitter.submit(request, uploads, slot, seconds, observer)
    except BaseException as error:
        slot.release()
        host.count_refusal(error)
        raise
    finally:
        for upload in uploads:
            upload.close()
        host.engage(-1)
    return host.track(
        Tracked(
            task_id=snapshot.task_id,
            parameters=request.parameters,
            since=host.loop.time(),
            deadline=slot.taken_at + seconds,
            state=TaskState(snapshot, host.engage),
            request=request,
            slot=slot,
            notes=(*notes, *warnings_),
            queued=slot.taken_at - called_at,
            submitting=host.loop.time() - slot.taken_at,
        )
    )


async def result_of(host: Host, task: EditTask) -> EditResult:
    """Wait for an edit's only task; a cancellation gives it up."""
    try:
        return await task
    except asyncio.CancelledError as cancelled:
        note = f"task {task.id} runs on at the service: session.attach({task.id!r}) gets its result"
        log.warning("an edit was cancelled: %s", note)
        cancelled.add_note(note)
        if task.done():  # it ended in the very moment of the cancellation
            host.tracker.unclaimed(task.id)
        elif not task.awaited:
            task.cancel()
        raise


def warner() -> Callable[[str], None]:
    """Return a function that issues an :class:`EditWarning`, which points at the user's line that runs now."""
    frame = sys._getframe(1)  # noqa: SLF001  # `inspect` reads source files, and so would block
    while frame.f_globals.get("__name__", "").partition(".")[0] in _NOT_THE_USERS and frame.f_back is not None:
        frame = frame.f_back
    return functools.partial(
        warnings.warn_explicit,
        category=EditWarning,
        filename=frame.f_code.co_filename,
        lineno=frame.f_lineno,
        module=frame.f_globals.get("__name__"),
        registry=frame.f_globals.setdefault("__warningregistry__", {}),
    )


async def _prepare(host: Host, request: EditRequest, deadline: float, *, fit: bool) -> tuple[Upload, ...]:
    if (uploads := url_uploads(request.images)) is not None:
        return uploads
    limit = asyncio.timeout_at(deadline)
    try:
        async with limit:
            return await host.offloader.run(prepare, request.images, fit=fit)
    except TimeoutError:
        if not limit.expired():
            raise
    raise DeadlineExceededError("the deadline passed while the images were read: nothing was sent")
