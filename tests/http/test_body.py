"""The streamed JSON body: its bytes, its size, and what happens when sending goes wrong."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import os
import pathlib
import random
import socket
import threading
import tracemalloc

import aiohttp
import attrs
import pytest
from aiohttp import web
from bulk_runs import until
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from qwen_edit_async.errors import APITimeoutError, InvalidEditError
from qwen_edit_async.http.body import JSONBody
from qwen_edit_async.images.prepare import named, prepare
from qwen_edit_async.images.upload import RAW_CHUNK, Upload, bytes_upload, path_upload, spooled_upload, url_upload
from qwen_edit_async.threads import Offloader

pytestmark = pytest.mark.anyio


class Writer:
    """A connection that keeps what it takes; ``watch`` is called before it takes a chunk."""

    def __init__(self, watch=lambda: None) -> None:
        self.chunks: list[bytes] = []
        self.watch = watch

    async def write(self, chunk: bytes) -> None:
        self.watch()
        self.chunks.append(bytes(chunk))

    @property
    def taken(self) -> bytes:
        return b"".join(self.chunks)


class BrokenWriter:
    """A connection that fails at its second chunk."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.count = 0

    async def write(self, chunk: bytes) -> None:
        self.count += len(chunk) > 0
        if self.count == 2:
            raise self.error


class StuckWriter:
    """A connection that takes no more after some chunks."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.stuck = asyncio.Event()

    async def write(self, chunk: bytes) -> None:
        self.free -= len(chunk) > 0
        if self.free < 0:
            self.stuck.set()
            await asyncio.Event().wait()


def sent(upload: Upload, media_type: str = "image/png") -> Upload:
    return attrs.evolve(upload, head=f"data:{media_type};base64,".encode())


def bytes_image(data: bytes) -> Upload:
    return sent(bytes_upload(data))


def file_image(path, data: bytes) -> Upload:
    path.write_bytes(data)
    return named(sent(path_upload(str(path), path.stat()), "image/jpeg"), "image 1", 1)


def spooled_image(data: bytes) -> Upload:
    return named(sent(spooled_upload(io.BytesIO(data), len(data)), "image/gif"), "image 1", 1)


def open_files() -> set[str]:
    """What this process's descriptors lead to."""
    links = set()
    for link in pathlib.Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one of this very listing
            links.add(str(link.readlink()))
    return links


@pytest.fixture
async def offloader():
    offloader = Offloader(2)
    yield offloader
    await offloader.aclose()


@pytest.fixture
def make_body(offloader):
    def make(*images: Upload, stall_timeout: float = 10) -> JSONBody:
        opens = b'{"a": ["'
        parts = [opens, *([b'", "'] * (len(images) - 1)), b'"]}'] if images else [b'{"a": []}']
        return JSONBody(parts, images, offloader, stall_timeout=stall_timeout)

    return make


sizes = st.integers(1, 40) | st.sampled_from(
    [RAW_CHUNK - 1, RAW_CHUNK, RAW_CHUNK + 1, 2 * RAW_CHUNK, 3 * RAW_CHUNK + 2]
)
contents = st.builds(lambda size, seed: random.Random(seed).randbytes(size), sizes, st.integers())
made_images = st.one_of(
    st.text().map(lambda text: (url_upload(f"https://example.com/{text}"), f"https://example.com/{text}")),
    contents.map(lambda data: (bytes_image(data), "data:image/png;base64," + base64.b64encode(data).decode())),
    contents.map(lambda data: (spooled_image(data), "data:image/gif;base64," + base64.b64encode(data).decode())),
)


@settings(deadline=None, max_examples=60)
@given(images=st.lists(made_images, max_size=3), extra=st.text())
def test_the_body_is_the_json_of_the_naive_way(images, extra) -> None:
    async def send() -> tuple[JSONBody, bytes, bytes]:
        offloader = Offloader(1)
        gap = "\0gap\0"
        text = json.dumps({"images": [gap] * len(images), "text": extra.replace(gap, "")})
        parts = [part.encode() for part in text.split(json.dumps(gap)[1:-1])]
        body = JSONBody(parts, [upload for upload, _ in images], offloader, stall_timeout=10)
        first, second = Writer(), Writer()
        await body.write_with_length(first, None)
        await body.write_with_length(second, body.size)
        await offloader.aclose()
        return body, first.taken, second.taken

    body, taken, again = asyncio.run(send())
    naive = {"images": [text for _, text in images], "text": extra.replace("\0gap\0", "")}
    assert json.loads(taken) == naive
    assert taken == again == body.decode().encode()
    assert body.size == len(taken)


async def test_a_body_that_ends_with_an_image_is_whole(offloader) -> None:
    body, writer = JSONBody([b"", b""], [bytes_image(b"x" * RAW_CHUNK)], offloader, stall_timeout=10), Writer()
    await body.write(writer)
    assert (len(writer.taken), body.sent_whole) == (body.size, True)
    assert all(writer.chunks)


async def test_parts_that_do_not_enclose_the_images_are_a_mistake(offloader) -> None:
    with pytest.raises(ValueError, match="2 parts for 0 images: give 1"):
        JSONBody([b"", b""], [], offloader, stall_timeout=1)


async def test_a_short_body_is_written_at_once(make_body) -> None:
    writer = Writer()
    await make_body(url_upload("https://example.com/a"), url_upload("https://example.com/b")).write(writer)
    assert len(writer.chunks) == 1


async def test_no_chunk_is_much_larger_than_512_kib(make_body, tmp_path) -> None:
    data, writer = random.Random(7).randbytes(2_000_000), Writer()
    await make_body(bytes_image(data), file_image(tmp_path / "a", data)).write(writer)
    assert max(map(len, writer.chunks)) < 512 * 1024 + 64 * 1024 + 100


async def test_others_run_between_the_chunks_of_an_image_in_memory(make_body) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await make_body(bytes_image(bytes(10 * RAW_CHUNK))).write(Writer())
    task.cancel()
    assert turns >= 9


async def test_files_are_read_on_a_thread(make_body, tmp_path) -> None:
    image, threads = file_image(tmp_path / "a", bytes(300_000)), []

    def watched():
        file, read = image.reopen()

        def watched_read(start: int, size: int) -> bytes:
            threads.append(threading.current_thread())
            return read(start, size)

        threads.append(threading.current_thread())
        return file, watched_read

    await make_body(attrs.evolve(image, reopen=watched)).write(Writer())
    assert len(threads) == 2  # one call opens the file, and one reads it
    assert threading.current_thread() not in threads


async def test_each_attempt_opens_a_file_once_and_closes_it(make_body, tmp_path, offloader, openings) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    body = make_body(file_image(paths[0], bytes(5 * RAW_CHUNK)), file_image(paths[1], bytes(RAW_CHUNK)))
    openings.clear()
    for attempt in (1, 2):
        await body.write(Writer())
        assert [openings[str(path)] for path in paths] == [attempt, attempt]
    await offloader.aclose()
    assert open_files().isdisjoint(map(str, paths))


@pytest.mark.parametrize("during", ["opening", "reading"])
async def test_a_file_is_closed_if_its_attempt_is_cancelled_meanwhile(make_body, tmp_path, offloader, during) -> None:
    path, begun, proceed = tmp_path / "a", threading.Event(), threading.Event()
    image = file_image(path, bytes(3 * RAW_CHUNK))

    def wait(*_) -> None:
        begun.set()
        proceed.wait()

    def reopen():
        file, read = image.reopen()
        if during == "opening":
            wait()
        return file, lambda *arguments: wait() or read(*arguments)

    attempt = asyncio.create_task(make_body(attrs.evolve(image, reopen=reopen)).write(Writer()))
    await asyncio.to_thread(begun.wait)
    assert str(path) in open_files()
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    proceed.set()
    await offloader.aclose()
    assert str(path) not in open_files()


async def test_a_file_is_closed_with_its_attempt_even_if_the_error_is_kept(make_body, tmp_path, offloader) -> None:
    """The error's traceback holds the frames of the attempt, so garbage collection would close the file too late."""
    path = tmp_path / "a"
    body = make_body(file_image(path, bytes(3 * RAW_CHUNK)))
    with pytest.raises(ConnectionResetError) as kept:
        await body.write(BrokenWriter(ConnectionResetError()))
    await offloader.aclose()
    assert kept.tb is not None
    assert str(path) not in open_files()


async def test_sent_whole_turns_true_just_before_the_last_chunk(make_body) -> None:
    body = make_body(bytes_image(bytes(3 * RAW_CHUNK)))
    seen: list[bool] = []
    await body.write(Writer(lambda: seen.append(body.sent_whole)))
    assert seen == [False, False, False, False, True]
    assert body.sent_whole


async def test_a_new_attempt_begins_as_not_sent(make_body) -> None:
    body = make_body(bytes_image(bytes(3 * RAW_CHUNK)))
    await body.write(Writer())
    with pytest.raises(ConnectionResetError):
        await body.write(BrokenWriter(ConnectionResetError()))
    assert not body.sent_whole


@pytest.mark.parametrize("error", [ConnectionResetError(), TimeoutError("the system's own")])
async def test_a_failure_of_the_connection_is_not_ours(make_body, error) -> None:
    body = make_body(bytes_image(bytes(3 * RAW_CHUNK)))
    with pytest.raises(type(error)) as caught:
        await body.write(BrokenWriter(error))
    assert caught.value is error
    assert body.failure is None


@pytest.mark.parametrize(("free", "whole"), [(2, False), (3, True)])
async def test_a_connection_that_takes_no_more_is_a_timeout(make_body, free, whole) -> None:
    body = make_body(bytes_image(bytes(2 * RAW_CHUNK)), stall_timeout=0.05)
    with pytest.raises(APITimeoutError, match=r"did not accept a chunk within 0\.05 s"):
        await body.write(StuckWriter(free))
    assert isinstance(body.failure, APITimeoutError)
    assert (body.sent_whole, body.failure.request_sent) == (whole, whole)
    assert body.failure.__context__ is None
    assert body.failure.__traceback__ is None


async def test_a_connection_that_does_not_take_a_long_text_is_a_timeout(offloader) -> None:
    body = JSONBody([bytes(40_000)], [], offloader, stall_timeout=0.05)
    with pytest.raises(APITimeoutError):
        await body.write(StuckWriter(0))


@pytest.mark.may_block("the test writes a file")
async def test_a_file_that_changes_while_it_is_sent_ends_the_sending(make_body, tmp_path) -> None:
    path = tmp_path / "a.jpg"
    body = make_body(file_image(path, bytes(3 * RAW_CHUNK)))
    writer = Writer(lambda: path.write_bytes(b"another picture"))
    with pytest.raises(InvalidEditError, match="has changed since"):
        await body.write(writer)
    assert isinstance(body.failure, InvalidEditError)
    assert not body.sent_whole
    assert len(writer.taken) < body.size


@pytest.mark.may_block("the test replaces the file")
async def test_a_file_that_is_replaced_while_it_is_sent_is_sent_as_it_was(make_body, tmp_path) -> None:
    data, path, other = random.Random(7).randbytes(3 * RAW_CHUNK), tmp_path / "a.jpg", tmp_path / "other"
    body = make_body(file_image(path, data))

    def replace() -> None:
        other.write_bytes(b"another picture")
        other.replace(path)

    writer = Writer(replace)
    await body.write(writer)
    assert json.loads(writer.taken)["a"] == ["data:image/jpeg;base64," + base64.b64encode(data).decode()]
    with pytest.raises(InvalidEditError, match="has changed since"):
        await body.write(Writer())


async def test_the_failure_of_an_attempt_is_forgotten_by_the_next(make_body, tmp_path) -> None:
    path = tmp_path / "a.jpg"
    image = file_image(path, bytes(RAW_CHUNK))
    body = make_body(image)
    path.rename(tmp_path / "b.jpg")
    with pytest.raises(InvalidEditError):
        await body.write(Writer())
    (tmp_path / "b.jpg").rename(path)
    await body.write(Writer())
    assert body.failure is None


async def test_a_cancelled_attempt_leaves_no_file_open_and_can_be_repeated(make_body, tmp_path, offloader) -> None:
    path = tmp_path / "a.jpg"
    body = make_body(file_image(path, bytes(3 * RAW_CHUNK)))
    stuck = StuckWriter(1)
    attempt = asyncio.create_task(body.write(stuck))
    await stuck.stuck.wait()
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    assert (body.sent_whole, body.failure) == (False, None)
    await until(lambda: str(path) not in open_files())  # a thread closes it
    again = Writer()
    await body.write(again)
    assert len(again.taken) == body.size


@pytest.mark.may_block("the test prepares the edit")
async def test_a_large_file_is_sent_in_little_memory(offloader, tmp_path) -> None:
    path = tmp_path / "a.bmp"
    Image.frombytes("RGB", (1730, 1730), random.Random(7).randbytes(1730 * 1730 * 3)).save(path)
    assert path.stat().st_size > 8_900_000
    taken = 0

    class Counter:
        async def write(self, chunk: bytes) -> None:
            nonlocal taken
            taken += len(chunk)

    uploads = prepare([path])
    body = JSONBody([b'{"image": "', b'"}'], uploads, offloader, stall_timeout=10)
    tracemalloc.start()
    try:
        await body.write(Counter())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken == body.size
    assert peak < 2_000_000


@contextlib.asynccontextmanager
async def serving(handler):
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/{tail:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        async with aiohttp.ClientSession() as session:
            yield session, f"http://127.0.0.1:{site.port}"
    finally:
        await runner.cleanup()


async def test_a_server_gets_the_whole_json_and_its_length(make_body, tmp_path) -> None:
    heads = []

    async def handler(request: web.Request) -> web.Response:
        heads.append((request.content_type, request.content_length, "Transfer-Encoding" in request.headers))
        return web.json_response(await request.json())

    data = random.Random(7).randbytes(1_000_000)
    body = make_body(url_upload("https://example.com/ä"), bytes_image(data), file_image(tmp_path / "a", data))
    async with serving(handler) as (session, url), session.post(url, data=body) as response:
        answer = await response.json()
    text = base64.b64encode(data).decode()
    assert answer == {"a": ["https://example.com/ä", "data:image/png;base64," + text, "data:image/jpeg;base64," + text]}
    assert heads == [("application/json", body.size, False)]


async def test_a_body_is_sent_whole_again_after_a_refusal_and_a_redirect(make_body, tmp_path) -> None:
    lengths = []

    async def handler(request: web.Request) -> web.Response:
        lengths.append(len(await request.read()))
        if request.path == "/busy":
            return web.Response(status=503)
        if request.path == "/moved":
            raise web.HTTPTemporaryRedirect("/here")
        return web.Response()

    body = make_body(file_image(tmp_path / "a", bytes(1_000_000)))
    async with serving(handler) as (session, url):
        statuses = []
        for path in ("/busy", "/moved"):
            async with session.post(url + path, data=body) as response:
                statuses.append(response.status)
    assert statuses == [503, 200]
    assert lengths == [body.size] * 3


async def test_an_early_refusal_ends_the_sending_and_is_read(make_body, offloader, tmp_path) -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(status=413, text="too large", headers={"Connection": "close"})

    path = tmp_path / "a"
    body = make_body(*[file_image(path, bytes(10_000_000))] * 3)
    async with serving(handler) as (session, url), session.post(url, data=body) as response:
        assert (response.status, await response.text()) == (413, "too large")
    assert not body.sent_whole
    await offloader.aclose()  # a thread may still be reading the chunk that nobody waits for any more
    assert str(path) not in open_files()


@pytest.fixture
def deaf_server():
    """A server that takes connections and never reads from them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


async def test_a_server_that_does_not_read_fails_the_sending_by_our_own_timeout(make_body, deaf_server) -> None:
    body = make_body(*[bytes_image(bytes(10_000_000))] * 3, stall_timeout=0.2)
    async with aiohttp.ClientSession() as session:
        with pytest.raises((aiohttp.ClientError, APITimeoutError)):
            await session.post(deaf_server, data=body)
    assert isinstance(body.failure, APITimeoutError)
    assert not body.sent_whole


async def test_a_changed_file_fails_the_request_before_the_service_has_it(make_body, tmp_path) -> None:
    received = []

    async def handler(request: web.Request) -> web.Response:
        received.append(await request.read())
        return web.Response()

    path = tmp_path / "a"
    body = make_body(file_image(path, bytes(1_000_000)))
    path.write_bytes(bytes(999_999))
    async with serving(handler) as (session, url):
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.post(url, data=body)
    assert isinstance(body.failure, InvalidEditError)
    assert (received, body.sent_whole) == ([], False)


async def test_large_chunks_are_handed_over_as_they_were_made(make_body) -> None:
    made: list[bytes] = []
    handed_over: list[object] = []

    class Watched(Upload):
        def chunk(self, index: int) -> bytes:
            made.append(super().chunk(index))
            return made[-1]

    class Watching(Writer):
        async def write(self, chunk: memoryview) -> None:
            handed_over.append(chunk.obj)
            await super().write(chunk)

    data = bytes(2 * RAW_CHUNK)
    await make_body(Watched(size=len(data), read=bytes_upload(data).read)).write(Watching())
    assert len(made) == 2
    assert all(any(chunk is kept for kept in handed_over) for chunk in made)


def test_an_image_that_is_no_local_file_is_opened_as_it_is():
    image = bytes_upload(b"image")
    assert image.opened() is image


@pytest.mark.skipif(os.name == "nt", reason="Windows can't open a folder")
def test_a_disk_that_fails_while_a_file_is_read_is_named(tmp_path):
    image = file_image(tmp_path / "a.jpg", b"image").opened()
    folder = os.open(tmp_path, os.O_RDONLY)
    os.dup2(folder, image.file.fileno())  # reading a folder is an error
    os.close(folder)
    with pytest.raises(InvalidEditError, match=r"image 1 .*can't be read any more: Is a directory"):
        image.chunk(0)
    image.close()
