from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from decimal import Decimal
from pathlib import Path

import anyio
import attrs
import numpy as np
import pytest
from bulk_runs import LOSES_SIGHT, PHOTO, pictures, service, states, until

from qwen_edit_async import (
    EditBatch,
    EditHub,
    EditParameters,
    EditRequest,
    EditSession,
    InsufficientBalanceError,
    InvalidEditError,
    JournalError,
    SessionClosedError,
)
from qwen_edit_async.batch.fingerprint import ImageHash, hash_image
from qwen_edit_async.batch.journal.database import Store
from qwen_edit_async.batch.journal.journal import JOURNAL_NAME
from qwen_edit_async.batch.rules.decide import State
from qwen_edit_async.emulator import EditEmulator, Fault

pytestmark = pytest.mark.anyio


@pytest.fixture
def job(tmp_path) -> Path:
    return tmp_path / "job"


@pytest.fixture
def request_of(tmp_path):
    """Return a function that makes the request of a key."""
    (tmp_path / "photo.png").write_bytes(PHOTO)

    def make(key: str | None = "a", instruction: str = "make it snow", **parameters: object) -> EditRequest:
        return EditRequest(tmp_path / "photo.png", instruction, EditParameters(**parameters), key=key)

    return make


def created(emulator) -> int:
    return emulator.statistics().tasks_created


async def test_an_edit_is_made_once_and_answered_from_the_journal_afterwards(job, request_of):
    async with service() as (emulator, session):
        async with EditHub(job, session) as hub:
            outcome = await hub.edit(request_of(n=2))
            assert await hub.edit(request_of(n=2)) == outcome
        async with EditHub(job, session) as hub:
            assert await hub.edit(request_of(n=2)) == outcome
            assert (hub.progress.saved, hub.progress.found) == (1, 1)
        assert created(emulator) == 1
    assert (outcome.key, outcome.status, outcome.ok, outcome.error) == ("a", "saved", True, None)
    assert outcome.files == (job / "a-0.png", job / "a-1.png")
    assert outcome.cost == Decimal("0.0714")
    assert pictures(job) == {"a-0.png", "a-1.png"}
    assert json.loads((job / "report.json").read_text(encoding="utf-8"))["saved"] == 1
    assert (hub.report.saved, hub.report.stopped) == (1, "")


async def test_a_mapping_is_a_request_and_a_wrong_one_is_an_outcome(job, request_of):
    async with service() as (emulator, session), EditHub(job, session) as hub:
        outcome = await hub.edit({"image": request_of().images[0], "instruction": "snow", "key": "a", "n": 1})
        wrong = await hub.edit({"image": request_of().images[0], "instruction": "snow", "n": 7})
        assert (outcome.ok, wrong.status, created(emulator)) == (True, "failed", 1)
        assert wrong.error.startswith("n is 7")


async def test_callers_of_a_key_share_its_edit(job, request_of):
    async with service(duration=0.1) as (emulator, session), EditHub(job, session) as hub:
        outcomes = await asyncio.gather(*(hub.edit(request_of()) for _ in range(40)))
        assert {outcome.status for outcome in outcomes} == {"saved"}
        assert created(emulator) == 1


async def test_callers_of_an_edit_that_fails_share_its_failure_and_the_next_caller_tries_again(job, request_of):
    async with service(Fault.status(413).on("submit").times(1)) as (emulator, session), EditHub(job, session) as hub:
        outcomes = await asyncio.gather(*(hub.edit(request_of()) for _ in range(10)))
        assert {outcome.status for outcome in outcomes} == {"failed"}
        assert "413" in outcomes[0].error
        assert emulator.statistics().submits == 1
        assert (await hub.edit(request_of())).ok


@pytest.mark.parametrize("together", [True, False])
async def test_another_content_of_a_key_is_refused_and_changes_nothing(job, request_of, together):
    async with service() as (emulator, session), EditHub(job, session) as hub:
        first, other = request_of(), request_of(instruction="make it rain")
        if together:
            outcome, refused = await asyncio.gather(hub.edit(first), hub.edit(other))
        else:
            outcome, refused = await hub.edit(first), await hub.edit(other)
        assert (outcome.ok, refused.status, refused.instruction) == (True, "failed", "make it rain")
        assert refused.error
        assert (await hub.edit(first)).ok
        assert created(emulator) == 1


async def test_the_outcome_of_a_refused_request_has_its_parameters_and_no_signature(job, request_of):
    url = "https://photos.example/cat.png"
    signed = EditRequest(f"{url}?X-Amz-Date=1&X-Amz-Signature=secret", "snow", EditParameters(n=2, seed=7), key="a")
    async with service() as (_, session), EditHub(job, session) as hub:
        await hub.edit(request_of())
        refused = await hub.edit(signed)
    assert (refused.key, refused.status, refused.instruction) == ("a", "failed", "snow")
    assert (refused.images, refused.parameters) == ((url,), {"n": 2, "seed": 7})


async def test_without_a_key_the_content_is_the_identity(job, request_of):
    async with service() as (emulator, session), EditHub(job, session) as hub:
        in_memory = EditRequest(PHOTO, "make it snow")
        requests = [request_of(None), request_of(None), request_of(None, "rain"), in_memory, in_memory]
        outcomes = [await hub.edit(request) for request in requests]
        assert [outcome.key for outcome in outcomes] == ["photo", "photo", "photo-2", "edit", "edit"]
        assert created(emulator) == 3


async def test_a_folder_is_a_batchs_and_a_hubs_in_turn(job, request_of):
    async with service() as (emulator, session):
        assert (await EditBatch([request_of("a"), request_of(None, "rain")], job).run(session)).ok
        async with EditHub(job, session) as hub:
            assert all([(await hub.edit(each)).ok for each in (request_of("a"), request_of(None, "rain"))])
            assert (await hub.edit(request_of("b"))).ok
            with pytest.raises(JournalError, match="another run"):
                await EditBatch([request_of("a")], job).run(session)
        assert (await EditBatch([request_of("a"), request_of("b")], job).run(session)).saved == 3
        assert created(emulator) == 3


async def test_a_call_that_is_cancelled_leaves_its_edit_to_the_hub(job, request_of):
    async with service(duration=0.1) as (emulator, session), EditHub(job, session) as hub:
        call = asyncio.create_task(hub.edit(request_of()))
        await until(lambda: created(emulator) == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await hub.edit(request_of())).ok
        assert created(emulator) == 1


async def test_a_lost_reply_leaves_the_edit_uncertain_and_consent_repeats_it(job, request_of):
    lost = Fault.drop_reply().on("submit").times(1)
    async with service(lost) as (emulator, session):
        async with EditHub(job, session) as hub:
            outcomes = [await hub.edit(request_of()) for _ in range(2)]
            assert [(each.status, each.task_id) for each in outcomes] == [("uncertain", None)] * 2
            assert "a task may exist" in outcomes[1].error
        assert created(emulator) == 1
        async with EditHub(job, session, resubmit_uncertain=True) as hub:
            assert (await hub.edit(request_of())).ok
            assert (await hub.edit(request_of())).ok
        assert created(emulator) == 2


@pytest.mark.may_block("the test changes the journal itself")
async def test_an_edit_that_was_being_submitted_is_uncertain_for_the_next_hub(job, request_of):
    async with service() as (emulator, session):
        async with EditHub(job, session, max_tasks=0) as hub:
            await hub.edit(request_of())
        store = Store(job / "qwen-edit-journal.sqlite3")
        store.move(1, State.SUBMITTING)
        store.close()
        async with EditHub(job, session) as hub:
            outcome = await hub.edit(request_of())
        assert (outcome.status, outcome.attempts, created(emulator)) == ("uncertain", 1, 0)


async def test_limits_hold_for_all_callers_and_all_hubs_of_the_folder(job, request_of):
    async with service() as (emulator, session):
        async with EditHub(job, session, max_tasks=2) as hub:
            outcomes = await asyncio.gather(*(hub.edit(request_of(str(number))) for number in range(5)))
            assert [outcome.status for outcome in outcomes].count("saved") == 2
            waiting = next(outcome for outcome in outcomes if not outcome.ok)
            assert (waiting.status, waiting.error) == ("planned", "2 tasks created (max_tasks=2)")
            done = next(outcome for outcome in outcomes if outcome.ok)
            assert (await hub.edit(request_of(done.key))).ok
        assert hub.report.stopped == waiting.error
        async with EditHub(job, session, max_cost="0.08") as hub:
            assert not (await hub.edit(request_of("5"))).ok
        assert created(emulator) == 2


async def test_a_hub_goes_on_after_a_lost_reply_at_the_price_that_it_was_given(job, request_of):
    async with service(Fault.drop_reply().on("submit").nth(1)) as (emulator, session):
        for _ in range(2):
            async with EditHub(job, session, max_cost="0.08") as hub:
                assert (await hub.edit(request_of("0"))).status == "uncertain"
                outcome = await hub.edit(request_of("1"))
                assert (outcome.status, "no price is known" in outcome.error) == ("planned", True)
        async with EditHub(job, session, max_cost="0.08", price="0.0357") as hub:
            assert (await hub.edit(request_of("1"))).ok
            assert (await hub.edit(request_of("2"))).status == "planned"
        assert created(emulator) == 2


async def test_no_more_is_in_flight_than_allowed_though_a_hub_left_tasks_behind(job, request_of):
    durations = iter([0.2, 1.0, 1.0, *[0.02] * 6])
    async with service(duration=lambda _: next(durations), max_in_flight=3) as (emulator, session):
        async with EditHub(job, session) as hub:
            calls = [asyncio.create_task(hub.edit(request_of(str(number)))) for number in range(3)]
            await until(lambda: len(session.unfinished) == 3)
        left = await asyncio.gather(*calls)
        assert [(outcome.status, outcome.error) for outcome in left] == [("submitted", "the hub was closed")] * 3
        assert {outcome.task_id for outcome in left} == set(emulator.tasks)
        async with EditHub(job, session) as hub:
            outcomes = await asyncio.gather(*(hub.edit(request_of(str(number))) for number in range(9)))
        assert all(outcome.ok for outcome in outcomes)
        statistics = emulator.statistics()
        assert (statistics.tasks_created, statistics.peak_unfinished) == (9, 3)


async def test_edits_of_an_earlier_hub_are_finished_though_nobody_asks(job, request_of):
    async with service(LOSES_SIGHT.times(1), duration=0.05) as (_, session):
        async with EditHub(job, session) as hub:
            assert (await hub.edit(request_of())).status == "submitted"
        async with EditHub(job, session) as hub:
            await until(lambda: hub.progress.saved == 1)
    assert states(job) == {"a": "saved"}


async def test_an_edit_that_lost_its_file_gets_it_again(job, request_of):
    async with service() as (emulator, session), EditHub(job, session) as hub:
        (path,) = (await hub.edit(request_of())).files
        await asyncio.to_thread(path.unlink)
        assert (await hub.edit(request_of())).ok
        assert (pictures(job), created(emulator)) == ({"a-0.png"}, 1)


async def test_an_error_that_every_edit_would_meet_stops_submitting_and_is_told(job, request_of):
    async with service(balance=Decimal(0)) as (emulator, session), EditHub(job, session) as hub:
        outcomes = [await hub.edit(request_of(key)) for key in "ab"]
        assert [outcome.status for outcome in outcomes] == ["planned", "planned"]
        assert all("balance" in outcome.error for outcome in outcomes)
        assert emulator.statistics().submits == 1
    assert isinstance(hub.report.error, InsufficientBalanceError)


async def test_a_refused_check_of_a_task_of_an_earlier_hub_fails_that_edit_alone(job, request_of):
    refused = Fault.status(403).on("check").for_task(1)
    async with service(LOSES_SIGHT.times(1), refused) as (emulator, session):
        async with EditHub(job, session) as hub:
            assert (await hub.edit(request_of())).status == "submitted"
        async with EditHub(job, session) as hub:
            first, other = await hub.edit(request_of()), await hub.edit(request_of("b"))
            assert (first.status, "HTTP 403" in first.error, other.status) == ("submitted", True, "saved")
        assert (hub.report.error, created(emulator)) == (None, 2)


async def test_what_waits_when_the_hub_closes_is_told_so(job, request_of):
    async with service(duration=30, max_in_flight=1) as (emulator, session):
        async with EditHub(job, session) as hub:
            calls = [asyncio.create_task(hub.edit(request_of(str(number)))) for number in range(40)]
            await until(lambda: session.unfinished)
            late = asyncio.create_task(hub.edit(request_of("late")))
            await asyncio.sleep(0)
        outcomes = await asyncio.gather(*calls, late)
    assert {outcome.error for outcome in outcomes} == {"the hub was closed"}
    assert [outcome.status for outcome in outcomes].count("submitted") == 1
    assert {outcome.status for outcome in outcomes} == {"submitted", "planned"}
    assert created(emulator) == 1


async def test_a_hub_closed_during_a_submission_keeps_the_id(job, request_of):
    async with service(Fault.slow(delay=0.3).on("submit"), duration=0.01) as (emulator, session):
        async with EditHub(job, session) as hub:
            call = asyncio.create_task(hub.edit(request_of()))
            await until(lambda: emulator.statistics().submits == 1)
        assert not (await call).ok
        assert states(job) == {"a": "submitted"}
        async with EditHub(job, session) as hub:
            outcome = await hub.edit(request_of())
        assert (outcome.ok, created(emulator)) == (True, 1)


async def test_a_hub_that_is_not_open_is_an_error(job, request_of):
    async with service() as (_, session):
        hub = EditHub(job, session)
        with pytest.raises(SessionClosedError, match="not open"):
            await hub.edit(request_of())
        async with hub:
            assert hub.report is None
        with pytest.raises(SessionClosedError, match="not open"):
            await hub.edit(request_of())
        with pytest.raises(SessionClosedError, match="only once"):
            await hub.__aenter__()
    with pytest.raises(SessionClosedError):
        await EditHub(job, session).__aenter__()


async def test_nothing_is_asked_of_a_hub_that_opens_or_closes(job, request_of):
    async with service(Fault.slow(delay=0.3).on("submit"), duration=30) as (emulator, session):
        hub = EditHub(job, session)
        opening = asyncio.create_task(hub.__aenter__())
        while not opening.done():
            with pytest.raises(SessionClosedError):
                await hub.edit(request_of())
            await asyncio.sleep(0)
        call = asyncio.create_task(hub.edit(request_of()))
        await until(lambda: emulator.statistics().submits == 1)
        closing = asyncio.create_task(hub.__aexit__(None, None, None))
        while not closing.done():
            await asyncio.sleep(0)
            with pytest.raises(SessionClosedError):
                await hub.edit(request_of("b"))
        await closing
        assert (await call).error == "the hub was closed"
    assert states(job) == {"a": "submitted"}


@pytest.mark.usefixtures("full_disk")
async def test_a_full_disk_ends_the_hub_and_names_each_task(job, request_of):
    async with service() as (emulator, session):
        hub = await EditHub(job, session).__aenter__()
        for call in (hub.edit(request_of()), hub.edit(request_of("b")), hub.wait_failed()):
            with pytest.raises(JournalError):
                await call
        with pytest.raises(JournalError) as caught:
            await hub.__aexit__(None, None, None)
        (task_id,) = emulator.tasks
        assert any(task_id in note for note in caught.value.__notes__)


@pytest.mark.may_block("the test damages the journal itself")
@pytest.mark.parametrize("change", ["request = '{'", "pictures = 0"])
@pytest.mark.parametrize("call", ["submit", "check"])
async def test_a_damaged_edit_is_an_error_before_anything_is_done_for_it(job, request_of, call, change):
    async with service(Fault.status(400).on(call).nth(1)) as (emulator, session):
        async with EditHub(job, session) as hub:
            await hub.edit(request_of())
        tasks, before = created(emulator), states(job)
        with contextlib.closing(sqlite3.connect(job / JOURNAL_NAME)) as journal, journal:
            journal.execute(f"UPDATE edits SET {change}")
        with pytest.raises(JournalError, match="damaged"):
            async with EditHub(job, session) as hub:
                await hub.edit(request_of())
        assert (created(emulator), states(job)) == (tasks, before)


async def test_waiting_for_a_failure_ends_when_the_hub_is_closed(job):
    async with service() as (_, session):
        async with EditHub(job, session) as hub:
            waiting = asyncio.create_task(hub.wait_failed())
            await asyncio.sleep(0)
        with anyio.fail_after(5), pytest.raises(SessionClosedError):
            await waiting


async def test_a_hub_in_a_task_that_is_cancelled_ends_in_order(job, request_of):
    async with service(duration=30) as (emulator, session):

        async def serve() -> None:
            async with EditHub(job, session) as hub:
                calls.append(asyncio.create_task(hub.edit(request_of())))
                await hub.wait_failed()

        calls: list[asyncio.Task] = []
        serving = asyncio.create_task(serve())
        await until(lambda: created(emulator) == 1)
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
        outcome = await calls[0]
    assert (outcome.status, outcome.task_id) == ("submitted", next(iter(emulator.tasks)))
    assert attrs.asdict(outcome)["error"] == "the hub was closed"


async def test_what_a_caller_records_does_not_break_the_hub_whatever_its_types(job, request_of):
    async with service() as (_, session), EditHub(job, session, save=False) as hub:
        assert (await hub.edit(request_of())).name == "a"
        with pytest.raises(JournalError, match=r"has no edit with the name '\\ud800'"):
            await hub.record("\ud800")
        await hub.record("a", error=OSError("the disk is full"))
        assert (await hub.edit(request_of())).error == "the disk is full"
        await hub.record("a", [(Path("a-0.png"), np.int64(10))])
        (saved,) = (await hub.edit(request_of())).files
        assert saved == job / "a-0.png"


async def test_a_hub_that_does_not_save_answers_with_urls_and_records_what_its_callers_say(job, request_of):
    async with service() as (emulator, session):
        async with EditHub(job, session, save=False) as hub:
            outcome = await hub.edit(request_of(n=2))
            assert (outcome.status, outcome.name, outcome.files, outcome.error) == ("completed", "a", (), None)
            assert (len(outcome.urls), outcome.cost) == (2, Decimal("0.0714"))
            assert await hub.edit(request_of(n=2)) == outcome
            assert (await hub.write_report()).unsaved == 1
            with pytest.raises(JournalError, match="has no edit with the name 'A key'"):
                await hub.record("A key", [("a-0.png", 10)])
            assert hub.progress.saved == 0
        async with EditHub(job, session, save=False) as hub:
            assert await hub.edit(request_of(n=2)) == outcome
            for _ in range(2):  # the second call changes nothing
                await hub.record("a", [("a-0.png", 10), ("a-1.png", 20)])
            saved = await hub.edit(request_of(n=2))
            assert (saved.status, saved.urls) == ("saved", outcome.urls)
            assert [path.name for path in saved.files] == ["a-0.png", "a-1.png"]
            assert (hub.progress.saved, hub.progress.pictures, hub.progress.found) == (2, 4, 1)
            report = await hub.write_report()
            assert (report.saved, report.pictures, report.ok) == (1, 2, True)
            assert (report.folder, report.text().splitlines()[0]) == ("", "1 of 1 edit done, 2 pictures")
        assert created(emulator) == 1
    assert pictures(job) == set()
    assert json.loads((job / "report.json").read_text(encoding="utf-8"))["saved"] == 1


@pytest.mark.parametrize("name", ["other", "half a character \ud800"])
async def test_a_record_of_an_unknown_name_is_an_error_and_the_hub_goes_on(job, request_of, name):
    async with service() as (_, session), EditHub(job, session, save=False) as hub:
        with pytest.raises(JournalError, match="has no edit with the name"):
            await hub.record(name)
        assert (await hub.edit(request_of())).status == "completed"


async def test_images_are_loaded_only_for_an_edit_that_is_submitted(job):
    names = []

    async def load(name):
        names.append(name)
        return [PHOTO]

    async def fail(name):
        raise InvalidEditError("the image is gone")

    request = EditRequest(ImageHash(hash_image(PHOTO)), "make it snow", key="a")
    async with service() as (emulator, session), EditHub(job, session) as hub:
        for _ in range(2):
            outcome = await hub.edit(request, load_images=fail)
            assert (outcome.status, outcome.error, emulator.statistics().submits) == ("failed", "the image is gone", 0)
        outcomes = await asyncio.gather(*(hub.edit(request, load_images=load) for _ in range(3)))
        assert [outcome.status for outcome in [*outcomes, await hub.edit(request, load_images=fail)]] == ["saved"] * 4
        assert (await hub.edit(EditRequest(PHOTO, "make it snow", key="a"))).ok
        other = EditRequest(ImageHash("another"), "make it snow", key="a")
        assert (await hub.edit(other, load_images=load)).status == "failed"
        assert (names, created(emulator)) == (["a"], 1)
        outcome = await hub.edit(EditRequest(ImageHash("b"), "make it snow", key="b"))
        assert "another process holds the image" in outcome.error


@pytest.mark.parametrize("trouble", [OSError(5, "the network drive is gone"), RuntimeError()])
async def test_images_that_can_not_be_loaded_fail_their_edit_alone(job, request_of, trouble):
    async def fail(name):
        raise trouble

    async with service(duration=0.2) as (emulator, session), EditHub(job, session) as hub:
        other = asyncio.create_task(hub.edit(request_of("b")))
        await until(lambda: created(emulator) == 1)
        for _ in range(2):
            outcome = await hub.edit(request_of(), load_images=fail)
            assert (outcome.status, outcome.task_id, outcome.attempts) == ("failed", None, 0)
            assert outcome.error == f"the images can't be loaded: {str(trouble) or 'RuntimeError'}"
        assert (await other).ok
        assert (await hub.edit(request_of())).ok
        assert created(emulator) == 2


async def test_a_hub_submits_nothing_more_if_its_callers_can_save_nothing(job, request_of):
    async with service() as (emulator, session):
        async with EditHub(job, session, save=False) as hub:
            for key in "abc":
                assert (await hub.edit(request_of(key))).urls
                await hub.record(key, error="the disk is full")
            refused = await hub.edit(request_of("d"))
            assert refused.status == "planned"
            assert "the pictures of 3 completed edits in a row could not be saved: the disk is full" in refused.error
            assert (await hub.edit(request_of("a"))).error == "the disk is full"
            await hub.record("a", [("a-0.png", 10)])
            assert (await hub.edit(request_of("e"))).urls
            assert (await hub.write_report()).stopped == ""
        async with EditHub(job, session, save=False) as hub:  # pictures of an earlier hub that are lost do not stop it
            for key in "abc":
                await hub.record(key, error="lost")
            assert (await hub.edit(request_of("d"))).urls
        assert created(emulator) == 5


async def test_a_hub_outlives_an_outage_of_the_service(job, request_of, free_tcp_port):
    async with (
        EditSession("key", base_url=f"http://127.0.0.1:{free_tcp_port}", max_retries=0) as session,
        EditHub(job, session) as hub,
    ):
        outcomes = [await hub.edit(request_of(str(number))) for number in range(25)]
        assert {outcome.status for outcome in outcomes} == {"failed"}
        async with EditEmulator(api_key="key", port=free_tcp_port, duration=0):
            assert (await hub.edit(request_of("0"))).ok
