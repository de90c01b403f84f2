"""One edit in an open session: from its request to the handle of its task, by way of a slot."""

from __future__ import annotations

import asyncio
import warnings

from ._errors import DeadlineExceededError, EditWarning, InvalidEditError
from ._exchange import SubmissionObserver
from ._host import Host
from ._log import log
from ._models import EditRequest
from ._prepare import PreparedEdit, prepare, prepare_urls
from ._task import EditTask, TaskState
from ._tracking import Tracked


async def submit_single(
    host: Host,
    request: EditRequest,
    seconds: float,
    observer: SubmissionObserver | None = None,
    *,
    strict: bool,
    fit: bool,
) -> EditTask:
    """Take a slot, prepare the images, submit, and begin to wait for the task; arguments as in :class:`EditSession`."""
    cut = request.silently_cut()
    if cut and strict:
        raise InvalidEditError("; ".join(cut))
    slot = host.gate.slot()
    called_at = host.loop.time()
    prepared: PreparedEdit | None = None
    host.engage(1)
    try:
        await slot.take()
        prepared = await _prepare(host, request, slot.taken_at + seconds, fit=fit)
        for warning in (*cut, *prepared.warnings):
            warnings.warn(warning, EditWarning, stacklevel=3)
        for change in prepared.changes:
            log.info("%s", change)
        snapshot = await host.submitter.submit(request, prepared, slot, seconds, observer)
    except BaseException as error:
        slot.release()
        host.count_refusal(error)
        raise
    finally:
        if prepared is not None:
            prepared.close()
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
            notes=(*prepared.changes, *cut, *prepared.warnings),
            queued=slot.taken_at - called_at,
            submitting=host.loop.time() - slot.taken_at,
        )
    )


async def _prepare(host: Host, request: EditRequest, deadline: float, *, fit: bool) -> PreparedEdit:
    if (prepared := prepare_urls(request)) is not None:
        return prepared
    limit = asyncio.timeout_at(deadline)
    try:
        async with limit:
            return await host.offloader.run(prepare, request, fit=fit)
    except TimeoutError:
        if not limit.expired():
            raise
    raise DeadlineExceededError("the deadline passed while the images were read: nothing was sent")
