"""What a bulk run leaves for people: the page with its pictures, the report as JSON, outcomes as rows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import sqlite3
import threading
import weakref
import zlib
from decimal import Decimal
from pathlib import Path

import attrs
import pytest
from bulk_runs import until
from emulator_calls import encode
from jitter import NoJitter
from PIL import Image

from qwen_edit_async import (
    EditBatch,
    EditParameters,
    EditRequest,
    EditSession,
    EditWarning,
    FixedInterval,
    JournalError,
)
from qwen_edit_async.batch import publish as _publish
from qwen_edit_async.batch import run as _run
from qwen_edit_async.batch.journal.database import Store
from qwen_edit_async.batch.journal.journal import JOURNAL_NAME
from qwen_edit_async.batch.journal.outcomes import PAGE
from qwen_edit_async.batch.outcome import BatchOutcome
from qwen_edit_async.batch.publish import publish
from qwen_edit_async.batch.rules.decide import Fingerprint, State
from qwen_edit_async.batch.rules.report import JournalSummary, make_report
from qwen_edit_async.display.store import STORE_NAME, ThumbnailStore
from qwen_edit_async.emulator import EditEmulator, Fault, FaultPlan, FixedEngine
from qwen_edit_async.notebook import show_batch

pytestmark = pytest.mark.anyio

PHOTO = encode(Image.new("RGB", (400, 400), "#7f9cf5"))
JPEG = encode(Image.new("RGB", (400, 400), "#7f9cf5"), "JPEG")
HEADER = PHOTO[12:20] + (800).to_bytes(4) + PHOTO[24:29]
HALF = PHOTO[:12] + HEADER + zlib.crc32(HEADER).to_bytes(4) + PHOTO[33:]
"""A PNG file with 400 of the 800 rows that its header states."""

THUMBNAIL = "data:image/webp;base64,"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def requests(tmp_path):
    """So many requests for the same edit, with a key each."""
    photo = tmp_path / "photo.png"
    photo.write_bytes(PHOTO)

    def make(count: int, **changes: object) -> list[EditRequest]:
        request = EditRequest(photo, "make it snow", **changes)
        return [attrs.evolve(request, key=f"edit{number}") for number in range(count)]

    return make


@contextlib.asynccontextmanager
async def service(*faults: Fault, duration: float = 0.0):
    """A session on an emulator; tasks are created in the order of the requests."""
    async with (
        EditEmulator(duration=duration, engine=FixedEngine(), faults=FaultPlan(faults)) as emulator,
        EditSession(
            emulator.api_key,
            base_url=emulator.url,
            polling=FixedInterval(0.01),
            max_in_flight=1,
            max_retries=0,
            random=NoJitter(),
        ) as session,
    ):
        yield session


def page_of(out) -> str:
    return (out / "report.html").read_text(encoding="utf-8")


def cards(out) -> list[str]:
    return re.findall(r"<article.*?</article>", page_of(out), re.DOTALL)


def keys(out) -> list[str]:
    return re.findall(r'<h2><button type="button" dir="auto">(.*?)</button>', page_of(out))


async def cancel_when_saved(batch: EditBatch, session: EditSession, count: int) -> asyncio.Task[object]:
    run = asyncio.create_task(batch.run(session))
    await until(lambda: batch.progress.saved >= count)
    run.cancel()
    return run


@pytest.fixture
def openings(monkeypatch):
    """The names of the pictures that were opened."""
    opened: list[str] = []
    really_open = open

    def look(file, *arguments, **options):
        if str(file).endswith(".png"):
            opened.append(Path(file).name)
        return really_open(file, *arguments, **options)

    monkeypatch.setattr("builtins.open", look)
    return opened


@pytest.fixture
def blocked_thumbnails(monkeypatch):
    """Results can't be opened, so that they have no thumbnails, before the test sets this event."""
    go_on, really_open = threading.Event(), open

    def wait(file, *arguments, **options):
        if str(file).endswith("-0.png"):
            assert go_on.wait(10)
        return really_open(file, *arguments, **options)

    monkeypatch.setattr("builtins.open", wait)
    yield go_on
    go_on.set()


def kept(out) -> list[str]:
    """Return the names of the files whose thumbnails are kept."""
    with contextlib.closing(sqlite3.connect(out / STORE_NAME)) as store:
        return sorted(Path(path).name for (path,) in store.execute("SELECT path FROM thumbnails"))


async def test_a_page_shows_every_edit_before_and_after(requests, out):
    async with service() as session:
        report = await EditBatch(requests(3, parameters=EditParameters(seed=7)), out).run(session)
    assert report.gallery == str(out / "report.html")
    assert report.text().splitlines()[-1] == f"before and after: {out / 'report.html'}"
    assert keys(out) == ["edit0", "edit1", "edit2"]
    for number, card in enumerate(cards(out)):
        assert card.count(THUMBNAIL) == 2
        for shown in ("make it snow", "<dt>seed</dt><dd>7</dd>", "<dt>cost</dt><dd>0.0357</dd>", "<dt>task</dt>"):
            assert shown in card
        assert f'href="./edit{number}-0.png"' in card
        assert 'href="./../photo.png"' in card
    assert "<dt>done</dt><dd>3 of 3 edits</dd>" in page_of(out)
    assert "on this page" not in page_of(out)


async def test_the_report_is_there_as_json(requests, out):
    async with service() as session:
        report = await EditBatch(requests(2), out).run(session)
    assert json.loads((out / "report.json").read_text(encoding="utf-8")) == json.loads(report.to_json())


async def test_what_went_wrong_comes_first_with_its_reason(requests, out):
    faults = Fault.failed_task(110001, "refused by moderation").for_task(2), Fault.drop_reply().on("submit").nth(3)
    async with service(*faults) as session:
        await EditBatch(requests(4), out).run(session)
    assert keys(out) == ["edit1", "edit2", "edit0", "edit3"]
    failed, uncertain, *good = cards(out)
    assert "refused by moderation" in failed
    assert "<dt>status</dt><dd>uncertain</dd>" in uncertain
    assert [card.count(THUMBNAIL) for card in (failed, uncertain, *good)] == [1, 1, 2, 2]
    assert [' class="card failed"' in card for card in (failed, uncertain, *good)] == [True, True, False, False]


async def test_the_page_is_of_all_runs(requests, out):
    async with service() as session:
        await EditBatch(requests(3), out, max_tasks=1).run(session)
        assert "<dt>stopped</dt><dd>1 task created (max_tasks=1)</dd>" in page_of(out)
        await EditBatch(requests(3)[1:], out).run(session)
    assert keys(out) == ["edit0", "edit1", "edit2"]
    assert "stopped" not in re.findall("<dt>(.*?)</dt>", page_of(out))


@pytest.mark.may_block("the test looks into the store")
async def test_thumbnails_are_made_while_the_service_works(requests, out):
    async with service(Fault.stuck_task().for_task(2)) as session:
        batch = EditBatch(requests(2), out)
        run = asyncio.create_task(batch.run(session))
        await until(lambda: (out / STORE_NAME).exists() and batch.progress.saved)
        await until(lambda: kept(out) == ["edit0-0.png", "photo.png"])
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    assert [card.count(THUMBNAIL) for card in cards(out)] == [2, 1]
    assert len(kept(out)) == 2


@pytest.mark.may_block("the test changes the kept thumbnails")
async def test_a_second_run_and_a_notebook_make_no_thumbnail_again(requests, out):
    async with service() as session:
        await EditBatch(requests(2), out).run(session)
        assert kept(out) == ["edit0-0.png", "edit1-0.png", "photo.png"]
        with contextlib.closing(sqlite3.connect(out / STORE_NAME)) as store, store:
            store.execute("UPDATE thumbnails SET content = x'00'")
        await EditBatch(requests(2), out).run(session)
    grid = await show_batch(EditBatch(requests(2), out))
    assert grid._repr_html_().count(f'"{THUMBNAIL}AA=="') == page_of(out).count(f'"{THUMBNAIL}AA=="') == 4


@pytest.mark.usefixtures("notebook")
async def test_a_run_in_a_notebook_decodes_no_result_twice(requests, out, openings):
    async with service() as session:
        await EditBatch(requests(1), out).run(session)
    assert openings.count("edit0-0.png") == 1


@pytest.mark.may_block("the test looks into the store")
async def test_no_thumbnails_are_made_of_edits_that_the_page_leaves_out(requests, out):
    async with service() as session:
        await EditBatch(requests(3), out, gallery_limit=1).run(session)
        assert kept(out) == ["edit0-0.png", "photo.png"]
        await EditBatch(requests(3), out.with_name("other"), gallery_limit=0).run(session)
    assert not (out.with_name("other") / STORE_NAME).exists()


async def test_an_input_that_is_gone_or_was_in_memory_leaves_a_card_without_before(requests, out, tmp_path):
    given = [*requests(1), *(EditRequest(image, "make it rain", key=image[:8].hex()) for image in (PHOTO, JPEG))]
    given.append(EditRequest("https://example.org/photo.png", "make it rain", key="URL"))
    async with service() as session:
        await EditBatch(given, out).run(session)
        assert [card.count(THUMBNAIL) for card in cards(out)] == [2, 1, 1, 1]
        (tmp_path / "photo.png").unlink()
        await EditBatch([], out).run(session)
    assert [card.count(THUMBNAIL) for card in cards(out)] == [1, 1, 1, 1]
    assert 'href="./../' not in page_of(out)
    assert "photo.png" not in page_of(out)


async def test_a_run_that_is_cancelled_leaves_its_page_too(requests, out):
    async with service(Fault.stuck_task().for_task(3)) as session:
        batch = EditBatch(requests(4), out)
        run = await cancel_when_saved(batch, session, 2)
        with pytest.raises(asyncio.CancelledError):
            await run
    assert "<dt>stopped</dt><dd>the run was interrupted</dd>" in page_of(out)
    assert "<dd>in flight</dd>" in page_of(out)
    assert batch.report.gallery == str(out / "report.html")
    assert (batch.report.saved, batch.report.stopped) == (2, "the run was interrupted")


@pytest.mark.parametrize("interrupted", [False, True])
async def test_who_interrupts_a_run_waits_three_seconds_for_small_pictures_at_most(
    requests, out, monkeypatch, interrupted
):
    allowed = []

    def publish(report, *_, preview_seconds, **__):
        allowed.append(preview_seconds)
        return report

    monkeypatch.setattr(_run, "publish", publish)
    async with service(*[Fault.stuck_task().for_task(2)] * interrupted) as session:
        batch = EditBatch(requests(2), out)
        if interrupted:
            run = await cancel_when_saved(batch, session, 1)
            with pytest.raises(asyncio.CancelledError):
                await run
        else:
            await batch.run(session)
    assert allowed == [3.0 if interrupted else 60.0]


async def test_a_run_whose_input_fails_leaves_its_page_too(requests, out):
    def broken():
        yield from requests(2)
        raise LookupError("row 3")

    async with service() as session:
        with pytest.raises(LookupError):
            await EditBatch(broken(), out).run(session)
    assert "<dt>stopped</dt><dd>row 3</dd>" in page_of(out)
    assert len(keys(out)) == 2


async def test_who_cancels_again_does_not_wait_for_the_page(requests, out, blocked_thumbnails):
    async with service(Fault.stuck_task().for_task(2)) as session:
        batch = EditBatch(requests(200), out)
        run = await cancel_when_saved(batch, session, 1)
        await until(lambda: batch.progress.publishing)
        run.cancel()
        await asyncio.sleep(0)
        blocked_thumbnails.set()
        with pytest.raises(asyncio.CancelledError):
            await run
    assert sorted(path.name for path in out.iterdir() if "report" in path.name) == []


@pytest.mark.may_block("the page is written without a thread")
async def test_without_time_for_small_pictures_the_page_shows_the_files(requests, out):
    batch = EditBatch(requests(1), out)
    async with service() as session:
        report = await batch.run(session)
    (out / STORE_NAME).unlink()
    with contextlib.closing(ThumbnailStore(out)) as thumbnails:
        publish(report, batch.journal, out, thumbnails, limit=1, preview_seconds=-1.0, given_up=threading.Event())
    (card,) = cards(out)
    assert THUMBNAIL not in card
    assert re.findall(r' src="(.*?)"', card) == ["./../photo.png", "./edit0-0.png"]


async def test_a_page_that_can_not_be_written_fails_no_run(requests, out, caplog):
    for name in ("report.html", "report.json"):
        (out / name).mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        async with service() as session:
            report = await EditBatch(requests(1), out).run(session)
    assert (report.ok, report.gallery, report.gallery_problem) == (True, "", "Is a directory")
    assert "report.html could not be written: Is a directory" in report.text()
    assert [name for name in ("report.html", "report.json") if f"{name} could not be written" in caplog.text] == [
        "report.html",
        "report.json",
    ]


async def test_a_page_that_could_not_be_finished_leaves_the_earlier_one(requests, out, monkeypatch):
    def outcomes(*_):
        yield BatchOutcome(key="k", status="saved", instruction="i")
        raise RuntimeError("the journal is gone")

    async with service() as session:
        await EditBatch(requests(1), out).run(session)
        earlier = page_of(out)
        monkeypatch.setattr(_publish, "read_chosen", outcomes)
        report = await EditBatch(requests(1), out).run(session)
    assert (report.gallery, report.gallery_problem) == ("", "the journal is gone")
    assert page_of(out) == earlier
    assert sorted(path.name for path in out.glob("*report*")) == ["report.html", "report.json"]


@pytest.mark.may_block("the page is written without a thread")
def test_a_page_keeps_the_order_and_holds_only_a_few_edits(out, monkeypatch):
    held, most = [], 0

    def outcomes(*_):
        nonlocal most
        for number in range(300):
            outcome = BatchOutcome(key=f"edit-{number:03}", status="saved", instruction="i")
            held.append(weakref.ref(outcome))
            most = max(most, sum(each() is not None for each in held))
            yield outcome

    out.mkdir()
    monkeypatch.setattr(_publish, "read_chosen", outcomes)
    report = make_report(JournalSummary(), folder=str(out), elapsed=1.0)
    with contextlib.closing(ThumbnailStore(out)) as thumbnails:
        publish(report, out, out, thumbnails, limit=300, preview_seconds=1.0, given_up=threading.Event())
    assert keys(out) == [f"edit-{number:03}" for number in range(300)]
    assert most < 150


@pytest.mark.may_block(reason="the test damages the journal")
@pytest.mark.parametrize(("column", "is_told"), [("queued", False), ("reason", True)])
async def test_a_damaged_value_of_the_journal_fails_no_run(requests, out, caplog, column, is_told):
    async with service() as session:
        await EditBatch(requests(1), out).run(session)
        with contextlib.closing(sqlite3.connect(out / JOURNAL_NAME)) as journal:
            journal.execute(f"UPDATE edits SET {column} = x'00'")
            journal.commit()
        report = await EditBatch(requests(1), out).run(session)
    assert (report.saved, report.queued is None) == (1, column == "queued")
    assert report.text()
    assert ("report.json could not be written" in caplog.text) == is_told


async def test_a_long_page_is_cut_and_says_so(requests, out):
    async with service(Fault.failed_task().for_task(5)) as session:
        await EditBatch(requests(6), out, gallery_limit=3).run(session)
    assert keys(out) == ["edit4", "edit0", "edit1"]
    assert "<dd>3 of 6 edits, those with errors first</dd>" in page_of(out)


async def test_without_a_page_there_is_the_report_still(requests, out):
    async with service() as session:
        report = await EditBatch(requests(1), out, gallery_limit=0).run(session)
    assert (report.gallery, report.gallery_problem) == ("", "")
    assert sorted(path.name for path in out.glob("report*")) == ["report.json"]


async def test_the_key_is_on_no_page(requests, out):
    async with service(Fault.status(401).on("submit").nth(2)) as session:
        await EditBatch(requests(3), out).run(session)
    assert "qwen-edit-emulator-key" not in page_of(out) + (out / "report.json").read_text(encoding="utf-8")


async def test_outcomes_tell_what_became_of_each_edit(requests, out, tmp_path):
    fault = Fault.failed_task(17, "no").for_task(2)
    batch = EditBatch(requests(2, parameters=EditParameters(n=2, seed=7)), out)
    async with service(fault) as session:
        await batch.run(session)
    saved, failed = [outcome async for outcome in batch.outcomes()]
    assert (saved.key, saved.status, saved.ok, saved.instruction) == ("edit0", "saved", True, "make it snow")
    assert (saved.images, saved.parameters) == ((str(tmp_path / "photo.png"),), {"n": 2, "seed": 7})
    assert saved.files == (out / "edit0-0.png", out / "edit0-1.png")
    assert (saved.cost, saved.error, saved.attempts) == (Decimal("0.0714"), None, 1)
    assert saved.task_id
    assert saved.running > 0
    assert saved.checks >= 1
    assert (failed.status, failed.ok, failed.files, failed.cost) == ("failed", False, (), None)
    assert failed.error == f"task {failed.task_id} failed: no (code 17)"


async def test_fewer_pictures_than_were_asked_for_are_noted_everywhere(requests, out):
    def lose_one(members):
        if "output" in members:
            del members["output"][0]["content"][1]
        return members

    batch = EditBatch(requests(2, parameters=EditParameters(n=3)), out)
    async with service(Fault.reshape(lose_one).on("check").when(lambda task: task.number == 1)) as session:
        report = await batch.run(session)
        assert (session.statistics().submitted, report.ok, report.short) == (2, True, 1)
    note = "the service gave 2 of the 3 requested pictures"
    assert "\n  1 with fewer pictures than requested\n" in report.text()
    assert json.loads((out / "report.json").read_text(encoding="utf-8"))["short"] == 1
    assert [outcome.notes async for outcome in batch.outcomes()] == [(note,), ()]
    assert [outcome.as_row()["notes"] async for outcome in batch.outcomes()] == [[note], []]
    page = page_of(out)
    assert page.count(note) == 1
    assert "with fewer pictures than requested" in page
    assert note in (await show_batch(batch))._repr_html_()


async def test_damaged_pictures_that_were_kept_are_marked_everywhere(requests, out):
    batch = EditBatch(requests(2), out)
    cut = Fault.wrong_download(HALF, "image/png")
    async with service(cut.on("download").for_task(1)) as session:
        with pytest.warns(EditWarning, match="damaged"):
            report = await batch.run(session)
        assert (await batch.run(session)).damaged == 1
    assert (report.ok, report.saved, report.damaged) == (True, 2, 1)
    damage = "edit0-0.png is a damaged PNG file: it has data for 50 % of its pixels"
    assert "\n  1 with a damaged picture: the file is kept unchanged\n" in report.text()
    assert json.loads((out / "report.json").read_text(encoding="utf-8"))["damaged"] == 1
    assert [outcome.as_row()["damage"] async for outcome in batch.outcomes()] == [damage, None]
    page = page_of(out)
    assert page.count(f"<dt>damaged</dt><dd>{damage}</dd>") == 1
    assert "with a damaged picture" in page
    assert f"damaged: {damage}" in (await show_batch(batch))._repr_html_()


async def test_rows_have_the_same_columns_and_plain_values(requests, out):
    batch = EditBatch(requests(2, parameters=EditParameters(seed=7)), out)
    async with service(Fault.failed_task().for_task(2)) as session:
        await batch.run(session)
    saved, failed = [outcome.as_row() async for outcome in batch.outcomes()]
    assert saved.keys() == failed.keys()
    assert {"key", "status", "instruction", "seed", "negative_prompt", "files", "cost", "error", "task_id"} < {*saved}
    assert (saved["seed"], saved["size"], saved["files"]) == (7, None, [str(out / "edit0-0.png")])


async def test_outcomes_can_be_read_while_the_run_goes_on(requests, out):
    batch = EditBatch(requests(3), out)
    async with service(Fault.stuck_task().for_task(3)) as session:
        run = await cancel_when_saved(batch, session, 2)
        assert [outcome.status async for outcome in batch.outcomes()][:2] == ["saved", "saved"]
        with pytest.raises(asyncio.CancelledError):
            await run


@pytest.mark.may_block("the test looks for files")
@pytest.mark.parametrize("empty", [False, True])
async def test_reading_without_a_journal_says_so_and_makes_nothing(out, empty):
    out.mkdir()
    batch = EditBatch([], out)
    if empty:
        batch.journal.touch()
    for reading in (show_batch(batch), anext(batch.outcomes())):
        with pytest.raises(JournalError, match=r"there is no journal in .*out: no run has begun there"):
            await reading
    assert (await batch.plan()).submit == 0
    assert [path.stat().st_size for path in out.iterdir()] == [0] * empty


@pytest.mark.may_block("the test damages the journal itself")
@pytest.mark.parametrize("column", ["request", "files"])
@pytest.mark.parametrize("damage", ["{", "7", "[7]", "x'00ff'"])
async def test_a_damaged_outcome_is_an_error_of_the_journal(requests, out, column, damage):
    async with service() as session:
        batch = EditBatch(requests(1), out)
        await batch.run(session)
    value = damage if damage.startswith("x") else f"'{damage}'"
    with contextlib.closing(sqlite3.connect(batch.journal)) as journal, journal:
        journal.execute(f"UPDATE edits SET {column} = {value}")
    with pytest.raises(JournalError, match="damaged"):
        [outcome async for outcome in batch.outcomes()]


@pytest.mark.may_block("the test makes the journal by itself")
async def test_outcomes_come_in_the_order_of_the_journal_however_many_there_are(out):
    out.mkdir()
    batch = EditBatch([], out)
    store = Store(batch.journal)
    count = 2 * PAGE + 1

    def plan(number: int) -> None:
        store.plan(f"k{number}", EditRequest(PHOTO, "i", key=f"k{number}"), Fingerprint())

    store.transact([lambda number=number: plan(number) for number in range(count)])
    store.move(1, State.FAILED, reason="r", problem="p")
    store.close()
    found = [outcome async for outcome in batch.outcomes()]
    assert [outcome.key for outcome in found] == [f"k{number}" for number in range(count)]
    assert [outcome.status for outcome in found[:2]] == ["failed", "planned"]
    assert found[0].images == (None,)


async def test_progress_tells_when_only_the_page_is_left(requests, out, blocked_thumbnails):
    batch = EditBatch(requests(1), out)
    async with service() as session:
        run = asyncio.create_task(batch.run(session))
        await until(lambda: batch.progress.begun)
        assert not batch.progress.publishing
        await until(lambda: batch.progress.publishing)
        assert (batch.progress.saved, run.done(), (out / "report.html").exists()) == (1, False, False)
        blocked_thumbnails.set()
        assert (await run).ok
