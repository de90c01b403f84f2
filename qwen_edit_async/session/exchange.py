"""Submissions on the wire: each is carried to its answer in the session's host task, whoever still waits for it.

One that was given up before it was sent whole is cut off, and creates no task. One that was sent whole is never cut
short, so that the task id that comes back is known.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import attrs

from qwen_edit_async.errors import QwenEditError, SessionClosedError, SubmitUncertainError
from qwen_edit_async.http.api import Transport
from qwen_edit_async.http.body import JSONBody
from qwen_edit_async.log import log
from qwen_edit_async.models import TaskSnapshot
from qwen_edit_async.protocol.base import Call, WireProtocol
from qwen_edit_async.scheduling.retry import Failure, judge_submission
from qwen_edit_async.statistics import Counters


class SubmissionObserver(Protocol):
    """Is told of each attempt to submit one edit, and of its fate, whoever still waits for it: for a journal.

    An edit can take several attempts. Each is announced, then sent, then settled, before the next is announced.
    """

    async def about_to_submit(self) -> None:
        """An attempt will be sent when this returns; an error keeps it from being sent, and ends the edit."""
        ...

    def settled(self, fate: TaskSnapshot | Failure) -> None:
        """The attempt gave a task, or failed: what that means. Must not raise.

        It comes for every attempt whose announcement returned, even if the edit was cancelled or ran past its deadline
        meanwhile.
        """
        ...


@attrs.define(eq=False)
class Exchange:
    """One attempt to submit.

    Attributes:
        body: What is sent.
        observer: Is told of its fate.
        sent_at: When its turn came, in the event loop's seconds.
        answer: What the service says; cancelled with the one who awaits it.
        task: Sends and reads.
        is_doubted: Whether it is counted as uncertain, since its waiter left before the answer came.
    """

    body: JSONBody
    observer: SubmissionObserver | None
    sent_at: float
    answer: asyncio.Future[TaskSnapshot]
    task: asyncio.Task[None] = attrs.field(init=False)
    is_doubted: bool = attrs.field(default=False, init=False)

    @property
    def unanswered(self) -> Failure:
        """What it means that no answer came."""
        return Failure.UNCERTAIN if self.body.sent_whole else Failure.REFUSED

    def settle(self, fate: TaskSnapshot | Failure) -> None:
        """Tell the observer."""
        if self.observer is not None:
            self.observer.settled(fate)


class Exchanges:
    """The exchanges of a session that are under way.

    Args:
        transport: To the service.
        counters: Where submissions are counted.
        spawn: Starts a coroutine in the session's host task.
        on_orphan: Is told of a task whose submission was given up before its id came.
        on_late_failure: Is told of a failure that nobody waits for any more, and when its submission was sent.
    """

    def __init__(
        self,
        transport: Transport,
        counters: Counters,
        *,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        on_orphan: Callable[[TaskSnapshot], None],
        on_late_failure: Callable[[QwenEditError, float], Failure],
    ) -> None:
        self._transport = transport
        self._counters = counters
        self._spawn = spawn
        self._on_orphan = on_orphan
        self._on_late_failure = on_late_failure
        self._under_way: set[Exchange] = set()

    def __len__(self) -> int:
        return len(self._under_way)

    def begin(
        self, protocol: WireProtocol, call: Call, body: JSONBody, observer: SubmissionObserver | None, sent_at: float
    ) -> Exchange:
        """Start to send.

        Raises:
            SessionClosedError: If the session is closed.
        """
        exchange = Exchange(body, observer, sent_at, asyncio.get_running_loop().create_future())
        exchange.task = self._spawn(self._carry(exchange, protocol, call))
        self._under_way.add(exchange)
        exchange.task.add_done_callback(functools.partial(self._ended, exchange))
        return exchange

    def give_up(self, exchange: Exchange) -> None:
        """Its waiter is gone: cut it off, unless it was sent whole."""
        if exchange.task.done():  # in the very step in which its waiter was cancelled: all is counted
            return
        if exchange.body.sent_whole:
            exchange.is_doubted = True
            self._counters.uncertain += 1
            log.warning("a submission was given up after it was sent: a task may exist; its id follows if it comes")
        else:
            exchange.body.withdraw()
            exchange.task.cancel()

    async def finish_sent(self, grace: float) -> None:
        """Wait up to ``grace`` seconds for the answers to what was sent whole, given up or not.

        Of an answer that has begun by then, what has come is all: it may hold the task's id.
        """
        sent = {exchange.task: exchange for exchange in self._under_way if exchange.body.sent_whole}
        if not sent:
            return
        log.info("waiting up to %g s for the replies to %d submissions", grace, len(sent))
        _, late = await asyncio.wait(sent, timeout=grace)
        if begun := [task for task in late if sent[task].body.cut_reply_short()]:
            await asyncio.wait(begun, timeout=grace)

    async def _carry(self, exchange: Exchange, protocol: WireProtocol, call: Call) -> None:
        try:
            snapshot = protocol.read_submission(await self._transport.send(call, exchange.body))
        except Exception as error:  # noqa: BLE001  # passed on to the one who waits; here it would end the session
            exchange.settle(judge_submission(error) if isinstance(error, QwenEditError) else exchange.unanswered)
            if not exchange.answer.done():
                exchange.answer.set_exception(error)
            elif isinstance(error, QwenEditError):
                failure = self._on_late_failure(error, exchange.sent_at)
                self._counters.uncertain += (failure is Failure.UNCERTAIN) - exchange.is_doubted
        else:
            exchange.settle(snapshot)
            if not exchange.answer.done():
                exchange.answer.set_result(snapshot)
            else:
                self._counters.uncertain -= exchange.is_doubted
                self._counters.submitted += 1
                self._on_orphan(snapshot)

    def _ended(self, exchange: Exchange, task: asyncio.Task[None]) -> None:
        """Let nobody wait for an exchange that a cancellation or an interrupt cut off, perhaps before it began."""
        self._under_way.discard(exchange)
        if task.cancelled() or task.exception() is not None:
            exchange.settle(exchange.unanswered)
        if not exchange.answer.done():
            sent = exchange.body.sent_whole
            lost = "after it was sent: a task may exist" if sent else "before it was sent"
            kind = SubmitUncertainError if sent else SessionClosedError
            exchange.answer.set_exception(kind(f"the session was closed while the edit was submitted, {lost}"))
