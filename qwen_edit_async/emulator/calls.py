"""The code that the emulator's protocols share. It checks requests, reads their bodies and creates tasks."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from typing import TYPE_CHECKING, NoReturn

import attrs
from aiohttp import web

from qwen_edit_async.contract import MAX_IMAGE_BYTES, MAX_IMAGES
from qwen_edit_async.emulator.delivery import deliver, ignore_disconnects
from qwen_edit_async.emulator.durations import AfterChecks
from qwen_edit_async.emulator.validation import ParsedBody, RejectedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from qwen_edit_async.emulator.faults import Operation
    from qwen_edit_async.emulator.replies import Reply
    from qwen_edit_async.emulator.results import Results
    from qwen_edit_async.emulator.service import Service
    from qwen_edit_async.emulator.tasks import ProtocolName, TaskRecord

# Base64 makes images a third larger. This limit leaves room for the rest of the body.
_MAX_BODY_BYTES = MAX_IMAGES * MAX_IMAGE_BYTES * 3 // 2
_PARSED_ON_LOOP_BYTES = 256 * 1024
_TOO_MANY_REQUESTS = 429


def api_application(routes: Iterable[web.AbstractRouteDef]) -> web.Application:
    """Return the web application that serves the API."""
    application = web.Application(client_max_size=_MAX_BODY_BYTES, middlewares=[ignore_disconnects])
    application.add_routes(routes)
    return application


class Calls:
    """Answers the API calls of one protocol.

    Args:
        service: The state of the emulator.
        results: Makes and serves the pictures.
        protocol: The name of the protocol. A call finds only tasks that were created with the same protocol.
        refuse: Called with the reason for refusing a call. Returns the reply in the protocol's form.
    """

    def __init__(
        self, service: Service, results: Results, protocol: ProtocolName, refuse: Callable[[RejectedError], Reply]
    ) -> None:
        self.service = service
        self.results = results
        self._protocol: ProtocolName = protocol
        self._refuse = refuse

    async def submit(self, request: web.Request, process: Callable[[], Awaitable[Reply]]) -> web.StreamResponse:
        """Answer a submission with the reply of `process`."""
        number = len(self.service.table.records) + 1
        return await self._answer(request, "submit", number, None, process)

    async def precharge(self, request: web.Request, process: Callable[[], Awaitable[Reply]]) -> web.StreamResponse:
        """Answer a request for a cost estimate with the reply of `process`."""
        return await self._answer(request, "precharge", 0, None, process)

    async def describe(self, request: web.Request, process: Callable[[], Awaitable[Reply]]) -> web.StreamResponse:
        """Answer a request for a model's description with the reply of `process`. No fault applies to this call."""
        self.service.note(request)
        return await deliver(self.service, request, None, lambda: self._guard(request, process))

    async def ask(
        self, request: web.Request, operation: Operation, process: Callable[[TaskRecord], Awaitable[Reply]]
    ) -> web.StreamResponse:
        """Answer a call about a task with the reply of `process`. The URL's path contains the task's id."""
        record = self.service.table.records.get(request.match_info["task_id"])
        if record is not None and record.protocol != self._protocol:
            record = None

        async def answer() -> Reply:
            if record is None or record.is_vanished:
                raise RejectedError("task not found", status=404, code=404)
            self.service.table.advance(self.service.now())
            return await process(record)

        return await self._answer(request, operation, record.number if record else 0, record, answer)

    async def create(self, request: web.Request, parse: Callable[[object, bool], ParsedBody]) -> TaskRecord:
        """Create the task of a submission.

        `parse` is called with the body and a flag that says whether to decode the body's images.
        """
        service = self.service
        settings = service.settings
        body, parsed = await self.parse(request, parse, decode=settings.engine.reads_images)
        now = service.now()
        service.table.advance(now)
        record = service.table.create(
            parsed.submission, now, picture_ready=not settings.engine.reads_images, protocol=self._protocol
        )
        if settings.keep_bodies:
            record.body = body
        record.fault = service.faults.on_task(record)
        if record.fault is not None and record.fault.failure is not None:
            record.picture_ready = True
        service.table.enqueue(record)
        if not record.picture_ready:
            self.results.begin(record, parsed.payloads)
        return record

    async def check(self, record: TaskRecord) -> float:
        """Bring all tasks up to date, count a status check of one task, and return the current time."""
        if isinstance(self.service.settings.duration, AfterChecks):
            # Without this wait, a slow engine would make the task need more checks than `duration` says.
            await self.results.finish(record)
        now = self.service.now()
        self.service.table.advance(now)
        self.service.table.check(record, now)
        return now

    def created_at(self, record: TaskRecord) -> int:
        """Return the time of a task's creation, in whole seconds since 1970."""
        return int(self.service.since_1970(record.created_at))

    async def parse(
        self, request: web.Request, parse: Callable[[object, bool], ParsedBody], *, decode: bool
    ) -> tuple[object, ParsedBody]:
        """Read and check the body of a request. A large body is checked on a worker thread."""
        try:
            raw = await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise RejectedError("the body is too large", status=413, code=413) from None

        def load() -> tuple[object, ParsedBody]:
            try:
                body = json.loads(raw, parse_constant=_refuse_constant)
            except (ValueError, RecursionError):
                raise RejectedError("the body is not JSON") from None
            return body, parse(body, decode)

        if len(raw) <= _PARSED_ON_LOOP_BYTES:
            return load()
        return await self.service.loop.run_in_executor(self.service.executor, load)

    async def _answer(
        self,
        request: web.Request,
        operation: Operation,
        number: int,
        record: TaskRecord | None,
        process: Callable[[], Awaitable[Reply]],
    ) -> web.StreamResponse:
        """Count a request, and answer it. A fault may change the reply."""
        service = self.service
        service.counts[operation] += 1
        service.note(request)
        action = service.faults.on_request(operation, number, record)
        return await deliver(service, request, action, lambda: self._guard(request, process))

    async def _guard(self, request: web.Request, process: Callable[[], Awaitable[Reply]]) -> Reply:
        """Admit and process a request, or return the reply that refuses it."""
        try:
            self.service.admit(request)
            return await process()
        except RejectedError as error:
            reply = self._refuse(error)
            if error.status == _TOO_MANY_REQUESTS:
                reply = attrs.evolve(reply, headers=self.service.retry_after())
            return reply


async def wait_for_end(service: Service, record: TaskRecord) -> None:
    """Wait until a task has ended or the emulator closes."""
    changed = asyncio.Event()
    # `statistics` may end the task in another thread.
    record.on_change = functools.partial(service.loop.call_soon_threadsafe, changed.set)
    while not service.closing.is_set():
        changed.clear()
        now = service.now()
        service.table.advance(now)
        service.table.end_unchecked(record, now)
        if record.is_finished:
            break
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(service.table.next_due()):
                await changed.wait()
    record.on_change = None


def _refuse_constant(name: str) -> NoReturn:
    """Refuse NaN and Infinity, which are not JSON."""
    raise ValueError(name)
