"""Images in buckets: signed for the service, or sent; known again by store, path and tag."""

from __future__ import annotations

import io
import sqlite3
from contextlib import closing

import obstore
import pytest
from buckets import SECRET
from bulk_runs import PHOTO, service, states
from emulator_calls import encode
from obstore.store import MemoryStore
from PIL import Image

from qwen_edit_async import BucketPath, EditBatch, EditParameters, EditRequest, EditSession, InvalidEditError
from qwen_edit_async.batch.journal.journal import JOURNAL_NAME
from qwen_edit_async.emulator import EditEmulator
from qwen_edit_async.images.prepare import prepare

pytestmark = pytest.mark.anyio

OTHER = encode(Image.new("RGB", (400, 400), "#102030"))


@pytest.fixture
def photo(bucket) -> BucketPath:
    path = bucket / "photos" / "a cat#1.png"
    path.put(io.BytesIO(PHOTO))
    return path


@pytest.fixture
def in_memory() -> tuple[MemoryStore, str]:
    store = MemoryStore()
    obstore.put(store, "photos/a.png", PHOTO)
    return store, "photos/a.png"


def sent(emulator: EditEmulator) -> list[str]:
    """Return how each image arrived: the URL that the service fetched, or the media type that was sent."""
    images = [image for task in emulator.tasks.values() for image in task.submission.images]
    return [str(image.url or image.media_type) for image in images]


async def test_the_service_fetches_an_image_from_a_presigned_url(photo):
    async with EditEmulator(duration=0) as emulator, EditSession(emulator.api_key, base_url=emulator.url) as session:
        result = await session.edit(str(photo), "invert the colors")
        picture = Image.open(io.BytesIO(await result.images[0].read()))
    (url,) = sent(emulator)
    assert "/photos/a%20cat%231.png?" in url
    assert "X-Amz-Signature=" in url
    assert picture.size == (1024, 1024)
    assert repr(result.request.images) == f"({photo!r},)"


@pytest.mark.parametrize("options", [{"inline": True}, {"fit": True}], ids=str)
async def test_an_image_is_read_and_sent_on_request(photo, options):
    async with (
        EditEmulator(duration=0) as emulator,
        EditSession(emulator.api_key, base_url=emulator.url, **options) as session,
    ):
        await session.edit([photo, str(photo)], "make it snow")
    assert sent(emulator) == ["image/png", "image/png"]


async def test_an_image_is_read_and_sent_if_its_store_cannot_sign(in_memory):
    async with service() as (emulator, session):
        await session.edit(in_memory, "make it snow")
        await session.edit([in_memory, in_memory], "make it snow")
    assert sent(emulator) == ["image/png"] * 3


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"%PDF-1.7 and so on", "is not a JPEG, PNG"),
        (b"8BPS" + bytes(100), "is in PSD format"),
        (PHOTO + bytes(10 * 1024 * 1024), "is over the limit"),
    ],
    ids=["missing", "empty", "no picture", "another format", "too large"],
)
def test_what_cannot_be_edited_is_refused_before_anything_is_sent(bucket, content, problem, inline):
    path = bucket / "photo.png"
    if content is not None:
        path.put(io.BytesIO(content))
    with pytest.raises(InvalidEditError, match=problem) as refused:
        prepare([path], inline=inline)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("key", [".", "photos/../photo.png", "photos//photo.png"])
def test_an_image_whose_path_no_store_takes_is_refused(bucket, key):
    with pytest.raises(InvalidEditError, match="can't be read: Could not parse path"):
        prepare([BucketPath(bucket.root, key)])


def test_a_damaged_image_is_refused_where_it_is_read(bucket):
    path = bucket / "photo.png"
    path.put(io.BytesIO(PHOTO[:-20]))
    with pytest.raises(InvalidEditError, match="image 1"):
        prepare([path], inline=True)


async def test_an_edit_is_known_again_by_store_and_path_and_refused_when_its_tag_changes(photo, tmp_path):
    out, source = tmp_path / "out", [{"image": str(photo), "instruction": "make it snow"}]
    async with service() as (emulator, session):
        for _ in range(2):
            report = await EditBatch(source, out).run(session)
            assert (report.saved, report.refused) == (1, 0)
        obstore.put(obstore.store.from_url(photo.root), photo.key, OTHER)
        assert (await EditBatch(source, out).run(session)).refused == 1
        report = await EditBatch(source, out, edit_changed=True).run(session)
        assert (report.saved, report.replaced) == (1, 1)
        assert emulator.statistics().tasks_created == 2


async def test_a_pair_of_a_store_and_a_path_is_an_image_of_a_batch(in_memory, tmp_path):
    out = tmp_path / "out"
    async with service() as (emulator, session):
        for _ in range(2):
            report = await EditBatch([in_memory], out, instruction="make it snow").run(session)
    assert (report.saved, emulator.statistics().tasks_created) == (1, 1)
    assert states(out) == {"a": "saved"}


async def test_no_credential_or_signature_is_kept_or_logged(photo, tmp_path, caplog):
    out = tmp_path / "out"
    request = EditRequest([photo, str(photo.parent / "missing.png")], "make it snow", EditParameters(n=2), key="a")
    with caplog.at_level(0):
        async with service() as (_, session):
            await EditBatch([request, EditRequest(photo, "make it rain", key="b")], out).run(session)
    assert states(out) == {"a": "failed", "b": "saved"}
    with closing(sqlite3.connect(out / JOURNAL_NAME)) as journal:
        kept = "\n".join(journal.iterdump())
    texts = [caplog.text, kept, *((out / name).read_text(encoding="utf-8") for name in ("report.html", "report.json"))]
    assert str(photo) in kept
    for text in texts:
        assert SECRET not in text
        assert "X-Amz-" not in text
