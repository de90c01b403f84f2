"""The one coroutine that asks about all tasks: never late because of another task, never wrong because of a failure."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import math
import random
import re
import weakref
from decimal import Decimal
from types import SimpleNamespace

import attrs
import pytest
from memory_transport import (
    HANGS,
    IMAGE,
    Answer,
    MemoryService,
    MemorySession,
    completed,
    in_order,
    lost,
    refused,
    says,
    status,
    timed_out,
)

from qwen_edit_async import (
    APIResponseError,
    AuthenticationError,
    Backoff,
    ConfigurationError,
    DeadlineExceededError,
    EditFailedError,
    FixedInterval,
    InternalServerError,
    NotFoundError,
    PermissionDeniedError,
    PolledTask,
    RateLimitError,
    SessionClosedError,
    TaskSnapshot,
    TaskStatus,
)
from qwen_edit_async.contract import STATUS_PATH
from qwen_edit_async.protocol.base import Call, Reply
from qwen_edit_async.protocol.choice import Forms
from qwen_edit_async.protocol.generation import GenerationProtocol
from qwen_edit_async.scheduling.pacer import Pacer
from qwen_edit_async.scheduling.schedule import LAST_CHECK_GRACE, UNKNOWN_TASK_GRACE
from qwen_edit_async.session.gate import Gate
from qwen_edit_async.session.parts import SessionParts
from qwen_edit_async.session.poller import MAX_CONCURRENT_CHECKS, MAX_OPEN_CHECKS, SLOW_AFTER, Poller
from qwen_edit_async.session.task import EditTask
from qwen_edit_async.statistics import SessionStatistics

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_clock]


def now() -> float:
    return asyncio.get_running_loop().time()


# The coroutine by itself.


@attrs.define
class Bench:
    """A transport whose checks take set times, and a log of the checks and ends."""

    durations: dict[str, float] = attrs.field(factory=dict)
    seconds: dict[str, float] = attrs.field(factory=dict)
    ended: dict[str, object] = attrs.field(factory=dict)
    checks: list[tuple[str, float]] = attrs.field(factory=list)
    under_way: int = 0
    peak: int = 0

    async def send(self, call: Call) -> Reply:
        task_id = call.path.removeprefix(STATUS_PATH.format(task_id=""))
        self.checks.append((task_id, now()))
        self.under_way += 1
        self.peak = max(self.peak, self.under_way)
        try:
            await asyncio.sleep(self.seconds.get(task_id, 0.01))
        finally:
            self.under_way -= 1
        if now() < self.durations.get(task_id, 0.0):
            return says({"id": task_id, "status": "in_progress"}).reply
        self.ended[task_id] = now()
        return says(completed(task_id)).reply

    def poller(self, policy=None) -> Poller:
        gate = Gate(Pacer(16), asyncio.get_running_loop())
        settings = {"poll_rate": None, "random": random.Random(1), "on_event": lambda _: None}
        options = SimpleNamespace(polling=policy or FixedInterval(1.0), **settings)
        forms = Forms(GenerationProtocol(), None)
        parts = SessionParts(self, forms, options, gate, offloader=None, counters=SessionStatistics())
        return Poller(parts, store=None)


def watch(poller: Poller, task_id: str, *, deadline: float = math.inf) -> EditTask:
    """Let the poller wait for a task that was accepted just now."""
    snapshot = TaskSnapshot(task_id=task_id, status=TaskStatus.IN_PROGRESS)
    task = EditTask(task_id=task_id, since=now(), deadline=deadline, snapshot=snapshot, poller=poller)
    poller.watch(task)
    return task


async def test_a_check_that_hangs_delays_no_other_task():
    start = now()
    bench = Bench(seconds={"stuck": 1000.0})
    poller = bench.poller()
    running = asyncio.create_task(poller.run())
    for name in ("stuck", "a", "b"):
        watch(poller, name)
    await asyncio.sleep(5)
    assert set(bench.ended) == {"a", "b"}
    assert max(bench.ended.values()) - start < 1.1
    running.cancel()
    await asyncio.wait([running])


async def test_no_more_checks_are_under_way_than_the_bound():
    bench = Bench(seconds=dict.fromkeys(map(str, range(200)), 3.0))
    poller = bench.poller()
    running = asyncio.create_task(poller.run())
    for number in range(200):
        watch(poller, str(number))
    await asyncio.sleep(60)
    assert (bench.peak, len(bench.ended)) == (MAX_CONCURRENT_CHECKS, 200)
    running.cancel()
    await asyncio.wait([running])


async def test_checks_that_hang_delay_other_tasks_by_a_few_seconds_at_most():
    hung = [f"stuck-{number}" for number in range(3 * MAX_CONCURRENT_CHECKS)]
    others = [str(number) for number in range(20)]
    bench = Bench(seconds=dict.fromkeys(hung, 1000.0))
    poller = bench.poller()
    running = asyncio.create_task(poller.run())
    start = now()
    for name in (*hung, *others):
        watch(poller, name)
    await asyncio.sleep(60)
    assert set(bench.ended) == set(others)
    assert max(bench.ended.values()) - start < 1.1 + 3 * SLOW_AFTER
    running.cancel()
    await asyncio.wait([running])


async def test_checks_that_hang_are_bounded_too():
    bench = Bench(seconds={str(number): 1000.0 for number in range(2 * MAX_OPEN_CHECKS)})
    poller = bench.poller()
    running = asyncio.create_task(poller.run())
    for name in bench.seconds:
        watch(poller, name)
    await asyncio.sleep(1.5)
    for places in (1, 2, 3):
        assert bench.under_way == places * MAX_CONCURRENT_CHECKS
        await asyncio.sleep(SLOW_AFTER)
    await asyncio.sleep(800)
    assert bench.under_way == MAX_OPEN_CHECKS
    await asyncio.sleep(2000)
    assert set(bench.ended) == set(bench.seconds)
    assert bench.peak == MAX_OPEN_CHECKS
    running.cancel()
    await asyncio.wait([running])


async def test_a_last_check_beside_one_that_hangs_does_not_count_as_a_newer_one():
    bench = Bench(seconds=dict.fromkeys(["late", *map(str, range(MAX_CONCURRENT_CHECKS - 1))], 1000.0))
    poller = bench.poller()
    running = asyncio.create_task(poller.run())
    start = now()
    watch(poller, "late", deadline=start + 3.0)  # checked 1 s and 3 s after the start
    await asyncio.sleep(3.0)
    for name in (*bench.seconds, "a"):
        if name != "late":
            watch(poller, name)
    await asyncio.sleep(60)
    assert [at - start for name, at in bench.checks if name == "late"] == pytest.approx([1.0, 3.0])
    assert bench.ended["a"] - start == pytest.approx(1.0 + SLOW_AFTER, abs=0.1)
    running.cancel()
    await asyncio.wait([running])


async def test_no_task_is_given_up_unchecked_because_the_checks_of_others_hang():
    hung = {f"task-{number}" for number in range(1, 3 * MAX_CONCURRENT_CHECKS + 1)}
    service = MemoryService(on_check=lambda task_id, _: timed_out() if task_id in hung else Answer())
    async with MemorySession(service, max_in_flight=500, deadline=40.0) as session:
        edits = [asyncio.create_task(session.edit(IMAGE, "snow")) for _ in range(len(hung) + 20)]
        results = await asyncio.gather(*edits, return_exceptions=True)
    assert {type(result) for result in results[: len(hung)]} == {DeadlineExceededError}
    assert max(result.timings.total for result in results[len(hung) :]) < 20


async def test_a_check_has_the_context_variables_of_whoever_watches_the_task():
    seen, name = {}, contextvars.ContextVar("name", default="nobody")

    class Watching(Bench):
        async def send(self, call: Call) -> Reply:
            seen.setdefault(name.get(), set()).add(call.path.rpartition("/")[2])
            return await super().send(call)

    bench = Watching(durations={str(number): 5.0 for number in range(300)})
    poller = bench.poller()
    running = asyncio.create_task(poller.run())
    for number in range(300):
        name.set(f"caller {number % 3}")
        watch(poller, str(number))
    await asyncio.sleep(60)
    assert seen == {f"caller {k}": {str(number) for number in range(k, 300, 3)} for k in range(3)}
    running.cancel()
    await asyncio.wait([running])


async def test_checks_of_other_tasks_keep_none_that_ended():
    others = list(map(str, range(200)))
    bench = Bench(durations=dict.fromkeys(others, math.inf), seconds=dict.fromkeys(others, 3.0))
    poller = bench.poller()
    running = asyncio.create_task(poller.run())
    gone = [weakref.ref(watch(poller, f"ending-{number}")) for number in range(MAX_CONCURRENT_CHECKS)]
    for name in others:
        watch(poller, name)
    await asyncio.sleep(60)
    assert (len(bench.ended), bench.under_way) == (MAX_CONCURRENT_CHECKS, MAX_CONCURRENT_CHECKS)
    assert [each() for each in gone] == [None] * MAX_CONCURRENT_CHECKS
    running.cancel()
    await asyncio.wait([running])


async def test_a_task_is_checked_on_time_though_its_checker_went_on_to_one_that_hangs():
    tasks = [str(number) for number in range(MAX_CONCURRENT_CHECKS + 1)]
    bench = Bench(durations=dict.fromkeys(tasks, math.inf), seconds={tasks[-1]: 1000.0})
    poller = bench.poller()
    running = asyncio.create_task(poller.run())
    for task in tasks:
        watch(poller, task)
    await asyncio.sleep(10.5)
    checks = [task for task, _ in bench.checks]
    assert checks.count(tasks[-1]) == 1
    assert min(checks.count(task) for task in tasks[:-1]) >= 9
    running.cancel()
    await asyncio.wait([running])


async def test_a_nearer_task_wakes_the_poller():
    @attrs.frozen
    class ByName:
        def next_check(self, task: PolledTask, now: float) -> float:
            return now + float(task.task_id)

        def ended(self, task: PolledTask, now: float, *, completed: bool) -> None: ...

    start = now()
    bench = Bench()
    poller = bench.poller(ByName())
    running = asyncio.create_task(poller.run())
    watch(poller, "100")
    await asyncio.sleep(1)
    watch(poller, "5")
    await asyncio.sleep(10)
    assert bench.checks == [("5", pytest.approx(start + 6, abs=1e-3))]
    running.cancel()
    await asyncio.wait([running])


async def test_an_idle_poller_does_not_wake_up(monkeypatch):
    loop = asyncio.get_running_loop()
    timers, call_at = [], loop.call_at

    def counted(when: float, *arguments: object, **options: object) -> asyncio.TimerHandle:
        timers.append(when)
        return call_at(when, *arguments, **options)

    running = asyncio.create_task(Bench().poller().run())
    monkeypatch.setattr(loop, "call_at", counted)
    await asyncio.sleep(3600)
    assert len(timers) == 1  # that of the test
    running.cancel()
    await asyncio.wait([running])


async def test_the_answer_to_a_task_that_was_given_up_while_it_was_checked_changes_nothing():
    bench = Bench()
    poller = bench.poller()
    running = asyncio.create_task(poller.run())
    task = watch(poller, "a")
    await asyncio.sleep(1.005)
    assert bench.under_way == 1
    task.cancel()
    await asyncio.sleep(5)
    assert (task.status, len(poller), len(bench.checks)) == (TaskStatus.IN_PROGRESS, 0, 1)
    running.cancel()
    await asyncio.wait([running])


async def test_one_coroutine_polls_for_all_tasks():
    service = MemoryService(duration=50.0)
    async with MemorySession(service, max_in_flight=100, polling=FixedInterval(10.0)) as session:
        before = len(asyncio.all_tasks())
        tasks = [await session.submit(IMAGE, "snow") for _ in range(100)]
        await asyncio.sleep(5)  # before the first round of checks
        assert len(asyncio.all_tasks()) == before
        await asyncio.gather(*tasks)


# Failures of checks, through a session.


@pytest.mark.parametrize(
    "failure",
    [
        status(500),
        status(502),
        status(503),
        status(429),
        status(402, code=40201),
        status(408),
        lost(),
        refused(),
        timed_out(),
        says(b"{'status': in_progress,}"),
        says(b'{"status": "comp', complete=False),
        says({"id": "task-1"}),
        says([1, 2]),
        says({"status": {"code": 500, "message": "internal"}, "data": None}),
    ],
    ids=lambda answer: json.dumps(str(answer.reply))[:60],
)
async def test_a_failure_that_may_pass_does_not_end_the_wait(failure: Answer):
    service = MemoryService(on_check=in_order(failure, failure, failure, failure, failure))
    async with MemorySession(service, deadline=3600) as session:
        result = await session.edit(IMAGE, "snow")
    assert result.timings.failed_checks == 5
    assert session.statistics().failed_checks == 5


async def test_failing_checks_are_spaced_ever_wider():
    service = MemoryService(on_check=lambda *_: status(500))
    async with MemorySession(service, deadline=600) as session:
        with pytest.raises(DeadlineExceededError):
            await session.edit(IMAGE, "snow")
    assert 20 < len(service.checks) < 100


async def test_a_deadline_tells_the_task_and_the_last_failure():
    service = MemoryService(on_check=lambda *_: status(500))
    async with MemorySession(service) as session:
        with pytest.raises(DeadlineExceededError, match=r"task-1 .*HTTP 500.*session\.attach\('task-1'\)") as caught:
            await session.edit(IMAGE, "snow", deadline=30.0)
        assert session.unfinished == ("task-1",)
    assert caught.value.task_id == "task-1"
    assert isinstance(caught.value.__cause__, InternalServerError)


async def test_a_task_that_was_completed_without_pictures_by_its_deadline_is_not_called_running():
    service = MemoryService(on_check=lambda task_id, _: says({"id": task_id, "status": "completed"}))
    async with MemorySession(service) as session:
        with pytest.raises(
            APIResponseError, match="task-1 is completed, but the service's reply has no picture"
        ) as caught:
            await session.edit(IMAGE, "snow", deadline=30.0)
        assert session.unfinished == ("task-1",)
    assert caught.value.body == "the reply has only the members id, status"


async def given_up(session: MemorySession) -> str:
    """What a session says of an edit whose deadline is in 30 s."""
    with pytest.raises(DeadlineExceededError) as caught:
        await session.edit(IMAGE, "snow", deadline=30.0)
    assert caught.value.summary == "the deadline passed before a check found that the task had ended"
    return str(caught.value)


async def test_a_deadline_claims_no_more_than_is_known():
    async with MemorySession(MemoryService(duration=1000.0), polling=FixedInterval(10.0)) as session:
        words = await given_up(session)
    assert (
        "the deadline passed before a check found that task task-1 had ended (checks answered: 3); the task may run on"
        in words
    )


async def test_a_deadline_tells_that_a_pause_withheld_the_check():
    service = MemoryService(on_check=in_order(status(429, retry_after=1000)))
    async with MemorySession(service) as session:
        assert "(checks answered: 0; the service requested a pause before the next check)" in (await given_up(session))


async def test_under_a_low_ceiling_the_last_check_is_made_when_its_turn_comes():
    service = MemoryService(duration=1000.0)
    async with MemorySession(service, poll_rate=0.01) as session:
        assert "(checks answered: 2)" in await given_up(session)
    assert service.checks[1].at - service.checks[0].at == pytest.approx(100, abs=0.1)


async def test_while_checks_hang_a_deadline_is_kept_to_within_its_grace():
    service = MemoryService(on_check=lambda *_: HANGS)
    async with MemorySession(service) as session:
        start = now()
        with pytest.raises(DeadlineExceededError):
            await session.edit(IMAGE, "snow", deadline=30.0)
        assert now() - start == pytest.approx(30 + LAST_CHECK_GRACE, abs=0.01)
        assert session.statistics().in_flight == 0
    assert len(service.checks) == 2  # one that hung, and one at the deadline


@pytest.mark.parametrize("duration", [28.0, 30.0])
async def test_a_last_check_is_made_at_the_deadline(duration):
    service = MemoryService(duration=duration)
    async with MemorySession(service, polling=FixedInterval(25.0)) as session:
        result = await session.edit(IMAGE, "snow", deadline=30.0)
    assert result.timings.total == pytest.approx(30.0, abs=0.1)


async def test_refused_checks_are_counted_as_throttled_and_answered_ones_tell_what_rate_works():
    service = MemoryService(duration=100.0, on_check=lambda _, count: status(429) if count == 30 else Answer())
    async with MemorySession(service, polling=FixedInterval(0.1)) as session:
        task = await session.submit(IMAGE, "snow")
        await asyncio.sleep(4)
        assert session.statistics().throttled == 1
        task.cancel()
    last, before = service.checks[-1].at, service.checks[-2].at
    assert 0.1 < last - before < 0.2  # about nine a second worked; if nothing had, it would be one


async def test_an_unknown_task_is_asked_for_again_for_a_grace():
    service = MemoryService(on_check=in_order(*[status(404)] * 3))
    async with MemorySession(service) as session:
        assert (await session.edit(IMAGE, "snow")).timings.failed_checks == 3


async def test_a_task_that_stays_unknown_is_an_error_after_the_grace():
    service = MemoryService(on_check=lambda *_: status(404))
    async with MemorySession(service) as session:
        start = now()
        with pytest.raises(NotFoundError) as caught:
            await session.edit(IMAGE, "snow")
        assert UNKNOWN_TASK_GRACE <= now() - start < UNKNOWN_TASK_GRACE + 40
        assert caught.value.task_id == "task-1"


async def test_a_task_that_vanishes_after_an_answer_has_no_grace():
    service = MemoryService(duration=100.0, on_check=lambda _, count: status(404) if count > 1 else Answer())
    async with MemorySession(service) as session:
        with pytest.raises(NotFoundError):
            await session.edit(IMAGE, "snow")
    assert len(service.checks) == 2


@pytest.mark.parametrize(("code", "kind"), [(401, AuthenticationError), (403, PermissionDeniedError)])
async def test_a_lost_permission_ends_all_waits_at_once(code, kind):
    service = MemoryService(duration=1000.0, on_check=lambda *_: status(code))
    async with MemorySession(service, max_in_flight=3, polling=FixedInterval(5.0)) as session:
        edits = [asyncio.create_task(session.edit(IMAGE, "snow")) for _ in range(5)]
        start = now()
        errors = await asyncio.gather(*edits, return_exceptions=True)
        assert now() - start < 6
        assert [type(error) for error in errors] == [kind] * 5
        assert {error.task_id for error in errors} == {"task-1", "task-2", "task-3", None}
        assert len({id(error) for error in errors}) == 5
        assert session.statistics().watched == 0
        with pytest.raises(kind):
            await session.edit(IMAGE, "snow")
    assert len(service.submissions) == 3


@pytest.mark.parametrize(("code", "kind"), [(401, AuthenticationError), (403, PermissionDeniedError)])
async def test_a_refused_check_of_an_attached_task_ends_that_wait_alone(code, kind):
    refusal = status(code)
    service = MemoryService(on_check=lambda task_id, _: refusal if task_id == "foreign" else Answer())
    async with MemorySession(service, max_in_flight=1) as session:
        edits = [asyncio.create_task(session.edit(IMAGE, "snow")) for _ in range(2)]
        await asyncio.sleep(1)
        with pytest.raises(kind) as caught:
            await session.attach("foreign")
        assert caught.value.task_id == "foreign"
        assert [result.task_id for result in await asyncio.gather(*edits)] == ["task-1", "task-2"]
        assert session.unfinished == ("foreign",)


async def test_an_unknown_status_counts_as_running_and_is_logged_once(caplog):
    caplog.set_level(logging.WARNING, "qwen_edit_async")
    unknown = says({"status": "Dreaming"})
    service = MemoryService(duration=0.0, on_check=lambda _, count: unknown if count < 5 else Answer())
    async with MemorySession(service) as session:
        await asyncio.gather(*(session.edit(IMAGE, "snow") for _ in range(3)))
    assert [record.message for record in caplog.records if "unknown status" in record.message] == [
        "task task-1 has the unknown status 'Dreaming': it counts as running"
    ]


async def test_a_failed_task_is_an_error_with_the_services_words():
    error = {"code": 110001, "error_message": "refused by moderation"}
    failed = says({"status": "FAILED", "error": error, "usage": {"cost": "0.03"}})
    service = MemoryService(on_check=in_order(failed))
    async with MemorySession(service) as session:
        with pytest.raises(EditFailedError, match="task task-1 failed: refused by moderation") as caught:
            await session.edit(IMAGE, "snow")
        assert (caught.value.code, caught.value.task_id) == (110001, "task-1")
        assert caught.value.cost == Decimal("0.03")
        assert session.statistics().failed == 1
        assert session.unfinished == ()


async def test_a_pause_asked_of_a_check_stops_checks_and_submissions_for_its_whole_time():
    def in_pause(task_id: str, count: int) -> Answer:
        return status(429, retry_after=100) if (task_id, count) == ("task-1", 1) else Answer()

    service = MemoryService(duration=5.0, on_check=in_pause)
    async with MemorySession(service) as session:
        first = await session.submit(IMAGE, "snow")
        await asyncio.sleep(0.5)
        second = await session.submit(IMAGE, "snow")
        await asyncio.sleep(0.7)
        paused_at = now()
        await session.edit(IMAGE, "snow")
        await asyncio.gather(first, second)
        asked = [sent.at for sent in (*service.checks[1:], *service.submissions[2:])]
        assert min(asked) >= service.checks[0].at + 100
        assert min(asked) < paused_at + 101


async def test_a_pause_asked_of_a_submission_stops_checks_too():
    service = MemoryService(on_submission=lambda n: status(503, retry_after=50) if n == 2 else Answer())
    async with MemorySession(service) as session:
        first = await session.submit(IMAGE, "snow")
        await session.submit(IMAGE, "snow")
        refused_at = service.submissions[1].at
        await first
    assert [sent.at >= refused_at + 50 for sent in service.checks] == [True] * len(service.checks)
    assert service.submissions[2].at >= refused_at + 50


async def test_a_status_that_is_asked_for_waits_while_a_pause_grows():
    pauses = {"task-1": status(503, retry_after=10), "task-2": attrs.evolve(status(503, retry_after=55), delay=5.0)}
    service = MemoryService(latency=0.0, on_check=lambda task_id, _: pauses.get(task_id, Answer()))
    async with MemorySession(service, max_retries=0) as session:
        start = now()
        pausing = [asyncio.create_task(session.status(task_id)) for task_id in pauses]
        await asyncio.sleep(1)
        with pytest.raises(NotFoundError):
            await session.status("task-9")
        await asyncio.gather(*pausing, return_exceptions=True)
    assert service.checks[-1].at - start == pytest.approx(60, abs=0.01)


async def test_a_status_is_asked_again_after_failures_that_pass():
    service = MemoryService(on_check=in_order(status(502), lost()))
    service.ends["task-9"] = now() + 100
    async with MemorySession(service) as session:
        assert (await session.status("task-9")).status is TaskStatus.IN_PROGRESS
    assert len(service.checks) == 3


async def test_a_status_is_not_asked_for_ever():
    service = MemoryService(on_check=lambda *_: status(429))
    async with MemorySession(service, max_retries=3) as session:
        with pytest.raises(RateLimitError):
            await session.status("task-9")
    assert len(service.checks) == 4


# Policies.


async def test_the_interval_of_backoff_grows_to_its_maximum():
    service = MemoryService(duration=60.0, latency=0.0)
    async with MemorySession(service, polling=Backoff(initial=1.0, factor=2.0, maximum=10.0)) as session:
        await session.edit(IMAGE, "snow")
    times = [sent.at - service.submissions[0].at for sent in service.checks]
    assert times == pytest.approx([1, 3, 7, 15, 25, 35, 45, 55, 65], abs=0.01)


class BrokenPolicy:
    """Plans the first check, and raises when asked for more."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.calls = 0

    def next_check(self, task: PolledTask, now: float) -> float:
        self.calls += 1
        if self.where == "first" or (self.where == "second" and task.checks):
            raise ZeroDivisionError("a bug in the policy")
        return now + 1.0

    def ended(self, task: PolledTask, now: float, *, completed: bool) -> None:
        if self.where == "end":
            raise ZeroDivisionError("a bug in the policy")


class AsyncPolicy(FixedInterval):
    async def next_check(self, task: PolledTask, now: float) -> float:
        return now + 1.0


class AsyncLearner(FixedInterval):
    async def ended(self, task: PolledTask, now: float, *, completed: bool) -> None: ...


@pytest.mark.parametrize(
    "value",
    [2.0, 0, "3 s", FixedInterval, AsyncPolicy(), AsyncLearner()],
    ids=["number", "zero", "text", "class", "async policy", "async learner"],
)
async def test_what_is_not_a_policy_is_refused(value):
    match = r"polling is .*: give a policy such as FixedInterval\(3\.0\), without async methods"
    with pytest.raises(ConfigurationError, match=match):
        MemorySession(MemoryService(), polling=value)


@pytest.mark.parametrize("where", ["first", "second", "end"])
async def test_a_policy_that_raises_ends_every_wait_with_its_error(where):
    service = MemoryService(duration=10.0 if where != "end" else 1.5)
    session = await MemorySession(service, polling=BrokenPolicy(where), max_in_flight=2).open()
    edits = [asyncio.create_task(session.edit(IMAGE, "snow")) for _ in range(4)]
    async with asyncio.timeout(100):
        errors = await asyncio.gather(*edits, return_exceptions=True)
    kinds = {type(error).__name__ for error in errors}
    assert kinds <= {"ZeroDivisionError", "SessionClosedError"}
    assert "ZeroDivisionError" in kinds
    assert set(session.unfinished) == set(service.ids)
    with pytest.raises(ZeroDivisionError):
        await session.aclose()
    assert session.statistics().in_flight == 0
    assert (service.opened, service.closed) == (1, 1)


async def test_a_policy_that_runs_out_of_delays_ends_every_wait_and_loses_no_id():
    class Delays(FixedInterval):
        def next_check(self, task: PolledTask, now: float) -> float:
            return now + next(iter(()))

    service = MemoryService(duration=10.0)
    session = await MemorySession(service, polling=Delays()).open()
    with pytest.raises(RuntimeError, match="StopIteration"):
        await session.edit(IMAGE, "snow")
    assert session.unfinished == ("task-1",)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await session.aclose()
    assert (session.statistics().in_flight, service.closed) == (0, 1)


async def test_a_policy_that_raises_as_a_task_is_given_up_still_frees_its_slot():
    service = MemoryService(duration=100.0)
    session = await MemorySession(service, polling=BrokenPolicy("end"), max_in_flight=1).open()
    task = await session.submit(IMAGE, "snow")
    task.cancel()
    assert session.statistics().in_flight == 0
    async with asyncio.timeout(10):
        with pytest.raises(ZeroDivisionError):
            await session.aclose()
    assert service.closed == 1


async def test_closing_a_session_that_crashes_waits_for_no_call():
    class Hanging(MemoryService):
        async def send(self, call, body=None):
            if call.path.endswith("precharge"):
                await asyncio.Event().wait()
            return await super().send(call, body)

    session = await MemorySession(Hanging(duration=100.0), polling=BrokenPolicy("second")).open()
    edit, estimate = (asyncio.create_task(call(IMAGE, "snow")) for call in (session.edit, session.estimate))
    await asyncio.sleep(0.1)
    async with asyncio.timeout(10):
        with pytest.raises(ZeroDivisionError):
            await session.aclose()
    estimate.cancel()
    await asyncio.gather(edit, estimate, return_exceptions=True)


async def test_a_session_that_crashed_submits_nothing_more():
    service = MemoryService(duration=10.0)
    session = await MemorySession(service, polling=BrokenPolicy("second")).open()
    with pytest.raises(ZeroDivisionError):
        await session.edit(IMAGE, "snow")
    for _ in range(2):
        with pytest.raises(SessionClosedError) as caught:
            await session.edit(IMAGE, "snow")
        assert str(caught.value) == "the session has crashed: create another"
        await asyncio.sleep(1)  # the host task ends
    with pytest.raises(ZeroDivisionError):
        await session.aclose()
    assert len(service.submissions) == 1


async def test_an_announcement_is_cancelled_as_the_session_crashes_and_then_nothing_is_settled():
    dying, may_die = asyncio.Event(), asyncio.Event()

    class Lingering(MemoryService):
        async def send(self, call, body=None):
            try:
                return await super().send(call, body)
            except asyncio.CancelledError:
                dying.set()
                await may_die.wait()
                raise

    class Observer:
        fates = ()
        cancelled = False

        async def about_to_submit(self, uploads):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled = True
                raise

        def settled(self, fate):
            self.fates += (fate,)

    observer = Observer()
    service = Lingering(duration=10.0, on_submission=lambda n: HANGS if n == 2 else Answer())
    session = await MemorySession(service, polling=BrokenPolicy("second")).open()
    crashed, lingering = (asyncio.create_task(session.edit(IMAGE, "snow")) for _ in range(2))
    with pytest.raises(SessionClosedError):
        await session.submit(IMAGE, "snow", observer=observer)
    may_die.set()
    await asyncio.gather(crashed, lingering, return_exceptions=True)
    with pytest.raises(ZeroDivisionError):
        await session.aclose()
    assert (observer.fates, observer.cancelled) == ((), True)
    assert len(service.submissions) == 2


async def test_an_answer_names_what_the_check_found():
    service = MemoryService(on_check=in_order(says({"status": "in_progress", "progress": 0.25})))
    async with MemorySession(service) as session:
        task = await session.submit(IMAGE, "snow")
        await asyncio.sleep(1.5)
        assert (task.progress, task.status) == (0.25, TaskStatus.IN_PROGRESS)
        assert (await task).raw == completed("task-1")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["dreaming"], "; the last reply had the unknown status 'dreaming')"),
        (["dreaming", "in_progress"], ")"),
    ],
)
async def test_the_deadline_names_a_last_word_that_did_not_end_the_wait(words, named):
    service = MemoryService(on_check=lambda _, count: says({"status": words[min(count, len(words)) - 1]}))
    async with MemorySession(service, deadline=5.5) as session:
        with pytest.raises(DeadlineExceededError) as caught:
            await session.edit(IMAGE, "snow")
    assert re.search(r"\(checks answered: \d+" + re.escape(named), str(caught.value))


async def test_the_log_names_an_unknown_word_once(caplog):
    service = MemoryService(on_check=lambda *_: says({"status": "dreaming"}))
    async with MemorySession(service, deadline=5.5) as session:
        with pytest.raises(DeadlineExceededError):
            await session.edit(IMAGE, "snow")
    assert [record.getMessage() for record in caplog.records if "dreaming" in record.getMessage()] == [
        "task task-1 has the unknown status 'dreaming': it counts as running"
    ]


@pytest.mark.parametrize(
    ("members", "error"), [({"output": ["https://r/1"]}, None), ({"error": "moderation"}, EditFailedError)]
)
async def test_an_end_in_unknown_words_is_seen_at_once(members, error):
    service = MemoryService(on_check=lambda *_: says({"status": "finito"} | members))
    async with MemorySession(service) as session:
        outcomes = [outcome async for outcome in session.edit_many([{"images": IMAGE, "instruction": "snow"}])]
    assert [type(outcome.error) for outcome in outcomes] == [type(None) if error is None else error]
    assert len(service.checks) == 1
