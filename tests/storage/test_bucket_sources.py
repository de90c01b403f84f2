"""Tables and folders of pictures in buckets."""

from __future__ import annotations

import io
import json
import threading

import obstore
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from bulk_runs import PHOTO, service, states
from obstore.store import MemoryStore

from qwen_edit_async import BucketPath, ConfigurationError, EditBatch, EditRequest
from qwen_edit_async.batch.rules.item import EditDefaults, Reading, SourceItem
from qwen_edit_async.batch.sources import is_table, read_source, table_folder, tagged
from qwen_edit_async.cli import main

SNOW = EditDefaults("make it snow")


def put(path: BucketPath, content: bytes) -> BucketPath:
    path.put(io.BytesIO(content))
    return path


def parquet(*keys: str) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pa.table({"image": ["x.png"] * len(keys), "key": list(keys)}), file, row_group_size=1)
    return file.getvalue()


def images(items) -> list[str]:
    return [str(item.request.images[0]) for item in items]


TABLES = {
    "edits.csv": b'\xef\xbb\xbfimage,key\nx.png,a\n"/y.png",b\ns3://other/z.png,c\nhttps://host/w.png,d\n',
    "edits.jsonl": b"\n".join(
        json.dumps({"image": image, "key": key}).encode()
        for image, key in (("x.png", "a"), ("/y.png", "b"), ("s3://other/z.png", "c"), ("https://host/w.png", "d"))
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_paths_in_a_table_are_relative_to_it(bucket, name):
    table = put(bucket / "tables" / name, TABLES[name])
    items = list(read_source(str(table), Reading(SNOW)))
    assert images(items) == [f"{bucket}/tables/x.png", "/y.png", "s3://other/z.png", "https://host/w.png"]
    assert is_table(table)
    assert table_folder(table) == f"{bucket}/tables"


def test_a_parquet_table_is_read(bucket):
    table = put(bucket / "table.parquet", parquet("a", "b"))
    items = list(read_source(str(table), Reading(SNOW)))
    assert images(items) == [f"{bucket}/x.png"] * 2


@pytest.mark.parametrize("source", ["parts.parquet", "parts.parquet/*.parquet"])
def test_parts_are_one_table(bucket, source):
    for number, keys in enumerate("ab"):
        put(bucket / "parts.parquet" / f"part-{number}.parquet", parquet(*keys))
    put(bucket / "parts.parquet" / "_SUCCESS", b"")
    items = list(read_source(bucket / source, Reading(SNOW)))
    assert [(item.request.key, item.label) for item in items] == [
        ("a", "row 1 of part-0.parquet"),
        ("b", "row 1 of part-1.parquet"),
    ]


@pytest.mark.parametrize("subfolder", ["more", "more.parquet"])
def test_a_folder_with_parts_in_a_subfolder_is_no_table(bucket, subfolder):
    for name in ("part-0.parquet", f"{subfolder}/part-1.parquet"):
        put(bucket / "parts" / name, parquet("a"))
    assert not is_table(bucket / "parts")
    assert table_folder(bucket / "parts/*.parquet") == f"{bucket}/parts"


@pytest.fixture
def photos(bucket) -> BucketPath:
    for name in ("a.png", "b[1].JPG", "more/c.webp", ".hidden.png", "more/.trash/d.png", "notes.txt", "out/a-0.png"):
        put(bucket / "photos" / name, PHOTO)
    return bucket / "photos"


@pytest.mark.parametrize(
    ("source", "options", "found"),
    [
        ("", {}, ["a.png", "b[1].JPG"]),
        ("", {"recursive": True}, ["a.png", "b[1].JPG", "more/c.webp", "out/a-0.png"]),
        ("*.png", {}, ["a.png"]),
        ("a.png", {}, ["a.png"]),
        ("missing.png", {}, ["missing.png"]),
    ],
)
def test_the_pictures_of_a_folder_are_known_by_their_names(photos, source, options, found):
    items = list(read_source(photos / source if source else photos, Reading(SNOW, **options)))
    assert sorted(item.identity for item in items) == found
    assert sorted(images(items)) == [f"{photos}/{name}" for name in found]


def test_every_kind_of_picture_in_a_bucket_is_read_and_other_files_are_named(bucket):
    for name in ("a.avif", "b.HEIC", "c.jp2", "d.ico", "e.mpo", "f.jfif", "g.txt", "h.csv"):
        put(bucket / "photos" / name, b"anything")
    notes = []
    items = list(read_source(bucket / "photos", Reading(SNOW, note=notes.append)))
    assert sorted(item.identity for item in items) == ["a.avif", "b.HEIC", "c.jp2", "d.ico", "e.mpo", "f.jfif"]
    assert notes == ["left out: 2 files that the service does not accept (g.txt, h.csv)"]


def test_the_folder_of_results_is_no_source(photos):
    items = list(read_source(photos, Reading(SNOW, recursive=True, exclude=f"{photos}/out")))
    assert sorted(item.identity for item in items) == ["a.png", "b[1].JPG", "more/c.webp"]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("s3://no-such-bucket/photos", "s3://no-such-bucket/photos can't be read: "),
        ("empty", "no file in .* has the extension of a JPEG, PNG"),
        ("missing.csv", "missing.csv can't be read: does not exist"),
        ("missing.parquet", "missing.parquet can't be read: does not exist"),
    ],
)
def test_a_source_that_is_not_there_is_refused(bucket, source, problem):
    with pytest.raises(ConfigurationError, match=problem):
        list(read_source(source if "://" in source else bucket / source, Reading(SNOW)))


def test_pictures_without_an_instruction_are_refused(photos):
    with pytest.raises(ConfigurationError, match="the pictures have no instruction"):
        list(read_source(photos, Reading(EditDefaults())))


@pytest.mark.anyio
async def test_a_folder_is_edited_into_another_one(photos, tmp_path):
    batch = EditBatch(
        str(photos),
        photos / "out",
        journal=tmp_path / "job",
        instruction="make it rain",
        recursive=True,
        overwrite=True,
    )
    async with service() as (emulator, session):
        for _ in range(2):
            report = await batch.run(session)
        assert (report.saved, emulator.statistics().tasks_created) == (3, 3)
    with pytest.raises(ConfigurationError, match="the results would be among the pictures"):
        await EditBatch(str(photos), photos, journal=tmp_path / "other", instruction="make it rain").plan()


@pytest.mark.anyio
async def test_a_pair_of_a_store_and_a_path_is_a_source(tmp_path):
    store = MemoryStore()
    store.put("edits/table.csv", b"image,key\n../photos/x.png,a\n")
    store.put("photos/x.png", PHOTO)
    async with service() as (_, session):
        await EditBatch((store, "edits/table.csv"), tmp_path / "out", instruction="make it snow").run(session)
    assert states(tmp_path / "out") == {"a": "saved"}


@pytest.mark.may_block(reason="commands block")
def test_the_command_reads_a_table_in_a_bucket(bucket, tmp_path, capsys):
    put(bucket / "x.png", PHOTO)
    table = put(bucket / "table.parquet", parquet("a", "b"))
    command = ["batch", str(table), "-i", "make it snow", "--emulator", "-o"]
    assert main([*command, str(tmp_path / "out")]) == 0
    assert states(tmp_path / "out") == {"a": "saved", "b": "saved"}
    assert main([*command, f"{bucket}/out", "--journal", str(tmp_path / "job"), "--dry-run"]) == 0
    assert "2 rows read" in capsys.readouterr().out


@pytest.fixture
def table(bucket) -> BucketPath:
    """A table of three images that are there."""
    for name in "abc":
        put(bucket / f"cats/{name}.png", PHOTO)
    return put(bucket / "edits.csv", b"image\n" + b"".join(b"cats/%c.png\n" % name for name in b"abc"))


@pytest.fixture
def together(monkeypatch) -> threading.Barrier:
    """Make each request for a tag wait until three are made at once."""
    barrier, head = threading.Barrier(3), obstore.head

    def wait(*asked):
        barrier.wait(10)
        return head(*asked)

    monkeypatch.setattr(obstore, "head", wait)
    return barrier


@pytest.mark.anyio
async def test_the_images_of_a_table_are_asked_for_at_once(table, together, tmp_path):
    async with service() as (emulator, session):
        for _ in range(2):
            report = await EditBatch(table, tmp_path / "out", instruction="make it snow").run(session)
        assert (report.saved, emulator.statistics().tasks_created) == (3, 3)
    assert not together.broken


def test_images_that_can_not_be_asked_for_stay_as_they_are(table, bucket, monkeypatch):
    obstore.delete(obstore.store.from_url(bucket.root), "cats/b.png")
    items = [SourceItem(problem="no edit"), *tagged(read_source(table, Reading(SNOW)))]
    local = SourceItem(request=EditRequest(["a.png", bucket / "cats/a.png"], "make it snow"))
    items = [*tagged([*items, local])]
    with monkeypatch.context() as patch:
        patch.setattr(obstore, "head", None)
        tags = {items[place].request.images[-1].tag() for place in (1, 3, 4)}
    assert len(tags) == 1
    assert items[4].request.images[0] == "a.png"
    with pytest.raises(FileNotFoundError):
        items[2].request.images[0].tag()


@pytest.mark.anyio
async def test_a_pair_of_a_store_and_a_path_is_an_image_of_a_data_frame(tmp_path):
    store = MemoryStore()
    obstore.put(store, "a.png", PHOTO)
    frame = pd.DataFrame({"key": ["a"], "image": [(store, "a.png")], "instruction": ["make it snow"]})
    async with service() as (_, session):
        assert (await EditBatch(frame, tmp_path / "out").run(session)).ok
    assert states(tmp_path / "out") == {"a": "saved"}
