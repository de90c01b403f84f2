"""The deadline of a submission, and the waits that do not count."""

from __future__ import annotations

import asyncio

import pytest

from qwen_edit_async.scheduling.pacer import Pacer
from qwen_edit_async.session.deadline import Deadline
from qwen_edit_async.session.gate import Gate

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_clock]


@pytest.fixture
async def gate() -> Gate:
    return Gate(Pacer(1), asyncio.get_running_loop())


async def passed_at(gate: Gate, *waits: float, accepts_at: tuple[float, ...] = ()) -> float:
    """Start a deadline of 10 s, wait in line for some seconds one after the other, and return when it passes."""
    loop, begun = gate.loop, gate.loop.time()
    for at in accepts_at:
        loop.call_at(begun + at, lambda at=at: setattr(gate.pacer, "accepted_at", begun + at))
    deadline = Deadline(10.0, gate)
    deadline.start(begun)

    async def wait_in_line() -> None:
        for seconds in waits:
            await deadline.wait_in_line(asyncio.sleep(seconds))

    waiting = asyncio.create_task(wait_in_line())
    await deadline.passed
    deadline.stop()
    waiting.cancel()
    await asyncio.wait([waiting])
    return loop.time() - begun


async def test_a_deadline_passes_after_its_seconds(gate):
    assert await passed_at(gate) == pytest.approx(10.0)


@pytest.mark.parametrize("waits", [(4.0,), (1.0, 3.0)])
async def test_a_wait_in_line_does_not_count(gate, waits):
    assert await passed_at(gate, *waits) == pytest.approx(14.0)


async def test_a_wait_in_line_ends_if_the_service_accepts_nothing(gate):
    assert await passed_at(gate, 100.0) == pytest.approx(10.0)


async def test_a_wait_in_line_lasts_as_long_as_the_service_accepts_other_edits(gate):
    assert await passed_at(gate, 100.0, accepts_at=(8.0, 17.0)) == pytest.approx(27.0)


async def test_another_slot_starts_the_deadline_anew_but_not_the_wait_in_line(gate):
    deadline, begun = Deadline(10.0, gate), gate.loop.time()
    deadline.start(begun)
    await asyncio.sleep(6.0)
    deadline.start(gate.loop.time())
    assert (deadline.at, deadline.at_in_line) == pytest.approx((begun + 16.0, begun + 10.0))
    deadline.stop()


async def test_a_stopped_deadline_does_not_pass(gate):
    deadline = Deadline(1.0, gate)
    deadline.start(gate.loop.time())
    deadline.stop()
    await deadline.wait_in_line(asyncio.sleep(5.0))
    assert deadline.passed.cancelled()
