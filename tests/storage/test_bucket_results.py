"""Results in buckets: nothing is replaced, nothing is lost, and the journal stays here."""

from __future__ import annotations

import io
import json
import shutil

import obstore
import pytest
from buckets import SECRET, content
from bulk_runs import LOSES_SIGHT, PHOTO, pictures, service
from obstore.store import LocalStore, MemoryStore

from qwen_edit_async import BucketPath, ConfigurationError, EditBatch, EditHub, EditParameters, EditRequest
from qwen_edit_async.batch.journal.journal import JOURNAL_NAME
from qwen_edit_async.cli import main
from qwen_edit_async.emulator import Fault
from qwen_edit_async.notebook import show_batch

pytestmark = pytest.mark.anyio

KEY = "qwen-edit-emulator-key"


@pytest.fixture
def home(tmp_path):
    return tmp_path / "job"


@pytest.fixture
def requests(tmp_path):
    photo = tmp_path / "photo.png"
    photo.write_bytes(PHOTO)
    request = EditRequest(photo, "make it snow", EditParameters(n=2))
    return [EditRequest(photo, "make it snow", request.parameters, key=f"edit{number}") for number in range(3)]


def names(folder: BucketPath) -> set[str]:
    return {name for name, _ in folder.files()}


PICTURES = {f"edit{number}-{index}.png" for number in range(3) for index in range(2)}


async def test_a_result_is_saved_in_a_bucket_and_replaces_nothing(bucket, requests):
    async with service() as (_, session):
        result = await session.edit(requests[0])
        first, second = await result.save(f"{bucket.root}/out/", stem="cat")
        assert (str(first), first.size) == (f"{bucket.root}/out/cat-0.png", len(content(first)))
        assert content(second) == await result.images[1].read()
        assert await result.save(bucket / "out", stem="cat") == (first, second)  # with the same content, no conflict
        (bucket / "other.png").put(io.BytesIO(PHOTO))
        with pytest.raises(FileExistsError, match="another file has this name"):
            await result.images[0].save(f"{bucket.root}/other.png")
        await result.images[0].save(BucketPath(bucket.root, "other.png", replace=True))
    assert content(bucket / "other.png") == content(first)


@pytest.mark.parametrize("make", [lambda _: MemoryStore(), LocalStore], ids=["memory", "local"])
async def test_a_result_is_saved_in_any_store(make, requests, tmp_path):
    store = make(tmp_path)
    async with service() as (_, session):
        result = await session.edit(requests[0])
        (path, _) = await result.save((store, "out"), stem="cat")
    assert bytes(obstore.get(store, "out/cat-0.png").bytes()) == content(path)


async def test_a_result_is_saved_nowhere_else(requests):
    async with service() as (_, session):
        result = await session.edit(requests[0])
        with pytest.raises(ConfigurationError, match="results can't be written to 'memory://folder'"):
            await result.save("memory://folder")


async def test_a_batch_fills_a_bucket_and_another_run_does_nothing(bucket, requests, home):
    out = bucket / "out"
    batch = EditBatch(requests, str(out), journal=home)
    async with service() as (emulator, session):
        for _ in range(2):
            report = await batch.run(session)
            assert (report.ok, report.saved, report.pictures, report.folder) == (True, 3, 6, str(out))
        assert emulator.statistics().tasks_created == 3
        assert emulator.statistics().downloads == 6
    assert names(out) == PICTURES | {"report.html", "report.json"}
    assert batch.journal == home / JOURNAL_NAME
    assert pictures(home) == set()
    assert [outcome.files[1] async for outcome in batch.outcomes()] == [out / f"edit{each}-1.png" for each in range(3)]
    assert report.gallery == f"{out}/report.html"
    assert json.loads(content(out / "report.json")) == json.loads((home / "report.json").read_text(encoding="utf-8"))


async def test_the_page_has_relative_links_and_thumbnails(bucket, requests, home):
    (bucket / "photos/a.png").put(io.BytesIO(PHOTO))
    given = [requests[0], EditRequest(str(bucket / "photos/a.png"), "make it rain")]
    batch = EditBatch(given, str(bucket / "out"), journal=home)
    async with service() as (_, session):
        await batch.run(session)
    page = content(bucket / "out/report.html").decode()
    assert 'href="./edit0-0.png"' in page
    assert 'href="./../photos/a.png"' in page
    assert page.count('src="data:image/webp') >= 4
    assert "photo.png" not in page  # no link to a file of this machine
    assert (await show_batch(batch))._repr_html_().count("data:image/webp") >= 4


async def test_what_was_removed_or_cut_is_fetched_again(bucket, requests, home):
    out = bucket / "out"
    async with service() as (emulator, session):
        await EditBatch(requests, str(out), journal=home).run(session)
        obstore.delete(obstore.store.from_url(out.root), "out/edit1-1.png")
        report = await EditBatch(requests, str(out), journal=home).run(session)
        assert (report.saved, emulator.statistics().tasks_created) == (3, 3)
        assert names(out) >= PICTURES
        obstore.put(obstore.store.from_url(out.root), "out/edit1-1.png", b"not ours")
        report = await EditBatch(requests, str(out), journal=home).run(session)
        assert (report.saved, report.unsaved) == (2, 1)
        report = await EditBatch(requests, str(out), journal=home, overwrite=True).run(session)
        assert (report.saved, emulator.statistics().tasks_created) == (3, 3)
    assert content(out / "edit1-1.png").startswith(b"\x89PNG")


async def test_a_file_that_is_there_already_is_refused_before_anything_is_paid(bucket, requests, home):
    out = bucket / "out"
    (out / "edit1-0.png").put(io.BytesIO(b"not ours"))
    plan = await EditBatch(requests, str(out), journal=home).plan()
    assert (plan.submit, plan.problem_count) == (2, 1)
    async with service() as (emulator, session):
        report = await EditBatch(requests, str(out), journal=home).run(session)
        assert (report.saved, report.failed, emulator.statistics().tasks_created) == (2, 1, 2)
    assert content(out / "edit1-0.png") == b"not ours"


async def test_a_file_that_comes_meanwhile_is_not_replaced_and_stops_no_other_edit(bucket, requests, home):
    out = bucket / "out"
    batch = EditBatch(requests, str(out), journal=home)

    def intrude(task):
        if task.number == 1:
            BucketPath(out.root, "out/edit0-1.png", replace=True).put(io.BytesIO(b"not ours"))
        return False

    async with service(Fault.status(500).on("download").when(intrude)) as (_, session):
        report = await batch.run(session)
    assert (report.saved, report.unsaved) == (2, 1)
    assert "another file has this name" in report.text()
    assert content(out / "edit0-1.png") == b"not ours"


async def test_a_run_goes_on_with_the_tasks_of_the_last_one(bucket, requests, home):
    async with service(LOSES_SIGHT.nth(1)) as (emulator, session):
        report = await EditBatch(requests, str(bucket), journal=home).run(session)
        assert (report.saved, report.in_flight) == (2, 1)
        report = await EditBatch(requests, str(bucket), journal=home).run(session)
        assert (report.saved, emulator.statistics().tasks_created) == (3, 3)
    assert names(bucket) >= PICTURES


async def test_an_image_in_the_folder_of_results_is_never_replaced(bucket, home):
    image = bucket / "photos" / "a-0.png"
    image.put(io.BytesIO(PHOTO))
    batch = EditBatch([EditRequest(image, "make it snow", key="a")], bucket / "photos", journal=home, overwrite=True)
    plan = await batch.plan()
    assert "would replace an image that is to be edited" in plan.text()


async def test_a_bucket_that_cannot_be_read_ends_the_run_before_anything_is_paid(bucket, requests, home):
    async with service() as (emulator, session):
        with pytest.raises(ConfigurationError, match="s3://no-such-bucket/out can't be read"):
            await EditBatch(requests, "s3://no-such-bucket/out", journal=home).run(session)
        assert emulator.statistics().tasks_created == 0


async def test_a_lost_journal_is_noticed(bucket, requests, home):
    async with service() as (_, session):
        await EditBatch(requests, str(bucket), journal=home).run(session)
        shutil.rmtree(home)
        report = await EditBatch(requests, str(bucket), journal=home).run(session)
    assert (report.saved, report.failed) == (0, 3)


async def test_neither_the_key_nor_credentials_go_to_the_bucket_or_the_journal(bucket, requests, home, caplog):
    with caplog.at_level(0):
        async with service() as (_, session):
            await EditBatch(requests, str(bucket), journal=home).run(session)
    kept = [content(bucket / name) for name in names(bucket)] + [path.read_bytes() for path in home.iterdir()]
    for secret in (KEY, SECRET):
        assert secret not in caplog.text
        assert not any(secret.encode() in each for each in kept)


@pytest.mark.parametrize(
    ("out", "options", "problem"),
    [
        ("s3://bucket/out", {}, "give it as journal=PATH"),
        ("s3://bucket/out", {"journal": "s3://bucket/job"}, "the folder of the journal must be local"),
        ("out", {"journal": "job"}, "leave out journal="),
        ("memory://out", {"journal": "job"}, "results can't be written to"),
    ],
)
def test_where_a_batch_cannot_write(out, options, problem):
    with pytest.raises(ConfigurationError, match=problem):
        EditBatch(["a.png"], out, instruction="make it snow", **options)


async def test_a_hub_keeps_its_pictures_here():
    async with service() as (_, session):
        with pytest.raises(ConfigurationError, match="the folder of a hub must be local"):
            EditHub("s3://bucket/out", session)


@pytest.mark.may_block(reason="commands block")
def test_commands_write_to_buckets(bucket, photos, home, capsys):
    edit = ["edit", str(photos / "a.png"), "-i", "make it snow", "--emulator", "-o", f"{bucket}/one"]
    assert main(edit) == 0
    assert names(bucket / "one")
    batch = ["batch", str(photos), "-i", "make it snow", "--emulator", "-o", f"{bucket}/out", "--journal", str(home)]
    assert main(batch) == 0
    assert {name.partition("-")[0] for name in names(bucket / "out") if name.endswith("png")} == {"a", "b", "c"}
    assert main(batch[:-2]) == 2
    assert "--journal" in capsys.readouterr().err
