"""Workers of a cluster whose images and pictures are in a bucket."""

from __future__ import annotations

import asyncio
import io
import pickle

import obstore
import pytest
from buckets import content
from bulk_runs import PHOTO
from commands import API_KEY
from hub_in_process import cluster, row

pytestmark = pytest.mark.anyio


async def test_workers_save_in_a_bucket_and_the_hub_signs_the_images(tmp_path, bucket, monkeypatch):
    monkeypatch.setenv("QWEN_EDIT_API_KEY", API_KEY)
    (bucket / "photo.png").put(io.BytesIO(PHOTO))
    async with cluster(tmp_path, save_to=f"{bucket}/out") as (emulator, actor, rows):
        edited = await rows.edit(row(f"{bucket}/photo.png"))
        assert await rows.edit(row(f"{bucket}/photo.png")) == edited
        assert (edited["status"], edited["files"], edited["error"]) == ("saved", [f"{bucket}/out/a-0.png"], None)
        request = await asyncio.to_thread(rows._request_of, row(f"{bucket}/photo.png"))
        with monkeypatch.context() as patch:
            patch.setattr(obstore, "head", None)  # the hub need not ask
            assert pickle.loads(pickle.dumps(request)).images[0].tag()
        assert (emulator.statistics().tasks_created, emulator.statistics().downloads) == (1, 1)
        assert (await actor.report()).pictures == 1
    assert content(bucket / "out" / "a-0.png").startswith(b"\x89PNG")
