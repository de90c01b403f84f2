"""Calls the service over one transport, in the form of the protocol that it accepts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from qwen_edit_async.errors import APIResponseError, APITimeoutError, BadRequestError, NotFoundError
from qwen_edit_async.http.api import Transport
from qwen_edit_async.http.body import JSONBody
from qwen_edit_async.log import log
from qwen_edit_async.models import EditRequest
from qwen_edit_async.protocol.base import Call, WireProtocol
from qwen_edit_async.tasks import Estimate, TaskSnapshot

T = TypeVar("T")

_MALFORMED_STATUSES: Final = frozenset({200, 400, 422})
"""The HTTP statuses of a refusal for the form of the body. Some replies report it with HTTP 200."""

_LATE_SECONDS = 1.0
"""Seconds after an edit's deadline during which a reply with the result is still awaited, to be logged."""


class Service:
    """A transport, and the form of the protocol to use on it.

    The first accepted submission settles the form. Until then, submissions try both forms, one submission at a time.

    Args:
        transport: The HTTP client.
        protocol: The form to begin with.
        alternative: The form to try if the first submission is refused as malformed; ``None`` if there is only one.

    Attributes:
        transport: The HTTP client.
        protocol: The form to use.
        alternative: The form to try next; ``None`` once the form is settled.
        trial: The lock of the submission that tries both forms.
    """

    def __init__(self, transport: Transport, protocol: WireProtocol, alternative: WireProtocol | None) -> None:
        self.transport = transport
        self.protocol: WireProtocol = protocol
        self.alternative: WireProtocol | None = alternative
        self.trial: asyncio.Lock = asyncio.Lock()

    def settle(self, protocol: WireProtocol) -> None:
        """Use this form for the rest of the session, unless the form is already settled."""
        if self.alternative is None:
            return
        if protocol is not self.protocol:
            log.warning("the service accepts %r instead of %r: it is used from now on", protocol, self.protocol)
        self.protocol, self.alternative = protocol, None

    async def submit(self, protocol: WireProtocol, call: Call, body: JSONBody, *, deadline: float) -> TaskSnapshot:
        """Submit an edit, in one attempt. Wait for a reply that holds the result until shortly after the deadline."""
        if not call.holds_result:
            return protocol.read_submission(await self.transport.send(call, body))
        try:
            async with asyncio.timeout_at(deadline + _LATE_SECONDS) as limit:
                return protocol.read_submission(await self.transport.send(call, body))
        except TimeoutError:
            if not limit.expired():
                raise
            raise APITimeoutError("the service did not give the result in time", request_sent=True) from None

    async def try_forms(self, call: Callable[[WireProtocol], Awaitable[T]]) -> T:
        """Make a call. If the service refuses it as malformed, try the other form, unless the form is settled."""
        try:
            return await call(self.protocol)
        except BadRequestError as error:
            if self.alternative is None or error.status_code not in _MALFORMED_STATUSES:
                raise
            refusal = error
        try:
            return await call(self.alternative)
        except BadRequestError:  # malformed in both forms, so the form is not the fault
            raise refusal from None

    async def estimate(self, request: EditRequest, body_of: Callable[[Call], JSONBody]) -> Estimate:
        """Request the price of an edit, in one attempt. Try both forms if the form is not settled yet."""

        async def ask(protocol: WireProtocol) -> Estimate:
            call = protocol.estimation(request)
            return protocol.read_estimate(await self.transport.send(call, body_of(call)))

        return await self.try_forms(ask)

    async def check(self, task: TaskSnapshot) -> TaskSnapshot:
        """Check the status of a task, in one attempt. If its result needs a second call, make this call, too."""
        protocol = self.protocol
        snapshot = protocol.read_status(await self.transport.send(protocol.status_check(task)), task)
        if (call := protocol.result_call(snapshot)) is None:
            return snapshot
        try:
            return protocol.read_status(await self.transport.send(call), snapshot)
        except NotFoundError as error:  # the status has just proved that the task exists
            raise APIResponseError(f"the result is not available yet: {error}", task_id=task.task_id) from error
