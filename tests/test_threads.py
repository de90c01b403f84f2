"""Blocking calls on threads, also after their waiter is gone."""

from __future__ import annotations

import asyncio
import gc
import threading
import time

import looptime
import pytest

from qwen_edit_async.errors import SessionClosedError
from qwen_edit_async.threads import Offloader

pytestmark = pytest.mark.anyio


class Resource:
    def __init__(self) -> None:
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


class Gate:
    """A call that reports its start and waits for permission to end."""

    def __init__(self, result: object = None, error: Exception | None = None) -> None:
        self.running = threading.Event()
        self.may_end = threading.Event()
        self.result = result
        self.error = error

    def __call__(self) -> object:
        self.running.set()
        assert self.may_end.wait(10)
        if self.error is not None:
            raise self.error
        return self.result

    async def wait_until_running(self) -> None:
        assert await asyncio.to_thread(self.running.wait, 10)


@pytest.fixture
async def offloader():
    offloader = Offloader(max_workers=1, thread_name_prefix="test-offload")
    yield offloader
    await offloader.aclose()


def threads_of_test() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("test-offload")]


async def test_a_call_runs_on_a_thread_of_our_own_and_returns_its_result(offloader) -> None:
    assert (await offloader.run(lambda: threading.current_thread().name)).startswith("test-offload")


async def test_arguments_are_passed_on(offloader) -> None:
    assert await offloader.run(int, "ff", base=16) == 255


async def test_an_exception_reaches_the_waiter(offloader) -> None:
    with pytest.raises(ZeroDivisionError):
        await offloader.run(lambda: 1 // 0)


async def test_cancelling_ends_the_wait_at_once_and_closes_the_late_result(offloader) -> None:
    resource = Resource()
    gate = Gate(resource)
    waiter = asyncio.create_task(offloader.run(gate))
    await gate.wait_until_running()
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert not resource.closed.is_set()
    gate.may_end.set()
    await offloader.aclose()
    assert resource.closed.wait(5)


async def test_a_result_that_came_in_the_moment_of_the_cancellation_is_closed(offloader) -> None:
    resource, done = Resource(), threading.Event()

    def call() -> Resource:
        return resource

    waiter = asyncio.create_task(offloader.run(call))
    await asyncio.sleep(0)
    offloader.run_soon(done.set)
    assert done.wait(10)  # blocks the loop on purpose, so that the result exists before the loop knows
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert resource.closed.wait(5)


async def test_a_call_that_has_not_begun_when_it_is_cancelled_never_does(offloader) -> None:
    first, second = Gate(), Gate()
    running = asyncio.create_task(offloader.run(first))
    await first.wait_until_running()
    queued = asyncio.create_task(offloader.run(second))
    await asyncio.sleep(0)
    queued.cancel()
    with pytest.raises(asyncio.CancelledError):
        await queued
    first.may_end.set()
    await running
    await offloader.aclose()
    assert not second.running.is_set()


@pytest.mark.parametrize("gate", [Gate(error=ValueError("late")), Gate(result=7)])
async def test_a_late_result_that_needs_no_closing_is_dropped_silently(offloader, gate) -> None:
    words: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: words.append(context))
    waiter = asyncio.create_task(offloader.run(gate))
    await gate.wait_until_running()
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    gate.may_end.set()
    await offloader.aclose()
    await asyncio.sleep(0)
    gc.collect()
    assert words == []


async def test_closing_waits_for_running_calls_without_blocking_the_loop() -> None:
    offloader, gate = Offloader(2, "test-offload"), Gate("done")
    waiter = asyncio.create_task(offloader.run(gate))
    await gate.wait_until_running()
    closing = asyncio.create_task(offloader.aclose())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not closing.done()
    gate.may_end.set()
    await closing
    assert await waiter == "done"


async def test_no_thread_is_left_after_closing() -> None:
    offloader = Offloader(2, "test-offload")
    await offloader.run(int)
    await offloader.aclose()
    for thread in threading.enumerate():
        if thread.name.startswith("test-offload-close"):
            thread.join(10)
    assert threads_of_test() == []


async def test_scheduled_calls_have_run_when_closing_ends(offloader) -> None:
    gate, cleaned = Gate(), threading.Event()
    running = asyncio.create_task(offloader.run(gate))
    await gate.wait_until_running()
    offloader.run_soon(cleaned.set)
    gate.may_end.set()
    await running
    await offloader.aclose()
    assert cleaned.is_set()


async def test_calls_scheduled_after_closing_run() -> None:
    offloader, cleaned = Offloader(1), threading.Event()
    await offloader.aclose()
    offloader.run_soon(cleaned.set)
    assert await asyncio.to_thread(cleaned.wait, 10)


async def test_nothing_runs_after_closing() -> None:
    offloader = Offloader(1)
    await offloader.aclose()
    with pytest.raises(SessionClosedError):
        await offloader.run(int)


def test_virtual_time_stands_still_while_a_thread_works() -> None:
    async def main() -> float:
        loop, offloader = asyncio.get_running_loop(), Offloader(1)
        other = loop.call_later(3600, lambda: None)
        before = loop.time()
        await offloader.run(time.sleep, 0.05)
        after = loop.time()
        other.cancel()
        await offloader.aclose()
        return after - before

    with asyncio.Runner(loop_factory=looptime.new_event_loop) as runner:
        assert runner.run(main()) < 60
