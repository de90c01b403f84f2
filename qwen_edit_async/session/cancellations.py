"""Asks the service to cancel tasks that the session has given up."""

from __future__ import annotations

import asyncio

import attrs

from qwen_edit_async.errors import QwenEditError
from qwen_edit_async.log import about
from qwen_edit_async.protocol.base import Call
from qwen_edit_async.session.parts import SessionParts
from qwen_edit_async.tasks import TaskSnapshot

_REPLY_SECONDS = 5.0
"""The time limit for a request, in seconds. It includes the wait for one of the ``_CONCURRENT`` places."""

_CONCURRENT = 16
"""The maximum number of concurrent requests."""


@attrs.define(eq=False)
class Cancellations:
    """Asks the service to cancel tasks. If a request fails, the task may run on, and a warning is logged.

    If the service cancels a task, its id is removed from the poller's ids of given-up tasks.
    """

    _parts: SessionParts
    _given_up: dict[str, None]
    _turns: asyncio.Semaphore = attrs.field(factory=lambda: asyncio.Semaphore(_CONCURRENT), init=False)
    _asking: set[asyncio.Task[None]] = attrs.field(factory=set, init=False)

    def possible(self, task: TaskSnapshot) -> bool:
        """Return whether the protocol has a request to cancel this task."""
        return self._parts.protocol.cancellation(task) is not None

    def ask(self, task: TaskSnapshot) -> None:
        """Start a request to cancel a task, if the protocol has such a request."""
        if (call := self._parts.protocol.cancellation(task)) is not None:
            asking = asyncio.get_running_loop().create_task(self._ask(task, call))
            self._asking.add(asking)
            asking.add_done_callback(self._asking.discard)

    async def finish(self) -> None:
        """Wait until each request has a reply or has failed."""
        if self._asking:
            await asyncio.wait(self._asking)

    async def aclose(self) -> None:
        """Stop waiting for replies."""
        for asking in self._asking:
            asking.cancel()
        await self.finish()

    async def _ask(self, task: TaskSnapshot, call: Call) -> None:
        task_id = task.task_id
        try:
            async with asyncio.timeout(_REPLY_SECONDS), self._turns:
                self._parts.protocol.read_cancellation(await self._parts.transport.send(call), task)
        except (QwenEditError, TimeoutError) as error:
            about(task_id).warning(
                "the service did not confirm the cancellation of task %s, which may run on and be charged: %s",
                task_id,
                str(error) or "no reply in time",
            )
        else:
            self._parts.counters.cancellations += 1
            self._given_up.pop(task_id, None)
            about(task_id).info("the service cancelled task %s", task_id)
