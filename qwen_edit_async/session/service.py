"""Calls the service, with request bodies in a form that the service accepts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import attrs

from qwen_edit_async.errors import APIResponseError, APIStatusError, APITimeoutError, BadRequestError, NotFoundError
from qwen_edit_async.http.api import Transport
from qwen_edit_async.http.body import JSONBody
from qwen_edit_async.log import log
from qwen_edit_async.protocol.base import Call, WireProtocol
from qwen_edit_async.session.gate import Gate
from qwen_edit_async.tasks import TaskSnapshot

T = TypeVar("T")

_MALFORMED_STATUSES: Final = frozenset({200, 400, 422})
"""The HTTP statuses with which services refuse a body of the wrong form. Some services use 200 for this."""

_LATE_SECONDS = 1.0
"""Seconds to wait for the result after an edit's deadline, because a bulk run journals even a late result."""


@attrs.define(eq=False)
class Service:
    """Makes calls. The protocol can have two forms (envelopes), which differ in the layout of a request's body.

    With two forms, submissions go one at a time until the service accepts a form. A submission that the service
    refuses as malformed is sent again in the other form.

    Attributes:
        transport: The HTTP client.
        protocol: The protocol in the form to use.
        alternative: The protocol in the form to try next; ``None`` if no form is left to try.
        trial: The lock that lets one submission at a time try both forms.
    """

    transport: Transport
    protocol: WireProtocol
    alternative: WireProtocol | None
    trial: asyncio.Lock = attrs.field(factory=asyncio.Lock, init=False)

    def adopt(self, protocol: WireProtocol) -> None:
        """Use this form for the rest of the session, unless a form has already been accepted."""
        if self.alternative is None:
            return
        if protocol is not self.protocol:
            log.warning(
                "the service accepts %r instead of %r: the accepted form is used from now on", protocol, self.protocol
            )
        self.protocol, self.alternative = protocol, None

    async def submit(self, protocol: WireProtocol, call: Call, body: JSONBody, *, deadline: float) -> TaskSnapshot:
        """Submit an edit, in one attempt. If the reply holds the result, wait only until shortly after the deadline."""
        if not call.holds_result:
            return protocol.read_submission(await self.transport.send(call, body))
        limit, end = asyncio.timeout(None), deadline + _LATE_SECONDS
        # The timer does not end the wait at once, so that a result that arrived while the loop was blocked goes first.
        timer = asyncio.get_running_loop().call_at(end, limit.reschedule, end)
        try:
            async with limit:
                return protocol.read_submission(await self.transport.send(call, body))
        except TimeoutError:
            if not limit.expired():
                raise
            raise APITimeoutError("the service did not give the result in time", request_sent=True) from None
        finally:
            timer.cancel()

    async def try_forms(self, call: Callable[[WireProtocol], Awaitable[T]]) -> T:
        """Make a call. If the service refuses the call as malformed, try the other form, if there is one."""
        try:
            return await call(self.protocol)
        except BadRequestError as error:
            if self.alternative is None or error.status_code not in _MALFORMED_STATUSES:
                raise
            refusal = error
        try:
            return await call(self.alternative)
        except BadRequestError:  # malformed in both forms, so the form is not the cause
            raise refusal from None

    async def check(self, task: TaskSnapshot, gate: Gate) -> TaskSnapshot:
        """Check the status of a task, in one attempt. If the result needs a second call, wait for its turn."""
        protocol = self.protocol
        snapshot = protocol.read_status(await self.transport.send(protocol.status_check(task)), task)
        if (call := protocol.result_call(snapshot)) is None:
            return snapshot
        with contextlib.suppress(APIStatusError):  # refused submissions do not end the checks of paid tasks
            await gate.wait_turn()
        try:
            return protocol.read_status(await self.transport.send(call), snapshot)
        except NotFoundError as error:  # the status has just proved that the task exists
            raise APIResponseError(f"the result is not available yet: {error}", task_id=task.task_id) from error
