"""Thumbnails that are kept in a file beside the journal."""

from __future__ import annotations

import contextlib
import io
import os
import sys

import attrs
import PIL.Image
import pytest
from emulator_calls import encode
from obstore.store import MemoryStore

from qwen_edit_async.display.store import STORE_NAME, ThumbnailStore
from qwen_edit_async.display.thumbnails import make_thumbnail
from qwen_edit_async.storage.bucket import BucketPath


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    PIL.Image.new("RGB", (640, 480), "navy").save(path)
    return path


@pytest.fixture
def opened():
    """Opens a store, and closes it after the test."""
    with contextlib.ExitStack() as stack:
        yield lambda folder: stack.enter_context(contextlib.closing(ThumbnailStore(folder)))


def kept(store, image):
    return store.get_all([image], lambda: False).get(image)


def test_a_thumbnail_is_made_once(photo, opened):
    store = opened(photo.parent)
    first = store.get(photo)
    assert first == make_thumbnail(photo)
    assert kept(store, str(photo)) == first
    assert kept(opened(photo.parent), photo) == first


def test_a_kept_thumbnail_is_used_without_its_file_being_read(photo, opened):
    store, status = opened(photo.parent), photo.stat()
    first = store.get(photo)
    photo.write_bytes(bytes(status.st_size))
    os.utime(photo, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert store.get(photo) == first


def test_a_thumbnail_is_made_anew_after_its_file_has_changed(photo, opened):
    store = opened(photo.parent)
    first = store.get(photo)
    PIL.Image.new("RGB", (100, 480), "navy").save(photo)
    assert kept(store, photo) is None
    assert store.get(photo) == make_thumbnail(photo) != first


def test_a_file_in_a_bucket_gets_a_new_thumbnail_when_it_is_edited_again(tmp_path, opened):
    path = attrs.evolve(BucketPath.of((MemoryStore(), "photo.png")), replace=True)
    path.put(io.BytesIO(encode(PIL.Image.new("RGB", (640, 480), "navy"))))
    store = opened(tmp_path)
    first = store.get(path, current=True)
    path.put(io.BytesIO(encode(PIL.Image.new("RGB", (480, 640), "teal"))))
    assert kept(store, path) == store.get(path) == first
    assert store.get(path, current=True) == kept(store, path) == make_thumbnail(path) != first


def test_thumbnails_move_with_their_folder(tmp_path, photo):
    with contextlib.closing(ThumbnailStore(tmp_path)) as store:
        store.get(photo)
    moved = tmp_path.with_name("moved")
    tmp_path.rename(moved)
    with contextlib.closing(ThumbnailStore(moved)) as store:
        assert kept(store, moved / "photo.png") is not None
    moved.rename(tmp_path)


def test_missing_thumbnails_of_several_files_are_made_if_they_may_be(photo, opened):
    broken, gone = photo.with_name("broken.png"), photo.with_name("gone.png")
    broken.write_bytes(b"no picture")
    images = [photo, broken, photo, gone, photo.parent, None, "https://example.org/x.png"]
    store = opened(photo.parent)
    assert store.get_all(images, lambda: False) == {photo: None, broken: None}
    assert store.get_all(images, lambda: True) == {photo: make_thumbnail(photo), broken: None}
    assert kept(store, photo) == make_thumbnail(photo)


@pytest.mark.parametrize("image", [b"bytes", "https://example.org/x.png", "data:image/png;base64,AAAA", "a\0b"])
def test_an_image_that_is_not_a_file_is_not_kept(tmp_path, image, opened):
    assert opened(tmp_path).get(image) is None
    assert list(tmp_path.iterdir()) == []


def test_no_thumbnail_is_made_of_a_picture_in_memory(photo, opened, monkeypatch):
    made, make = [], PIL.Image.Image.thumbnail
    monkeypatch.setattr(
        PIL.Image.Image, "thumbnail", lambda *args, **options: made.append(args) or make(*args, **options)
    )
    store = opened(photo.parent)
    for image in (photo.read_bytes(), PIL.Image.new("RGB", (640, 480))):
        assert store.get(image) is None
    assert made == []
    assert store.get(photo) is not None
    assert len(made) == 1


def test_a_picture_that_can_not_be_decoded_has_none(photo, opened):
    photo.write_bytes(b"no picture")
    assert opened(photo.parent).get(photo) is None


def test_a_damaged_store_costs_only_time(photo, opened):
    (photo.parent / STORE_NAME).write_bytes(b"not a database at all" * 100)
    store = opened(photo.parent)
    assert store.get(photo) == store.get(photo) == make_thumbnail(photo)
    assert kept(store, photo) is None


def test_a_folder_that_can_not_be_written_costs_only_time(photo, tmp_path, opened):
    store = opened(tmp_path / "missing")
    assert store.get(photo) == store.get(photo) == make_thumbnail(photo)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux file systems allow names that are not UTF-8")
def test_a_file_name_that_is_not_utf_8_costs_only_time(photo, opened):
    odd = photo.rename(photo.with_name(os.fsdecode(b"\xff.png")))
    store = opened(photo.parent)
    assert store.get(odd) == store.get(odd) == make_thumbnail(odd)


def test_a_file_on_another_drive_is_kept_by_its_whole_path(photo, opened, monkeypatch):
    def relpath(path, start):
        raise ValueError("path is on mount 'C:', start on mount 'D:'")

    monkeypatch.setattr("os.path.relpath", relpath)
    store, other = opened(photo.parent), photo.with_name("other.png")
    PIL.Image.new("RGB", (480, 640), "teal").save(other)
    for image in (photo, other):
        store.get(image)
    for image in (photo, other):
        assert kept(store, image) == make_thumbnail(image)


def test_thumbnails_are_made_ahead_until_the_store_is_finished(photo, opened):
    store = opened(photo.parent)
    store.make_soon([photo, "https://example.org/x.png"])
    store.finish()
    assert kept(store, photo) == make_thumbnail(photo)
