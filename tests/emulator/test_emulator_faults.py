from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager

import aiohttp
import anyio
import pytest
from emulator_calls import SUBMIT, Caller, download, flat_body
from hypothesis import given
from hypothesis import strategies as st

from qwen_edit_async.emulator import AfterChecks, EditEmulator, Fault, FaultPlan, FixedEngine
from qwen_edit_async.emulator.faults import FaultRun

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def failing(*faults, **settings):
    """Start an emulator with faults, and yield it with a caller that has its key."""
    settings = {"engine": FixedEngine(), "duration": AfterChecks(1), **settings}
    async with EditEmulator(faults=FaultPlan(faults), **settings) as emulator:
        headers = {"Authorization": f"Bearer {emulator.api_key}"}
        async with aiohttp.ClientSession(emulator.url, headers=headers) as session:
            yield emulator, Caller(session)


async def raw_check(call, task_id):
    async with call.session.get(f"{SUBMIT}/task/{task_id}") as response:
        return response.status, response.content_type, await response.text()


def fired(plan, operations):
    """Return the indexes of the requests that meet a fault."""
    run = FaultRun(plan)
    return [index for index, operation in enumerate(operations) if run.on_request(operation, 1, None)]


# When a fault happens.


@pytest.mark.parametrize(
    ("fault", "hits"),
    [
        (Fault.status(503), [0, 1, 2, 3, 4, 5]),
        (Fault.status(503).on("submit"), [0, 3]),
        (Fault.status(503).on("submit", "download"), [0, 2, 3, 5]),
        (Fault.status(503).times(2), [0, 1]),
        (Fault.status(503).nth(1, 4), [0, 3]),
        (Fault.status(503).on("check").nth(2), [4]),
        (Fault.status(503).on("check").with_probability(0), []),
        (Fault.status(503).on("check").with_probability(1), [1, 4]),
        (Fault.truncated_json(), [0, 1, 3, 4]),
        (Fault.status_word("x"), [1, 4]),
        (Fault.truncated_download(), [2, 5]),
        (Fault.expired_url(), [2, 5]),
        (Fault.wrong_download(), [2, 5]),
        (Fault.stuck_task(), []),
    ],
)
def test_a_fault_happens_when_its_plan_says(fault, hits):
    assert fired(FaultPlan([fault]), ["submit", "check", "download"] * 2) == hits


@given(st.integers(0, 2**32), st.floats(0.1, 0.9))
def test_a_seed_replays_the_same_faults(seed, probability):
    plan = FaultPlan([Fault.status(500).with_probability(probability)], seed=seed)
    assert fired(plan, ["check"] * 200) == fired(plan, ["check"] * 200)


def test_another_seed_gives_other_faults():
    fault = Fault.status(500).with_probability(0.5)
    assert fired(FaultPlan([fault], seed=1), ["check"] * 200) != fired(FaultPlan([fault], seed=2), ["check"] * 200)


def test_a_probability_gives_about_that_share():
    assert len(fired(FaultPlan([Fault.status(500).with_probability(0.3)]), ["check"] * 2000)) == pytest.approx(
        600, rel=0.1
    )


def test_the_first_fault_that_applies_wins_and_the_others_keep_counting():
    run = FaultRun(FaultPlan([Fault.status(500).nth(1), Fault.status(503).nth(2)]))
    actions = [run.on_request("check", 1, None) for _ in range(3)]
    assert [action and action.reply.status for action in actions] == [500, 503, None]


def test_narrowing_returns_a_new_fault():
    fault = Fault.status(503)
    assert fault.on("check") is not fault
    assert fired(FaultPlan([fault]), ["submit"]) == [0]


def test_a_fault_about_a_task_cannot_be_limited_to_requests():
    with pytest.raises(ValueError, match="task"):
        Fault.stuck_task().on("submit")


async def test_a_fault_can_be_limited_to_some_tasks():
    faults = [
        Fault.status(500).on("check").for_task(2),
        Fault.status(502).on("check").when(lambda task: "cat" in task.submission.instruction),
        Fault.status(504).on("submit").for_task(4),
        Fault.status(599).on("submit").when(lambda _: True),
    ]
    async with failing(*faults) as (_, call):
        ids = [await call.submit(flat_body(text=text)) for text in ("dog", "cow", "cat")]
        assert [(await call.check(task_id))[0] for task_id in ids] == [200, 500, 502]
        assert (await call.post(flat_body()))[0] == 504


async def test_a_fault_can_name_a_task_by_its_id_while_the_emulator_runs():
    async with failing() as (emulator, call):
        ids = [await call.submit() for _ in range(2)]
        emulator.inject(Fault.status(500).for_task(ids[1]))
        assert [(await call.check(task_id))[0] for task_id in ids] == [200, 500]


# What happens to a request.


@pytest.mark.parametrize("operation", ["submit", "check", "download"])
async def test_a_status_answers_each_operation(operation):
    async with failing() as (emulator, call):
        task_id = await call.submit()
        [url] = await call.urls(task_id)
        emulator.inject(Fault.status(503, retry_after=1.5).on(operation).times(1))
        requests = {
            "submit": lambda: call.post(flat_body()),
            "check": lambda: call.check(task_id),
            "download": lambda: download(url),
        }
        assert [(await requests[operation]())[0] for _ in range(2)] == [503, 200]


@pytest.mark.parametrize(
    ("given", "sent"),
    [(None, None), (2, "2"), (0.25, "0.25"), ("Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:28:00 GMT")],
)
async def test_a_status_carries_its_retry_after(given, sent):
    async with failing(Fault.status(429, retry_after=given)) as (emulator, call):
        async with call.session.post(SUBMIT, json=flat_body()) as response:
            assert response.headers.get("Retry-After") == sent
        assert emulator.statistics().refused == 1


@pytest.mark.parametrize(
    ("shape", "body"),
    [
        ("contract", {"error": {"code": 1002, "error_message": "m"}}),
        ("object", {"error": {"code": "1002", "message": "m"}}),
        ("string", {"error": "m"}),
        ("message", {"message": "m"}),
        ("detail", {"detail": "m"}),
        ("status", {"status": {"code": 1002, "message": "m"}, "data": None}),
    ],
)
async def test_an_error_comes_in_every_known_shape(shape, body):
    async with failing(Fault.status(500, code=1002, message="m", shape=shape)) as (_, call):
        assert await call.post(flat_body()) == (500, body)


async def test_an_error_can_be_a_proxys_page_or_empty():
    async with failing(Fault.html_page()) as (_, call):
        status, content_type, text = await raw_check(call, "x")
        assert (status, content_type) == (502, "text/html")
        assert "<h1>502 Bad Gateway</h1>" in text
    async with failing(Fault.status(500, shape="empty")) as (_, call):
        assert (await raw_check(call, "x"))[2] == ""


async def test_a_refused_submission_creates_no_task_unless_it_was_accepted():
    async with failing(Fault.status(500).nth(1), Fault.status(402, code=40201, accepted=True).nth(2)) as (
        emulator,
        call,
    ):
        assert (await call.post(flat_body()))[0] == 500
        assert not emulator.tasks
        status, reply = await call.post(flat_body())
        assert (status, reply["error"]["code"], len(emulator.tasks)) == (402, 40201, 1)


async def test_a_dropped_reply_leaves_a_task_and_a_dropped_request_none():
    async with failing(Fault.drop_reply().nth(1), Fault.drop_request().nth(2)) as (emulator, call):
        for tasks in (1, 1):
            with pytest.raises(aiohttp.ClientConnectionError):
                await call.post(flat_body())
            assert len(emulator.tasks) == tasks
        await call.submit()


async def test_a_request_can_be_dropped_with_its_body_unread():
    body = flat_body("data:image/png;base64," + "A" * 8_000_000)
    async with failing(Fault.drop_request(read_body=False)) as (emulator, call):
        with pytest.raises((aiohttp.ClientConnectionError, ConnectionError)):
            await call.post(body)
        assert not emulator.tasks


@pytest.mark.parametrize("accepted", [True, False])
async def test_a_hanging_request_is_never_answered(accepted):
    async with failing(Fault.hang(accepted=accepted)) as (emulator, call):
        with pytest.raises(TimeoutError):
            await call.post(flat_body(), timeout=aiohttp.ClientTimeout(total=0.2))
        assert len(emulator.tasks) == int(accepted)


async def test_a_redirect_leads_to_the_results_origin_by_default():
    async with failing(Fault.redirect().nth(1), Fault.redirect("http://127.0.0.1:9/x", status=302)) as (emulator, call):
        seen = []
        for _ in range(2):
            async with call.session.post(SUBMIT, json=flat_body(), allow_redirects=False) as response:
                seen.append((response.status, response.headers["Location"]))
        assert seen == [(307, emulator.results_url), (302, "http://127.0.0.1:9/x")]
        assert (emulator.statistics().redirects, len(emulator.tasks)) == (2, 0)


async def test_a_reply_can_be_late():
    async with failing(Fault.slow(delay=0.1)) as (_, call):
        with anyio.fail_after(5):
            start = anyio.current_time()
            await call.submit()
            assert anyio.current_time() - start >= 0.09


async def test_a_reply_can_come_at_a_limited_speed():
    async with failing(Fault.slow(bytes_per_second=1000).on("submit")) as (_, call):
        start = anyio.current_time()
        assert (await call.post(flat_body()))[0] == 200
        assert anyio.current_time() - start >= 0.08  # the reply has about 110 bytes


# What happens to a JSON reply.


async def test_json_can_be_truncated():
    async with failing(Fault.truncated_json().on("check")) as (_, call):
        status, content_type, text = await raw_check(call, await call.submit())
        assert (status, content_type, text[0]) == (200, "application/json", "{")
        assert not text.endswith("}")


async def test_json_can_be_malformed():
    async with failing(Fault.malformed_json().on("check")) as (_, call):
        with pytest.raises(ValueError, match="Expecting"):
            await call.check(await call.submit())


async def test_the_content_type_can_be_wrong():
    async with failing(Fault.content_type("text/plain").on("check")) as (_, call):
        status, content_type, text = await raw_check(call, await call.submit())
        assert (status, content_type, "completed" in text) == (200, "text/plain", True)


@pytest.mark.parametrize(("word", "sent"), [("dreaming", "dreaming"), (str.upper, "COMPLETED")])
async def test_the_status_word_can_be_changed(word, sent):
    async with failing(Fault.status_word(word)) as (_, call):
        assert (await call.check(await call.submit()))[1]["status"] == sent


async def test_a_reply_can_take_any_other_shape():
    fault = Fault.reshape(lambda reply: {"task_id": reply.pop("id"), **reply}).on("submit")
    async with failing(fault) as (emulator, call):
        _, reply = await call.post(flat_body())
        assert reply["task_id"] in emulator.tasks


async def test_errors_are_not_reshaped():
    async with failing(Fault.reshape(lambda _: {})) as (_, call):
        assert "error" in (await call.post({}))[1]


# What happens to a task.


async def test_a_vanished_task_is_answered_404_after_the_given_checks():
    async with failing(Fault.vanished_task(after_checks=2), duration=60) as (_, call):
        task_id = await call.submit()
        assert [(await call.check(task_id))[0] for _ in range(3)] == [200, 200, 404]


async def test_a_stuck_task_stays_in_progress():
    async with failing(Fault.stuck_task().nth(1)) as (_, call):
        ids = [await call.submit() for _ in range(2)]
        assert [(await call.check(task_id))[1]["status"] for task_id in ids] == ["in_progress", "completed"]


async def test_a_stuck_task_stays_stuck_when_its_picture_is_late():
    rendered = threading.Event()

    class SlowEngine(FixedEngine):
        reads_images = True

        def render(self, job):
            rendered.set()
            return super().render(job)

    async with failing(Fault.stuck_task(), engine=SlowEngine(), duration=0.0) as (_, call):
        task_id = await call.submit()
        await asyncio.to_thread(rendered.wait, 10)
        for _ in range(5):
            assert (await call.check(task_id))[1]["status"] == "in_progress"


@pytest.mark.parametrize(
    ("shape", "error"),
    [
        ("contract", {"code": 7, "error_message": "m"}),
        ("object", {"code": "7", "message": "m"}),
        ("string", "m"),
    ],
)
async def test_a_failed_task_has_an_error_of_each_known_shape(shape, error):
    async with failing(Fault.failed_task(7, "m", shape=shape)) as (_, call):
        _, reply = await call.check(await call.submit())
        assert (reply["status"], reply["error"]) == ("failed", error)


# What happens to a download.


async def test_an_expired_url_is_answered_403():
    async with failing(Fault.expired_url().times(1)) as (_, call):
        [url] = await call.urls(await call.submit())
        assert [(await download(url))[0] for _ in range(2)] == [403, 200]


async def test_a_truncated_download_announces_more_than_it_sends():
    async with failing(Fault.truncated_download(0.5)) as (_, call):
        [url] = await call.urls(await call.submit())
        with pytest.raises(aiohttp.ClientPayloadError):
            await download(url)


@pytest.mark.parametrize("body", [b"<html>not a picture</html>", b"\xff\xd8\xff\xe0 a JPEG"])
async def test_a_wrong_download_is_answered_200(body):
    async with failing(Fault.wrong_download(body)) as (_, call):
        [url] = await call.urls(await call.submit())
        assert await download(url) == (200, body)
