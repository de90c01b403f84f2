"""Serves the gateway's description of its model. The description names the protocol and its endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from qwen_edit_async import contract
from qwen_edit_async.emulator.calls import Calls
from qwen_edit_async.emulator.replies import error_reply, json_reply
from qwen_edit_async.emulator.validation import RejectedError

if TYPE_CHECKING:
    from qwen_edit_async.emulator.replies import Reply
    from qwen_edit_async.emulator.results import Results
    from qwen_edit_async.emulator.service import Service

_REQUEST = contract.QUEUE_REQUEST_PATH.format(model=contract.MODEL, request_id="{request_id}")
_ENDPOINTS: Final = {
    "generation": {"submit": contract.SUBMIT_PATH, "status": contract.STATUS_PATH},
    "queue": {
        "submit": contract.QUEUE_PATH.format(model=contract.MODEL),
        **{name: f"{_REQUEST}/{name}" for name in ("status", "response", "cancel")},
    },
}
_REQUIRED: Final = {"generation": ["model", "input"], "queue": ["prompt", "images"]}


class Models:
    """Answers requests for the description of a model."""

    def __init__(self, service: Service, results: Results) -> None:
        self._calls = Calls(service, results, "generation", _refusal)
        self._settings = service.settings

    def routes(self) -> list[web.RouteDef]:
        """Return the route of the model's description."""
        return [web.get(contract.MODEL_CONTRACT_PATH, self._describe)]

    async def _describe(self, request: web.Request) -> web.StreamResponse:
        async def describe() -> Reply:
            if self._settings.model_contract is None or request.match_info["model"] != contract.MODEL:
                raise RejectedError("no such model", status=404, code=404)
            return json_reply(self._contract(self._settings.model_contract))

        return await self._calls.describe(request, describe)

    def _contract(self, offered: str) -> dict[str, Any]:
        protocol = "queue" if offered == "queue" else "generation"
        return {
            "model": contract.MODEL,
            "protocol": protocol,
            "body_mode": self._settings.envelope if protocol == "generation" else "plain",
            "endpoints": _ENDPOINTS if offered == "both" else _ENDPOINTS[protocol],
            "input_schema": {"type": "object", "required": _REQUIRED[protocol]},
        }


def _refusal(error: RejectedError) -> Reply:
    return error_reply(error.status, error.code, error.message)
