"""Thumbnails, and where none is made."""

from __future__ import annotations

import base64
import io
import os
import random
import threading
import tracemalloc

import numpy as np
import PIL.Image
import pytest
from crossing import Crossing, at_once
from noise import noise
from ready_results import PHOTO, Store, result_of

from qwen_edit_async import DownloadError
from qwen_edit_async.display.thumbnails import Previews, make_thumbnail


@pytest.mark.parametrize(
    "image",
    [
        PHOTO,
        bytearray(PHOTO),
        PIL.Image.new("RGB", (640, 480)),
        PIL.Image.new("RGBA", (640, 480)),
        np.zeros((480, 640), np.uint8),
        np.zeros((480, 640, 3), np.uint8),
    ],
    ids=lambda image: type(image).__name__,
)
def test_a_thumbnail_is_small_and_keeps_the_shape(image):
    thumbnail = make_thumbnail(image)
    assert thumbnail is not None
    assert (thumbnail.width, thumbnail.height) == (256, 192)
    with PIL.Image.open(io.BytesIO(thumbnail.content)) as picture:
        assert (picture.format, picture.size) == ("WEBP", (256, 192))


def test_a_picture_that_is_not_loaded_yet_has_its_thumbnail_whichever_thread_makes_it():
    picture = PIL.Image.frombytes("RGB", (300, 300), random.Random(7).randbytes(270_000))
    file = Crossing()
    picture.save(file, "PNG")
    expected = make_thumbnail(picture)
    with PIL.Image.open(file) as lazy:
        file.meeting = threading.Barrier(2)
        assert at_once(*[lambda: make_thumbnail(lazy)] * 4) == [expected] * 4


def test_a_data_uri_has_the_thumbnail_of_its_picture():
    uri = f"data:image/png;base64,{base64.b64encode(PHOTO).decode()}"
    assert make_thumbnail(uri) == make_thumbnail(PHOTO)


def test_a_format_that_only_the_extension_names_has_a_thumbnail(tmp_path):
    path = tmp_path / "photo.tga"
    PIL.Image.new("RGB", (640, 480), "teal").save(path)
    assert make_thumbnail(path) == make_thumbnail(str(path)) == make_thumbnail(PHOTO)
    assert make_thumbnail(path.read_bytes()) is None


def test_a_thumbnail_stands_upright(tmp_path):
    path = tmp_path / "photo.jpg"
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.new("RGB", (640, 480)).save(path, exif=exif)
    thumbnail = make_thumbnail(path)
    assert (thumbnail.width, thumbnail.height) == (192, 256)


def test_a_thumbnail_carries_no_color_profile_even_if_it_can_not_be_used():
    file = io.BytesIO()
    PIL.Image.new("RGB", (300, 300)).save(file, "PNG", icc_profile=bytes(548))
    thumbnail = make_thumbnail(file.getvalue())
    with PIL.Image.open(io.BytesIO(thumbnail.content)) as picture:
        assert "icc_profile" not in picture.info


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "JPEG"])
def test_a_picture_that_is_cut_short_has_a_thumbnail_of_what_is_there(kind):
    file = io.BytesIO()
    picture = noise(300, 300).point(lambda value: 255 - value // 8)
    picture.save(file, kind)
    content = file.getvalue()
    thumbnail = make_thumbnail(content[: len(content) // 2])
    with PIL.Image.open(io.BytesIO(thumbnail.content)) as small:
        shade = small.convert("L").getpixel((128, 220 if kind == "BMP" else 30))  # BMP stores its rows from below
    assert shade > 200


def test_a_png_with_a_fault_beside_its_picture_has_a_thumbnail():
    file = io.BytesIO()
    PIL.Image.new("RGB", (300, 300), "white").save(file, "PNG", dpi=(72, 72))
    content = file.getvalue()
    at = content.index(b"pHYs") + 5
    assert make_thumbnail(content[:at] + b"\xff" + content[at + 1 :]) == make_thumbnail(content)


def test_a_picture_without_a_thumbnail_is_left_out(notebook):
    previews = Previews(("https://example.org/x.png",))
    previews.remember(0, b"no picture")
    assert (previews.before, previews.after) == ((), {})


def test_making_a_thumbnail_does_not_change_the_picture():
    picture = PIL.Image.new("RGB", (640, 480))
    make_thumbnail(picture)
    assert picture.size == (640, 480)


CUT_PNG = b"\x89PNG\r\n\x1a\nmore"


@pytest.mark.parametrize(
    ("kind", "options"), [("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {}), ("AVIF", {}), ("GIF", {})]
)
def test_a_picture_that_is_cut_short_has_a_thumbnail(kind, options):
    file = io.BytesIO()
    noise(640, 480, "RGB").point(lambda value: 100 + value * 120 // 255).save(file, kind, **options)
    thumbnail = make_thumbnail(file.getvalue()[:-100])
    assert (thumbnail.width, thumbnail.height) == (256, 192)


def test_a_large_broken_file_is_not_read_into_memory(tmp_path):
    path = tmp_path / "a.gif"
    file = io.BytesIO()
    PIL.Image.new("P", (64, 64)).save(file, "GIF")
    path.write_bytes(file.getvalue()[:-20])
    os.truncate(path, 250_000_000)  # a hole, which takes no space on the disk
    tracemalloc.start()
    try:
        make_thumbnail(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000_000


@pytest.mark.parametrize(
    "image", ["https://example.org/x.png", b"no picture", CUT_PNG, "missing.png", io.BytesIO(PHOTO), 7]
)
def test_urls_streams_and_broken_pictures_have_no_thumbnail(image):
    assert make_thumbnail(image) is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the test makes a named pipe, which this system can't")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert make_thumbnail(tmp_path / "pipe.png") is None


@pytest.mark.anyio
@pytest.mark.may_block(reason="the store of this test works on the loop")
async def test_outside_notebooks_no_thumbnails_are_made():
    store = Store()
    await result_of(store).images[0].read()
    assert store.offloaded == 0


@pytest.mark.anyio
async def test_a_thumbnail_that_fails_does_not_fail_the_download(notebook):
    result = result_of(Store(closed=True))
    assert await result.images[0].read() == PHOTO


@pytest.mark.anyio
async def test_a_failed_download_raises_in_a_notebook_too(notebook):
    class Broken(Store):
        async def read(self, url, task_id, index):
            raise DownloadError("broken off", task_id=task_id)

    with pytest.raises(DownloadError):
        await result_of(Broken()).images[0].read()
