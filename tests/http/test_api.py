"""HTTP to the API over real sockets: what is sent, and what becomes of everything that can go wrong."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from email.utils import formatdate
from pathlib import Path

import aiohttp
import anyio
import attrs
import pytest
from connection_ends import ending
from memory_transport import KEY, until

from qwen_edit_async import (
    APIConnectionError,
    APITimeoutError,
    ConfigurationError,
    InvalidEditError,
    Timeouts,
    __version__,
)
from qwen_edit_async.http.api import AiohttpTransport
from qwen_edit_async.http.body import JSONBody
from qwen_edit_async.http.network import Network
from qwen_edit_async.http.secret import Secret
from qwen_edit_async.images.upload import RAW_CHUNK, Upload, bytes_upload
from qwen_edit_async.protocol.base import Call
from qwen_edit_async.protocol.replies import error_from_reply
from qwen_edit_async.threads import Offloader

pytestmark = pytest.mark.anyio

GET = Call(method="GET", path="/model/v1/generation/task/a%2Fb")
POST = Call(method="POST", path="/model/v1/generation")
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
LARGE = bytes(16 * 1024 * 1024)


@attrs.define
class Request:
    """A request as it came over the socket."""

    line: str
    headers: dict[str, str]
    body: bytes = b""


@attrs.define
class Server:
    """A server that does to each connection what it is told, byte by byte."""

    answer: Callable[[Server, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    port: int = 0
    connections: int = 0
    requests: list[Request] = attrs.field(factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def read(self, reader: asyncio.StreamReader) -> Request:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *lines = head.strip().split("\r\n")
        request = Request(line, {name.lower(): value for name, value in (each.split(": ", 1) for each in lines)})
        self.requests.append(request)
        request.body = await reader.readexactly(int(request.headers.get("content-length", 0)))
        return request

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        async with ending(writer):
            await self.answer(self, reader, writer)


def replies(*texts: bytes) -> Callable[[Server, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def answer(server, reader, writer):
        for text in texts:
            await server.read(reader)
            writer.write(text)
            await writer.drain()

    return answer


async def says_nothing(server, reader, writer):
    await server.read(reader)
    await reader.read()


async def reads_nothing(server, reader, writer):
    await asyncio.sleep(5)


@contextlib.asynccontextmanager
async def serving(answer) -> AsyncIterator[Server]:
    server = Server(answer)
    handlers: set[asyncio.Task[None]] = set()

    async def handle(reader, writer):
        handlers.add(asyncio.current_task())
        await server.serve(reader, writer)

    listening = await asyncio.start_server(handle, "127.0.0.1", 0, limit=2**16)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        for handler in handlers:
            handler.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)


@contextlib.asynccontextmanager
async def transport_to(url: str, **options) -> AsyncIterator[AiohttpTransport]:
    timeouts = Timeouts(**{"connect": 2.0, "send": 2.0, "reply": 2.0} | options.pop("timeouts", {}))
    transport = AiohttpTransport(url, Secret(KEY), timeouts, **{"default_headers": {}, "network": Network()} | options)
    await transport.open()
    try:
        yield transport
    finally:
        await transport.aclose()


@pytest.fixture
async def make_body():
    offloader = Offloader(1)

    def make(data: bytes = b"x" * 100, *, image: Upload | None = None, stall_timeout: float = 2.0) -> JSONBody:
        image = image or attrs.evolve(bytes_upload(data), head=b"data:image/png;base64,")
        return JSONBody([b'{"image": "', b'"}'], [image], offloader, stall_timeout=stall_timeout)

    yield make
    await offloader.aclose()


# What is sent.


async def test_a_call_carries_key_agent_and_path():
    async with serving(replies(OK)) as server, transport_to(server.url + "/v2") as transport:
        await transport.send(GET)
    (request,) = server.requests
    assert request.line == "GET /v2/model/v1/generation/task/a%2Fb HTTP/1.1"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["user-agent"].startswith(f"qwen-edit-async/{__version__} (aiohttp/")
    assert "content-length" not in request.headers


async def test_a_body_is_json_of_known_length(make_body):
    async with serving(replies(OK)) as server, transport_to(server.url) as transport:
        body = make_body(b"abc" * 500_000)
        await transport.send(POST, body)
    (request,) = server.requests
    assert request.headers["content-length"] == str(body.size) == str(len(request.body))
    assert request.headers["content-type"] == "application/json"
    assert "transfer-encoding" not in request.headers
    assert json.loads(request.body)["image"].startswith("data:image/png;base64,YWJjYWJj")


async def test_a_body_can_be_sent_again_from_the_start(make_body):
    async with serving(replies(OK, OK)) as server, transport_to(server.url) as transport:
        body = make_body(b"abc" * 100_000)
        await transport.send(POST, body)
        await transport.send(POST, body)
    assert server.requests[0].body == server.requests[1].body


async def test_default_headers_are_sent_and_may_replace_the_agent():
    headers = {"X-Model": "qwen_image_edit_plus", "User-Agent": "mine/1"}
    async with serving(replies(OK)) as server, transport_to(server.url, default_headers=headers) as transport:
        await transport.send(GET)
    sent = server.requests[0].headers
    assert (sent["x-model"], sent["user-agent"], sent["authorization"]) == (
        "qwen_image_edit_plus",
        "mine/1",
        f"Bearer {KEY}",
    )


@pytest.mark.parametrize("name", ["User-Agent", "user-agent"])
async def test_a_replaced_agent_is_sent_alone(name):
    async def answer(server, reader, writer):
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)

    heads: list[bytes] = []
    async with serving(answer) as server, transport_to(server.url, default_headers={name: "mine/1"}) as transport:
        await transport.send(GET)
    assert [line for line in heads[0].lower().splitlines() if line.startswith(b"user-agent")] == [b"user-agent: mine/1"]


async def test_connections_are_used_again():
    async with serving(replies(OK, OK, OK)) as server, transport_to(server.url) as transport:
        for _ in range(3):
            await transport.send(GET)
    assert server.connections == 1


async def test_a_connection_that_has_idled_is_used_again_by_checks_and_not_by_submissions(make_body, monkeypatch):
    later = 0.0
    monkeypatch.setattr("aiohttp.connector.monotonic", lambda: time.monotonic() + later)
    async with serving(replies(OK, OK, OK)) as server, transport_to(server.url) as transport:
        for _ in range(2):
            await transport.send(POST, make_body())
            await transport.send(GET)
        assert server.connections == 2
        later = 1.6
        await transport.send(GET)
        assert server.connections == 2
        await transport.send(POST, make_body())
        assert server.connections == 3


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_nothing_is_sent_any_more_while_the_transport_closes(make_body, method):
    async with serving(replies(OK)) as server, transport_to(server.url) as transport:
        await transport.send(GET)
        await transport.send(POST, make_body())
        closing = asyncio.create_task(transport.aclose())
        await asyncio.sleep(0)
        with pytest.raises(APIConnectionError, match="not open"):
            await transport.send(GET if method == "GET" else POST, None if method == "GET" else make_body())
        await closing
    assert len(server.requests) == 2


async def test_no_cookie_is_kept():
    text = OK.replace(b"Content-Length", b"Set-Cookie: track=1\r\nContent-Length")
    async with serving(replies(text, OK)) as server, transport_to(f"http://localhost:{server.port}") as transport:
        await transport.send(GET)
        await transport.send(GET)
    assert "cookie" not in server.requests[1].headers


async def test_calls_are_not_limited_by_the_connection_pool():
    arrived, go = asyncio.Semaphore(0), asyncio.Event()

    async def answer(server, reader, writer):
        await server.read(reader)
        arrived.release()
        await go.wait()
        writer.write(OK)

    async with serving(answer) as server, transport_to(server.url) as transport:
        calls = [asyncio.create_task(transport.send(GET)) for _ in range(130)]
        async with asyncio.timeout(10):
            for _ in range(130):
                await arrived.acquire()
        go.set()
        await asyncio.gather(*calls)
    assert server.connections == 130


# Replies.


@pytest.mark.parametrize("status", [200, 202, 400, 401, 429, 500, 503])
async def test_a_reply_is_status_headers_and_body(status):
    text = f"HTTP/1.1 {status} X\r\nRetry-After: 3\r\nX-Request-ID: r1\r\nContent-Length: 4\r\n\r\nbody".encode()
    async with serving(replies(text)) as server, transport_to(server.url) as transport:
        reply = await transport.send(GET)
    assert (reply.status, reply.body, reply.complete) == (status, b"body", True)
    assert (reply.headers["retry-after"], reply.headers["x-request-id"]) == ("3", "r1")


async def test_without_a_date_header_this_machine_s_clock_counts():
    until_then = formatdate(time.time() + 3600, usegmt=True)
    text = f"HTTP/1.1 429 X\r\nRetry-After: {until_then}\r\nContent-Length: 0\r\n\r\n".encode()
    async with serving(replies(text)) as server, transport_to(server.url) as transport:
        error = error_from_reply(await transport.send(GET))
    assert error.retry_after == pytest.approx(3600, abs=60)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(make_body, status):
    text = f"HTTP/1.1 {status} Moved\r\nLocation: http://127.0.0.1:1/elsewhere\r\nContent-Length: 0\r\n\r\n".encode()
    async with serving(replies(text, text)) as server, transport_to(server.url) as transport:
        assert (await transport.send(GET)).status == status
        assert (await transport.send(POST, make_body())).status == status
    assert len(server.requests) == 2


async def test_an_html_page_is_a_reply_like_any_other():
    text = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"
    async with serving(replies(text)) as server, transport_to(server.url) as transport:
        assert (await transport.send(GET)).body == b"<html>"


async def test_a_reply_that_breaks_off_keeps_what_came():
    text = b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"id": "x"'
    async with serving(replies(text)) as server, transport_to(server.url) as transport:
        reply = await transport.send(GET)
    assert (reply.body, reply.complete) == (b'{"id": "x"', False)


async def test_a_reply_whose_rest_never_comes_keeps_what_came():
    async def answer(server, reader, writer):
        await server.read(reader)
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"id": "x"')
        await reader.read()

    async with serving(answer) as server, transport_to(server.url, timeouts={"reply": 0.1}) as transport:
        reply = await transport.send(GET)
    assert (reply.body, reply.complete) == (b'{"id": "x"', False)


async def stalls_within_the_reply(server, reader, writer):
    await server.read(reader)
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"id": "task-1"')
    await reader.read()


async def test_a_reply_to_a_submission_can_be_cut_short(make_body):
    body = make_body()
    async with serving(stalls_within_the_reply) as server, transport_to(server.url) as transport:
        sending = asyncio.create_task(transport.send(POST, body))
        assert not body.cut_reply_short()
        await until(body.cut_reply_short)
        reply = await sending
    assert (reply.body, reply.complete) == (b'{"id": "task-1"', False)


async def test_of_an_endless_reply_one_mebibyte_is_read():
    async def answer(server, reader, writer):
        await server.read(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        while True:
            writer.write(bytes(100_000))
            await writer.drain()

    async with serving(answer) as server, transport_to(server.url) as transport:
        reply = await transport.send(GET)
    assert (len(reply.body), reply.complete) == (1024 * 1024, False)


async def test_a_key_at_the_end_of_what_is_read_is_removed():
    text = b"no access with " + KEY.encode()
    padding = bytes(1024 * 1024 - len(text) + 3)  # the last three characters of the key are not read

    async def answer(server, reader, writer):
        await server.read(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n" + padding + text)
        await reader.read()

    async with serving(answer) as server, transport_to(server.url) as transport:
        reply = await transport.send(GET)
    assert (reply.body, reply.complete) == (padding + b"no access with ***", False)


async def test_an_early_refusal_of_a_large_body_is_read(make_body):
    async def answer(server, reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
        await reader.read(2**20)

    async with serving(answer) as server, transport_to(server.url) as transport:
        outcome = await asyncio.gather(transport.send(POST, make_body(LARGE)), return_exceptions=True)
    # The connection may be gone before the refusal is seen; then it is certain that nothing was accepted.
    assert getattr(outcome[0], "status", 413) == 413
    assert getattr(outcome[0], "request_sent", False) is False


# Failures.


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


async def test_a_refused_connection_is_certain(make_body):
    url = f"http://127.0.0.1:{closed_port()}"
    async with transport_to(url) as transport:
        with pytest.raises(APIConnectionError, match=f"no reply from {url}") as caught:
            await transport.send(POST, make_body())
    assert not isinstance(caught.value, APITimeoutError)
    assert caught.value.request_sent is False


async def test_connecting_that_takes_too_long_is_certain(make_body):
    with socket.socket() as listener:  # its queue is full: the next connection waits for ever
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(8)]
        for filler in fillers:
            filler.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                filler.connect(("127.0.0.1", port))
        async with transport_to(f"http://127.0.0.1:{port}", timeouts={"connect": 0.1}) as transport:
            with pytest.raises(APITimeoutError, match=r"connecting to .* took too long") as caught:
                await transport.send(POST, make_body())
        for filler in fillers:
            filler.close()
    assert caught.value.request_sent is False


async def test_an_upload_that_stalls_is_certain(make_body):
    async with serving(reads_nothing) as server, transport_to(server.url) as transport:
        with pytest.raises(APITimeoutError, match="sending the request stalled") as caught:
            await transport.send(POST, make_body(LARGE, stall_timeout=0.2))
    assert caught.value.request_sent is False


async def test_an_upload_may_last_longer_than_any_timeout_as_long_as_it_moves(make_body):
    async def slow(server, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        left = int(head.split("content-length: ")[1].split("\r\n")[0])
        while left > 0:
            left -= len(await reader.read(2**20))
            await asyncio.sleep(0.005)
        writer.write(OK)

    async with serving(slow) as server, transport_to(server.url, timeouts={"reply": 0.3}) as transport:
        loop = asyncio.get_running_loop()
        start = loop.time()
        reply = await transport.send(POST, make_body(LARGE, stall_timeout=0.3))
        assert loop.time() - start > 0.3
    assert reply.status == 200


async def test_the_time_for_a_reply_begins_when_the_body_has_been_sent_whole(make_body):
    def read(_start: int, size: int) -> bytes:
        time.sleep(0.2)
        return bytes(size)

    slow = Upload(size=4 * RAW_CHUNK, read=read, file=io.BytesIO())
    timeouts = {"connect": 0.2, "reply": 0.2}
    async with serving(replies(OK)) as server, transport_to(server.url, timeouts=timeouts) as transport:
        reply = await transport.send(POST, make_body(image=slow))
    assert reply.status == 200


async def test_no_reply_in_time_is_uncertain(make_body):
    async with serving(says_nothing) as server, transport_to(server.url, timeouts={"reply": 0.1}) as transport:
        with pytest.raises(
            APITimeoutError, match=r"waiting for a reply .* may have received the whole request"
        ) as caught:
            await transport.send(POST, make_body())
    assert caught.value.request_sent is True


async def test_a_reply_that_arrived_while_the_loop_was_blocked_is_read(make_body, monkeypatch):
    loop = asyncio.get_running_loop()
    real_time, real_select = loop.time, loop._selector.select

    def select(timeout):
        if events := real_select(timeout):  # the reply has crossed the connection
            monkeypatch.setattr(loop, "time", lambda: real_time() + 100)  # as after a call that blocked the loop
        return events

    async def answer(server, reader, writer):
        await server.read(reader)
        writer.write(OK)
        monkeypatch.setattr(loop._selector, "select", select)

    async with serving(answer) as server, transport_to(server.url) as transport:
        reply = await transport.send(POST, make_body())
    assert (reply.status, reply.complete) == (200, True)


TRICKLES = {
    "interim replies": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a header": (b"HTTP/1.1 200 OK\r\nX-More: ", b"0"),
    "a body": (b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"id": "task-1"', b" "),
}


def trickles(begin: bytes, again: bytes) -> Callable[[Server, asyncio.StreamReader, asyncio.StreamWriter], object]:
    async def answer(server, reader, writer):
        await server.read(reader)
        writer.write(begin)
        while True:
            writer.write(again)
            await writer.drain()
            await asyncio.sleep(0.02)

    return answer


@pytest.mark.parametrize("trickle", TRICKLES)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_reply_that_trickles_in_is_given_up_and_what_came_of_it_is_kept(make_body, method, trickle):
    timeouts = {"connect": 0.2, "reply": 0.2}
    answer = trickles(*TRICKLES[trickle])
    async with serving(answer) as server, transport_to(server.url, timeouts=timeouts) as transport:
        async with asyncio.timeout(3):
            call = transport.send(GET) if method == "GET" else transport.send(POST, make_body())
            (outcome,) = await asyncio.gather(call, return_exceptions=True)
    if trickle == "a body":
        assert (outcome.body.rstrip(), outcome.complete) == (b'{"id": "task-1"', False)
    else:
        assert isinstance(outcome, APITimeoutError)
        assert outcome.request_sent == (method == "POST")


async def test_a_reply_to_half_a_request_that_trickles_in_is_given_up(make_body):
    async def answer(server, reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 1000\r\n\r\nno")
        while True:
            await writer.drain()
            await asyncio.sleep(0.02)
            writer.write(b" ")

    async with serving(answer) as server, transport_to(server.url, timeouts={"reply": 0.2}) as transport:
        async with asyncio.timeout(5):
            reply = await transport.send(POST, make_body(LARGE, stall_timeout=60.0))
    assert (reply.status, reply.body.rstrip(), reply.complete) == (413, b"no", False)


async def test_no_reply_to_a_call_without_a_body_is_a_timeout():
    async with serving(says_nothing) as server, transport_to(server.url, timeouts={"reply": 0.1}) as transport:
        with pytest.raises(APITimeoutError):
            await transport.send(GET)


async def test_a_connection_that_closes_before_the_body_was_read_is_certain(make_body):
    async def answer(server, reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    async with serving(answer) as server, transport_to(server.url) as transport:
        with pytest.raises(APIConnectionError) as caught:
            await transport.send(POST, make_body(LARGE))
    assert caught.value.request_sent is False


async def test_a_connection_that_closes_instead_of_a_reply_is_uncertain_and_posted_once(make_body):
    async with serving(replies(b"")) as server, transport_to(server.url) as transport:
        with pytest.raises(APIConnectionError, match="the service may have received the whole request") as caught:
            await transport.send(POST, make_body())
    assert caught.value.request_sent is True
    assert server.connections == 1


async def test_a_kept_connection_that_closes_under_a_post_does_not_repeat_it(make_body):
    async with serving(replies(OK, b"")) as server, transport_to(server.url) as transport:
        await transport.send(POST, make_body())
        with pytest.raises(APIConnectionError) as caught:
            await transport.send(POST, make_body())
    assert caught.value.request_sent is True
    assert len(server.requests) == 2


async def test_what_is_no_http_is_a_connection_error():
    async with serving(replies(b"SSH-2.0-OpenSSH\r\n\r\n")) as server, transport_to(server.url) as transport:
        with pytest.raises(APIConnectionError):
            await transport.send(GET)


async def test_an_overlong_header_is_a_connection_error():
    text = b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000 + b"\r\nContent-Length: 0\r\n\r\n"
    async with serving(replies(text)) as server, transport_to(server.url) as transport:
        with pytest.raises(APIConnectionError):
            await transport.send(GET)


async def test_what_the_body_fails_with_is_the_error(make_body):
    def read(_start: int, _size: int) -> bytes:
        raise InvalidEditError("the image was changed")

    image = Upload(size=3, read=read)
    async with serving(replies(OK)) as server, transport_to(server.url) as transport:
        with pytest.raises(InvalidEditError, match="was changed"):
            await transport.send(POST, make_body(image=image))


@pytest.mark.parametrize("trust_env", [False, True])
async def test_a_certificate_that_is_not_valid_is_named(trust_env):
    certificate = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.load_cert_chain(Path(__file__).with_name("self_signed.pem"))
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=certificate)
    async with (
        server,
        transport_to(
            f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", network=Network(trust_env=trust_env)
        ) as to,
    ):
        with pytest.raises(APIConnectionError, match=r"its certificate is not valid: self.signed certificate"):
            await to.send(GET)


async def test_a_netrc_entry_that_competes_with_the_key_is_named(tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    async with serving(replies(OK)) as server, transport_to(server.url) as transport:
        await transport.send(GET)
    async with transport_to("http://service.invalid", network=Network(trust_env=True)) as transport:
        with pytest.raises(APIConnectionError, match="netrc"):
            await transport.send(GET)


async def test_proxies_of_the_environment_are_used_only_if_trusted(monkeypatch):
    async with serving(replies(OK)) as proxy, serving(replies(OK)) as server:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        async with transport_to(server.url) as transport:
            await transport.send(GET)
        assert (len(proxy.requests), len(server.requests)) == (0, 1)
        async with transport_to("http://service.invalid", network=Network(trust_env=True)) as transport:
            await transport.send(GET)
        assert proxy.requests[0].line.startswith("GET http://service.invalid/")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_no_proxy_is_told_the_key_in_clear_text_that_is_for_this_machine(host, monkeypatch):
    async with serving(replies(OK)) as proxy, serving(replies(OK)) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        async with transport_to(f"http://{host}:{server.port}", network=Network(trust_env=True)) as transport:
            await transport.send(GET)
        assert (len(proxy.requests), len(server.requests)) == (0, 1)


@pytest.fixture
def proxied(monkeypatch):
    """A proxy in the environment."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "proxy:3128")


@pytest.mark.parametrize("bypassed", [False, True])
async def test_a_call_without_reply_names_a_proxy_that_is_not_used(proxied, monkeypatch, bypassed):
    if bypassed:
        monkeypatch.setenv("no_proxy", "service.invalid")
    async with transport_to("http://service.invalid") as transport:
        with pytest.raises(APIConnectionError) as caught:
            await transport.send(GET)
    assert ("http_proxy in the environment is not used: trust_env=True uses it" in str(caught.value)) is not bypassed


async def test_a_proxy_that_can_not_be_used_is_refused_before_anything_is_sent(proxied):
    with pytest.raises(
        ConfigurationError, match="http_proxy in the environment can't be used: write it as http://HOST:PORT"
    ):
        async with transport_to("http://service.invalid", network=Network(trust_env=True)):
            pass


async def test_a_transport_that_is_not_open_sends_nothing():
    transport = AiohttpTransport("http://127.0.0.1:9", Secret(KEY), Timeouts(), default_headers={}, network=Network())
    with pytest.raises(APIConnectionError, match="not open"):
        await transport.send(GET)
    await transport.aclose()


async def test_a_call_under_which_the_transport_is_closed_is_a_connection_error(make_body):
    async with serving(says_nothing) as server, transport_to(server.url) as transport:
        call = asyncio.create_task(transport.send(POST, make_body()))
        await until(lambda: server.requests != [] and server.requests[0].body != b"")
        await transport.aclose()
        await asyncio.wait([call])
    assert isinstance(call.exception(), APIConnectionError)
    assert call.exception().request_sent


async def test_a_reply_under_which_the_transport_is_closed_keeps_what_came(make_body):
    began = asyncio.Event()

    async def answer(server, reader, writer):
        await server.read(reader)
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"id": "x"')
        await writer.drain()
        began.set()
        await reader.read()

    async with serving(answer) as server, transport_to(server.url) as transport:
        call = asyncio.create_task(transport.send(POST, make_body()))
        await began.wait()
        await asyncio.sleep(0.05)  # for the first part of the reply to be read
        await transport.aclose()
        async with asyncio.timeout(5):
            reply = await call
    assert (reply.body, reply.complete) == (b'{"id": "x"', False)


async def test_a_cancelled_call_closes_its_connection(make_body):
    closed = asyncio.Event()

    async def answer(server, reader, writer):
        await server.read(reader)
        await reader.read()
        closed.set()

    async with serving(answer) as server, transport_to(server.url) as transport:
        call = asyncio.create_task(transport.send(POST, make_body()))
        await until(lambda: server.requests != [])
        call.cancel()
        async with asyncio.timeout(5):
            await closed.wait()
    assert call.cancelled()


@contextlib.asynccontextmanager
async def hanging_call(body) -> AsyncIterator[tuple[Callable[[], Awaitable[object]], Callable[[], Awaitable[None]]]]:
    """Yield a call that is never answered, and a function that waits until the server has its request.

    Make the call only once.
    """
    async with serving(says_nothing) as server, transport_to(server.url) as transport:
        yield functools.partial(transport.send, POST, body), functools.partial(until, lambda: server.requests != [])


async def test_a_cancelled_call_says_with_which_words(make_body):
    async with hanging_call(make_body()) as (call, until_sent):
        task = asyncio.create_task(call())
        await until_sent()
        task.cancel("enough")
        with pytest.raises(asyncio.CancelledError, match="enough"):
            await task
    assert task.cancelled()


async def test_timeouts_around_a_call_know_their_own_cancellation(make_body):
    async with hanging_call(make_body()) as (call, _):
        async with asyncio.timeout(10) as outer:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05) as inner:
                    await call()
        assert (inner.expired(), outer.expired(), asyncio.current_task().cancelling()) == (True, False, 0)
        await asyncio.sleep(0)  # no cancellation is left over


async def test_a_timeout_takes_no_cancellation_from_outside_for_its_own(make_body):
    async def within_a_timeout():
        async with asyncio.timeout(10):
            await call()

    async with hanging_call(make_body()) as (call, until_sent):
        task = asyncio.create_task(within_a_timeout())
        await until_sent()
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled()


async def test_scopes_around_a_call_know_their_own_cancellation(make_body):
    async with hanging_call(make_body()) as (call, _):
        with anyio.CancelScope() as outer:
            with anyio.move_on_after(0.05) as inner:
                await call()
            await asyncio.sleep(0)  # no cancellation is left over
        assert (inner.cancelled_caught, outer.cancelled_caught, asyncio.current_task().cancelling()) == (True, False, 0)
        with anyio.move_on_after(0.05) as outer:
            with anyio.CancelScope() as inner:
                await call()
            pytest.fail("the outer scope was cancelled")
        assert (inner.cancelled_caught, outer.cancelled_caught, asyncio.current_task().cancelling()) == (False, True, 0)


@pytest.mark.parametrize("make_group", [asyncio.TaskGroup, anyio.create_task_group])
async def test_a_group_of_tasks_ends_its_calls_and_raises_what_failed_alone(make_body, make_group):
    async def fail():
        await until_sent()
        raise ZeroDivisionError

    async def group_with(call):
        async with make_group() as group:
            start = group.start_soon if hasattr(group, "start_soon") else lambda work: group.create_task(work())
            start(call)
            start(fail)

    async with hanging_call(make_body()) as (call, until_sent):
        with pytest.raises(ExceptionGroup) as caught:
            await group_with(call)
    assert [type(each) for each in caught.value.exceptions] == [ZeroDivisionError]


async def test_the_error_leads_to_no_exception_of_the_http_library(make_body):
    async with serving(replies(b"")) as server, transport_to(server.url) as transport:
        with pytest.raises(APIConnectionError) as caught:
            await transport.send(POST, make_body())
    error = caught.value
    assert (error.__cause__, error.__context__) == (None, None)
    frame = error.__traceback__
    while frame is not None:
        assert not [each for each in frame.tb_frame.f_locals.values() if isinstance(each, aiohttp.ClientError)]
        frame = frame.tb_next
