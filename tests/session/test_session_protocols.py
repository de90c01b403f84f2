"""A session with each protocol, against the emulator."""

from __future__ import annotations

import asyncio
import contextlib
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import attrs
import pytest
from bulk_runs import until
from emulator_calls import decode, encode
from memory_transport import HANGS, IMAGE, KEY, RESULT, Answer, MemoryService, MemorySession, in_order, says, status
from PIL import Image

from qwen_edit_async import (
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    DownloadError,
    EditCancelledError,
    EditFailedError,
    EditSession,
    FixedInterval,
    InsufficientBalanceError,
    NotFoundError,
    RateLimitError,
    SessionClosedError,
    SubmitUncertainError,
    TaskStatus,
)
from qwen_edit_async.emulator import AfterChecks, EditEmulator, Fault, FaultPlan, FixedEngine, PillowEngine
from qwen_edit_async.protocol.base import Reply

pytestmark = pytest.mark.anyio

PHOTO = encode(Image.new("RGB", (400, 400), "#7f9cf5"))

NO_OTHER = "and this protocol can't give another"

PROTOCOLS = ("generation", "queue", "dashscope")


@asynccontextmanager
async def session_in(protocol, *faults, options=None, **settings):
    """Start an emulator, and yield it with a session that speaks the protocol."""
    defaults = {"engine": FixedEngine(), "duration": 0.05, "faults": FaultPlan(faults)}
    async with EditEmulator(**defaults | settings) as emulator:
        chosen = {"protocol": protocol, "polling": FixedInterval(0.02), "max_retries": 0} | (options or {})
        async with EditSession(emulator.api_key, base_url=emulator.url, **chosen) as session:
            yield emulator, session


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_an_edit_gives_its_pictures_in_each_protocol(protocol):
    async with session_in(protocol, engine=PillowEngine()) as (emulator, session):
        result = await session.edit([PHOTO, PHOTO], "make it sepia", n=2, size="512*768", seed=5)
        pictures = [decode(await image.read()) for image in result.images]
        assert [picture.size for picture in pictures] == [(512, 768)] * 2
        [record] = emulator.tasks.values()
        assert (result.task_id, record.protocol) == (record.id, protocol)
        assert (record.submission.instruction, record.submission.n, record.seed) == ("make it sepia", 2, 5)
        counts = emulator.statistics()
        assert (counts.submits, counts.results, counts.keys_at_results) == (1, protocol == "queue", 0)
        assert session.unfinished == ()


async def test_many_edits_end_in_each_protocol():
    for protocol in PROTOCOLS:
        async with session_in(protocol, slots=2, options={"max_in_flight": 4}) as (emulator, session):
            requests = [{"image": PHOTO, "instruction": f"edit {k}"} for k in range(12)]
            outcomes = [outcome async for outcome in session.edit_many(requests)]
            assert all(outcome.ok for outcome in outcomes)
            assert emulator.statistics().tasks_completed == 12


async def test_the_cost_is_that_of_the_status_where_the_service_tells_it():
    async with session_in("generation", price=Decimal("0.02")) as (_, session):
        assert (await session.edit(PHOTO, "snow", n=2)).usage.cost == Decimal("0.04")
    async with session_in("dashscope") as (_, session):
        usage = (await session.edit(PHOTO, "snow", n=2)).usage
        assert (usage.cost, usage.quantity) == (None, 2)


async def test_the_model_in_a_header_is_accepted_where_it_is_expected():
    async with session_in(None, envelope="header", options={"envelope": "header"}) as (emulator, session):
        await session.edit(PHOTO, "snow")
        assert {record.submission.envelope for record in emulator.tasks.values()} == {"header"}
    async with session_in(None, envelope="header") as (emulator, session):
        with pytest.raises(BadRequestError):
            await session.edit(PHOTO, "snow")
        assert emulator.statistics().submits == 2  # the two common envelopes, and never the third


async def test_the_environment_chooses_the_protocol(monkeypatch):
    monkeypatch.setenv("QWEN_EDIT_PROTOCOL", "queue")
    async with session_in(None) as (emulator, session):
        await session.edit(PHOTO, "snow")
        assert {record.protocol for record in emulator.tasks.values()} == {"queue"}


async def test_the_vendor_s_variable_has_the_key_of_its_protocol(monkeypatch):
    async with EditEmulator(engine=FixedEngine(), duration=0.0, api_key="vendor") as emulator:
        monkeypatch.setenv("DASHSCOPE_API_KEY", "vendor")
        monkeypatch.setenv("QWEN_EDIT_API_KEY", "own")
        async with EditSession(base_url=emulator.url, protocol="dashscope") as session:
            await session.edit(PHOTO, "snow")
        async with EditSession(base_url=emulator.url, protocol="queue") as session:
            with pytest.raises(AuthenticationError):
                await session.edit(PHOTO, "snow")


@pytest.mark.parametrize(
    ("protocol", "code"), [("generation", 110001), ("queue", 110001), ("dashscope", "DataInspectionFailed")]
)
async def test_a_refusal_of_moderation_is_a_failed_edit_in_each_protocol(protocol, code):
    async with session_in(protocol, Fault.failed_task(110001, "inappropriate")) as (emulator, session):
        with pytest.raises(EditFailedError, match="inappropriate") as caught:
            await session.edit(PHOTO, "snow")
        assert (caught.value.code, caught.value.task_id) == (code, next(iter(emulator.tasks)))
        assert (session.statistics().failed, session.statistics().in_flight) == (1, 0)


async def test_a_failure_in_the_queue_says_of_which_kind_it_is():
    def add(members):
        return members | {"provider_error": {"code": "E42"}} if "error" in members else members

    faults = (Fault.failed_task("INFERENCE_TIMEOUT", "too slow", shape="string"), Fault.reshape(add).on("check"))
    async with session_in("queue", *faults) as (_, session):
        with pytest.raises(EditFailedError, match="too slow") as caught:
            await session.edit(PHOTO, "snow")
        error = caught.value
        assert (error.error_type, error.provider_error) == ("INFERENCE_TIMEOUT", '{"code": "E42"}')


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_balance_that_is_too_low_stops_the_session_in_each_protocol(protocol):
    async with session_in(protocol, balance=Decimal(0)) as (emulator, session):
        for _ in range(2):
            with pytest.raises(InsufficientBalanceError):
                await session.edit(PHOTO, "snow")
        assert emulator.statistics().submits == 1


async def test_an_account_of_model_studio_that_is_throttled_finishes_everything():
    throttling = Fault.status(200, code="Throttling.RateQuota", shape="dashscope")
    async with session_in("dashscope", throttling.nth(2, 3)) as (emulator, session):
        await asyncio.gather(*(session.edit(PHOTO, f"edit {k}") for k in range(4)))
        assert emulator.statistics().tasks_completed == 4
        assert session.statistics().throttled == 2


async def test_a_lost_answer_of_model_studio_is_uncertain_and_not_repeated():
    async with session_in("dashscope", Fault.drop_reply()) as (emulator, session):
        with pytest.raises(SubmitUncertainError):
            await session.edit(PHOTO, "snow")
        assert (emulator.statistics().submits, emulator.statistics().tasks_completed) == (1, 1)


async def test_model_studio_has_no_tasks_to_attach_to():
    async with session_in("dashscope") as (emulator, session):
        result = await session.edit(PHOTO, "snow")
        with pytest.raises(ConfigurationError, match="'dashscope' has no status checks"):
            await session.attach(result.task_id)
        with pytest.raises(ConfigurationError, match="'dashscope' has no status checks"):
            await session.status(result.task_id)
        assert len(emulator.requests) == 1


async def test_a_result_of_model_studio_that_expired_is_not_said_to_be_had_again():
    async with session_in("dashscope", Fault.expired_url()) as (emulator, session):
        [image] = (await session.edit(PHOTO, "snow")).images
        assert image.expires_at - datetime.now(UTC) == pytest.approx(timedelta(days=1), abs=timedelta(minutes=1))
        with pytest.raises(DownloadError, match="its host answered 403") as caught:
            await image.read()
        assert caught.value.hint == f"the image's URL is valid until {image.expires_at:%Y-%m-%d %H:%M} UTC, {NO_OTHER}"
        [elsewhere] = session.pictures("t", [f"{emulator.results_url}/x.png"])
        with pytest.raises(DownloadError) as caught:
            await elsewhere.read()
        assert caught.value.hint == f"the image's URL is valid for a limited time, {NO_OTHER}"
        assert (session.has_tasks, elsewhere.expires_at, len(emulator.tasks)) == (False, None, 1)


async def test_a_picture_of_a_closed_session_of_model_studio_is_not_said_to_be_had_again():
    async with session_in("dashscope") as (_, session):
        [image] = (await session.edit(PHOTO, "snow")).images
        await session.aclose()
        with pytest.raises(SessionClosedError, match="this protocol can't get its result again") as caught:
            await image.read()
    assert "attach" not in str(caught.value)


@pytest.mark.virtual_clock
async def test_a_result_of_model_studio_that_nobody_fetched_is_not_said_to_be_had_again(caplog):
    message = {"content": [{"image": RESULT.format(task_id="request-1")}]}
    reply = says({"request_id": "request-1", "output": {"choices": [{"message": message}]}})
    service = MemoryService(on_submission=in_order(attrs.evolve(reply, delay=0.05)))
    async with MemorySession(service, protocol="dashscope", envelope="auto") as session:
        edit = asyncio.create_task(session.edit(IMAGE, "snow"))
        await asyncio.sleep(0.01)
        assert len(service.submissions) == 1
        edit.cancel()
        await asyncio.wait([edit])
    assert "created task request-1: this protocol can't get its result again" in caplog.text


@pytest.mark.parametrize("protocol", ["generation", "queue"])
async def test_a_task_of_another_session_is_attached_to(protocol):
    async with session_in(protocol) as (emulator, session):
        task = await session.submit(PHOTO, "snow")
        async with EditSession(emulator.api_key, base_url=emulator.url, protocol=protocol) as other:
            result = await other.attach(task.id)
        assert (result.task_id, len(result.images)) == (task.id, 1)
        assert (await session.status(task.id)).status is TaskStatus.COMPLETED


@pytest.mark.parametrize(
    "fault",
    [
        Fault.status(503),
        Fault.status(429, shape="object"),
        Fault.status(500, shape="html"),
        Fault.status(202, shape="detail"),
        Fault.malformed_json(),
        Fault.truncated_json(),
        Fault.drop_reply(),
    ],
)
async def test_a_second_call_that_fails_is_made_again(fault):
    async with session_in("queue", fault.on("result").times(1)) as (emulator, session):
        assert len((await session.edit(PHOTO, "snow")).images) == 1
        counts = emulator.statistics()
        assert (counts.submits, counts.results) == (1, 2)


@pytest.mark.virtual_clock
@pytest.mark.parametrize("asked", ["by the session", "by the user"])
async def test_the_second_call_waits_for_a_pause_that_begins_during_the_first(asked):
    asked_at = []

    def on_check(path, _):
        if "another" in path:
            return attrs.evolve(status(429, retry_after=30.0), delay=1.0)
        asked_at.append(asyncio.get_running_loop().time())
        if len(asked_at) > 1:
            return says({"outputs": [{"type": "image", "url": RESULT.format(task_id="task-1")}]})
        return attrs.evolve(says({"status": "COMPLETED"}), delay=2.0)

    service = MemoryService(on_check=on_check)
    async with MemorySession(service, protocol="queue", envelope="auto") as session:
        another = asyncio.create_task(session.with_options(max_retries=0).status("another"))
        if asked == "by the user":
            assert (await session.status("task-1")).urls
        else:
            assert (await session.attach("task-1")).images
        with pytest.raises(RateLimitError):
            await another
    assert len(asked_at) == 2
    assert asked_at[1] - asked_at[0] >= 30.0


@pytest.mark.virtual_clock
@pytest.mark.parametrize("code", [401, 402, 403])
async def test_the_second_call_is_made_though_submissions_are_refused(code):
    replies = in_order(
        says({"status": "COMPLETED"}), says({"outputs": [{"type": "image", "url": RESULT.format(task_id="task-1")}]})
    )
    submissions = in_order(says({"request_id": "task-1"}), status(code))
    service = MemoryService(on_submission=submissions, on_check=replies)
    async with MemorySession(service, protocol="queue", envelope="auto") as session:
        task = await session.submit(IMAGE, "snow")
        with pytest.raises(APIStatusError):
            await session.submit(IMAGE, "snow")
        assert len((await task).images) == 1


def naming_a_task(status_code, code):
    """Return an answer that refuses a first submission, although the service has accepted it, and names its task."""
    reply = status(status_code, code=code, message="broken").reply
    body = json.dumps({"id": "task-1"} | json.loads(reply.body)).encode()
    return Answer(attrs.evolve(reply, body=body), accepted=True)


@pytest.mark.virtual_clock
@pytest.mark.parametrize(("status_code", "code"), [(500, 500), (429, 1002), (402, 40201), (409, 409)])
async def test_a_refusal_that_names_a_task_gives_that_task(status_code, code):
    service = MemoryService(on_submission=in_order(naming_a_task(status_code, code)))
    async with MemorySession(service, max_retries=0) as session:
        result = await session.edit(IMAGE, "snow")
        assert ([result.task_id], len(service.submissions)) == (service.ids, 1)
        assert (session.statistics().submitted, session.statistics().uncertain) == (1, 0)


@pytest.mark.virtual_clock
async def test_a_refusal_that_names_a_task_holds_for_the_session():
    service = MemoryService(on_submission=in_order(naming_a_task(403, 40201)))
    async with MemorySession(service, max_retries=0) as session:
        await session.edit(IMAGE, "snow")
        with pytest.raises(InsufficientBalanceError):
            await session.edit(IMAGE, "more snow")
        assert len(service.submissions) == 1
    async with MemorySession(MemoryService(on_submission=in_order(naming_a_task(429, 1002)))) as session:
        await session.edit(IMAGE, "snow")
        assert session.statistics().throttled == 1


async def test_urls_of_the_queue_on_another_origin_never_see_the_key():
    async with EditEmulator() as elsewhere:

        def lead_astray(reply):
            return {
                name: value.replace(emulator.url, elsewhere.url) if isinstance(value, str) else value
                for name, value in reply.items()
            }

        async with session_in("queue", Fault.reshape(lead_astray).on("submit")) as (emulator, session):
            await session.edit(PHOTO, "snow")
            assert (len(elsewhere.requests), emulator.statistics().results) == (0, 1)


async def test_checks_of_the_queue_decide_its_end():
    async with session_in("queue", duration=AfterChecks(3)) as (emulator, session):
        result = await session.edit(PHOTO, "snow")
        assert (result.timings.checks, emulator.statistics().checks) == (3, 3)


# Cancellation at the service.


async def test_a_task_that_is_cancelled_is_cancelled_at_the_service():
    async with session_in("queue", duration=60) as (emulator, session):
        task = await session.submit(PHOTO, "snow")
        task.cancel()
        with pytest.raises(EditCancelledError, match=f"the service is asked to cancel task {task.id}"):
            await task
    assert emulator.tasks[task.id].failure.code == "CANCELED"
    assert (session.statistics().cancellations, session.unfinished) == (1, ())
    assert emulator.statistics().charges == 0


async def test_an_edit_that_is_cancelled_is_cancelled_at_the_service(caplog):
    async with session_in("queue", duration=60) as (emulator, session):
        edit = asyncio.create_task(session.edit(PHOTO, "snow"))
        await until(lambda: session.statistics().submitted)
        edit.cancel()
        await asyncio.wait([edit])
        assert edit.cancelled()
    assert "the service is asked to cancel task" in caplog.text
    assert emulator.statistics().tasks_cancelled == 1


async def test_a_cancelled_edit_whose_task_others_await_is_not_cancelled_at_the_service():
    async with session_in("queue", duration=0.5) as (emulator, session):
        edit = asyncio.create_task(session.edit(PHOTO, "snow"))
        await until(lambda: session.statistics().submitted)
        other = session.attach(*session.unfinished)
        wait = asyncio.ensure_future(other)
        await asyncio.sleep(0)
        edit.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await edit
        assert caught.value.__notes__ == [
            f"task {other.id} runs on at the service: session.attach('{other.id}') gets its result"
        ]
        assert (await wait).task_id == other.id
        assert (
            other.cancel_unless_awaited() == f"task {other.id} has ended: session.attach('{other.id}') gets its result"
        )
    assert emulator.statistics().tasks_cancelled == 0


async def test_an_edit_that_is_cancelled_before_its_id_arrives_is_cancelled_at_the_service():
    async with session_in("queue", Fault.slow(delay=0.2).on("submit"), duration=60) as (emulator, session):
        edit = asyncio.create_task(session.edit(PHOTO, "snow"))
        await until(lambda: emulator.statistics().submits)
        edit.cancel()
        await asyncio.wait([edit])
    assert (emulator.statistics().tasks_cancelled, session.unfinished) == (1, ())


async def test_leaving_edit_many_cancels_at_the_service():
    async with session_in("queue", duration=60, options={"max_in_flight": 3}) as (emulator, session):
        requests = [{"image": PHOTO, "instruction": f"edit {k}"} for k in range(5)]
        async with session.edit_many(requests) as outcomes:

            async def pull():
                return [outcome async for outcome in outcomes]

            pulling = asyncio.create_task(pull())
            await until(lambda: session.statistics().submitted == 3)
        assert await pulling == []
    counts = emulator.statistics()
    assert (counts.tasks_created, counts.tasks_cancelled) == (3, 3)


async def test_leaving_a_session_by_an_error_cancels_at_the_service():
    with contextlib.suppress(ZeroDivisionError):
        async with session_in("queue", duration=60) as (emulator, session):
            await session.submit(PHOTO, "snow")
            raise ZeroDivisionError
    assert (emulator.statistics().tasks_cancelled, session.unfinished) == (1, ())


async def test_leaving_a_session_normally_lets_tasks_run_on_that_nobody_awaits():
    async with session_in("queue", duration=60) as (emulator, session):
        task = await session.submit(PHOTO, "snow")
    assert (emulator.statistics().cancels, session.unfinished) == (0, (task.id,))


async def test_a_task_that_was_attached_is_not_cancelled_at_the_service():
    async with session_in("queue", duration=60) as (emulator, session):
        task = await session.submit(PHOTO, "snow")
        async with EditSession(emulator.api_key, base_url=emulator.url, protocol="queue") as other:
            attached = other.attach(task.id)
            attached.cancel()
            with pytest.raises(EditCancelledError, match="runs on at the service"):
                await attached
        assert emulator.statistics().cancels == 0


@pytest.mark.parametrize(
    ("fault", "settings", "told"),
    [
        (Fault.status(500), {}, "an injected fault (HTTP 500"),
        (Fault.status(200, code=409), {}, "an injected fault (HTTP 200"),
        (Fault.status(404, shape="detail"), {}, "an injected fault (HTTP 404"),
        (Fault.drop_request(), {}, "no reply"),
        (Fault.status(503).nth(99), {"cancellable": False}, "requests to this model can't be cancelled (HTTP 405"),
    ],
)
async def test_a_task_that_the_service_does_not_cancel_runs_on_and_this_is_logged(caplog, fault, settings, told):
    async with session_in("queue", fault.on("cancel"), duration=60, **settings) as (_, session):
        task = await session.submit(PHOTO, "snow")
        task.cancel()
    assert (session.statistics().cancellations, session.unfinished) == (0, (task.id,))
    assert f"the cancellation of task {task.id}, which may run on and be charged: {told}" in caplog.text


@pytest.mark.virtual_clock
async def test_a_service_that_does_not_answer_a_cancellation_holds_up_the_end_for_five_seconds(caplog):
    service = MemoryService(on_submission=in_order(says({"request_id": "task-1"})), on_check=lambda *_: HANGS)
    options = {"protocol": "queue", "envelope": "auto", "polling": FixedInterval(100.0)}
    async with MemorySession(service, **options) as session:
        task = await session.submit("https://pictures.example/cat.png", "snow")
        task.cancel()
        begun = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - begun == pytest.approx(5.0)
    assert session.unfinished == (task.id,)
    assert "did not confirm the cancellation of task task-1, which may run on and be charged: no reply" in caplog.text


@pytest.mark.virtual_clock
async def test_many_tasks_are_cancelled_a_few_at_a_time():
    under_way = []

    def on_cancellation(*_):
        under_way.append(service.calls_under_way)
        return attrs.evolve(says({}), delay=0.1)

    service = MemoryService(on_submission=lambda n: says({"request_id": f"task-{n}"}), on_check=on_cancellation)
    options = {"protocol": "queue", "envelope": "auto", "polling": FixedInterval(100.0), "max_in_flight": 40}
    async with MemorySession(service, **options) as session:
        for task in [await session.submit("https://pictures.example/cat.png", "snow") for _ in range(40)]:
            task.cancel()
    assert (len(under_way), max(under_way)) == (40, 16)
    assert (session.statistics().cancellations, session.unfinished) == (40, ())


async def test_a_task_of_another_protocol_is_not_cancelled():
    async with session_in("generation", duration=60) as (emulator, session):
        task = await session.submit(PHOTO, "snow")
        task.cancel()
        with pytest.raises(EditCancelledError, match="runs on at the service"):
            await task
    assert (emulator.statistics().cancels, session.unfinished) == (0, (task.id,))


# The reply that is the result.


async def test_an_edit_of_model_studio_may_take_longer_than_a_reply():
    async with session_in("dashscope", duration=0.6, options={"timeout": 0.3}) as (_, session):
        assert len((await session.edit(PHOTO, "snow")).images) == 1


async def test_an_edit_of_model_studio_ends_at_its_deadline_and_is_uncertain():
    options = {"timeout": 0.2, "deadline": 0.2}
    async with session_in("dashscope", Fault.stuck_task(), options=options) as (_, session):
        with pytest.raises(SubmitUncertainError, match="deadline"):
            await session.edit(PHOTO, "snow")
        assert (session.statistics().in_flight, session.statistics().uncertain) == (0, 1)
        # The call does not stay for ever.
        await until(lambda: not any("Submission.run" in repr(task) for task in asyncio.all_tasks()))
        assert session.statistics().uncertain == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_an_address_without_the_protocol_is_named(protocol):
    transport = MemoryService(on_submission=lambda _: Answer(Reply(status=404, body=b"<html>no such page</html>")))
    async with EditSession(KEY, protocol=protocol, transport=transport) as session:
        with pytest.raises(NotFoundError, match=f"QWEN_EDIT_BASE_URL\\) serves the protocol '{protocol}'"):
            await session.edit(IMAGE, "snow")


@pytest.mark.virtual_clock
@pytest.mark.parametrize(("protocol", "seconds"), [("generation", 5.0), ("dashscope", 0.2)])
async def test_closing_waits_longer_for_the_id_of_a_task_than_for_a_result(protocol, seconds):
    transport = MemoryService(on_submission=lambda _: HANGS)
    async with EditSession(KEY, protocol=protocol, transport=transport) as session:
        edit = asyncio.create_task(session.edit(IMAGE, "snow", key="cat"))
        await until(lambda: len(transport.submissions) == 1 and transport.submissions[0].body)
        edit.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await edit
        closed_at = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - closed_at == pytest.approx(seconds, abs=0.01)
    assert caught.value.__notes__ == ["the edit 'cat' was given up after it was sent: a task may exist and be charged"]
    assert session.statistics().uncertain == 1


def result_of_model_studio(delay):
    content = {"message": {"content": [{"image": RESULT}]}}
    return Answer(Reply(status=200, body=json.dumps({"output": {"choices": [content]}}).encode()), delay=delay)


SLOW_DOWN = Reply(status=429, body=b'{"code": "Throttling", "message": "slow down"}')


@pytest.mark.virtual_clock
@pytest.mark.parametrize(("room", "peak", "refused", "seconds"), [(1000, 150, 0, 200), (40, 40, 0.1, 400)])
async def test_model_studio_runs_as_many_edits_at_a_time_as_it_allows(room, peak, refused, seconds):
    running = []

    def answers(_):
        running.append(transport.calls_under_way)
        return result_of_model_studio(20.0) if running[-1] <= room else Answer(SLOW_DOWN, delay=0.1)

    transport = MemoryService(on_submission=answers)
    began_at = asyncio.get_running_loop().time()
    async with EditSession(KEY, protocol="dashscope", transport=transport, max_in_flight=150) as session:
        requests = ({"image": IMAGE, "instruction": "snow"} for _ in range(600))
        assert [outcome.error async for outcome in session.edit_many(requests)] == [None] * 600
    assert max(each for each in running if each <= room) == peak
    assert session.statistics().throttled <= refused * len(running)
    assert asyncio.get_running_loop().time() - began_at < seconds


@pytest.mark.virtual_clock
async def test_the_time_until_the_reply_of_model_studio_is_the_time_of_the_edit():
    def answers(number):
        return Answer(SLOW_DOWN, delay=2.0) if number == 1 else result_of_model_studio(30.0)

    transport = MemoryService(on_submission=answers)
    async with EditSession(KEY, protocol="dashscope", transport=transport) as session:
        timings = (await session.edit(IMAGE, "snow")).timings
    assert (timings.running, timings.lag) == (pytest.approx(30.0, abs=0.1), 0.0)
    assert 2.0 <= timings.queued + timings.submitting < 10.0
    assert session.statistics().running == timings.running


async def test_a_connection_to_model_studio_that_takes_too_long_is_not_uncertain():
    late = Answer(APITimeoutError("connecting took too long"), uploaded=False)
    transport = MemoryService(on_submission=lambda *_: late)
    async with EditSession(KEY, protocol="dashscope", transport=transport, max_retries=0) as session:
        with pytest.raises(APITimeoutError, match="connecting") as caught:
            await session.edit(PHOTO, "snow")
        assert not caught.value.request_sent


@pytest.mark.virtual_clock
@pytest.mark.parametrize(
    ("protocol", "hint"),
    [
        ("generation", "in a new session, session.attach('task-1') gets its result"),
        ("dashscope", "this protocol can't get its result again"),
    ],
)
async def test_the_error_of_a_session_that_closes_before_a_late_reply_fits_the_protocol(protocol, hint):
    document = {"output": {"choices": [{"message": {"content": [{"image": RESULT}]}}]}, "request_id": "task-1"}
    answer = Answer() if protocol == "generation" else says(document)
    service = MemoryService(on_submission=in_order(attrs.evolve(answer, delay=1.1)))
    session = await MemorySession(service, protocol=protocol, envelope="auto").open()
    edit = asyncio.create_task(session.edit(IMAGE, "snow"))
    await asyncio.sleep(1.0)
    await session.__aexit__(ValueError, None, None)
    with pytest.raises(SessionClosedError, match="was closed before task task-1 ended") as caught:
        await edit
    assert caught.value.hint == hint
