"""The protocol of Alibaba Model Studio (DashScope). An edit is a single call, answered when the edit ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from qwen_edit_async.contract import DASHSCOPE_MODEL, DASHSCOPE_PATH
from qwen_edit_async.emulator.calls import Calls, wait_for_end
from qwen_edit_async.emulator.replies import error_reply, json_reply
from qwen_edit_async.emulator.validation import ParsedBody, RejectedError, parse_body

if TYPE_CHECKING:
    from qwen_edit_async.emulator.replies import Reply
    from qwen_edit_async.emulator.results import Results
    from qwen_edit_async.emulator.service import Service
    from qwen_edit_async.emulator.tasks import Failure, TaskRecord

_REFUSALS = {401: "InvalidApiKey", 429: "Throttling.RateQuota"}
_FAILURES = {110001: "DataInspectionFailed", 190000: "InvalidParameter"}
_BALANCE_TOO_LOW = 402
_BAD_REQUEST = 400
_SERVER_ERROR = 500


class DashScope:
    """Handlers of the protocol of Alibaba Model Studio."""

    def __init__(self, service: Service, results: Results) -> None:
        self._calls = Calls(service, results, "dashscope", _refusal)
        self._service = service

    def routes(self) -> list[web.RouteDef]:
        """Return the protocol's route."""
        return [web.post(DASHSCOPE_PATH, self._submit)]

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        async def edit() -> Reply:
            record = await self._calls.create(request, _parse)
            await self._calls.results.finish(record)
            await wait_for_end(self._service, record)
            if not record.is_finished:  # the emulator is closing
                if request.transport is not None:
                    request.transport.close()
                raise ConnectionResetError
            record.seen_at = self._service.now()
            return await self._completed(record) if record.failure is None else _failed(record, record.failure)

        return await self._calls.submit(request, edit)

    async def _completed(self, record: TaskRecord) -> Reply:
        results = self._calls.results
        content = [{"image": url} for url in results.urls(record, self._service.now())]
        choice = {"finish_reason": "stop", "message": {"role": "assistant", "content": content}}
        width, height = await results.picture_size(record)
        usage = {"image_count": len(content), "width": width, "height": height}
        return json_reply({"output": {"choices": [choice]}, "usage": usage, "request_id": record.id})


def _parse(body: object, decode: bool) -> ParsedBody:  # noqa: FBT001 - the parsers' common signature
    return parse_body(body, envelope="flat", model=DASHSCOPE_MODEL, decode=decode)


def _refusal(error: RejectedError) -> Reply:
    if error.status == _BALANCE_TOO_LOW:
        return error_reply(_BAD_REQUEST, "Arrearage", error.message, shape="dashscope")
    code = _REFUSALS.get(error.status, "InvalidParameter")
    return error_reply(error.status, code, error.message, shape="dashscope")


def _failed(record: TaskRecord, failure: Failure) -> Reply:
    code = _FAILURES.get(failure.code, failure.code) if isinstance(failure.code, int) else failure.code
    status = _SERVER_ERROR if str(code).startswith("InternalError") else _BAD_REQUEST
    return error_reply(status, code, failure.message, shape="dashscope", request_id=record.id)
