"""Attacks by a service, a result host, a file name or a table. ``test_leaks`` has more about the key."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import gzip
import io
import json
import logging
import os
import pickle
import socket
import struct
import subprocess
import sys
import time
import traceback
import unicodedata
import zlib
from html.entities import html5
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from jitter import NoJitter
from memory_transport import IMAGE, until
from PIL import Image

from qwen_edit_async import (
    DownloadError,
    EditBatch,
    EditRequest,
    EditSession,
    FixedInterval,
    OutputImage,
    QwenEditError,
)
from qwen_edit_async.cli import main
from qwen_edit_async.cli.display import print_output
from qwen_edit_async.cli.output import unbreakable_output
from qwen_edit_async.emulator import EditEmulator, Fault, FaultPlan, FixedEngine
from qwen_edit_async.files import safe_stem
from qwen_edit_async.http.secret import Secret
from qwen_edit_async.log import configure_logging, log
from qwen_edit_async.notebook import show

KEY = "sk-never/shown+5f1c=="
PUBLIC = "93.184.215.14"
"""A public address, to which nothing is sent."""
PASSWORD = "never-shown-7d2e"
ESCAPED = {character: rf"\u{ord(character):04x}" for character in "/+="}
QUOTED = {
    "PHP": KEY.replace("/", r"\/"),
    "Gson": KEY.replace("=", r"\u003d"),
    ".NET": KEY.replace("+", r"\u002B"),
    "every sign": KEY.translate(str.maketrans(ESCAPED)),
    "every character": "".join(rf"\u{ord(character):04X}" for character in KEY),
    "JSON in JSON": KEY.translate(str.maketrans(ESCAPED)).replace("\\", "\\\\"),
    "a URL": KEY.replace("/", "%2F").replace("+", "%2b").replace("=", "%3D"),
    "HTML": KEY.replace("/", "&#x2F;").replace("=", "&#61;"),
    "HTML with names": KEY.replace("/", "&sol;").replace("+", "&plus;").replace("=", "&equals;"),
    "JavaScript": KEY.replace("/", r"\x2f").replace("+", r"\x2B").replace("=", r"\x3d"),
}
"""The key as encoders write it. Parsing JSON turns all but the last four into the key itself."""
SPELLINGS = (KEY, *QUOTED.values(), "\0".join(KEY), r"\x00".join(KEY))


def png(width: int = 1000, height: int = 1000, pixels: bytes = b"\0") -> bytes:
    """Return a PNG file that is complete as far as can be seen without decoding it."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", pixels), (b"IEND", b"")]
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


class Site:
    """An HTTP server on loopback.

    Attributes:
        requests: What was asked for, with its headers.
    """

    def __init__(self, handler) -> None:
        self._handler = handler
        self.requests: list[web.Request] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        return await self._handler(request)


@pytest.fixture
async def serve():
    """Return a function that starts a site: ``url, site = await serve(handler)``."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(handler=None, host: str = "127.0.0.1") -> tuple[str, Site]:
            async def picture(request):
                return web.Response(body=png(), content_type="image/png")

            site = Site(handler or picture)
            application = web.Application(client_max_size=2**24)
            application.router.add_route("*", "/{name:.*}", site.answer)
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            listening = web.TCPSite(runner, host, 0)
            await listening.start()
            return f"http://{host}:{listening.port}", site

        yield start


@pytest.fixture
def names(monkeypatch):
    """Return a mapping of host names to addresses that the running loop resolves."""
    addresses: dict[str, list[str]] = {}

    def answer_for(loop: asyncio.AbstractEventLoop) -> None:
        async def getaddrinfo(host, port, **_):
            if host not in addresses:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return [
                (socket.AF_INET6 if ":" in each else socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port))
                for each in addresses[host]
            ]

        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)

    return addresses, answer_for


@contextlib.asynccontextmanager
async def session_of(base_url: str = "https://service.example", **options):
    """Return a session of a service on the internet that receives no request."""
    defaults = {"max_retries": 0, "envelope": "flat", "polling": FixedInterval(0.01), "random": NoJitter()}
    async with EditSession(KEY, base_url=base_url, **defaults | options) as session:
        yield session


def image_at(session: EditSession, url: str) -> OutputImage:
    return session.pictures("task-1", [url])[0]


def told(error: BaseException) -> str:
    """Return all text of an exception: its message, attributes, notes, causes, contexts and frames' variables."""
    seen: dict[int, BaseException] = {}
    waiting: list[object] = [error]
    text = ""
    while waiting:
        current = waiting.pop()
        if not isinstance(current, BaseException) or id(current) in seen:
            continue
        seen[id(current)] = current
        text += f"{current}{current!r}{current.args!r}{vars(current)!r}{getattr(current, '__notes__', ())!r}"
        text += "".join(traceback.TracebackException.from_exception(current, capture_locals=True).format())
        waiting += [current.__cause__, current.__context__, *getattr(current, "exceptions", ()), *current.args]
        waiting += vars(current).values()
    return text


def shows_key(text: str | bytes) -> bool:
    text = text if isinstance(text, str) else text.decode("latin-1")
    return any(spelling in text for spelling in SPELLINGS)


# The key.


def refusal(quoted: str, task: bool) -> tuple[int, str]:  # noqa: FBT001  # same signature as the lambdas below
    return 400, '{"error": "Incorrect API key provided: ' + quoted + '"}'


QUOTING = {
    "refuses": lambda _: (401, {"error": {"code": 401, "error_message": f"Incorrect API key provided: {KEY}"}}),
    **{f"refuses in {how}": functools.partial(refusal, text) for how, text in QUOTED.items()},
    "refuses in UTF-16": lambda _: (400, json.dumps({"error": f"no access with {KEY}"}).encode("utf-16")),
    "refuses in UTF-32": lambda _: (400, json.dumps({"error": f"no access with {KEY}"}).encode("utf-32-be")),
    "fails the task in Gson": lambda task: (
        (200, '{"id": "task-1", "status": "failed", "error": "no access with ' + QUOTED["Gson"] + '"}')
        if task
        else (200, {"id": "task-1", "status": "queued"})
    ),
    "is a proxy's page": lambda _: (502, f"<html><pre>Authorization: Bearer {KEY}</pre></html>"),
    "answers nonsense": lambda _: (200, f"debug: Bearer {KEY}"),
    "fails the task": lambda task: (
        (200, {"id": "task-1", "status": "failed", "error": {"code": 5, "error_message": f"no access with {KEY}"}})
        if task
        else (200, {"id": "task-1", "status": "queued"})
    ),
    "completes": lambda task: (
        (
            200,
            {
                "id": "task-1",
                "status": "completed",
                "metadata": {"authorization": f"Bearer {KEY}"},
                "usage": {"cost": "0.1", "key": KEY},
                "output": [{"content": [{"type": "image", "url": f"http://127.0.0.1:9/{KEY}.png"}]}],
            },
        )
        if task
        else (200, {"id": "task-1", "status": "queued", "debug": KEY})
    ),
}


@pytest.mark.anyio
@pytest.mark.parametrize("reply", QUOTING.values(), ids=QUOTING)
async def test_a_service_that_quotes_the_key_does_not_reveal_it(reply, serve, tmp_path, caplog, nothing_blocks):
    async def answer(request: web.Request) -> web.Response:
        status, body = reply(request.method == "GET")
        headers = {"X-Request-Id": KEY, "Date": "Mon, 01 Jan 2024 00:00:00 GMT"}
        if isinstance(body, str):
            body = body.encode()
        if isinstance(body, bytes):
            return web.Response(status=status, body=body, headers=headers)
        return web.json_response(body, status=status, headers=headers)

    nothing_blocks.deactivate()  # the test itself reads files
    caplog.set_level(logging.DEBUG)
    url, site = await serve(answer)
    shown = []
    async with session_of(url) as session:
        outcomes = [outcome async for outcome in session.edit_many([EditRequest(IMAGE, "snow", key="cat")])]
        for outcome in outcomes:
            shown += [repr(outcome), outcome._repr_html_(), show(outcomes)._repr_html_()]
            if outcome.error is not None:
                shown.append(told(outcome.error))
            else:
                with pytest.raises(DownloadError) as caught:
                    await outcome.result.save(tmp_path)
                shown += [
                    told(caught.value),
                    repr(outcome.result),
                    repr(outcome.result.raw),
                    outcome.result._repr_html_(),
                ]
    async with session_of(url) as session:
        report = await EditBatch([EditRequest(IMAGE, "snow", key="cat")], tmp_path / "batch").run(session)
        shown += [report.text(), report.to_json(), repr(report)]
        shown += [told(report.error)] if report.error is not None else []
        shown += [path.read_bytes().decode("latin-1") for path in (tmp_path / "batch").rglob("*") if path.is_file()]
    assert all(request.headers["Authorization"] == f"Bearer {KEY}" for request in site.requests)
    assert [text for text in [*shown, caplog.text] if shows_key(text)] == []


@pytest.mark.anyio
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_another_origin_is_not_followed_with_the_key(status, serve):
    other_url, other = await serve()

    async def redirect(request):
        return web.Response(status=status, headers={"Location": f"{other_url}/model/v1/generation"})

    url, site = await serve(redirect)
    async with session_of(url) as session:
        with pytest.raises(QwenEditError):
            await session.edit(IMAGE, "snow")
        with pytest.raises(QwenEditError):
            await session.status("task-1")
    assert len(site.requests) >= 2
    assert other.requests == []


@pytest.mark.parametrize("make_copy", [pickle.dumps, copy.copy, copy.deepcopy])
def test_the_key_is_not_copied_with_what_holds_it(make_copy):
    with pytest.raises(TypeError, match="secret"):
        make_copy(Secret(KEY))


@pytest.mark.parametrize(
    ("sign", "spelled"),
    [
        ("&", "&#38;"),
        ("&", "&#x26;"),
        ("&", "&amp;"),
        ("<", "&lt;"),
        ("%", "%25"),
        ("\\", r"\\"),
        ("\\", r"\u005c"),
        ("\\", r"\x5C"),
    ],
)
def test_no_part_of_a_spelled_character_is_left(sign, spelled):
    assert Secret(f"12345678{sign}").redact(f"12345678{spelled}") == "***"


@pytest.mark.fuzz
@given(
    key=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=60),
    draw=st.randoms(use_true_random=False),
    before=st.text(max_size=9),
    after=st.text(max_size=9),
)
def test_a_key_is_found_in_every_escaping(key, draw, before, after):
    def spelled(character: str) -> str:
        code = ord(character)
        ways = [rf"\u{code:04x}", rf"\\u{code:04X}", f"%{code:02X}", f"%{code:02x}", f"&#{code};", f"&#x{code:x};"]
        ways += [rf"\x{code:02x}", rf"\\x{code:02X}"]
        ways += [f"&{name}" for name, text in html5.items() if text == character and name.endswith(";")]
        if not character.isalnum():
            ways += ["\\" + character, "\\\\\\" + character]
        return draw.choice([character] * len(ways) + ways)

    told = Secret(key).redact(f"{before} {''.join(map(spelled, key))} {after}")
    assert told.removeprefix(Secret(key).redact(before)).removesuffix(Secret(key).redact(after)) == " *** "


@pytest.mark.parametrize("spelled", SPELLINGS[:-1])
def test_a_reply_that_breaks_off_within_the_key_shows_no_more_than_its_first_characters(spelled):
    for length in range(1, len(spelled) + 1):
        told = Secret(KEY).redact_torn(b"no access with " + spelled[:length].encode())
        assert told == b"no access with ***" or length <= len(spelled) * 4 // len(KEY)
    assert Secret(KEY).redact_torn(f"{spelled}, {spelled} and sk-n".encode()) == b"***, *** and ***"
    assert Secret(KEY).redact_torn(f"{spelled[:-1]} and sk-".encode()) == f"{spelled[:-1]} and sk-".encode()


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("end", ["reset", "timeout"])
async def test_no_reply_that_breaks_off_within_the_key_shows_it(method, end, serve):
    ended = asyncio.Event()

    async def answer(request):
        response = web.StreamResponse(status=400, headers={"Content-Length": "500"})
        await response.prepare(request)
        await response.write(b'{"error": "Incorrect API key provided: ' + KEY[:-1].encode())
        if end == "reset":
            request.transport.close()
        else:
            await ended.wait()
        return response

    url, _ = await serve(answer)
    async with session_of(url, timeout=0.3) as session:
        work = session.status("task-1") if method == "GET" else session.edit(IMAGE, "snow")
        with pytest.raises(QwenEditError) as caught:
            await work
    ended.set()
    assert caught.value.body == '{"error": "Incorrect API key provided: ***'
    assert KEY[:-1] not in f"{caught.value!r}{caught.value}"


@given(st.text(max_size=60))
def test_text_without_the_key_does_not_change(text):
    assert Secret(KEY).redact(text) is text


@pytest.mark.parametrize("filling", ["\\", "%", "&#0", "&", "&a", "&a;", "s", KEY[:-1], KEY[:-1] + "\\", "s\0\0\0"])
def test_a_reply_cannot_make_the_search_slow(filling):
    data = (filling * 2**20)[: 2**20].encode()
    secret = Secret(KEY)
    began_at = time.process_time()
    assert secret.redact_bytes(data + b"%") == data + b"%"
    assert secret.redact_torn(data + b" ") == data + b" "
    assert time.process_time() - began_at < 2


def test_a_short_key_is_left_in_replies_because_ids_may_contain_it():
    assert Secret("key").redact("the key of monkey-1") == "the key of monkey-1"
    assert Secret(KEY).redact(f"the {KEY}") == "the ***"


# The hosts of results.


@pytest.mark.anyio
@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:{port}/a.png",
        "http://localhost:{port}/a.png",
        "http://[::ffff:127.0.0.1]:{port}/a.png",
        "http://0.0.0.0:{port}/a.png",
        "http://2130706433:{port}/a.png",
        "http://127.1:{port}/a.png",
        "http://user:pass@127.0.0.1:{port}/a.png",
        "http://rebound.example:{port}/a.png",
        "http://both.example:{port}/a.png",
        "http://\uff11\uff12\uff17.0.0.1:{port}/a.png",
        "file:///etc/passwd",
        "data:image/png;base64,iVBORw0KGgo=",
        "javascript:alert(1)",
    ],
)
@pytest.mark.parametrize("redirected", [False, True], ids=["named by the service", "redirected to"])
async def test_nothing_is_fetched_from_private_addresses(target, redirected, serve, names):
    addresses, hook = names
    hook(asyncio.get_running_loop())
    addresses |= {
        "rebound.example": ["127.0.0.1"],
        "both.example": ["::1", "127.0.0.1"],
        "localhost": ["127.0.0.1"],
        "\uff11\uff12\uff17.0.0.1": ["127.0.0.1"],
        "results.example": ["127.0.0.1"],
    }
    secret_url, secret = await serve()
    target = target.format(port=secret_url.rpartition(":")[2])

    async def redirect(request):
        return web.Response(status=302, headers={"Location": target})

    public_url, _ = await serve(redirect)
    url = f"http://results.example:{public_url.rpartition(':')[2]}/a.png" if redirected else target
    async with session_of(allow_result_hosts=["results.example"]) as session:
        with pytest.raises(DownloadError, match=r"no public address|not http\(s\)|user name|not valid"):
            await image_at(session, url).read()
    assert secret.requests == []


@pytest.mark.anyio
async def test_a_name_that_turns_private_reveals_nothing(serve, names, monkeypatch):
    """DNS rebinding: each connection is checked by its own address."""
    addresses, hook = names
    loop = asyncio.get_running_loop()
    hook(loop)
    connect = loop.sock_connect

    async def connect_outside(connection, address):
        host, *rest = address
        await connect(connection, ("127.0.0.2" if host == PUBLIC else host, *rest))

    monkeypatch.setattr(loop, "sock_connect", connect_outside)
    inside_url, inside = await serve()
    port = inside_url.rpartition(":")[2]

    async def redirect(request):
        addresses["results.example"] = ["127.0.0.1"]
        return web.Response(status=302, headers={"Location": f"http://results.example:{port}/a.png"})

    outside_url, outside = await serve(redirect, "127.0.0.2")
    addresses["results.example"] = [PUBLIC]
    async with session_of() as session:
        with pytest.raises(DownloadError, match="no public address"):
            await image_at(session, f"http://results.example:{outside_url.rpartition(':')[2]}/a.png").read()
    assert (len(outside.requests), inside.requests) == (1, [])


@pytest.mark.anyio
async def test_a_host_allowed_by_name_may_have_any_address(serve, names):
    addresses, hook = names
    hook(asyncio.get_running_loop())
    addresses["minio.corp"] = ["127.0.0.1"]
    url, _ = await serve()
    async with session_of(allow_result_hosts=["minio.corp"]) as session:
        assert await image_at(session, f"http://minio.corp:{url.rpartition(':')[2]}/a.png").read() == png()


@pytest.mark.anyio
async def test_endless_redirects_of_a_result_host_end(serve):
    async def redirect(request):
        return web.Response(status=302, headers={"Location": "/again"})

    url, site = await serve(redirect)
    async with session_of(url) as session:
        with pytest.raises(DownloadError, match="redirects more than 10 times"):
            await image_at(session, f"{url}/a.png").read()
    assert len(site.requests) == 11


@pytest.mark.anyio
async def test_the_environments_proxy_resolves_names(serve, monkeypatch):
    url, proxy = await serve()
    monkeypatch.setenv("HTTP_PROXY", url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with session_of(trust_env=True) as session:
        assert await image_at(session, "http://results.example/a.png").read() == png()
        with pytest.raises(DownloadError, match="no public address"):
            await image_at(session, "http://169.254.169.254/a.png").read()
    assert [str(request.url) for request in proxy.requests] == ["http://results.example/a.png"]


@pytest.fixture
def netrc(tmp_path, monkeypatch):
    """Write a netrc file with a password for every host."""
    path = tmp_path / "netrc"
    path.write_text("default login me password never-sent\n")
    monkeypatch.setenv("NETRC", str(path))


@pytest.mark.anyio
@pytest.mark.parametrize("redirected", [False, True])
async def test_no_password_of_netrc_goes_to_result_hosts(redirected, serve, netrc, monkeypatch):
    monkeypatch.delenv("HTTP_PROXY", raising=False)
    monkeypatch.delenv("http_proxy", raising=False)

    async def answer(request):
        if redirected and request.path == "/a.png":
            return web.Response(status=302, headers={"Location": "/b.png"})
        return web.Response(body=png())

    url, site = await serve(answer)
    async with session_of(url, trust_env=True) as session:
        assert await image_at(session, f"{url}/a.png").read() == png()
    assert len(site.requests) == 1 + redirected
    assert all("Authorization" not in request.headers for request in site.requests)


@pytest.mark.anyio
async def test_a_proxy_gets_its_urls_password_and_none_of_netrc(serve, netrc, monkeypatch):
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    url, proxy = await serve()
    for userinfo in ("", "me:mine@"):
        monkeypatch.setenv("http_proxy", url.replace("//", f"//{userinfo}"))
        async with session_of(trust_env=True) as session:
            assert await image_at(session, "http://results.example/a.png").read() == png()
    assert [request.headers.get("Proxy-Authorization") for request in proxy.requests] == [None, "Basic bWU6bWluZQ=="]
    assert all("Authorization" not in request.headers for request in proxy.requests)


@pytest.mark.anyio
async def test_a_download_that_is_cut_off_does_not_show_the_password_of_a_proxy(serve, monkeypatch):
    end = asyncio.Event()

    async def hang(request):
        await end.wait()
        return web.Response()

    async def read_for_a_while(session):
        async with asyncio.timeout(0.2):
            await image_at(session, "http://results.example/a.png").read()

    url, proxy = await serve(hang)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", url.replace("//", f"//me:{PASSWORD}@"))
    async with session_of(trust_env=True) as session:
        with pytest.raises(TimeoutError) as caught:
            await read_for_a_while(session)
    end.set()
    assert len(proxy.requests) == 1
    assert PASSWORD not in told(caught.value)
    assert asyncio.current_task().cancelling() == 0


@pytest.mark.anyio
@pytest.mark.parametrize(
    "environment",
    [
        {"no_proxy": "localhost"},
        {"https_proxy": "http://127.0.0.1:9"},
        {"http_proxy": "https://127.0.0.1:9"},
        {"http_proxy": "http://127.0.0.1:9", "no_proxy": ".example"},
    ],
    ids=["none", "for https alone", "one that is not supported", "not for this host"],
)
async def test_hosts_without_a_proxy_are_checked_by_address(environment, serve, names, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    addresses, hook = names
    hook(asyncio.get_running_loop())
    addresses["rebound.example"] = ["127.0.0.1"]
    url, inside = await serve()
    async with session_of(trust_env=True) as session:
        with pytest.raises(DownloadError, match="no public address"):
            await image_at(session, f"http://rebound.example:{url.rpartition(':')[2]}/a.png").read()
    assert inside.requests == []


# The content of results.


@pytest.mark.anyio
async def test_a_picture_of_fifty_thousand_pixels_a_side_is_refused(serve, tmp_path):
    async def huge(request):
        return web.Response(body=png(50_000, 50_000))

    url, _ = await serve(huge)
    async with session_of(url) as session:
        with pytest.raises(DownloadError, match="50000×50000"):
            await image_at(session, f"{url}/a.png").save(tmp_path / "a.png")
        await until(lambda: list(tmp_path.iterdir()) == [])


@pytest.mark.anyio
async def test_ten_gigabytes_are_refused_before_they_are_read(serve):
    async def endless(request):
        response = web.StreamResponse(headers={"Content-Length": str(10 * 2**30)})
        await response.prepare(request)
        await response.write(png()[:100])
        return response

    url, _ = await serve(endless)
    async with session_of(url) as session:
        with pytest.raises(DownloadError, match="it has 10737418240 bytes"):
            await image_at(session, f"{url}/a.png").read()


@pytest.mark.anyio
async def test_a_download_that_inflates_is_refused_at_the_cap(serve):
    bomb = gzip.compress(png(pixels=bytes(2**26)), 9)
    assert len(bomb) < 2**17

    async def inflating(request):
        return web.Response(body=bomb, headers={"Content-Encoding": "gzip"})

    url, _ = await serve(inflating)
    async with session_of(url) as session:
        with pytest.raises(DownloadError, match="more than 67108864 bytes"):
            await image_at(session, f"{url}/a.png").read()


@pytest.mark.anyio
@pytest.mark.parametrize("fit", [False, True])
async def test_a_decompression_bomb_costs_no_request(serve, fit):
    url, site = await serve()
    bomb = png(50_000, 50_000, zlib.compress(bytes(10_000)))
    async with session_of(url, fit=fit) as session:
        with pytest.raises(QwenEditError, match="50000×50000"):
            await session.edit(bomb, "snow")
    assert site.requests == []


@pytest.mark.anyio
async def test_a_reply_that_names_thousands_of_pictures_fills_no_folder(serve, tmp_path, caplog, nothing_blocks):
    nothing_blocks.deactivate()  # the test itself lists the folder

    async def answer(request):
        if request.path.endswith(".png"):
            return web.Response(body=png())
        pictures = [{"type": "image", "url": f"{url}/{number}.png"} for number in range(3000)]
        return web.json_response({"id": "task-1", "status": "completed", "output": [{"content": pictures}]})

    url, _ = await serve(answer)
    async with session_of(url) as session:
        result = await session.edit(IMAGE, "snow", n=1)
        assert "task task-1 has 3000 pictures" in caplog.text
        assert len(await result.save(tmp_path / "edit")) == 6
        report = await EditBatch([EditRequest(IMAGE, "snow")], tmp_path / "batch").run(session)
    assert report.saved == 1
    assert len(list((tmp_path / "batch").glob("*.png"))) == 1


# Names of files.

HOSTILE_NAMES = [
    "../../x",
    "..",
    ".",
    "/etc/passwd",
    r"..\..\x",
    r"C:\Windows\x",
    "a\0b",
    "CON",
    "nul",
    "com1",
    "con.x",
    "aux.v2",
    "NUL.tar",
    "com1.1",
    "lpt¹.a",
    "..prn.",
    "x" * 300,
    "猫" * 300,
    "e\u0301te\u0301",
    "\u212b",
    "trailing. ",
    "-rf",
    ".hidden",
    "a\nb",
    "\x1b[31m",
    'a:b|c?d*e<f>g"h',
    "\u202egnp.exe",
    "=1+1",
]
RESERVED = {"con", "prn", "aux", "nul", *(f"{name}{number}" for name in ("com", "lpt") for number in "0123456789¹²³")}


@pytest.mark.anyio
@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=ascii)
async def test_no_name_leaves_the_folder_or_breaks_a_file_system(name, tmp_path, nothing_blocks):
    nothing_blocks.deactivate()  # the test itself lists the folder
    out = tmp_path / "out"
    async with (
        EditEmulator(duration=0.0, engine=FixedEngine()) as emulator,
        EditSession(emulator.api_key, base_url=emulator.url, polling=FixedInterval(0.01)) as session,
    ):
        (path,) = await (await session.edit(IMAGE, "snow", key=name)).save(out)
        report = await EditBatch([EditRequest(IMAGE, "snow", key=name)], out / "batch").run(session)
    assert report.saved == 1
    (journalled,) = (out / "batch").glob("*.png")
    assert [each.name for each in tmp_path.iterdir()] == ["out"]
    assert sorted(each.name for each in out.iterdir()) == sorted(["batch", path.name])
    for file in (path.name, journalled.name):
        assert file.partition(".")[0].lower() not in RESERVED
        assert len(file.encode()) < 255
        assert not set(file) & set('/\\:*?"<>|\0\n\r\x1b\u202e')
        assert not file.startswith(".")
        assert unicodedata.normalize("NFC", file) == file or name == "\u212b"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("first", "second"),
    [("cat", "CAT"), ("été", "ÉTÉ"), ("straße", "STRASSE"), ("\u212b", "\u00c5"), ("ﬁn", "FIN"), ("Фото", "фото")],
)
async def test_two_keys_that_a_disk_could_take_for_one_do_not_share_files(first, second, tmp_path, nothing_blocks):
    nothing_blocks.deactivate()  # the test itself lists the folder
    requests = [EditRequest(IMAGE, "snow", key=key) for key in (first, second)]
    async with (
        EditEmulator(duration=0.0, engine=FixedEngine()) as emulator,
        EditSession(emulator.api_key, base_url=emulator.url, polling=FixedInterval(0.01)) as session,
    ):
        report = await EditBatch(requests, tmp_path).run(session)
        assert emulator.statistics().tasks_created == 2
    assert (report.saved, report.refused) == (2, 0)
    one, other = (unicodedata.normalize("NFKC", each.name.casefold()) for each in tmp_path.glob("*.png"))
    assert one.casefold() != other.casefold()


@pytest.mark.anyio
async def test_a_lone_surrogate_in_a_key_file_name_or_error_ends_no_other_edit(tmp_path, nothing_blocks):
    nothing_blocks.deactivate()  # the test itself lists the folder
    picture = os.fsdecode(bytes(tmp_path) + b"/caf\xe9.png")
    Image.new("RGB", (400, 400)).save(picture)
    requests = [EditRequest(IMAGE, "snow", key="\ud800"), EditRequest(picture, "snow"), EditRequest(IMAGE, "snow")]
    failing = Fault.failed_task(message="half a \ud800").for_task(2)
    async with (
        EditEmulator(duration=0.0, engine=FixedEngine(), faults=FaultPlan([failing])) as emulator,
        EditSession(emulator.api_key, base_url=emulator.url, polling=FixedInterval(0.01)) as session,
    ):
        report = await EditBatch(requests, tmp_path / "out").run(session)
    assert (report.saved, report.failed, report.refused) == (2, 1, 0)
    report.to_json().encode()


def test_names_that_had_to_be_changed_stay_apart():
    names = ["a/b", "a\\b", "a:b", "a_b", "a b", "e\u0301", "\u00e9"]
    assert len({safe_stem(name) for name in names}) == len(names)


# Output to a terminal.


@pytest.mark.parametrize("operation", ["edit", "batch", "status", "edit --json", "status --json"])
def test_the_services_words_cannot_control_a_terminal(operation, service, tmp_path, capsys):
    picture = tmp_path / "cat.png"
    Image.new("RGB", (400, 400)).save(picture)
    attack = "\x1b]0;owned\x07\x1b[2J\x9b31m\x7f\rfine[/]"
    service.inject(Fault.failed_task(message=attack))
    out = ["-o", str(tmp_path / "out"), "--poll-interval", "0.02"]
    command, *options = operation.split()
    if command == "status":
        main(["edit", str(picture), "-i", "snow", *out])
        (task_id,) = service.tasks
        capsys.readouterr()
        main(["status", task_id, *options])
    else:
        main([command, str(picture), "-i", "snow", *out, *options])
    captured = capsys.readouterr()
    said = captured.out + captured.err
    assert "owned" in said
    assert not set(said) & set("\x1b\x07\x9b\x7f\r")
    if options:
        assert r"\u001b[2J\u009b31m\u007f\rfine[/]" in captured.out


def test_a_lone_surrogate_in_a_reply_can_be_printed(service, tmp_path, capsys):
    picture = tmp_path / "cat.png"
    Image.new("RGB", (400, 400)).save(picture)
    service.inject(Fault.failed_task(message="half of \ud800"))
    edit = ["edit", str(picture), "-i", "snow", "-o", str(tmp_path), "--poll-interval", "0.02", "--json"]
    assert main(edit) == 1
    assert json.loads(capsys.readouterr().out)["error"]["message"].endswith("half of \ud800 (code 110001)")
    (task_id,) = service.tasks
    assert main(["status", task_id]) == 1
    assert "half of \ufffd" in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["ascii", "cp437", "cp1251"])
def test_characters_that_an_old_terminal_lacks_are_escaped(encoding, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    monkeypatch.setattr("sys.stdout", stream)
    with unbreakable_output():
        print_output("caf\u00e9 \u00d8 \u732b")
    told = stream.buffer.getvalue().decode(encoding)
    assert told.replace("\\xe9", "\u00e9").replace("\\xd8", "\u00d8") == "caf\u00e9 \u00d8 \\u732b\n"


def test_a_tables_words_cannot_control_a_terminal(tmp_path, capsys):
    table = tmp_path / "edits.jsonl"
    rows = [{"image": "\x1b]0;owned\x07\x9b.png"}, {"image": "cat.png", "size": "half of \ud800"}]
    table.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    main(["batch", str(table), "-i", "snow", "-o", str(tmp_path / "out"), "--dry-run"])
    said = "".join(capsys.readouterr())
    assert "owned" in said
    assert "half of \\ud800" in said
    assert not set(said) & set("\x1b\x07\x9b")


ATTACK = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\n2026-01-01 00:00:00 qwen_edit_async CRITICAL forged"


@pytest.fixture
def _log_as_it_was():
    """Restore the package's logger after the test."""
    handlers, level = list(log.handlers), log.level
    yield
    log.handlers[:] = handlers
    log.setLevel(level)


@pytest.mark.anyio
@pytest.mark.usefixtures("_log_as_it_was")
async def test_the_services_words_in_the_log_are_one_line_without_control_characters(serve, capsys):
    async def answer(request):
        return web.json_response({"error": {"code": 503, "message": ATTACK}}, status=503)

    configure_logging({"QWEN_EDIT_LOG": "info"})
    url, _ = await serve(answer)
    async with session_of(url, max_retries=1) as session:
        with pytest.raises(QwenEditError):
            await session.edit(IMAGE, "snow")
    logged = capsys.readouterr().err
    assert "owned" in logged
    assert not set(logged) & set("\x1b\x07\x9b\r")
    assert [line for line in logged.splitlines() if line.startswith("2026-01-01 00:00:00")] == []


@pytest.mark.anyio
async def test_the_services_words_in_a_report_have_no_control_characters(tmp_path):
    failing = Fault.failed_task(message=ATTACK)
    async with (
        EditEmulator(duration=0.0, engine=FixedEngine(), faults=FaultPlan([failing])) as emulator,
        EditSession(emulator.api_key, base_url=emulator.url, polling=FixedInterval(0.01)) as session,
    ):
        text = (await EditBatch([EditRequest(IMAGE, "snow")], tmp_path).run(session)).text()
    assert "owned" in text
    assert not set(text) & set("\x1b\x07\x9b\r")


def test_a_status_word_is_not_read_as_markup(service, tmp_path):
    picture = tmp_path / "cat.png"
    Image.new("RGB", (400, 400)).save(picture)
    service.inject(Fault.status_word("[/nothing]").on("check").times(2))
    assert main(["edit", str(picture), "-i", "snow", "-o", str(tmp_path / "out"), "--poll-interval", "0.02"]) == 0


# The import.

HEAVY = (
    "PIL",
    "numpy",
    "pandas",
    "polars",
    "pyarrow",
    "rich",
    "cyclopts",
    "jinja2",
    "IPython",
    "matplotlib",
    "fsspec",
    "obstore",
)
OURS_ON_DEMAND = ("qwen_edit_async.emulator", "qwen_edit_async.notebook", "qwen_edit_async.cli")


def test_importing_the_package_loads_nothing_heavy_and_warns_of_nothing():
    check = f"import sys, qwen_edit_async; print([name for name in {HEAVY + OURS_ON_DEMAND} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", check],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
