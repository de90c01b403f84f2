"""Faults to inject: what goes wrong, when, and how often. A seed makes a plan replayable. Pure.

A class method says what happens (`Fault.status(503)`), and other methods say when (`.on("submit").nth(3)`). Each method
returns a new fault, because a `Fault` never changes. A `FaultPlan` applies the first fault that fits a request.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import attrs

from qwen_edit_async.emulator.replies import ErrorShape, Reply, error_reply
from qwen_edit_async.emulator.tasks import Failure, TaskFault

if TYPE_CHECKING:
    from qwen_edit_async.emulator.tasks import TaskRecord

Operation = Literal["submit", "check", "result", "cancel", "precharge", "download"]
"""A kind of request.

``result`` and ``cancel`` belong to the queue protocol, ``precharge`` to the generation protocol.
"""
_Occasion: TypeAlias = "Operation | Literal['task']"
_API: tuple[Operation, ...] = ("submit", "check", "result", "cancel", "precharge")
_EVERY_REQUEST: tuple[Operation, ...] = (*_API, "download")


@attrs.frozen
class Answer:
    """Answer with this reply instead of the true reply."""

    reply: Reply
    accepted: bool = False
    """Whether the request still takes effect."""


@attrs.frozen
class Drop:
    """Close the connection without a reply."""

    accepted: bool
    read_body: bool = True


@attrs.frozen
class Hang:
    """Never answer."""

    accepted: bool


@attrs.frozen
class Redirect:
    """Answer with a redirect, by default to the results origin."""

    status: int
    location: str | None
    accepted: bool = False


@attrs.frozen
class Rewrite:
    """Change the true reply."""

    function: Callable[[Reply], Reply]
    accepted: bool = True


@attrs.frozen
class Truncate:
    """Announce the whole body, send only this share of it, and close the connection."""

    share: float
    accepted: bool = True


@attrs.frozen
class Slow:
    """Wait, and then send the body, at a limited speed if `bytes_per_second` is given."""

    delay: float
    bytes_per_second: float | None
    accepted: bool = True


RequestAction: TypeAlias = Answer | Drop | Hang | Redirect | Rewrite | Truncate | Slow


@attrs.frozen
class Fault:
    """One thing that goes wrong. Class methods make a fault, and other methods restrict it.

    An unrestricted fault applies every time. It applies to every kind of request, unless its class method or `on`
    says otherwise. The numbers in `nth` and `for_task` start at 1.

    Example:
        ``Fault.status(503, retry_after=1).on("submit").times(2)``
    """

    _action: RequestAction | TaskFault
    _occasions: tuple[_Occasion, ...] = _EVERY_REQUEST
    _numbers: frozenset[int] = frozenset()
    _limit: int | None = None
    _probability: float = 1.0
    _tasks: frozenset[int | str] = frozenset()
    _predicate: Callable[[TaskRecord], bool] | None = None

    # Faults of requests.

    @classmethod
    def status(
        cls,
        status: int,
        *,
        retry_after: float | str | None = None,
        code: int | str | None = None,
        message: str = "an injected fault",
        shape: ErrorShape = "contract",
        accepted: bool = False,
    ) -> Fault:
        """Answer with an HTTP status.

        Args:
            status: The HTTP status.
            retry_after: The Retry-After header: seconds, or any text, such as an HTTP date.
            code: The error's code; the HTTP status by default.
            message: The error's message.
            shape: The shape of the error. ``html`` is a proxy's page, ``empty`` has no body.
            accepted: Whether the request still takes effect. A submission then creates a task.
        """
        reply = error_reply(status, status if code is None else code, message, shape=shape)
        if retry_after is not None:
            text = retry_after if isinstance(retry_after, str) else f"{retry_after:g}"
            reply = attrs.evolve(reply, headers={"Retry-After": text})
        return cls(Answer(reply, accepted))

    @classmethod
    def html_page(cls, status: int = 502, *, accepted: bool = False) -> Fault:
        """Answer with the HTML error page of a proxy in front of the service."""
        return cls.status(status, message="Bad Gateway", shape="html", accepted=accepted)

    @classmethod
    def redirect(cls, location: str | None = None, *, status: int = 307) -> Fault:
        """Answer with a redirect, by default to the results origin, which must never receive the key."""
        return cls(Redirect(status, location))

    @classmethod
    def drop_reply(cls) -> Fault:
        """Let the request take effect, and then close the connection without a reply."""
        return cls(Drop(accepted=True))

    @classmethod
    def drop_request(cls, *, read_body: bool = True) -> Fault:
        """Close the connection before the request takes effect, by default after reading its body."""
        return cls(Drop(accepted=False, read_body=read_body))

    @classmethod
    def hang(cls, *, accepted: bool = True) -> Fault:
        """Never answer. The connection stays open until the emulator closes."""
        return cls(Hang(accepted))

    @classmethod
    def slow(cls, *, delay: float = 0.0, bytes_per_second: float | None = None) -> Fault:
        """Answer after a delay in seconds, at a limited speed, or both."""
        return cls(Slow(delay, bytes_per_second))

    # Faults of JSON replies.

    @classmethod
    def truncated_json(cls) -> Fault:
        """Answer with the first half of the JSON text, as a complete HTTP body."""
        return cls._rewrite(lambda reply: attrs.evolve(reply, body=reply.body[: len(reply.body) // 2]))

    @classmethod
    def malformed_json(cls) -> Fault:
        """Answer with text that looks like JSON but is not."""
        return cls._rewrite(lambda reply: attrs.evolve(reply, body=b"{'status': in_progress,}"))

    @classmethod
    def content_type(cls, content_type: str = "text/plain") -> Fault:
        """Answer with the true body under another Content-Type."""
        return cls._rewrite(lambda reply: attrs.evolve(reply, content_type=content_type), _EVERY_REQUEST)

    @classmethod
    def reshape(cls, function: Callable[[dict[str, Any]], object]) -> Fault:
        """Pass the JSON object of a successful reply through a function, and send the function's result."""

        def rewrite(reply: Reply) -> Reply:
            if reply.status >= 400:  # noqa: PLR2004 - the first HTTP error status
                return reply
            return attrs.evolve(reply, body=json.dumps(function(json.loads(reply.body))).encode())

        return cls._rewrite(rewrite)

    @classmethod
    def status_word(cls, word: str | Callable[[str], str]) -> Fault:
        """Answer a status check with another status word. A function, such as `str.upper`, changes the true word."""

        def replace(members: dict[str, Any]) -> dict[str, Any]:
            return members | {"status": word(members["status"]) if callable(word) else word}

        return cls.reshape(replace).on("check")

    # Faults of downloads.

    @classmethod
    def expired_url(cls) -> Fault:
        """Answer a download as if its URL had expired. Later replies about the task have fresh URLs."""
        return cls.status(403, message="the URL has expired").on("download")

    @classmethod
    def truncated_download(cls, share: float = 0.5) -> Fault:
        """Announce the whole file, send only this share of it, and close the connection."""
        return cls(Truncate(share), ("download",))

    @classmethod
    def wrong_download(cls, body: bytes = b"<html>not a picture</html>", content_type: str = "text/html") -> Fault:
        """Answer a download with another body, under HTTP 200."""
        return cls(Answer(Reply(200, body, content_type)), ("download",))

    # Faults of tasks.

    @classmethod
    def stuck_task(cls) -> Fault:
        """Create a task that ends only if it is cancelled."""
        return cls(TaskFault("stuck"), ("task",))

    @classmethod
    def failed_task(
        cls,
        code: int | str = 110001,
        message: str = "refused by moderation",
        *,
        shape: Literal["contract", "object", "string"] = "contract",
    ) -> Fault:
        """Create a task that fails when its duration is over, and is not billed."""
        return cls(TaskFault("failed", Failure(code, message, shape)), ("task",))

    @classmethod
    def vanished_task(cls, *, after_checks: int = 0) -> Fault:
        """Create a task that the emulator forgets after `after_checks` status checks."""
        return cls(TaskFault("vanished", after_checks=after_checks), ("task",))

    # Restrictions.

    def on(self, *operations: Operation) -> Fault:
        """Apply only to these operations.

        Raises:
            ValueError: The fault happens to a task, not to a request.
        """
        if isinstance(self._action, TaskFault):
            raise ValueError("this fault happens to a task when the task is created: don't use on()")  # noqa: TRY004 - a wrong value
        return attrs.evolve(self, occasions=operations)

    def nth(self, *numbers: int) -> Fault:
        """Apply only to the requests or created tasks with these numbers.

        Only requests and tasks that `on`, `for_task` and `when` allow are counted.
        """
        return attrs.evolve(self, numbers=frozenset(numbers))

    def times(self, limit: int) -> Fault:
        """Apply at most `limit` times."""
        return attrs.evolve(self, limit=limit)

    def with_probability(self, probability: float) -> Fault:
        """Apply with a probability from 0 to 1. The plan's seed makes the draws repeatable."""
        return attrs.evolve(self, probability=probability)

    def for_task(self, *tasks: int | str) -> Fault:
        """Apply only to tasks with these ids or numbers. The n-th task and its submission have the number n."""
        return attrs.evolve(self, tasks=frozenset(tasks))

    def when(self, predicate: Callable[[TaskRecord], bool]) -> Fault:
        """Apply only to tasks that the predicate accepts. Requests without a task, such as submissions, are skipped."""
        return attrs.evolve(self, predicate=predicate)

    @classmethod
    def _rewrite(cls, function: Callable[[Reply], Reply], operations: tuple[Operation, ...] = _API) -> Fault:
        return cls(Rewrite(function), operations)

    def _could_apply(self, number: int, task: TaskRecord | None) -> bool:
        if self._tasks and number not in self._tasks and (task is None or task.id not in self._tasks):
            return False
        return self._predicate is None or (task is not None and self._predicate(task))


@attrs.frozen
class FaultPlan:
    """Faults to inject, in order of precedence, and the seed for their probabilities.

    The same plan and the same order of requests give the same faults.
    """

    faults: tuple[Fault, ...] = attrs.field(default=(), converter=tuple)
    seed: int = attrs.field(default=0, kw_only=True)


class _Counter:
    """A fault, with counts of how often it could have happened and how often it did."""

    def __init__(self, fault: Fault, seed: str) -> None:
        self.fault = fault
        self._random = random.Random(seed)  # noqa: S311 - replayable faults, not secrets
        self._seen = 0
        self._fired = 0

    def is_due(self, number: int, task: TaskRecord | None) -> bool:
        """Count a request or task. Return whether the fault is due. `FaultRun` applies only the first due fault."""
        fault = self.fault
        if not fault._could_apply(number, task):  # noqa: SLF001 - same module, but not public
            return False
        self._seen += 1
        # Each fault draws from its own random source whenever it could apply, so other faults don't change its draws.
        if fault._probability < 1 and self._random.random() >= fault._probability:  # noqa: SLF001 - same module
            return False
        if fault._numbers and self._seen not in fault._numbers:  # noqa: SLF001 - same module
            return False
        return fault._limit is None or self._fired < fault._limit  # noqa: SLF001 - same module

    def fire(self) -> None:
        self._fired += 1


class FaultRun:
    """A plan in use, with its counters."""

    def __init__(self, plan: FaultPlan) -> None:
        self._seed = plan.seed
        self._size = 0
        self._counters: defaultdict[_Occasion, list[_Counter]] = defaultdict(list)
        self.add(plan.faults)

    def add(self, faults: Iterable[Fault]) -> None:
        """Append faults. They count requests and tasks from now on."""
        for fault in faults:
            counter = _Counter(fault, f"{self._seed}:{self._size}")
            self._size += 1
            for occasion in fault._occasions:  # noqa: SLF001 - same module, but not public
                self._counters[occasion].append(counter)

    def on_request(self, operation: Operation, number: int, task: TaskRecord | None) -> RequestAction | None:
        """Return the action of the fault that applies to a request, or None.

        `number` is the number of the request's task; 0 without a task.
        """
        action = self._select(operation, number, task)
        return None if isinstance(action, TaskFault) else action

    def on_task(self, task: TaskRecord) -> TaskFault | None:
        """Return the fault of a newly created task, if there is one."""
        action = self._select("task", task.number, task)
        return action if isinstance(action, TaskFault) else None

    def _select(self, occasion: _Occasion, number: int, task: TaskRecord | None) -> RequestAction | TaskFault | None:
        due = [counter for counter in self._counters[occasion] if counter.is_due(number, task)]
        if not due:
            return None
        due[0].fire()
        return due[0].fault._action  # noqa: SLF001 - same module, but not public
