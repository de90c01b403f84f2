"""The emulator's side of the documented protocol ``generation``: submissions, status checks, cost estimates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from qwen_edit_async.contract import MODEL, STATUS_PATH, SUBMIT_PATH
from qwen_edit_async.emulator.calls import Calls
from qwen_edit_async.emulator.replies import error_reply, json_reply
from qwen_edit_async.emulator.validation import ParsedBody, RejectedError, parse_body

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qwen_edit_async.emulator.replies import Reply
    from qwen_edit_async.emulator.results import Results
    from qwen_edit_async.emulator.service import Service
    from qwen_edit_async.emulator.tasks import Failure, TaskRecord


class Generation:
    """Handlers of the protocol ``generation``."""

    def __init__(self, service: Service, results: Results) -> None:
        self._calls = Calls(service, results, "generation", _refusal)
        self._service = service

    def routes(self) -> list[web.RouteDef]:
        """Return the protocol's routes."""
        return [
            web.post(SUBMIT_PATH, self._submit),
            web.post(f"{SUBMIT_PATH}/precharge", self._precharge),
            web.get(STATUS_PATH, self._check),
        ]

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        async def create() -> Reply:
            record = await self._calls.create(request, self._parser(request))
            return json_reply(self._head(record, "in_progress"))

        return await self._calls.submit(request, create)

    async def _check(self, request: web.Request) -> web.StreamResponse:
        return await self._calls.ask(request, "check", self._status)

    async def _precharge(self, request: web.Request) -> web.StreamResponse:
        async def estimate() -> Reply:
            try:
                _, parsed = await self._calls.parse(request, self._parser(request), decode=False)
            except RejectedError as error:
                return json_reply({"status": "failed", "data": {"cost": None, "reason": error.message}})
            cost = str(self._service.table.cost(parsed.submission))
            return json_reply({"status": "success", "data": {"cost": cost, "currency": "USD"}})

        return await self._calls.precharge(request, estimate)

    async def _status(self, record: TaskRecord) -> Reply:
        now = await self._calls.check(record)
        if record.status == "completed":
            return json_reply(
                self._head(record, "completed") | _completed(record, self._calls.results.urls(record, now))
            )
        if record.failure is not None and record.status == "failed":
            return json_reply(self._head(record, "failed") | {"error": _error(record.failure)})
        progress = self._service.table.progress(record, now)
        return json_reply(self._head(record, "in_progress") | {"progress": progress})

    def _parser(self, request: web.Request) -> Callable[[object, bool], ParsedBody]:
        envelope, model = self._service.settings.envelope, request.headers.get("X-Model")
        return lambda body, decode: parse_body(body, envelope=envelope, header_model=model, decode=decode)

    def _head(self, record: TaskRecord, status: str) -> dict[str, Any]:
        return {"id": record.id, "status": status, "model": MODEL, "created_at": self._calls.created_at(record)}


def _refusal(error: RejectedError) -> Reply:
    return error_reply(error.status, error.code, error.message)


def _completed(record: TaskRecord, urls: Sequence[str]) -> dict[str, Any]:
    """Return the members that report the pictures and the cost of a completed task."""
    n = record.submission.n
    usage = {"cost": str(record.cost), "quantity": n, "unit_price": str(record.cost / n), "discount": 1}
    return {
        "output": [{"content": [{"type": "image", "url": url} for url in urls]}],
        "usage": usage,
        "metadata": {},
    }


def _error(failure: Failure) -> object:
    match failure.shape:
        case "contract":
            return {"code": failure.code, "error_message": failure.message}
        case "object":
            return {"code": str(failure.code), "message": failure.message}
        case "string":
            return failure.message
