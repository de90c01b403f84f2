"""Results that come with the reply to a submission, after nobody awaits it any more. No other call can get them."""

from __future__ import annotations

import asyncio

import pytest
from bulk_runs import PHOTO, pictures, service, states, until

from qwen_edit_async import EditBatch, EditParameters, EditRequest
from qwen_edit_async.emulator import Fault

pytestmark = pytest.mark.anyio

REQUESTS = [EditRequest(PHOTO, f"snow {number}", EditParameters(n=2), key=f"edit{number}") for number in range(2)]


async def test_an_interrupted_run_journals_the_pictures_of_late_replies(tmp_path):
    async with service(Fault.slow(delay=0.2).on("submit"), protocol="dashscope") as (emulator, session):
        run = asyncio.create_task(EditBatch(REQUESTS, tmp_path).run(session))
        await until(lambda: emulator.statistics().tasks_created == 2)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert set(states(tmp_path).values()) == {"completed"}
        report = await EditBatch(REQUESTS, tmp_path).run(session)
        assert (report.saved, report.pictures, len(pictures(tmp_path))) == (2, 4, 4)
        assert emulator.statistics().submits == 2


async def test_a_reply_after_the_deadline_of_its_edit_is_journalled(tmp_path):
    async with service(Fault.slow(delay=0.2).on("submit"), protocol="dashscope") as (emulator, session):
        report = await EditBatch(REQUESTS, tmp_path, deadline=0.1).run(session)
        assert report.saved == 0
        report = await EditBatch(REQUESTS, tmp_path).run(session)
        assert (report.saved, emulator.statistics().submits) == (2, 2)
