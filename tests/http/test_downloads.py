"""Downloads of result pictures: without the key, and complete or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import pickle
import re
import resource
import socket
import ssl
import struct
import zlib
from pathlib import Path
from random import Random

import pytest
from aiohttp import web
from connection_ends import ending
from jitter import NoJitter
from memory_transport import IMAGE, until
from PIL import Image

from qwen_edit_async import (
    DownloadError,
    EditSession,
    EditWarning,
    FixedInterval,
    NotFoundError,
    OutputImage,
    SessionClosedError,
)
from qwen_edit_async.emulator import EditEmulator, EditJob, Fault
from qwen_edit_async.http.downloads import Downloader
from qwen_edit_async.http.fetcher import MAX_RESULT_BYTES, Fetcher
from qwen_edit_async.http.hosts import ResultHosts
from qwen_edit_async.http.network import Network
from qwen_edit_async.http.options import Timeouts
from qwen_edit_async.scheduling.retry import RetryPolicy
from qwen_edit_async.statistics import SessionStatistics
from qwen_edit_async.threads import Offloader

pytestmark = pytest.mark.anyio


class NoisyEngine:
    """Returns the same picture for every task. By default, it is large enough to arrive in several pieces."""

    reads_images = False

    def __init__(self, size: int = 3_000_000) -> None:
        self.picture = png(size)

    def render(self, job: EditJob) -> list[bytes]:
        return [self.picture] * job.n


def png(size: int) -> bytes:
    """Return a complete PNG file of about this size."""
    pixels = Random(size).randbytes(size)
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", 1000, 1000, 8, 2, 0, 0, 0)),
        (b"IDAT", pixels),
        (b"IEND", b""),
    ]
    text = b"\x89PNG\r\n\x1a\n"
    for kind, data in parts:
        text += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return text


SMALL = png(1000)


def encoded(kind: str, **options: object) -> bytes:
    """A picture of a format; 15 KB as JPEG."""
    file = io.BytesIO()
    Image.frombytes("RGB", (150, 150), Random(0).randbytes(150 * 150 * 3)).save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
async def emulator():
    async with EditEmulator(duration=0.0, engine=NoisyEngine()) as emulator:
        yield emulator


@pytest.fixture
async def session(emulator):
    options = {"polling": FixedInterval(0.01), "timeout": 1.0, "default_headers": {"X-Mine": "1"}, "random": NoJitter()}
    async with EditSession(emulator.api_key, base_url=emulator.url, envelope="flat", **options) as session:
        yield session


@pytest.fixture
async def image(session):
    return (await session.edit(IMAGE, "snow")).images[0]


@pytest.fixture
async def serve():
    """Serve results from another server: ``url = await serve(handler)``."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(handler, certificate: ssl.SSLContext | None = None) -> str:
            application = web.Application()
            application.router.add_get("/{name:.*}", handler)
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=certificate)
            await site.start()
            return f"http{'' if certificate is None else 's'}://127.0.0.1:{site.port}/a.png"

        yield start


def image_at(session, url: str) -> OutputImage:
    return session.pictures("task-1", [url])[0]


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def until_clean(folder: Path) -> None:
    """Wait until a thread has cleaned up a failed download."""
    await until(lambda: not [name for name in files_in(folder) if name.endswith(".part")])


# The picture.


async def test_a_picture_is_read_whole(session, emulator, image):
    assert await image.read() == emulator.engine.picture
    assert session.statistics().downloads == 1


async def test_a_picture_is_saved_whole(emulator, image, tmp_path):
    path = await image.save(tmp_path / "new" / "folder" / "a.png")
    assert path.read_bytes() == emulator.engine.picture
    assert files_in(path.parent) == ["a.png"]


async def test_saving_replaces_what_was_there(emulator, image, tmp_path):
    (tmp_path / "a.png").write_bytes(b"old")
    await image.save(str(tmp_path / "a.png"))
    assert (tmp_path / "a.png").read_bytes() == emulator.engine.picture


async def test_no_key_and_no_header_of_the_api_goes_to_the_results(emulator, image):
    await image.read()
    (record,) = [record for record in emulator.requests if record.path.startswith("/results/")]
    assert {"authorization", "x-mine", "cookie"} & set(record.header_names) == set()
    assert emulator.statistics().keys_at_results == 0


class NotingOffloader(Offloader):
    """Threads that note the arguments of each call."""

    def __init__(self) -> None:
        super().__init__(4)
        self.calls: list[tuple[object, ...]] = []

    async def run(self, function, /, *arguments, **options):
        self.calls.append(arguments)
        return await super().run(function, *arguments, **options)


@pytest.fixture
async def noted():
    """A downloader and the arguments of its calls on threads."""
    threads, fetcher = NotingOffloader(), Fetcher(Timeouts(), ResultHosts(anywhere=True), Network())
    downloader = Downloader(fetcher, threads, RetryPolicy(), SessionStatistics(), random=NoJitter(), renew=None)
    await fetcher.open()
    yield downloader, threads.calls
    await fetcher.aclose()
    await threads.aclose()


async def test_a_download_holds_about_a_piece_in_memory_while_it_is_saved(image, noted, tmp_path):
    downloader, calls = noted
    await downloader.save(image.url, "task-1", 0, tmp_path / "a.png")
    sizes = [sum(map(len, piece)) for arguments in calls for piece in arguments if isinstance(piece, list)]
    assert len(sizes) >= 2
    assert max(sizes) < 2 * 1024 * 1024


@pytest.mark.parametrize("size", [1_000, 1_800_000])
async def test_saving_a_picture_of_a_usual_size_takes_two_calls_to_threads(noted, serve, tmp_path, size):
    async def reply(request):
        return web.Response(body=png(size))

    downloader, calls = noted
    path, _ = await downloader.save(await serve(reply), "task-1", 0, tmp_path / "a.png")
    assert path.read_bytes() == png(size)
    assert len(calls) == 2  # one opens the file, and the other does all else


async def test_sixteen_downloads_run_at_a_time_and_slow_ones_hold_up_no_other(session, serve):
    go_on, running, peak = asyncio.Event(), 0, 0

    async def picture(request):
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        if request.path == "/slow.png":
            await go_on.wait()
        running -= 1
        return web.Response(body=SMALL)

    url = await serve(picture)
    slow = [asyncio.create_task(image_at(session, url.replace("a.png", "slow.png")).read()) for _ in range(15)]
    await until(lambda: running == 15)
    await asyncio.gather(*(image_at(session, url).read() for _ in range(40)))
    assert (running, peak) == (15, 16)
    go_on.set()
    await asyncio.gather(*slow)


async def test_downloads_share_a_connection(session, serve):
    peers = set()

    async def picture(request):
        peers.add(request.transport.get_extra_info("peername"))
        return web.Response(body=SMALL)

    url = await serve(picture)
    for _ in range(3):
        await image_at(session, url).read()
    assert len(peers) == 1


# Temporary failures.

PASSING = {
    "500": Fault.status(500),
    "503": Fault.status(503),
    "429": Fault.status(429),
    "408": Fault.status(408),
    "dropped": Fault.drop_reply(),
    "cut off": Fault.truncated_download(0.5),
    "just begun": Fault.truncated_download(0.0),
    "HTML": Fault.wrong_download(),
    "half a picture": Fault.wrong_download(png(50_000)[:-20], "image/png"),
    "a damaged picture": Fault.wrong_download(png(50_000).replace(b"IEND", b"IDAT"), "image/png"),
    "half a JPEG": Fault.wrong_download(encoded("JPEG")[:6_000], "image/jpeg"),
    "empty": Fault.wrong_download(b"", "image/png"),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
async def test_a_download_that_fails_is_tried_again(emulator, image, tmp_path, fault):
    emulator.inject(fault.on("download").times(2))
    path = await image.save(tmp_path / "a.png")
    assert path.read_bytes() == emulator.engine.picture
    assert (emulator.statistics().downloads, files_in(tmp_path)) == (3, ["a.png"])


OTHERS = {
    "JPEG": (encoded("JPEG"), ".jpg", "is a JPEG, not a PNG"),
    "WEBP": (encoded("WEBP"), ".webp", "is a WEBP, not a PNG"),
    "AVIF": (encoded("AVIF"), ".avif", "is an AVIF, not a PNG"),
    "GIF": (encoded("GIF"), ".gif", "is a GIF, not a PNG"),
    "more than a PNG": (encoded("PNG") + b"more", ".png", "is a PNG file with 4 bytes after its end"),
    "a PNG without rows": (SMALL, ".png", "is a damaged PNG file: its pixel data is damaged"),
}


@pytest.mark.parametrize("kind", OTHERS)
async def test_a_picture_that_is_not_as_documented_is_kept_under_its_ending(emulator, image, tmp_path, caplog, kind):
    content, ending, remark = OTHERS[kind]
    emulator.inject(Fault.wrong_download(content, "image/png").on("download"))
    path = await image.save(tmp_path / "a.png")
    assert path == tmp_path / f"a{ending}"
    assert path.read_bytes() == content
    assert files_in(tmp_path) == [path.name]
    assert f"image 0 of task {image.task_id} {remark}" in caplog.text
    assert await image.read() == content
    assert emulator.statistics().downloads == 2


CUT = {
    "JPEG": (encoded("JPEG")[:-20], ".jpg"),
    "progressive JPEG": (encoded("JPEG", progressive=True)[:-20], ".jpg"),
    "WEBP": (encoded("WEBP")[:-1], ".webp"),
    "AVIF": (encoded("AVIF")[:-1], ".avif"),
    "GIF": (encoded("GIF")[:-2000], ".gif"),
}


@pytest.mark.parametrize("kind", CUT)
async def test_a_picture_that_is_cut_short_is_tried_again(emulator, image, tmp_path, kind):
    emulator.inject(Fault.wrong_download(CUT[kind][0], "image/png").on("download").times(2))
    path = await image.save(tmp_path / "a.png")
    assert path.read_bytes() == emulator.engine.picture
    assert emulator.statistics().downloads == 3


@pytest.mark.parametrize("kind", CUT)
async def test_a_picture_that_stays_cut_short_is_kept_after_the_last_attempt(emulator, image, tmp_path, caplog, kind):
    content, ending = CUT[kind]
    emulator.inject(Fault.wrong_download(content, "image/png").on("download"))
    with pytest.warns(EditWarning, match=f"image 0 of task {image.task_id} is an? .*damaged: .*; it is kept as it is"):
        path = await image.save(tmp_path / "a.png")
    assert (path, path.read_bytes()) == (tmp_path / f"a{ending}", content)
    assert emulator.statistics().downloads == 3
    assert f"image 0 of task {image.task_id} is a" in caplog.text
    assert "not a PNG, and damaged: " in caplog.text
    assert await image.read() == content
    assert (await image.open()).size == (150, 150)


async def test_a_picture_of_another_format_can_be_opened(emulator, image):
    emulator.inject(Fault.wrong_download(OTHERS["WEBP"][0], "image/webp").on("download"))
    assert (await image.open()).size == (150, 150)


async def test_a_picture_of_another_format_replaces_no_other_file(emulator, image, tmp_path):
    emulator.inject(Fault.wrong_download(OTHERS["JPEG"][0], "image/jpeg").on("download"))
    (tmp_path / "a.jpg").write_bytes(b"of the user")
    path = await image.save(tmp_path / "a.png")
    assert path == tmp_path / "a.png"
    assert path.read_bytes() == OTHERS["JPEG"][0]
    assert (tmp_path / "a.jpg").read_bytes() == b"of the user"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"<!DOCTYPE html><p>gone", "it is an HTML page"),
        (encoded("JPEG")[:6_000], "it is a JPEG file that is cut short"),
    ],
)
async def test_what_came_instead_of_a_picture_is_named(emulator, image, content, named):
    emulator.inject(Fault.wrong_download(content, "image/png").on("download"))
    with pytest.raises(DownloadError, match=f"could not be downloaded: {named}") as caught:
        await image.read()
    assert caught.value.url == image.url
    assert pickle.loads(pickle.dumps(caught.value)).url == image.url


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
async def test_a_download_that_keeps_failing_is_an_error_and_leaves_no_file(session, emulator, image, tmp_path, fault):
    emulator.inject(fault.on("download"))
    match = re.escape(f"image 0 of task {image.task_id} could not be downloaded") + f".*attach.'{image.task_id}'"
    with pytest.raises(DownloadError, match=match) as caught:
        await image.save(tmp_path / "a.png")
    assert caught.value.task_id == image.task_id
    assert emulator.statistics().downloads in {3, 6}  # aiohttp repeats a request once if the connection drops
    await until_clean(tmp_path)
    assert files_in(tmp_path) == []
    assert session.statistics().downloads == 0


async def test_what_was_there_stays_if_the_download_fails(emulator, image, tmp_path):
    (tmp_path / "a.png").write_bytes(b"old")
    emulator.inject(Fault.truncated_download())
    with pytest.raises(DownloadError):
        await image.save(tmp_path / "a.png")
    await until_clean(tmp_path)
    assert (tmp_path / "a.png").read_bytes() == b"old"
    assert files_in(tmp_path) == ["a.png"]


async def test_nothing_is_seen_under_the_final_name_before_it_is_whole(emulator, image, tmp_path, serve, session):
    half, go = asyncio.Event(), asyncio.Event()
    picture = png(4_000_000)

    async def slow(request):
        response = web.StreamResponse(headers={"Content-Length": str(len(picture))})
        await response.prepare(request)
        await response.write(picture[:2_500_000])
        half.set()
        await go.wait()
        await response.write(picture[2_500_000:])
        return response

    saving = asyncio.create_task(image_at(session, await serve(slow)).save(tmp_path / "a.png"))
    await half.wait()
    await until(lambda: files_in(tmp_path) != [])
    (name,) = files_in(tmp_path)
    assert name.startswith(".a.png.")
    assert name.endswith(".part")
    go.set()
    await saving
    assert files_in(tmp_path) == ["a.png"]


async def test_a_download_that_hangs_times_out(emulator, image):
    emulator.inject(Fault.hang().on("download").times(1))
    assert await image.read() == emulator.engine.picture


def gzipped_for_ever() -> tuple[bytes, bytes]:
    compressor = zlib.compressobj(wbits=31)
    begun = compressor.compress(png(100)[:50]) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return b"Content-Encoding: gzip\r\n\r\n" + begun, b"\0\0\0\xff\xff"  # an empty block


CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
MOVING = {
    "a chunk's extension": (CHUNKED + b"1;", b"a"),
    "a trailer": (CHUNKED + b"%x\r\n%s\r\n0\r\nX-More: " % (len(SMALL), SMALL), b"a"),
    "nothing, compressed": gzipped_for_ever(),
}


@pytest.fixture
async def moving():
    """Serve a reply that repeats one part for ever: ``url = await moving(begin, again)``."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(begin: bytes, again: bytes) -> str:
            async def answer(reader, writer):
                async with ending(writer):
                    await reader.readuntil(b"\r\n\r\n")
                    writer.write(b"HTTP/1.1 200 OK\r\n" + begin)
                    while True:
                        writer.write(again)
                        await writer.drain()
                        await asyncio.sleep(0.02)

            server = await stack.enter_async_context(await asyncio.start_server(answer, "127.0.0.1", 0))
            return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/a.png"

        yield start


@pytest.mark.parametrize("kind", MOVING)
async def test_a_download_of_which_no_data_comes_is_given_up_however_the_wire_moves(emulator, moving, tmp_path, kind):
    url = await moving(*MOVING[kind])
    options = {"timeout": 0.3, "max_retries": 1, "random": NoJitter()}
    async with EditSession(emulator.api_key, base_url=emulator.url, **options) as session:
        async with asyncio.timeout(5):
            with pytest.raises(DownloadError, match="TimeoutError"):
                await image_at(session, url).save(tmp_path / "a.png")
        await until_clean(tmp_path)
    assert files_in(tmp_path) == []


async def test_what_came_of_a_download_that_failed_is_no_part_of_the_next(emulator, image):
    emulator.inject(Fault.truncated_download(0.8).times(1))
    assert await image.read() == emulator.engine.picture


# Final failures.


async def test_a_picture_over_the_cap_is_refused_by_its_announced_size(session, serve):
    requests = []

    async def announcing(request):
        requests.append(request)
        response = web.StreamResponse(headers={"Content-Length": str(MAX_RESULT_BYTES + 1)})
        await response.prepare(request)
        await response.write(SMALL)
        return response

    with pytest.raises(DownloadError, match=f"it has {MAX_RESULT_BYTES + 1} bytes"):
        await image_at(session, await serve(announcing)).read()
    assert len(requests) == 1


async def test_a_picture_over_the_cap_is_refused_as_it_streams(session, serve, tmp_path):
    async def endless(request):
        response = web.StreamResponse()
        await response.prepare(request)
        piece = bytes(1024 * 1024)
        while True:
            await response.write(piece)

    with pytest.raises(DownloadError, match=f"more than {MAX_RESULT_BYTES} bytes"):
        await image_at(session, await serve(endless)).save(tmp_path / "a.png")
    await until_clean(tmp_path)
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/a.png", "file:///etc/passwd", "a.png", "javascript:1"])
async def test_a_url_that_is_not_http_is_refused(session, url):
    with pytest.raises(DownloadError, match=r"not http\(s\)"):
        await image_at(session, url).read()


@pytest.mark.parametrize("url", ["http://", "http://[broken/", "https://:80"])
async def test_a_url_that_is_not_valid_is_refused(session, url):
    with pytest.raises(DownloadError):
        await image_at(session, url).read()


async def test_a_host_that_can_not_be_reached_is_named(session):
    with socket.socket() as taken:  # bound, but not listening
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(DownloadError, match=r"its host '127\.0\.0\.1' can't be reached \(ClientConnectorError\)"):
            await image_at(session, f"http://127.0.0.1:{taken.getsockname()[1]}/a.png").read()


async def test_a_certificate_that_is_not_valid_is_named(session, serve):
    async def never(request):
        raise AssertionError

    certificate = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.load_cert_chain(Path(__file__).with_name("self_signed.pem"))
    with pytest.raises(
        DownloadError, match=r"'127\.0\.0\.1' .*\(its certificate is not valid: self.signed certificate\)"
    ):
        await image_at(session, await serve(never, certificate)).read()


async def test_a_proxy_that_a_failed_download_did_not_use_is_named(session, monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    with socket.socket() as taken:  # bound, but not listening
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(DownloadError, match="https_proxy in the environment is not used: trust_env=True uses it"):
            await image_at(session, f"https://127.0.0.1:{taken.getsockname()[1]}/a.png").read()


@pytest.mark.parametrize("location", ["ftp://127.0.0.1/a.png", "file:///etc/passwd", "data:image/png;base64,AAAA"])
async def test_a_redirect_to_something_else_than_http_is_refused(session, serve, location):
    async def redirect(request):
        raise web.HTTPFound(location)

    with pytest.raises(DownloadError):
        await image_at(session, await serve(redirect)).read()


async def test_a_redirect_that_gives_up_encryption_is_refused(emulator, serve, image, certificate, ca_file):
    async def redirect(request):
        raise web.HTTPFound(image.url)

    async with EditSession(emulator.api_key, base_url=emulator.url, ssl=ca_file) as session:
        with pytest.raises(DownloadError, match="redirects from https to http"):
            await image_at(session, await serve(redirect, certificate)).read()


async def test_a_redirect_to_another_host_is_followed_without_the_key(session, serve, emulator, image):
    async def redirect(request):
        raise web.HTTPFound(image.url)

    assert await image_at(session, await serve(redirect)).read() == emulator.engine.picture
    assert emulator.statistics().keys_at_results == 0


async def test_long_headers_of_signed_url_services_are_fine(session, serve):
    picture = png(1000)

    async def answer(request):
        return web.Response(body=picture, headers={"X-Policy": "x" * 20_000})

    assert await image_at(session, await serve(answer)).read() == picture


async def test_the_url_is_asked_for_exactly_as_it_was_signed(session, serve):
    seen = []

    async def answer(request):
        seen.append(request.raw_path)
        return web.Response(body=png(1000))

    url = (await serve(answer)) + "?Signature=a%2Bb%2F%3d&x=%E4%BD%A0+y"
    await image_at(session, url).read()
    assert seen == ["/a.png?Signature=a%2Bb%2F%3d&x=%E4%BD%A0+y"]


SIGNED = "a%2Fb%7Ec.png?sig=a%2Fb%2Bc%3D~&x=%e4+y"


@pytest.mark.parametrize("location", [SIGNED, f"/{SIGNED}", "//{host}/" + SIGNED, "http://{host}/" + SIGNED])
async def test_a_redirect_is_followed_byte_for_byte(session, serve, location):
    seen = []

    async def answer(request):
        seen.append(request.raw_path)
        if request.path == "/a.png":
            return web.Response(status=302, headers={"Location": location.format(host=request.host)})
        return web.Response(body=SMALL)

    assert await image_at(session, await serve(answer)).read() == SMALL
    assert seen == ["/a.png", f"/{SIGNED}"]


@pytest.mark.parametrize("redirected", [False, True])
async def test_only_what_no_url_may_hold_is_escaped(session, serve, redirected):
    seen = []

    async def answer(request):
        seen.append(request.raw_path)
        if request.path == "/a.png":
            return web.Response(status=302, headers={"Location": "/我的 %E4%BD%A0/~a+b.png?x=é&y=%2f"})
        return web.Response(body=SMALL)

    url = await serve(answer)
    await image_at(session, url if redirected else url.replace("a.png", "我的 %E4%BD%A0/~a+b.png?x=é&y=%2f")).read()
    assert seen[-1] == "/%E6%88%91%E7%9A%84%20%E4%BD%A0/~a+b.png?x=%C3%A9&y=%2f"


@pytest.mark.parametrize(
    "named", ["//{host}/out/a%7E.png?s=%3d", "/out/a%7E.png?s=%3d", "../../../../out/a%7E.png?s=%3d"]
)
async def test_a_relative_url_is_relative_to_the_reply_that_names_it(serve, named):
    asked = []

    async def answer(request):
        asked.append((request.raw_path, "Authorization" in request.headers))
        if "task" not in request.path:
            return web.Response(body=SMALL)
        entry = {"type": "image", "url": named.format(host=request.host)}
        return web.json_response({"status": "completed", "output": [{"content": [entry]}]})

    async with EditSession("key", base_url=(await serve(answer)).removesuffix("/a.png"), random=NoJitter()) as session:
        (picture,) = (await session.attach("t1")).images
        assert await picture.read() == SMALL
    assert asked == [("/model/v1/generation/task/t1", True), ("/out/a%7E.png?s=%3d", False)]
    assert picture.url.endswith("/out/a%7E.png?s=%3d")
    assert picture.url.startswith("http://127.0.0.1:")


async def test_no_cookie_of_a_host_of_results_is_kept(session, serve):
    cookies = []

    async def answer(request):
        cookies.append(request.headers.get("Cookie"))
        return web.Response(body=SMALL, headers={"Set-Cookie": "track=1"})

    url = (await serve(answer)).replace("127.0.0.1", "localhost")
    for _ in range(2):
        await image_at(session, url).read()
    assert cookies == [None, None]


async def test_a_name_that_the_server_proposes_is_not_used(session, serve, tmp_path):
    async def answer(request):
        name = 'attachment; filename="../../evil.png"'
        return web.Response(body=png(1000), headers={"Content-Disposition": name})

    await image_at(session, await serve(answer)).save(tmp_path / "mine" / "a.png")
    assert files_in(tmp_path) == ["mine"]
    assert files_in(tmp_path / "mine") == ["a.png"]


# Expired URLs.


async def test_an_expired_url_is_renewed_by_asking_the_task_again(session, emulator, image):
    emulator.inject(Fault.expired_url().times(1))
    checks = emulator.statistics().checks
    assert await image.read() == emulator.engine.picture
    assert emulator.statistics().checks == checks + 1
    assert session.statistics().renewals == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
async def test_a_url_is_renewed_once_and_only_once(session, emulator, image, status):
    emulator.inject(Fault.status(status).on("download"))
    with pytest.raises(DownloadError, match=f"answered {status}"):
        await image.read()
    assert (emulator.statistics().downloads, session.statistics().renewals) == (2, 1)


async def test_a_really_expired_url_is_renewed(leap):
    emulator = EditEmulator(duration=0.0, engine=NoisyEngine(1000), result_lifetime=60.0)
    async with (
        emulator,
        EditSession(emulator.api_key, base_url=emulator.url, polling=FixedInterval(0.01), random=NoJitter()) as session,
    ):
        result = await session.edit(IMAGE, "snow", n=2)
        leap(60.0)
        assert await result.images[1].read() == emulator.engine.picture
        assert session.statistics().renewals == 1


async def test_a_url_that_can_not_be_renewed_is_an_error_that_says_why(emulator, image):
    emulator.inject(Fault.expired_url(), Fault.status(404).on("check"))
    with pytest.raises(DownloadError, match="answered 403") as caught:
        await image.read()
    assert isinstance(caught.value.__cause__, NotFoundError)


async def test_a_picture_that_the_task_no_longer_has_is_an_error(emulator, image):
    emulator.inject(Fault.expired_url(), Fault.reshape(lambda members: members | {"output": []}).on("check"))
    with pytest.raises(DownloadError, match="answered 403"):
        await image.read()


async def test_renewing_survives_a_check_that_fails(session, emulator, image):
    emulator.inject(Fault.expired_url().times(1), Fault.status(502).on("check").times(2))
    await image.read()
    assert session.statistics().renewals == 1


# The disk.


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
async def test_an_error_of_the_disk_is_the_users_and_is_not_tried_again(emulator, image, tmp_path, monkeypatch, code):
    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=os.strerror(code)) as caught:
        await image.save(tmp_path / "a.png")
    assert (type(caught.value), caught.value.errno) == (OSError, code)
    assert emulator.statistics().downloads == 1
    await until_clean(tmp_path)
    assert files_in(tmp_path) == []


async def test_a_picture_that_does_not_fit_on_the_disk_is_not_tried_again(emulator, image, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            await image.save(tmp_path / "a.png")
        await until_clean(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert emulator.statistics().downloads == 1
    assert files_in(tmp_path) == []


async def test_an_error_while_the_file_gets_its_name_leaves_nothing(image, tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(IsADirectoryError):
        await image.save(tmp_path / "a.png")
    await until_clean(tmp_path)
    assert files_in(tmp_path) == ["a.png"]


async def test_a_folder_that_is_a_file_is_the_users_error(emulator, image, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises((FileExistsError, NotADirectoryError)):
        await image.save(tmp_path / "file" / "a.png")
    assert emulator.statistics().downloads == 0


async def test_a_picture_is_on_the_disk_before_it_has_its_name(emulator, image, tmp_path, monkeypatch):
    synced = []

    def sync(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_size, (tmp_path / "a.png").exists()))

    monkeypatch.setattr(os, "fsync", sync)
    await image.save(tmp_path / "a.png")
    assert synced == [(len(emulator.engine.picture), False)]


async def test_a_long_name_fits(image, tmp_path):
    path = await image.save(tmp_path / ("x" * 240 + ".png"))
    assert path.exists()


async def test_many_downloads_at_once(session, emulator, tmp_path):
    results = await asyncio.gather(*(session.edit(IMAGE, "snow", n=2) for _ in range(10)))
    await asyncio.gather(*(result.save(tmp_path) for result in results))
    assert len(files_in(tmp_path)) == 20
    assert all(path.read_bytes() == emulator.engine.picture for path in tmp_path.iterdir())


# The end of the session.


@pytest.mark.parametrize("call", ["read", "save", "open"])
async def test_a_picture_of_a_closed_session_says_so(session, image, tmp_path, call):
    await session.aclose()
    with pytest.raises(SessionClosedError, match=rf"session\.attach\('{re.escape(image.task_id)}'\)") as caught:
        await (image.save(tmp_path / "a.png") if call == "save" else getattr(image, call)())
    assert caught.value.task_id == image.task_id


@pytest.mark.parametrize("pause", [0.0, 0.05], ids=["as it begins", "while it waits for more"])
@pytest.mark.parametrize("call", ["read", "save"])
async def test_a_session_that_is_closed_during_a_download_ends_it_clearly(session, serve, tmp_path, call, pause):
    began, end = asyncio.Event(), asyncio.Event()

    async def stall(request):
        response = web.StreamResponse(headers={"Content-Length": "5000"})
        await response.prepare(request)
        await response.write(png(4000)[:2000])
        began.set()
        await end.wait()
        return response

    image = image_at(session, await serve(stall))
    loading = asyncio.create_task(image.save(tmp_path / "a.png") if call == "save" else image.read())
    await began.wait()
    await asyncio.sleep(pause)
    await session.__aexit__(asyncio.CancelledError, None, None)
    async with asyncio.timeout(5):
        await asyncio.wait([loading])
    end.set()
    assert isinstance(loading.exception(), DownloadError | SessionClosedError)
    await until_clean(tmp_path)
    assert files_in(tmp_path) == []


async def test_leaving_the_session_waits_for_a_download_that_somebody_awaits(emulator, tmp_path):
    emulator.inject(Fault.slow(delay=0.2).on("download"))
    async with EditSession(
        emulator.api_key, base_url=emulator.url, polling=FixedInterval(0.01), random=NoJitter()
    ) as session:
        result = await session.edit(IMAGE, "snow")
        loading = asyncio.create_task(result.images[0].save(tmp_path / "a.png"))
        await until(lambda: emulator.statistics().downloads == 1)
        assert not loading.done()
    assert (await loading).exists()


@pytest.mark.parametrize(
    "url", ["http://h:99999/x", "http://h:abc/x", "http://[::1/x", "http://a..b/", "http://\ud800.x/", "http:///x"]
)
async def test_a_url_that_makes_no_sense_is_a_download_error(session, url):
    with pytest.raises(DownloadError):
        await session.pictures("t", [url])[0].read()


async def test_a_file_that_is_no_picture_inside_is_a_download_error(image):
    with pytest.raises(DownloadError, match="is damaged"):
        await image.open()


async def test_a_file_name_as_long_as_the_system_allows_can_be_saved(image, tmp_path):
    path = tmp_path / ("猫" * 83 + ".png")
    assert (await image.save(path)).stat().st_size > 0


async def test_what_a_broken_attempt_left_is_not_in_the_picture(emulator, image, tmp_path):
    whole = await image.read()
    emulator.inject(Fault.truncated_download().times(1))
    assert await image.read() == whole
    emulator.inject(Fault.truncated_download().times(1))
    assert (await image.save(tmp_path / "picture.png")).read_bytes() == whole


async def test_what_a_longer_broken_attempt_left_is_not_behind_the_picture(emulator, image, tmp_path):
    whole = await image.read()
    longer = png(len(whole) + 4_000_000).replace(b"IEND", b"IDAT")
    emulator.inject(Fault.wrong_download(longer, "image/png").times(1))
    assert (await image.save(tmp_path / "picture.png")).read_bytes() == whole
