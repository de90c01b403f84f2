"""Files in Google Cloud Storage: inputs, results, and names that nothing may replace."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator

import pytest
from buckets import content
from bulk_runs import PHOTO, service
from gcs_server import GCSServer

from qwen_edit_async import BucketPath, EditBatch, EditParameters, EditRequest
from qwen_edit_async.emulator import EditEmulator

pytestmark = pytest.mark.anyio

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def service_account() -> Iterator[str]:
    """Run a server, and return the service account that names it."""
    with GCSServer().running() as server:
        yield server.service_account()


@pytest.fixture
def bucket(service_account, monkeypatch) -> BucketPath:
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", service_account)
    return BucketPath(f"gs://bucket-{next(_numbers)}", "")


def put(path: BucketPath, data: bytes = PHOTO) -> BucketPath:
    path.put(io.BytesIO(data))
    return path


def sent(emulator: EditEmulator) -> list[str]:
    """Return how each image arrived: the URL that the service fetched, or the media type that was sent."""
    images = [image for task in emulator.tasks.values() for image in task.submission.images]
    return [str(image.url or image.media_type) for image in images]


def test_a_file_is_written_listed_and_read_and_not_replaced(bucket):
    path = put(bucket / "photos" / "a b#1?%20.png", b"first")
    with pytest.raises(FileExistsError, match="another file has this name"):
        put(path, b"other")
    assert (content(path), path.beginning(2)) == (b"first", (b"fi", 5))
    ((name, listed),) = (bucket / "photos").files()
    assert (name, listed, listed.size, listed.tag()) == (path.name, path, 5, path.tag())
    put(BucketPath(path.root, path.key, replace=True), b"other")
    assert path.tag() != listed.tag()
    assert not (bucket / "photos").exists()


@pytest.mark.parametrize("name", ["cat.png", "a cat (1)+2&3=ü.png"])
async def test_the_service_fetches_an_image_from_a_presigned_url(bucket, name):
    async with service() as (emulator, session):
        await session.edit(str(put(bucket / name)), "make it snow")
    assert "X-Goog-Signature=" in sent(emulator)[0]


@pytest.mark.parametrize("name", ["a#b.png", "a?b.png", "a%20b.png"])
async def test_an_image_whose_url_would_be_wrong_is_read_and_sent(bucket, name):
    async with service() as (emulator, session):
        await session.edit(put(bucket / name), "make it snow")
    assert sent(emulator) == ["image/png"]


async def test_a_batch_reads_a_folder_fills_another_and_is_not_paid_twice(bucket, tmp_path):
    for name in ("a.png", "b.png"):
        put(bucket / "photos" / name)
    options = {"instruction": "make it snow", "journal": tmp_path / "job"}
    async with service() as (emulator, session):
        for _ in range(2):
            report = await EditBatch(f"{bucket}/photos", f"{bucket}/out", **options).run(session)
            assert (report.ok, report.saved) == (True, 2)
        assert emulator.statistics().tasks_created == 2
        out = bucket / "out"
        assert {name for name, _ in out.files()} == {"a-0.png", "b-0.png", "report.html", "report.json"}
        assert b'href="./../photos/a.png"' in content(out / "report.html")
        put(bucket / "other" / "a-0.png", b"mine")
        request = EditRequest(bucket / "photos" / "a.png", "make it rain", EditParameters(n=1), key="a")
        report = await EditBatch([request], bucket / "other", journal=tmp_path / "other").run(session)
        assert (report.failed, emulator.statistics().tasks_created) == (1, 2)
    assert content(bucket / "other" / "a-0.png") == b"mine"
    kept = b"".join(path.read_bytes() for path in (tmp_path / "job").iterdir())
    assert b"X-Goog-" not in kept


async def test_a_result_is_saved_and_replaces_nothing(bucket):
    async with service() as (_, session):
        result = await session.edit(PHOTO, "make it snow")
        (first,) = await result.save(f"{bucket}/out", stem="cat")
        assert await result.save(f"{bucket}/out", stem="cat") == (first,)  # with the same content, no conflict
        put(bucket / "out" / "dog-0.png")
        with pytest.raises(FileExistsError, match="another file has this name"):
            await result.save(f"{bucket}/out", stem="dog")
    assert str(first) == f"{bucket}/out/cat-0.png"
    assert content(first).startswith(b"\x89PNG")
