"""Thumbnails that are kept in a file beside the journal."""

from __future__ import annotations

import contextlib
import os
import sys

import PIL.Image
import pytest

from qwen_edit_async.display import store as _store
from qwen_edit_async.display.store import STORE_NAME, ThumbnailStore
from qwen_edit_async.display.thumbnails import make_thumbnail


@pytest.fixture
def made(monkeypatch):
    """The images whose thumbnails were made."""
    images = []

    def make(image):
        images.append(image)
        return make_thumbnail(image)

    monkeypatch.setattr(_store, "make_thumbnail", make)
    return images


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


def test_a_thumbnail_is_made_once(photo, made, opened):
    store = opened(photo.parent)
    first = store.get(photo)
    assert first == make_thumbnail(photo)
    assert store.get(str(photo)) == first
    assert opened(photo.parent).get(photo) == first
    assert made == [photo]


def test_a_thumbnail_is_made_anew_after_its_file_has_changed(photo, made, opened):
    store = opened(photo.parent)
    store.get(photo)
    PIL.Image.new("RGB", (100, 480), "navy").save(photo)
    assert store.get(photo) == make_thumbnail(photo)
    assert made == [photo, photo]


def test_thumbnails_move_with_their_folder(tmp_path, photo, made):
    with contextlib.closing(ThumbnailStore(tmp_path)) as store:
        store.get(photo)
    moved = tmp_path.with_name("moved")
    tmp_path.rename(moved)
    with contextlib.closing(ThumbnailStore(moved)) as store:
        assert store.get(moved / "photo.png") is not None
    moved.rename(tmp_path)
    assert made == [photo]


def test_missing_thumbnails_of_several_files_are_made_once(photo, made, opened):
    broken, gone = photo.with_name("broken.png"), photo.with_name("gone.png")
    broken.write_bytes(b"no picture")
    images = [photo, broken, photo, gone, photo.parent, None, "https://example.org/x.png"]
    store = opened(photo.parent)
    assert store.get_all(images, lambda: False) == {photo: None, broken: None}
    assert made == []
    assert store.get_all(images, lambda: True) == {photo: make_thumbnail(photo), broken: None}
    assert sorted(made) == [broken, photo]
    assert store.get_all([photo], lambda: False) == {photo: make_thumbnail(photo)}


@pytest.mark.parametrize("image", [b"bytes", "https://example.org/x.png", "data:image/png;base64,AAAA", "a\0b"])
def test_an_image_that_is_not_a_file_is_not_kept(tmp_path, image, opened):
    assert opened(tmp_path).get(image) is None
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_can_not_be_decoded_has_none(photo, opened):
    photo.write_bytes(b"no picture")
    assert opened(photo.parent).get(photo) is None


def test_a_damaged_store_costs_only_time(photo, made, opened):
    (photo.parent / STORE_NAME).write_bytes(b"not a database at all" * 100)
    store = opened(photo.parent)
    assert store.get(photo) == store.get(photo) == make_thumbnail(photo)
    assert made == [photo, photo]


def test_a_folder_that_can_not_be_written_costs_only_time(photo, tmp_path, opened):
    store = opened(tmp_path / "missing")
    assert store.get(photo) == store.get(photo) == make_thumbnail(photo)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux file systems allow names that are not UTF-8")
def test_a_file_name_that_is_not_utf_8_costs_only_time(photo, opened):
    odd = photo.rename(photo.with_name(os.fsdecode(b"\xff.png")))
    store = opened(photo.parent)
    assert store.get(odd) == store.get(odd) == make_thumbnail(odd)


def test_a_file_on_another_drive_is_kept_by_its_whole_path(photo, made, opened, monkeypatch):
    monkeypatch.setattr(_store, "relative_path", lambda *_: None)
    store = opened(photo.parent)
    assert store.get(photo) == store.get(photo)
    assert made == [photo]


def test_thumbnails_are_made_ahead_until_the_store_is_finished(photo, made, opened):
    store = opened(photo.parent)
    store.make_soon([photo, "https://example.org/x.png"])
    store.finish()
    made.clear()
    assert store.get(photo) is not None
    assert made == []
