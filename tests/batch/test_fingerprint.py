from __future__ import annotations

import asyncio
import base64
import io
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import numpy as np
import pytest
from crossing import Crossing, RemoteMember, at_once, tar_of
from emulator_calls import encode
from noise import noise
from PIL import Image

from qwen_edit_async import EditRequest, JournalError
from qwen_edit_async.batch.fingerprint import fingerprint_of, identify, stamp
from qwen_edit_async.batch.worker import Worker, call_each
from qwen_edit_async.images.prepare import prepare


class Remote:
    """A path of a remote file system."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def open(self, mode: str = "rb") -> io.BytesIO:
        return io.BytesIO(self._content)


class RemoteFile:
    """As a remote path, but its mode is settled already."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def open(self) -> io.BytesIO:
        return io.BytesIO(self._content)


def data_uri(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def gray(level: int) -> np.ndarray:
    return np.full((4, 4), level, np.uint8)


KINDS = {
    "URL": lambda text: f"https://host/{text}.png",
    "data URI": lambda text: data_uri(text.encode() * 3),
    "bytes": str.encode,
    "bytearray": lambda text: bytearray(text.encode()),
    "file": lambda text: io.BytesIO(text.encode()),
    "remote path": lambda text: Remote(text.encode()),
    "remote file": lambda text: RemoteFile(text.encode()),
    "PIL image": lambda text: Image.new("L", (4, 4), ord(text)),
    "array": lambda text: gray(ord(text)),
}


@pytest.mark.parametrize("make", list(KINDS.values()), ids=list(KINDS))
def test_every_kind_of_image_is_known_by_its_content(make):
    digests = [fingerprint_of(EditRequest(make(text), "x")).digest for text in ("a", "a", "b")]
    assert digests[0] == digests[1] != digests[2]


def test_pictures_of_another_shape_differ():
    flat, tall = np.zeros((2, 8), np.uint8), np.zeros((8, 2), np.uint8)
    assert fingerprint_of(EditRequest(flat, "x")).digest != fingerprint_of(EditRequest(tall, "x")).digest


def test_a_file_is_left_where_it_was():
    file = io.BytesIO(b"head and rest")
    file.seek(5)
    fingerprint_of(EditRequest(file, "x"))
    assert file.read() == b"and rest"


def test_what_other_edits_read_at_once_is_known_by_its_content():
    content = encode(noise(300, 300))
    file, opened = Crossing(content), Crossing(content)
    with Image.open(opened) as picture, Image.open(io.BytesIO(content)) as alone:
        digests = [fingerprint_of(EditRequest(image, "x")).digest for image in (io.BytesIO(content), alone)]
        for shared, digest in zip((file, picture), digests, strict=True):
            request = EditRequest(shared, "x")
            file.meeting, opened.meeting = threading.Barrier(2), threading.Barrier(2)
            found, prepared = at_once(lambda: fingerprint_of(request), lambda: prepare(request.images))  # noqa: B023  # ends here
            prepared[0].close()
            assert found.digest == digest


def test_remote_paths_into_one_archive_are_known_by_their_content_if_read_at_once():
    contents = [bytes([number]) * 100_000 for number in range(4)]
    file = tar_of(contents)
    with tarfile.open(fileobj=file) as archive:
        members = [RemoteMember(archive, name) for name in archive.getnames()]
        file.meeting = threading.Barrier(2)
        found = at_once(*[lambda each=each: fingerprint_of(EditRequest(each, "x")) for each in members])
    assert found == [fingerprint_of(EditRequest(each, "x")) for each in contents]


def test_a_path_and_a_url_are_stamped(tmp_path):
    path = tmp_path / "cat.png"
    path.write_bytes(b"1")
    request = EditRequest([path, "https://host/dog.png"], "x")
    assert stamp(request) == fingerprint_of(request).stamp != ""


def test_a_file_of_another_size_or_time_has_another_stamp(tmp_path):
    path = tmp_path / "cat.png"
    path.write_bytes(b"1")
    before = stamp(EditRequest(path, "x"))
    path.write_bytes(b"12")
    assert stamp(EditRequest(path, "x")) != before


def test_what_is_in_memory_has_no_stamp_and_is_known_by_its_content():
    first, second = EditRequest(b"bytes", "x"), EditRequest(b"others", "x")
    assert stamp(first) == ""
    assert identify(first) == identify(EditRequest(io.BytesIO(b"bytes"), "x")) != identify(second)


def test_an_image_that_can_not_be_read_has_an_identity_all_the_same():
    class Broken(io.RawIOBase):
        def read(self, size=-1):
            raise OSError(size)

    assert identify(EditRequest(Broken(), "x")).startswith("edit-")


def test_a_request_with_a_key_of_its_own_or_a_path_is_not_read_for_its_identity(tmp_path):
    assert identify(EditRequest(b"bytes", "x", key="mine")) == "mine"
    assert identify(EditRequest(tmp_path / "no.png", "x")).startswith("no-")


@pytest.mark.parametrize(
    ("name", "words"), [("missing.png", "does not exist"), ("", "is a directory: give the files in it")]
)
def test_an_image_that_can_not_be_read_is_named(tmp_path, name, words):
    content = fingerprint_of(EditRequest(str(Path(tmp_path, name)), "x"))
    assert content.digest == ""
    assert words in str(content.problem)


@pytest.mark.anyio
async def test_what_one_call_raises_is_its_own():
    worker = Worker(ThreadPoolExecutor(1))
    outcomes = await asyncio.gather(
        worker.call(int, "1"), worker.call(int, "one"), worker.call(int, "3"), return_exceptions=True
    )
    await worker.aclose()
    assert [outcomes[0], type(outcomes[1]), outcomes[2]] == [1, ValueError, 3]


@pytest.mark.anyio
async def test_closing_makes_every_call_first():
    made = []
    worker = Worker(ThreadPoolExecutor(1))
    for number in range(3):
        worker.call(made.append, number)
    await worker.aclose(lambda: made.append("last"))
    assert made == [0, 1, 2, "last"]


@pytest.mark.anyio
@pytest.mark.virtual_clock
async def test_calls_wait_for_others_to_join_as_long_as_it_has_patience():
    batches = []

    def call_all(calls):
        batches.append(len(calls))
        return call_each(calls)

    worker = Worker(ThreadPoolExecutor(1), call_all, patience=0.5)
    for pause in (0.2, 0.2, 0.2, 0.0):
        worker.call(list)
        await asyncio.sleep(pause)
    await worker.aclose()
    assert batches == [3, 1]


@pytest.mark.anyio
async def test_an_interrupt_in_the_wrong_moment_leaves_nobody_waiting():
    class Interrupted(ThreadPoolExecutor):
        interrupts = 1

        def submit(self, *args, **kwargs):
            if self.interrupts:
                self.interrupts -= 1
                raise KeyboardInterrupt
            return super().submit(*args, **kwargs)

    worker = Worker(Interrupted(1))
    call = worker.call(list)
    async with asyncio.timeout(5):
        with pytest.raises(KeyboardInterrupt):
            await worker.aclose()
    assert call.cancelled()


@pytest.mark.anyio
async def test_closing_that_is_given_up_makes_every_call_all_the_same():
    made, begun, go, done = [], threading.Event(), threading.Event(), threading.Event()
    worker = Worker(ThreadPoolExecutor(1))
    worker.call(lambda: (begun.set(), go.wait(10)))
    assert await asyncio.to_thread(begun.wait, 5)
    waits = worker.call(made.append, "asked for")
    with anyio.move_on_after(0) as scope:
        await worker.aclose(lambda: (made.append("last"), done.set()))
    assert scope.cancelled_caught
    go.set()
    await waits
    assert await asyncio.to_thread(done.wait, 5)
    assert made == ["asked for", "last"]


@pytest.mark.anyio
async def test_what_is_asked_for_once_it_is_closing_is_refused():
    go = threading.Event()
    worker = Worker(ThreadPoolExecutor(1))
    before = worker.call(go.wait, 10)
    closing = asyncio.create_task(worker.aclose())
    await asyncio.sleep(0)
    with pytest.raises(JournalError, match="the run has ended"):
        await worker.call(list)
    go.set()
    assert await before
    await closing
    with pytest.raises(JournalError, match="the run has ended"):
        await worker.call(list)
