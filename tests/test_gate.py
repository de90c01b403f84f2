"""The semaphore: who may submit next, and when."""

from __future__ import annotations

import asyncio

import pytest

from qwen_edit_async import AuthenticationError
from qwen_edit_async._gate import Gate
from qwen_edit_async._pacing import Pacer

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_clock]


def make_gate(max_in_flight: int = 1, submit_rate: float | None = None) -> Gate:
    return Gate(Pacer(max_in_flight, submit_rate), asyncio.get_running_loop())


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_slots_are_taken_in_the_order_of_asking():
    gate = make_gate()
    order: list[int] = []

    async def use(number: int) -> None:
        slot = gate.slot()
        await slot.take()
        order.append(number)
        await asyncio.sleep(1)
        slot.release()

    await asyncio.gather(*(use(number) for number in range(5)))
    assert order == [0, 1, 2, 3, 4]


async def test_who_was_turned_away_by_the_service_goes_before_who_waits():
    gate = make_gate()
    await gate.acquire()
    order: list[str] = []

    async def use(name: str, *, first: bool) -> None:
        await gate.acquire(first=first)
        order.append(name)
        gate.release()

    waiting = [asyncio.create_task(use("later", first=False))]
    await settle()
    waiting.append(asyncio.create_task(use("again", first=True)))
    await settle()
    gate.release()
    await asyncio.gather(*waiting)
    assert order == ["again", "later"]


async def test_a_slot_is_given_back_once_however_often_it_is_released():
    gate = make_gate(2)
    slot = gate.slot()
    await slot.take()
    slot.release()
    slot.release()
    assert gate.pacer.in_flight == 0


async def test_a_slot_that_was_not_taken_gives_nothing_back():
    gate = make_gate()
    gate.slot().release()
    assert gate.pacer.in_flight == 0


@pytest.mark.parametrize("admitted_first", [False, True], ids=["while it waits", "as it is admitted"])
async def test_who_ceases_to_wait_holds_no_slot(admitted_first):
    gate = make_gate()
    await gate.acquire()
    waiting = asyncio.create_task(gate.acquire())
    await settle()
    if admitted_first:
        gate.release()
    waiting.cancel()
    await asyncio.wait([waiting])
    if not admitted_first:
        gate.release()
    assert (gate.waiting, gate.pacer.in_flight) == (0, 0)
    await gate.acquire()


async def test_who_ceases_to_wait_does_not_stand_in_the_way():
    gate = make_gate()
    await gate.acquire()
    gone, stays = (asyncio.create_task(gate.acquire()) for _ in range(2))
    await settle()
    gone.cancel()
    gate.release()
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


async def test_a_pause_that_grows_while_it_is_waited_for_is_waited_out():
    gate = make_gate()
    loop = asyncio.get_running_loop()
    start = loop.time()
    gate.pacer.pause(start + 5)
    waiting = asyncio.create_task(gate.acquire())
    await asyncio.sleep(4)
    gate.pacer.pause(start + 20)
    await waiting
    assert loop.time() - start == pytest.approx(20, abs=1e-3)


async def test_closing_gives_everybody_who_waits_the_error_at_once():
    gate = make_gate()
    await gate.acquire()
    waiting = [asyncio.create_task(gate.acquire()) for _ in range(3)]
    await settle()
    gate.close(AuthenticationError("no such key", status_code=401))
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in errors] == [AuthenticationError] * 3
    assert len({id(error) for error in errors}) == 3


async def test_who_comes_after_closing_gets_the_first_error():
    gate = make_gate()
    gate.close(AuthenticationError("no such key", status_code=401))
    gate.close(AuthenticationError("another", status_code=401))
    with pytest.raises(AuthenticationError, match="no such key"):
        await gate.acquire()


async def test_closing_takes_back_the_timer():
    gate = make_gate(1, 0.001)
    await gate.acquire()
    gate.release()
    waiting = asyncio.create_task(gate.acquire())
    await settle()
    assert gate._timer is not None
    gate.close(AuthenticationError("no such key", status_code=401))
    await asyncio.wait([waiting])
    assert gate._timer.cancelled()
    assert isinstance(waiting.exception(), AuthenticationError)
