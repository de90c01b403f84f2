"""Files in buckets: paths, reading, writing, and what errors say."""

from __future__ import annotations

import io
import pickle
import sys

import fsspec
import obstore
import pytest
from buckets import SECRET, content
from obstore.store import AzureStore, GCSStore, HTTPStore, LocalStore, MemoryStore, S3Store

from qwen_edit_async import BucketPath
from qwen_edit_async.errors import ConfigurationError
from qwen_edit_async.storage.paths import file_path, new_part

KEYS = {"aws_access_key_id": "key", "aws_secret_access_key": SECRET, "region": "us-east-1"}


def put(path: BucketPath, data: bytes) -> BucketPath:
    path.put(io.BytesIO(data))
    return path


@pytest.fixture
def memory_store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def memory(memory_store) -> BucketPath:
    path = BucketPath.of((memory_store, "folder"))
    assert path is not None
    return path


@pytest.mark.parametrize(
    ("url", "root", "key"),
    [
        ("s3://photos/cats/a b#1.png", "s3://photos", "cats/a b#1.png"),
        ("S3://photos/", "s3://photos", ""),
        ("gs://photos/cats/", "gs://photos", "cats"),
        ("az://photos", "az://photos", ""),
    ],
)
def test_a_url_names_a_bucket_and_a_key(url, root, key):
    path = BucketPath.of(url)
    assert path is not None
    assert (path.root, path.key) == (root, key)
    assert BucketPath.of(path) is path


@pytest.mark.parametrize("value", ["a.png", "https://host/a.png", "s3:/a", ("a.png", "b.png"), b"s3://a/b", 7])
def test_anything_else_is_not_in_a_bucket(value):
    assert BucketPath.of(value) is None


@pytest.mark.parametrize(
    ("store", "url"),
    [
        (S3Store("photos", config=KEYS), "s3://photos/a.png"),
        (S3Store("photos", prefix="cats/", config=KEYS), "s3://photos/cats/a.png"),
        (S3Store("photos", endpoint="http://127.0.0.1:9000", config=KEYS), "s3://127.0.0.1:9000/photos/a.png"),
        (GCSStore("photos", skip_signature=True), "gs://photos/a.png"),
        (AzureStore("photos", account_name="me", account_key="a2V5"), "az://photos/a.png"),
        (HTTPStore("https://photos.example/cats/"), "https://photos.example/cats/a.png"),
        (HTTPStore(f"https://me:{SECRET}@photos.example/cats"), "https://photos.example/cats/a.png"),
        (HTTPStore(f"https://photos.example/cats?token={SECRET}"), "https://photos.example/cats/a.png"),
        (LocalStore("/tmp"), "file://tmp/a.png"),
    ],
)
def test_a_pair_of_a_store_and_a_path_has_a_url_that_stays_the_same(store, url):
    path = BucketPath.of((store, "/a.png"))
    assert str(path) == url
    assert SECRET not in repr(path)


def test_two_stores_in_memory_have_different_urls():
    first, second = MemoryStore(), MemoryStore()
    assert str(BucketPath.of((first, "a"))) == str(BucketPath.of((first, "a"))) != str(BucketPath.of((second, "a")))


def test_a_path_has_the_parts_of_a_path():
    path = BucketPath("s3://photos", "cats", replace=True) / "a.b.png"
    assert (path.key, path.name, path.suffix, path.replace) == ("cats/a.b.png", "a.b.png", ".png", True)
    assert path.with_suffix(".jpg").key == "cats/a.b.jpg"
    assert path.parent == BucketPath("s3://photos", "cats")
    assert path.parent.parent == BucketPath("s3://photos", "")
    assert pickle.loads(pickle.dumps(path)) == path


def test_a_file_is_read_in_pieces(bucket):
    data = bytes(range(256)) * 1000
    path = put(bucket / "a b#1?%20.bin", data)
    with path.open() as file:
        assert file.read(3) == data[:3]
        assert file.seek(-2, io.SEEK_END) == len(data) - 2
        assert file.read() == data[-2:]
        assert file.tell() == len(data)
    assert path.beginning(4) == (data[:4], len(data))
    with pytest.raises(ValueError, match="read-only"):
        path.open("wb")


def test_a_tag_tells_contents_apart(bucket):
    path = put(bucket / "a.bin", b"first")
    tag = path.tag()
    assert put(bucket / "b.bin", b"first").tag() == tag
    obstore.put(obstore.store.from_url(path.root), path.key, b"other")
    assert path.tag() != tag


def test_a_write_replaces_no_file_without_leave(bucket):
    path = put(bucket / "a.bin", b"first")
    with pytest.raises(FileExistsError, match="another file has this name"):
        put(path, b"second")
    assert content(path) == b"first"
    put(BucketPath(path.root, path.key, replace=True), b"second")
    assert content(path) == b"second"


def test_the_files_of_a_folder_are_those_below_it(bucket):
    for key in ("out/a.png", "out/more/b.png", "outside/c.png", "d.png"):
        put(bucket / key, b"1234")
    found = dict((bucket / "out").files())
    assert found == {name: bucket / "out" / name for name in ("a.png", "more/b.png")}
    assert {file.size for file in found.values()} == {4}
    assert min(bucket.files()) == ("d.png", bucket / "d.png")


def test_a_listed_file_has_its_tag_and_is_not_asked_for(bucket, monkeypatch):
    tag = put(bucket / "a.png", b"first").tag()
    ((_, listed),) = bucket.files()
    with monkeypatch.context() as patch:
        patch.setattr(obstore, "head", None)
        assert listed.tag() == tag
        with pytest.raises(TypeError):
            (listed.parent / "a.png").tag()
    obstore.delete(obstore.store.from_url(bucket.root), "a.png")
    assert not listed.exists()


def test_a_tag_that_a_store_lists_without_quotes_is_the_same_tag(memory_store, memory, monkeypatch):
    put(memory / "a.png", b"first")
    found = obstore.head(memory_store, "folder/a.png")
    monkeypatch.setattr(obstore, "head", lambda *_: found | {"e_tag": '"0x1DC58E81DD91780"'})
    monkeypatch.setattr(obstore, "list", lambda *_: [[found | {"e_tag": "0x1DC58E81DD91780"}]])
    ((_, listed),) = memory.files()
    assert listed.tag() == (memory / "a.png").tag()


def test_a_tag_that_a_store_does_not_list_is_asked_for(memory_store, memory, monkeypatch):
    tag, listed = put(memory / "a.png", b"first").tag(), list(obstore.list(memory_store))
    monkeypatch.setattr(obstore, "list", lambda *_: [[found | {"e_tag": None} for found in page] for page in listed])
    ((_, file),) = memory.files()
    assert file.tag() == tag


def test_a_missing_file_is_an_error_of_its_own(bucket):
    path = bucket / "missing.png"
    assert not path.exists()
    for read in (path.tag, path.open, lambda: path.beginning(1)):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            read()


@pytest.mark.parametrize("query", ["sig", "token"])
@pytest.mark.parametrize("kind", ["PermissionDeniedError", "UnauthenticatedError", "GenericError"])
def test_an_error_holds_no_credentials(memory, monkeypatch, kind, query):
    def head(*_):
        url = f"https://me:{SECRET}@b.example/a?{query}={SECRET}"
        told = f"Error performing HEAD {url} in 1s - 403 Forbidden: <Error>{SECRET}</Error>"
        raise getattr(obstore.exceptions, kind)(told + f"\n\nDebug source: {SECRET}")

    monkeypatch.setattr(obstore, "head", head)
    with pytest.raises(OSError, match="HEAD") as raised:
        memory.tag()
    assert raised.value.strerror == "Error performing HEAD https://b.example/a?… in 1s - 403 Forbidden"


def test_a_key_that_no_store_takes_is_an_error(bucket):
    with pytest.raises(OSError, match="empty path segment"):
        BucketPath(bucket.root, "a//b").tag()


@pytest.mark.parametrize("end", [b"whole", bytes(3_000_000)], ids=["small", "large"])
def test_a_part_is_in_the_bucket_when_it_is_complete(bucket, end):
    target = bucket / "new" / "a.png"
    part = new_part(target)
    part.write(0, [b"a first attempt"])
    assert part.finish(0, [end], lambda _, size: size) == len(end)
    assert not target.exists()
    saved = part.commit(target)
    part.close()
    assert (saved, saved.size) == (target, len(end))
    assert content(saved) == end


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_a_part_that_is_given_up_leaves_nothing(bucket, size):
    part = new_part(bucket / "a.png")
    part.write(0, [bytes(size)])
    part.close()
    assert not (bucket / "a.png").exists()


def test_a_part_that_was_written_before_is_no_conflict(bucket):
    for data, outcome in ((b"same", None), (b"same", None), (b"else", FileExistsError)):
        part = new_part(bucket / "a.png")
        part.finish(0, [data], lambda _, size: size)
        if outcome is None:
            part.commit(bucket / "a.png")
        else:
            with pytest.raises(outcome):
                part.commit(bucket / "a.png")
    assert content(bucket / "a.png") == b"same"


def test_another_name_than_the_planned_one_replaces_no_file(memory):
    put(memory / "a.webp", b"before")
    part = new_part(memory / "a.png")
    part.finish(0, [b"new"], lambda _, size: size)
    assert part.commit(memory / "a.webp") == memory / "a.png"
    part = new_part(memory / "a.png")
    part.finish(0, [b"before"], lambda _, size: size)
    assert part.commit(memory / "a.webp") == memory / "a.webp"  # an earlier run was killed just after it wrote the file


def test_a_store_that_cannot_sign_has_no_signed_urls(bucket, memory):
    assert (memory / "a.png").signed_url() is None
    assert "X-Amz-Signature" in str((bucket / "a.png").signed_url())


@pytest.mark.parametrize("path", ["memory://folder", "https://host/folder", 7, None, ("a", "b")])
def test_nothing_is_written_where_nothing_can_be_written(path):
    with pytest.raises(ConfigurationError, match="s3://bucket/folder"):
        file_path(path)


def test_a_path_of_another_library_is_refused():
    with pytest.raises(ConfigurationError, match="results can't be written to"):
        file_path(fsspec.open("memory://folder/a.png"))


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, "obstore.exceptions", None)
    with pytest.raises(ConfigurationError, match=r"qwen-edit-async\[cloud\]"):
        BucketPath("s3://photos", "a.png").tag()
