"""The API origin: submissions, status checks, cost estimates."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NoReturn

import attrs
from aiohttp import web

from qwen_edit_async.contract import MAX_IMAGE_BYTES, MAX_IMAGES, STATUS_PATH, SUBMIT_PATH
from qwen_edit_async.emulator.delivery import deliver, let_go
from qwen_edit_async.emulator.durations import AfterChecks
from qwen_edit_async.emulator.replies import (
    completed_reply,
    created_reply,
    failed_reply,
    json_reply,
    rejection_reply,
    running_reply,
)
from qwen_edit_async.emulator.validation import ParsedBody, RejectedError, parse_body

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qwen_edit_async.emulator.replies import Reply
    from qwen_edit_async.emulator.results import Results
    from qwen_edit_async.emulator.service import Service
    from qwen_edit_async.emulator.tasks import TaskRecord

# Base64 makes images a third larger. The rest of the body is small.
_MAX_BODY_BYTES = MAX_IMAGES * MAX_IMAGE_BYTES * 3 // 2
_PARSED_ON_LOOP_BYTES = 256 * 1024
_TOO_MANY_REQUESTS = 429


class Api:
    """Handlers of the API origin."""

    def __init__(self, service: Service, results: Results) -> None:
        self._service = service
        self._results = results

    def application(self) -> web.Application:
        """Return the API origin's application."""
        application = web.Application(client_max_size=_MAX_BODY_BYTES, middlewares=[let_go])
        application.router.add_post(SUBMIT_PATH, self._submit)
        application.router.add_post(f"{SUBMIT_PATH}/precharge", self._precharge)
        application.router.add_get(STATUS_PATH, self._check)
        return application

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        service = self._service
        service.submits += 1
        service.note(request)
        action = service.faults.on_request("submit", len(service.table.records) + 1, None)
        return await deliver(service, request, action, lambda: self._guard(request, self._create))

    async def _check(self, request: web.Request) -> web.StreamResponse:
        service = self._service
        service.checks += 1
        service.note(request)
        record = service.table.records.get(request.match_info["task_id"])
        action = service.faults.on_request("check", record.number if record else 0, record)
        return await deliver(service, request, action, lambda: self._guard(request, self._status))

    async def _precharge(self, request: web.Request) -> web.StreamResponse:
        self._service.precharges += 1
        self._service.note(request)
        return await deliver(self._service, request, None, lambda: self._guard(request, self._estimate))

    async def _guard(self, request: web.Request, process: Callable[[web.Request], Awaitable[Reply]]) -> Reply:
        """Admit and process a request, or return the reply that rejects it."""
        try:
            self._service.admit(request)
            return await process(request)
        except RejectedError as error:
            reply = rejection_reply(error)
            if error.status == _TOO_MANY_REQUESTS:
                reply = attrs.evolve(reply, headers=self._service.retry_after())
            return reply

    async def _create(self, request: web.Request) -> Reply:
        service = self._service
        settings = service.settings
        body, parsed = await self._parse(request, decode=settings.engine.reads_images)
        now = service.now()
        service.table.advance(now)
        record = service.table.create(parsed.submission, now, picture_ready=not settings.engine.reads_images)
        if settings.keep_bodies:
            record.body = body
        record.fault = service.faults.on_task(record)
        if record.fault is not None and record.fault.failure is not None:
            record.picture_ready = True
        service.table.enqueue(record)
        if not record.picture_ready:
            self._results.begin(record, parsed.payloads)
        return created_reply(record, self._created_at(record))

    async def _status(self, request: web.Request) -> Reply:
        service = self._service
        record = service.table.records.get(request.match_info["task_id"])
        if record is None or record.is_vanished:
            raise RejectedError("task not found", status=404, code=404)
        if isinstance(service.settings.duration, AfterChecks):
            await self._results.finish(record)  # only the number of checks may decide, not the engine's speed
        now = service.now()
        service.table.advance(now)
        service.table.check(record, now)
        if record.status == "completed":
            return completed_reply(record, self._created_at(record), self._results.urls(record, now))
        if record.failure is not None and record.status == "failed":
            return failed_reply(record, self._created_at(record), record.failure)
        return running_reply(record, self._created_at(record), service.table.progress(record, now))

    async def _estimate(self, request: web.Request) -> Reply:
        try:
            _, parsed = await self._parse(request, decode=False)
        except RejectedError as error:
            return json_reply({"status": "failed", "data": {"cost": None, "reason": error.message}})
        cost = str(self._service.table.cost(parsed.submission))
        return json_reply({"status": "success", "data": {"cost": cost, "currency": "USD"}})

    async def _parse(self, request: web.Request, *, decode: bool) -> tuple[object, ParsedBody]:
        """Read and check a body, off the event loop if it is large."""
        try:
            raw = await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise RejectedError("the body is too large", status=413, code=413) from None
        envelope = self._service.settings.envelope

        def parse() -> tuple[object, ParsedBody]:
            try:
                body = json.loads(raw, parse_constant=_refuse_constant)
            except (ValueError, RecursionError):
                raise RejectedError("the body is not JSON") from None
            return body, parse_body(body, envelope=envelope, decode=decode)

        if len(raw) <= _PARSED_ON_LOOP_BYTES:
            return parse()
        return await self._service.loop.run_in_executor(self._service.executor, parse)

    def _created_at(self, record: TaskRecord) -> int:
        return int(self._service.since_1970(record.created_at))


def _refuse_constant(name: str) -> NoReturn:
    """Refuse NaN and Infinity, which are not JSON."""
    raise ValueError(name)
