"""Prices that rise while edits wait for a slot: an edit that no longer fits ``max_cost`` is not sent."""

from __future__ import annotations

import asyncio
from collections import Counter
from decimal import Decimal

import pytest
from bulk_runs import states
from memory_transport import IMAGE, NORMAL, Answer, MemoryService, MemorySession, completed, says, status, until

from qwen_edit_async import EditBatch, EditEnded, EditHub, EditRequest

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.virtual_clock,
    pytest.mark.may_block("the loop writes the pictures"),
    pytest.mark.usefixtures("pictures_at_once"),
]

REQUESTS = [EditRequest(IMAGE, "make it snow", key=f"edit{number}") for number in range(10)]
DEADLINE = 60.0


class Prices:
    """A service whose tasks end only when the test says so, at the cost that the test gives."""

    def __init__(self, **options):
        self.costs = {}
        self.service = MemoryService(duration=0.0, on_check=self._check, **options)

    def _check(self, task_id, _):
        document = completed(task_id) | {"usage": {"cost": self.costs.get(task_id)}}
        return says(document if task_id in self.costs else {"id": task_id, "status": "in_progress"})

    async def end(self, number, cost):
        """End a task at a cost. The first task has the number 1."""
        await until(lambda: len(self.service.ids) >= number)
        self.costs[f"task-{number}"] = cost


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


async def test_edits_that_were_admitted_at_a_lower_price_are_not_sent(out):
    prices = Prices()
    batch = EditBatch(REQUESTS, out, max_cost="1.00")
    async with MemorySession(prices.service, max_in_flight=2) as session:
        run = asyncio.create_task(batch.run(session))
        for number, cost in enumerate(["0.01", "0.60", "0.60"], 1):
            await prices.end(number, cost)
            await until(lambda number=number: batch.progress.saved == number)
        report = await run
    assert len(prices.service.submissions) == 3
    assert (report.cost, report.limit, report.failed) == (Decimal("1.21"), "max_cost", 0)
    assert Counter(states(out).values()) == {"saved": 3, "planned": 7}


async def test_edits_that_no_longer_fit_together_are_sent_one_after_the_other(out):
    prices, events = Prices(), []
    batch = EditBatch(REQUESTS, out, max_cost="1.00")
    async with MemorySession(prices.service, max_in_flight=2, on_event=events.append) as session:
        run = asyncio.create_task(batch.run(session))
        for number, cost in enumerate(["0.01", "0.40", "0.01", "0.40"], 1):
            await prices.end(number, cost)
            await until(lambda number=number: batch.progress.saved == number)
        report = await run
    assert (len(prices.service.submissions), report.cost, report.limit) == (4, Decimal("0.82"), "max_cost")
    assert Counter(states(out).values()) == {"saved": 4, "planned": 6}
    ended = Counter(event.request.key for event in events if isinstance(event, EditEnded))
    assert ended == {key: 1 for key, state in states(out).items() if state == "saved"}
    assert session.statistics().refused == 0


async def test_an_edit_that_the_service_refused_is_not_sent_again_at_a_price_that_does_not_fit(out):
    batch = EditBatch(REQUESTS[:2], out, max_cost="1.00", price="0.01")
    prices = Prices(on_submission=lambda number: NORMAL if number == 1 or batch.progress.cost else status(429))
    async with MemorySession(prices.service, max_in_flight=2) as session:
        run = asyncio.create_task(batch.run(session))
        await until(lambda: session.statistics().throttled == 1)
        await prices.end(1, "0.60")
        report = await run
    assert (len(prices.service.ids), report.cost, report.limit) == (1, Decimal("0.60"), "max_cost")
    assert states(out) == {"edit0": "saved", "edit1": "planned"}


async def test_a_hub_does_not_send_edits_that_were_admitted_at_a_lower_price(out):
    prices = Prices()
    async with (
        MemorySession(prices.service, max_in_flight=2) as session,
        EditHub(out, session, max_cost="1.00") as hub,
    ):
        first = asyncio.create_task(hub.edit(REQUESTS[0]))
        await prices.end(1, "0.01")
        assert (await first).ok
        edits = [asyncio.create_task(hub.edit(request)) for request in REQUESTS[1:]]
        await prices.end(3, "0.60")
        await until(lambda: hub.progress.saved == 2)
        await prices.end(2, "0.60")
        outcomes = await asyncio.gather(*edits)
    assert len(prices.service.submissions) == 3
    assert Counter(outcome.status for outcome in outcomes) == {"saved": 2, "planned": 7}
    assert {outcome.error for outcome in outcomes if not outcome.ok} == {hub.report.stopped}
    assert (hub.report.cost, "could exceed max_cost=1.00" in hub.report.stopped) == (Decimal("1.21"), True)


@pytest.mark.parametrize("delays", [[0.0, 0.0], [0.0, DEADLINE + 1.0]], ids=["known", "late"])
async def test_an_edit_that_is_requested_again_after_its_deadline_counts_once(out, delays):
    answers = [Answer(delay=delay) for delay in delays]
    prices = Prices(on_submission=lambda number: answers[number - 1] if number <= len(answers) else NORMAL)
    async with (
        MemorySession(prices.service, deadline=DEADLINE) as session,
        EditHub(out, session, max_cost="0.03") as hub,
    ):
        for number in (1, 3):
            prices.costs[f"task-{number}"] = "0.01"
        assert (await hub.edit(REQUESTS[0])).ok
        for _ in range(4):
            assert not (await hub.edit(REQUESTS[1])).ok
        assert (await hub.edit(REQUESTS[2])).ok
        prices.costs["task-2"] = "0.01"
        assert (await hub.edit(REQUESTS[1])).ok
    assert (hub.report.cost, hub.report.stopped, prices.service.ids) == (
        Decimal("0.03"),
        "",
        ["task-1", "task-2", "task-3"],
    )


async def test_edits_without_a_cost_count_against_the_limit_over_all_runs(out):
    prices = Prices()
    prices.costs = {f"task-{number}": "0.01" if number == 1 else "" for number in range(1, 11)}
    async with MemorySession(prices.service) as session:
        for limit, created in (("0.03", 3), ("0.05", 5)):
            report = await EditBatch(REQUESTS, out, max_cost=limit).run(session)
            assert len(prices.service.ids) == created
            assert (report.cost, report.unpriced, report.limit) == (Decimal("0.01"), created - 1, "max_cost")
