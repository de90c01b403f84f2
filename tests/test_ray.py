"""The worker's and the hub's side of ``qwen_edit_async.ray`` in one process. ``tests/clusters`` has the cluster."""

from __future__ import annotations

import asyncio
import os
import sys
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import attrs
import looptime
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from bulk_runs import PHOTO, until
from commands import API_KEY
from hub_in_process import DeafHub, LocalHub, cluster, identified, row

from qwen_edit_async import ConfigurationError, InvalidEditError, JournalError
from qwen_edit_async.batch.fingerprint import ImageHash, hash_image
from qwen_edit_async.emulator import Fault
from qwen_edit_async.ray import EditRows, Hub, get_hub, start_hub
from qwen_edit_async.ray.actor import Delivery, ImagesWanted

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("QWEN_EDIT_API_KEY", API_KEY)


@pytest.fixture
def photo(tmp_path) -> str:
    (tmp_path / "photo.png").write_bytes(PHOTO)
    return str(tmp_path / "photo.png")


async def test_a_row_gets_its_pictures_and_costs_nothing_when_it_is_run_again(tmp_path, photo):
    async with cluster(tmp_path) as (emulator, actor, rows):
        edited = await rows.edit(row(photo, n=2, seed=float("nan")))
        assert await rows.edit(row(photo, n=2)) == edited
        (tmp_path / "out" / "a-1.png").unlink()
        assert await rows.edit(row(photo, n=2)) == edited
        (task_id,) = emulator.tasks
        files = [str(tmp_path / "out" / f"a-{index}.png") for index in range(2)]
        assert edited == {"status": "saved", "task_id": task_id, "files": files, "cost": 0.0714, "error": None}
        assert emulator.statistics().downloads == 4
        report = await actor.report()
        assert (report.saved, report.pictures, report.cost) == (1, 2, Decimal("0.0714"))
        assert (await actor.statistics()).submitted == 1
    assert [path.name for path in (tmp_path / "job").glob("*.png")] == []


async def test_without_a_key_the_place_of_the_image_counts_and_the_hub_needs_no_file(tmp_path, photo):
    async with cluster(tmp_path) as (emulator, _, rows):
        request = await identified(row(photo, None, owner="me"))
        assert (request.images, request.metadata) == ((ImageHash(hash_image(PHOTO)),), {})
        first = await rows.edit(row(photo, None))
        assert await rows.edit(row(photo, None)) == first
        assert Path(first["files"][0]).name.startswith("photo-")
        others = [row(photo, None, seed=1), row(PHOTO, None), row("https://pictures.example/cat.png", None)]
        files = [(await rows.edit(each))["files"][0] for each in others]
        assert [Path(file).name.partition("-")[0] for file in files] == ["photo", "edit", "cat"]
        assert len({*files, *first["files"]}) == emulator.statistics().tasks_created == 4


@pytest.mark.parametrize(
    ("cells", "error"),
    [
        ({"image": None}, "there is no image"),
        ({"n": 7}, "n is 7"),
        ({"image": "gone.png"}, "does not exist"),
        ({"image": b"text"}, "is not a JPEG"),
        ({"instruktion": "snow"}, "did you mean 'instruction'?"),
    ],
)
async def test_a_wrong_row_is_a_row_with_an_error_and_sends_nothing(tmp_path, photo, cells, error):
    async with cluster(tmp_path) as (emulator, _, rows):
        edited = await rows.edit(row(photo) | cells)
        assert (edited["status"], edited["files"], edited["cost"]) == ("failed", [], None)
        assert error in edited["error"]
        assert emulator.statistics().submits == 0


async def test_a_file_that_is_larger_than_any_image_is_not_read(tmp_path, photo):
    os.truncate(photo, 2**30)
    edited = await EditRows(Hub("hub", object()), tmp_path).edit(row(photo))
    assert edited["status"] == "failed"
    assert "is over the limit" in edited["error"]


async def test_an_open_file_is_read_by_the_worker(tmp_path, photo):
    async with cluster(tmp_path) as (_, _, rows):
        with await asyncio.to_thread(open, photo, "rb") as file:
            assert (await rows.edit(row(file)))["status"] == "saved"
        assert (await rows.edit(row(photo)))["status"] == "saved"  # the same content


async def test_failures_and_doubts_are_columns(tmp_path, photo):
    lost = Fault.drop_reply().on("submit").nth(2)
    async with cluster(tmp_path, Fault.failed_task().for_task(1), lost) as (emulator, _, rows):
        failed, uncertain = [await rows.edit(row(photo, key)) for key in "ab"]
        assert (failed["status"], failed["task_id"]) == ("failed", next(iter(emulator.tasks)))
        assert "failed" in failed["error"]
        assert (uncertain["status"], uncertain["task_id"]) == ("uncertain", None)
        assert await rows.edit(row(photo, "b")) == uncertain
        changed = await rows.edit(row(photo, "b", seed=1))
        assert (changed["status"], emulator.statistics().submits) == ("failed", 2)


async def test_an_expired_url_is_renewed_by_the_hub(tmp_path, photo):
    async with cluster(tmp_path, Fault.status(404).on("download").times(1)) as (emulator, _, rows):
        edited = await rows.edit(row(photo))
        assert (edited["status"], edited["error"]) == ("saved", None)
        assert emulator.statistics().checks == 2


async def test_pictures_that_can_not_be_saved_stop_the_hub_and_are_saved_later(tmp_path, photo):
    (tmp_path / "out").write_text("not a folder", encoding="utf-8")
    async with cluster(tmp_path) as (emulator, actor, rows):
        edited = [await rows.edit(row(photo, key)) for key in "abcd"]
        assert [each["status"] for each in edited] == ["completed"] * 3 + ["planned"]
        assert all("out" in each["error"] for each in edited[:3])
        assert "the pictures of 3 completed edits in a row could not be saved" in edited[3]["error"]
        assert (await actor.report()).unsaved == emulator.statistics().tasks_created == 3
        (tmp_path / "out").unlink()
        assert {(await rows.edit(row(photo, key)))["status"] for key in "abc"} == {"saved"}
        assert (await actor.report()).saved == 3


async def test_a_name_that_is_taken_is_found_before_anything_is_paid(tmp_path, photo):
    mine = tmp_path / "out" / "cat-1.png"
    mine.parent.mkdir()
    mine.write_bytes(PHOTO)
    async with cluster(tmp_path) as (emulator, actor, rows):
        refused = await rows.edit(row(photo, "cat", n=2))
        assert (refused["status"], emulator.statistics().submits) == ("failed", 0)
        assert "another file has the name of the result" in refused["error"]
        assert (await actor.report()).retryable == 1
        mine.unlink()
        assert (await rows.edit(row(photo, "cat", n=2)))["status"] == "saved"
        assert emulator.statistics().tasks_created == 1


async def test_no_other_file_is_replaced_and_no_edit_is_lost(tmp_path, photo):
    mine = tmp_path / "out" / "cat-0.png"

    def appear(*images):
        mine.parent.mkdir()
        mine.write_bytes(PHOTO)

    async with cluster(tmp_path, on_images=appear) as (emulator, _, rows):
        refused = [await rows.edit(row(photo, "cat")) for _ in range(2)]
        assert [each["status"] for each in refused] == ["completed"] * 2
        assert "another file has this name" in refused[0]["error"]
        assert mine.read_bytes() == PHOTO
        mine.rename(tmp_path / "cat.png")
        edited = await rows.edit(row(photo, "cat"))
        assert (edited["status"], emulator.statistics().tasks_created) == ("saved", 1)
    assert [path.name for path in mine.parent.iterdir()] == ["cat-0.png"]


async def test_pictures_that_were_saved_by_a_worker_that_died_are_no_other_files(tmp_path, photo):
    async with cluster(tmp_path) as (_, actor, rows):
        hub = DeafHub(LocalHub(actor, print), "record")
        assert (await EditRows(hub, tmp_path / "out").edit(row(photo)))["error"] == "the worker died"
        first = [str(path) for path in (tmp_path / "out").iterdir()]
        edited = await rows.edit(row(photo))
    assert len(first) == len(hub.missed) == 1
    assert (edited["status"], edited["files"]) == ("saved", first)


async def test_what_a_worker_lacks_is_found_before_anything_is_paid(tmp_path, photo, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore.exceptions", None)
    async with cluster(tmp_path, save_to="s3://bucket/out") as (emulator, _, rows):
        edited = [await rows.edit(row(photo, key)) for key in "abcd"]
        assert [each["status"] for each in edited] == ["failed"] * 4
        assert all("qwen-edit-async[cloud]" in each["error"] for each in edited)
        assert emulator.statistics().submits == 0


async def test_the_hub_gets_the_images_of_the_next_edits_only(tmp_path):
    sent = []
    async with cluster(tmp_path, on_images=sent.append, duration=60, max_in_flight=1) as (emulator, _, rows):
        edits = [asyncio.create_task(rows.edit(row(PHOTO, str(key)))) for key in range(40)]
        await until(lambda: len(sent) == 18 and emulator.statistics().submits == 1)
        assert [*map(len, sent)] == [1] * 18
        for edit in edits:
            edit.cancel()
        await asyncio.wait(edits)
    assert len(sent) == 18


async def test_another_worker_sends_the_images_of_one_that_died(tmp_path, photo):
    async with cluster(tmp_path) as (emulator, actor, rows):
        request = await identified(row(photo))
        assert await actor.edit(request) == await actor.edit(request) == ImagesWanted("a", inline=False)
        edited = await asyncio.gather(*(rows.edit(row(photo)) for _ in range(3)))
        assert [each["status"] for each in edited] == ["saved"] * 3
        assert emulator.statistics().tasks_created == 1


async def test_images_that_nobody_wants_are_dropped_and_asked_for_when_they_are_wanted(tmp_path, photo):
    async with cluster(tmp_path) as (emulator, actor, rows):
        request = await identified(row(photo))
        assert isinstance(await actor.edit(request, [b"not wanted"]), ImagesWanted)
        assert (await rows.edit(row(photo)))["status"] == "saved"
        assert (await actor.edit(request, [b"not wanted"])).status == "saved"
        assert emulator.statistics().tasks_created == 1


async def test_an_image_that_is_gone_when_its_turn_comes_costs_nothing(tmp_path, photo):
    class SlowHub(LocalHub):
        async def ask(self, method, *arguments):
            reply = await super().ask(method, *arguments)
            if isinstance(reply, ImagesWanted):
                await asyncio.to_thread(os.rename, photo, gone)
            return reply

    gone = tmp_path / "gone.png"
    async with cluster(tmp_path) as (emulator, actor, rows):
        edited = await EditRows(SlowHub(actor, print), tmp_path / "out").edit(row(photo))
        assert (edited["status"], edited["error"]) == ("failed", f"image 1 ({photo}) does not exist")
        report = await actor.report()
        assert (report.failed, emulator.statistics().submits) == (1, 0)
        await asyncio.to_thread(os.rename, gone, photo)
        assert (await rows.edit(row(photo)))["status"] == "saved"


def test_images_are_not_waited_for_forever():
    async def receive():
        begun = asyncio.get_running_loop().time()
        with pytest.raises(InvalidEditError, match="no worker sent the images within 60 s"):
            await Delivery().receive("a")
        return asyncio.get_running_loop().time() - begun

    with asyncio.Runner(loop_factory=looptime.new_event_loop) as runner:
        assert runner.run(receive()) == 60


async def test_images_that_come_just_after_the_wait_for_them_has_ended_are_dropped():
    delivery = Delivery()
    waiting = asyncio.create_task(delivery.receive("a"))
    await delivery.wanted.wait()
    waiting.cancel()
    delivery.send([PHOTO])
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_hub_that_does_not_answer_fails_no_row(photo, tmp_path):
    class WrappedError(Exception):
        cause = ConfigurationError("no API key")

    class DeadError(Exception):
        cause = None

    @attrs.define
    class Broken:
        error: Exception

        async def ask(self, *_: object) -> object:
            raise self.error

    for error in (WrappedError("a long traceback"), DeadError("no API key\nand more"), RuntimeError("no API key")):
        edited = await EditRows(Broken(error), tmp_path).edit(row(photo))
        assert (edited["status"], edited["error"]) == ("planned", "no API key")

    broken = JournalError("the journal in 'two\nlines' is damaged", hint="use a copy")
    assert (await EditRows(Broken(broken), tmp_path).edit(row(photo)))["error"] == str(broken)


async def test_a_hub_without_a_key_opens_once_it_has_one(tmp_path, photo, monkeypatch):
    monkeypatch.delenv("QWEN_EDIT_API_KEY")
    async with cluster(tmp_path) as (_, actor, rows):
        with pytest.raises(ConfigurationError, match="no API key"):
            await actor.open()
        monkeypatch.setenv("QWEN_EDIT_API_KEY", API_KEY)
        assert (await actor.open())[0] == str(tmp_path / "job")
        assert (await rows.edit(row(photo)))["status"] == "saved"


async def test_calls_of_many_workers_share_one_hub_and_one_edit(tmp_path, photo):
    async with cluster(tmp_path) as (emulator, _, rows):
        edited = await asyncio.gather(*(rows.edit(row(photo)) for _ in range(20)))
        assert [each["status"] for each in edited] == ["saved"] * 20
        assert emulator.statistics().tasks_created == 1


async def test_a_row_and_a_batch_get_the_same_typed_columns(tmp_path, photo):
    async with cluster(tmp_path) as (_, _, rows):
        one = await rows(row(photo, owner="me"))
        columns = {
            "image": np.array([photo, "gone.png"]),
            "key": np.array(["b", "d"], object),
            "n": np.array([1, np.nan]),
        }
        columns["instruction"] = np.array(["make it snow"] * 2, object)
        batch = await rows(columns)
        empty = await rows({name: column[:0] for name, column in columns.items()})
        pictures = await rows({"image": np.zeros((400, 400, 3), np.uint8), "instruction": "snow", "key": "c"})
    text, files = pa.string(), pa.list_(pa.string())
    types = {"status": text, "task_id": text, "files": files, "cost": pa.float64(), "error": text}
    assert {name: one[name].type for name in types} == types
    assert {name: batch[name].type for name in types} == types
    assert {name: (len(empty[name]), empty[name].type) for name in types} == {name: (0, types[name]) for name in types}
    assert [*one] == ["image", "instruction", "key", "owner", *types]
    assert [each.as_py() for each in batch["status"]] == ["saved", "failed"]
    lacking = await rows({"image": columns["image"], "key": columns["key"]})
    assert [each.as_py() for each in lacking["status"]] == ["failed", "failed"]
    assert (pictures["status"].as_py(), batch["image"] is columns["image"]) == ("saved", True)


async def test_a_batch_in_another_format_is_refused(tmp_path):
    rows = EditRows(Hub("hub", object()), tmp_path)
    for batch in (pd.DataFrame({"key": ["a"]}), pa.table({"key": ["a"]})):
        with pytest.raises(ConfigurationError, match='batch_format="numpy"'):
            await rows(batch)


async def test_the_images_of_a_large_batch_are_not_all_in_memory(tmp_path):
    class CountingRows(EditRows):
        at_a_time = most = 0

        async def edit(self, row):
            self.at_a_time += 1
            self.most = max(self.most, self.at_a_time)
            await asyncio.sleep(0)
            self.at_a_time -= 1
            return {"status": "saved", "task_id": row["key"], "files": [], "cost": None, "error": None}

    rows, keys = CountingRows(Hub("hub", object()), tmp_path), [str(number) for number in range(40)]
    batch = await rows({"key": np.array(keys, object)})
    assert [each.as_py() for each in batch["task_id"]] == keys
    assert rows.most == 16


def test_the_key_is_no_option_and_ray_is_asked_for_if_it_is_missing(tmp_path, monkeypatch):
    with pytest.raises(ConfigurationError, match="leave out api_key"):
        start_hub(tmp_path, api_key=API_KEY)
    monkeypatch.setitem(sys.modules, "ray", None)
    for call in (lambda: start_hub(tmp_path), get_hub):
        with pytest.raises(ConfigurationError, match=r'pip install "qwen-edit-async\[ray\]"'):
            call()


class TaskError(Exception):
    """In place of Ray's error for a method that raised one."""


@pytest.mark.parametrize(("trouble", "ends"), [(TaskError(), True), (ConnectionError("unavailable"), False)])
def test_only_an_error_of_the_hub_itself_ends_a_hub_that_others_may_use(monkeypatch, trouble, ends):
    def get(_):
        raise trouble

    ended = []
    ray = SimpleNamespace(get=get, kill=ended.append, exceptions=SimpleNamespace(RayTaskError=TaskError))
    monkeypatch.setitem(sys.modules, "ray", ray)
    actor = SimpleNamespace(open=SimpleNamespace(remote=lambda: None))
    with pytest.raises(type(trouble)):
        Hub("job", actor).open()
    assert (ended == [actor]) is ends


def test_a_hub_travels_by_its_name():
    assert Hub("job", object()).__reduce__() == (get_hub, ("job",))
    assert repr(Hub("job", object())) == "Hub(name='job')"
