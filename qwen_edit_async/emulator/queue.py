"""The emulator's side of the queue protocol: submissions, statuses, responses, cancellations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from qwen_edit_async.contract import CANCELED, MODEL, QUEUE_PATH, QUEUE_REQUEST_PATH
from qwen_edit_async.emulator.calls import Calls
from qwen_edit_async.emulator.replies import json_reply
from qwen_edit_async.emulator.tasks import Failure
from qwen_edit_async.emulator.validation import ParsedBody, RejectedError, parse_plain_body

if TYPE_CHECKING:
    from qwen_edit_async.emulator.replies import Reply
    from qwen_edit_async.emulator.results import Results
    from qwen_edit_async.emulator.service import Service
    from qwen_edit_async.emulator.tasks import TaskRecord

_SUBMISSION = QUEUE_PATH.format(model=MODEL)
_REQUEST = QUEUE_REQUEST_PATH.format(model=MODEL, request_id="{task_id}")

_CANCELED = Failure(CANCELED, "cancelled by the caller", "string")
_ERROR_TYPES = frozenset(
    {
        *("INFERENCE_FAILURE", "INFERENCE_TIMEOUT", "REQUEST_INVALID"),
        *("CONTENT_BLOCKED", CANCELED, "INTERNAL_SERVER_ERROR"),
    }
)
_TYPE_BY_CODE = {110001: "CONTENT_BLOCKED", 190000: "REQUEST_INVALID"}
_CODES = {400: "REQUEST_INVALID", 413: "REQUEST_INVALID", 429: "RATE_LIMIT_EXCEEDED"}
_STATUSES_WITH_DETAIL = frozenset({401, 404, 405, 409})


class Queue:
    """Handlers of the queue protocol."""

    def __init__(self, service: Service, results: Results) -> None:
        self._calls = Calls(service, results, "queue", _refusal)
        self._service = service

    def routes(self) -> list[web.RouteDef]:
        """Return the protocol's routes."""
        return [
            web.post(_SUBMISSION, self._submit),
            web.get(f"{_REQUEST}/status", self._check),
            web.get(f"{_REQUEST}/response", self._respond),
            web.put(f"{_REQUEST}/cancel", self._cancel),
        ]

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        async def create() -> Reply:
            record = await self._calls.create(request, _parse)
            start = str(request.url.origin()) + _REQUEST.format(task_id=record.id)
            urls = {f"{name}_url": f"{start}/{name}" for name in ("status", "response", "cancel")}
            return json_reply({"request_id": record.id, **urls, "queue_position": 0})

        return await self._calls.submit(request, create)

    async def _check(self, request: web.Request) -> web.StreamResponse:
        async def status(record: TaskRecord) -> Reply:
            await self._calls.check(record)
            word = {"queued": "IN_QUEUE", "running": "IN_PROGRESS"}.get(record.status, "COMPLETED")
            return json_reply({"request_id": record.id, "status": word, "queue_position": 0, **_failure(record)})

        return await self._calls.ask(request, "check", status)

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        async def response(record: TaskRecord) -> Reply:
            if not record.is_finished:
                return json_reply({"request_id": record.id, "detail": "the request is not completed"}, 202)
            outputs = await self._outputs(record) if record.status == "completed" else []
            return json_reply({"request_id": record.id, "outputs": outputs, "metadata": {}, **_failure(record)})

        return await self._calls.ask(request, "result", response)

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        async def cancel(record: TaskRecord) -> Reply:
            if not self._service.settings.cancellable:
                raise RejectedError("requests to this model can't be cancelled", status=405, code=405)
            if record.is_finished:
                raise RejectedError("the request is completed", status=409, code=409)
            self._service.table.cancel(record, self._service.now(), _CANCELED)
            return json_reply({"request_id": record.id, "status": CANCELED})

        return await self._calls.ask(request, "cancel", cancel)

    async def _outputs(self, record: TaskRecord) -> list[dict[str, Any]]:
        results = self._calls.results
        width, height = await results.picture_size(record)
        picture = {"type": "image", "content_type": "image/png", "width": width, "height": height}
        return [
            picture | {"url": url, "file_name": f"{index}.png"}
            for index, url in enumerate(results.urls(record, self._service.now()))
        ]


def _parse(body: object, decode: bool) -> ParsedBody:  # noqa: FBT001 - the parsers' common signature
    return parse_plain_body(body, decode=decode)


def _refusal(error: RejectedError) -> Reply:
    if error.status in _STATUSES_WITH_DETAIL:
        return json_reply({"detail": error.message}, error.status)
    code = _CODES.get(error.status, error.code)
    return json_reply({"error": {"code": code, "message": error.message}, "request_id": "report"}, error.status)


def _failure(record: TaskRecord) -> dict[str, Any]:
    """Return the members that report a task's failure, or no members if the task has not failed."""
    if record.status != "failed" or record.failure is None:
        return {}
    failure = record.failure
    error: object = failure.message
    if failure.shape != "string":
        error = {"code": failure.code, "message": failure.message}
    if isinstance(failure.code, int):
        error_type = _TYPE_BY_CODE.get(failure.code, "INFERENCE_FAILURE")
    else:
        error_type = failure.code if failure.code in _ERROR_TYPES else "INFERENCE_FAILURE"
    return {"error": error, "error_type": error_type}
