"""The service in memory: a session's transport without sockets, on the event loop's clock."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import attrs

from qwen_edit_async import APIConnectionError, APITimeoutError, EditSession, FixedInterval, QwenEditError
from qwen_edit_async.contract import STATUS_PATH
from qwen_edit_async.http.api import Transport
from qwen_edit_async.http.body import JSONBody
from qwen_edit_async.protocol.base import Call, Reply

KEY = "sk-test-3f9a1c"
IMAGE = "https://pictures.example/cat.png"
RESULT = "https://results.example/{task_id}.png"

_STATUS_PREFIX = STATUS_PATH.format(task_id="")


@attrs.frozen
class Answer:
    """The service's treatment of one call.

    Attributes:
        reply: The reply, or the error that the call raises; ``None`` for the normal reply.
        delay: Seconds until the reply or the error; infinity for never.
        uploaded: Whether the service reads the request's body.
        accepted: Whether a submission creates a task in spite of ``reply``.
    """

    reply: Reply | QwenEditError | None = None
    delay: float = 0.0
    uploaded: bool = True
    accepted: bool = False


NORMAL = Answer()
HANGS = Answer(delay=math.inf)


def status(
    status_code: int, *, retry_after: float | str | None = None, accepted: bool = False, **members: Any
) -> Answer:
    """Return an HTTP error with the contract's ``error`` object."""
    headers = {} if retry_after is None else {"retry-after": str(retry_after)}
    error = {"code": status_code, "error_message": "scripted"} | members
    return Answer(
        Reply(status=status_code, headers=headers, body=json.dumps({"error": error}).encode()), accepted=accepted
    )


def says(document: Mapping[str, Any] | bytes, *, complete: bool = True) -> Answer:
    """Return HTTP 200 with this JSON."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Answer(Reply(status=200, body=body, complete=complete))


def lost(*, accepted: bool = True) -> Answer:
    """Break the connection after the whole request was sent."""
    return Answer(APIConnectionError("the connection broke", request_sent=True), accepted=accepted)


def refused() -> Answer:
    """Refuse the connection."""
    return Answer(APIConnectionError("connection refused"), uploaded=False)


def timed_out() -> Answer:
    """Time out after the request took effect."""
    return Answer(APITimeoutError("no reply", request_sent=True), delay=60.0, accepted=True)


def in_order(*answers: Answer) -> Callable[..., Answer]:
    """Return a function that gives these answers to the first calls, and then `NORMAL`."""
    remaining = list(answers)
    return lambda *_: remaining.pop(0) if remaining else NORMAL


@attrs.define(kw_only=True)
class Sent:
    """A call as the service received it, at the loop's time ``at``. Without an upload, ``body`` lacks the images."""

    at: float
    call: Call
    body: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def envelope(self) -> str:
        return "params" if isinstance(self.body["input"], list) else "flat"


@attrs.define(kw_only=True, eq=False)
class MemoryService(Transport):
    """Creates tasks, and reports them as completed when they are due.

    Attributes:
        duration: Seconds that a task takes, or a function that draws them.
        latency: Seconds that a call takes.
        room: The most tasks at a time. Further submissions get a 429.
        requests_per_second: The most calls within any second. Further calls get a 429.
        envelope: The accepted form of the body. The other form gets a 400.
        on_submission: Returns the answer to the n-th submission, from 1.
        on_check: Returns the answer to the n-th check of a task, from 1, given the task's id.
    """

    duration: float | Callable[[], float] = 2.0
    latency: float = 0.01
    room: int | None = None
    requests_per_second: int | None = None
    envelope: str | None = None
    on_submission: Callable[[int], Answer] = attrs.field(factory=in_order)
    on_check: Callable[[str, int], Answer] = attrs.field(factory=in_order)

    submissions: list[Sent] = attrs.field(factory=list, init=False)
    checks: list[Sent] = attrs.field(factory=list, init=False)
    checks_of: dict[str, int] = attrs.field(factory=dict, init=False)
    ends: dict[str, float] = attrs.field(factory=dict, init=False)
    peak_unfinished: int = attrs.field(default=0, init=False)
    calls_under_way: int = attrs.field(default=0, init=False)
    aborted: list[Call] = attrs.field(factory=list, init=False)
    throttled: int = attrs.field(default=0, init=False)
    admitted_at: list[float] = attrs.field(factory=list, init=False)
    opened: int = attrs.field(default=0, init=False)
    closed: int = attrs.field(default=0, init=False)

    @property
    def ids(self) -> list[str]:
        """Ids of all created tasks."""
        return list(self.ends)

    @property
    def unfinished(self) -> int:
        """Number of running tasks."""
        now = asyncio.get_running_loop().time()
        return sum(end > now for end in self.ends.values())

    async def open(self) -> None:
        self.opened += 1

    async def aclose(self) -> None:
        self.closed += 1

    async def send(self, call: Call, body: JSONBody | None = None) -> Reply:
        assert self.opened > self.closed
        self.calls_under_way += 1
        try:
            return await (self._create(call, body) if body is not None else self._tell(call))
        except asyncio.CancelledError:
            self.aborted.append(call)
            raise
        finally:
            self.calls_under_way -= 1

    async def _create(self, call: Call, body: JSONBody) -> Reply:
        sink = _Sink()
        sent_at = asyncio.get_running_loop().time()
        sent = Sent(at=sent_at, call=call, body=json.loads(b"".join(call.parts)))
        self.submissions.append(sent)
        answer = self.on_submission(len(self.submissions))
        if answer.uploaded:
            await body.write(sink)
            assert len(sink.content) == body.size
            sent.body = json.loads(sink.content)
        own_reply = Reply(status=200)
        if not self._admitted(sent_at):
            own_reply = _reply(status(429))
        elif answer.uploaded and (answer.reply is None or answer.accepted):
            own_reply = self._created(sent)
        return await self._reply(answer, own_reply)

    async def _tell(self, call: Call) -> Reply:
        now = asyncio.get_running_loop().time()
        self.checks.append(Sent(at=now, call=call))
        task_id = call.path.removeprefix(_STATUS_PREFIX)
        count = self.checks_of[task_id] = self.checks_of.get(task_id, 0) + 1
        own_reply = self.state(task_id) if self._admitted(now) else _reply(status(429))
        return await self._reply(self.on_check(task_id, count), own_reply)

    def _admitted(self, now: float) -> bool:
        """Return whether a call is within the allowed rate, and count it if so."""
        if self.requests_per_second is None:
            return True
        self.admitted_at = [at for at in self.admitted_at if at > now - 1.0]
        if len(self.admitted_at) >= self.requests_per_second:
            self.throttled += 1
            return False
        self.admitted_at.append(now)
        return True

    def _created(self, sent: Sent) -> Reply:
        if self.envelope not in {None, sent.envelope}:
            return _reply(status(400))
        if self.room is not None and self.unfinished >= self.room:
            self.throttled += 1
            return _reply(status(429))
        task_id = f"task-{len(self.ends) + 1}"
        self.ends[task_id] = sent.at + (self.duration() if callable(self.duration) else self.duration)
        self.peak_unfinished = max(self.peak_unfinished, self.unfinished)
        return _reply(says({"id": task_id, "status": "in_progress"}))

    def state(self, task_id: str) -> Reply:
        """Return the current reply to a check of a task."""
        if task_id not in self.ends:
            return _reply(status(404))
        if self.ends[task_id] > asyncio.get_running_loop().time():
            return _reply(says({"id": task_id, "status": "in_progress"}))
        return _reply(says(completed(task_id)))

    async def _reply(self, answer: Answer, own_reply: Reply) -> Reply:
        if answer.delay == math.inf:
            await asyncio.Event().wait()
        await asyncio.sleep(self.latency + answer.delay)
        if isinstance(answer.reply, QwenEditError):
            raise answer.reply.for_task(None)
        return own_reply if answer.reply is None else answer.reply


def completed(task_id: str) -> dict[str, Any]:
    picture = {"type": "image", "url": RESULT.format(task_id=task_id)}
    return {"id": task_id, "status": "completed", "output": [{"content": [picture]}], "usage": {"cost": "0.0357"}}


def _reply(answer: Answer) -> Reply:
    assert isinstance(answer.reply, Reply)
    return answer.reply


class _Sink:
    """A connection that accepts everything at once."""

    def __init__(self) -> None:
        self.content = bytearray()

    async def write(self, chunk: bytes) -> None:
        await asyncio.sleep(0)
        self.content += chunk


class MemorySession(EditSession):
    """A session on the service in memory.

    Attributes:
        taken: Ids of the tasks whose results a test has received. Only tests fill it.
    """

    def __init__(self, service: MemoryService, **options: Any) -> None:
        defaults = {"envelope": "flat", "polling": FixedInterval(1.0), "transport": service, "random": Random(7)}
        super().__init__(KEY, base_url="http://127.0.0.1:9", **defaults | options)
        self.service = service
        self.taken: set[str] = set()


async def until(condition: Callable[[], bool]) -> None:
    """Wait on the real clock until another thread or a socket makes a condition true."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # there is no event for it
            await asyncio.sleep(0.001)


class Interrupted:
    """Awaits a coroutine, and cancels its task at a suspension.

    Args:
        work: The coroutine.
        at: Number of the suspension, from 1; 0 to cancel at none.
        as_it_wakes: Cancel when the awaited future is done, not while the coroutine waits for it.
        on_suspension: Called at each suspension, with the awaited future.

    Attributes:
        suspensions: Number of suspensions so far.
    """

    def __init__(
        self,
        work: Any,
        at: int = 0,
        *,
        as_it_wakes: bool = False,
        on_suspension: Callable[[Any], None] = lambda _: None,
    ) -> None:
        self._work = work
        self._at = at
        self._as_it_wakes = as_it_wakes
        self._on_suspension = on_suspension
        self.suspensions = 0

    def __await__(self) -> Any:
        iterator = self._work.__await__()
        value, error = None, None
        while True:
            try:
                waits_for = iterator.send(value) if error is None else iterator.throw(error)
            except StopIteration as end:
                return end.value
            self.suspensions += 1
            self._on_suspension(waits_for)
            if self.suspensions == self._at:
                self._cancel(waits_for)
            value, error = None, None
            try:
                value = yield waits_for
            except BaseException as thrown:  # noqa: BLE001  # passed to the work
                error = thrown

    def _cancel(self, waits_for: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._as_it_wakes and waits_for is not None:
            waits_for.add_done_callback(lambda _: task.cancel())
        else:
            asyncio.get_running_loop().call_soon(task.cancel)
