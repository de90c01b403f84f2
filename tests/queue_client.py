"""A client of the queue protocol, written from its public description and independent of the library."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import attrs


class QueueError(Exception):
    """A request that failed or was refused.

    Attributes:
        kind: The error's type or code.
    """

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


@attrs.frozen
class Ticket:
    request_id: str
    status_url: str
    response_url: str
    cancel_url: str


class QueueClient:
    """Submits to the queue of one model, and calls the URLs in the replies."""

    def __init__(self, session: aiohttp.ClientSession, url: str, model: str = "qwen_image_edit_plus") -> None:
        self._session = session
        self._queue = f"{url}/model/v1/queue/{model}"

    async def submit(self, prompt: str, *images: str, **parameters: Any) -> Ticket:
        body = {"prompt": prompt, "images": list(images), **parameters}
        reply = await self._call("POST", self._queue, json=body)
        return Ticket(*(reply[name] for name in ("request_id", "status_url", "response_url", "cancel_url")))

    async def status(self, ticket: Ticket) -> dict[str, Any]:
        return await self._call("GET", ticket.status_url)

    async def response(self, ticket: Ticket) -> dict[str, Any] | None:
        """Return the response, or ``None`` while the request is unfinished."""
        async with self._session.get(ticket.response_url) as response:
            return None if response.status == 202 else await response.json()

    async def cancel(self, ticket: Ticket) -> dict[str, Any]:
        return await self._call("PUT", ticket.cancel_url)

    async def wait(self, ticket: Ticket, interval: float = 0.01) -> list[dict[str, Any]]:
        """Return the outputs of a request once it is completed."""
        while (status := await self.status(ticket))["status"] != "COMPLETED":  # noqa: ASYNC110  # over HTTP
            await asyncio.sleep(interval)
        if status.get("error"):
            raise QueueError(str(status["error"]), status["error_type"])
        response = await self.response(ticket)
        assert response is not None
        return list(response["outputs"])

    async def _call(self, method: str, url: str, **options: Any) -> dict[str, Any]:
        async with self._session.request(method, url, **options) as response:
            reply: dict[str, Any] = await response.json()
            if response.status >= 400:
                report = reply.get("error") or {"message": reply["detail"], "code": str(response.status)}
                raise QueueError(report["message"], report["code"])
            return reply
