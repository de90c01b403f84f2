"""The order and the times in which the gate hands out slots and turns."""

from __future__ import annotations

import asyncio

import pytest

from qwen_edit_async import AuthenticationError, SessionClosedError
from qwen_edit_async.scheduling.pacer import Pacer, RequestRate
from qwen_edit_async.session.gate import Gate, Slot

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_clock]


def make_gate(max_in_flight: int = 1, submit_rate: float | None = None) -> Gate:
    return Gate(Pacer(max_in_flight, submit_rate), asyncio.get_running_loop())


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_slots_are_handed_out_first_come_first_served():
    gate = make_gate()
    order: list[int] = []

    async def use(number: int) -> None:
        slot = Slot(gate)
        await slot.take()
        order.append(number)
        await asyncio.sleep(1)
        slot.release()

    await asyncio.gather(*(use(number) for number in range(5)))
    assert order == [0, 1, 2, 3, 4]


async def test_an_edit_refused_with_429_gets_the_next_slot():
    gate = make_gate()
    await gate.acquire()
    order: list[str] = []

    async def use(name: str, *, first: bool) -> None:
        await gate.acquire(first=first)
        order.append(name)
        gate.release(accepted=False)

    waiting = [asyncio.create_task(use("later", first=False))]
    await settle()
    waiting.append(asyncio.create_task(use("again", first=True)))
    await settle()
    gate.release(accepted=False)
    await asyncio.gather(*waiting)
    assert order == ["again", "later"]


async def test_releasing_a_slot_twice_frees_it_once():
    gate = make_gate(2)
    slot = Slot(gate)
    await slot.take()
    slot.release()
    slot.release()
    assert gate.pacer.in_flight == 0


async def test_releasing_a_slot_that_was_not_taken_frees_nothing():
    gate = make_gate()
    Slot(gate).release()
    assert gate.pacer.in_flight == 0


@pytest.mark.parametrize("admitted_first", [False, True], ids=["while it waits", "as it is admitted"])
async def test_a_cancelled_wait_holds_no_slot(admitted_first):
    gate = make_gate()
    await gate.acquire()
    waiting = asyncio.create_task(gate.acquire())
    await settle()
    if admitted_first:
        gate.release(accepted=False)
    waiting.cancel()
    await asyncio.wait([waiting])
    if not admitted_first:
        gate.release(accepted=False)
    assert (gate.waiting, gate.pacer.in_flight) == (0, 0)
    await gate.acquire()


@pytest.mark.parametrize("order", [1, -1], ids=["from the front", "from the back"])
async def test_many_cancelled_waits_are_not_counted_and_do_not_pile_up(order):
    gate = make_gate()
    await gate.acquire()
    stays = asyncio.create_task(gate.acquire())
    waiting = [asyncio.create_task(gate.acquire()) for _ in range(500)]
    await settle()
    assert gate.waiting == 501
    left = len(waiting)
    for task in waiting[::order]:
        task.cancel()
        await settle()
        left -= 1
        assert gate.waiting == 1 + left
    gate.release(accepted=False)
    await stays
    assert (gate.waiting, gate.pacer.in_flight) == (0, 1)


async def test_a_wait_that_ends_as_the_gate_closes_is_not_counted():
    gate = make_gate()
    await gate.acquire()
    gone, refused = (asyncio.create_task(gate.acquire()) for _ in range(2))
    await settle()
    gone.cancel()
    gate.close(AuthenticationError("no such key", status_code=401))
    errors = await asyncio.gather(gone, refused, return_exceptions=True)
    assert [type(error) for error in errors] == [asyncio.CancelledError, AuthenticationError]
    assert gate.waiting == 0


async def test_a_cancelled_wait_does_not_block_the_next():
    gate = make_gate()
    await gate.acquire()
    gone, stays = (asyncio.create_task(gate.acquire()) for _ in range(2))
    await settle()
    gone.cancel()
    gate.release(accepted=False)
    async with asyncio.timeout(1):
        await stays


@pytest.mark.parametrize("rate", [0.5, 4.0])
async def test_a_submit_rate_spaces_the_slots_evenly(rate):
    gate = make_gate(100, rate)
    loop = asyncio.get_running_loop()
    start = loop.time()
    times = []
    for _ in range(4):
        await gate.acquire()
        times.append(loop.time() - start)
    assert times == pytest.approx([number / rate for number in range(4)], abs=1e-3)


async def test_a_pause_that_grows_is_waited_out():
    gate = make_gate()
    loop = asyncio.get_running_loop()
    start = loop.time()
    gate.pacer.pause(start + 5, start)
    waiting = asyncio.create_task(gate.acquire())
    await asyncio.sleep(4)
    gate.pacer.pause(start + 20, loop.time())
    await waiting
    assert loop.time() - start == pytest.approx(20, abs=1e-3)


async def test_requests_take_turns_at_the_rate_that_the_service_allows():
    gate = make_gate(8)
    loop = asyncio.get_running_loop()
    start = loop.time()
    gate.pacer.rate = RequestRate(limit=2.0)
    turns = await asyncio.gather(*(gate.wait_turn() for _ in range(4)))
    assert [turn - start for turn in turns] == pytest.approx([0.0, 0.5, 1.0, 1.5], abs=0.01)


async def test_checks_give_way_only_while_a_request_waits_for_a_turn():
    gate = make_gate()
    gate.pacer.rate = RequestRate(limit=2.0)
    gate.pacer.sent(asyncio.get_running_loop().time(), check=True)
    assert not gate.pacer.turn_wanted
    stays = asyncio.create_task(gate.wait_turn())
    await settle()
    assert gate.pacer.turn_wanted
    await stays
    assert not gate.pacer.turn_wanted
    leaves = asyncio.create_task(gate.wait_turn())
    await settle()
    assert gate.pacer.turn_wanted
    leaves.cancel()
    await settle()
    assert not gate.pacer.turn_wanted


async def test_a_status_check_that_is_due_goes_before_a_submission_that_had_the_last_turn():
    gate = make_gate(8)
    loop = asyncio.get_running_loop()
    gate.pacer.rate = RequestRate(limit=2.0)
    await gate.wait_turn()
    submission = asyncio.create_task(gate.wait_turn())
    await settle()
    await asyncio.sleep(gate.pacer.send_at - loop.time())
    assert not submission.done()
    gate.pacer.rate.sent(loop.time())
    assert await submission == pytest.approx(loop.time(), abs=0.01)
    assert gate.pacer.send_at == pytest.approx(loop.time() + 0.5, abs=0.01)


async def test_a_turn_is_not_taken_early_or_ahead_of_a_waiting_request():
    gate = make_gate()
    loop = asyncio.get_running_loop()
    assert gate.submit_at_once() == loop.time()
    come_at = loop.time() + 10
    gate.pacer.pause(come_at, loop.time())
    assert gate.submit_at_once() is None
    waiting = asyncio.create_task(gate.wait_turn())
    await asyncio.sleep(10)
    assert gate.submit_at_once() is None
    assert await waiting == pytest.approx(come_at, abs=0.01)
    assert gate.submit_at_once() is not None


async def test_a_turn_taken_at_once_counts_as_a_request():
    gate = make_gate()
    gate.pacer.rate = RequestRate(limit=2.0)
    assert gate.submit_at_once() is not None
    assert gate.submit_at_once() is None
    assert gate.pacer.send_at == pytest.approx(asyncio.get_running_loop().time() + 0.5)


async def test_closing_ends_the_waits_for_turns_with_the_error():
    gate = make_gate(8)
    gate.pacer.pause(asyncio.get_running_loop().time() + 1000, 0.0)
    waiting = [asyncio.create_task(gate.wait_turn()) for _ in range(2)]
    await settle()
    gate.close(AuthenticationError("no such key", status_code=401))
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in errors] == [AuthenticationError] * 2


async def test_closing_ends_the_waits_for_slots_each_with_its_own_error():
    gate = make_gate()
    await gate.acquire()
    waiting = [asyncio.create_task(gate.acquire()) for _ in range(3)]
    await settle()
    gate.close(AuthenticationError("no such key", status_code=401))
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in errors] == [AuthenticationError] * 3
    assert len({id(error) for error in errors}) == 3


async def test_a_closed_gate_raises_the_first_error():
    gate = make_gate()
    gate.close(AuthenticationError("no such key", status_code=401))
    gate.close(AuthenticationError("another", status_code=401))
    with pytest.raises(AuthenticationError, match="no such key"):
        await gate.acquire()


async def test_closing_cancels_the_timer(monkeypatch):
    loop = asyncio.get_running_loop()
    timers, call_at = [], loop.call_at
    monkeypatch.setattr(loop, "call_at", lambda *arguments: timers.append(call_at(*arguments)) or timers[-1])
    gate = make_gate(1, 0.001)
    await gate.acquire()
    gate.release(accepted=False)
    waiting = asyncio.create_task(gate.acquire())
    await settle()
    assert [timer.cancelled() for timer in timers] == [False]
    gate.close(AuthenticationError("no such key", status_code=401))
    await asyncio.wait([waiting])
    assert timers[0].cancelled()
    assert isinstance(waiting.exception(), AuthenticationError)


async def test_the_end_of_the_session_replaces_an_earlier_error():
    gate = make_gate()
    gate.close(AuthenticationError("no such key", status_code=401))
    assert not gate.ended
    gate.close(SessionClosedError("closed"))
    gate.close(AuthenticationError("another", status_code=401))
    assert gate.ended
    with pytest.raises(SessionClosedError, match="closed"):
        await gate.acquire()


async def test_closing_ends_a_sleep():
    gate = make_gate()
    sleeping = asyncio.create_task(gate.sleep(1000))
    await settle()
    gate.close(AuthenticationError("no such key", status_code=401))
    with pytest.raises(AuthenticationError):
        await sleeping
