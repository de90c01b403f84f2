"""From a request to a task id: whose turn it is, which envelope, what is tried again, and for how long."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import Any, TypeVar

import attrs

from qwen_edit_async.errors import BadRequestError, DeadlineExceededError, QwenEditError, SubmitUncertainError
from qwen_edit_async.http.api import Transport
from qwen_edit_async.http.body import JSONBody
from qwen_edit_async.images.encode import Upload
from qwen_edit_async.log import log
from qwen_edit_async.models import EditRequest, TaskSnapshot
from qwen_edit_async.protocol.generation import WireProtocol
from qwen_edit_async.scheduling.retry import Failure, RetryPolicy, judge_submission, pause_after
from qwen_edit_async.session.exchange import Exchange, Exchanges, SubmissionObserver
from qwen_edit_async.session.gate import Gate, Slot
from qwen_edit_async.session.pauses import hold_back
from qwen_edit_async.statistics import Counters
from qwen_edit_async.threads import Offloader

_MALFORMED_STATUSES = frozenset({400, 422})

T = TypeVar("T")


@attrs.define
class Negotiation:
    """Which form of the protocol the service takes, found out once by the first creation that succeeds.

    While it is open one submission at a time tries the first form, then the other; the rest wait for that verdict.
    """

    protocol: WireProtocol
    alternative: WireProtocol | None
    lock: asyncio.Lock = attrs.field(factory=asyncio.Lock)

    @property
    def settled(self) -> bool:
        """Whether the verdict is there."""
        return self.alternative is None

    def settle(self, protocol: WireProtocol) -> None:
        """Stay with this form for the rest of the session."""
        if protocol is not self.protocol:
            log.warning("the service takes %r, not %r: it is used from now on", protocol, self.protocol)
        self.protocol, self.alternative = protocol, None


class Submitter:
    """Submits requests, one call of :meth:`submit` each.

    Args:
        transport: To the service.
        negotiation: The protocol's form.
        gate: Who may submit.
        retry: How often and when a refused submission is repeated.
        offloader: For reading and encoding images.
        counters: Where submissions are counted.
        resubmit_uncertain: Whether a submission may be repeated though the service may have accepted it.
        stall_timeout: Seconds that the connection may take none of a request's body.
        random: For jitter.
        spawn: Starts a coroutine in the session's host task.
        on_fatal: Is told of an error that will be the answer to every submission.
        on_orphan: Is told of a task whose submission was given up before its id came.
    """

    def __init__(
        self,
        transport: Transport,
        negotiation: Negotiation,
        gate: Gate,
        retry: RetryPolicy,
        offloader: Offloader,
        *,
        counters: Counters,
        resubmit_uncertain: bool,
        stall_timeout: float,
        random: Random,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        on_fatal: Callable[[QwenEditError], None],
        on_orphan: Callable[[TaskSnapshot], None],
    ) -> None:
        self._negotiation = negotiation
        self._gate = gate
        self._retry = retry
        self._offloader = offloader
        self._counters = counters
        self._resubmit_uncertain = resubmit_uncertain
        self._stall_timeout = stall_timeout
        self._random = random
        self._on_fatal = on_fatal
        self._on_orphan = on_orphan
        self._exchanges = Exchanges(transport, counters, spawn=spawn, on_orphan=on_orphan, on_late_failure=self._heed)

    async def submit(
        self,
        request: EditRequest,
        uploads: tuple[Upload, ...],
        slot: Slot,
        deadline: float,
        observer: SubmissionObserver | None = None,
    ) -> TaskSnapshot:
        """Submit until the service accepts, or until ``deadline`` seconds after the slot was taken.

        A submission that is refused for too many requests gives its slot back, and is made anew when it has another:
        its deadline counts from there. As long as the service accepts others, waiting for a turn does not count either.

        Raises:
            SubmitUncertainError: If the service may have accepted, and repeating is not allowed.
            DeadlineExceededError: If nothing was sent before the deadline.
            RateLimitError: If the service has had too many requests, and accepted nothing at all, until the deadline.
            QwenEditError: What the service refused it with, or the last of the failures that were tried again.
        """
        limit = asyncio.timeout_at(slot.taken_at + deadline)
        attempts = _Attempts(request, uploads, slot, deadline, limit, observer)
        try:
            async with limit:
                return await self._submit(attempts)
        except TimeoutError:
            if not limit.expired():
                raise
        except asyncio.CancelledError:
            if attempts.accepted is not None:
                self._on_orphan(attempts.accepted)
            raise
        if attempts.accepted is not None:  # which task it is, is for its waiter to know
            slot.accepted(asyncio.get_running_loop().time())
            return attempts.accepted
        if attempts.sent_whole:
            raise SubmitUncertainError("the deadline passed before the reply to the submission came: a task may exist")
        raise attempts.given_up()

    async def finish_sent(self, grace: float) -> None:
        """Wait up to ``grace`` seconds for the replies to submissions that were sent whole, given up or not."""
        await self._exchanges.finish_sent(grace)

    async def _submit(self, attempts: _Attempts) -> TaskSnapshot:
        while True:
            try:
                snapshot = await self._negotiate(attempts)
            except QwenEditError as error:
                attempts.refusal = error
            else:
                attempts.slot.accepted(asyncio.get_running_loop().time())
                self._counters.submitted += 1
                return snapshot
            await self._back_off(attempts, attempts.refusal)

    async def _negotiate(self, attempts: _Attempts) -> TaskSnapshot:
        """One attempt, in the form of the protocol that the service takes."""
        negotiation = self._negotiation
        if not negotiation.settled:
            await self._stand_by(attempts, negotiation.lock.acquire)
            try:
                if negotiation.alternative is not None:
                    return await self._probe(attempts, negotiation.protocol, negotiation.alternative)
            finally:
                negotiation.lock.release()
        return await self._post(attempts, negotiation.protocol)

    async def _probe(self, attempts: _Attempts, protocol: WireProtocol, alternative: WireProtocol) -> TaskSnapshot:
        """One attempt in the first form and, if that is refused as malformed, one in the other."""
        try:
            snapshot = await self._post(attempts, protocol)
        except BadRequestError as error:
            if error.status_code not in _MALFORMED_STATUSES:
                raise
            refusal = error
        else:
            self._negotiation.settle(protocol)
            return snapshot
        try:
            snapshot = await self._post(attempts, alternative)
        except BadRequestError:
            pass  # malformed in both forms: not the form's fault
        else:
            self._negotiation.settle(alternative)
            return snapshot
        raise refusal

    async def _post(self, attempts: _Attempts, protocol: WireProtocol) -> TaskSnapshot:
        if (turn := self._gate.submit_at_once()) is None:
            turn = await self._stand_by(attempts, self._gate.wait_to_submit)
        attempts.sent_at = turn
        call = protocol.submission(attempts.request)
        body = JSONBody(call.parts, attempts.uploads, self._offloader, stall_timeout=self._stall_timeout)
        observer = attempts.observer
        if observer is not None:
            await observer.about_to_submit()
        try:
            if self._gate.closed_by is not None:
                raise self._gate.closed_by.for_task(None)
            attempts.exchange = exchange = self._exchanges.begin(protocol, call, body, observer, turn)
        except QwenEditError:
            if observer is not None:
                observer.settled(Failure.REFUSED)
            raise
        try:
            return await exchange.answer
        except asyncio.CancelledError:
            if exchange.answer.cancelled():
                self._exchanges.give_up(exchange)
            else:
                self._came_late(attempts, exchange.answer)
            raise

    def _came_late(self, attempts: _Attempts, answer: asyncio.Future[TaskSnapshot]) -> None:
        """The service's answer came in the very moment in which the edit was given up: what it says is known."""
        error = answer.exception()
        if error is None:
            self._counters.submitted += 1
            attempts.accepted = answer.result()
        elif isinstance(error, QwenEditError):
            attempts.refusal = error
            if self._heed(error, attempts.sent_at) is Failure.UNCERTAIN:
                self._counters.uncertain += 1
                attempts.uncertain = True

    def _heed(self, error: QwenEditError, sent_at: float) -> Failure:
        """What the failure of a submission means, and means to the whole session, whoever still waits for it."""
        failure, now = judge_submission(error), asyncio.get_running_loop().time()
        if failure is Failure.FATAL:
            self._on_fatal(error)
        hold_back(self._gate.pacer, error, now)
        if failure is Failure.THROTTLED:
            self._counters.throttled += 1
            self._gate.throttled(now, sent_at, self._random.random())
        return failure

    async def _back_off(self, attempts: _Attempts, error: QwenEditError) -> None:
        """Wait as long as is right before the next attempt; raises if there must not be one."""
        now, pacer = asyncio.get_running_loop().time(), self._gate.pacer
        failure = self._heed(error, attempts.sent_at)
        if failure is Failure.UNCERTAIN:
            self._counters.uncertain += 1
            attempts.uncertain = True
        if failure is Failure.THROTTLED:
            again, deadline = True, attempts.room_deadline(pacer.accepted_at)
        else:
            attempts.failures += 1
            repeatable = failure is Failure.REFUSED or (failure is Failure.UNCERTAIN and self._resubmit_uncertain)
            again, deadline = repeatable and attempts.failures <= self._retry.max_retries, attempts.deadline
        if not again or now + pause_after(error) > deadline:
            raise _uncertain(error) if attempts.uncertain else error
        attempts.count += 1
        self._counters.retries += failure is not Failure.UNCERTAIN
        self._counters.resubmitted += failure is Failure.UNCERTAIN
        level = logging.WARNING if failure is Failure.UNCERTAIN else logging.INFO
        log.log(level, "submitting again (attempt %d), since it %s: %s", attempts.count + 1, failure.value, error)
        if failure is Failure.THROTTLED:
            # For another slot, ahead of all who wait for their first.
            attempts.slot.release()
            await self._stand_by(attempts, functools.partial(attempts.slot.take, first=True))
        else:
            await self._gate.sleep(self._retry.delay(attempts.count, self._random.random()))

    async def _stand_by(self, attempts: _Attempts, wait: Callable[[], Awaitable[T]]) -> T:
        """What ``wait`` gives; it takes nothing from the edit's time, as long as the service accepts others."""
        loop, slot = asyncio.get_running_loop(), attempts.slot
        offset = slot.taken_at - loop.time()
        attempts.limit.reschedule(None)
        while (until := attempts.room_deadline(self._gate.pacer.accepted_at)) > loop.time():
            limit = asyncio.timeout_at(until)
            try:
                async with limit:
                    came = await wait()
                    slot.taken_at = max(slot.taken_at, loop.time() + offset)
                    attempts.limit.reschedule(attempts.deadline)
                    return came
            except TimeoutError:
                if not limit.expired():
                    raise
        raise attempts.given_up()


@attrs.define
class _Attempts:
    """One submission on its way."""

    request: EditRequest
    uploads: tuple[Upload, ...]
    slot: Slot
    seconds: float
    limit: asyncio.Timeout
    observer: SubmissionObserver | None = None
    count: int = 0
    failures: int = 0
    sent_at: float = 0.0
    began_at: float = attrs.field(default=attrs.Factory(lambda self: self.slot.taken_at, takes_self=True))
    uncertain: bool = False
    refusal: QwenEditError | None = None
    exchange: Exchange | None = None
    accepted: TaskSnapshot | None = None

    @property
    def deadline(self) -> float:
        """When to give up, in the loop's seconds."""
        return self.slot.taken_at + self.seconds

    def room_deadline(self, accepted_at: float) -> float:
        """When to give up if there is no room: the clock starts again whenever the service accepts another one."""
        return max(self.began_at, accepted_at) + self.seconds

    def given_up(self) -> QwenEditError:
        """The error of an edit that could not be submitted in time."""
        error = self.refusal or DeadlineExceededError("the deadline passed before the edit could be submitted")
        return _uncertain(error) if self.uncertain else error

    @property
    def sent_whole(self) -> bool:
        """Whether the service may have the whole of an attempt that was not answered."""
        return self.exchange is not None and self.exchange.answer.cancelled() and self.exchange.body.sent_whole


def _uncertain(error: QwenEditError) -> SubmitUncertainError:
    uncertain = SubmitUncertainError(
        f"a task may exist, and be charged: {error}. It was not submitted again, since that could pay twice: "
        "look at the account, or allow it with resubmit_uncertain=True"
    )
    uncertain.__cause__ = error
    return uncertain
