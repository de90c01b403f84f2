"""The question what an edit would cost."""

from __future__ import annotations

import asyncio
import json
import threading
from decimal import Decimal

import pytest
from bulk_runs import PHOTO
from memory_transport import IMAGE, MemoryService, MemorySession, status

from qwen_edit_async import (
    APIConnectionError,
    APIResponseError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    DeadlineExceededError,
    EditRequest,
    EditSession,
    InsufficientBalanceError,
    InvalidEditError,
    NotFoundError,
    RateLimitError,
)
from qwen_edit_async.contract import SUBMIT_PATH
from qwen_edit_async.emulator import EditEmulator, FixedEngine
from qwen_edit_async.protocol.base import Reply

pytestmark = pytest.mark.anyio


class PricedService(MemoryService):
    """Answers the question with each of these replies in turn, and the last again and again."""

    def __init__(self, *answers):
        super().__init__()
        self.answers, self.asked = list(answers), []

    async def send(self, call, body=None):
        assert call.path == f"{SUBMIT_PATH}/precharge"
        self.asked.append(json.loads(b"".join(call.parts).replace(b"\0", b"")))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def says(document, status_code=200):
    return Reply(status=status_code, body=json.dumps(document).encode())


PRICE = says({"status": "success", "data": {"cost": "0.0357", "currency": "USD"}})


@pytest.mark.parametrize("envelope", ["flat", "params", "header", "auto"])
@pytest.mark.parametrize("wanted", ["flat", "params", "header"])
async def test_the_emulator_tells_the_price_and_creates_nothing(envelope, wanted):
    async with (
        EditEmulator(engine=FixedEngine(), price=Decimal("0.02"), envelope=wanted) as emulator,
        EditSession(emulator.api_key, base_url=emulator.url, envelope=envelope, max_retries=0) as session,
    ):
        if envelope == wanted or (envelope == "auto" and wanted != "header"):
            estimate = await session.estimate(PHOTO, "make it snow", n=3, key="mine", deadline=60)
            assert (estimate.cost, estimate.currency) == (Decimal("0.06"), "USD")
            assert estimate.raw["status"] == "success"
            assert await session.estimate(EditRequest([PHOTO], "make it snow")) != estimate
        else:
            with pytest.raises(BadRequestError, match="the service gives no price: "):
                await session.estimate(PHOTO, "make it snow")
        assert session.statistics().submitted == emulator.statistics().tasks_created == 0


@pytest.mark.parametrize("protocol", ["queue", "dashscope"])
async def test_a_protocol_without_the_question_says_so(protocol):
    async with EditSession("key", protocol=protocol) as session:
        with pytest.raises(ConfigurationError, match=f"the protocol '{protocol}' can't tell what an edit costs; give"):
            await session.estimate(IMAGE, "snow")


@pytest.mark.virtual_clock
@pytest.mark.parametrize(
    ("answer", "error", "found"),
    [
        (
            says({"error": "no route"}, 404),
            NotFoundError,
            "this gateway can't tell what an edit costs: give a bulk run or hub the price",
        ),
        (says({"data": {"cost": None, "reason": "bad size"}}), BadRequestError, "gives no price: bad size"),
        (says({"error": {"code": 40201, "message": "empty"}}), InsufficientBalanceError, "empty"),
        (says({"error": {"message": "who?"}}, 401), AuthenticationError, "who"),
        (says({"status": "failed", "data": {"cost": "9", "reason": "no model"}}), BadRequestError, "no model"),
        (says({"status": "failed", "data": {"cost": "9"}, "message": "try later"}), APIStatusError, "try later"),
        (says({"status": "failed", "data": {"cost": "9"}}), APIStatusError, "the service gave no reason"),
        (says({"error_code": 40201, "data": {"cost": "9"}}), InsufficientBalanceError, "40201"),
        (says({"data": []}), APIResponseError, "the reply has no cost"),
        (says({"data": {"cost": ""}}), APIResponseError, "the reply has no cost"),
        (says({"data": {"cost": "-1"}}), APIResponseError, "the reply has no cost"),
    ],
)
async def test_what_is_no_price_is_an_error(answer, error, found):
    async with MemorySession(PricedService(answer)) as session:
        with pytest.raises(error, match=found):
            await session.estimate(IMAGE, "snow")


@pytest.mark.virtual_clock
async def test_temporary_failures_are_repeated():
    service = PricedService(status(429).reply, APIConnectionError("lost"), PRICE)
    async with MemorySession(service) as session:
        assert (await session.estimate(IMAGE, "snow")).cost == Decimal("0.0357")
        assert (session.statistics().checks, session.statistics().failed_checks) == (1, 2)
        service.answers[:] = [status(429).reply]
        with pytest.raises(RateLimitError):
            await session.with_options(max_retries=0).estimate(IMAGE, "snow")
        with pytest.raises(DeadlineExceededError, match="before the service gave the price"):
            await session.with_options(max_retries=1000).estimate(IMAGE, "snow", deadline=5)


@pytest.mark.virtual_clock
async def test_the_other_form_is_asked_for_once_and_its_refusal_is_not_raised():
    refusals = [status(400, error_message=word).reply for word in ("the first", "the second")]
    service = PricedService(*refusals)
    async with MemorySession(service, envelope="auto") as session:
        with pytest.raises(BadRequestError, match="the first"):
            await session.estimate(IMAGE, "snow")
    assert [type(body["input"]) for body in service.asked] == [dict, list]


@pytest.mark.virtual_clock
async def test_another_refusal_of_the_other_form_is_raised_instead_of_the_first():
    service = PricedService(status(400).reply, status(413).reply)
    async with MemorySession(service, envelope="auto") as session:
        with pytest.raises(BadRequestError) as caught:
            await session.estimate(IMAGE, "snow")
    assert caught.value.status_code == 413
    assert [type(body["input"]) for body in service.asked] == [dict, list]


@pytest.mark.virtual_clock
@pytest.mark.parametrize("envelope", ["flat", "auto"])
async def test_a_refusal_with_http_200_is_not_repeated(envelope):
    service = PricedService(says({"status": "failed", "data": {"cost": None, "reason": "no such model"}}))
    async with MemorySession(service, envelope=envelope) as session:
        with pytest.raises(BadRequestError, match="no such model"):
            await session.estimate(IMAGE, "snow")
        assert session.statistics().failed_checks == 1
    assert [type(body["input"]) for body in service.asked] == ([dict] if envelope == "flat" else [dict, list])


@pytest.mark.virtual_clock
@pytest.mark.parametrize("refusal", [status(400).reply, says({"data": {"reason": "malformed"}})], ids=["400", "200"])
async def test_the_other_form_is_asked_for_next_but_only_after_a_pause(refusal):
    loop, asked_at = asyncio.get_running_loop(), []

    class PausedService(PricedService):
        async def send(self, call, body=None):
            if body is None:  # the check of another task
                return status(429, retry_after=30.0).reply
            asked_at.append(loop.time())
            if len(asked_at) == 1:
                with pytest.raises(RateLimitError):
                    await session.with_options(max_retries=0).status("another")
            return await super().send(call, body)

    service = PausedService(refusal, PRICE)
    async with MemorySession(service, envelope="auto") as session:
        assert (await session.estimate(IMAGE, "snow")).cost == Decimal("0.0357")
    assert [type(body["input"]) for body in service.asked] == [dict, list]
    assert asked_at[1] - asked_at[0] >= 30.0


@pytest.mark.virtual_clock
async def test_an_estimate_uses_the_form_that_an_edit_has_found_meanwhile():
    class BusyService(PricedService):
        async def send(self, call, body=None):
            if not call.path.endswith("precharge"):
                return await MemoryService.send(self, call, body)
            await asyncio.sleep(1.0)
            return await super().send(call, body)

    service = BusyService(status(400).reply, PRICE)
    service.envelope = "params"
    async with MemorySession(service, envelope="auto") as session:
        estimate = asyncio.create_task(session.estimate(IMAGE, "snow"))
        await session.edit(IMAGE, "snow")
        assert [each.envelope for each in service.submissions] == ["flat", "params"]
        assert (await estimate).cost == Decimal("0.0357")
    assert [type(body["input"]) for body in service.asked] == [dict, list]


@pytest.mark.virtual_clock
async def test_closing_waits_for_an_estimate():
    class SlowService(PricedService):
        async def send(self, call, body=None):
            await asyncio.sleep(5.0)
            assert not self.closed
            return await super().send(call, body)

    async with MemorySession(SlowService(PRICE)) as session:
        estimate = asyncio.create_task(session.estimate(IMAGE, "snow"))
        await asyncio.sleep(1.0)
    assert (await estimate).cost == Decimal("0.0357")


@pytest.mark.virtual_clock
async def test_a_timeout_of_the_connection_stays_what_it_is():
    service = PricedService(APITimeoutError("no reply"))
    async with MemorySession(service, max_retries=0) as session:
        with pytest.raises(APITimeoutError):
            await session.estimate(IMAGE, "snow")


async def test_a_bad_request_asks_for_nothing():
    service = PricedService(PRICE)
    async with MemorySession(service) as session:
        with pytest.raises(InvalidEditError, match="n is 9"):
            await session.estimate(IMAGE, "snow", n=9)
        with pytest.raises(InvalidEditError):
            await session.estimate(b"no picture", "snow")
        with pytest.raises(ConfigurationError, match="deadline is 0"):
            await session.estimate(IMAGE, "snow", deadline=0)
    assert service.asked == []


async def test_the_deadline_holds_while_the_images_are_read():
    go_on = threading.Event()

    class Stuck:
        def read(self, size=-1):
            go_on.wait(10)
            return b""

    async with MemorySession(PricedService(PRICE)) as session:
        try:
            async with asyncio.timeout(5):
                with pytest.raises(DeadlineExceededError, match="before the service gave the price"):
                    await session.estimate(Stuck(), "snow", deadline=0.05)
        finally:
            go_on.set()
