from __future__ import annotations

import asyncio
import gc
import io
import json
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import asynccontextmanager
from decimal import Decimal
from email.utils import parsedate_to_datetime
from urllib.parse import parse_qs, urlsplit

import aiohttp
import anyio
import anyio.lowlevel
import pytest
from aiohttp import web
from blockbuster import blockbuster_ctx
from emulator_calls import PHOTO, SUBMIT, Caller, data_uri, decode, download, encode, flat_body, params_body
from PIL import Image

from qwen_edit_async.emulator import AfterChecks, EditEmulator, Fault, FaultPlan, FixedEngine, PillowEngine

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def running(**settings):
    """Start an emulator that makes no pictures, and yield it with a caller that has its key."""
    defaults = {"engine": FixedEngine(), "duration": AfterChecks(1)}
    async with EditEmulator(**defaults | settings) as emulator:
        headers = {"Authorization": f"Bearer {emulator.api_key}"}
        async with aiohttp.ClientSession(emulator.url, headers=headers) as session:
            yield emulator, Caller(session)


# Submission and status, as the contract describes them.


async def test_a_creation_answers_id_status_model_and_time():
    async with running() as (emulator, call):
        status, reply = await call.post(flat_body())
        assert status == 200
        assert set(reply) == {"id", "status", "model", "created_at"}
        assert reply["id"] in emulator.tasks
        assert (reply["status"], reply["model"]) == ("in_progress", "qwen_image_edit_plus")
        assert isinstance(reply["created_at"], int)


async def test_a_running_task_reports_progress_and_no_result():
    async with running(duration=AfterChecks(4)) as (_, call):
        task_id = await call.submit()
        replies = [(await call.check(task_id))[1] for _ in range(4)]
        assert [reply.get("progress") for reply in replies] == [0.25, 0.5, 0.75, None]
        assert set(replies[0]) == {"id", "status", "model", "created_at", "progress"}
        assert replies[3]["status"] == "completed"


async def test_a_completed_task_has_n_pictures_and_its_usage():
    async with running(price=Decimal("0.0065")) as (_, call):
        task_id = await call.submit(flat_body(n=2))
        _, reply = await call.check(task_id)
        [entry] = reply["output"]
        assert [item["type"] for item in entry["content"]] == ["image", "image"]
        assert reply["usage"] == {"cost": "0.0130", "quantity": 2, "unit_price": "0.0065", "discount": 1}
        assert "error" not in reply


async def test_a_failed_task_has_its_error_and_no_output():
    async with running(faults=FaultPlan([Fault.failed_task(110001, "no")])) as (_, call):
        _, reply = await call.check(await call.submit())
        assert reply["status"] == "failed"
        assert reply["error"] == {"code": 110001, "error_message": "no"}
        assert not {"output", "usage"} & set(reply)


@pytest.mark.parametrize("envelope", ["flat", "params"])
async def test_the_other_envelope_is_answered_400(envelope):
    bodies = {"flat": flat_body(), "params": params_body()}
    async with running(envelope=envelope) as (emulator, call):
        for name, body in bodies.items():
            assert (await call.post(body))[0] == (200 if name == envelope else 400)
        [task] = emulator.tasks.values()
        assert task.submission.envelope == envelope


@pytest.mark.parametrize("raw", [b"", b"{", b'{"model": NaN}', b"\xff\xfe", b"[" * 100_000])
async def test_a_body_that_is_not_json_is_answered_400(raw):
    async with running() as (_, call), call.session.post(SUBMIT, data=raw) as response:
        assert response.status == 400
        assert (await response.json())["error"]["code"] == 400


async def test_a_broken_rule_is_answered_in_the_documented_shape():
    async with running() as (emulator, call):
        status, reply = await call.post(flat_body(n=7))
        assert status == 400
        assert set(reply["error"]) == {"code", "error_message"}
        assert "n must be" in reply["error"]["error_message"]
        assert not emulator.tasks


async def test_large_bodies_are_accepted_up_to_three_images_of_ten_megabytes():
    image = data_uri(PHOTO.ljust(10 * 1024 * 1024, b"\0"))
    async with running() as (emulator, call):
        task_id = await call.submit(flat_body(image, image, image))
        assert [image.size_bytes for image in emulator.tasks[task_id].submission.images] == [10 * 1024 * 1024] * 3


async def test_an_oversized_body_is_refused():
    async with running() as (_, call), call.session.post(SUBMIT, data=io.BytesIO(b" " * 50_000_000)) as response:
        assert response.status == 413


async def test_an_unknown_task_is_answered_404():
    async with running() as (_, call):
        assert (await call.check("nobody"))[0] == 404


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic x"}])
async def test_a_wrong_or_missing_key_is_answered_401(headers):
    async with running() as (emulator, call):
        task_id = await call.submit()
        async with aiohttp.ClientSession(emulator.url, headers=headers) as session:
            stranger = Caller(session)
            assert (await stranger.post(flat_body()))[0] == 401
            assert (await stranger.check(task_id))[0] == 401
            assert (await stranger.post(flat_body(), f"{SUBMIT}/precharge"))[0] == 401
        assert len(emulator.tasks) == 1


async def test_a_cost_estimate_creates_nothing():
    async with running(price=Decimal("0.0357")) as (emulator, call):
        status, reply = await call.post(flat_body(n=2), f"{SUBMIT}/precharge")
        assert (status, reply) == (200, {"status": "success", "data": {"cost": "0.0714", "currency": "USD"}})
        status, reply = await call.post(flat_body(n=0), f"{SUBMIT}/precharge")
        assert (status, reply["status"], reply["data"]["cost"]) == (200, "failed", None)
        assert "n must be" in reply["data"]["reason"]
        assert (emulator.statistics().precharges, len(emulator.tasks)) == (2, 0)


async def test_a_fault_applies_to_a_cost_estimate_too():
    async with running(faults=FaultPlan([Fault.status(503).on("precharge").nth(2)])) as (_, call):
        answers = [await call.post(flat_body(), f"{SUBMIT}/precharge") for _ in range(3)]
        assert [status for status, _ in answers] == [200, 503, 200]


async def describe(call, model="qwen_image_edit_plus"):
    async with call.session.get(f"/api/v1/skill/model-contracts/{model}") as response:
        return response.status, await response.json()


@pytest.mark.parametrize(
    ("settings", "protocol", "body_mode", "endpoints"),
    [
        ({"model_contract": "generation", "envelope": "params"}, "generation", "params", {"submit", "status"}),
        ({"model_contract": "queue"}, "queue", "plain", {"submit", "status", "response", "cancel"}),
    ],
)
async def test_the_gateway_describes_its_model(settings, protocol, body_mode, endpoints):
    async with running(**settings) as (emulator, call):
        status, reply = await describe(call)
        assert (status, reply["protocol"], reply["body_mode"]) == (200, protocol, body_mode)
        assert set(reply["endpoints"]) == endpoints
        assert all(path.startswith("/model/v1/") for path in reply["endpoints"].values())
        assert reply["input_schema"]["required"]
        assert (await describe(call, "another"))[0] == 404
        async with aiohttp.ClientSession(emulator.url) as session:
            assert (await describe(Caller(session)))[0] == 401


async def test_the_emulator_describes_all_the_protocols_of_the_gateway():
    async with running() as (_, call):
        _, reply = await describe(call)
        assert reply["protocol"] == "generation"
        submissions = {protocol: calls["submit"] for protocol, calls in reply["endpoints"].items()}
        assert submissions == {"generation": SUBMIT, "queue": "/model/v1/queue/qwen_image_edit_plus"}


async def test_a_gateway_may_describe_no_model():
    async with running(model_contract=None) as (_, call):
        assert (await describe(call))[0] == 404


# Pictures.


async def test_a_picture_has_the_rounded_size_and_is_a_png():
    async with running(engine=PillowEngine()) as (emulator, call):
        task_id = await call.submit(flat_body(size="1033*1032", n=2))
        pictures = await call.pictures(task_id)
        assert [(picture.format, picture.size) for picture in pictures] == [("PNG", (1040, 1024))] * 2
        assert emulator.tasks[task_id].image_sizes == ((96, 64),)


async def test_a_picture_without_a_size_follows_the_last_image():
    tall = data_uri(encode(Image.new("RGB", (100, 400))))
    wide = data_uri(encode(Image.new("RGB", (400, 100))))
    async with running(engine=PillowEngine()) as (_, call):
        [picture] = await call.pictures(await call.submit(flat_body(tall, wide)))
        assert picture.size == (2048, 512)


async def test_a_task_with_a_duration_ends_on_the_clock():
    async with running(engine=PillowEngine(), duration=0.05) as (emulator, call):
        task_id = await call.submit()
        with anyio.fail_after(10):
            while (await call.check(task_id))[1]["status"] == "in_progress":
                pass
        task = emulator.tasks[task_id]
        assert task.finished_at >= task.created_at + 0.05
        [lag] = emulator.statistics().lags
        assert lag >= 0


async def test_an_undecodable_image_fails_its_task():
    async with running(engine=PillowEngine()) as (_, call):
        _, reply = await call.check(await call.submit(flat_body(data_uri(PHOTO[:60]))))
        assert (reply["status"], reply["error"]["code"]) == ("failed", 190000)


async def test_an_engine_that_raises_fails_its_task_only():
    class Broken:
        reads_images = True

        def render(self, job):
            raise ZeroDivisionError(job.instruction)

    async with running(engine=Broken()) as (_, call):
        _, reply = await call.check(await call.submit())
        assert reply["status"] == "failed"
        assert "ZeroDivisionError" in reply["error"]["error_message"]


async def test_a_custom_engine_gets_the_whole_job():
    jobs = []

    class Own:
        reads_images = True

        def render(self, job):
            jobs.append((threading.current_thread(), job))
            return [PHOTO] * job.n

    async with running(engine=Own()) as (_, call):
        task_id = await call.submit(flat_body(seed=5, n=2, size="512*768", negative_prompt="dull", text="do it"))
        assert (await download((await call.urls(task_id))[1])) == (200, PHOTO)
    [(thread, job)] = jobs
    assert thread is not threading.current_thread()
    assert (job.images, job.instruction, job.negative_prompt) == ((PHOTO,), "do it", "dull")
    assert (job.n, job.size, job.seed) == (2, (512, 768), 5)


@asynccontextmanager
async def image_host(handler):
    application = web.Application()
    application.router.add_get("/image.png", handler)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{site.port}/image.png"
    await runner.cleanup()


async def test_an_image_url_on_loopback_is_fetched():
    async def serve(_):
        return web.Response(body=PHOTO)

    async with image_host(serve) as url, running(engine=PillowEngine()) as (_, call):
        assert await call.pictures(await call.submit(flat_body(url)))


@pytest.mark.parametrize(
    "response",
    [
        lambda: web.Response(status=500),
        lambda: web.Response(body=b"text"),
        lambda: web.Response(body=bytes(10 * 1024 * 1024 + 1)),
        lambda: web.Response(status=302, headers={"Location": "/image.png"}),
    ],
    ids=["error", "no image", "too large", "redirect"],
)
async def test_an_image_url_without_an_image_fails_the_task(response):
    async def serve(_):
        return response()

    async with image_host(serve) as url, running(engine=PillowEngine()) as (_, call):
        _, reply = await call.check(await call.submit(flat_body(url)))
        assert (reply["status"], reply["error"]["code"]) == ("failed", 190000)


@pytest.mark.parametrize(
    "url", ["http://example.com/a.png", "http://192.0.2.1/a.png", "http://[::1/a.png", "http:///a"]
)
async def test_an_image_url_elsewhere_is_never_fetched(url):
    async with running(engine=PillowEngine()) as (_, call):
        _, reply = await call.check(await call.submit(flat_body(url)))
        assert reply["error"]["code"] == 190000


async def test_an_image_url_that_nobody_serves_fails_the_task():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with running(engine=PillowEngine()) as (_, call):
            url = f"http://127.0.0.1:{taken.getsockname()[1]}/a.png"
            _, reply = await call.check(await call.submit(flat_body(url)))
            assert reply["error"]["code"] == 190000


# The results origin.


async def test_results_lie_on_another_origin_and_need_no_key():
    async with running() as (emulator, call):
        [url] = await call.urls(await call.submit())
        assert url.startswith(emulator.results_url)
        assert emulator.results_url != emulator.url
        status, data = await download(url)
        assert (status, decode(data).format) == (200, "PNG")
        assert emulator.statistics().keys_at_results == 0


@pytest.mark.parametrize("path", ["", "/elsewhere"])
async def test_a_key_that_reaches_the_results_origin_is_counted(path):
    async with running() as (emulator, call):
        [url] = await call.urls(await call.submit())
        target = emulator.results_url + path if path else url
        async with call.session.get(target) as response:
            assert response.status == (404 if path else 200)
        assert emulator.statistics().keys_at_results == 1


async def test_a_result_url_expires_and_a_later_check_returns_a_fresh_one(leap):
    async with running(result_lifetime=60.0) as (_, call):
        task_id = await call.submit()
        [url] = await call.urls(task_id)
        assert (await download(url))[0] == 200
        leap(60.0)
        assert (await download(url))[0] == 403
        [fresh] = await call.urls(task_id)
        assert fresh != url
        assert (await download(fresh))[0] == 200


async def test_expires_is_the_urls_expiry_in_seconds_since_1970():
    async with running(result_lifetime=3600) as (_, call):
        task_id = await call.submit()
        _, reply = await call.check(task_id)
        query = parse_qs(urlsplit(reply["output"][0]["content"][0]["url"]).query)
        assert int(query["Expires"][0]) - reply["created_at"] == pytest.approx(3600, abs=3)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda url: url.partition("?")[0], 403),
        (lambda url: url[:-1] + ("0" if url[-1] != "0" else "1"), 403),
        (lambda url: url.replace("/0.png", "/1.png"), 404),
        (lambda url: url.replace("/0.png", "/x.png"), 404),
        (lambda url: url.replace("/results/", "/results/x"), 404),
    ],
)
async def test_a_forged_result_url_is_refused(change, status):
    async with running() as (_, call):
        [url] = await call.urls(await call.submit())
        assert (await download(change(url)))[0] == status


# Limits of the account.


async def test_more_requests_than_allowed_in_a_second_are_answered_429():
    async with running(requests_per_second=2) as (emulator, call):
        results = [await call.post(flat_body()) for _ in range(3)]
        assert [status for status, _ in results] == [200, 200, 429]
        assert results[2][1]["error"]["code"] == 1002
        assert emulator.statistics().refused == 1


@pytest.mark.parametrize("setting", [None, 2, 0.5])
async def test_a_429_has_the_configured_retry_after(setting):
    async with running(requests_per_second=1, retry_after=setting) as (_, call):
        await call.submit()
        async with call.session.post(SUBMIT, json=flat_body()) as response:
            assert response.headers.get("Retry-After") == (None if setting is None else str(setting))


async def test_a_retry_after_can_be_a_date():
    async with running(requests_per_second=1, retry_after="date") as (_, call):
        await call.submit()
        async with call.session.post(SUBMIT, json=flat_body()) as response:
            assert parsedate_to_datetime(response.headers["Retry-After"]).tzinfo is not None


async def test_the_window_of_allowed_requests_slides_on(leap):
    async with running(requests_per_second=1) as (_, call):
        await call.submit()
        leap(1.0)
        assert (await call.post(flat_body()))[0] == 200


async def test_a_task_beyond_the_slots_is_refused_or_waits():
    async with running(slots=1, queue=False, duration=60) as (_, call):
        assert [(await call.post(flat_body()))[0] for _ in range(2)] == [200, 429]
    async with running(slots=1, duration=60) as (emulator, call):
        assert [(await call.post(flat_body()))[0] for _ in range(2)] == [200, 200]
        assert [task.status for task in emulator.tasks.values()] == ["running", "queued"]


async def test_an_exhausted_balance_is_answered_402():
    async with running(balance=Decimal("0.1"), price=Decimal("0.1")) as (emulator, call):
        await call.check(await call.submit())
        status, reply = await call.post(flat_body())
        assert (status, reply["error"]["code"]) == (402, 40201)
        assert emulator.statistics().charges == Decimal("0.1")
        assert emulator.statistics().balance == 0


# Counters and records.


async def test_statistics_count_every_operation():
    async with running(duration=AfterChecks(2)) as (emulator, call):
        ids = [await call.submit() for _ in range(3)]
        for task_id in ids[:2]:
            await call.check(task_id)
            await download((await call.urls(task_id))[0])
        await call.check(ids[2])
        statistics = emulator.statistics()
    assert (statistics.submits, statistics.checks, statistics.downloads) == (3, 5, 2)
    assert (statistics.tasks_created, statistics.tasks_completed, statistics.tasks_failed) == (3, 2, 0)
    assert (statistics.unfinished, statistics.peak_unfinished) == (1, 3)
    assert statistics.checks_per_task == (2, 2, 1)
    assert statistics.lags == (0.0, 0.0)


async def test_a_task_record_has_the_submission():
    async with running() as (emulator, call):
        task_id = await call.submit(flat_body(text="i" * 810, negative_prompt="dull", n=3))
        task = emulator.tasks[task_id]
    assert (task.number, task.submission.n, task.submission.negative_prompt) == (1, 3, "dull")
    assert (len(task.submission.instruction), task.submission.instruction_cut) == (800, "i" * 10)
    assert task.body is None


async def test_bodies_are_kept_on_demand():
    async with running(keep_bodies=True) as (emulator, call):
        task_id = await call.submit()
        assert emulator.tasks[task_id].body == flat_body()


async def test_the_request_log_names_headers_and_never_holds_the_key():
    async with running(api_key="sk-secret", request_log=2) as (emulator, call):
        task_id = await call.submit()
        for _ in range(2):
            await call.check(task_id)
        assert [request.method for request in emulator.requests] == ["GET", "GET"]
        assert emulator.requests[0].path == f"{SUBMIT}/task/{task_id}"
        assert "authorization" in emulator.requests[0].header_names
        assert "sk-secret" not in repr(emulator.requests) + repr(emulator)


# Life cycle.


async def test_closing_leaves_no_task_thread_socket_or_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tasks_before, threads_before = asyncio.all_tasks(), threading.enumerate()
    async with running(engine=PillowEngine(), duration=60, faults=FaultPlan([Fault.hang().on("check")])) as (
        emulator,
        call,
    ):
        task_id = await call.submit()
        hanging = asyncio.create_task(call.check(task_id))
        with anyio.fail_after(10):
            while emulator.statistics().checks == 0 or not list(tmp_path.glob("*/*.png")):  # noqa: ASYNC110 - no event tells
                await anyio.sleep(0.01)
        port = urlsplit(emulator.url).port
        await emulator.aclose()
        with pytest.raises(aiohttp.ClientError):
            await hanging
    assert asyncio.all_tasks() == tasks_before
    started = [thread.name for thread in threading.enumerate() if thread not in threads_before]
    assert not [name for name in started if name.startswith("qwen-edit-emulator")]
    assert not list(tmp_path.iterdir())
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    gc.collect()  # an unclosed transport or session warns here, and warnings are errors


async def test_closing_while_pictures_are_made_ends_them():
    async with running(engine=PillowEngine()) as (emulator, call):
        for _ in range(4):
            await call.submit(flat_body(text="oil painting", n=2))
        await emulator.aclose()
        assert emulator.statistics().unfinished == 4


async def test_closing_does_not_wait_for_a_slow_reply():
    async with running(faults=FaultPlan([Fault.slow(delay=60).on("check")])) as (emulator, call):
        waiting = asyncio.create_task(call.check(await call.submit()))
        with anyio.fail_after(10):
            while emulator.statistics().checks == 0:
                await anyio.lowlevel.checkpoint()
            await emulator.aclose()
            with pytest.raises(aiohttp.ClientError):
                await waiting


async def test_the_emulator_never_blocks_the_loop():
    with blockbuster_ctx("qwen_edit_async.emulator"):
        async with running(engine=PillowEngine()) as (_, call):
            await call.pictures(await call.submit(flat_body(text="sepia")))


async def test_closing_twice_or_before_the_start_does_nothing():
    emulator = EditEmulator()
    await emulator.aclose()
    await emulator.start()
    await emulator.aclose()
    await emulator.aclose()


async def test_an_emulator_can_be_started_only_once():
    async with running() as (emulator, _):
        with pytest.raises(RuntimeError, match="once"):
            await emulator.start()


async def test_a_taken_port_is_an_error_that_leaves_nothing_behind():
    tasks_before = asyncio.all_tasks()
    async with running() as (emulator, _):
        other = EditEmulator(port=urlsplit(emulator.url).port)
        with pytest.raises(OSError, match="address"):
            await other.start()
    assert asyncio.all_tasks() == tasks_before


async def test_a_chosen_port_is_used():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with EditEmulator(port=port) as emulator:
        assert emulator.url == f"http://127.0.0.1:{port}"


def test_before_the_start_there_is_no_url():
    emulator = EditEmulator()
    assert (emulator.url, emulator.results_url) == ("", "")
    assert emulator.statistics().tasks_created == 0


def test_it_runs_in_a_thread_for_synchronous_code():
    with EditEmulator(engine=FixedEngine(), duration=AfterChecks(1)).in_thread() as emulator:
        request = urllib.request.Request(
            emulator.url + SUBMIT,
            json.dumps(flat_body()).encode(),
            {"Authorization": f"Bearer {emulator.api_key}"},
        )
        with urllib.request.urlopen(request) as response:
            assert json.load(response)["id"] in emulator.tasks
        assert emulator.statistics().tasks_created == 1
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(request)
    assert emulator.statistics().tasks_created == 1


@pytest.mark.parametrize(
    "settings",
    [{"slots": 0}, {"requests_per_second": 0}, {"envelope": "round"}, {"port": 70000}, {"result_lifetime": 0}],
)
def test_a_setting_out_of_range_is_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        EditEmulator(**settings)


def test_the_key_does_not_show_in_the_repr():
    assert "sk-secret" not in repr(EditEmulator(api_key="sk-secret"))


def test_without_pillow_the_error_says_what_to_install():
    code = "import sys; sys.modules['PIL'] = None; import qwen_edit_async.emulator"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: the emulator needs Pillow: pip install 'qwen-edit-async[images]'" in run.stderr


async def test_a_client_that_disconnects_during_its_upload_is_not_an_error(caplog):
    async with running() as (emulator, _):
        stream = await anyio.connect_tcp("127.0.0.1", urlsplit(emulator.url).port)
        head = f"POST {SUBMIT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {emulator.api_key}\r\n"
        await stream.send(f"{head}Content-Length: 1000000\r\n\r\n".encode())
        while not emulator.statistics().submits:  # noqa: ASYNC110  # a counter has no event
            await anyio.sleep(0.01)
        await stream.aclose()
        await server_is_idle()
        assert not emulator.tasks
    assert "Error handling request" not in caplog.text


async def test_a_client_that_disconnects_during_a_download_is_not_an_error(caplog):
    slow = Fault.slow(bytes_per_second=20).on("download")
    async with running(faults=FaultPlan([slow])) as (_, call):
        (url,) = await call.urls(await call.submit())
        parts = urlsplit(url)
        stream = await anyio.connect_tcp("127.0.0.1", parts.port)
        await stream.send(f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        while not (await stream.receive()).endswith(b"\x89"):
            pass  # until the first byte of the picture has arrived
        await stream.aclose()
        await call.session.close()
        await server_is_idle()
    assert "Error handling request" not in caplog.text


async def server_is_idle():
    while any(task.get_coro().__qualname__ == "RequestHandler.start" for task in asyncio.all_tasks()):  # noqa: ASYNC110  # aiohttp has no event for it
        await anyio.sleep(0.01)
