"""What an edit gives."""

from __future__ import annotations

import copy
import io
import pickle
import re
import sys
import threading
from decimal import Decimal
from pathlib import Path

import pytest
from memory_transport import IMAGE, MemoryService, MemorySession, in_order, says
from noise import noise
from obstore.store import MemoryStore
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from qwen_edit_async import (
    ConfigurationError,
    DownloadError,
    EditParameters,
    EditRequest,
    EditSession,
    FixedInterval,
    InvalidEditError,
    SessionClosedError,
)
from qwen_edit_async.emulator import EditEmulator, Fault, FixedEngine, PillowEngine

pytestmark = pytest.mark.anyio


@pytest.fixture
async def emulator():
    async with EditEmulator(duration=0.0, engine=FixedEngine()) as emulator:
        yield emulator


@pytest.fixture
async def session(emulator):
    async with EditSession(emulator.api_key, base_url=emulator.url, polling=FixedInterval(0.01)) as session:
        yield session


async def test_a_result_has_pictures_in_order_and_what_they_cost(session):
    result = await session.edit(IMAGE, "snow", n=3)
    assert [(image.index, image.task_id) for image in result.images] == [(n, result.task_id) for n in range(3)]
    assert len({image.url for image in result.images}) == 3
    assert (result.usage.cost, result.usage.quantity) == (Decimal("0.1071"), 3)
    assert result.request.instruction == "snow"
    assert result.raw["status"] == "completed"


@pytest.mark.parametrize("travel", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
async def test_results_and_outcomes_travel_without_their_connection(session, tmp_path, travel):
    requests = [EditRequest(Image.new("RGB", (400, 400)), "snow", key="cat")]
    [outcome] = [outcome async for outcome in session.edit_many(requests)]
    there = travel(outcome)
    assert there.ok
    assert (there.result.task_id, there.result.images) == (outcome.result.task_id, outcome.result.images)
    assert there.as_row() == outcome.as_row()
    task_id = re.escape(outcome.result.task_id)
    for use in (
        lambda: there.result.save(tmp_path),
        lambda: there.result.images[0].save(tmp_path / "cat.png"),
        there.result.images[0].read,
        there.result.images[0].open,
    ):
        with pytest.raises(SessionClosedError, match=rf"session\.attach\('{task_id}'\)"):
            await use()
    again = await session.attach(there.result.task_id)
    assert await again.images[0].read() == await outcome.result.images[0].read()


async def test_a_copy_names_its_picture_by_its_index_even_if_an_earlier_picture_is_missing(session):
    [image] = copy.deepcopy(session.pictures("task-1", ["", "https://example.com/1.png"]))
    with pytest.raises(SessionClosedError, match=r"\(await session\.attach\('task-1'\)\)\.images has .* the index 1$"):
        await image.read()


@pytest.mark.parametrize("travel", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
async def test_results_and_outcomes_travel_without_their_open_files(session, tmp_path, travel):
    Image.new("RGB", (400, 400)).save(tmp_path / "a.png")
    with (tmp_path / "a.png").open("rb") as file:
        requests = [EditRequest([file, IMAGE], "snow", key="cat"), {"image": file, "instruction": "snow"}]
        outcomes = [outcome async for outcome in session.edit_many(requests)]
        [first, second] = map(travel, sorted(outcomes, key=lambda outcome: outcome.index))
    assert (first.result.request.images, first.result.request.key) == ((b"", IMAGE), "cat")
    assert first.request == first.result.request
    assert second.request == {"image": b"", "instruction": "snow"}
    with pytest.raises(InvalidEditError, match="image 1 is empty"):
        await session.edit(first.request)


async def test_the_home_folder_may_be_abbreviated(session, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    Image.new("RGB", (400, 400)).save(tmp_path / "p.png")
    result = await session.edit("~/p.png", "snow")
    assert await result.save("~/saved", stem="a") == (tmp_path / "saved" / "a-0.png",)
    assert await result.images[0].save(Path("~", "b.png")) == tmp_path / "b.png"
    assert (tmp_path / "b.png").exists()


@pytest.mark.parametrize("path", ["", ".", "/", "s3://bucket", "s3://bucket/", (MemoryStore(), "")])
async def test_a_picture_is_not_saved_under_a_path_without_a_file_name(session, path):
    (image,) = (await session.edit(IMAGE, "snow")).images
    with pytest.raises(ConfigurationError, match="has no file name: give the path of a file"):
        await image.save(path)


async def test_a_picture_opens_as_a_decoded_image(session):
    picture = await (await session.edit(IMAGE, "snow")).images[0].open()
    assert isinstance(picture, Image.Image)
    assert (picture.size, picture.getpixel((0, 0))) == ((16, 16), (0x7F, 0x9C, 0xF5))


def snow(**options):
    file = io.BytesIO()
    noise(60, 60).point(lambda value: 200 + value // 8).save(file, **options)
    return file.getvalue()


async def test_a_picture_with_a_damaged_chunk_beside_it_is_opened(session, emulator):
    content = snow(format="PNG", dpi=(72, 72))
    at = content.index(b"pHYs") + 5
    emulator.inject(Fault.wrong_download(content[:at] + b"\xff" + content[at + 1 :], "image/png").on("download"))
    picture = await (await session.edit(IMAGE, "snow")).images[0].open()
    assert picture.tobytes() == Image.open(io.BytesIO(content)).tobytes()


async def test_what_there_is_of_a_picture_is_opened(session, emulator):
    content = snow(format="GIF")
    emulator.inject(Fault.wrong_download(content[: len(content) * 3 // 4], "image/gif").on("download"))
    picture = (await (await session.edit(IMAGE, "snow")).images[0].open()).convert("L")
    assert picture.size == (60, 60)
    assert picture.getpixel((30, 10)) >= 200


async def test_a_picture_that_can_not_be_opened_keeps_its_url_within_reach(session, emulator):
    content = snow(format="WEBP")
    emulator.inject(Fault.wrong_download(content[:12] + bytes(len(content) - 12), "image/webp").on("download"))
    image = (await session.edit(IMAGE, "snow")).images[0]
    with pytest.raises(
        DownloadError, match=r"^image 0 of task .* is damaged or an unsupported kind of WEBP: .*; call save\(\)"
    ) as raised:
        await image.open()
    assert raised.value.url == image.url


async def test_a_picture_is_decoded_on_a_thread(session, monkeypatch):
    def noted(picture):
        threads.append(threading.current_thread().name)
        load_end(picture)

    threads, load_end = [], PngImageFile.load_end
    image = (await session.edit(IMAGE, "snow")).images[0]
    monkeypatch.setattr(PngImageFile, "load_end", noted)
    await image.open()
    assert threads
    assert all(name.startswith("qwen-edit") for name in threads)


async def test_opening_without_pillow_names_the_extra_before_anything_is_downloaded(session, emulator, monkeypatch):
    image = (await session.edit(IMAGE, "snow")).images[0]
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ConfigurationError, match=r"qwen-edit-async\[images\]"):
        await image.open()
    assert emulator.statistics().downloads == 0


@pytest.mark.parametrize(
    ("key", "stem", "names"),
    [
        (None, None, ["{id}-0.png", "{id}-1.png"]),
        ("cat", None, ["cat-0.png", "cat-1.png"]),
        ("cat", "dog", ["dog-0.png", "dog-1.png"]),
        ("猫", None, ["猫-0.png", "猫-1.png"]),
    ],
    ids=str,
)
async def test_pictures_are_saved_under_the_key_or_else_the_id(session, tmp_path, key, stem, names):
    result = await session.edit(EditRequest(IMAGE, "snow", EditParameters(n=2), key=key))
    paths = await result.save(tmp_path / "out", stem=stem)
    expected = [name.format(id=result.task_id) for name in names]
    assert [path.name for path in paths] == expected
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(expected)


async def test_an_id_that_the_service_makes_up_names_no_file_outside_of_the_folder(session, emulator, tmp_path):
    url = (await session.edit(IMAGE, "snow")).images[0].url
    picture = {"content": [{"type": "image", "url": url}]}
    service = MemoryService(on_submission=in_order(says({"id": "../evil", "status": "completed", "output": [picture]})))
    async with MemorySession(service) as memory_session:
        (path,) = await (await memory_session.edit(IMAGE, "snow")).save(tmp_path / "out")
    assert path.resolve().parent == tmp_path / "out"
    assert path.name.startswith("_evil-")


async def test_a_real_picture_goes_there_and_back(tmp_path):
    source = Image.radial_gradient("L").resize((512, 512)).convert("RGB")
    emulator = EditEmulator(duration=0.0, engine=PillowEngine())
    async with (
        emulator,
        EditSession(emulator.api_key, base_url=emulator.url, polling=FixedInterval(0.02)) as session,
    ):
        result = await session.edit(source, "grayscale", size=(512, 512), watermark=False)
        picture = await result.images[0].open()
    assert picture.size == (512, 512)
