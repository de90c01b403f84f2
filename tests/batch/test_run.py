from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import json
import os
import shutil
import sqlite3
from collections import Counter
from decimal import Decimal
from pathlib import Path

import anyio
import attrs
import numpy as np
import pandas as pd
import pytest
from bulk_runs import LOSES_SIGHT, PHOTO, OddPath, columns, pictures, service, states, until
from emulator_calls import encode
from jitter import NoJitter
from memory_transport import IMAGE, KEY, NORMAL, MemoryService, MemorySession, completed, in_order, says, status
from PIL import Image

from qwen_edit_async import (
    AuthenticationError,
    ConfigurationError,
    EditBatch,
    EditParameters,
    EditRequest,
    EditSession,
    FixedInterval,
    InsufficientBalanceError,
    JournalError,
    SessionClosedError,
)
from qwen_edit_async.batch.journal.journal import JOURNAL_NAME, LOCK_NAME
from qwen_edit_async.batch.journal.lock import run_lock
from qwen_edit_async.cli.options import shell_text
from qwen_edit_async.emulator import EditEmulator, Fault, FaultPlan, FixedEngine
from qwen_edit_async.http.downloads import Downloader

pytestmark = pytest.mark.anyio

SERVICE = "https://service.example"
"""The name of two emulators, one after the other: one that has forgotten its tasks, or another account."""

OTHER_PHOTO = encode(Image.new("RGB", (400, 400), "#000000"))


@pytest.fixture
def photo(tmp_path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(PHOTO)
    return path


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def requests(photo):
    """So many requests for the same edit, with a key each."""

    def make(count: int, seed: int | None = None, **changes: object) -> list[EditRequest]:
        changes = {"parameters": EditParameters(seed=seed)} | changes
        request = EditRequest(photo, "make it snow", **changes)
        return [attrs.evolve(request, key=f"edit{number}") for number in range(count)]

    return make


def openings_of(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return a list to which each opening of a file is added."""
    openings: list[object] = []
    really_open = open

    def look(file: object, *arguments: object, **options: object) -> object:
        if file == str(path):
            openings.append(file)
        return really_open(file, *arguments, **options)

    monkeypatch.setattr("builtins.open", look)
    return openings


async def test_every_edit_is_saved_and_reported(requests, out):
    async with service() as (emulator, session):
        report = await EditBatch(requests(20, parameters=EditParameters(n=2)), out).run(session)
    assert report.ok, report.text()
    assert (report.saved, report.pictures, report.cost) == (20, 40, Decimal("0.0714") * 20)
    assert pictures(out) == {f"edit{number}-{index}.png" for number in range(20) for index in range(2)}
    assert emulator.statistics().tasks_created == 20


async def test_an_edit_of_an_absurd_cost_is_saved_and_its_cost_is_not_known(requests, out):
    async with service(price=Decimal("1e99999")) as (_, session):
        batch = EditBatch(requests(3), out, max_tasks=3)
        report = await batch.run(session)
        assert (report.saved, report.cost, report.unpriced) == (3, 0, 3), report.text()
        assert [outcome.cost async for outcome in batch.outcomes()] == [None] * 3


@pytest.mark.may_block("the test changes the journal itself")
async def test_a_journal_with_an_absurd_cost_of_old_is_gone_on_with(requests, out):
    async with service() as (emulator, session):
        await EditBatch(requests(2), out).run(session)
        with contextlib.closing(sqlite3.connect(out / JOURNAL_NAME)) as journal, journal:
            journal.execute("UPDATE edits SET cost = '1E+1000000', state = 'completed', files = NULL WHERE number = 1")
        batch = EditBatch(requests(2), out)
        report = await batch.run(session)
        assert (report.saved, report.cost, report.unpriced) == (2, Decimal("0.0357"), 1), report.text()
        assert [outcome.cost async for outcome in batch.outcomes()] == [None, Decimal("0.0357")]
    assert emulator.statistics().tasks_created == 2


@pytest.mark.may_block("the test holds the lock itself")
async def test_a_run_that_is_refused_has_nothing_of_the_run_before_it(requests, out):
    batch = EditBatch(requests(2), out)
    async with service() as (_, session):
        await batch.run(session)
        assert (batch.progress.begun, batch.progress.saved) == (True, 2)
        with run_lock(out / LOCK_NAME), pytest.raises(JournalError, match="is in use by another run"):
            await batch.run(session)
    assert (batch.progress.begun, batch.progress.saved, batch.report) == (False, 0, None)


async def test_a_second_run_does_nothing(requests, out):
    async with service() as (emulator, session):
        await EditBatch(requests(5), out).run(session)
        before = emulator.statistics()
        report = await EditBatch(requests(5), out).run(session)
        assert emulator.statistics() == before
    assert (report.ok, report.saved) == (True, 5)


@pytest.mark.parametrize("strict", [False, True])
async def test_an_edit_that_an_earlier_run_saved_is_counted_once(requests, out, strict):
    async with service() as (_, session):
        await EditBatch(requests(3), out).run(session)
        batch = EditBatch(requests(3), out, strict=strict)
        await batch.run(session)
    assert (batch.progress.saved, batch.progress.found, batch.progress.pictures) == (3, 3, 3)


@pytest.mark.parametrize("damage", ["gone", "cut", "overwritten", "longer"])
async def test_only_a_damaged_file_is_fetched_again(requests, out, damage):
    async with service() as (emulator, session):
        await EditBatch(requests(3), out).run(session)
        path = out / "edit1-0.png"
        content = path.read_bytes()
        path.unlink()
        if damage != "gone":
            damaged = {"cut": content[:-1], "overwritten": b"x" * len(content), "longer": b"x" + content}
            path.write_bytes(damaged[damage])
        before = emulator.statistics()
        report = await EditBatch(requests(3), out).run(session)
        after = emulator.statistics()
    assert report.ok
    assert path.read_bytes() == content
    assert (after.downloads - before.downloads, after.submits - before.submits) == (1, 0)


@pytest.mark.may_block("the test damages the folder")
@pytest.mark.parametrize("content", [None, b"", b"\0"])
@pytest.mark.parametrize("left", ["report.json", "report.html"])
async def test_a_journal_that_is_lost_is_not_begun_anew(requests, out, photo, content, left):
    async with service() as (emulator, session):
        await EditBatch(requests(3), out).run(session)
        journal = (out / JOURNAL_NAME).read_bytes()
        (out / JOURNAL_NAME).unlink() if content is None else (out / JOURNAL_NAME).write_bytes(content)
        (out / ({"report.json", "report.html"} - {left}).pop()).unlink()
        lost = rf"is missing or empty, but {left} is from an earlier run: restore a backup of the journal"
        with pytest.raises(JournalError, match=lost):
            await EditBatch(requests(3), out).run(session)
        with pytest.raises(JournalError, match=lost):
            await EditBatch(requests(3), out).plan()
        with pytest.raises(JournalError, match=lost):
            await EditBatch(photo, out, instruction="make it snow").run(session)
        (out / JOURNAL_NAME).write_bytes(journal)
        assert (await EditBatch(requests(3), out).run(session)).saved == 3
    assert emulator.statistics().tasks_created == 3


@pytest.mark.may_block("the test makes the folder")
@pytest.mark.parametrize("report", ["{}", "[]", "no JSON", None])
async def test_a_journal_that_was_only_begun_is_gone_on_with_whatever_else_is_there(requests, out, report):
    out.mkdir()
    (out / JOURNAL_NAME).touch()
    if report is not None:
        (out / "report.json").write_text(report)
        (out / "report.html").write_text("<!DOCTYPE html><p>of something else")
    async with service() as (_, session):
        assert (await EditBatch(requests(2), out).run(session)).ok


async def test_what_is_in_flight_is_attached_to(requests, out):
    async with service(LOSES_SIGHT.times(3)) as (emulator, session):
        first = await EditBatch(requests(3), out).run(session)
        assert first.in_flight == 3
        assert first.failures[0].count == 3
        again = EditBatch(requests(3), out)
        report = await again.run(session)
        assert emulator.statistics().tasks_created == 3
    assert report.ok
    assert report.failures == ()
    assert (again.progress.saved, again.progress.pictures) == (3, 3)


async def test_all_that_is_in_flight_is_attached_to_however_many_they_are(requests, out):
    count = 300  # the journal is read in pages of 256
    async with service(LOSES_SIGHT.times(count)) as (_, session):
        assert (await EditBatch(requests(count), out, gallery_limit=0).run(session)).in_flight == count
        assert (await EditBatch([], out, gallery_limit=0).run(session)).saved == count


async def test_what_is_in_flight_is_waited_for_even_if_its_request_is_no_longer_given(requests, out):
    async with service(LOSES_SIGHT.times(3)) as (_, session):
        await EditBatch(requests(3), out).run(session)
        report = await EditBatch([], out).run(session)
    assert (report.ok, report.saved) == (True, 3)


async def test_what_is_completed_is_downloaded_without_asking_again(requests, out):
    async with service(Fault.status(500).on("download").times(3)) as (emulator, session):
        first = await EditBatch(requests(3), out).run(session)
        assert (first.unsaved, first.saved) == (3, 0)
        before = emulator.statistics()
        report = await EditBatch(requests(3), out).run(session)
        after = emulator.statistics()
    assert report.ok
    assert (after.submits, after.checks) == (before.submits, before.checks)


@pytest.mark.may_block("the loop writes the pictures")
@pytest.mark.usefixtures("pictures_at_once")
async def test_pictures_beyond_those_asked_for_replace_no_file(out, caplog):
    reply = completed("task-1")
    more = says(reply | {"output": reply["output"] * 2})
    out.mkdir()
    (out / "cat-1.png").write_bytes(OTHER_PHOTO)
    async with MemorySession(MemoryService(on_check=in_order(more)), polling=FixedInterval(0.01)) as session:
        report = await EditBatch([EditRequest(IMAGE, "make it snow", key="cat")], out).run(session)
    assert (report.ok, report.pictures, pictures(out)) == (True, 1, {"cat-0.png", "cat-1.png"})
    assert (out / "cat-1.png").read_bytes() == OTHER_PHOTO
    (told,) = (record for record in caplog.records if "a task made 2 pictures instead of 1" in record.getMessage())
    assert told.task_id == "task-1"


@pytest.mark.may_block("the test looks at the files")
async def test_results_of_other_formats_are_saved_under_their_endings_and_left_by_the_next_run(requests, out):
    content = encode(Image.new("RGB", (64, 64), "teal"), "JPEG")
    async with service(Fault.wrong_download(content, "image/png").on("download")) as (emulator, session):
        report = await EditBatch(requests(2), out).run(session)
        again = await EditBatch(requests(2), out).run(session)
        assert (report.saved, again.saved, emulator.statistics().downloads) == (2, 2, 2)
    names = {path.name for path in out.iterdir() if path.suffix == ".jpg"}
    assert len(names) == 2
    assert all((out / name).read_bytes() == content for name in names)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in names)


_PNG = encode(Image.new("RGB", (64, 64), "teal"))


@pytest.mark.may_block("the test writes a file")
@pytest.mark.parametrize(
    ("content", "taken"),
    [(encode(Image.new("RGB", (64, 64), "teal"), "JPEG"), "edit0-0.jpg"), (_PNG[:-12], ""), (_PNG + b"x" * 5000, "")],
    ids=["a JPEG whose name is taken", "a PNG without its end", "a PNG with other bytes after its end"],
)
@pytest.mark.filterwarnings("ignore:image 0 of task:qwen_edit_async.EditWarning")
async def test_an_odd_picture_that_was_saved_is_left_by_the_next_run(requests, out, content, taken):
    out.mkdir()
    if taken:
        (out / taken).write_bytes(b"another file")
    async with service(Fault.wrong_download(content, "image/png").on("download")) as (emulator, session):
        report = await EditBatch(requests(1), out).run(session)
        before = emulator.statistics().downloads
        again = await EditBatch(requests(1), out).run(session)
        assert (report.ok, again.ok, emulator.statistics().downloads) == (True, True, before)
    assert (out / "edit0-0.png").read_bytes() == content


async def test_expired_urls_of_an_earlier_run_are_renewed(requests, out, leap):
    async with service(Fault.status(500).on("download").times(2), result_lifetime=60.0) as (emulator, session):
        await EditBatch(requests(2), out).run(session)
        leap(60.0)
        report = await EditBatch(requests(2), out).run(session)
        assert session.statistics().renewals == 2
        assert emulator.statistics().tasks_created == 2
    assert report.ok


async def test_an_uncertain_submission_is_repeated_with_consent_only(requests, out):
    async with service(Fault.drop_reply().on("submit").nth(2)) as (emulator, session):
        first = await EditBatch(requests(3), out).run(session)
        assert (first.saved, first.uncertain, len(first.uncertain_keys)) == (2, 1, 1)
        again = await EditBatch(requests(3), out).run(session)
        assert (again.uncertain, emulator.statistics().tasks_created) == (1, 3)
        report = await EditBatch(requests(3), out, resubmit_uncertain=True).run(session)
        assert emulator.statistics().tasks_created == 4
    assert (report.ok, report.repeats, report.retries) == (True, 1, 1)


async def test_a_task_that_the_service_no_longer_knows_is_submitted_again_with_consent_only(requests, out):
    async with service(LOSES_SIGHT) as (_, session):
        assert (await EditBatch(requests(2), out).run(session, service=SERVICE)).in_flight == 2
    async with service() as (emulator, session):
        report = await EditBatch(requests(3), out).run(session, service=SERVICE)
        assert (report.uncertain, report.in_flight, report.saved) == (2, 0, 1)
        assert report.failures[0].reason.startswith("the service does not know the task")
        assert emulator.statistics().tasks_created == 1
        report = await EditBatch(requests(3), out, resubmit_uncertain=True).run(session, service=SERVICE)
        assert emulator.statistics().tasks_created == 3
    assert (report.ok, report.saved, report.repeats, report.failures) == (True, 3, 2, ())


async def test_with_consent_one_run_finds_a_task_gone_and_submits_its_edit_again(requests, out):
    async with service(LOSES_SIGHT) as (_, session):
        await EditBatch(requests(2), out).run(session, service=SERVICE)
    async with service() as (emulator, session):
        report = await EditBatch(requests(2), out, resubmit_uncertain=True).run(session, service=SERVICE)
        assert emulator.statistics().tasks_created == 2
    assert (report.ok, report.repeats) == (True, 2)


async def test_a_task_that_the_service_knows_after_all_is_not_submitted_again_even_with_consent(requests, out):
    async with service(LOSES_SIGHT.times(1)) as (emulator, session):
        assert (await EditBatch(requests(1), out).run(session, service=SERVICE)).in_flight == 1
        async with service() as (_, wrong_session):
            assert (await EditBatch(requests(1), out).run(wrong_session, service=SERVICE)).uncertain == 1
        report = await EditBatch(requests(1), out, resubmit_uncertain=True).run(session, service=SERVICE)
        assert (report.ok, report.repeats, emulator.statistics().tasks_created) == (True, 0, 1)


async def test_a_task_that_is_unknown_counts_once_against_the_limit(requests, out):
    async with service(LOSES_SIGHT) as (_, session):
        await EditBatch(requests(1), out).run(session, service=SERVICE)
    async with service() as (emulator, session):
        await EditBatch(requests(1), out).run(session, service=SERVICE)
        report = await EditBatch(requests(3), out, max_tasks=2).run(session, service=SERVICE)
        assert (report.saved, emulator.statistics().tasks_created) == (1, 1)


async def test_consent_ends_with_the_run_that_could_not_use_it(requests, out):
    async with service(Fault.drop_reply().on("submit").times(2), max_in_flight=1) as (emulator, session):
        assert (await EditBatch(requests(2), out).run(session)).uncertain == 2
        spent = await EditBatch(requests(2), out, resubmit_uncertain=True, max_tasks=2).run(session)
        assert (spent.uncertain, spent.planned, spent.repeats) == (2, 0, 0)
        assert spent.failures[0].reason.startswith("a task may exist")
        assert (await EditBatch(requests(2), out).run(session)).uncertain == 2
        assert emulator.statistics().tasks_created == 2


async def test_consent_ends_with_the_run_that_was_cancelled(requests, out):
    async with service(Fault.drop_reply().on("submit").times(3), duration=0.5, max_in_flight=1) as (emulator, session):
        await EditBatch(requests(3), out).run(session)
        run = asyncio.create_task(EditBatch(requests(3), out, resubmit_uncertain=True).run(session))
        await until(lambda: session.statistics().watched)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert columns(out, "state", "repeats") == [("submitted", 1), ("uncertain", 0), ("uncertain", 0)]
        report = await EditBatch(requests(3), out).run(session)
    assert (report.saved, report.uncertain, emulator.statistics().tasks_created) == (1, 2, 4)


@pytest.mark.parametrize("status", [503, 400])
async def test_a_repeat_that_was_certainly_refused_leaves_its_edit_uncertain(requests, out, status):
    faults = Fault.drop_reply().on("submit").nth(1), Fault.status(status).on("submit").nth(2)
    async with service(*faults) as (emulator, session):
        await EditBatch(requests(1), out).run(session)
        refused = await EditBatch(requests(1), out, resubmit_uncertain=True).run(session)
        assert (refused.uncertain, refused.failed, refused.repeats) == (1, 0, 0)
        await EditBatch(requests(1), out).run(session)
        assert emulator.statistics().tasks_created == 1
        report = await EditBatch(requests(1), out, resubmit_uncertain=True, max_tasks=2).run(session)
    assert (report.ok, report.repeats, emulator.statistics().tasks_created) == (True, 1, 2)


async def test_an_uncertain_edit_whose_input_is_gone_stays_uncertain(requests, out, photo):
    async with service(Fault.drop_reply().on("submit").nth(1)) as (emulator, session):
        await EditBatch(requests(1), out).run(session)
        photo.unlink()
        assert (await EditBatch(requests(1), out, resubmit_uncertain=True).run(session)).uncertain == 1
        photo.write_bytes(PHOTO)
        report = await EditBatch(requests(1), out).run(session)
    assert (report.uncertain, emulator.statistics().tasks_created) == (1, 1)


async def test_the_ids_of_tasks_that_are_unknown_are_kept_until_they_are_repeated_and_can_be_found_then(requests, out):
    async with service(LOSES_SIGHT) as (_, session):
        await EditBatch(requests(3), out).run(session, service=SERVICE)
    ids = [task_id for (task_id,) in columns(out, "task_id")]
    async with service() as (emulator, session):
        await EditBatch(requests(3), out, resubmit_uncertain=True, max_tasks=4).run(session, service=SERVICE)
        rows = columns(out, "state", "task_id", "former_task_ids", "repeats")
        assert sorted(state for state, *_ in rows) == ["saved", "uncertain", "uncertain"]
        for old, (state, task_id, former, repeats) in zip(ids, rows, strict=True):
            repeated = state == "saved"
            assert (former if repeated else task_id, repeats) == (old, repeated)
            assert (task_id in emulator.tasks) == repeated
        report = await EditBatch(requests(3), out).run(session, service=SERVICE)
    assert (report.saved, report.uncertain, emulator.statistics().tasks_created) == (1, 2, 1)


async def test_a_journal_is_not_used_with_another_service_than_that_which_has_its_tasks(requests, out):
    async with service(LOSES_SIGHT.times(1)) as (first, session):
        assert (await EditBatch(requests(2), out).run(session)).in_flight == 1
        async with service() as (emulator, other_session):
            batch = EditBatch(requests(2), out)
            with pytest.raises(JournalError) as refused:
                await batch.run(other_session)
        assert f"has tasks of {first.url}, but this run uses {emulator.url}; give this run another" in str(
            refused.value
        )
        assert (batch.progress.begun, emulator.statistics().submits) == (False, 0)
        assert (await EditBatch(requests(2), out).run(session)).ok


async def test_a_journal_of_edits_that_no_service_took_can_be_used_with_any(requests, out, unused_port):
    async with EditSession("key", base_url=f"http://127.0.0.1:{unused_port}", max_retries=0) as nobody:
        assert (await EditBatch(requests(2), out).run(nobody)).failed == 2
    async with service() as (_, session):
        assert (await EditBatch(requests(2), out).run(session)).ok


@pytest.mark.parametrize("consent", [False, True])
async def test_only_the_next_run_repeats_an_uncertain_submission(requests, out, consent):
    faults = FaultPlan([Fault.status(500).on("submit").times(2)])
    async with (
        EditEmulator(duration=0.0, engine=FixedEngine(), faults=faults) as emulator,
        EditSession(emulator.api_key, base_url=emulator.url, resubmit_uncertain=True, random=NoJitter()) as session,
    ):
        for tasks, repeats in ((1, 0), (2, consent), (3, 2 * consent)):
            report = await EditBatch(requests(1), out, max_tasks=tasks, resubmit_uncertain=consent).run(session)
            assert (emulator.statistics().submits, report.repeats) == (1 + repeats, repeats)
    assert report.ok is consent


async def test_what_was_certainly_refused_is_not_uncertain(requests, out):
    async with service(Fault.status(503).on("submit").nth(2)) as (emulator, session):
        first = await EditBatch(requests(3), out).run(session)
        assert (first.saved, first.failed, first.uncertain) == (2, 1, 0)
        assert (await EditBatch(requests(3), out).run(session)).ok
    assert emulator.statistics().tasks_created == 3


@pytest.mark.parametrize(
    "change",
    [{"instruction": "make it rain"}, {"images": OTHER_PHOTO}, {"parameters": EditParameters(seed=1)}],
    ids=["instruction", "image", "parameter"],
)
async def test_a_key_with_another_request_is_refused(requests, out, change):
    async with service() as (emulator, session):
        await EditBatch(requests(2), out).run(session)
        before = emulator.statistics()
        changed = [requests(2)[0], attrs.evolve(requests(2)[1], **change)]
        report = await EditBatch(changed, out).run(session)
        assert emulator.statistics() == before
    assert (report.ok, report.saved, report.refused) == (False, 2, 1)
    assert report.failures[0].keys == ("edit1",)
    assert "has changed since an earlier run" in report.failures[0].reason


@pytest.mark.parametrize("key", [None, "mine"])
async def test_the_same_picture_with_a_new_signature_is_the_same_edit(out, key):
    def signed(signature):
        url = f"https://bucket.example/cat.png?v=1&X-Amz-Date={signature}&X-Amz-Signature={signature}"
        return [EditRequest(url, "snow", key=key)]

    async with service() as (emulator, session):
        await EditBatch(signed("1"), out, max_tasks=0).run(session)
        for signature in "23":
            report = await EditBatch(signed(signature), out).run(session)
            assert report.ok, report.text()
        (task,) = emulator.tasks.values()
    (image,) = task.submission.images
    assert image.url == signed("2")[0].images[0]  # as it was signed last
    (outcome,) = [outcome async for outcome in EditBatch([], out).outcomes()]
    assert outcome.images == ("https://bucket.example/cat.png?v=1",)
    assert not [path for path in out.iterdir() if b"X-Amz-Signature" in path.read_bytes()]


async def test_the_same_path_with_another_content_is_another_request(requests, out, photo):
    async with service() as (_, session):
        await EditBatch(requests(1), out).run(session)
        photo.write_bytes(OTHER_PHOTO)
        report = await EditBatch(requests(1), out).run(session)
    assert (report.saved, report.refused) == (1, 1)


async def kinds(batch: EditBatch) -> list[tuple[str, str]]:
    return [(outcome.key, outcome.status) async for outcome in batch.outcomes()]


async def test_a_changed_picture_is_edited_anew_with_consent_and_the_earlier_result_is_kept(requests, out, photo):
    async with service() as (emulator, session):
        await EditBatch(requests(2), out).run(session)
        (earlier, _) = [outcome async for outcome in EditBatch([], out).outcomes()]
        photo.write_bytes(OTHER_PHOTO)
        batch = EditBatch(requests(1), out, edit_changed=True)
        plan = await batch.plan()
        assert (plan.submit, plan.ok) == (1, True)
        report = await batch.run(session)
        assert (report.ok, report.saved, report.pictures, report.failures) == (True, 2, 2, ())
        assert report.cost == Decimal("0.0357") * 3
        assert (await EditBatch(requests(1), out, max_tasks=3).run(session)).ok
        assert emulator.statistics().tasks_created == 3
    assert await kinds(batch) == [("edit0", "replaced"), ("edit1", "saved"), ("edit0", "saved")]
    (replaced, _, now) = [outcome async for outcome in batch.outcomes()]
    assert replaced == attrs.evolve(earlier, status="replaced")
    assert now.task_id != earlier.task_id
    assert [path.name for path in (*replaced.files, *now.files)] == ["edit0-0.png", "edit0-2-0.png"]
    assert pictures(out) == {"edit0-0.png", "edit1-0.png", "edit0-2-0.png"}
    assert (out / "report.html").read_text("utf-8").count("<article") == 2


async def test_a_changed_row_that_is_refused_counts_as_no_further_edit(requests, out):
    rows = [*requests(2), *requests(3, seed=1)[2:]]
    async with service() as (_, session):
        await EditBatch(requests(3), out).run(session)
        report = await EditBatch(rows, out).run(session)
        assert (report.saved, report.refused, report.total, report.ok) == (3, 1, 3, False)
        assert report.text().startswith("3 of 3 edits done")
        assert "1 refused" in report.text()
        report = await EditBatch([*rows, "not an edit"], out).run(session)
    assert (report.saved, report.refused, report.total, report.ok) == (3, 2, 4, False)


async def test_what_failed_at_the_service_is_edited_anew_once_it_was_changed(requests, out):
    async with service(Fault.failed_task().for_task(1)) as (emulator, session):
        await EditBatch(requests(1), out).run(session)
        batch = EditBatch(requests(1, seed=1), out, edit_changed=True)
        assert (await batch.run(session)).ok
        assert (await batch.run(session)).ok
        assert emulator.statistics().tasks_created == 2
    assert await kinds(batch) == [("edit0", "replaced"), ("edit0", "saved")]


async def test_what_is_uncertain_still_counts_once_it_was_edited_anew(requests, out):
    async with service(Fault.drop_reply().on("submit").nth(1)) as (emulator, session):
        assert (await EditBatch(requests(1), out).run(session)).uncertain == 1
        batch = EditBatch(requests(2, seed=1), out, edit_changed=True, max_tasks=2)
        report = await batch.run(session)
        assert (report.saved, report.uncertain, report.repeats) == (1, 0, 1)
        assert emulator.statistics().tasks_created == 2
    assert (await kinds(batch))[0] == ("edit0", "replaced")


async def test_what_was_not_submitted_yet_is_edited_as_it_is_now(requests, out):
    async with service() as (emulator, session):
        await EditBatch(requests(2), out, max_tasks=0).run(session)
        batch = EditBatch(requests(2, seed=1), out, edit_changed=True)
        assert (await batch.run(session)).ok
        assert emulator.statistics().tasks_created == 2
    assert await kinds(batch) == [("edit0", "saved"), ("edit1", "saved")]


async def test_a_changed_edit_whose_task_is_under_way_is_finished_first(requests, out):
    async with service(LOSES_SIGHT.nth(1, 2)) as (emulator, session):
        await EditBatch(requests(1), out).run(session)
        batch = EditBatch(requests(1, seed=1), out, edit_changed=True)
        assert (await batch.plan()).submit == 1
        report = await batch.run(session)
        assert (report.in_flight, report.refused) == (1, 1)
        assert any("still in flight: run the batch again later" in group.reason for group in report.failures)
        assert (await batch.run(session)).ok
        assert emulator.statistics().tasks_created == 2
    assert pictures(out) == {"edit0-0.png", "edit0-2-0.png"}


async def test_a_changed_edit_whose_result_can_not_be_saved_is_edited_anew_with_consent(requests, out):
    async with service(Fault.status(403).on("download").for_task(1)) as (emulator, session):
        assert (await EditBatch(requests(1), out).run(session)).unsaved == 1
        batch = EditBatch(requests(1, seed=1), out, edit_changed=True)
        assert (await batch.plan()).submit == 1
        report = await batch.run(session)
        assert (report.ok, report.saved, report.total) == (True, 1, 1)
        assert emulator.statistics().tasks_created == 2
    (replaced, now) = [outcome async for outcome in batch.outcomes()]
    assert (replaced.status, now.status) == ("replaced", "saved")
    assert replaced.task_id not in {None, now.task_id}
    assert pictures(out) == {"edit0-2-0.png"}


async def test_a_changed_edit_takes_the_name_of_no_other(requests, out):
    async with service() as (_, session):
        taken = attrs.evolve(requests(1)[0], key="edit0-2")
        await EditBatch([*requests(1), taken], out).run(session)
        report = await EditBatch(requests(1, seed=1), out, edit_changed=True).run(session)
    assert (report.saved, report.refused) == (2, 0)
    assert pictures(out) == {"edit0-0.png", "edit0-2-0.png", "edit0-3-0.png"}


async def test_a_file_of_the_same_size_and_time_with_another_content_is_another_request(requests, out, photo):
    async with service() as (_, session):
        photo.write_bytes(PHOTO + bytes(max(0, len(OTHER_PHOTO) - len(PHOTO))))
        status = photo.stat()
        await EditBatch(requests(1), out).run(session)
        photo.write_bytes(OTHER_PHOTO.ljust(status.st_size, b"\0"))
        os.utime(photo, ns=(status.st_atime_ns, status.st_mtime_ns))
        report = await EditBatch(requests(1), out).run(session)
    assert (report.saved, report.refused) == (1, 1)


async def test_a_file_that_was_only_touched_or_copied_back_is_the_same_and_is_looked_at_once(
    requests, out, photo, monkeypatch
):
    looked_at = openings_of(photo, monkeypatch)
    async with service() as (_, session):
        await EditBatch(requests(1), out, gallery_limit=0).run(session)
        os.utime(photo, (1, 1))
        assert (await EditBatch(requests(1), out, gallery_limit=0).run(session)).ok
        shutil.copy2(photo, copy := photo.with_name("copy.png"))
        copy.replace(photo)
        for _ in range(2):
            assert (await EditBatch(requests(1), out, gallery_limit=0).run(session)).ok
    assert len(looked_at) == 3


async def test_a_new_file_is_opened_once_for_hashing_checking_and_sending(requests, out, photo, monkeypatch):
    openings = openings_of(photo, monkeypatch)
    async with service() as (_, session):
        assert (await EditBatch(requests(3), out, gallery_limit=0).run(session)).ok
    assert len(openings) == 3


@pytest.mark.may_block("the test looks into the journal, and replaces the photo")
async def test_the_content_that_counts_is_what_was_sent_not_what_was_planned(requests, out, photo):
    async with service(Fault.stuck_task().for_task(1), max_in_flight=1) as (emulator, session):
        holds_the_slot = await session.submit(PHOTO, "rain")
        batch = EditBatch(requests(1), out)
        run = asyncio.create_task(batch.run(session))
        await until(lambda: batch.progress.begun and states(out) == {"edit0": "planned"})
        photo.write_bytes(encode(Image.new("RGB", (500, 500), "red")))
        holds_the_slot.cancel()
        assert (await run).ok
        assert (await EditBatch(requests(1), out).run(session)).ok
        assert emulator.statistics().tasks_created == 2


async def test_the_same_request_twice_is_one_edit(requests, out):
    async with service() as (emulator, session):
        report = await EditBatch([*requests(3), *requests(3)], out).run(session)
    assert (report.ok, report.saved) == (True, 3)
    assert emulator.statistics().tasks_created == 3


@pytest.mark.parametrize("kind", ["list", "series", "mappings", "generator"])
async def test_images_with_an_instruction_for_all_are_edits(out, photo, kind):
    other = photo.with_name("other.png")
    other.write_bytes(OTHER_PHOTO)
    paths = [str(photo), str(other)]
    given = {
        "list": lambda: paths,
        "series": lambda: pd.Series(paths),
        "mappings": lambda: [{"image": path} for path in paths],
        "generator": lambda: iter(paths),
    }[kind]
    async with service() as (emulator, session):
        for _ in range(2):
            batch = EditBatch(given(), out, instruction="snow", parameters=EditParameters(n=2))
            report = await batch.run(session)
            assert (report.ok, report.saved, report.pictures) == (True, 2, 4)
        assert emulator.statistics().tasks_created == 2
    assert {(outcome.instruction, *outcome.images) async for outcome in batch.outcomes()} == {
        ("snow", path) for path in paths
    }


async def test_what_stands_alone_needs_an_instruction_and_a_request_takes_none(out, photo, requests):
    async with service() as (_, session):
        alone = await EditBatch([photo], out).run(session)
        beside = await EditBatch(iter(requests(1)), out, instruction="snow").run(session)
    assert alone.failures[0].reason.endswith("or give EditRequests or mappings of their fields")
    assert beside.failures[0].reason.startswith("an EditRequest has its own instruction")


@pytest.mark.parametrize("earlier", [False, True])
async def test_keys_that_would_name_the_same_files_get_names_of_their_own(requests, out, earlier):
    first, second = attrs.evolve(requests(1)[0], key="Cat"), attrs.evolve(requests(1)[0], key="cat")
    async with service() as (emulator, session):
        if earlier:
            await EditBatch([first], out).run(session)
        assert (await EditBatch([first, second], out).run(session)).saved == 2
        assert (await EditBatch([second, first], out).run(session)).ok
        assert emulator.statistics().tasks_created == 2
    assert pictures(out) == {"Cat-0.png", "cat-2-0.png"}
    assert list(states(out)) == ["Cat", "cat"]


async def test_a_malformed_request_stops_no_other(requests, out, photo):
    async with service() as (_, session):
        report = await EditBatch(
            [
                {"images": photo, "instruction": " ", "key": "bad"},
                7,
                *requests(2),
                {"images": photo, "instruction": "x"},
            ],
            out,
        ).run(session)
    assert (report.saved, report.refused) == (3, 2)
    assert {group.keys for group in report.failures} == {("bad",), ("request 2",)}


class OddRemote(OddPath):
    def open(self, mode: str = "rb") -> io.BytesIO:
        raise RuntimeError("no such bucket")


class OddFile:
    def read(self, size: int = -1) -> bytes:
        raise KeyError("offset")

    def tell(self) -> int:
        return 0


class AsyncFile(OddFile):
    async def read(self, size: int = -1) -> bytes:
        return b""


class OddArray:
    @property
    def __array_interface__(self) -> dict[str, object]:
        return {"shape": (400, 400), "typestr": "|u1"}

    def tobytes(self) -> bytes:
        raise RuntimeError("the device is gone")


def closed(file: io.BytesIO) -> io.BytesIO:
    file.close()
    return file


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.png")
    return folder / "pipe.png"


ODD_IMAGES = {
    "a surrogate": (lambda _: "\ud800.png", "image 1 is not a path"),
    "a NUL": (lambda _: Path("a\0.png"), "image 1 is not a path"),
    "a directory": (lambda folder: folder, "image 1 is a directory: give the files in it"),
    "a pipe": (pipe, "image 1 is not a regular file: open it, and pass the open file"),
    "a device": (lambda _: "/dev/zero", "image 1 is not a regular file: open it, and pass the open file"),
    "a path that raises": (lambda _: OddPath(), "image 1 can't be read: 'OddPath' object has no attribute 'open'"),
    "a remote path that raises": (lambda _: OddRemote(), "image 1 can't be read: no such bucket"),
    "a closed file": (lambda _: closed(io.BytesIO(PHOTO)), "image 1 can't be read: I/O operation on closed file."),
    "a file that raises": (lambda _: OddFile(), "image 1 can't be read: 'offset'"),
    "a file of text": (lambda _: io.StringIO("text"), 'image 1 is a file in text mode: open it with mode "rb"'),
    "an async file": (lambda _: AsyncFile(), "image 1 is not a binary file: its read() returns 'coroutine'"),
    "an array that raises": (lambda _: OddArray(), "image 1 can't be read: the device is gone"),
    "a data URI": (
        lambda _: f"data:image/png;base64,{'A' * 65536}\ud800AAA",  # where its beginning is no longer looked at
        "image 1 can't be read: 'utf-8' codec can't encode character '\\ud800'",
    ),
}


@pytest.mark.may_block(reason="the test makes a pipe")
@pytest.mark.parametrize("key", ["odd", None])
@pytest.mark.parametrize("case", ODD_IMAGES)
async def test_an_odd_image_fails_alone(requests, out, tmp_path, case, key):
    make, reason = ODD_IMAGES[case]
    first, *others = requests(3)
    batch = EditBatch([first, EditRequest(make(tmp_path), "make it snow", key=key), *others], out)
    async with service() as (emulator, session):
        report = await batch.run(session)
    (odd,) = [outcome async for outcome in batch.outcomes() if not outcome.ok]
    assert (report.saved, report.failed, emulator.statistics().tasks_created) == (3, 1, 3)
    assert report.failures[0].reason.startswith(reason)
    assert (odd.status, odd.task_id) == ("failed", None)


async def test_a_deleted_input_fails_alone_and_is_edited_once_it_is_back(requests, out, photo, tmp_path):
    moved = tmp_path / "moved.png"

    def deleting():
        yield requests(1)[0]
        yield EditRequest(moved, "make it snow", key="moved")
        yield attrs.evolve(requests(1)[0], key="last")

    async with service() as (emulator, session):
        first = await EditBatch(deleting(), out).run(session)
        assert (first.saved, first.failed) == (2, 1)
        assert [(group.reason, group.keys) for group in first.failures] == [("image 1 does not exist", ("moved",))]
        moved.write_bytes(OTHER_PHOTO)
        assert (await EditBatch(deleting(), out).run(session)).ok
    assert emulator.statistics().tasks_created == 3


async def test_an_input_that_stays_away_fails_in_every_run_and_keeps_no_other_from_being_edited(
    requests, out, tmp_path
):
    notes = tmp_path / "notes.jpg"
    notes.write_text("no picture")
    bad = [EditRequest(tmp_path / "no.png", "x", key="no"), EditRequest(notes, "x", key="notes"), {"key": "malformed"}]
    async with service(max_in_flight=1) as (_, session):
        for _ in range(2):
            report = await EditBatch([*bad, *requests(3)], out, stop_after_failures=1).run(session)
            assert (report.failed, report.refused, report.saved, report.stopped) == (2, 1, 3, "")


async def test_an_input_that_is_gone_afterwards_does_no_harm(requests, out, photo):
    async with service() as (_, session):
        await EditBatch(requests(2), out).run(session)
        photo.unlink()
        assert (await EditBatch(requests(2), out).run(session)).ok


async def test_an_input_that_can_never_be_sent_fails_and_is_tried_again(out, tmp_path):
    path = tmp_path / "notes.jpg"
    path.write_text("no picture")
    async with service() as (emulator, session):
        request = EditRequest(path, "make it snow", key="notes")
        assert (await EditBatch([request], out).run(session)).failed == 1
        path.write_bytes(PHOTO)
        assert (await EditBatch([request], out).run(session)).ok
    assert emulator.statistics().tasks_created == 1


async def test_a_task_that_failed_is_not_submitted_again(requests, out):
    async with service(Fault.failed_task().for_task(1)) as (emulator, session):
        first = await EditBatch(requests(2), out).run(session)
        second = await EditBatch(requests(2), out, resubmit_uncertain=True).run(session)
    assert (first.failed, second.failed, emulator.statistics().tasks_created) == (1, 1, 2)


async def test_images_in_memory_are_known_by_their_content(out):
    def images():
        return [
            PHOTO,
            io.BytesIO(OTHER_PHOTO),
            Image.new("RGB", (400, 400), "red"),
            np.zeros((400, 400, 3), np.uint8),
        ]

    async with service() as (emulator, session):
        await EditBatch([EditRequest(image, "make it snow") for image in images()], out).run(session)
        report = await EditBatch([EditRequest(image, "make it snow") for image in images()], out).run(session)
    assert (report.ok, report.saved) == (True, 4)
    assert emulator.statistics().tasks_created == 4


async def test_a_stream_that_can_not_be_read_twice_is_an_error(out):
    class Pipe(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            return b""

    async with service() as (_, session):
        report = await EditBatch([EditRequest(Pipe(), "make it snow", key="pipe")], out).run(session)
    assert (report.failed, report.failures[0].reason) == (
        1,
        "image 1 is a stream that can't be read twice: give its path, or its bytes",
    )


async def test_no_more_tasks_are_created_than_allowed_over_all_runs(requests, out):
    async with service() as (emulator, session):
        for _ in range(2):
            report = await EditBatch(requests(10), out, max_tasks=4).run(session)
            assert emulator.statistics().tasks_created == 4
        assert (report.saved, report.failed, report.stopped) == (4, 0, "4 tasks created (max_tasks=4)")
        assert (await EditBatch(requests(10), out, max_tasks=10).run(session)).ok


async def test_no_more_is_spent_than_allowed(requests, out):
    async with service() as (emulator, session):
        report = await EditBatch(requests(10), out, max_cost="0.15").run(session)
    assert emulator.statistics().charges == report.cost == Decimal("0.0357") * 4
    assert (report.saved, report.error) == (4, None)
    assert "max_cost=0.15" in report.stopped


async def test_no_more_is_spent_than_allowed_over_all_runs(requests, out):
    async with service() as (emulator, session):
        for tasks in (1, 2, 3):
            report = await EditBatch(requests(5), out, max_cost="0.08", max_tasks=tasks).run(session)
    assert emulator.statistics().charges == report.cost == Decimal("0.0357") * 2
    assert "max_cost=0.08" in report.stopped


async def test_what_is_in_flight_is_reckoned_with_by_the_next_run(requests, out):
    async with service(LOSES_SIGHT.times(1), duration=0.3, max_in_flight=1) as (emulator, session):
        first = await EditBatch(requests(5), out, max_tasks=2).run(session)
        assert (first.saved, first.in_flight) == (1, 1)
        report = await EditBatch(requests(5), out, max_cost="0.0714").run(session)
    assert (report.saved, report.cost, emulator.statistics().charges) == (2, Decimal("0.0714"), Decimal("0.0714"))


async def test_what_lost_replies_may_have_cost_is_kept_in_mind_by_the_next_run(requests, out):
    async with service(Fault.drop_reply().on("submit").nth(1), max_in_flight=1) as (emulator, session):
        await EditBatch(requests(5), out, max_tasks=2).run(session)
        report = await EditBatch(requests(5), out, max_cost="0.1071").run(session)
    assert (report.saved, report.uncertain, emulator.statistics().tasks_created) == (2, 1, 3)


async def test_costs_stay_within_the_limit_after_lost_replies_though_no_price_is_known(requests, out):
    async with service(Fault.drop_reply().on("submit")) as (emulator, session):
        for consent in (False, True):
            report = await EditBatch(requests(10), out, max_cost="0.10", resubmit_uncertain=consent).run(session)
            assert (report.uncertain, report.limit, report.cost) == (1, "", 0)
            assert "no price is known: give the price of a picture as price=…" in report.stopped
            assert emulator.statistics().tasks_created == 1
        report = await EditBatch(requests(10), out, max_cost="0.10", price="0.0357").run(session)
        assert (report.uncertain, report.limit, emulator.statistics().tasks_created) == (2, "max_cost", 2)
    assert emulator.statistics().charges <= Decimal("0.10")


async def test_failed_tasks_do_not_use_up_the_limit_of_cost(requests, out):
    async with service(Fault.failed_task().for_task(2), max_in_flight=1) as (_, session):
        report = await EditBatch(requests(3), out, max_cost="0.0714").run(session)
    assert (report.saved, report.failed, report.stopped) == (2, 1, "")


async def test_keys_that_can_not_name_files_keep_apart(requests, out):
    keys = ["a/b", "a:b", "x" * 300, "x" * 301]
    async with service() as (_, session):
        report = await EditBatch([attrs.evolve(requests(1)[0], key=key) for key in keys], out).run(session)
    assert report.ok
    assert len(pictures(out)) == 4


async def test_failures_stop_the_run(requests, out):
    async with service(Fault.failed_task(), max_in_flight=1) as (_, session):
        report = await EditBatch(requests(10), out, stop_after_failures=2).run(session)
    assert (report.failed, report.stopped) == (2, "2 edits failed (stop_after_failures=2)")


async def test_an_empty_account_stops_the_run_and_leaves_the_rest_planned(requests, out):
    async with service(max_in_flight=1, balance=Decimal("0.08")) as (_, session):
        report = await EditBatch(requests(6), out).run(session, service=SERVICE)
    assert isinstance(report.error, InsufficientBalanceError)
    assert report.stopped
    assert (report.saved, report.failed) == (2, 0)
    assert set(Counter(states(out).values())) == {"saved", "planned"}
    async with service() as (emulator, session):
        assert (await EditBatch(requests(6), out).run(session, service=SERVICE)).ok
    assert emulator.statistics().tasks_created == 4


async def test_a_task_that_failed_for_lack_of_balance_stops_the_run_and_leaves_the_rest_planned(requests, out):
    fault = Fault.failed_task(40203, "insufficient balance").for_task(2)
    async with service(fault, max_in_flight=1) as (emulator, session):
        report = await EditBatch(requests(6), out).run(session)
        assert isinstance(report.error, InsufficientBalanceError)
        assert report.stopped.startswith("insufficient balance (HTTP 200, code 40203, task ")
        assert (report.saved, report.failed, emulator.statistics().tasks_created) == (1, 1, 2)
        assert (await EditBatch(requests(6), out).run(session)).saved == 5


async def test_an_unreachable_service_stops_the_run(requests, out, unused_port):
    async with EditSession("key", base_url=f"http://127.0.0.1:{unused_port}", max_retries=0) as session:
        report = await EditBatch(requests(200), out).run(session)
    assert report.failed < 40
    assert "could not be reached" in report.stopped


@pytest.fixture
def unused_port() -> int:
    import socket  # noqa: PLC0415  # here only

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


async def test_a_generator_is_read_only_as_room_becomes_free(requests, out):
    read = 0

    def counting():
        nonlocal read
        for request in requests(500):
            read += 1
            yield request

    async with service(duration=30, max_in_flight=2) as (_, session):
        run = asyncio.create_task(EditBatch(counting(), out).run(session))
        await until(lambda: session.statistics().in_flight == 2)
        assert read < 30
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run


async def test_requests_may_come_from_an_async_generator(requests, out):
    async def generator():
        for request in requests(3):
            await asyncio.sleep(0)
            yield request

    async with service() as (_, session):
        assert (await EditBatch(generator(), out).run(session)).saved == 3


async def test_a_run_that_is_stopped_does_not_wait_for_an_input_that_never_gives_again(requests, out):
    closed = []

    async def generator():
        try:
            for request in requests(3):
                yield request
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    async with service(Fault.failed_task().for_task(2)) as (_, session):
        with anyio.fail_after(10):
            report = await EditBatch(generator(), out, stop_after_failures=1).run(session)
    assert report.stopped.startswith("1 edit failed")
    assert closed == [True]


async def test_a_cancelled_run_does_not_wait_for_an_input_that_never_gives_again(requests, out):
    async def generator():
        for request in requests(1):
            yield request
        await asyncio.Event().wait()

    async with service() as (_, session):
        batch = EditBatch(generator(), out)
        run = asyncio.create_task(batch.run(session))
        await until(lambda: batch.progress.saved == 1)
        run.cancel()
        with anyio.fail_after(10), pytest.raises(asyncio.CancelledError):
            await run


async def test_what_an_async_input_raises_comes_after_what_it_gave(requests, out):
    async def broken():
        for request in requests(2):
            yield request
        raise LookupError("row 3")

    async with service() as (_, session):
        with pytest.raises(LookupError, match="row 3"):
            await EditBatch(broken(), out).run(session)
    assert list(states(out).values()) == ["saved", "saved"]


async def test_what_the_input_raises_comes_after_what_it_gave(requests, out):
    def broken():
        yield from requests(2)
        raise LookupError("row 3")

    async with service() as (_, session):
        with pytest.raises(LookupError, match="row 3"):
            await EditBatch(broken(), out).run(session)
    assert list(states(out).values()) == ["saved", "saved"]


async def test_a_cancelled_run_says_how_to_go_on_and_forgets_no_task(requests, out):
    async with service(duration=1.0) as (emulator, session):
        run = asyncio.create_task(EditBatch(requests(30), out).run(session))
        await until(lambda: emulator.statistics().tasks_created >= 3)
        run.cancel()
        with pytest.raises(asyncio.CancelledError) as cancelled:
            await run
        assert "run it again to go on" in cancelled.value.__notes__[0]
        in_flight = list(states(out).values()).count("submitted")
        assert in_flight == emulator.statistics().tasks_created
        report = await EditBatch(requests(30), out).run(session)
    assert (report.ok, emulator.statistics().tasks_created) == (True, 30)


async def test_ids_that_come_after_the_cancellation_are_kept(requests, out):
    async with service(Fault.slow(delay=0.2).on("submit"), duration=0.5) as (emulator, session):
        run = asyncio.create_task(EditBatch(requests(8), out).run(session))
        await until(lambda: emulator.statistics().tasks_created >= 1)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        created = emulator.statistics().tasks_created
        found = Counter(states(out).values())
        assert (found["submitting"], found["submitted"]) == (0, created)
        assert (await EditBatch(requests(8), out).run(session)).ok
    assert emulator.statistics().tasks_created == 8


async def test_a_reply_after_the_deadline_still_gives_the_id(requests, out):
    async with service(Fault.slow(delay=1.0).on("submit")) as (emulator, session):
        report = await EditBatch(requests(1), out, deadline=0.5).run(session)
        assert (report.uncertain, report.in_flight) == (0, 1)
        assert (await EditBatch(requests(1), out).run(session)).ok
    assert emulator.statistics().tasks_created == 1


@pytest.mark.may_block("the test looks into the journal in the middle of a call")
async def test_the_intent_is_on_the_disk_before_the_request_is_sent(requests, out):
    seen = []

    def look(members):
        seen.append(states(out)["edit0"])
        return members

    async with service(Fault.reshape(look).on("submit")) as (_, session):
        assert (await EditBatch(requests(1), out).run(session)).ok
    assert seen == ["submitting"]


@pytest.mark.may_block("the test looks into the journal in the middle of a call")
async def test_results_are_on_the_disk_before_they_are_fetched_and_files_before_they_count(requests, out):
    fetched, counted = [], []
    batch = EditBatch(requests(1), out)
    async with service(Fault.slow(delay=0.1).on("download")) as (emulator, session):
        run = asyncio.create_task(batch.run(session))
        while not run.done():
            if emulator.statistics().downloads and not fetched:
                fetched.append(states(out)["edit0"])
            if batch.progress.saved and not counted:
                counted.append(states(out)["edit0"])
            await asyncio.sleep(0)
        assert run.result().ok
    assert (fetched, counted) == (["completed"], ["saved"])


async def test_a_folder_that_can_not_be_written_to_stops_before_anything_is_spent(requests, tmp_path):
    (tmp_path / "file").touch()
    async with service() as (emulator, session):
        with pytest.raises(JournalError, match="can't be written"):
            await EditBatch(requests(1), tmp_path / "file").run(session)
    assert emulator.statistics().submits == 0


async def test_a_full_disk_stops_submitting_and_loses_nothing(requests, out, monkeypatch):
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with service(max_in_flight=1) as (emulator, session):
        with monkeypatch.context() as full:
            full.setattr(os, "fsync", fail)
            report = await EditBatch(requests(30), out).run(session)
        assert report.stopped == "pictures can't be saved: No space left on device"
        assert report.saved == 0
        created = emulator.statistics().tasks_created
        assert created == report.unsaved < 30
        assert (await EditBatch(requests(30), out).run(session)).ok
    assert emulator.statistics().tasks_created == 30


@pytest.mark.may_block("the test makes a folder")
async def test_a_folder_that_took_a_results_name_later_keeps_no_other_edit_from_being_saved(requests, out):
    async with service(Fault.status(403).on("download").times(2), max_in_flight=1) as (emulator, session):
        assert (await EditBatch(requests(1), out).run(session)).unsaved == 1
        (out / "edit0-0.png").mkdir()
        for _ in range(2):
            report = await EditBatch(requests(5), out).run(session)
            assert (report.saved, report.unsaved, report.stopped) == (4, 1, ""), report.text()
            assert [group.reason for group in report.failures] == ["a file can't be written: Is a directory"]
        (out / "edit0-0.png").rmdir()
        assert (await EditBatch(requests(5), out).run(session)).ok
        assert emulator.statistics().tasks_created == 5


async def test_nothing_more_is_paid_for_once_no_result_can_be_fetched(requests, out, caplog):
    blocked = [True]
    fault = Fault.status(500).on("download").when(lambda _: blocked[0])
    async with service(fault, duration=0.01, max_in_flight=2) as (emulator, session):
        report = await EditBatch(requests(40), out).run(session)
        paid = emulator.statistics().tasks_created
        assert Counter(states(out).values()) == {"completed": paid, "planned": report.total - paid}
        blocked.clear()
        blocked.append(False)
        assert (await EditBatch(requests(40), out).run(session)).ok
        assert emulator.statistics().tasks_created == 40
    assert 3 <= paid <= 10  # what was under way meanwhile goes on
    assert "the pictures of 3 completed edits in a row could not be saved" in report.stopped
    assert "its host answered 500" in report.stopped
    (told,) = [message for message in caplog.messages if "3 completed edits" in message]
    assert told == f"{report.stopped}; nothing more is submitted until an edit is saved"


class PublicSession(MemorySession):
    """A session whose service is at a public address, so that results have to be at one as well."""

    def __init__(self, service: MemoryService, **options: object) -> None:
        EditSession.__init__(self, KEY, base_url="https://service.example", transport=service, **options)
        self.service = service


async def test_a_dns_that_hides_the_results_ends_the_run_and_the_option_for_it_is_named(requests, out):
    service = MemoryService(duration=0.0, latency=0.0)
    reply = completed("t") | {"output": [{"content": [{"type": "image", "url": "https://198.18.0.5/a.png"}]}]}
    service.on_check = lambda *_: says(reply)
    async with PublicSession(service, polling=FixedInterval(0.01), max_in_flight=2) as session:
        report = await EditBatch(requests(40), out).run(session)
    assert len(service.submissions) <= 10
    assert "its host '198.18.0.5' has no public address" in report.stopped
    assert "allow_result_hosts" in report.stopped
    assert "--allow-result-hosts" in shell_text(report.text())


async def test_submitting_goes_on_once_a_result_can_be_fetched(requests, out, caplog):
    failing = Fault.status(500).on("download").for_task(1, 2, 3)
    slow = Fault.slow(delay=1.0).on("download").for_task(4, 5, 6, 7, 8)
    async with service(failing, slow, duration=0.2, max_in_flight=4) as (emulator, session):
        batch = EditBatch(requests(20), out)
        report = await batch.run(session)
        assert emulator.statistics().tasks_created == 20
    assert (report.saved, report.stopped, batch.progress.held) == (17, "", "")
    assert [message for message in caplog.messages if "nothing more is submitted until" in message]


async def test_results_that_are_lost_for_good_keep_no_later_run_from_submitting(requests, out):
    fault = Fault.status(500).on("download").for_task(1, 2, 3, 4)
    async with service(fault, max_in_flight=4) as (_, session):
        await EditBatch(requests(4), out).run(session)
        report = await EditBatch(requests(9), out).run(session)
    assert (report.saved, report.stopped) == (5, "")


@pytest.fixture
async def hanging_downloads(monkeypatch):
    """Let the name of the results' host be looked up without an answer."""

    async def getaddrinfo(*_: object, **__: object) -> None:
        await asyncio.sleep(1000)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)


@pytest.mark.virtual_clock
@pytest.mark.usefixtures("hanging_downloads")
async def test_nothing_more_is_submitted_while_the_first_results_hang(requests, out):
    service = MemoryService()
    report = await batch_of_memory(service, EditBatch(requests(60), out), max_in_flight=16)
    assert len(service.submissions) == 16
    assert "could not be downloaded: TimeoutError" in report.stopped


@pytest.mark.virtual_clock
@pytest.mark.usefixtures("hanging_downloads")
async def test_each_later_run_pays_for_one_edit_at_most_until_a_result_is_saved(requests, out):
    service = MemoryService()
    paid = []
    for _ in range(3):
        report = await batch_of_memory(service, EditBatch(requests(60), out), max_in_flight=8)
        paid.append(len(service.submissions))
    assert paid == [8, 9, 10]
    assert "could not be downloaded: TimeoutError" in report.stopped


@pytest.mark.virtual_clock
async def test_completed_edits_without_pictures_hold_the_run_as_failed_downloads_do(requests, out):
    service = MemoryService(on_check=lambda *_: says(PICTURELESS))
    paid = []
    for _ in range(3):
        report = await batch_of_memory(service, EditBatch(requests(20), out), max_in_flight=4)
        paid.append(len(service.submissions))
    assert paid == [4, 5, 6]
    assert "could not be saved" in report.stopped


async def test_a_full_disk_ends_the_run_and_the_error_and_the_log_name_each_task(requests, out, full_disk, caplog):
    late = Fault.slow(delay=0.3).on("submit").nth(2), Fault.slow(delay=0.6).on("submit").nth(3)
    async with service(*late, max_in_flight=2, duration=0.5) as (emulator, session):
        await session.edit(PHOTO, "snow")  # the first submission goes alone
        with pytest.raises(JournalError, match="the disk is full") as failure:
            await EditBatch(requests(10), out).run(session)
        named, ids = " ".join(failure.value.__notes__), [*emulator.tasks][1:]
        assert len(ids) == 2
        assert all(f"session.attach({task_id!r})" in named for task_id in ids)
        told = {record.task_id for record in caplog.records if "is not in the journal" in record.getMessage()}
        assert told == set(ids)
        full_disk.is_full = False
        recovered = await EditBatch([], out).run(session)
        assert (recovered.saved, recovered.uncertain) == (0, 2)
        assert [len((await session.attach(task_id)).images) for task_id in ids] == [1, 1]


async def test_two_runs_on_one_folder_are_refused(requests, out):
    async with service(duration=1.0) as (_, session):
        run = asyncio.create_task(EditBatch(requests(2), out).run(session))
        await until(lambda: session.statistics().in_flight)
        with pytest.raises(JournalError, match="is in use by another run"):
            await EditBatch(requests(2), out).run(session)
        assert (await run).ok


async def test_a_second_run_of_a_batch_is_refused_and_leaves_the_first_as_it_is(requests, out):
    batch = EditBatch(requests(2), out)
    async with service(Fault.stuck_task().for_task(2)) as (_, session):
        run = asyncio.create_task(batch.run(session))
        await until(lambda: batch.progress.saved)
        before = batch.progress
        with pytest.raises(JournalError, match="is in use by another run"):
            await batch.run(session)
        assert batch.progress == before
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert batch.report.saved == 1
        run = asyncio.create_task(batch.run(session))  # it can go on now
        await until(lambda: batch.progress.found)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run


async def test_a_session_that_is_not_open_is_an_error(requests, out):
    with pytest.raises(SessionClosedError):
        await EditBatch(requests(1), out).run(EditSession("key"))


async def test_a_session_that_is_closed_meanwhile_ends_the_run_resumably(requests, out):
    async with service(duration=30, max_in_flight=2) as (_, session):
        run = asyncio.create_task(EditBatch(requests(10), out).run(session))
        await until(lambda: session.statistics().watched == 2)
        await session.__aexit__(KeyError, KeyError(), None)
        report = await run
    assert isinstance(report.error, SessionClosedError)
    assert (report.in_flight, report.failed, report.planned) == (2, 0, 8)
    assert set(states(out).values()) == {"submitted", "planned"}


async def test_a_task_that_is_accepted_while_the_session_closes_is_kept(requests, out):
    async with service(Fault.slow(delay=0.3).on("submit").times(1)) as (emulator, session):
        run = asyncio.create_task(EditBatch(requests(1), out).run(session))
        await until(lambda: emulator.statistics().submits == 1)
        await session.__aexit__(KeyError, KeyError(), None)
        report = await run
        assert (report.in_flight, report.uncertain, report.failed) == (1, 0, 0)
        assert isinstance(report.error, SessionClosedError)
        async with EditSession(emulator.api_key, base_url=emulator.url) as another:
            assert (await EditBatch(requests(1), out).run(another)).ok


async def test_a_session_that_closes_before_a_download_ends_the_run_resumably(requests, out, monkeypatch):
    async def closed(*_: object) -> None:
        raise SessionClosedError("the session is closed")

    async with service() as (_, session):
        with monkeypatch.context() as closing:
            closing.setattr(Downloader, "save", closed)
            report = await EditBatch(requests(1), out).run(session)
        assert (report.unsaved, type(report.error)) == (1, SessionClosedError)
        with monkeypatch.context() as closing:
            closing.setattr(EditSession, "pictures", lambda *_: (_ for _ in ()).throw(SessionClosedError("closed")))
            report = await EditBatch(requests(1), out).run(session)
        assert (report.unsaved, type(report.error)) == (1, SessionClosedError)
        assert (await EditBatch(requests(1), out).run(session)).ok


async def test_leftovers_of_a_killed_run_are_swept_away_and_no_downloads_of_others(requests, out, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    key = "a key that is longer than what is left of it in the name of a part"
    async with service() as (_, session):
        with monkeypatch.context() as disk:
            disk.setattr(os, "fsync", full)
            await EditBatch([attrs.evolve(requests(1)[0], key=key)], out).run(session)
        for name in (key.replace(" ", "_")[:40], "report.html", "report.json", "cat-0.png"):
            (out / f".{name}.0123abcd.part").touch()
        (out / ".mine.part").touch()
        await EditBatch(requests(1), out).run(session)
    assert sorted(path.name for path in out.glob(".*")) == [".cat-0.png.0123abcd.part", ".mine.part"]


async def test_progress_can_be_seen_at_any_time(requests, out):
    async with service(duration=0.2, max_in_flight=2) as (_, session):
        batch = EditBatch(requests(4), out)
        assert batch.progress.in_flight == 0
        run = asyncio.create_task(batch.run(session))
        await until(lambda: batch.progress.in_flight == 2)
        await run
    assert (batch.progress.saved, batch.progress.in_flight, batch.progress.failed) == (4, 0, 0)
    assert batch.progress.cost == Decimal("0.0357") * 4


async def test_no_more_edits_are_said_to_be_in_flight_than_may_be_at_the_service(requests, out):
    batch, seen = EditBatch(requests(6), out), []
    slow = Fault.slow(delay=0.1).on("download")
    async with service(slow, duration=0.02, max_in_flight=2) as (_, session):
        run = asyncio.create_task(batch.run(session))
        while not run.done():
            seen.append(batch.progress.in_flight)
            await asyncio.sleep(0)
        assert run.result().ok
    assert max(seen) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"max_cost": -1},
        {"max_cost": "a lot"},
        {"max_cost": float("inf")},
        {"max_tasks": -1},
        {"max_tasks": 1.5},
        {"stop_after_failures": 0},
        {"deadline": 0},
    ],
)
async def test_wrong_options_are_errors(out, options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        EditBatch([], out, **options)


@pytest.mark.virtual_clock
@pytest.mark.usefixtures("pictures_at_once")
@pytest.mark.parametrize(
    "document",
    [
        {"code": 0, "message": "success", "data": {"id": "task-9", "status": "pending"}},
        {"code": 0, "message": "success", "data": {}},
    ],
    ids=["named", "nameless"],
)
async def test_a_submission_that_the_service_took_is_paid_once(requests, out, document):
    service = MemoryService(on_submission=lambda _: says(document), on_check=lambda *_: status(500))
    limits = {"max_tasks": 1, "max_cost": "0.05", "deadline": 0.1}
    for _ in range(2):
        async with MemorySession(service, polling=FixedInterval(0.01)) as session:
            report = await EditBatch(requests(4), out, **limits).run(session)
    assert len(service.submissions) == 1
    assert (report.failed, report.in_flight + report.uncertain) == (0, 1)


PICTURELESS = {"status": "completed", "output": None, "usage": {"cost": "0.05"}}


async def batch_of_memory(service: MemoryService, batch: EditBatch, **options: object):
    async with MemorySession(service, **options) as session:
        return await batch.run(session)


@pytest.mark.virtual_clock
@pytest.mark.may_block("the loop writes the pictures")
@pytest.mark.usefixtures("pictures_at_once")
async def test_a_completed_edit_without_pictures_is_asked_for_again_by_the_next_run(requests, out):
    service = MemoryService(on_check=lambda *_: says(PICTURELESS))
    report = await batch_of_memory(service, EditBatch(requests(1), out))
    assert (report.failed, report.unsaved, report.unsaved_tasks) == (0, 1, {"edit0": "task-1"})
    assert "completed, but not saved: edit0 (task task-1)" in report.text()
    assert "run it again" in report.text()
    assert json.loads((out / "report.json").read_text())["unsaved_tasks"] == {"edit0": "task-1"}
    plan = await EditBatch(requests(1), out).plan()
    assert (plan.submit, plan.attach + plan.download) == (0, 1)
    service.on_check = in_order(status(404))
    report = await batch_of_memory(service, EditBatch(requests(1), out))
    assert (report.unsaved, report.unsaved_tasks) == (1, {"edit0": "task-1"})
    report = await batch_of_memory(service, EditBatch(requests(1), out))
    assert report.ok, report.text()
    assert (len(service.submissions), pictures(out)) == (1, {"edit0-0.png"})


@pytest.mark.virtual_clock
@pytest.mark.may_block("the loop writes the pictures")
@pytest.mark.usefixtures("pictures_at_once")
@pytest.mark.parametrize("code", [401, 403])
async def test_a_refused_check_of_a_task_of_an_earlier_run_fails_that_edit_alone(requests, out, code):
    service = MemoryService(duration=1000.0)
    await batch_of_memory(service, EditBatch(requests(1), out), deadline=5)
    service.duration = 1.0
    for submitted in (6, 6):
        service.on_check = lambda task_id, _: status(code) if task_id == "task-1" else NORMAL
        report = await batch_of_memory(service, EditBatch(requests(6), out))
        assert (report.saved, report.in_flight, report.error, report.stopped) == (5, 1, None, ""), report.text()
        assert f"scripted (HTTP {code}, code {code}): edit0" in report.text()
        assert len(service.submissions) == submitted
    service.on_check, service.ends["task-1"] = in_order(), 0.0
    assert (await batch_of_memory(service, EditBatch(requests(6), out))).saved == 6
    assert len(service.submissions) == 6


@pytest.mark.virtual_clock
@pytest.mark.may_block("the loop writes the pictures")
@pytest.mark.usefixtures("pictures_at_once")
async def test_a_key_that_is_refused_ends_the_run_though_its_first_check_is_of_an_earlier_task(requests, out):
    service = MemoryService(duration=1000.0)
    await batch_of_memory(service, EditBatch(requests(1), out), deadline=5)
    service.on_check = service.on_submission = lambda *_: status(401)
    report = await batch_of_memory(service, EditBatch(requests(20), out), max_in_flight=1)
    assert (type(report.error), len(service.submissions)) == (AuthenticationError, 2), report.text()


async def test_a_deeply_nested_usage_is_no_error_of_the_run(requests, out):
    usage = {"cost": "0.05", "details": json.loads("[" * 600 + "]" * 600)}
    nested = Fault.reshape(lambda members: members | {"usage": usage}).on("check")
    async with service(nested, Fault.failed_task().for_task(1)) as (emulator, session):
        for _ in range(2):
            report = await EditBatch(requests(4), out).run(session)
            assert (report.saved, report.failed, report.cost) == (3, 1, Decimal("0.20")), report.text()
        assert emulator.statistics().tasks_created == 4


async def test_a_picture_without_a_url_keeps_the_others_in_their_places(requests, out):
    def lose_one(members):
        if "output" in members:
            members["output"][0]["content"][1] = None
        return members

    batch = EditBatch(requests(1, parameters=EditParameters(n=3)), out)
    faults = Fault.reshape(lose_one).on("check"), Fault.status(500).on("download").nth(1, 3)
    async with service(*faults) as (emulator, session):
        for downloads in (1, 3):
            assert (await batch.run(session)).unsaved == 1
            assert emulator.statistics().downloads == downloads
        assert pictures(out) == {"edit0-0.png"}
        assert (await batch.run(session)).saved == 1
    assert pictures(out) == {"edit0-0.png", "edit0-2.png"}


@pytest.mark.virtual_clock
@pytest.mark.may_block("the loop writes the pictures")
@pytest.mark.usefixtures("pictures_at_once")
async def test_a_picture_beyond_those_asked_for_takes_no_other_name(requests, out):
    output = [None, {"url": "https://r/1"}]
    service = MemoryService(on_check=lambda *_: says({"status": "completed", "output": output}))
    assert (await batch_of_memory(service, EditBatch(requests(1), out))).saved == 1
    assert pictures(out) == {"edit0-0.png"}


FAILED_AT_A_COST = {"status": "failed", "error": "no luck", "usage": {"cost": "0.05"}}


@pytest.mark.virtual_clock
@pytest.mark.parametrize("document", [FAILED_AT_A_COST, PICTURELESS], ids=["failed", "without pictures"])
async def test_what_an_edit_without_a_result_costs_counts(requests, out, document):
    service = MemoryService(on_check=lambda *_: says(document))
    for _ in range(2):
        batch = EditBatch(requests(4), out, max_cost="0.12")
        report = await batch_of_memory(service, batch)
        assert (len(service.submissions), report.cost, batch.progress.cost) == (2, Decimal("0.10"), Decimal("0.10"))
    assert report.limit == "max_cost"
    outcomes = [outcome async for outcome in batch.outcomes()]
    assert [outcome.cost for outcome in outcomes if outcome.task_id] == [Decimal("0.05")] * 2


@pytest.mark.virtual_clock
@pytest.mark.may_block("the loop writes the pictures")
@pytest.mark.usefixtures("pictures_at_once")
@pytest.mark.parametrize(
    "first",
    [
        {"status": "completed", "output": ["https://r/0"], "usage": {"cost": "0.05"}},
        {"status": "completed", "output": ["https://r/0"] * 4, "usage": {"cost": "0"}},
        FAILED_AT_A_COST,
    ],
    ids=["one picture", "for free", "failed"],
)
async def test_a_first_edit_that_is_cheaper_than_the_others_breaks_no_limit(requests, out, first):
    other = {"status": "completed", "output": ["https://r/0"] * 4, "usage": {"cost": "0.20"}}
    service = MemoryService(on_check=in_order(says(first), *[says(other)] * 20))
    many = requests(20, parameters=EditParameters(n=4))
    report = await batch_of_memory(service, EditBatch(many, out, max_cost="0.30"))
    assert (report.limit, len(service.submissions)) == ("max_cost", 2)
    assert report.cost <= Decimal("0.30")


@pytest.mark.virtual_clock
@pytest.mark.parametrize("document", [FAILED_AT_A_COST, PICTURELESS], ids=["failed", "without pictures"])
async def test_a_cost_in_the_reply_to_the_submission_counts(requests, out, document):
    service = MemoryService(on_submission=lambda _: says({"id": "x"} | document), on_check=lambda *_: says(document))
    report = await batch_of_memory(service, EditBatch(requests(4), out, max_cost="0.05"))
    assert (len(service.submissions), report.cost) == (1, Decimal("0.05"))


@pytest.mark.virtual_clock
@pytest.mark.may_block("the loop writes the pictures")
@pytest.mark.usefixtures("pictures_at_once")
@pytest.mark.parametrize(("stated", "total"), [({"cost": "0.05"}, "0.05"), ({"cost": "0.07"}, "0.07"), ({}, "0.05")])
async def test_a_cost_that_is_stated_again_counts_once(requests, out, stated, total):
    service = MemoryService(on_check=lambda *_: says(PICTURELESS))
    batch = EditBatch(requests(1), out, max_cost=1)
    report = await batch_of_memory(service, batch)
    assert (report.cost, batch.progress.cost, report.unpriced) == (Decimal("0.05"), Decimal("0.05"), 0)
    service.on_check = lambda *_: says({"status": "completed", "output": ["https://r/1"], "usage": stated})
    report = await batch_of_memory(service, batch)
    assert report.ok, report.text()
    assert (report.cost, batch.progress.cost, report.unpriced) == (Decimal(total), Decimal(total), 0)


class BrokenTransport(MemoryService):
    """A transport with a bug: it fails after the service has accepted a submission."""

    async def send(self, call, body=None):
        reply = await super().send(call, body)
        if body is not None:
            raise RuntimeError("a bug")
        return reply


@pytest.mark.virtual_clock
async def test_an_edit_that_was_sent_when_a_bug_ended_it_is_uncertain_and_counts_as_a_task(requests, out):
    transport = BrokenTransport()
    for _ in range(2):
        report = await batch_of_memory(transport, EditBatch(requests(2), out, max_tasks=1), max_in_flight=1)
        assert len(transport.submissions) == 1
        assert (states(out), report.limit) == ({"edit0": "uncertain", "edit1": "planned"}, "max_tasks")
    assert (await EditBatch(requests(2), out).plan()).submit == 1


async def test_two_requests_of_one_key_do_not_replace_each_other_in_every_run(requests, out):
    given = [*requests(1, seed=1), *requests(1, seed=2)]
    async with service() as (emulator, session):
        for _ in range(3):
            report = await EditBatch(given, out, edit_changed=True).run(session)
            assert (report.saved, report.refused) == (1, 1), report.text()
        assert emulator.statistics().tasks_created == 1
    assert report.failures[0].reason == "the key belongs to another request"


async def test_a_key_of_two_requests_is_the_first_ones_even_if_that_can_not_be_sent(requests, out, photo):
    (second,) = requests(1)
    first = attrs.evolve(second, images=(missing := photo.with_name("missing.png")))
    batch = EditBatch([first, second], out)
    async with service() as (emulator, session):
        for _ in range(2):
            plan = await batch.plan()
            assert (plan.submit, plan.problem_count) == (0, 2)
            report = await batch.run(session)
            assert (report.failed, report.refused) == (1, 1), report.text()
        assert emulator.statistics().tasks_created == 0
        missing.write_bytes(OTHER_PHOTO)
        assert ((await batch.plan()).submit, (await batch.run(session)).saved) == (1, 1)
        assert emulator.statistics().tasks_created == 1


async def test_a_picture_that_lacks_its_own_ending_is_checked_by_its_content(tmp_path):
    (tmp_path / "a-0.webp").write_bytes(b"a file of the user")
    webp = encode(Image.new("RGB", (64, 64)), "WEBP")
    batch = EditBatch([EditRequest(PHOTO, "make it snow", key="a")], tmp_path)
    async with service(Fault.wrong_download(webp, "image/webp").on("download")) as (emulator, session):
        for _ in range(2):
            assert (await batch.run(session)).ok
        assert emulator.statistics().downloads == 1
        assert (tmp_path / "a-0.png").read_bytes() == webp
        (tmp_path / "a-0.png").write_bytes(bytes(len(webp)))  # as after a power cut
        assert (await batch.run(session)).ok
        assert emulator.statistics().downloads == 2
