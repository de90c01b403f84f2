"""The key is never shown, aiohttp's exceptions are never kept, and unused objects do not stay alive."""

from __future__ import annotations

import asyncio
import gc
import io
import logging
import socket
import traceback
import weakref

import aiohttp
import anyio
import pytest
from connection_ends import ending
from jitter import NoJitter
from leftovers import open_files
from memory_transport import HANGS, IMAGE, KEY, NORMAL, MemoryService, MemorySession, in_order, status, until
from PIL import Image

from qwen_edit_async import BadRequestError, ConfigurationError, EditSession, FixedInterval, QwenEditError, Timeouts
from qwen_edit_async.emulator import EditEmulator, Fault, FaultPlan, FixedEngine
from qwen_edit_async.http.api import AiohttpTransport
from qwen_edit_async.http.network import Network
from qwen_edit_async.http.secret import Secret
from qwen_edit_async.session.runtime import Runtime

pytestmark = pytest.mark.anyio


def exceptions_in(error: BaseException) -> set[BaseException]:
    """Yield an exception and everything it refers to: causes, contexts, group members, frames' variables."""
    found: set[BaseException] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop()
        if current is None or current in found:
            continue
        found.add(current)
        waiting += [current.__cause__, current.__context__, *getattr(current, "exceptions", ())]
        frames = [frame for frame, _ in traceback.walk_tb(current.__traceback__)]
        for frame in frames:
            waiting += [value for value in frame.f_locals.values() if isinstance(value, BaseException)]
    return found


def transport_to(url: str, timeouts: Timeouts) -> AiohttpTransport:
    return AiohttpTransport(url, Secret(KEY), timeouts, default_headers={}, network=Network())


def shown(error: BaseException) -> str:
    """Return the text of a traceback with local variables, as some tools print it."""
    report = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join(report.format()) + repr(error) + repr(vars(error)) + repr(error.__reduce__())


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


async def make_edit(session):
    await session.edit(IMAGE, "snow")


async def make_status(session):
    await session.status("nobody")


async def make_download(session):
    await (await session.edit(IMAGE, "snow")).images[0].read()


FAILURES = {
    "refused": (make_edit, Fault.status(400)),
    "key refused": (make_edit, Fault.status(401)),
    "reply lost": (make_edit, Fault.drop_reply().on("submit")),
    "request lost": (make_edit, Fault.drop_request(read_body=False).on("submit")),
    "no reply": (make_edit, Fault.hang().on("submit")),
    "HTML page": (make_edit, Fault.html_page().on("submit")),
    "redirect": (make_edit, Fault.redirect().on("submit")),
    "no JSON": (make_edit, Fault.malformed_json().on("submit")),
    "task failed": (make_edit, Fault.failed_task()),
    "deadline": (make_edit, Fault.drop_reply().on("check").times(2), Fault.stuck_task()),
    "unknown task": (make_status, Fault.status(404)),
    "check lost": (make_status, Fault.drop_reply().on("check")),
    "download broken": (make_download, Fault.truncated_download()),
    "download dropped": (make_download, Fault.drop_reply().on("download")),
    "download hangs": (make_download, Fault.hang().on("download")),
    "no picture": (make_download, Fault.wrong_download()),
    "bad redirect": (make_download, Fault.redirect("ftp://127.0.0.1/x").on("download")),
    "no URL": (make_download, Fault.redirect("http://[broken").on("download")),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
async def test_no_error_shows_the_key_or_holds_an_exception_of_the_http_library(failure, caplog):
    caplog.set_level(logging.DEBUG)
    operation, *faults = failure
    async with EditEmulator(api_key=KEY, engine=FixedEngine(), duration=0.0, faults=FaultPlan(faults)) as emulator:
        transport = transport_to(emulator.url, Timeouts(connect=0.3, reply=0.3))
        options = {"polling": FixedInterval(0.01), "timeout": 0.3, "deadline": 1.0, "max_retries": 1}
        options |= {"transport": transport, "random": NoJitter()}
        async with EditSession(KEY, base_url=emulator.url, envelope="flat", **options) as session:
            with pytest.raises(QwenEditError) as caught:
                await operation(session)
            shown_session = repr(session) + repr(session.statistics()) + repr(vars(session)) + repr(vars(transport))
    error = caught.value
    assert KEY not in shown(error)
    assert [each for each in exceptions_in(error) if isinstance(each, aiohttp.ClientError)] == []
    assert KEY not in caplog.text
    assert KEY not in shown_session


async def test_a_refused_connection_reveals_nothing(caplog):
    caplog.set_level(logging.DEBUG)
    async with EditSession(KEY, base_url=f"http://127.0.0.1:{closed_port()}", random=NoJitter()) as session:
        with pytest.raises(QwenEditError) as caught:
            await session.edit(IMAGE, "snow")
    assert KEY not in shown(caught.value) + caplog.text
    assert {type(each) for each in exceptions_in(caught.value)} == {type(caught.value)}


async def test_a_name_that_does_not_resolve_reveals_nothing(monkeypatch):
    async def fail(*_: object, **__: object) -> list:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", fail)
    async with EditSession(KEY, base_url="https://service.invalid", random=NoJitter()) as session:
        with pytest.raises(QwenEditError) as caught:
            await session.edit(IMAGE, "snow")
    assert KEY not in shown(caught.value)
    assert not [each for each in exceptions_in(caught.value) if isinstance(each, aiohttp.ClientError)]


async def time_out(call, _):
    async with asyncio.timeout(0.3):
        await call


async def time_out_in_a_scope(call, _):
    with anyio.fail_after(0.3):
        await call


async def cancel(call, emulator):
    task = asyncio.ensure_future(call)
    await until(lambda: emulator.statistics().checks)
    task.cancel()
    await task


@pytest.mark.parametrize("end", [time_out, time_out_in_a_scope, cancel])
@pytest.mark.parametrize("call", ["status", "renewal"])
async def test_an_interrupted_call_reveals_nothing(call, end):
    faults = FaultPlan([Fault.expired_url(), Fault.hang().on("check")])
    async with (
        EditEmulator(api_key=KEY, engine=FixedEngine(), faults=faults) as emulator,
        EditSession(KEY, base_url=emulator.url) as session,
    ):
        [picture] = session.pictures("task-1", [f"{emulator.url}/results/1.png"])
        with pytest.raises((TimeoutError, asyncio.CancelledError)) as caught:
            await end(session.status("task-1") if call == "status" else picture.read(), emulator)
        assert emulator.statistics().checks == 1
    assert KEY not in shown(caught.value)
    files = {frame.f_code.co_filename for each in exceptions_in(caught.value) for frame, _ in frames_of(each)}
    assert not [file for file in files if "aiohttp" in file]


def frames_of(error: BaseException):
    return traceback.walk_tb(error.__traceback__)


async def test_headers_that_quote_the_key_are_in_no_frame_of_a_reply_that_never_ends():
    async def quote(reader, writer):
        async with ending(writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nX-Echo: Bearer " + KEY.encode() + b"\r\nContent-Length: 99\r\n\r\n")
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.05)

    async with await asyncio.start_server(quote, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        options = {"timeout": Timeouts(connect=0.1, reply=0.2), "random": NoJitter()}
        async with EditSession(KEY, base_url=url, **options) as session:
            with pytest.raises(QwenEditError) as caught:
                await session.status("task-1")
    assert KEY not in shown(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        *({"base_url": "http://example.com"}, {"max_in_flight": 0}, {"timeout": 0}),
        *({"envelope": "x"}, {"protocol": "x"}, {"model": ""}),
    ],
    ids=str,
)
@pytest.mark.parametrize("source", ["argument", "environment"])
def test_a_refused_option_does_not_show_the_key(options, source, monkeypatch):
    monkeypatch.setenv("QWEN_EDIT_API_KEY", KEY)
    keys = {"argument": {"api_key": KEY}, "environment": {}}[source]
    try:
        EditSession(**keys, **options)
    except ConfigurationError as error:
        caught = error
    frames = caught.__traceback__.tb_next  # without this test's own frame, which has the key
    assert frames is not None
    assert KEY not in shown(caught.with_traceback(frames))


@pytest.mark.parametrize("key", [f"{KEY} junk", f"{KEY}\nx", f"{KEY}\u00e9", f"{KEY}".encode()], ids=ascii)
@pytest.mark.parametrize("source", ["argument", "environment"])
def test_a_refused_key_does_not_show_in_what_its_frames_hold(key, source, monkeypatch):
    monkeypatch.setenv("QWEN_EDIT_API_KEY", key if isinstance(key, str) else " ")
    try:
        EditSession(key if source == "argument" else None)
    except ConfigurationError as error:
        caught = error
    frames = caught.__traceback__.tb_next  # without this test's own frame, which has the key
    assert frames is not None
    assert KEY not in shown(caught.with_traceback(frames))


def test_the_session_and_its_parts_do_not_show_the_key():
    transport = transport_to("http://127.0.0.1:9", Timeouts())
    session = EditSession(KEY, base_url="http://127.0.0.1:9", transport=transport)
    assert KEY not in repr(session) + repr(vars(session)) + repr(vars(transport))


@pytest.mark.virtual_clock
@pytest.mark.parametrize("end", ["accepted", "refused", "cancelled"])
async def test_the_temporary_file_of_an_image_is_closed_once_it_was_submitted(end):
    def is_open() -> bool:
        return bool(open_files() - before)

    answers = {"accepted": NORMAL, "refused": status(400), "cancelled": HANGS}
    stream = io.BytesIO()  # over 1 MiB, so that its content is spooled to a file
    Image.new("RGB", (800, 600)).save(stream, "BMP")
    stream.seek(0)
    async with MemorySession(MemoryService(on_submission=in_order(answers[end]))) as session:
        before = open_files()
        edit = asyncio.create_task(session.submit(stream, "snow"))
        await asyncio.sleep(1)
        assert is_open() == (end == "cancelled")
        edit.cancel()
        await asyncio.wait([edit])
        assert not is_open()
    outcome = "cancelled" if edit.cancelled() else "refused" if isinstance(edit.exception(), BadRequestError) else None
    assert (outcome or "accepted") == end


@pytest.mark.virtual_clock
async def test_a_closed_session_and_its_tasks_are_garbage():
    service = MemoryService()
    session = await MemorySession(service).open()
    task = await session.submit(IMAGE, "snow")
    await task
    given_up = await session.submit(IMAGE, "snow")
    given_up.cancel()
    await session.aclose()
    loop = asyncio.get_running_loop()
    (runtime,) = [each for each in gc.get_objects() if isinstance(each, Runtime) and each.loop is loop]
    gone = [weakref.ref(each) for each in (session, runtime, task, given_up)]
    del session, runtime, task, given_up
    gc.collect()
    assert [each() for each in gone] == [None] * 4


@pytest.mark.virtual_clock
async def test_a_finished_task_is_not_kept_by_the_session():
    async with MemorySession(MemoryService()) as session:
        gone = []
        for _ in range(3):
            task = await session.submit(IMAGE, "snow")
            await task
            gone.append(weakref.ref(task))
            del task
        await asyncio.sleep(1)
        gc.collect()
        assert [each() for each in gone] == [None] * 3


def futures() -> int:
    """Return the number of futures that exist."""
    gc.collect()
    return sum(type(each) is asyncio.Future for each in gc.get_objects())


@pytest.mark.virtual_clock
async def test_a_waiter_that_gave_up_leaves_no_trace_in_the_handle():
    async with MemorySession(MemoryService(duration=50.0)) as session:
        task = await session.submit(IMAGE, "snow")
        before = futures()
        for _ in range(100):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await task
        assert futures() < before + 10
        task.cancel()
