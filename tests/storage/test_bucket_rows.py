"""Workers of a cluster whose images and pictures are in a bucket."""

from __future__ import annotations

import io
import pickle

import obstore
import pytest
from buckets import SECRET, content
from bulk_runs import PHOTO
from commands import API_KEY
from hub_in_process import cluster, identified, row
from obstore.store import S3Store

from qwen_edit_async.ray.actor import ImagesWanted

pytestmark = pytest.mark.anyio


@pytest.fixture
def photo(bucket, s3_server, monkeypatch):
    """Put a picture into a bucket. Return it as a pair with a store, because the environment has no credentials."""
    (bucket / "photo.png").put(io.BytesIO(PHOTO))
    keys = {"access_key_id": "key", "secret_access_key": SECRET, "region": "us-east-1"}
    store = S3Store(
        bucket.root.removeprefix("s3://"), endpoint=s3_server, config=keys, client_options={"allow_http": True}
    )
    monkeypatch.setenv("QWEN_EDIT_API_KEY", API_KEY)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    return store, "photo.png"


async def test_workers_sign_the_urls_of_images_in_a_bucket_again_for_each_call(tmp_path, photo):
    sent = []
    async with cluster(tmp_path, on_images=sent.append) as (emulator, actor, rows):
        request = await identified(row(photo))
        assert SECRET.encode() not in pickle.dumps(request)
        assert isinstance(await actor.edit(request), ImagesWanted)  # to a worker that dies
        edited = await rows.edit(row(photo))
        assert await rows.edit(row(photo)) == edited
        assert (edited["status"], edited["error"], len(sent)) == ("saved", None, 1)
        ((image,),) = (task.submission.images for task in emulator.tasks.values())
        assert sent == [[str(image.url)]]
        assert "/photo.png?" in sent[0][0]
        assert "X-Amz-Signature=" in sent[0][0]
    for path in (tmp_path / "job").iterdir():
        assert b"X-Amz-" not in path.read_bytes()


async def test_workers_read_images_in_a_bucket_for_a_hub_that_sends_them(tmp_path, photo):
    async with cluster(tmp_path, inline=True) as (emulator, _, rows):
        assert (await rows.edit(row(photo)))["status"] == "saved"
        ((image,),) = (task.submission.images for task in emulator.tasks.values())
        assert (image.url, image.media_type) == (None, "image/png")


async def test_a_changed_image_in_a_bucket_is_refused(tmp_path, photo):
    async with cluster(tmp_path) as (emulator, _, rows):
        assert (await rows.edit(row(photo)))["status"] == "saved"
        obstore.put(*photo, PHOTO + b"\0")
        edited = await rows.edit(row(photo))
        assert "has changed" in edited["error"]
        assert (edited["status"], emulator.statistics().tasks_created) == ("failed", 1)


@pytest.mark.parametrize(("content", "problem"), [(None, "does not exist"), (b"%PDF-1.7", "is not a JPEG")])
async def test_a_bad_image_in_a_bucket_costs_nothing(tmp_path, photo, content, problem):
    if content is None:
        obstore.delete(*photo)
    else:
        obstore.put(*photo, content)
    async with cluster(tmp_path) as (emulator, _, rows):
        edited = await rows.edit(row(photo))
        assert (edited["status"], emulator.statistics().submits) == ("failed", 0)
        assert problem in edited["error"]


async def test_workers_save_in_a_bucket(tmp_path, bucket, monkeypatch):
    monkeypatch.setenv("QWEN_EDIT_API_KEY", API_KEY)
    async with cluster(tmp_path, save_to=f"{bucket}/out") as (emulator, actor, rows):
        edited = await rows.edit(row(PHOTO))
        assert await rows.edit(row(PHOTO)) == edited
        assert (edited["status"], edited["files"], edited["error"]) == ("saved", [f"{bucket}/out/a-0.png"], None)
        assert (emulator.statistics().tasks_created, emulator.statistics().downloads) == (1, 1)
        assert (await actor.report()).pictures == 1
        (bucket / "out/b-0.png").put(io.BytesIO(PHOTO))
        refused = await rows.edit(row(PHOTO, "b"))
        assert "another file has the name of the result" in refused["error"]
        assert emulator.statistics().tasks_created == 1
    assert content(bucket / "out" / "a-0.png").startswith(b"\x89PNG")
