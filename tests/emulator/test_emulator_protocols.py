"""The emulator's other protocols, called raw, by an independent client and by the vendor's SDK."""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import asynccontextmanager
from decimal import Decimal
from urllib.parse import parse_qs, urlsplit

import aiohttp
import dashscope
import pytest
from dashscope import MultiModalConversation
from emulator_calls import PHOTO_URI, SUBMIT, Caller, data_uri, decode, download, encode, flat_body, params_body
from PIL import Image
from queue_client import QueueClient, QueueError

from qwen_edit_async.emulator import AfterChecks, EditEmulator, Fault, FaultPlan, FixedEngine, PillowEngine

pytestmark = pytest.mark.anyio

QUEUE = "/model/v1/queue/qwen_image_edit_plus"
DASHSCOPE = "/api/v1/services/aigc/multimodal-generation/generation"
DASHSCOPE_KEY = "sk-emulated"


@asynccontextmanager
async def running(*faults, **settings):
    """Start an emulator that makes no pictures, and yield it with a caller that has its key."""
    defaults = {"engine": FixedEngine(), "duration": AfterChecks(1), "faults": FaultPlan(faults)}
    async with EditEmulator(**defaults | settings) as emulator:
        headers = {"Authorization": f"Bearer {emulator.api_key}"}
        async with aiohttp.ClientSession(emulator.url, headers=headers) as session:
            yield emulator, Caller(session)


@asynccontextmanager
async def queue(*faults, **settings):
    async with running(*faults, **settings) as (emulator, call):
        yield emulator, QueueClient(call.session, emulator.url)


def studio_body(*images, text="make it sepia", **parameters):
    return flat_body(*images, text=text, **parameters) | {"model": "qwen-image-edit-plus"}


# The model in a header.


async def test_the_header_envelope_takes_the_model_from_the_header_alone():
    async with running(envelope="header") as (emulator, call):
        body = flat_body()
        model = body.pop("model")
        status, reply = await call.post(body, headers={"X-Model": model})
        assert (status, emulator.tasks[reply["id"]].submission.envelope) == (200, "header")


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (flat_body(), "qwen_image_edit_plus"),
        (flat_body(), None),
        ({"input": flat_body()["input"]}, None),
        ({"input": flat_body()["input"]}, "another"),
        ({"input": params_body()["input"]}, "qwen_image_edit_plus"),
    ],
    ids=["twice", "in the body", "nowhere", "another", "params"],
)
async def test_the_header_envelope_refuses_anything_else(body, model):
    async with running(envelope="header") as (emulator, call):
        status, _ = await call.post(body, headers={} if model is None else {"X-Model": model})
        assert (status, len(emulator.tasks)) == (400, 0)


async def test_the_documented_envelope_needs_the_model_in_the_body():
    async with running() as (_, call):
        status, _ = await call.post({"input": flat_body()["input"]}, headers={"X-Model": "qwen_image_edit_plus"})
        assert status == 400


# The queue.


async def test_the_queue_s_client_edits_a_picture():
    photo = data_uri(encode(Image.new("RGB", (640, 640), "white")))
    async with queue(engine=PillowEngine(), duration=0.05) as (emulator, client):
        ticket = await client.submit("make it sepia", photo, n=2, size="512*768", seed=3)
        outputs = await client.wait(ticket)
        assert [(output["type"], output["content_type"]) for output in outputs] == [("image", "image/png")] * 2
        pictures = [decode((await download(output["url"]))[1]) for output in outputs]
        sizes = [(output["width"], output["height"]) for output in outputs]
        assert sizes == [picture.size for picture in pictures] == [(512, 768)] * 2
        record = emulator.tasks[ticket.request_id]
        assert (record.submission.envelope, record.submission.seed, record.seed) == ("plain", 3, 3)
        counts = emulator.statistics()
        assert (counts.submits, counts.results, counts.cancels, counts.keys_at_results) == (1, 1, 0, 0)


async def test_a_submission_to_the_queue_answers_the_id_and_where_to_ask():
    async with running() as (emulator, call):
        status, reply = await call.post({"prompt": "snow", "images": [PHOTO_URI]}, QUEUE)
        start = f"{emulator.url}{QUEUE}/requests/{reply['request_id']}"
        assert status == 200
        assert reply == {
            "request_id": reply["request_id"],
            "status_url": f"{start}/status",
            "response_url": f"{start}/response",
            "cancel_url": f"{start}/cancel",
            "queue_position": 0,
        }


async def test_the_words_of_the_queue():
    async with queue(slots=1, duration=AfterChecks(2)) as (_, client):
        first, second = [await client.submit("snow", PHOTO_URI) for _ in range(2)]
        words = [(await client.status(ticket))["status"] for ticket in (first, second, first, second, second)]
        assert words == ["IN_PROGRESS", "IN_QUEUE", "COMPLETED", "COMPLETED", "COMPLETED"]


async def test_there_is_no_response_while_a_request_runs():
    async with queue(duration=60) as (_, client):
        assert await client.response(await client.submit("snow", PHOTO_URI)) is None


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"images": [PHOTO_URI]}, "prompt"),
        ({"prompt": " ", "images": [PHOTO_URI]}, "prompt"),
        ({"prompt": "snow"}, "images"),
        ({"prompt": "snow", "images": PHOTO_URI}, "images"),
        ({"prompt": "snow", "images": []}, "1 to 3"),
        ({"prompt": "snow", "images": [PHOTO_URI] * 4}, "1 to 3"),
        ({"prompt": "snow", "images": [{"image": PHOTO_URI}]}, "image"),
        ({"prompt": "snow", "images": [PHOTO_URI], "n": 7}, "n must"),
        (flat_body(), "images"),
    ],
)
async def test_the_queue_refuses_what_breaks_its_rules(body, said):
    async with running() as (emulator, call):
        status, reply = await call.post(body, QUEUE)
        assert (status, reply["error"]["code"], len(emulator.tasks)) == (400, "REQUEST_INVALID", 0)
        assert said in reply["error"]["message"]


async def test_a_failed_request_of_the_queue_is_completed_with_an_error():
    async with queue(Fault.failed_task(110001, "refused")) as (_, client):
        ticket = await client.submit("snow", PHOTO_URI)
        with pytest.raises(QueueError, match="refused") as caught:
            await client.wait(ticket)
        assert caught.value.kind == "CONTENT_BLOCKED"
        response = await client.response(ticket)
        assert (response["outputs"], response["error_type"]) == ([], "CONTENT_BLOCKED")


@pytest.mark.parametrize(
    ("code", "shape", "error", "kind"),
    [
        ("INFERENCE_TIMEOUT", "string", "no", "INFERENCE_TIMEOUT"),
        ("E7", "object", {"code": "E7", "message": "no"}, "INFERENCE_FAILURE"),
        (190000, "contract", {"code": 190000, "message": "no"}, "REQUEST_INVALID"),
        (7, "contract", {"code": 7, "message": "no"}, "INFERENCE_FAILURE"),
    ],
)
async def test_the_error_of_a_request_has_its_kind(code, shape, error, kind):
    async with queue(Fault.failed_task(code, "no", shape=shape)) as (_, client):
        status = await client.status(await client.submit("snow", PHOTO_URI))
        assert (status["status"], status["error"], status["error_type"]) == ("COMPLETED", error, kind)


@pytest.mark.parametrize("slots", [1, 2])
async def test_a_cancelled_request_ends_costs_nothing_and_frees_its_slot(slots):
    async with queue(slots=slots, duration=60, balance=Decimal(1)) as (emulator, client):
        tickets = [await client.submit("snow", PHOTO_URI) for _ in range(3)]
        assert (await client.cancel(tickets[1]))["status"] == "CANCELED"  # with one slot it waits, with two it runs
        with pytest.raises(QueueError) as caught:
            await client.wait(tickets[1])
        assert caught.value.kind == "CANCELED"
        words = [(await client.status(ticket))["status"] for ticket in (tickets[0], tickets[2])]
        assert words == ["IN_PROGRESS", "IN_QUEUE" if slots == 1 else "IN_PROGRESS"]
        counts = emulator.statistics()
        assert (counts.tasks_cancelled, counts.tasks_failed, counts.unfinished, counts.cancels) == (1, 1, 2, 1)
        assert (counts.charges, counts.balance) == (0, Decimal(1) - 2 * emulator.price)


async def test_a_cancelled_request_stays_cancelled_after_its_time(leap):
    async with queue(duration=60) as (emulator, client):
        ticket = await client.submit("snow", PHOTO_URI)
        await client.cancel(ticket)
        leap(61)
        assert (await client.status(ticket))["error_type"] == "CANCELED"
        assert (emulator.statistics().tasks_completed, emulator.statistics().unfinished) == (0, 0)


async def test_a_completed_request_can_not_be_cancelled():
    async with queue() as (_, client):
        ticket = await client.submit("snow", PHOTO_URI)
        await client.wait(ticket)
        with pytest.raises(QueueError, match="is completed") as caught:
            await client.cancel(ticket)
        assert caught.value.kind == "409"


async def test_a_queue_that_can_not_cancel_lets_the_request_run_on():
    async with queue(cancellable=False) as (_, client):
        ticket = await client.submit("snow", PHOTO_URI)
        with pytest.raises(QueueError) as caught:
            await client.cancel(ticket)
        assert caught.value.kind == "405"
        assert len(await client.wait(ticket)) == 1


async def test_the_queue_s_errors_have_its_shapes():
    async with running(requests_per_second=1, retry_after=7) as (_, call):
        await call.post({"prompt": "snow", "images": [PHOTO_URI]}, QUEUE)
        async with call.session.get(f"{QUEUE}/requests/nobody/status") as response:
            reply = await response.json()
            assert (response.status, reply["error"]["code"], reply["request_id"]) == (
                429,
                "RATE_LIMIT_EXCEEDED",
                "report",
            )
            assert response.headers["Retry-After"] == "7"
    async with running(balance=Decimal(0)) as (_, call):
        status, reply = await call.post({"prompt": "snow", "images": [PHOTO_URI]}, QUEUE)
        assert (status, reply["error"]["code"]) == (402, 40201)
        async with call.session.get(f"{QUEUE}/requests/nobody/status", headers={"Authorization": "no"}) as response:
            assert (response.status, await response.json()) == (401, {"detail": "the API key is missing or invalid"})


@pytest.mark.parametrize("path", [f"{SUBMIT}/task/{{}}", f"{QUEUE}/requests/{{}}/status"])
async def test_a_protocol_does_not_know_the_tasks_of_another(path):
    async with running() as (_, call):
        ids = {
            SUBMIT: await call.submit(),
            QUEUE: (await call.post({"prompt": "snow", "images": [PHOTO_URI]}, QUEUE))[1]["request_id"],
        }
        for own, task_id in ids.items():
            async with call.session.get(path.format(task_id)) as response:
                assert response.status == (200 if path.startswith(f"{own}/") else 404)


@pytest.mark.parametrize("operation", ["submit", "check", "result", "cancel"])
async def test_faults_strike_each_call_of_the_queue(operation):
    async with running(Fault.status(503).on(operation).times(1)) as (emulator, call):
        statuses = {"submit": (await call.post({"prompt": "snow", "images": [PHOTO_URI]}, QUEUE))[0]}
        _, reply = await call.post({"prompt": "snow", "images": [PHOTO_URI]}, QUEUE)
        path = f"{QUEUE}/requests/{reply['request_id']}"
        for name, method, ending in (
            ("check", "GET", "status"),
            ("result", "GET", "response"),
            ("cancel", "PUT", "cancel"),
        ):
            async with call.session.request(method, f"{path}/{ending}") as response:
                statuses[name] = response.status
        expected = {"submit": 200, "check": 200, "result": 202 if operation == "check" else 200, "cancel": 409}
        if operation == "check":  # the check that would have ended the request did not arrive
            expected["cancel"] = 200
        assert statuses == expected | {operation: 503}
        counts = emulator.statistics()
        assert (counts.submits, counts.checks, counts.results, counts.cancels) == (2, 1, 1, 1)


# Alibaba Model Studio.


async def test_model_studio_answers_with_the_pictures():
    async with running(duration=0.05) as (emulator, call):
        status, reply = await call.post(studio_body(n=2), DASHSCOPE)
        assert status == 200
        assert set(reply) == {"output", "usage", "request_id"}
        [choice] = reply["output"]["choices"]
        urls = [item["image"] for item in choice["message"]["content"]]
        assert [(await download(url))[0] for url in urls] == [200, 200]
        assert reply["usage"] == {"image_count": 2, "width": 16, "height": 16}
        record = emulator.tasks[reply["request_id"]]
        assert (record.status, record.checks, emulator.statistics().checks) == ("completed", 0, 0)
        assert record.finished_at - record.started_at == pytest.approx(0.05)


async def test_the_urls_of_model_studio_say_when_they_expire():
    async with running(result_lifetime=3600) as (_, call):
        _, reply = await call.post(studio_body(), DASHSCOPE)
        url = reply["output"]["choices"][0]["message"]["content"][0]["image"]
        [expires] = parse_qs(urlsplit(url).query)["Expires"]
        assert 3500 < int(expires) - time.time() < 3700


async def test_edits_of_model_studio_wait_for_a_slot():
    async with running(slots=1, duration=0.05) as (emulator, call):
        replies = await asyncio.gather(*(call.post(studio_body(), DASHSCOPE) for _ in range(4)))
        assert [status for status, _ in replies] == [200] * 4
        ends = sorted((record.started_at, record.finished_at) for record in emulator.tasks.values())
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ends))


async def test_model_studio_refuses_more_than_an_account_s_concurrency():
    async with running(slots=1, queue=False, duration=0.2) as (_, call):
        replies = await asyncio.gather(*(call.post(studio_body(), DASHSCOPE) for _ in range(3)))
        assert sorted(status for status, _ in replies) == [200, 429, 429]
        refusals = [reply for status, reply in replies if status == 429]
        assert {reply["code"] for reply in refusals} == {"Throttling.RateQuota"}
        assert set(refusals[0]) == {"code", "message", "request_id"}


@pytest.mark.parametrize(
    ("body", "headers", "settings", "status", "code"),
    [
        (flat_body(), {}, {}, 400, "InvalidParameter"),
        (studio_body(n=7), {}, {}, 400, "InvalidParameter"),
        (studio_body(), {"Authorization": "Bearer no"}, {}, 401, "InvalidApiKey"),
        (studio_body(), {}, {"balance": Decimal(0)}, 400, "Arrearage"),
    ],
)
async def test_model_studio_refuses_with_its_codes(body, headers, settings, status, code):
    async with running(**settings) as (emulator, call):
        answered, reply = await call.post(body, DASHSCOPE, headers=headers)
        assert (answered, reply["code"], len(emulator.tasks)) == (status, code, 0)


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (110001, 400, "DataInspectionFailed"),
        (190000, 400, "InvalidParameter"),
        ("InternalError.Algo", 500, "InternalError.Algo"),
        (7, 400, "7"),
    ],
)
async def test_a_failed_edit_of_model_studio_is_an_error_and_not_billed(failure, status, code):
    async with running(Fault.failed_task(failure, "no")) as (emulator, call):
        answered, reply = await call.post(studio_body(), DASHSCOPE)
        assert (answered, reply["code"], reply["message"]) == (status, code, "no")
        assert (list(emulator.tasks), emulator.statistics().charges) == ([reply["request_id"]], 0)


async def test_an_error_of_model_studio_can_come_inside_of_a_success():
    fault = Fault.status(200, code="Throttling.RateQuota", message="slow down", shape="dashscope")
    async with running(fault.times(1)) as (_, call):
        status, reply = await call.post(studio_body(), DASHSCOPE)
        assert (status, reply) == (
            200,
            {"code": "Throttling.RateQuota", "message": "slow down", "request_id": "report"},
        )
        assert (await call.post(studio_body(), DASHSCOPE))[0] == 200


async def test_an_edit_of_model_studio_whose_reply_is_lost_is_billed():
    async with running(Fault.drop_reply()) as (emulator, call):
        with pytest.raises(aiohttp.ClientError):
            await call.post(studio_body(), DASHSCOPE)
        assert emulator.statistics().charges == emulator.price


async def test_an_edit_of_model_studio_that_never_ends_gives_way_to_the_emulator_s_end():
    created = asyncio.Event()

    def endless(_):
        created.set()
        return 0.0

    async with running(Fault.stuck_task(), duration=endless) as (_, call):
        pending = asyncio.create_task(call.post(studio_body(), DASHSCOPE))
        await created.wait()
    with pytest.raises(aiohttp.ClientError):
        await pending


@pytest.fixture
def model_studio(monkeypatch):
    """Start an emulator, and make the vendor's SDK use it."""
    with EditEmulator(engine=PillowEngine(), duration=0.05, api_key=DASHSCOPE_KEY).in_thread() as emulator:
        monkeypatch.setattr(dashscope, "base_http_api_url", f"{emulator.url}/api/v1")
        yield emulator


class AnHour:
    """An hour's duration. It stores the emulator's loop. Debug mode makes the loop refuse calls from other threads."""

    def __call__(self, _):
        self.loop = asyncio.get_running_loop()
        self.loop.set_debug(True)
        return 3600.0


@pytest.mark.qwen_edit_emulator(engine=FixedEngine(), duration=AnHour())
async def test_an_edit_that_statistics_end_in_another_thread_is_answered_at_once(qwen_edit_emulator, leap):
    headers = {"Authorization": f"Bearer {qwen_edit_emulator.api_key}"}
    async with aiohttp.ClientSession(qwen_edit_emulator.url, headers=headers) as session:
        pending = asyncio.create_task(Caller(session).post(studio_body(), DASHSCOPE))
        while not any(record.on_change and record.picture_ready for record in qwen_edit_emulator.tasks.values()):  # noqa: ASYNC110  # the emulator runs in another thread
            await asyncio.sleep(0)
        step = asyncio.run_coroutine_threadsafe(asyncio.sleep(0), qwen_edit_emulator.duration.loop)
        await asyncio.wrap_future(step)  # the edit was about to wait; now it waits
        leap(3600)
        assert qwen_edit_emulator.statistics().tasks_completed == 1
        assert (await pending)[0] == 200


def call_sdk(text="make it sepia", api_key=DASHSCOPE_KEY, **parameters):
    photo = data_uri(encode(Image.new("RGB", (640, 640), "white")))
    messages = [{"role": "user", "content": [{"image": photo}, {"text": text}]}]
    return MultiModalConversation.call(
        model="qwen-image-edit-plus", messages=messages, api_key=api_key, stream=False, **parameters
    )


def test_the_vendor_s_sdk_edits_a_picture(model_studio):
    response = call_sdk(n=2, size="512*768", watermark=False, prompt_extend=True, negative_prompt="dull", seed=5)
    assert (response.status_code, response.code) == (200, "")
    contents = [content["image"] for content in response.output.choices[0].message.content]
    pictures = [decode(asyncio.run(download(url))[1]) for url in contents]
    assert [picture.size for picture in pictures] == [(512, 768)] * 2
    submission = model_studio.tasks[response.request_id].submission
    assert (submission.n, submission.size, submission.negative_prompt, submission.seed) == (2, (512, 768), "dull", 5)


def test_the_vendor_s_sdk_sees_the_vendor_s_errors(model_studio):
    assert (call_sdk(n=7).status_code, call_sdk(n=7).code) == (400, "InvalidParameter")
    refused = call_sdk(api_key="sk-wrong")
    assert (refused.status_code, refused.code) == (401, "InvalidApiKey")
    model_studio.inject(Fault.failed_task(110001, "inappropriate").times(1))
    blocked = call_sdk()
    assert (blocked.status_code, blocked.code, blocked.message) == (400, "DataInspectionFailed", "inappropriate")
    assert call_sdk().status_code == 200
