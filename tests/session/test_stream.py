"""``edit_many``: lazy in, lazy out, and stopped as soon as nobody wants more."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import sys
import threading
import weakref

import looptime
import pytest
from memory_transport import HANGS, IMAGE, NORMAL, MemoryService, MemorySession, status

from qwen_edit_async import BadRequestError, EditRequest, InvalidEditError, SessionClosedError
from qwen_edit_async.session.stream import OutcomeIterator

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_clock]


def requests(count: int) -> list[EditRequest]:
    return [EditRequest(IMAGE, f"edit {number}") for number in range(count)]


def falling_durations(service: MemoryService, count: int) -> None:
    """Let the first task take longest."""
    original = service._created

    def created(sent):
        service.duration = 3.0 * (count - len(service.ends))
        return original(sent)

    service._created = created


@pytest.fixture
async def service():
    return MemoryService()


@pytest.fixture
async def session(service):
    async with MemorySession(service, max_in_flight=4) as session:
        yield session


async def agenerate(items):
    for item in items:
        await asyncio.sleep(0)
        yield item


# What comes out.


@pytest.mark.parametrize("make_input", [list, iter, agenerate], ids=["list", "iterator", "async"])
@pytest.mark.parametrize("ordered", [False, True])
async def test_every_request_has_an_outcome(session, make_input, ordered):
    outcomes = [outcome async for outcome in session.edit_many(make_input(requests(10)), ordered=ordered)]
    assert sorted(outcome.index for outcome in outcomes) == list(range(10))
    assert all(outcome.ok and outcome.request.instruction == f"edit {outcome.index}" for outcome in outcomes)
    assert all(outcome.result.request is outcome.request for outcome in outcomes)


async def test_outcomes_come_as_they_complete(service, session):
    falling_durations(service, 4)
    assert [outcome.index async for outcome in session.edit_many(requests(4))] == [3, 2, 1, 0]


async def test_ordered_outcomes_come_in_the_order_of_the_input(service, session):
    falling_durations(service, 4)
    assert [outcome.index async for outcome in session.edit_many(requests(4), ordered=True)] == [0, 1, 2, 3]


async def test_a_mapping_is_a_request(service, session):
    fields = {"images": [IMAGE], "instruction": "snow", "n": 2, "key": "mine"}
    (outcome,) = [outcome async for outcome in session.edit_many([fields])]
    assert outcome.request is fields
    assert (outcome.result.request.key, service.submissions[0].body["parameters"]) == ("mine", {"n": 2})


@pytest.mark.parametrize(
    "wrong",
    [
        {"images": IMAGE},
        {"images": IMAGE, "instruction": " "},
        {"images": IMAGE, "instruction": "snow", "colour": "red"},
        {"images": [], "instruction": "snow"},
        {"images": IMAGE, "instruction": "snow", "n": 7},
        {"images": "missing.png", "instruction": "snow"},
        "a string",
        7,
        None,
    ],
    ids=str,
)
async def test_a_wrong_request_is_an_outcome(session, wrong):
    outcomes = [outcome async for outcome in session.edit_many([wrong, requests(1)[0]], ordered=True)]
    assert [outcome.ok for outcome in outcomes] == [False, True]
    assert isinstance(outcomes[0].error, InvalidEditError)
    assert outcomes[0].request is wrong


async def test_an_edit_that_fails_is_an_outcome(service, session):
    refused = '"text": "edit 1"'
    service.on_submission = lambda n: status(400) if refused in str(service.submissions[n - 1].call.parts) else NORMAL
    outcomes = [outcome async for outcome in session.edit_many(requests(4), ordered=True)]
    assert [outcome.ok for outcome in outcomes] == [True, False, True, True]
    assert isinstance(outcomes[1].error, BadRequestError)


async def test_no_requests_no_outcomes(session):
    assert [outcome async for outcome in session.edit_many([])] == []


@pytest.mark.parametrize("is_async", [False, True])
async def test_what_the_input_raises_comes_after_the_outcomes_of_everything_before(session, is_async):
    def broken():
        yield from requests(3)
        raise ZeroDivisionError("the input broke")

    seen = []
    with pytest.raises(ZeroDivisionError, match="the input broke"):  # noqa: PT012  # leaving the block is what is tested
        async for outcome in session.edit_many(agenerate(broken()) if is_async else broken()):
            seen.append(outcome.index)  # noqa: PERF401  # kept when the loop raises
    assert sorted(seen) == [0, 1, 2]


async def test_what_is_no_iterable_raises_in_the_loop(session):
    with pytest.raises(TypeError, match="not iterable"):
        await anext(aiter(session.edit_many(7)))


async def test_a_stream_is_looped_over_once(session):
    stream = session.edit_many(requests(1))
    assert len([outcome async for outcome in stream]) == 1
    with pytest.raises(RuntimeError, match="looped over only once"):
        aiter(stream)
    with pytest.raises(RuntimeError, match="looped over only once"):
        await stream.__aenter__()


async def test_after_the_end_there_is_nothing_more(session):
    iterator = aiter(session.edit_many(requests(1)))
    await anext(iterator)
    for _ in range(2):
        with pytest.raises(StopAsyncIteration):
            await anext(iterator)


async def test_a_deadline_holds_for_each_edit(service, session):
    service.on_check = lambda *_: HANGS
    outcomes = [outcome async for outcome in session.edit_many(requests(6), deadline=10.0)]
    assert {type(outcome.error).__name__ for outcome in outcomes} == {"DeadlineExceededError"}


# Memory.


@pytest.mark.parametrize("consumer", ["fast", "slow"])
@pytest.mark.parametrize("ordered", [False, True])
async def test_of_a_million_requests_few_are_alive_at_a_time(ordered, consumer):
    alive: weakref.WeakSet[EditRequest] = weakref.WeakSet()
    peak = 0

    class Request(dict):
        __hash__ = object.__hash__

    def generate():
        nonlocal peak
        for _ in range(1_000_000):
            request = Request(images=IMAGE, instruction="snow")
            alive.add(request)
            peak = max(peak, len(alive))
            yield request
            del request

    async with MemorySession(MemoryService(), max_in_flight=8) as session:
        count = 0
        async for outcome in session.edit_many(generate(), ordered=ordered):
            del outcome
            count += 1
            if consumer == "slow":
                await asyncio.sleep(1)
            if count == 300:
                break
    assert 8 <= peak <= 8 + 2


async def test_a_slow_loop_holds_up_the_input(service, session):
    pulled = 0

    def generate():
        nonlocal pulled
        for request in requests(100):
            pulled += 1
            yield request

    iterator = aiter(session.edit_many(generate()))
    await anext(iterator)
    await asyncio.sleep(1000)
    assert pulled <= 1 + 4
    assert len(service.submissions) == pulled


async def test_the_input_is_not_touched_before_the_loop_begins(session):
    def generate():
        raise AssertionError("pulled")
        yield

    session.edit_many(generate())
    await asyncio.sleep(10)


# Stopping.


async def loop_and_break(session):
    async for outcome in session.edit_many(itertools.cycle(requests(1))):
        assert outcome.ok
        break


async def loop_over_a_name_and_break(session):
    stream = session.edit_many(itertools.cycle(requests(1)))
    async for outcome in stream:
        assert outcome.ok
        break
    await asyncio.sleep(0)
    assert stream is not None


async def loop_and_raise(session):
    with contextlib.suppress(KeyError):
        async for _ in session.edit_many(itertools.cycle(requests(1))):
            raise KeyError


async def drop_the_iterator(session):
    iterator = aiter(session.edit_many(itertools.cycle(requests(1))))
    await anext(iterator)
    del iterator
    gc.collect()


async def leave_the_block(session):
    async with session.edit_many(itertools.cycle(requests(1))) as outcomes:
        async for _ in outcomes:
            break


async def close_the_iterator(session):
    iterator = aiter(session.edit_many(itertools.cycle(requests(1))))
    await anext(iterator)
    await iterator.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(iterator)


async def be_cancelled(session):
    async def loop():
        async for _ in session.edit_many(itertools.cycle(requests(1))):
            pass

    looping = asyncio.create_task(loop())
    await asyncio.sleep(3)
    looping.cancel()
    await asyncio.wait([looping])


async def be_cancelled_and_keep_the_error(session):
    async def loop():
        async for _ in session.edit_many(itertools.cycle(requests(1))):
            pass

    looping = asyncio.create_task(loop())
    await asyncio.sleep(3)
    looping.cancel()
    return await asyncio.gather(looping, return_exceptions=True)


async def time_out_and_keep_the_error(session):
    with pytest.raises(TimeoutError) as caught:  # noqa: PT012  # leaving the block is what is tested
        async with asyncio.timeout(3):
            async for _ in session.edit_many(itertools.cycle(requests(1))):
                pass
    return caught


@pytest.mark.parametrize(
    "leave",
    [
        loop_and_break,
        loop_over_a_name_and_break,
        loop_and_raise,
        drop_the_iterator,
        leave_the_block,
        close_the_iterator,
        be_cancelled,
        be_cancelled_and_keep_the_error,
        time_out_and_keep_the_error,
    ],
)
async def test_leaving_the_loop_stops_everything_at_once(service, session, leave):
    tasks = len(asyncio.all_tasks())
    kept = await leave(session)
    submissions = len(service.submissions)
    for _ in range(5):
        await asyncio.sleep(0)
    counts = session.statistics()
    assert (counts.in_flight, counts.waiting, counts.watched) == (0, 0, 0)
    assert len(asyncio.all_tasks()) == tasks
    await asyncio.sleep(100)
    assert len(service.submissions) == submissions
    del kept


async def test_the_end_of_the_block_waits_until_nothing_is_left_running(service, session):
    tasks = len(asyncio.all_tasks())
    async with session.edit_many(itertools.cycle(requests(1))) as outcomes:
        assert isinstance(outcomes, OutcomeIterator)
        assert (await anext(outcomes)).ok
    assert len(asyncio.all_tasks()) == tasks
    assert session.statistics().in_flight == 0


async def test_a_block_whose_outcomes_nobody_fetches_submits_nothing(service, session):
    async with session.edit_many(requests(3)):
        await asyncio.sleep(10)
    assert service.submissions == []


async def test_the_inputs_own_cleaning_up_is_done_when_the_loop_is_left(session):
    closed = asyncio.Event()

    async def generate():
        try:
            while True:
                yield requests(1)[0]
        finally:
            closed.set()

    async for _ in session.edit_many(generate()):
        break
    async with asyncio.timeout(1):
        await closed.wait()


@pytest.mark.parametrize("ordered", [False, True])
async def test_results_that_came_and_were_never_fetched_are_named(service, session, ordered):
    service.on_check = lambda task_id, _: HANGS if task_id == "task-2" else NORMAL
    iterator = aiter(session.edit_many(requests(4), ordered=ordered))
    await anext(iterator)
    await asyncio.sleep(10)
    await iterator.aclose()
    assert set(session.unfinished) == {"task-2", "task-3", "task-4"}


async def test_what_others_wait_for_too_is_not_cancelled(service, session):
    service.duration = 50.0
    iterator = aiter(session.edit_many(requests(2)))
    fetching = asyncio.create_task(iterator.__anext__())
    await asyncio.sleep(5)
    other = asyncio.create_task(wait(session.attach("task-1")))
    await asyncio.sleep(1)
    fetching.cancel()
    await asyncio.wait([fetching])
    del iterator, fetching
    gc.collect()
    assert (await other).task_id == "task-1"
    assert session.unfinished == ("task-2",)


async def wait(task):
    return await task


async def test_dropping_a_stream_from_another_thread_stops_it(service, session):
    held = [aiter(session.edit_many(itertools.cycle(requests(1))))]
    await anext(held[0])
    thread = threading.Thread(target=held.clear)  # the loop's own executor would not survive its virtual clock
    thread.start()
    thread.join()
    await asyncio.sleep(1)
    assert session.statistics().in_flight == 0


async def test_a_stream_that_is_dropped_while_a_slot_is_handed_out_takes_no_slot_with_it():
    calls = 1
    while await slots_are_free_though_a_stream_is_dropped(at_call=calls):
        calls += 1
    assert calls > 20


async def slots_are_free_though_a_stream_is_dropped(at_call):
    """Drop a stream at the ``at_call``-th function call of the package while a slot is handed out.

    Return whether there were that many calls. Garbage collection may drop a stream at any of them.
    """
    held, remaining = [], at_call

    def profile(frame, event, _):
        nonlocal remaining
        if event == "call" and "qwen_edit_async" in frame.f_code.co_filename:
            remaining -= 1
            if not remaining:
                held.clear()

    async with MemorySession(MemoryService(duration=50.0), max_in_flight=1) as session:
        holder = await session.submit(IMAGE, "snow")
        held.append(aiter(session.edit_many(requests(1))))
        fetching = asyncio.create_task(held[0].__anext__())
        await asyncio.sleep(1)
        fetching.cancel()
        await asyncio.wait([fetching])
        del fetching
        assert session.statistics().waiting == 1
        sys.setprofile(profile)
        try:
            holder.cancel()
        finally:
            sys.setprofile(None)
        was_dropped = not held
        held.clear()
        await asyncio.sleep(1)
        assert session.statistics().in_flight == session.statistics().waiting == 0
    return was_dropped


def test_a_stream_may_outlive_its_loop():
    async def start():
        async with MemorySession(MemoryService()) as session:
            iterator = aiter(session.edit_many(requests(1)))
            await anext(iterator)
            return iterator

    with asyncio.Runner(loop_factory=looptime.new_event_loop) as runner:
        iterator = runner.run(start())
    del iterator
    gc.collect()


# The session's end.


async def test_a_session_that_is_closed_in_the_middle_ends_the_loop_with_an_error(service):
    session = await MemorySession(service, max_in_flight=2).open()
    outcomes = []
    with pytest.raises(SessionClosedError):  # noqa: PT012  # leaving the block is what is tested
        async for outcome in session.edit_many(itertools.cycle(requests(1))):
            outcomes.append(outcome)
            if len(outcomes) == 3:
                await session.aclose()
    assert [outcome.ok for outcome in outcomes[:3]] == [True] * 3
    assert {type(outcome.error) for outcome in outcomes[3:]} <= {SessionClosedError, type(None)}


async def test_a_session_that_is_closed_while_the_loop_waits_ends_it(service):
    session = await MemorySession(service).open()
    service.on_submission = lambda _: status(503, retry_after=10_000)

    async def loop():
        return [outcome async for outcome in session.edit_many(requests(50), deadline=20_000)]

    looping = asyncio.create_task(loop())
    await asyncio.sleep(5)
    await session.__aexit__(asyncio.CancelledError, None, None)
    async with asyncio.timeout(1):
        await asyncio.wait([looping])
    error = looping.exception()
    assert error is None or isinstance(error, SessionClosedError)


async def test_a_stream_of_a_session_that_was_closed_before_the_loop_says_so(service):
    async with MemorySession(service) as session:
        stream = session.edit_many(requests(1))
    with pytest.raises(SessionClosedError):
        await anext(aiter(stream))


async def test_an_exception_that_is_kept_does_not_keep_the_edits_going(service, session):
    service.duration = 1000.0
    kept = None
    try:
        async with asyncio.timeout(5):
            async for _ in session.edit_many(requests(100)):
                pass
    except TimeoutError as error:
        kept = error
    await asyncio.sleep(5)
    assert kept is not None
    assert session.statistics().in_flight == 0


@pytest.mark.parametrize("ordered", [False, True])
async def test_results_that_come_when_the_loop_is_left_are_named(service, session, ordered):
    async with session.edit_many(requests(4), ordered=ordered) as outcomes:
        first = await anext(outcomes)
        await asyncio.sleep(100)
    assert set(session.unfinished) == set(service.ids) - {first.result.task_id}
