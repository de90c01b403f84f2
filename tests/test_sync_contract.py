"""The same calls with the same faults, by the async and by the synchronous session: the outcomes must be equal."""

from __future__ import annotations

import asyncio
import copy
import inspect
import re

import pytest
from bulk_runs import PHOTO

import qwen_edit_async as aio
from qwen_edit_async import sync
from qwen_edit_async.emulator import AfterChecks, EditEmulator, Fault, FaultPlan, FixedEngine

pytestmark = pytest.mark.may_block("the synchronous session blocks the thread that calls it")

FAULTS = {
    "none": [],
    "400": [Fault.status(400)],
    "401": [Fault.status(401)],
    "402": [Fault.status(402)],
    "403": [Fault.status(403)],
    "404": [Fault.status(404)],
    "500 without an id": [Fault.status(500).on("submit").nth(2)],
    "504 with an id": [Fault.status(504, accepted=True).on("submit")],
    "a proxy's page": [Fault.html_page().on("submit")],
    "a lost reply": [Fault.drop_reply().on("submit").nth(2)],
    "a broken reply": [Fault.truncated_json().on("submit").nth(1)],
    "a failed task": [Fault.failed_task().nth(1)],
    "a task that vanishes": [Fault.vanished_task(after_checks=1).nth(2)],
    "an unknown status": [Fault.status_word("dreaming").nth(1)],
    "an expired URL": [Fault.expired_url().nth(1)],
    "a broken download": [Fault.truncated_download()],
}


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("options", [{}, {"resubmit_uncertain": True, "max_retries": 1}], ids=["default", "resubmit"])
def test_both_sessions_end_in_the_same_way(faults, options):
    assert asyncio.run(outcomes(sync, faults, options)) == asyncio.run(outcomes(aio, faults, options))


async def outcomes(package, faults, options):
    """Return the ends of some calls, and what the session and the service counted."""
    plan = FaultPlan([copy.deepcopy(fault) for fault in faults])
    limits = {"polling": aio.FixedInterval(0.01), "max_in_flight": 1, "max_retries": 0, "deadline": 10} | options
    with EditEmulator(engine=FixedEngine(), duration=AfterChecks(2), faults=plan).in_thread() as emulator:
        session = package.EditSession(emulator.api_key, base_url=emulator.url, **limits)
        await value_of(session.open())
        first = await end_of(lambda: session.edit(PHOTO, "make it snow", n=2))
        ends = [
            first,
            await end_of(lambda: session.edit(PHOTO, "make it snow", n=9)),
            await end_of(lambda: session.status("unknown")),
            await end_of(lambda: first.images[0].read() if hasattr(first, "images") else None),
            *(outcome.error or outcome.result for outcome in await many(session)),
        ]
        counts, unfinished = session.statistics(), len(session.unfinished)
        await value_of(session.close() if package is sync else session.aclose())
        ends.append(await end_of(lambda: session.edit(PHOTO, "too late")))
        service = emulator.statistics()
    seen = (counts.submitted, counts.completed, counts.failed, counts.uncertain, counts.resubmitted, unfinished)
    return [described(end) for end in ends], seen, (service.tasks_created, service.submits)


async def many(session):
    stream = session.edit_many([{"image": PHOTO, "instruction": str(number)} for number in range(3)], ordered=True)
    return [outcome async for outcome in stream] if hasattr(stream, "__aiter__") else list(stream)


async def end_of(call):
    """Return the value of a call of either package, or its error."""
    try:
        return await value_of(call())
    except aio.QwenEditError as error:
        return error


async def value_of(value):
    return await value if inspect.isawaitable(value) else value


def described(end):
    """Describe a value or an error, without what differs by chance."""
    if isinstance(end, aio.QwenEditError):
        summary = re.sub(r"127.0.0.1:\d+", "the service", end.summary)
        return type(end), summary, end.task_id is not None, getattr(end, "status_code", None)
    if isinstance(end, bytes):
        return end[:4]
    return (len(end.images), end.usage) if hasattr(end, "images") else type(end)
