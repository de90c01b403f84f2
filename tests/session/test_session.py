"""A session's life: opened, used and closed in any task of one event loop, and clear about everything else."""

from __future__ import annotations

import asyncio
import copy
import functools
import gc
import inspect
import json
import math
import os
import pickle
import re
import textwrap
import threading
from itertools import pairwise

import looptime
import pytest
from jitter import NoJitter
from memory_transport import HANGS, IMAGE, KEY, NORMAL, Answer, MemoryService, MemorySession, in_order, status

from qwen_edit_async import (
    AuthenticationError,
    ConfigurationError,
    DeadlineExceededError,
    EditBatch,
    EditParameters,
    EditRequest,
    EditSession,
    EditSubmitted,
    EditWarning,
    FixedInterval,
    InsufficientBalanceError,
    InvalidEditError,
    PermissionDeniedError,
    RateLimitError,
    SessionClosedError,
    SessionStatistics,
    SubmitUncertainError,
    TaskStatus,
)
from qwen_edit_async.emulator import AfterChecks, EditEmulator, Fault, FaultPlan, FixedEngine
from qwen_edit_async.http.api import Transport
from qwen_edit_async.http.body import JSONBody
from qwen_edit_async.protocol.base import Call, Reply
from qwen_edit_async.scheduling.retry import CallFailure

pytestmark = pytest.mark.anyio

virtual = pytest.mark.virtual_clock


async def use(session, call: str) -> object:
    if call == "edit_many":
        return [outcome async for outcome in session.edit_many([])]
    if call in {"edit", "submit"}:
        return await getattr(session, call)(IMAGE, "snow")
    result = getattr(session, call)("task-1")
    return await result


calls = pytest.mark.parametrize("call", ["edit", "submit", "attach", "status", "edit_many"])


# Before, after, elsewhere.


@calls
async def test_a_session_that_is_not_open_says_so(call):
    with pytest.raises(SessionClosedError, match="is not open: use `async with`"):
        await use(MemorySession(MemoryService()), call)


@virtual
@calls
async def test_a_session_that_is_closed_says_so(call):
    async with MemorySession(MemoryService()) as session:
        pass
    with pytest.raises(SessionClosedError, match="is closed: create another"):
        await use(session, call)


@calls
def test_a_session_on_another_event_loop_says_so(call):
    service = MemoryService()
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        session = first.run_until_complete(MemorySession(service).open())
        with pytest.raises(SessionClosedError, match="another event loop"):
            second.run_until_complete(use(session, call))
        with pytest.raises(SessionClosedError, match="another event loop"):
            second.run_until_complete(session.aclose())
        first.run_until_complete(session.aclose())
    finally:
        first.close()
        second.close()
    assert service.closed == 1


@pytest.mark.parametrize("use", ["await", "updates", "cancel"])
def test_the_handle_of_a_task_says_so_on_another_event_loop(use):
    async def used(task):
        async with asyncio.timeout(5):
            match use:
                case "await":
                    await task
                case "updates":
                    [update async for update in task.updates()]
                case "cancel":
                    task.cancel()

    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        session = first.run_until_complete(MemorySession(MemoryService(duration=0.05)).open())
        task = first.run_until_complete(session.submit(IMAGE, "snow"))
        with pytest.raises(SessionClosedError, match="another event loop: open a session in each loop"):
            second.run_until_complete(used(task))
        assert (task.done(), task.awaited) == (False, False)
        first.run_until_complete(task)
        first.run_until_complete(session.aclose())
        second.run_until_complete(used(task))  # there is nothing left to wait for
    finally:
        first.close()
        second.close()


def test_a_session_that_is_used_outside_of_its_event_loop_says_so():
    async def start():
        session = await MemorySession(MemoryService()).open()
        return session, await session.submit(IMAGE, "snow")

    with asyncio.Runner() as runner:
        session, task = runner.run(start())
        calls = (session.require_open, task.cancel, lambda: session.attach("task-1"), lambda: session.edit_many([]))
        for call in calls:
            with pytest.raises(SessionClosedError, match="no event loop is running"):
                call()
        runner.run(session.aclose())


@virtual
async def test_a_session_that_was_opened_before_a_fork_says_so(monkeypatch, tmp_path):
    async with MemorySession(MemoryService()) as session:
        image = (await session.edit(IMAGE, "snow")).images[0]
        batch = EditBatch([EditRequest(IMAGE, "snow")], tmp_path / "out")
        with monkeypatch.context() as forked:
            forked.setattr(os, "getpid", lambda: -1)
            for attempt in (
                *(
                    functools.partial(use, session, call)
                    for call in ("edit", "submit", "attach", "status", "edit_many")
                ),
                functools.partial(batch.run, session),
                image.read,
                session.aclose,
            ):
                with pytest.raises(
                    SessionClosedError, match="before the process forked: open a session in each process"
                ):
                    await attempt()
        assert not (tmp_path / "out").exists()
        assert (await session.edit(IMAGE, "snow")).task_id == "task-2"


@pytest.mark.parametrize("make_copy", [pickle.dumps, copy.deepcopy])
def test_a_session_is_not_copied_and_nothing_else_goes_wrong(make_copy):
    session = EditSession(KEY)
    with pytest.raises(TypeError, match="secret"):
        make_copy(session)
    gc.collect()  # pytest makes an error of what goes wrong in there


@virtual
async def test_a_session_opens_once():
    session = await MemorySession(MemoryService()).open()
    with pytest.raises(SessionClosedError, match="opened only once"):
        await session.open()
    await session.aclose()
    with pytest.raises(SessionClosedError, match="opened only once"):
        await session.open()


@virtual
async def test_closing_twice_or_before_opening_does_nothing():
    service = MemoryService()
    async with MemorySession(service) as session:
        await session.aclose()
        await session.aclose()
    assert service.closed == 1
    unopened = MemorySession(service)
    await unopened.aclose()
    with pytest.raises(SessionClosedError, match="opened only once"):
        await unopened.open()


@virtual
async def test_opened_in_one_task_used_in_another_closed_in_a_third():
    service = MemoryService()
    session = MemorySession(service)
    await asyncio.create_task(session.open())
    result = await asyncio.create_task(session.edit(IMAGE, "snow"))
    await asyncio.create_task(session.aclose())
    assert (result.task_id, service.closed) == ("task-1", 1)


@virtual
async def test_a_transport_that_does_not_open_closes_what_did():
    class Broken(MemoryService):
        async def open(self) -> None:
            await super().open()
            raise OSError(24, "Too many open files")

    service = Broken()
    session = MemorySession(service)
    with pytest.raises(OSError, match="Too many open files"):
        await session.open()
    await session.aclose()
    assert service.closed == 1


# Leaving.


@virtual
@pytest.mark.parametrize(
    "error",
    [KeyError("mine"), asyncio.CancelledError(), KeyboardInterrupt(), ExceptionGroup("g", [KeyError()])],
    ids=repr,
)
async def test_the_users_exception_leaves_unwrapped_and_cancels(error):
    service = MemoryService(duration=100.0)
    start = asyncio.get_running_loop().time()
    with pytest.raises(type(error)) as caught:  # noqa: PT012  # leaving the block is what is tested
        async with MemorySession(service) as session:
            waiting = asyncio.create_task(session.edit(IMAGE, "snow"))
            await asyncio.sleep(1)
            raise error
    assert caught.value is error
    assert asyncio.get_running_loop().time() - start < 2
    with pytest.raises(SessionClosedError) as closed:
        await waiting
    assert (closed.value.task_id, session.unfinished) == ("task-1", ("task-1",))


@virtual
async def test_leaving_waits_for_what_somebody_awaits_and_gives_up_what_nobody_does():
    service = MemoryService(duration=10.0)
    async with MemorySession(service) as session:
        awaited = asyncio.create_task(session.edit(IMAGE, "snow"))
        await asyncio.sleep(5)
        forgotten = await session.submit(IMAGE, "snow")
    assert (await awaited).task_id in service.ids
    with pytest.raises(SessionClosedError, match=re.escape(f"session.attach({forgotten.id!r})")):
        await forgotten
    assert session.unfinished == (forgotten.id,)


@virtual
async def test_leaving_waits_for_edits_that_wait_for_a_slot():
    async with MemorySession(MemoryService(), max_in_flight=1) as session:
        edits = [asyncio.create_task(session.edit(IMAGE, "snow")) for _ in range(4)]
        await asyncio.sleep(0.1)
    assert [edit.done() for edit in edits] == [True] * 4
    await asyncio.gather(*edits)


@virtual
@pytest.mark.parametrize("where", ["in its slot queue", "in a pause", "backing off", "being submitted"])
async def test_leaving_by_an_error_ends_every_wait_soon(where):
    answers = {"in a pause": status(503, retry_after=300), "backing off": status(503)}
    service = MemoryService(on_submission=in_order(*[answers.get(where, status(503))] * 2), latency=0.5)
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine"):  # noqa: PT012  # leaving the block is what is tested
        async with MemorySession(service, max_in_flight=1) as session:
            edits = [asyncio.create_task(session.edit(IMAGE, "snow")) for _ in range(3)]
            await asyncio.sleep(0.1 if where == "being submitted" else 0.52)
            raise error
    start = asyncio.get_running_loop().time()
    outcomes = await asyncio.gather(*edits, return_exceptions=True)
    assert asyncio.get_running_loop().time() - start < 0.01
    assert {type(outcome).__name__ for outcome in outcomes} <= {"SessionClosedError", "InternalServerError"}
    assert session.statistics().in_flight == 0


@virtual
async def test_a_task_that_is_accepted_as_the_session_closes_keeps_its_id_and_no_slot():
    service = MemoryService(latency=2.0)
    with pytest.raises(KeyError):  # noqa: PT012  # leaving the block is what is tested
        async with MemorySession(service) as session:
            edit = asyncio.create_task(session.edit(IMAGE, "snow"))
            await asyncio.sleep(1)
            raise KeyError
    with pytest.raises(SessionClosedError, match="task-1"):
        await edit
    assert (session.unfinished, session.statistics().in_flight) == (("task-1",), 0)


@virtual
async def test_leaving_by_an_error_does_not_let_a_pending_submission_hold_up_other_waits():
    service = MemoryService(duration=100.0, on_submission=lambda n: NORMAL if n == 1 else HANGS)
    with pytest.raises(KeyError):  # noqa: PT012  # leaving the block is what is tested
        async with MemorySession(service) as session:
            waiting = asyncio.create_task(session.edit(IMAGE, "snow"))
            await asyncio.sleep(1)
            pending = asyncio.create_task(session.edit(IMAGE, "snow"))
            await asyncio.sleep(1)
            ended_at = []
            waiting.add_done_callback(lambda _: ended_at.append(asyncio.get_running_loop().time()))
            left_at = asyncio.get_running_loop().time()
            raise KeyError
    assert ended_at == [left_at]
    assert isinstance(waiting.exception(), SessionClosedError)
    with pytest.raises(SubmitUncertainError, match="a task may exist"):
        await pending


@virtual
async def test_closing_collects_ids_though_it_is_cancelled_itself():
    service = MemoryService(on_submission=lambda _: Answer(delay=3.0))
    session = await MemorySession(service).open()
    edit = asyncio.create_task(session.edit(IMAGE, "snow"))
    await asyncio.sleep(1)
    edit.cancel()
    closing = asyncio.create_task(session.aclose())
    for _ in range(3):
        await asyncio.sleep(0.1)
        closing.cancel()
    await asyncio.wait([closing])
    assert closing.cancelled()
    assert (session.unfinished, service.closed) == (("task-1",), 1)


@virtual
async def test_two_tasks_may_close_at_once():
    service = MemoryService(duration=5.0)
    session = await MemorySession(service).open()
    edit = asyncio.create_task(session.edit(IMAGE, "snow"))
    await asyncio.sleep(1)
    await asyncio.gather(session.aclose(), session.aclose())
    await edit
    assert service.closed == 1


@virtual
async def test_leaving_by_an_error_does_not_wait_for_what_another_close_waits_for():
    service = MemoryService(duration=100.0)
    start = asyncio.get_running_loop().time()
    with pytest.raises(KeyError):  # noqa: PT012  # leaving the block is what is tested
        async with MemorySession(service) as session:
            edit = asyncio.create_task(session.edit(IMAGE, "snow"))
            await asyncio.sleep(1)
            closing = asyncio.create_task(session.aclose())
            await asyncio.sleep(1)
            raise KeyError
    assert asyncio.get_running_loop().time() - start < 3
    await closing
    with pytest.raises(SessionClosedError):
        await edit
    assert (session.unfinished, service.closed) == (("task-1",), 1)


@virtual
async def test_leaving_waits_for_a_status_that_somebody_asked_for():
    service = MemoryService(latency=5.0)
    service.ends["task-1"] = 0.0
    async with MemorySession(service) as session:
        asking = asyncio.create_task(session.status("task-1"))
        await asyncio.sleep(1)
    assert asking.done()
    assert (await asking).status.terminal


@virtual
async def test_a_status_that_is_asked_for_tells_what_rate_works_and_what_is_refused():
    service = MemoryService(on_check=lambda _, count: status(429) if count == 20 else NORMAL)
    service.ends["task-1"] = math.inf
    async with MemorySession(service) as session:
        for _ in range(30):
            await session.status("task-1")
    times = [sent.at for sent in service.checks]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert max(gaps[:19]) == pytest.approx(service.latency)
    assert gaps[-8:] == pytest.approx([1 / (0.95 * 19)] * 8, abs=0.003)


@virtual
async def test_a_status_that_is_asked_for_as_the_session_closes_says_so():
    service = MemoryService(on_check=lambda *_: status(503, retry_after=100))
    with pytest.raises(KeyError):  # noqa: PT012  # leaving the block is what is tested
        async with MemorySession(service) as session:
            asking = asyncio.create_task(session.status("task-1"))
            await asyncio.sleep(1)
            raise KeyError
    with pytest.raises(SessionClosedError):
        await asking


@virtual
@pytest.mark.parametrize(("code", "kind"), [(402, InsufficientBalanceError), (403, PermissionDeniedError)])
async def test_a_refusal_to_create_tasks_leaves_the_status_of_paid_tasks_within_reach(code, kind):
    service = MemoryService(on_submission=in_order(NORMAL, status(code)))
    service.on_check = lambda _, number: status(503) if number == 1 else NORMAL
    async with MemorySession(service, polling=FixedInterval(100.0)) as session:
        task = await session.submit(IMAGE, "snow")
        with pytest.raises(kind):
            await session.submit(IMAGE, "snow")
        await asyncio.sleep(5)
        assert (await session.status(task.id)).status is TaskStatus.COMPLETED
        with pytest.raises(kind):
            await session.submit(IMAGE, "snow")
    assert len(service.submissions) == 2


@virtual
async def test_a_refused_status_holds_the_session_back_though_it_is_not_asked_for_again():
    service = MemoryService(on_check=in_order(status(429, retry_after=60)))
    service.ends["task-0"] = 0.0
    async with MemorySession(service, max_retries=0) as session:
        with pytest.raises(RateLimitError) as caught:
            await session.status("task-0")
        assert "deadline" not in f"{caught.value} {caught.value.summary}"  # a status check has none
        counts = session.statistics()
        assert (counts.throttled, counts.failed_checks, counts.checks) == (1, 1, 0)
        await session.status("task-0")
        assert session.statistics().checks == 1
    first, second = service.checks
    assert second.at - first.at >= 60.0


class LeapingLoop(asyncio.SelectorEventLoop):
    """An event loop on the real clock, which can be put forward.

    Attributes:
        leapt: Seconds by which it was put forward.
    """

    leapt = 0.0

    def time(self):
        return super().time() + self.leapt


class HangingFile:
    """A binary file on a disk that hangs until ``go_on`` is set."""

    def __init__(self):
        self.reading = threading.Event()
        self.go_on = threading.Event()

    def read(self, size=-1):
        self.reading.set()
        assert self.go_on.wait(60)
        return b""


def test_closing_waits_five_seconds_for_a_disk_that_hangs(caplog):
    image = HangingFile()

    async def main():
        session = await MemorySession(MemoryService()).open()
        edit = asyncio.create_task(session.edit(image, "snow"))
        await asyncio.to_thread(image.reading.wait)
        edit.cancel()
        closing = asyncio.create_task(session.aclose())
        await steps()
        asyncio.get_running_loop().leapt += 4.0
        await steps()
        assert not closing.done()
        asyncio.get_running_loop().leapt += 1.1
        await steps()
        assert closing.done()
        assert (edit.cancelled(), session.service.closed) == (True, 1)

    async def steps():
        for _ in range(100):
            await asyncio.sleep(0)

    try:
        with asyncio.Runner(loop_factory=LeapingLoop) as runner:
            runner.run(main())
    finally:
        image.go_on.set()
    assert "closing anyway" in caplog.text


async def test_a_lost_account_ends_the_wait_for_another_slot_though_its_error_is_a_timeout_too():
    class RefusedError(PermissionDeniedError, TimeoutError):
        """An error that a deadline's ``except TimeoutError`` must not take for its own."""

    answers = in_order(status(429), Answer(RefusedError("no", status_code=403), delay=0.05))
    async with MemorySession(MemoryService(on_submission=answers), max_in_flight=2, deadline=5.0) as session:
        edits = [asyncio.create_task(session.edit(IMAGE, "snow")) for _ in range(2)]
        errors = await asyncio.gather(*edits, return_exceptions=True)
    assert [type(error) for error in errors] == [RefusedError] * 2


class InterruptedPolicy(FixedInterval):
    """Stands for Ctrl-C in the middle of the session's own work."""

    def next_check(self, task, now):
        if task.checks:
            raise KeyboardInterrupt
        return super().next_check(task, now)

    def ended(self, task, now, *, completed):
        raise KeyboardInterrupt


def run_through_interrupts(work):
    """Run a coroutine to its end; returns how many interrupts came out of the event loop on the way."""
    interrupts = 0
    with asyncio.Runner(loop_factory=looptime.new_event_loop) as runner:
        task = runner.get_loop().create_task(work)
        while not task.done():
            try:
                runner.get_loop().run_until_complete(task)
            except KeyboardInterrupt:
                interrupts += 1
    assert task.exception() is None
    return interrupts


@pytest.mark.parametrize("deadline", [0.5, 100.0], ids=["in the host task", "in a check"])
def test_an_interrupt_leaves_the_event_loop_and_closes_the_session(deadline, caplog):
    async def main():
        service = MemoryService(duration=10.0, on_check=lambda *_: HANGS if deadline < 1 else NORMAL)
        async with MemorySession(service, polling=InterruptedPolicy(1.0)) as session:
            with pytest.raises(SessionClosedError) as caught:
                await session.edit(IMAGE, "snow", deadline=deadline)
            with pytest.raises(SessionClosedError):
                await session.edit(IMAGE, "snow")
        assert (caught.value.task_id, session.unfinished) == ("task-1", ("task-1",))
        assert (len(session.service.submissions), session.service.closed) == (1, 1)

    assert run_through_interrupts(main())
    assert "crashed" not in caplog.text


def test_an_interrupt_in_the_function_for_events_loses_no_task():
    def interrupt(event):
        if isinstance(event, EditSubmitted):
            raise KeyboardInterrupt

    async def main():
        async with MemorySession(MemoryService(), on_event=interrupt) as session:
            assert (await session.submit(IMAGE, "snow")).id == "task-1"
        assert session.unfinished == ("task-1",)

    assert run_through_interrupts(main())


def test_an_interrupt_in_the_input_of_many_edits_is_not_the_end_of_the_input():
    def requests():
        yield EditRequest(IMAGE, "snow")
        raise KeyboardInterrupt

    async def main():
        async with MemorySession(MemoryService()) as session:
            with pytest.raises(SessionClosedError, match="in the middle of edit_many"):
                [outcome async for outcome in session.edit_many(requests())]

    assert run_through_interrupts(main())


def test_an_interrupted_submission_is_settled():
    fates = []

    class Observer:
        async def about_to_submit(self, uploads):
            """Let it be sent."""

        def settled(self, fate):
            fates.append(fate)

    def interrupt(_):
        raise KeyboardInterrupt

    async def main():
        async with MemorySession(MemoryService(on_submission=interrupt)) as session:
            with pytest.raises(SessionClosedError, match="interrupted before the edit was sent"):
                await session.submit(IMAGE, "snow", observer=Observer())

    assert run_through_interrupts(main())
    assert fates == [CallFailure.REFUSED]


def test_an_interrupt_while_a_session_opens_ends_the_opening():
    class Interrupted(MemoryService):
        async def open(self):
            await super().open()
            raise KeyboardInterrupt

    async def main():
        with pytest.raises(SessionClosedError, match="while it was being opened"):
            await MemorySession(Interrupted()).open()
        await asyncio.sleep(1)  # the interrupt leaves when all is closed

    assert run_through_interrupts(asyncio.wait_for(main(), 10.0)) == 1


# Forgotten.


def test_a_session_that_its_loop_outlived_not_warns():
    async def forget() -> None:
        await MemorySession(service).open()
        await asyncio.sleep(0)

    service = MemoryService()
    with pytest.warns(ResourceWarning, match="never closed"):
        asyncio.run(forget())
    assert service.closed == 1


def test_a_session_that_is_kept_to_the_loops_end_warns_and_ends_with_it():
    async def keep() -> None:
        kept.append(await MemorySession(service).open())
        kept.append(await kept[0].submit(IMAGE, "snow"))

    kept, service = [], MemoryService()
    with pytest.warns(ResourceWarning, match="never closed"):
        asyncio.run(keep())
    assert (service.closed, kept[0].unfinished) == (1, ("task-1",))


async def end_host_tasks() -> None:
    """End the background work of sessions that nobody holds."""
    hosts = [task for task in asyncio.all_tasks() if task.get_name() == "qwen-edit-async session"]
    assert len(hosts) == 1
    for host in hosts:
        host.cancel()
    await asyncio.wait(hosts)


@virtual
async def test_a_session_that_nobody_holds_warns_and_goes_on_for_those_who_wait():
    async def start():
        session = await MemorySession(service).open()
        return await session.submit(IMAGE, "snow")

    service = MemoryService(duration=50.0)
    with pytest.warns(ResourceWarning, match="never closed"):
        task = await start()
    assert (await task).task_id == "task-1"
    await end_host_tasks()


@virtual
async def test_an_idle_session_that_nobody_holds_is_not_torn_apart():
    async def start():
        await MemorySession(service).open()

    service = MemoryService()
    with pytest.warns(ResourceWarning, match="never closed"):
        await start()
    gc.collect()
    assert service.closed == 0
    await end_host_tasks()
    assert service.closed == 1
    assert service.closed == 1


# Options and arguments.


@pytest.mark.parametrize(
    "options",
    [
        {"max_in_flight": 0},
        {"max_in_flight": 1.5},
        {"max_in_flight": True},
        {"deadline": 0},
        {"deadline": float("inf")},
        {"deadline": "60"},
        {"max_retries": -1},
        {"submit_rate": 0},
        {"poll_rate": 0},
        {"timeout": -1.0},
        {"envelope": "other"},
        {"default_headers": {"authorization": "Bearer other"}},
        {"api_key": "two words"},
        {"api_key": " "},
        {"base_url": "ftp://host"},
        {"base_url": "http://example.com"},
        {"base_url": "https://user:password@host"},
        {"random": 7},
    ],
    ids=str,
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ConfigurationError):
        EditSession(**{"api_key": KEY} | options)


def test_a_missing_key_says_what_to_set(monkeypatch):
    monkeypatch.delenv("QWEN_EDIT_API_KEY", raising=False)
    with pytest.raises(ConfigurationError, match="QWEN_EDIT_API_KEY"):
        EditSession()


def test_key_and_host_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("QWEN_EDIT_API_KEY", KEY)
    monkeypatch.setenv("QWEN_EDIT_BASE_URL", "https://gateway.example/v2/")
    assert repr(EditSession()) == "<EditSession https://gateway.example/v2 not open>"


@virtual
@pytest.mark.parametrize("deadline", [0, -1, True, "5", float("nan")], ids=str)
async def test_a_wrong_deadline_is_refused(deadline):
    async with MemorySession(MemoryService()) as session:
        for call in (
            lambda: session.edit(IMAGE, "snow", deadline=deadline),
            lambda: use_attach(session, deadline),
            lambda: use_many(session, deadline),
        ):
            with pytest.raises(ConfigurationError, match="deadline"):
                await call()


async def use_attach(session, deadline):
    session.attach("task-1", deadline=deadline)


async def use_many(session, deadline):
    session.edit_many([], deadline=deadline)


@virtual
async def test_arguments_of_an_edit_reach_the_service():
    service = MemoryService()
    async with MemorySession(service) as session:
        await session.edit([IMAGE, IMAGE], "snow", parameters=EditParameters(n=2, seed=3), seed=7, size="1024x1536")
    body = service.submissions[0].body
    assert body["parameters"] == {"n": 2, "seed": 7, "size": "1024*1536"}
    assert body["input"]["messages"][0]["content"] == [{"image": IMAGE}, {"image": IMAGE}, {"text": "snow"}]


@virtual
async def test_a_whole_request_takes_nothing_beside_it():
    async with MemorySession(MemoryService()) as session:
        with pytest.raises(InvalidEditError, match="an EditRequest is complete"):
            await session.edit(EditRequest(IMAGE, "snow"), n=2)


@virtual
async def test_text_that_the_service_would_cut_off_warns():
    async with MemorySession(MemoryService()) as session:
        with pytest.warns(EditWarning, match="801 characters"):
            result = await session.edit(IMAGE, "x" * 801)
    assert "801 characters" in result.notes[0]


@virtual
@pytest.mark.parametrize("call", ["submit", "edit", "edit_many", "async with edit_many"])
async def test_a_warning_points_at_the_line_of_the_call(call):
    request = EditRequest(IMAGE, "x" * 801)
    async with MemorySession(MemoryService()) as session:
        with pytest.warns(EditWarning) as caught:  # noqa: PT031  # each call stands on a line of its own
            match call:
                case "submit":
                    line, _ = this_line(), await session.submit(request)
                case "edit":
                    line, _ = this_line(), await session.edit(request)
                case "edit_many":
                    line, outcomes = this_line(), session.edit_many([request])
                    assert [outcome.ok async for outcome in outcomes] == [True]
                case "async with edit_many":
                    line, stream = this_line(), session.edit_many([request])
                    async with stream as outcomes:
                        assert [outcome.ok async for outcome in outcomes] == [True]
    assert [(warning.filename, warning.lineno) for warning in caught] == [(__file__, line)]


def this_line():
    return inspect.currentframe().f_back.f_lineno


@virtual
async def test_text_that_the_service_would_cut_off_is_refused_by_a_strict_session():
    service = MemoryService()
    async with MemorySession(service, strict=True) as session:
        with pytest.raises(InvalidEditError, match="801 characters"):
            await session.edit(IMAGE, "x" * 801)
    assert service.submissions == []


@virtual
async def test_statistics_count_and_the_repr_tells():
    service = MemoryService()
    session = MemorySession(service, max_in_flight=2)
    assert session.statistics() == SessionStatistics()
    assert session.unfinished == ()
    async with session:
        edits = [asyncio.create_task(session.edit(IMAGE, "snow")) for _ in range(3)]
        await asyncio.sleep(0.5)
        assert repr(session) == "<EditSession http://127.0.0.1:9 open, 2 in flight, 1 waiting>"
        counts = session.statistics()
        assert (counts.in_flight, counts.waiting, counts.limit, counts.watched, counts.submitted) == (2, 1, 2, 2, 2)
        await asyncio.gather(*edits)
    assert repr(session) == "<EditSession http://127.0.0.1:9 closed>"
    assert (session.statistics().completed, session.statistics().checks) == (3, 6)


@virtual
async def test_the_newest_ten_thousand_ids_are_kept_and_the_log_names_the_others(caplog):
    async with MemorySession(MemoryService()) as session:
        for number in range(10_002):
            session.attach(f"task-{number}").cancel()
        assert session.unfinished == tuple(f"task-{number}" for number in range(2, 10_002))
    assert [record.task_id for record in caplog.records] == ["task-0", "task-1"]


@virtual
async def test_an_id_is_no_longer_unfinished_once_it_was_attached_to_and_has_ended():
    service = MemoryService()
    service.ends["task-1"] = 0.0
    async with MemorySession(service) as session:
        session.attach("task-1").cancel()
        assert session.unfinished == ("task-1",)
        await session.attach("task-1")
        assert session.unfinished == ()


# End to end.


async def test_a_session_edits_through_sockets(tmp_path):
    faults = FaultPlan([Fault.status(503).on("submit").nth(2), Fault.status(500).on("check").nth(1, 4)])
    emulator = EditEmulator(duration=AfterChecks(2), engine=FixedEngine(), faults=faults)
    async with (
        emulator,
        EditSession(emulator.api_key, base_url=emulator.url, polling=FixedInterval(0.01), random=NoJitter()) as session,
    ):
        results = await asyncio.gather(*(session.edit(IMAGE, "snow", n=2) for _ in range(5)))
        paths = await results[0].save(tmp_path)
    assert [path.name for path in paths] == [f"{results[0].task_id}-{index}.png" for index in range(2)]
    statistics = emulator.statistics()
    assert (statistics.tasks_completed, statistics.keys_at_results) == (5, 0)
    assert statistics.submits == 6


async def test_both_envelopes_are_found_out_through_sockets():
    emulator = EditEmulator(duration=0.0, engine=FixedEngine(), envelope="params")
    async with (
        emulator,
        EditSession(emulator.api_key, base_url=emulator.url, polling=FixedInterval(0.01)) as session,
    ):
        await session.edit(IMAGE, "snow")
        await session.edit(IMAGE, "snow")
    assert emulator.statistics().submits == 3


async def test_a_wrong_key_is_refused_through_sockets():
    async with EditEmulator() as emulator, EditSession("sk-wrong", base_url=emulator.url) as session:
        with pytest.raises(AuthenticationError) as caught:
            await session.edit(IMAGE, "snow")
    assert caught.value.status_code == 401


async def test_the_deadline_holds_while_the_images_are_read():
    class Stuck:
        def __init__(self):
            self.go_on = threading.Event()

        def read(self, size=-1):
            self.go_on.wait(10)
            return b""

    image = Stuck()
    async with MemorySession(MemoryService(), max_in_flight=1) as session:
        with pytest.raises(DeadlineExceededError, match="nothing was sent"):
            await session.edit(image, "snow", deadline=0.05)
        assert session.statistics().in_flight == 0
        image.go_on.set()


@virtual
async def test_an_edit_of_a_picture_that_the_service_fetches_needs_no_thread():
    before = threading.enumerate()
    async with MemorySession(MemoryService()) as session:
        await session.edit(IMAGE, "snow")
        started = [thread.name for thread in threading.enumerate() if thread not in before]
        assert not [name for name in started if name.startswith("qwen-edit")]


def test_a_session_shows_its_address_and_options():
    session = EditSession(KEY, base_url="https://gateway.example/v1", fit=True, max_in_flight=3)
    assert (session.base_url, session.fit, session.max_in_flight) == ("https://gateway.example/v1", True, 3)


def test_a_session_that_is_not_open_says_so_when_asked():
    with pytest.raises(SessionClosedError, match="not open"):
        EditSession(KEY).require_open()


class TornReply(MemoryService):
    """Creates a task, and answers with a reply whose end never arrives."""

    async def send(self, call: Call, body: JSONBody | None = None) -> Reply:
        reply, cut = await super().send(call, body), asyncio.Event()
        if body is None:
            return reply
        body.end_reply = cut.set
        await cut.wait()
        return Reply(status=200, body=reply.body[:15], complete=False)


@virtual
async def test_an_id_in_an_incomplete_reply_is_known_after_the_session_is_closed():
    session = await MemorySession(TornReply(duration=50.0)).open()
    edit = asyncio.create_task(session.edit(IMAGE, "snow"))
    await asyncio.sleep(1)
    edit.cancel()
    await session.aclose()
    assert (session.unfinished, session.statistics().uncertain) == (("task-1",), 0)


async def test_a_transport_of_one_s_own_works_as_its_docstring_shows():
    example = textwrap.dedent(inspect.getdoc(Transport).partition("::")[2])
    names = {"Call": Call, "JSONBody": JSONBody, "Reply": Reply, "json": json}
    exec(example, names)
    async with EditSession(KEY, transport=names["Completes"]()) as session:
        result = await session.edit(IMAGE, "make it snow")
    assert (result.task_id, result.images[0].url) == ("task-1", "https://results.example/1.png")
