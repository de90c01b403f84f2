"""From a request to a task id: what is repeated, what is not, and what nobody pays for twice."""

from __future__ import annotations

import asyncio
import logging
import math
from itertools import pairwise
from random import Random

import attrs
import pytest
from jitter import Drawing
from memory_transport import (
    HANGS,
    IMAGE,
    NORMAL,
    Answer,
    MemoryService,
    MemorySession,
    in_order,
    lost,
    refused,
    says,
    status,
    timed_out,
    until,
)

from qwen_edit_async import (
    APIConnectionError,
    APIResponseError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    DeadlineExceededError,
    FixedInterval,
    InsufficientBalanceError,
    InvalidEditError,
    Learned,
    NotFoundError,
    PermissionDeniedError,
    QwenEditError,
    RateLimitError,
    SessionClosedError,
    SubmitUncertainError,
)
from qwen_edit_async.protocol.base import Reply
from qwen_edit_async.protocol.generation import GenerationProtocol
from qwen_edit_async.scheduling.retry import CallFailure

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_clock]

NEVER = Answer(delay=math.inf, uploaded=False)
"""The connection takes nothing of the body, and says nothing."""

CERTAIN_REFUSALS = {
    "429": status(429),
    "code 1002": status(400, code=1002),
    "503": status(503),
    "connection refused": refused(),
}
LOST_REPLIES = {
    "connection broke": lost(),
    "timeout": timed_out(),
    "500": status(500, accepted=True),
    "502": status(502, accepted=True),
    "504": status(504, accepted=True),
    "HTML page": says(b"<html>Bad Gateway</html>"),
    "no JSON": says(b"{'id': 'x'}"),
    "cut off": says(b'{"status": "in_pro', complete=False),
}


def now() -> float:
    return asyncio.get_running_loop().time()


# What may have been accepted is not sent again.


@pytest.mark.parametrize("answer", LOST_REPLIES.values(), ids=LOST_REPLIES)
async def test_a_lost_reply_is_uncertain_and_posted_once(answer):
    service = MemoryService(on_submission=in_order(answer))
    async with MemorySession(service, max_retries=5) as session:
        with pytest.raises(SubmitUncertainError, match="a task may exist") as caught:
            await session.edit(IMAGE, "snow")
        counts = session.statistics()
    assert len(service.submissions) == 1
    assert isinstance(caught.value.__cause__, QwenEditError)
    assert (counts.uncertain, counts.retries, counts.resubmitted, counts.in_flight) == (1, 0, 0, 0)


@pytest.mark.parametrize("answer", LOST_REPLIES.values(), ids=LOST_REPLIES)
async def test_a_lost_reply_is_submitted_again_with_consent_and_that_is_counted_and_logged(answer, caplog):
    caplog.set_level(logging.WARNING, "qwen_edit_async")
    service = MemoryService(on_submission=in_order(answer, answer))
    async with MemorySession(service, resubmit_uncertain=True) as session:
        await session.edit(IMAGE, "snow")
        counts = session.statistics()
    assert len(service.submissions) == 3
    assert (counts.uncertain, counts.resubmitted, counts.retries, counts.submitted) == (2, 2, 0, 1)
    assert sum("submitting again" in record.message for record in caplog.records) == 2


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (status(503), "did not accept the last attempt"),
        (status(429), "rejected the last attempt because of too many requests"),
        (lost(), "may have accepted the last attempt"),
    ],
    ids=["refused", "throttled", "uncertain"],
)
async def test_the_log_says_in_a_sentence_why_an_edit_is_submitted_again(answer, reason, caplog):
    caplog.set_level(logging.INFO, "qwen_edit_async")
    service = MemoryService(on_submission=in_order(answer))
    async with MemorySession(service, resubmit_uncertain=True) as session:
        await session.edit(IMAGE, "snow")
    (message,) = [record.message for record in caplog.records if "submitting again" in record.message]
    assert message.startswith(f"submitting again (attempt 2): the service {reason}: ")


async def test_consent_to_submit_again_has_an_end():
    service = MemoryService(on_submission=lambda _: lost())
    async with MemorySession(service, resubmit_uncertain=True, max_retries=2) as session:
        with pytest.raises(SubmitUncertainError):
            await session.edit(IMAGE, "snow")
    assert len(service.submissions) == 3


@pytest.mark.parametrize("pause", [None, 60], ids=["while it backs off", "while the session pauses"])
@pytest.mark.parametrize("end", ["cancel", "close"])
async def test_an_edit_that_ends_between_an_uncertain_attempt_and_its_repetition_is_uncertain(end, pause):
    service = MemoryService(on_submission=in_order(status(504, retry_after=pause)))
    async with MemorySession(service, resubmit_uncertain=True) as session:
        edit = asyncio.create_task(session.edit(IMAGE, "snow"))
        await until(lambda: session.statistics().resubmitted == 1)
        if end == "cancel":
            edit.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await edit
            fate = "an edit was given up after it was sent: a task may exist and be charged"
            assert caught.value.__notes__ == [fate]
        else:
            await session.__aexit__(KeyError, KeyError(), None)
            with pytest.raises(SubmitUncertainError, match="a task may exist and be charged: the session is closed"):
                await edit
    assert len(service.submissions) == 1


async def test_an_edit_that_is_cancelled_as_its_reply_is_lost_says_that_a_task_may_exist():
    service = MemoryService(on_submission=in_order(lost()))
    async with MemorySession(service, on_event=lambda _: edit.cancel()) as session:  # before it learns of the error
        edit = asyncio.create_task(session.edit(IMAGE, "snow"))
        with pytest.raises(asyncio.CancelledError) as caught:
            await edit
    [fate] = caught.value.__notes__
    assert fate.startswith("a task may exist and be charged: the connection broke")


async def test_an_uncertain_submission_stays_uncertain_though_its_repetition_is_refused():
    service = MemoryService(on_submission=in_order(lost(), status(400)))
    async with MemorySession(service, resubmit_uncertain=True) as session:
        with pytest.raises(SubmitUncertainError):
            await session.edit(IMAGE, "snow")


# What was certainly refused is sent again.


@pytest.mark.parametrize("answer", CERTAIN_REFUSALS.values(), ids=CERTAIN_REFUSALS)
async def test_a_certain_refusal_is_submitted_again(answer):
    service = MemoryService(on_submission=in_order(answer, answer))
    async with MemorySession(service) as session:
        await session.edit(IMAGE, "snow")
        counts = session.statistics()
    assert (len(service.submissions), len(service.ids)) == (3, 1)
    assert (counts.retries, counts.uncertain, counts.submitted) == (2, 0, 1)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(status(503), "InternalServerError"), (refused(), "APIConnectionError")],
    ids=["503", "connection refused"],
)
async def test_a_service_that_is_not_there_is_not_tried_for_ever(answer, kind):
    service = MemoryService(on_submission=lambda _: answer)
    async with MemorySession(service, max_retries=3) as session:
        with pytest.raises(QwenEditError) as caught:
            await session.edit(IMAGE, "snow")
        assert session.statistics().refused == 1
    assert type(caught.value).__name__ == kind
    assert len(service.submissions) == 4


@pytest.mark.parametrize("answer", [status(400), status(413), status(404), status(418)], ids=str)
async def test_a_refusal_that_stays_is_not_submitted_again(answer):
    service = MemoryService(on_submission=lambda _: answer)
    async with MemorySession(service) as session:
        with pytest.raises(QwenEditError):
            await session.edit(IMAGE, "snow")
    assert len(service.submissions) == 1


async def test_too_many_requests_are_waited_out_however_often():
    service = MemoryService(on_submission=in_order(*[status(429)] * 20))
    async with MemorySession(service, max_retries=0) as session:
        await session.edit(IMAGE, "snow")
        assert session.statistics().throttled == 20


async def test_too_many_requests_until_the_deadline_are_an_error():
    service = MemoryService(on_submission=lambda _: status(429))
    async with MemorySession(service) as session:
        start = now()
        with pytest.raises(RateLimitError) as caught:
            await session.edit(IMAGE, "snow", deadline=60.0)
        assert now() - start == pytest.approx(60.0, abs=0.1)
    assert caught.value.summary == 'the last reply before the deadline was "too many requests"'


@pytest.mark.parametrize("http_status", [307, 408, 409, 429, 503])
async def test_an_http_error_that_names_the_task_is_not_submitted_again(http_status):
    body = b'{"id": "task-1", "error": "overloaded"}'
    service = MemoryService(on_submission=in_order(Answer(Reply(status=http_status, body=body), accepted=True)))
    async with MemorySession(service) as session:
        assert (await session.edit(IMAGE, "snow")).task_id == "task-1"
    assert (len(service.submissions), service.ids) == (1, ["task-1"])


async def test_a_pause_beyond_the_deadline_is_not_waited_for():
    service = MemoryService(on_submission=in_order(status(429, retry_after=100)))
    async with MemorySession(service) as session:
        start = now()
        with pytest.raises(RateLimitError) as caught:
            await session.edit(IMAGE, "snow", deadline=60.0)
        assert now() - start < 1
    assert caught.value.retry_after == 100
    assert "the deadline of the edit leaves no time for another attempt" in caught.value.summary
    assert str(caught.value).endswith(f"retry after 100 s); {caught.value.summary}")


async def test_a_thousand_edits_finish_on_an_account_that_allows_two_at_a_time():
    service = MemoryService(room=2)
    async with MemorySession(service, max_in_flight=64) as session:
        results = await asyncio.gather(*(session.edit(IMAGE, "snow") for _ in range(1000)))
        counts = session.statistics()
    assert {result.task_id for result in results} == set(service.ids)
    assert (len(service.ids), counts.completed, service.peak_unfinished) == (1000, 1000, 2)
    assert counts.limit <= 4


async def test_a_pause_is_waited_for_if_it_ends_in_time_after_the_service_accepted_another():
    slow_refusal = Answer(status(429, retry_after=22).reply, delay=9.0)
    service = MemoryService(on_submission=in_order(slow_refusal))
    async with MemorySession(service, deadline=30.0) as session:
        first = asyncio.create_task(session.edit(IMAGE, "snow"))
        await asyncio.sleep(5)
        await session.edit(IMAGE, "snow")  # accepted after 5 s: so the first has until 35 s
        await first
    assert len(service.submissions) == 3


@pytest.mark.parametrize(
    ("attached", "polling", "allowed"),
    [(100, Learned(), 2), (200, Learned(), 5), (20, FixedInterval(3.0), 5)],
    ids=["learned", "many", "fixed"],
)
async def test_submissions_have_their_turns_however_many_checks_are_due(attached, polling, allowed):
    """Nor may the submissions keep the checks from being made."""
    service = MemoryService(duration=20.0, requests_per_second=allowed)
    async with MemorySession(service, polling=polling, deadline=300.0) as session:
        for number in range(attached):
            service.ends[f"older-{number}"] = now() + 5000
            session.attach(f"older-{number}", deadline=10_000)
        await asyncio.sleep(60)
        begun, checks = now(), len(service.checks)
        edits = [asyncio.create_task(session.edit(IMAGE, "snow")) for _ in range(4)]
        await session.status("older-0")
        await asyncio.gather(*edits)
        assert [sent.at - begun < 10 for sent in service.submissions] == [True] * 4
        assert len(service.checks) - checks > (now() - begun) * allowed / 3


@pytest.mark.parametrize(
    ("answers", "options"),
    [
        ([NORMAL] * 6, {}),
        ([status(503)] * 3, {}),
        ([status(503, retry_after=10)] * 3, {}),
        ([Answer(delay=8.0)], {"envelope": "auto"}),
        ([status(400), NORMAL], {"envelope": "auto"}),
    ],
    ids=["accepted", "refused", "paused", "slow verdict", "other envelope"],
)
async def test_the_service_gets_no_more_submissions_than_the_rate_that_was_asked_for(answers, options):
    service = MemoryService(on_submission=in_order(*answers))
    async with MemorySession(service, submit_rate=1.0, max_in_flight=64, **options) as session:
        await asyncio.gather(*(session.edit(IMAGE, "snow") for _ in range(8)))
    times = [sent.at for sent in service.submissions]
    assert len(times) >= 8
    assert all(later - earlier >= 1 - 1e-6 for earlier, later in pairwise(times))


async def test_a_status_that_is_asked_for_does_not_wait_for_the_rate_of_submissions():
    service = MemoryService()
    async with MemorySession(service, submit_rate=0.1, max_in_flight=64) as session:
        task = await session.submit(IMAGE, "snow")
        other = asyncio.create_task(session.edit(IMAGE, "snow"))
        await asyncio.sleep(1)
        begun = now()
        await session.status(task.id)
        assert now() - begun < 1
        await other


async def test_edits_that_wait_for_room_for_longer_than_their_deadline_finish_while_others_do():
    service = MemoryService(room=1, duration=20.0)
    async with MemorySession(service, max_in_flight=16, deadline=60.0) as session:
        outcomes = [outcome async for outcome in session.edit_many([{"images": IMAGE, "instruction": "snow"}] * 16)]
    assert all(outcome.ok for outcome in outcomes)
    assert max(outcome.result.timings.queued for outcome in outcomes) > 250


@pytest.mark.parametrize(
    "then",
    [status(429), status(503, retry_after=59.999), Answer(uploaded=False, delay=math.inf)],
    ids=["there is no room", "there is a pause", "the connection hangs"],
)
async def test_a_submission_that_may_have_been_accepted_stays_uncertain_whatever_comes_then(then):
    service = MemoryService(on_submission=lambda number: lost() if number == 1 else then)
    async with MemorySession(service, resubmit_uncertain=True) as session:
        with pytest.raises(SubmitUncertainError):
            await session.edit(IMAGE, "snow", deadline=60.0)


async def test_too_many_requests_use_up_no_retries():
    service = MemoryService(on_submission=in_order(*[status(429)] * 3, status(503)))
    async with MemorySession(service, max_retries=1) as session:
        await session.edit(IMAGE, "snow")
    assert len(service.submissions) == 5


async def test_an_edit_that_waited_for_room_has_a_deadline_from_there():
    service = MemoryService(on_submission=in_order(status(429, retry_after=40), HANGS))
    async with MemorySession(service) as session:
        start = now()
        with pytest.raises(SubmitUncertainError):
            await session.edit(IMAGE, "snow", deadline=60.0)
        assert now() - start == pytest.approx(100.0, abs=5)


@pytest.mark.parametrize("draw", [0.6, 1.0])
async def test_clients_of_one_account_that_are_refused_together_come_back_at_different_times(draw):
    service = MemoryService(latency=0.0, on_submission=in_order(status(429)))
    async with MemorySession(service, random=Drawing(draw)) as session:
        await session.edit(IMAGE, "snow")
    first, again = service.submissions
    assert again.at - first.at == pytest.approx(0.75 + draw / 2, abs=0.01)


async def test_who_is_refused_for_want_of_room_goes_before_who_was_not_tried():
    service = MemoryService(on_submission=in_order(status(429)))
    async with MemorySession(service, max_in_flight=1) as session:
        await asyncio.gather(*(session.edit(IMAGE, f"snow {number}") for number in range(3)))
    texts = [sent.body["input"]["messages"][0]["content"][1]["text"] for sent in service.submissions]
    assert texts == ["snow 0", "snow 0", "snow 1", "snow 2"]


@pytest.mark.parametrize("pause", [20, 50])
async def test_waiting_for_a_turn_takes_nothing_from_the_time_of_an_edit(pause):
    """With a slot each, all wait for the verdict on the envelope, then for the pause, then for the rate."""
    service = MemoryService(duration=20.0, on_submission=in_order(status(429, retry_after=pause)))
    async with MemorySession(service, envelope="auto", deadline=60.0) as session:
        outcomes = [outcome async for outcome in session.edit_many([{"images": IMAGE, "instruction": "snow"}] * 16)]
    assert [outcome.error for outcome in outcomes] == [None] * 16
    assert len(service.ids) == 16


async def test_a_turn_that_does_not_come_while_the_service_accepts_nothing_is_waited_for_until_the_deadline():
    service = MemoryService(on_submission=in_order(status(429, retry_after=100)))
    async with MemorySession(service, envelope="auto", deadline=60.0) as session:
        start = now()
        ends = await asyncio.gather(*(session.edit(IMAGE, "snow") for _ in range(3)), return_exceptions=True)
        assert [type(end) for end in ends] == [RateLimitError, DeadlineExceededError, DeadlineExceededError]
        assert now() - start == pytest.approx(60.0, abs=0.1)
        assert session.statistics().in_flight == 0
    assert len(service.submissions) == 1


@pytest.mark.parametrize("seed", range(3))
async def test_a_small_account_is_used_to_the_full_and_seldom_asked_for_too_much(seed):
    durations = Random(seed)
    drawn: list[float] = []

    def duration() -> float:
        drawn.append(durations.lognormvariate(math.log(20.0), 0.35))
        return drawn[-1]

    service = MemoryService(room=4, requests_per_second=2, duration=duration)
    async with MemorySession(service, max_in_flight=64, polling=Learned()) as session:
        start = now()
        outcomes = [outcome async for outcome in session.edit_many([{"images": IMAGE, "instruction": "snow"}] * 200)]
        elapsed = now() - start
    assert all(outcome.ok for outcome in outcomes)
    assert elapsed < 1.15 * sum(drawn) / 4
    assert service.throttled < 0.05 * (len(service.submissions) + len(service.checks))


@pytest.mark.parametrize("answer", [NORMAL, status(429), status(400), refused()], ids=str)
async def test_the_service_never_has_more_than_max_in_flight(answer):
    service = MemoryService(on_submission=lambda n: answer if n % 3 == 0 else NORMAL)
    async with MemorySession(service, max_in_flight=5) as session:
        await asyncio.gather(*(session.edit(IMAGE, "snow") for _ in range(60)), return_exceptions=True)
    assert 4 <= service.peak_unfinished <= 5


@pytest.mark.parametrize("answer", [lost(), HANGS, NEVER], ids=["lost", "hangs", "stuck"])
async def test_never_more_than_max_in_flight_are_submitted_or_waited_for(answer):
    service = MemoryService(on_submission=lambda n: answer if n % 3 == 0 else NORMAL)
    async with MemorySession(service, max_in_flight=5) as session:
        edits = [asyncio.create_task(session.edit(IMAGE, "snow", deadline=30.0)) for _ in range(60)]
        peak, waiting = 0, set(edits)
        for number in range(0, 60, 7):
            _, waiting = await asyncio.wait(waiting, timeout=0.3)
            counts = session.statistics()
            peak = max(peak, counts.in_flight)
            assert counts.watched <= counts.in_flight
            edits[number].cancel()
        await asyncio.gather(*edits, return_exceptions=True)
        assert session.statistics().in_flight == 0
    assert peak == 5


async def test_a_hundred_submissions_at_most_wait_for_their_replies():
    waiting = []

    def answer(_: int) -> Answer:
        counts = session.statistics()
        waiting.append(counts.in_flight - counts.watched)
        return Answer(delay=10.0)

    service = MemoryService(duration=100.0, on_submission=answer)
    async with MemorySession(service, max_in_flight=400, polling=FixedInterval(100.0)) as session:
        requests = ({"image": IMAGE, "instruction": "snow"} for _ in range(800))
        assert [outcome.error async for outcome in session.edit_many(requests)] == [None] * 800
    assert (max(waiting), service.peak_unfinished) == (100, 400)


async def test_no_clock_runs_before_there_is_a_slot():
    service = MemoryService(duration=50.0)
    async with MemorySession(service, max_in_flight=1, deadline=60.0) as session:
        results = await asyncio.gather(*(session.edit(IMAGE, "snow") for _ in range(10)))
    assert max(result.timings.queued for result in results) > 400


# Errors that concern the whole session.

FATAL = {
    "401": (status(401), AuthenticationError),
    "402": (status(402), InsufficientBalanceError),
    "403": (status(403), PermissionDeniedError),
    **{f"code {code}": (status(400, code=code), InsufficientBalanceError) for code in (40201, 40204, 40208)},
    "code in a success": (
        says({"error": {"code": "40203", "message": "balance too low"}}),
        InsufficientBalanceError,
    ),
}


@pytest.mark.parametrize(("answer", "kind"), FATAL.values(), ids=FATAL)
async def test_a_lost_account_stops_all_submissions_but_no_wait(answer, kind):
    service = MemoryService(duration=20.0, on_submission=lambda n: answer if n == 2 else NORMAL)
    async with MemorySession(service, max_in_flight=2) as session:
        running = await session.submit(IMAGE, "snow")
        edits = [asyncio.create_task(session.edit(IMAGE, "snow")) for _ in range(5)]
        errors = await asyncio.gather(*edits, return_exceptions=True)
        assert [type(error) for error in errors] == [kind] * 5
        with pytest.raises(kind):
            await session.submit(IMAGE, "snow")
        assert (await running).task_id == "task-1"
    assert len(service.submissions) == 2


@pytest.mark.parametrize("wait", [status(503), status(503, retry_after=3600)], ids=["backing off", "in a pause"])
async def test_a_lost_account_ends_the_waits_before_another_attempt_at_once(wait):
    service = MemoryService(on_submission=in_order(wait, attrs.evolve(status(401), delay=0.05)))
    async with MemorySession(service, max_in_flight=2, deadline=7200.0, random=Drawing(1.0)) as session:
        start = now()
        edits = [asyncio.create_task(session.edit(IMAGE, "snow")) for _ in range(2)]
        errors = await asyncio.gather(*edits, return_exceptions=True)
        assert [type(error) for error in errors] == [AuthenticationError] * 2
        assert now() - start < 0.1
    assert len(service.submissions) == 2


# Replies.


@pytest.mark.parametrize("torn", ['{"id": "task-77", "sta', '{"status": "in_progress", "task_id": "task-77"'])
async def test_a_torn_reply_that_holds_an_id_is_used(torn):
    service = MemoryService(duration=3.0, on_submission=in_order(says(torn.encode(), complete=False)))
    service.ends["task-77"] = 3.0
    async with MemorySession(service) as session:
        assert (await session.edit(IMAGE, "snow")).task_id == "task-77"


async def test_a_reply_that_is_already_terminal_needs_no_check():
    picture = {"content": [{"type": "image", "url": "https://results.example/x.png"}]}
    reply = says({"id": "x", "status": "completed", "output": [picture]})
    service = MemoryService(on_submission=in_order(reply))
    async with MemorySession(service) as session:
        result = await session.edit(IMAGE, "snow")
        assert session.statistics().in_flight == 0
    assert (result.task_id, len(service.checks)) == ("x", 0)


PICTURELESS = {"id": "task-1", "status": "completed", "output": None}


@pytest.mark.parametrize("submitted", [None, says(PICTURELESS)])
async def test_pictures_that_come_after_the_task_is_completed_are_waited_for(submitted):
    answers = in_order(*[says(PICTURELESS)] * 3)
    service = MemoryService(duration=0.0, on_check=lambda *_: answers())
    service.on_submission = lambda _: attrs.evolve(submitted or NORMAL, accepted=True)
    async with MemorySession(service) as session:
        result = await session.edit(IMAGE, "snow")
        assert session.statistics().in_flight == 0
    assert (result.task_id, len(result.images), len(service.checks)) == ("task-1", 1, 4)


@pytest.mark.parametrize("submitted", [None, says(PICTURELESS)])
async def test_a_task_that_is_completed_but_gets_no_pictures_is_an_error_that_names_it(submitted):
    service = MemoryService(duration=0.0, on_check=lambda *_: says(PICTURELESS))
    service.on_submission = lambda _: attrs.evolve(submitted or NORMAL, accepted=True)
    async with MemorySession(service) as session:
        with pytest.raises(APIResponseError, match="task task-1 is completed") as caught:
            await session.edit(IMAGE, "snow")
        assert session.unfinished == ("task-1",)
    assert caught.value.task_id == "task-1"
    assert asyncio.get_running_loop().time() < 90


async def test_the_indexes_of_pictures_are_their_places_in_the_output():
    output = [{"url": "https://r/0"}, None, {"url": "https://r/2"}]
    service = MemoryService(duration=0.0, on_check=lambda *_: says(PICTURELESS | {"output": output}))
    async with MemorySession(service) as session:
        result = await session.edit(IMAGE, "snow", n=3)
        stored = session.pictures("task-1", ["https://r/0", "", "https://r/2"])
    assert [(image.index, image.url) for image in result.images] == [(0, "https://r/0"), (2, "https://r/2")]
    assert stored == result.images


@pytest.mark.parametrize(
    ("named", "asked", "note"),
    [
        (2, {"n": 4}, "the service gave 2 of the 4 requested pictures"),
        (1, {"n": 2}, "the service gave 1 of the 2 requested pictures"),
        (2, {"n": 2}, None),
        (2, {"n": 1}, None),
        (1, {}, None),
    ],
)
async def test_fewer_pictures_than_were_asked_for_are_noted_and_not_asked_for_again(named, asked, note, caplog):
    output = [None, *({"url": f"https://r/{number}"} for number in range(named))]
    service = MemoryService(duration=0.0, on_check=lambda *_: says(PICTURELESS | {"output": output}))
    async with MemorySession(service) as session:
        result = await session.edit(IMAGE, "snow", **asked)
        attached = await session.attach("task-1")
    assert (result.notes, attached.notes) == (() if note is None else (note,), ())
    assert len(service.submissions) == 1
    assert [record.getMessage() for record in caplog.records] == ([] if note is None else [f"task task-1: {note}"])


# The envelope.


@pytest.mark.parametrize(
    ("taken", "sent"),
    [("flat", ["flat", "flat", "flat"]), ("params", ["flat", "params", "params", "params"])],
)
async def test_the_envelope_is_found_out_once(taken, sent):
    service = MemoryService(envelope=taken)
    async with MemorySession(service, envelope="auto") as session:
        for _ in range(3):
            await session.edit(IMAGE, "snow")
    assert [each.envelope for each in service.submissions] == sent


async def test_the_change_of_envelope_is_logged_once(caplog):
    caplog.set_level(logging.WARNING, "qwen_edit_async")
    async with MemorySession(MemoryService(envelope="params"), envelope="auto") as session:
        await asyncio.gather(*(session.edit(IMAGE, "snow") for _ in range(5)))
    assert [record.message for record in caplog.records] == [
        (
            f"the service refused the request body of {GenerationProtocol('flat')}, "
            f"but accepted that of {GenerationProtocol('params')}, which is used from now on"
        )
    ]


async def test_nothing_is_logged_if_the_first_envelope_is_accepted(caplog):
    caplog.set_level(logging.WARNING, "qwen_edit_async")
    async with MemorySession(MemoryService(envelope="flat"), envelope="auto") as session:
        await session.edit(IMAGE, "snow")
    assert not caplog.records


async def test_submissions_that_start_meanwhile_wait_for_the_verdict():
    service = MemoryService(envelope="params", latency=1.0)
    async with MemorySession(service, envelope="auto") as session:
        await asyncio.gather(*(session.edit(IMAGE, "snow") for _ in range(8)))
    assert [each.envelope for each in service.submissions] == ["flat"] + ["params"] * 8
    assert service.submissions[2].at >= service.submissions[1].at + 1.0
    assert service.submissions[-1].at == service.submissions[2].at  # then all are sent at once


@pytest.mark.parametrize(
    "refusal",
    [status(422), says({"error": {"code": 400, "error_message": "input must be an array"}})],
    ids=["422", "200"],
)
async def test_other_refusals_that_also_mean_another_envelope(refusal):
    service = MemoryService(on_submission=in_order(refusal))
    async with MemorySession(service, envelope="auto") as session:
        await session.edit(IMAGE, "snow")
    assert [each.envelope for each in service.submissions] == ["flat", "params"]


async def test_what_both_envelopes_are_refused_with_is_the_first_error():
    answers = in_order(status(400, error_message="first"), status(400, error_message="second"))
    service = MemoryService(on_submission=answers)
    async with MemorySession(service, envelope="auto") as session:
        with pytest.raises(BadRequestError, match="first"):
            await session.edit(IMAGE, "snow")
        await session.edit(IMAGE, "snow")
    assert [each.envelope for each in service.submissions] == ["flat", "params", "flat"]


async def test_once_settled_a_400_is_nobody_elses_fault():
    service = MemoryService(on_submission=in_order(NORMAL, status(400)))
    async with MemorySession(service, envelope="auto") as session:
        await session.edit(IMAGE, "snow")
        with pytest.raises(BadRequestError):
            await session.edit(IMAGE, "snow")
    assert [each.envelope for each in service.submissions] == ["flat", "flat"]


@pytest.mark.parametrize("failure", [status(413), status(500), lost(), refused(), status(429)], ids=str)
async def test_a_failure_that_is_not_about_the_form_settles_nothing(failure):
    service = MemoryService(envelope="params", on_submission=in_order(failure))
    async with MemorySession(service, envelope="auto", resubmit_uncertain=True) as session:
        try:
            await session.edit(IMAGE, "snow")
        except BadRequestError:
            await session.edit(IMAGE, "snow")
    assert [each.envelope for each in service.submissions] == ["flat", "flat", "params"]


async def test_the_other_envelope_failing_for_another_reason_is_that_reason():
    service = MemoryService(on_submission=in_order(status(400), lost()))
    async with MemorySession(service, envelope="auto") as session:
        with pytest.raises(SubmitUncertainError):
            await session.edit(IMAGE, "snow")
        await session.edit(IMAGE, "snow")
    assert [each.envelope for each in service.submissions] == ["flat", "params", "flat"]


async def test_another_refusal_of_the_other_envelope_is_raised_instead_of_the_first():
    service = MemoryService(on_submission=in_order(status(400), status(413)))
    async with MemorySession(service, envelope="auto") as session:
        with pytest.raises(BadRequestError) as caught:
            await session.edit(IMAGE, "snow")
    assert caught.value.status_code == 413
    assert [each.envelope for each in service.submissions] == ["flat", "params"]


@pytest.mark.parametrize("pinned", ["flat", "params"])
async def test_a_pinned_envelope_is_the_only_one_tried(pinned):
    service = MemoryService(on_submission=lambda _: status(400))
    async with MemorySession(service, envelope=pinned) as session:
        with pytest.raises(BadRequestError):
            await session.edit(IMAGE, "snow")
    assert [each.envelope for each in service.submissions] == [pinned]


async def test_a_probing_submission_that_is_cancelled_lets_the_next_probe():
    service = MemoryService(envelope="params", on_submission=in_order(NEVER))
    async with MemorySession(service, envelope="auto") as session:
        edits = [asyncio.create_task(session.edit(IMAGE, "snow")) for _ in range(3)]
        await asyncio.sleep(1)
        assert len(service.submissions) == 1
        edits[0].cancel()
        await asyncio.gather(*edits[1:])
    assert [each.envelope for each in service.submissions] == ["flat", "flat", "params", "params"]


async def test_the_other_envelope_is_not_tried_if_nobody_waits_any_more():
    service = MemoryService(on_submission=in_order(attrs.evolve(status(400), delay=5.0)))
    async with MemorySession(service, envelope="auto") as session:
        await given_up(session.edit(IMAGE, "snow"))
        await asyncio.sleep(5)
        assert session.statistics().uncertain == 0
    assert [each.envelope for each in service.submissions] == ["flat"]


# Deadlines and cancellation while submitting.


async def test_a_deadline_before_anything_was_sent_is_no_uncertainty():
    service = MemoryService(on_submission=lambda _: NEVER)
    async with MemorySession(service) as session:
        with pytest.raises(DeadlineExceededError, match="before the edit could be submitted") as caught:
            await session.edit(IMAGE, "snow", deadline=5.0)
        assert session.statistics().in_flight == 0
    assert caught.value.task_id is None
    assert len(service.aborted) == 1


async def test_a_deadline_while_the_reply_is_pending_is_uncertain_and_the_id_is_kept_when_it_comes(caplog):
    service = MemoryService(on_submission=in_order(Answer(delay=20.0)))
    async with MemorySession(service) as session:
        with pytest.raises(SubmitUncertainError, match="deadline"):
            await session.edit(IMAGE, "snow", deadline=5.0)
        assert (session.unfinished, session.statistics().uncertain) == ((), 1)
        await asyncio.sleep(30)
        assert session.unfinished == ("task-1",)
    assert "a submission that nobody waits for any more created task task-1: session.attach('task-1')" in caplog.text
    assert service.aborted == []


async def test_a_reply_that_arrives_in_the_same_step_as_the_deadline_is_taken():
    """After a step that took too long, the event loop finds a reply and an expired timer together."""
    too_short_for_a_step_between = 1e-10
    service = MemoryService(latency=0.0, on_submission=in_order(Answer(delay=10.0 - too_short_for_a_step_between)))
    async with MemorySession(service) as session:
        start = now()
        task = await session.submit("https://pictures.example/cat.png", "snow", deadline=10.0)
        assert (task.id, now() - start) == ("task-1", pytest.approx(10.0))
        assert session.statistics().uncertain == 0


@pytest.mark.parametrize("deadline", [2.0, 600.0], ids=["deadline", "cancelled"])
async def test_a_refusal_that_nobody_waits_for_holds_the_whole_session_back(deadline):
    busy = attrs.evolve(status(429, retry_after=60), delay=5.0)
    service = MemoryService(on_submission=in_order(busy))
    async with MemorySession(service) as session:
        await given_up(session.edit(IMAGE, "snow", deadline=deadline))
        assert session.statistics().uncertain == 1
        await asyncio.sleep(5)
        assert (session.statistics().uncertain, session.statistics().throttled) == (0, 1)
        await session.edit(IMAGE, "snow")
    first, second = service.submissions
    assert second.at - first.at >= 65.0


async def test_a_refused_key_that_nobody_waits_for_ends_the_session_s_submissions():
    service = MemoryService(on_submission=in_order(attrs.evolve(status(401), delay=5.0)))
    async with MemorySession(service) as session:
        await given_up(session.edit(IMAGE, "snow"))
        await asyncio.sleep(5)
        with pytest.raises(AuthenticationError):
            await session.edit(IMAGE, "snow")
    assert len(service.submissions) == 1


async def test_a_lost_reply_that_nobody_waits_for_stays_uncertain():
    service = MemoryService(on_submission=in_order(attrs.evolve(lost(), delay=5.0)))
    async with MemorySession(service) as session:
        await given_up(session.edit(IMAGE, "snow"))
        await asyncio.sleep(5)
        assert session.statistics().uncertain == 1


@pytest.mark.parametrize("steps", [0, 1], ids=["before it is read", "after it was read"])
async def test_a_refusal_that_comes_as_the_edit_is_cancelled_is_heeded_and_no_uncertainty(steps):
    service = MemoryService(on_submission=in_order(HANGS))
    async with MemorySession(service) as session:
        await cancelled_as_it_is_answered(session, status(429, retry_after=60).reply, steps)
        assert (session.statistics().throttled, session.statistics().uncertain) == (1, 0)
        await session.edit(IMAGE, "snow")
    first, second = service.submissions
    assert second.at - first.at >= 60.0


@pytest.mark.parametrize("steps", [0, 1])
async def test_a_reply_that_is_lost_as_the_edit_is_cancelled_is_noted(steps):
    async with MemorySession(MemoryService(on_submission=in_order(HANGS))) as session:
        edit = await cancelled_as_it_is_answered(session, lost().reply, steps)
        assert session.statistics().uncertain == 1
    with pytest.raises(asyncio.CancelledError) as caught:
        await edit
    assert "a task may exist and be charged" in caught.value.__notes__[0]


@pytest.mark.parametrize("steps", [0, 1])
async def test_a_connection_that_is_refused_as_the_edit_is_cancelled_is_no_uncertainty(steps):
    service = MemoryService(on_submission=in_order(Answer(uploaded=False)))
    async with MemorySession(service) as session:
        await cancelled_as_it_is_answered(session, refused().reply, steps)
        assert session.statistics().uncertain == 0


async def cancelled_as_it_is_answered(session, reply, steps):
    """Return an edit whose cancellation comes so many steps of the event loop after the answer."""
    answer = asyncio.get_running_loop().create_future()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryService, "_reply", lambda *_: answer)
        edit = asyncio.create_task(session.edit(IMAGE, "snow"))
        await asyncio.sleep(1)
        (answer.set_exception if isinstance(reply, Exception) else answer.set_result)(reply)
        for _ in range(steps):
            await asyncio.sleep(0)
        edit.cancel()
        await asyncio.wait([edit])
    assert edit.cancelled()
    return edit


async def given_up(edit):
    """An edit, cancelled after three seconds if it has not ended."""
    edit = asyncio.create_task(edit)
    await asyncio.wait([edit], timeout=3)
    edit.cancel()
    await asyncio.wait([edit])


async def test_a_deadline_after_submission_names_the_task():
    async with MemorySession(MemoryService(duration=100.0)) as session:
        with pytest.raises(DeadlineExceededError) as caught:
            await session.edit(IMAGE, "snow", deadline=5.0)
        assert (caught.value.task_id, session.unfinished) == ("task-1", ("task-1",))


async def test_cancelling_while_the_reply_is_pending_keeps_the_id(caplog):
    service = MemoryService(on_submission=in_order(Answer(delay=20.0)))
    async with MemorySession(service) as session:
        edit = asyncio.create_task(session.edit(IMAGE, "snow"))
        await asyncio.sleep(1)
        edit.cancel()
        await asyncio.wait([edit])
        assert session.statistics().in_flight == 0
        await asyncio.sleep(30)
        assert session.unfinished == ("task-1",)
        assert (session.statistics().submitted, session.statistics().cancelled) == (1, 1)
    assert "'task-1'" in caplog.text


async def test_cancelling_before_the_body_was_whole_aborts_the_post():
    service = MemoryService(on_submission=in_order(NEVER))
    async with MemorySession(service) as session:
        edit = asyncio.create_task(session.edit(IMAGE, "snow"))
        await asyncio.sleep(1)
        edit.cancel()
        await asyncio.wait([edit])
        assert [call.method for call in service.aborted] == ["POST"]
        assert service.calls_under_way == 0


async def test_closing_waits_a_little_for_the_id_of_what_was_sent():
    service = MemoryService(on_submission=in_order(Answer(delay=3.0)))
    async with MemorySession(service) as session:
        edit = asyncio.create_task(session.edit(IMAGE, "snow"))
        await asyncio.sleep(1)
        edit.cancel()
    assert session.unfinished == ("task-1",)


async def test_closing_does_not_wait_long_for_the_id_of_what_was_sent():
    service = MemoryService(on_submission=in_order(HANGS))
    async with MemorySession(service) as session:
        edit = asyncio.create_task(session.edit(IMAGE, "snow"))
        await asyncio.sleep(1)
        edit.cancel()
        start = now()
    assert now() - start == pytest.approx(5.0, abs=0.1)


# Before anything is sent.


async def test_an_image_that_is_none_is_refused_before_anything_is_sent(tmp_path):
    path = tmp_path / "notes.jpg"
    path.write_text("no picture")
    service = MemoryService()
    async with MemorySession(service) as session:
        with pytest.raises(InvalidEditError):
            await session.edit(path, "snow")
        assert (session.statistics().refused, session.statistics().in_flight) == (1, 0)
    assert service.submissions == []


@pytest.mark.parametrize("error", [APITimeoutError, APIConnectionError])
async def test_a_connection_that_was_never_made_costs_no_uncertainty(error):
    service = MemoryService(on_submission=lambda _: Answer(error("nothing there"), uploaded=False))
    async with MemorySession(service) as session:
        with pytest.raises(error):
            await session.edit(IMAGE, "snow")
        assert session.statistics().uncertain == 0
    assert len(service.submissions) == 3


async def test_two_submissions_that_are_answered_with_the_same_id_both_end():
    service = MemoryService(duration=3.0, on_submission=lambda n: says({"id": "task-1"}) if n == 2 else NORMAL)
    async with MemorySession(service) as session:
        async with asyncio.timeout(100):
            results = await asyncio.gather(session.edit(IMAGE, "snow"), session.edit(IMAGE, "snow"))
        assert [result.task_id for result in results] == ["task-1", "task-1"]
        assert session.statistics().in_flight == 0
        assert session.unfinished == ()


async def test_a_retry_after_that_is_about_one_task_alone_holds_nobody_up():
    service = MemoryService(on_submission=lambda n: status(404, retry_after=1000) if n == 1 else NORMAL)
    async with MemorySession(service) as session:
        with pytest.raises(NotFoundError):
            await session.edit(IMAGE, "snow")
        async with asyncio.timeout(100):
            await session.edit(IMAGE, "snow")


async def test_an_attempt_that_was_announced_is_settled_but_not_sent_if_the_session_stops_submitting_meanwhile():
    announced, stopped, fates = asyncio.Event(), asyncio.Event(), []

    class Observer:
        async def about_to_submit(self, uploads):
            announced.set()
            await stopped.wait()

        def settled(self, fate):
            fates.append(fate)

    service = MemoryService(on_submission=lambda _: status(403))
    async with MemorySession(service) as session, asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(refusal_of(session.submit(IMAGE, "snow", observer=Observer())))
        await announced.wait()
        assert isinstance(await refusal_of(session.edit(IMAGE, "snow")), PermissionDeniedError)
        stopped.set()
    assert isinstance(waiting.result(), PermissionDeniedError)
    assert fates == [CallFailure.ENDS_SESSION]
    assert len(service.submissions) == 1


@pytest.mark.parametrize(
    ("answer", "fate", "kind"),
    [
        (HANGS, CallFailure.UNCERTAIN, SubmitUncertainError),
        (NEVER, CallFailure.REFUSED, SessionClosedError),
    ],
    ids=["sent whole", "not sent whole"],
)
async def test_an_attempt_that_the_end_of_the_session_cancels_is_settled_as_uncertain_once_it_was_sent_whole(
    answer, fate, kind
):
    fates = []

    class Observer:
        async def about_to_submit(self, uploads):
            pass

        def settled(self, fate):
            fates.append(fate)

    service = MemoryService(on_submission=lambda _: answer)
    session = await MemorySession(service).open()
    waiting = asyncio.create_task(refusal_of(session.submit(IMAGE, "snow", observer=Observer())))
    await asyncio.sleep(1)
    assert (len(service.submissions), fates) == (1, [])
    await session.__aexit__(KeyError, KeyError(), None)
    assert isinstance(await waiting, kind)
    assert fates == [fate]


async def refusal_of(edit):
    with pytest.raises(QwenEditError) as caught:
        await edit
    return caught.value


async def test_a_connection_that_goes_on_after_a_cancellation_sends_nothing_more():
    go_on, chunks, writing = asyncio.Event(), [], []

    class Connection:
        async def write(self, chunk):
            chunks.append(chunk)

    class Unstoppable(MemoryService):
        async def send(self, call, body=None):
            writing.append(asyncio.create_task(self.write(body)))
            return await asyncio.shield(writing[0])

        async def write(self, body):
            await go_on.wait()
            await body.write(Connection())

    async with MemorySession(Unstoppable()) as session:
        edit = asyncio.create_task(session.edit(IMAGE, "snow"))
        await asyncio.sleep(1.0)
        edit.cancel()
        await asyncio.wait([edit])
        go_on.set()
        with pytest.raises(APIConnectionError, match="given up before the whole request was sent"):
            await writing[0]
    assert not chunks
