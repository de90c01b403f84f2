"""What a bulk run knows before it sends anything: plans, bad rows, strict."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
from collections.abc import Awaitable
from decimal import Decimal
from pathlib import Path

import attrs
import pandas as pd
import pytest
from bulk_runs import PHOTO, OddPath, pictures, service, states, until
from emulator_calls import encode
from noise import noise
from PIL import Image

from qwen_edit_async import (
    BatchPlan,
    BatchReport,
    ConfigurationError,
    EditBatch,
    EditParameters,
    EditRequest,
    FailureGroup,
    InvalidEditError,
    JournalError,
)
from qwen_edit_async.batch.fingerprint import fingerprint_of
from qwen_edit_async.batch.journal.database import Store
from qwen_edit_async.batch.journal.journal import JOURNAL_NAME, LOCK_NAME
from qwen_edit_async.batch.journal.lock import run_lock
from qwen_edit_async.batch.journal.schema import APPLICATION_ID, VERSION
from qwen_edit_async.batch.rules.decide import State
from qwen_edit_async.emulator import Fault
from qwen_edit_async.images.upload import RAW_CHUNK

pytestmark = pytest.mark.anyio


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        (folder / name).write_bytes(PHOTO)
    return folder


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def table(photos):
    def write(*rows: str, name: str = "edits.csv") -> Path:
        path = photos / name
        path.write_text("\n".join(["image,instruction,n,key", *rows, ""]), encoding="utf-8")
        return path

    return write


def everything_in(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


def problems(plan) -> list[tuple[str, str]]:
    return [(problem.where, problem.reason) for problem in plan.problems]


async def test_a_plan_needs_nothing_and_changes_nothing(photos, out, tmp_path, monkeypatch):
    monkeypatch.delenv("QWEN_EDIT_API_KEY", raising=False)
    before = everything_in(tmp_path)
    plan = await EditBatch(photos, out, instruction="snow", parameters=EditParameters(n=2)).plan(price="0.03")
    assert (plan.rows, plan.submit, plan.pictures, plan.cost) == (3, 3, 6, Decimal("0.18"))
    assert everything_in(tmp_path) == before


async def test_every_bad_row_is_told_with_its_number_and_the_others_are_planned(table, out, photos):
    (photos / "text.png").write_bytes(b"no picture")
    (photos / "empty.png").write_bytes(b"")
    os.mkfifo(photos / "pipe.png")
    path = table(
        "a.png,snow,9,", "missing.png,snow,,", "text.png,snow,,", "empty.png,snow,,", "a.png,snow,,same",
        "b.png,snow,,same", "pipe.png,snow,,", "c.png,,,", "c.png,snow,2,",
    )  # fmt: skip
    plan = await EditBatch(path, out).plan()
    assert (plan.rows, plan.submit, plan.pictures, plan.problem_count) == (9, 2, 3, 7)
    begins = "it begins with b'no pictu'"
    assert problems(plan) == [
        ("row 2", "n is 9: give an integer from 1 to 6"),
        ("row 3", f"image 1 ({photos / 'missing.png'}) does not exist"),
        ("row 4", f"image 1 ({photos / 'text.png'}) is not a JPEG, PNG, BMP, TIFF, WEBP or GIF image: {begins}"),
        ("row 5", f"image 1 ({photos / 'empty.png'}) is empty"),
        ("row 7", "the key 'same' belongs to another row"),
        ("row 8", f"image 1 ({photos / 'pipe.png'}) is not a regular file: open it, and pass the open file"),
        ("row 9", "the instruction is missing or empty: say what to do with the picture"),
    ]  # fmt: skip


NOT_HTTP = FailureGroup(
    reason="image 1 is a URL that is not http(s), s3, gs or az; open it, and pass the file",
    count=3,
    keys=("row 2", "row 3", "row 4"),
)


async def test_rows_with_one_kind_of_problem_are_one_group_in_plan_and_report(table, out):
    repeats = [f"a.png,snow,,{key}" for key in "xyxy"]
    path = table(*(f"ftp://host/{number}.png,snow,," for number in range(3)), *repeats)
    batch = EditBatch(path, out)
    groups = (
        NOT_HTTP,
        FailureGroup(reason="the key belongs to another row", count=2, keys=("row 7", "row 8")),
    )
    assert (await batch.plan()).problem_groups == groups
    async with service() as (_, session):
        assert (await batch.run(session)).failures == groups


@pytest.mark.parametrize(
    ("name", "bad", "reason"),
    [
        ("edits.csv", '"a"b,snow,,', "the line can't be read as a row"),
        ("edits.jsonl", "{", "it is not JSON"),
    ],
)
async def test_bad_lines_are_one_group(photos, out, name, bad, reason):
    good = "a.png,snow,," if name == "edits.csv" else '{"image": "a.png", "instruction": "snow"}'
    head = ["image,instruction,n,key"] if name == "edits.csv" else []
    lines = [*head, good, bad, f"{bad} "]
    (photos / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    (group,) = (await EditBatch(photos / name, out).plan()).problem_groups
    assert (group.reason.startswith(reason), group.count) == (True, 2)


async def test_requests_with_one_kind_of_problem_are_one_group(out):
    given = [{"image": f"ftp://host/{number}.png", "instruction": "snow"} for number in range(3)]
    group = attrs.evolve(NOT_HTTP, keys=("request 1", "request 2", "request 3"))
    assert (await EditBatch(given, out).plan()).problem_groups == (group,)
    async with service() as (_, session):
        assert (await EditBatch(given, out).run(session)).failures == (group,)


@pytest.mark.parametrize("fit", [False, True])
async def test_pictures_that_are_cut_short_are_problems(photos, out, fit):
    (photos / "a.png").write_bytes(PHOTO[:-1])
    (photos / "b.png").write_bytes(b"GIF89a")
    plan = await EditBatch(photos, out, instruction="snow").plan(fit=fit)
    assert plan.submit == 1
    assert [reason.partition(" is ")[2] for _, reason in problems(plan)] == [
        "a damaged PNG file: it is cut short",
        "a damaged GIF file: it is cut short",
    ]


@pytest.mark.parametrize("fit", [False, True])
async def test_files_with_the_names_of_pictures_are_problems(photos, out, fit):
    (photos / "a.png").write_bytes(b"")
    (photos / "b.png").write_bytes(b"<html>")
    plan = await EditBatch(photos, out, instruction="snow").plan(fit=fit)
    assert plan.submit == 1
    assert [reason.partition(" is ")[2] for _, reason in problems(plan)] == [
        "empty",
        "not a JPEG, PNG, BMP, TIFF, WEBP or GIF image: it begins with b'<html>'",
    ]


@pytest.mark.parametrize("name", ["odd.avif", "odd.jpg"])
@pytest.mark.parametrize("what", ["folder", "pattern", "picture"])
async def test_pictures_that_only_fit_can_make_ready_are_edited_with_it_and_listed_without(photos, out, what, name):
    odd = photos / name
    Image.new("RGB", (400, 400)).save(odd, "AVIF")
    batch = EditBatch({"folder": photos, "pattern": str(photos / "o*"), "picture": odd}[what], out, instruction="snow")
    fitting, plain = await batch.plan(fit=True), await batch.plan()
    assert fitting.problem_count == 0
    assert plain.submit == fitting.submit - 1
    ((where, problem),) = problems(plain)
    image = "" if name == "odd.avif" else f"image 1 ({odd}) "  # a file with this name is an edit until it is opened
    assert (where, problem) == (
        str(odd),
        f"{image}is in AVIF format, which the service refuses: convert it, or let the session do so with fit=True",
    )


@pytest.mark.parametrize("fit", [False, True])
async def test_a_file_is_opened_once_to_plan_once_to_hash_and_check_and_once_to_send(photos, out, openings, fit):
    small, large = photos / "a.png", photos / "b.png"
    large.write_bytes(encode(noise(400, 400, "RGB")))
    assert large.stat().st_size > RAW_CHUNK

    async def openings_of(work: Awaitable[BatchPlan | BatchReport]) -> list[int]:
        openings.clear()
        assert (await work).ok
        return [openings[str(path)] for path in (small, large)]

    batch = EditBatch(photos, out, instruction="snow", gallery_limit=0)
    assert await openings_of(batch.plan(fit=fit)) == [1, 1]
    async with service(fit=fit) as (_, session):
        assert await openings_of(batch.run(session)) == [2, 3]
        assert await openings_of(batch.run(session)) == [0, 0]


@pytest.mark.parametrize("what", ["folder", "pattern", "picture", "request"])
async def test_a_camera_raw_file_is_listed_before_the_run_with_fit_too(photos, out, what):
    raw = photos / "raw.jpg"
    raw.write_bytes(b"FUJIFILMCCD-RAW 0201" + bytes(500))
    source = {
        "folder": photos,
        "pattern": str(photos / "*.jpg"),
        "picture": raw,
        "request": [EditRequest(raw, "snow")],
    }[what]
    plan = await EditBatch(source, out, instruction=None if what == "request" else "snow").plan(fit=True)
    ((_, problem),) = problems(plan)
    assert problem.endswith("is a camera raw file (RAF format). Export it as a JPEG")


async def test_a_file_that_can_not_be_read_or_is_too_large_is_a_problem(photos, out, monkeypatch):
    requests = [EditRequest(photos / "a.png", "snow")]
    monkeypatch.setattr("builtins.open", _refuse)
    plan = await EditBatch(requests, out).plan()
    assert problems(plan)[0][1].endswith("can't be read: Permission denied")
    monkeypatch.undo()
    with (photos / "a.png").open("r+b") as file:
        file.truncate(11 * 1024 * 1024)
    plan = await EditBatch(requests, out).plan()
    assert "is over the limit of 10,485,760 bytes" in problems(plan)[0][1]
    assert (await EditBatch(requests, out).plan(fit=True)).ok


@pytest.mark.may_block(reason="the test writes a table")
@pytest.mark.parametrize("name", ["\\ud800.png", "\\ud800/a.png"])
async def test_a_path_that_can_be_none_is_the_problem_of_its_row_alone(photos, out, name):
    table = photos / "edits.jsonl"
    table.write_text(f'{{"image": "a.png"}}\n{{"image": "{name}"}}\n', encoding="utf-8")
    batch = EditBatch(table, out, instruction="snow")
    plan = await batch.plan()
    assert plan.submit == 1
    assert [(where, reason.rpartition(") ")[2]) for where, reason in problems(plan)] == [("row 2", "is not a path")]
    async with service() as (_, session):
        report = await batch.run(session)
    assert (report.saved, report.failed) == (1, 1)


async def test_a_path_that_raises_is_planned_as_it_may_be_elsewhere(photos, out):
    plan = await EditBatch([EditRequest(image, "snow") for image in (photos / "a.png", OddPath())], out).plan()
    assert plan.submit == 2


def _refuse(*_, **__):
    raise PermissionError(13, "Permission denied")


async def test_images_that_are_no_local_files_are_not_looked_at(out):
    requests = [EditRequest(["https://example.com/a.png", "data:image/png;base64,AAAA", PHOTO], "snow")]
    assert (await EditBatch(requests, out).plan()).submit == 1


async def test_bad_rows_are_told_before_anything_is_sent_and_stop_no_other(table, out):
    path = table("a.png,snow,9,", "b.png,snow,,")
    async with service() as (emulator, session):
        seen = []
        batch = EditBatch(path, out)
        report = await batch.run(
            session, on_plan=lambda plan: seen.append((problems(plan), emulator.statistics().submits))
        )
    assert seen == [([("row 2", "n is 9: give an integer from 1 to 6")], 0)]
    assert (report.saved, report.refused) == (1, 1)
    assert report.failures[0].keys == ("row 2",)
    assert pictures(out) == {"b-0.png"}


async def test_bad_rows_are_logged_if_nobody_asks_for_them(table, out, caplog):
    async with service() as (_, session):
        await EditBatch(table("a.png,snow,9,", "b.png,snow,,"), out).run(session)
    assert "1 of 2 rows can't be edited:" in caplog.messages
    assert "  row 2: n is 9: give an integer from 1 to 6" in caplog.messages


@pytest.mark.parametrize("row", ["a.png,snow,9,", "missing.png,snow,,", f"a.png,{'x' * 801},,"])
async def test_a_strict_batch_with_a_bad_row_sends_nothing(table, out, row):
    async with service() as (emulator, session):
        with pytest.raises(InvalidEditError, match=r"nothing was sent.*\n  row 2: "):
            await EditBatch(table(row, "b.png,snow,,"), out, strict=True).run(session)
        assert emulator.statistics().submits == 0
    assert (states(out), pictures(out)) == ({}, set())


async def test_a_strict_batch_of_requests_is_checked_as_a_whole(photos, out):
    given = [EditRequest(photos / "a.png", "snow", key="a"), {"images": photos / "b.png"}]
    async with service() as (emulator, session):
        with pytest.raises(InvalidEditError, match=r"request 2: the instruction is missing"):
            await EditBatch(given, out, strict=True).run(session)
        assert emulator.statistics().submits == 0
        report = await EditBatch(given[:1], out, strict=True).run(session)
    assert report.ok


async def test_text_that_would_be_cut_off_is_noted(table, out):
    plan = await EditBatch(table(f"a.png,{'x' * 801},,", f"b.png,{'x' * 802},,"), out).plan()
    assert (plan.submit, plan.notes) == (
        2,
        ("some texts exceed the service's limit: the service ignores the excess",),
    )


async def test_what_raises_in_the_callback_ends_the_run_before_anything_is_sent(photos, out):
    def refuse(_):
        raise KeyError("no")

    async with service() as (emulator, session):
        with pytest.raises(KeyError):
            await EditBatch(photos, out, instruction="snow").run(session, on_plan=refuse)
        assert emulator.statistics().submits == 0
    assert states(out) == {}


@pytest.mark.may_block(reason="the test makes a journal")
async def test_a_plan_says_what_the_journal_holds(photos, out):
    steps = {
        "planned": (),
        "uncertain": ("submitting", "uncertain"),
        "interrupted": ("submitting",),
        "submitted": ("submitting", "submitted"),
        "failed": ("submitting", "submitted", "failed"),
        "unpaid": ("failed",),
        "completed": ("submitting", "submitted", "completed"),
        "saved": ("submitting", "submitted", "completed", "saved"),
    }
    requests = [EditRequest(photos / "a.png", "snow", key=key) for key in steps]
    out.mkdir()
    (out / "saved-0.png").write_bytes(PHOTO)
    store = Store(out / JOURNAL_NAME)
    for request in requests:
        content = fingerprint_of(request)
        number = store.plan(request.key, request, content).number
        for state in map(State, steps[request.key]):
            columns = {"task_id": request.key} if state is State.SUBMITTED else {}
            columns |= {"urls": "[]", "cost": "0.5"} if state is State.COMPLETED else {}
            store.save(number, [out / "saved-0.png"]) if state is State.SAVED else store.move(number, state, **columns)
    store.close()
    before = everything_in(out)
    plan = await EditBatch(requests, out).plan(price=1)
    consenting = await EditBatch(requests, out, resubmit_uncertain=True).plan()
    assert everything_in(out) == before
    assert (plan.submit, plan.uncertain, plan.attach, plan.failed, plan.download, plan.saved) == (2, 2, 1, 1, 1, 1)
    assert (plan.spent, plan.cost) == (1, 2)
    assert (consenting.submit, consenting.uncertain) == (4, 0)


async def test_a_damaged_picture_is_to_be_downloaded_again(photos, out):
    async with service() as (_, session):
        await EditBatch(photos, out, instruction="snow").run(session)
    (out / "b-0.png").unlink()
    plan = await EditBatch(photos, out, instruction="snow").plan()
    assert (plan.saved, plan.download, plan.submit) == (2, 1, 0)


async def test_another_request_of_a_key_in_the_journal_is_a_problem_unless_it_failed_unpaid(photos, out):
    async with service() as (_, session):
        await EditBatch(photos, out, instruction="snow").run(session)
        await EditBatch([EditRequest(photos / "gone.png", "snow", key="gone")], out).run(session)
    plan = await EditBatch(photos, out, instruction="rain").plan()
    assert [reason.partition(";")[0] for _, reason in problems(plan)] == [
        "the picture, the instruction or a parameter has changed since an earlier run"
    ] * 3
    (photos / "gone.png").write_bytes(PHOTO)
    plan = await EditBatch([EditRequest(photos / "gone.png", "rain", key="gone")], out).plan()
    assert (plan.submit, plan.problem_count) == (1, 0)


async def test_a_source_with_nothing_left_to_do_is_read_once(photos, out, monkeypatch):
    readings, scandir = [], os.scandir

    def count(path):
        if str(path) == str(photos):
            readings.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", count)

    async def readings_of_a_run() -> int:
        readings.clear()
        batch = EditBatch(photos, out, instruction="snow", parameters=EditParameters(n=2))
        report = await batch.run(session)
        progress = batch.progress
        assert (report.saved, progress.saved, progress.pictures, progress.total) == (3, 3, 6, 3)
        assert progress.found == (3 if len(readings) == 1 else report.saved - created[0])
        return len(readings)

    async with service() as (emulator, session):
        created = [3]
        assert await readings_of_a_run() == 2
        created = [0]
        assert await readings_of_a_run() == 1
        (out / "a-1.png").unlink()
        created = [1]
        assert await readings_of_a_run() == 2
        created = [0]
        os.utime(photos / "a.png", ns=(1, 1))
        assert await readings_of_a_run() == 2
        assert await readings_of_a_run() == 1
    assert emulator.statistics().submits == 3


async def test_a_file_that_was_touched_or_is_gone_afterwards_is_the_same_edit(photos, out):
    async with service() as (_, session):
        await EditBatch(photos, out, instruction="snow").run(session)
    os.utime(photos / "a.png", (1, 1))
    requests = [EditRequest(photos / name, "snow", key=name) for name in ("a.png", "b.png", "c.png")]
    (photos / "b.png").unlink()
    plan = await EditBatch(requests, out).plan()
    assert (plan.saved, plan.problem_count) == (3, 0)


async def test_the_same_request_twice_is_planned_once_and_another_of_its_key_is_a_problem(photos, out):
    request = EditRequest(photos / "a.png", "snow", key="k")
    others = [attrs.evolve(request, instruction="rain"), attrs.evolve(request, key="K")]
    plan = await EditBatch([request, request, *others], out).plan()
    assert (plan.rows, plan.submit) == (4, 2)
    assert problems(plan) == [("k", "the key belongs to another request")]


def instructed(folder, *instructions):
    path = folder / "edits.csv"
    path.write_text("".join(f"{line}\n" for line in ("image,instruction", *(f"a.png,{each}" for each in instructions))))
    return path


async def test_a_row_that_is_put_before_others_is_edited_and_no_other_is_paid_again(photos, out):
    async with service() as (emulator, session):
        for rows in (["snow"], ["rain", "snow"], ["night", "rain", "sepia", "snow"], ["sepia"]):
            report = await EditBatch(instructed(photos, *rows), out).run(session)
            assert report.ok, report.text()
    assert len(emulator.tasks) == 4
    assert len({outcome.instruction for outcome in [each async for each in EditBatch([], out).outcomes()]}) == 4


async def test_pictures_of_one_name_come_and_go_and_none_is_paid_again(tmp_path, out):
    async with service() as (emulator, session):
        for number, folders in enumerate(("b", "ab", "b", "0ab"), 1):
            source = tmp_path / f"source{number}"  # wherever it is
            for folder in folders:
                (source / folder).mkdir(parents=True)
                Image.new("RGB", (400, 400), (ord(folder), 9, 9)).save(source / folder / "x.png")
            report = await EditBatch(source, out, instruction="snow", recursive=True).run(session)
            assert report.ok, report.text()
    assert len(emulator.tasks) == 3


@pytest.mark.parametrize("source", ["photos", "photos/**/*.png"])
async def test_results_beside_the_pictures_are_not_edited_by_another_run(photos, tmp_path, source):
    async with service() as (emulator, session):
        for words in ("snow", "sepia", "snow"):
            options = {"instruction": words, "recursive": source == "photos"}
            report = await EditBatch(str(tmp_path / source), photos / words, **options).run(session)
            assert (report.ok, report.saved) == (True, 3), report.text()
    assert len(emulator.tasks) == 6


async def test_edits_of_one_name_get_a_number_and_keep_it(table, out):
    path = table("a.png,snow,,", "b.png,rain,,a", "a.png,night,,")
    async with service() as (emulator, session):
        plan = await EditBatch(path, out).plan()
        assert (plan.submit, plan.ok) == (3, True)
        for rows in (("a.png,snow,,", "b.png,rain,,a", "a.png,night,,"), ("a.png,night,,", "b.png,rain,,a")):
            report = await EditBatch(table(*rows), out).run(session)
            assert report.ok, report.text()
        assert len(emulator.tasks) == 3
    outcomes = {each.instruction: each async for each in EditBatch([], out).outcomes()}
    assert {words: [path.name for path in each.files] for words, each in outcomes.items()} == {
        "snow": ["a-0.png"],
        "rain": ["a-2-0.png"],
        "night": ["a-3-0.png"],
    }
    assert [each.key for each in outcomes.values()] == ["a", "a", "a-3"]


async def test_rows_that_are_the_same_are_edits_of_their_own(table, out):
    async with service() as (emulator, session):
        for count in (2, 3):
            report = await EditBatch(table(*["a.png,snow,,"] * count), out).run(session)
            assert (report.ok, len(emulator.tasks)) == (True, count), report.text()


async def test_files_that_would_be_replaced_are_counted(photos, out):
    out.mkdir()
    (out / "b-1.png").write_bytes(b"precious")
    options = {"instruction": "snow", "parameters": EditParameters(n=2)}
    plan = await EditBatch(photos, out, overwrite=True, **options).plan()
    assert (plan.existing, plan.existing_example, plan.ok) == (1, "b-1.png", True)
    plan = await EditBatch(photos, out, **options).plan()
    assert (plan.existing, plan.submit) == (0, 2)
    assert problems(plan) == [(str(photos / "b.png"), THERE_ALREADY)]


THERE_ALREADY = (
    "the name of its result is taken by a file that this batch did not make; move that file, "
    "use another output folder, give this edit another key (the name of its files), or use overwrite=True"
)


@pytest.mark.may_block(reason="the test writes files")
async def test_a_file_that_is_put_at_a_results_name_between_two_runs_is_kept(photos, out):
    async with service() as (emulator, session):
        await EditBatch(photos, out, instruction="snow", max_tasks=1).run(session)
        (out / "c-0.png").write_bytes(b"precious")
        report = await EditBatch(photos, out, instruction="snow").run(session)
        assert (report.saved, [group.reason for group in report.failures]) == (2, [THERE_ALREADY])
        assert (out / "c-0.png").read_bytes() == b"precious"
        assert len(emulator.tasks) == 2
        report = await EditBatch(photos, out, instruction="snow", overwrite=True).run(session)
    assert report.ok
    assert (out / "c-0.png").read_bytes() != b"precious"


@pytest.mark.may_block(reason="the test makes a folder")
@pytest.mark.parametrize("overwrite", [False, True])
async def test_a_folder_at_a_results_name_is_found_before_the_edit_is_paid_for(photos, out, overwrite):
    (out / "b-0.png").mkdir(parents=True)
    batch = EditBatch(photos, out, instruction="snow", overwrite=overwrite)
    plan = await batch.plan()
    advice = "move that folder, use another output folder, or give this edit another key (the name of its files)"
    assert problems(plan) == [(str(photos / "b.png"), f"the name of its result is taken by a folder; {advice}")]
    assert plan.existing == 0
    async with service() as (emulator, session):
        report = await batch.run(session)
        assert (report.saved, report.failed, report.stopped) == (plan.submit, 1, "")
        assert len(emulator.tasks) == plan.submit
        (out / "b-0.png").rmdir()
        assert (await batch.run(session)).ok


@pytest.mark.may_block(reason="the test makes a folder and a link")
async def test_a_link_to_a_folder_at_a_results_name_is_replaced(photos, out):
    (out / "folder").mkdir(parents=True)
    (out / "a-0.png").symlink_to("folder")
    async with service() as (_, session):
        assert (await EditBatch(photos / "a.png", out, instruction="snow", overwrite=True).run(session)).ok
    assert (out / "folder").is_dir()
    assert (out / "a-0.png").is_file()


@pytest.mark.may_block(reason="the test writes files")
async def test_an_uncertain_edit_is_not_repeated_over_a_file_that_was_put_at_its_results_name(photos, out):
    async with service(Fault.drop_reply().on("submit").nth(1)) as (emulator, session):
        await EditBatch(photos / "a.png", out, instruction="snow").run(session)
        (out / "a-0.png").write_bytes(b"precious")
        batch = EditBatch(photos / "a.png", out, instruction="snow", resubmit_uncertain=True)
        assert problems(await batch.plan()) == [(str(photos / "a.png"), THERE_ALREADY)]
        report = await batch.run(session)
        assert (report.uncertain, report.refused, len(emulator.tasks)) == (1, 1, 1)
        (out / "a-0.png").unlink()
        assert (await batch.run(session)).ok


@pytest.mark.may_block(reason="the test reads a file")
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["table", "requests"])
async def test_a_result_never_replaces_an_image_to_be_edited(photos, kind, overwrite):
    (photos / "a-0.png").write_bytes(PHOTO)
    images = ("a.png", "a-0.png")
    requests = [{"images": photos / "a.png", "instruction": "snow", "key": key} for key in ("b", "a")]
    if kind == "table":
        requests = photos / "edits.csv"
        requests.write_text("".join(f"{line}\n" for line in ("image", *images)))
    elif overwrite:
        requests[1]["images"] = [photos / name for name in images]  # what comes later is not known
    options = {"instruction": "snow"} if kind == "table" else {}
    async with service() as (_, session):
        report = await EditBatch(requests, photos, overwrite=overwrite, **options).run(session)
    assert (report.saved, report.failed) == (1, 1)
    assert (photos / "a-0.png").read_bytes() == PHOTO


@pytest.mark.may_block(reason="the test makes links, and reads a file")
@pytest.mark.parametrize("kind", ["table", "requests"])
@pytest.mark.parametrize(
    "links",
    [
        {"photos/d.png": "../out/d-0.png"},
        {"photos/d.png": "e.png", "photos/e.png": "../here/d-0.png", "here": "out"},
        {"photos/d.png": "../out/d-0.png", "out/d-0.png": "../photos/a.png"},
    ],
    ids=["a link", "a link to a link", "a link over a result's name"],
)
async def test_a_result_never_replaces_an_image_that_is_a_link(photos, out, tmp_path, links, kind):
    out.mkdir()
    (out / "d-0.png").write_bytes(PHOTO)
    for name, target in links.items():
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).symlink_to(target)
    image = photos / "d.png"
    requests = [EditRequest(image, "snow", key="d")]
    if kind == "table":
        requests = photos / "edits.csv"
        requests.write_text("image,instruction,key\nd.png,snow,d\n")
    async with service() as (_, session):
        report = await EditBatch(requests, out, overwrite=True).run(session)
    assert (report.saved, report.failed) == (0, 1)
    assert report.failures[0].reason.startswith("its result would replace an image")
    assert image.read_bytes() == PHOTO


@pytest.mark.may_block(reason="the test makes links, and reads a file")
async def test_a_link_at_a_results_name_is_replaced_and_not_the_image_that_it_leads_to(photos, out):
    out.mkdir()
    (out / "a-0.png").symlink_to(photos / "a.png")
    request = EditRequest(photos / "a.png", "snow", key="a")
    async with service() as (_, session):
        assert (await EditBatch([request], out, overwrite=True).run(session)).saved == 1
    assert not (out / "a-0.png").is_symlink()
    assert (photos / "a.png").read_bytes() == PHOTO


@pytest.mark.may_block(reason="the test makes a link")
async def test_links_in_a_circle_are_the_problem_of_their_row_alone(photos, out, table):
    (photos / "d.png").symlink_to("d.png")
    plan = await EditBatch(table("a.png,snow,,", "d.png,snow,,"), out).plan()
    assert plan.submit == 1
    assert "Too many levels of symbolic links" in problems(plan)[0][1]


async def test_a_plan_sees_a_run_that_is_going_on(photos, out):
    async with service(duration=60) as (emulator, session):
        run = asyncio.create_task(EditBatch(photos, out, instruction="snow").run(session))
        await until(lambda: emulator.statistics().tasks_created == 3 and set(states(out).values()) == {"submitted"})
        plan = await EditBatch(photos, out, instruction="snow").plan()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    assert (plan.attach, plan.submit) == (3, 0)


async def _each(requests):
    for request in requests:
        yield request


@pytest.mark.parametrize("make", [iter, _each])
async def test_an_input_that_can_be_read_once_only_has_no_plan(photos, out, make):
    requests = [EditRequest(photos / "a.png", "snow")]
    with pytest.raises(ConfigurationError, match="a plan needs an input that can be read twice"):
        await EditBatch(make(requests), out).plan()
    with pytest.raises(ConfigurationError, match="strict needs an input that can be read twice"):
        EditBatch(make(requests), out, strict=True)


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        (5, {}, "the input is 'int'"),
        ({"images": "a.png"}, {}, "the input is 'dict'"),
        (b"picture", {}, "the input is 'bytes'"),
        ([EditRequest("a.png", "snow")], {"instruction": "snow"}, "an EditRequest has its own instruction"),
        ([EditRequest("a.png", "snow")], {"parameters": EditParameters(n=2)}, "an EditRequest has its own instruction"),
        ([], {"recursive": True}, "recursive is for a folder"),
    ],
)
async def test_an_input_that_makes_no_sense_is_refused(out, given, options, words):
    with pytest.raises(ConfigurationError, match=words):
        EditBatch(given, out, **options)


async def test_a_price_that_makes_no_sense_is_refused(photos, out):
    with pytest.raises(ConfigurationError, match="price is 'cheap'"):
        await EditBatch(photos, out, instruction="snow").plan(price="cheap")


async def test_the_results_may_not_go_among_the_pictures(photos):
    with pytest.raises(ConfigurationError, match="use another output folder"):
        await EditBatch(photos, photos / "." / ".." / "photos", instruction="snow").plan()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "frame"])
async def test_tables_of_every_kind_are_edited(photos, out, kind, monkeypatch):
    monkeypatch.chdir(photos)
    frame = pd.DataFrame({"image": ["a.png", "b.png"], "instruction": ["snow", None], "n": [2, None], "shop": [1, 2]})
    path = photos / f"edits.{kind}"
    if kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif kind == "parquet":
        frame.to_parquet(path)
    async with service() as (_, session):
        for _ in range(2):
            batch = EditBatch(frame if kind == "frame" else path, out, instruction="rain")
            report = await batch.run(session)
            assert report.ok
    assert (batch.progress.saved, batch.progress.found) == (2, 2)
    assert pictures(out) == {"a-0.png", "a-1.png", "b-0.png"}


async def test_a_table_that_can_not_be_read_to_its_end_sends_nothing(photos, out):
    path = photos / "edits.csv"
    path.write_bytes(b"image\na.png\n" * 10_000 + b"\xff\n")
    async with service() as (emulator, session):
        with pytest.raises(ConfigurationError, match="not UTF-8"):
            await EditBatch(path, out, instruction="snow").run(session)
        assert emulator.statistics().submits == 0


@pytest.mark.may_block(reason="the test deletes files")
@pytest.mark.parametrize("when", ["before it begins", "later"])
async def test_pictures_that_are_gone_since_they_were_counted_are_failures(tmp_path, out, when):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(300):  # a folder is read in pages of 256
        (folder / f"{number:03}.png").write_bytes(PHOTO)

    def delete(_=None):
        (folder / "297.png").unlink(missing_ok=True)
        (folder / "298.png").unlink(missing_ok=True)

    async with service(on_event=delete if when == "later" else None) as (_, session):
        batch = EditBatch(folder, out, instruction="snow", gallery_limit=0)
        report = await batch.run(session, on_plan=None if when == "later" else delete)
    assert (report.saved, report.refused, report.ok) == (298, 2, False)
    [group] = report.failures
    assert group == FailureGroup(reason="it has disappeared since the run began", count=2, keys=("297.png", "298.png"))


@pytest.mark.may_block(reason="the callback writes the table anew")
async def test_rows_that_a_table_has_lost_since_they_were_counted_are_failures(photos, table, out):
    path = table("a.png,snow,,", "b.png,snow,,", "c.png,snow,,x")
    async with service() as (_, session):
        report = await EditBatch(path, out).run(session, on_plan=lambda _: table("a.png,snow,,", "b.png,,,"))
    assert (report.saved, report.ok) == (1, False)
    (group,) = [each for each in report.failures if each.reason == "it has disappeared since the run began"]
    assert (group.keys[0].partition("-")[0], group.keys[1:]) == ("b", ("x",))


@pytest.mark.may_block(reason="the callback writes the table anew")
async def test_a_row_that_goes_bad_after_it_was_read_is_refused_alone(table, out):
    path = table("a.png,snow,,", "b.png,snow,,")
    async with service() as (_, session):
        report = await EditBatch(path, out).run(session, on_plan=lambda _: table("a.png,snow,7,", "b.png,snow,,"))
    assert (report.saved, report.refused) == (1, 1)


@pytest.mark.usefixtures("full_disk")
async def test_a_table_is_closed_when_a_run_ends_before_it(table, out):
    went_wrong = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: went_wrong.append(context))
    async with service() as (_, session):
        with pytest.raises(JournalError) as caught:
            await EditBatch(table(*["a.png,snow,,"] * 2000), out).run(session)
    await loop.shutdown_asyncgens()  # as the end of the loop does, while the error is still looked at
    assert went_wrong == []
    assert caught.value.__traceback__ is not None


async def test_a_survey_that_nobody_waits_for_ends(photos, out):
    looked_at = []

    class Requests(list):
        def __iter__(self):
            for each in super().__iter__():
                looked_at.append(each)
                loop.call_soon_threadsafe(planning.cancel)
                proceed.wait()
                yield each

    proceed = threading.Event()
    loop = asyncio.get_running_loop()
    requests = Requests(EditRequest(photos / "a.png", f"snow {number}") for number in range(1000))
    planning = asyncio.create_task(EditBatch(requests, out).plan())
    with pytest.raises(asyncio.CancelledError):
        await planning
    proceed.set()
    await loop.shutdown_default_executor()
    assert len(looked_at) == 1


@pytest.mark.parametrize("content", [b"", None])
async def test_a_journal_that_was_only_begun_holds_nothing(photos, out, content):
    out.mkdir()
    if content is None:
        with contextlib.closing(sqlite3.connect(out / JOURNAL_NAME)) as journal:
            journal.execute("PRAGMA journal_mode = WAL")
    else:
        (out / JOURNAL_NAME).write_bytes(content)
    plan = await EditBatch(photos, out, instruction="snow").plan()
    assert (plan.submit, plan.tasks) == (3, 0)


async def test_a_folder_that_can_never_be_is_none_when_planning(photos):
    assert (await EditBatch(photos, photos / "a.png" / "out", instruction="snow").plan()).submit == 3


@pytest.mark.may_block(reason="the test makes a journal")
async def test_a_journal_of_a_later_version_can_not_be_looked_at(photos, out):
    out.mkdir()
    with contextlib.closing(sqlite3.connect(out / JOURNAL_NAME)) as journal:
        journal.executescript(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(JournalError, match="later version"):
        await EditBatch(photos, out, instruction="snow").plan()


async def test_a_file_that_is_no_journal_can_not_be_looked_at(photos, out):
    out.mkdir()
    (out / JOURNAL_NAME).write_bytes(b"no database" * 100)
    with pytest.raises(JournalError, match="not a SQLite database"):
        await EditBatch(photos, out, instruction="snow").plan()


@pytest.mark.may_block(reason="the test holds the lock itself")
async def test_a_run_reads_its_input_only_once_it_has_the_folder(photos, out):
    out.mkdir()
    async with service() as (_, session):
        with run_lock(out / LOCK_NAME), pytest.raises(JournalError, match="another run"):
            await EditBatch(photos / "not there", out, instruction="snow").run(session)
        with pytest.raises(ConfigurationError, match="there is no file or folder"):
            await EditBatch(photos / "not there", out, instruction="snow").run(session)


async def test_plans_during_a_run_change_nothing_of_it(tmp_path, out):
    def draw(folder, shade):
        folder.mkdir(parents=True)
        for number in range(150):  # with both folders, more than one page of rows
            Image.new("RGB", (400, 400), (shade, number, 9)).save(folder / f"{number}.png")

    async with service(max_in_flight=64) as (emulator, session):
        draw(tmp_path / "source" / "z", 9)
        await EditBatch(tmp_path / "source", out, instruction="snow", recursive=True).run(session)
        draw(tmp_path / "source" / "a", 200)  # of the same names, and before them
        batch = EditBatch(tmp_path / "source", out, instruction="snow", recursive=True)
        run = asyncio.create_task(batch.run(session))
        while not run.done():
            await batch.plan()
        report = await run
        assert (report.ok, report.saved, len(emulator.tasks)) == (True, 300, 300), report.text()


@pytest.mark.filterwarnings("ignore::qwen_edit_async.EditWarning")  # the result is small
async def test_a_result_given_by_name_is_edited_again_in_its_own_folder(photos, out):
    async with service() as (_, session):
        await EditBatch(photos / "a.png", out, instruction="snow").run(session)
        report = await EditBatch(out / "a-0.png", out, instruction="rain").run(session)
    assert (report.saved, report.total, (out / "a-0-0.png").is_file()) == (2, 2, True), report.text()
