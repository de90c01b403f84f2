"""TLS settings and proxies: what they accept, and whole edits over TLS and through a proxy, all on loopback."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import ssl
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from bulk_runs import PHOTO
from connection_ends import ending
from memory_transport import KEY
from yarl import URL

from qwen_edit_async import APIConnectionError, ConfigurationError, DownloadError, EditSession, FixedInterval
from qwen_edit_async.emulator import EditEmulator, FixedEngine
from qwen_edit_async.http.network import Network, resolve_proxy, resolve_ssl

PASSWORD = "hush-hush"
CREDENTIALS = f"me:{PASSWORD}"


async def copy(reader, writer):
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof() if writer.can_write_eof() else writer.close()


async def join(reader, writer, port):
    """Copy bytes between a connection and a port, in both directions, until both ends are closed."""
    far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
    async with ending(far_writer):
        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))


class Door:
    """A server that passes connections on: as the TLS end of a port, or as a proxy.

    Attributes:
        asked: The first lines of the requests to the proxy.
        allowed: The ``Proxy-Authorization`` that the proxy asks for.
    """

    def __init__(self, port=None, context=None, allowed=None):
        self._port, self._context, self.allowed = port, context, allowed
        self.asked: list[str] = []
        self._handlers: set[asyncio.Task[None]] = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    async def _serve(self, reader, writer):
        self._handlers.add(asyncio.current_task())
        async with ending(writer):
            if self._port is not None:
                await join(reader, writer, self._port)
            else:
                await self._tunnel(reader, writer)

    async def _tunnel(self, reader, writer):
        line, *headers = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        self.asked.append(line)
        if self.allowed is not None and f"Proxy-Authorization: {self.allowed}" not in headers:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await join(reader, writer, urlsplit(f"//{line.split()[1]}").port)


@pytest.fixture
async def secure(certificate):
    """Run the emulator behind TLS, with its results on another TLS port."""
    async with (
        EditEmulator(api_key=KEY, duration=0.0, engine=FixedEngine()) as emulator,
        Door(urlsplit(emulator.url).port, certificate) as api,
        Door(urlsplit(emulator.results_url).port, certificate) as results,
    ):
        emulator._runtime.service.results_url = f"https://127.0.0.1:{results.port}"
        yield f"https://127.0.0.1:{api.port}"


def session_of(url, **options):
    return EditSession(KEY, base_url=url, polling=FixedInterval(0.02), max_retries=0, **options)


# A certificate authority of one's own.


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [str, Path, lambda path: ssl.create_default_context(cafile=path)])
async def test_calls_and_downloads_trust_the_given_authority(kind, secure, ca_file):
    async with session_of(secure, ssl=kind(ca_file)) as session:
        result = await session.edit(PHOTO, "make it snow")
        assert (await result.images[0].read()).startswith(b"\x89PNG")


@pytest.mark.anyio
async def test_without_it_the_certificate_is_refused(secure):
    async with session_of(secure) as session:
        with pytest.raises(APIConnectionError, match="its certificate is not valid"):
            await session.edit(PHOTO, "make it snow")
        with pytest.raises(DownloadError, match="certificate is not valid"):
            await session.pictures("t", [secure + "/a.png"])[0].read()


@pytest.mark.anyio
async def test_an_unverified_connection_is_possible_but_said_each_time(secure, caplog):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with session_of(secure, ssl=context) as session:
        assert (await session.edit(PHOTO, "make it snow")).task_id
    session_of(secure, ssl=context)
    assert [record.levelname for record in caplog.records if "does not check certificates" in record.message] == [
        "WARNING",
        "WARNING",
    ]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (False, "ssl is False, which would turn off certificate checks: give an ssl.SSLContext, or the path"),
        (True, "ssl is True: give an ssl.SSLContext, or the path"),
        ("", "ssl is '': give"),
        ("no-such.pem", r"ssl is 'no-such.pem' \(No such file or directory\): give"),
        (__file__, r"ssl is .*test_network.py' \(.*\): give"),
        ("a\0b", "ssl is .*: give"),
        (7, "ssl is 7: give"),
    ],
)
def test_other_values_of_ssl_are_refused(value, found):
    with pytest.raises(ConfigurationError, match=found):
        EditSession(KEY, ssl=value)


def test_the_system_decides_by_default(monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    assert resolve_ssl(None) is None


@pytest.mark.anyio
async def test_the_environments_authority_may_be_named_after_the_import(secure, ca_file, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    async with session_of(secure) as session:
        result = await session.edit(PHOTO, "make it snow")
        assert (await result.images[0].read()).startswith(b"\x89PNG")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("name", "reason"), [("no-such.pem", "No such file"), ("junk.pem", "no certificate"), (".", ".*")]
)
async def test_a_file_of_the_environment_without_certificates_is_named(name, reason, secure, tmp_path, monkeypatch):
    (tmp_path / "junk.pem").write_text("junk")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", name)
    session = session_of(secure)
    with pytest.raises(ConfigurationError, match=rf"SSL_CERT_FILE is '{name}' \(.*{reason}.*\): name a file"):
        await session.open()
    async with session_of(secure, ssl=ssl.create_default_context()):  # does not need the environment's file
        pass


_OF_THE_ENVIRONMENT = """
import asyncio, sys
from qwen_edit_async import EditSession, FixedInterval
async def main(url, key):
    async with EditSession(key, base_url=url, trust_env=True, polling=FixedInterval(0.02), max_retries=0) as session:
        result = await session.edit("https://pictures.example/cat.png", "make it snow")
        print(len(await result.images[0].read()) > 0)
asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.anyio
async def test_the_environments_authority_and_proxy_are_used(secure, ca_file):
    async with Door(allowed=basic()) as proxy:
        proxies = {"https_proxy": f"http://{CREDENTIALS}@127.0.0.1:{proxy.port}", "no_proxy": ""}
        names = {"https_proxy", "http_proxy", "all_proxy", "no_proxy"}
        environment = {name: value for name, value in os.environ.items() if name.lower() not in names}
        environment |= {"SSL_CERT_FILE": str(ca_file)} | {name.upper(): value for name, value in proxies.items()}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _OF_THE_ENVIRONMENT, secure, KEY),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await process.communicate()
    assert (out, err) == (b"True\n", b"")
    assert len(proxy.asked) == 3


# A proxy.


def basic():
    return "Basic " + base64.b64encode(CREDENTIALS.encode()).decode()


@pytest.mark.anyio
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_calls_and_downloads_go_through_the_given_proxy(scheme, secure, ca_file, certificate):
    async with Door(context=certificate if scheme == "https" else None, allowed=basic()) as proxy:
        address = f"{scheme}://{CREDENTIALS}@127.0.0.1:{proxy.port}"
        async with session_of(secure, ssl=ca_file, proxy=address) as session:
            result = await session.edit(PHOTO, "make it snow")
            assert await result.images[0].read()
    assert [line.split()[0] for line in proxy.asked] == ["CONNECT"] * 3
    assert f"CONNECT {secure.removeprefix('https://')} HTTP/1.1" in proxy.asked


@pytest.mark.anyio
@pytest.mark.parametrize("reachable", [True, False])
async def test_no_error_shows_the_proxys_password(reachable, secure, ca_file, caplog):
    caplog.set_level("DEBUG")
    async with Door(allowed="Basic other") as proxy:
        pass
    async with Door(allowed="Basic other") as refusing:
        port = refusing.port if reachable else proxy.port
        async with session_of(secure, ssl=ca_file, proxy=f"http://{CREDENTIALS}@127.0.0.1:{port}") as session:
            with pytest.raises(APIConnectionError) as call:
                await session.edit(PHOTO, "make it snow")
            with pytest.raises(DownloadError) as download:
                await session.pictures("t", [secure + "/a.png"])[0].read()
            texts = [repr(session), repr(vars(session)), caplog.text, *map(told, (call.value, download.value))]
    assert ("the proxy answered 407" in str(call.value)) is reachable
    assert [text for text in texts if PASSWORD in text or basic() in text] == []


@pytest.mark.anyio
@pytest.mark.parametrize("problem", ["dead", "no TLS"])
async def test_an_unreachable_proxy_is_named(problem, secure, ca_file):
    async with Door() as dead:
        pass
    async with Door(dead.port) as hangs_up:
        scheme, port = ("http", dead.port) if problem == "dead" else ("https", hangs_up.port)
        async with session_of(secure, ssl=ca_file, proxy=f"{scheme}://{CREDENTIALS}@127.0.0.1:{port}") as session:
            with pytest.raises(APIConnectionError, match=f"no reply from the proxy 127.0.0.1:{port}: "):
                await session.edit(PHOTO, "make it snow")
            with pytest.raises(DownloadError, match=f"the proxy 127.0.0.1:{port} can't be reached"):
                await session.pictures("t", [secure + "/a.png"])[0].read()


@pytest.mark.anyio
async def test_a_service_that_is_not_reached_through_a_proxy_is_named_with_the_proxy(secure, ca_file):
    async with Door(allowed="Basic other") as proxy:
        way = f"no reply from {secure} through the proxy 127.0.0.1:{proxy.port}: "
        async with session_of(secure, ssl=ca_file, proxy=f"http://127.0.0.1:{proxy.port}") as session:
            with pytest.raises(APIConnectionError, match=way + "the proxy answered 407"):
                await session.edit(PHOTO, "make it snow")
        proxy.allowed = None
        async with session_of(secure, proxy=f"http://127.0.0.1:{proxy.port}") as session:
            with pytest.raises(APIConnectionError, match=way + "its certificate is not valid"):
                await session.edit(PHOTO, "make it snow")


def told(error):
    """Return an error's text, and the local variables of all frames that it and its causes refer to."""
    texts, pending, seen = [], [error], set()
    while pending:
        each = pending.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        texts.append(repr(each))
        pending += [each.__cause__, each.__context__]
        trace = each.__traceback__
        while trace is not None:
            if trace.tb_frame.f_globals["__name__"].startswith("qwen_edit_async"):
                texts.append(repr(trace.tb_frame.f_locals))
            trace = trace.tb_next
    return "\n".join(texts)


@pytest.mark.parametrize(
    "proxy",
    [
        f"{CREDENTIALS}@host:3128",
        f"socks5://{CREDENTIALS}@host:1080",
        f"http://{CREDENTIALS}@host:3128/path",
        f"http://{CREDENTIALS}@host:port",
        f"http://{CREDENTIALS}@",
        "host:3128",
        "",
        7,
    ],
)
def test_other_values_of_proxy_are_refused_without_being_shown(proxy):
    with pytest.raises(ConfigurationError, match="proxy can't be used: give text such as http://HOST:PORT") as caught:
        EditSession(KEY, proxy=proxy)
    assert PASSWORD not in told(caught.value)


def test_the_settings_do_not_show_the_password():
    network = Network(proxy=resolve_proxy(f"http://{CREDENTIALS}@127.0.0.1:3128"))
    assert PASSWORD not in repr(network)
    assert network.for_calls_to("http://127.0.0.1:1").proxy is None
    assert network.proxy_of(URL("http://localhost:1/a.png")) is None
    assert network.proxy_of(URL("http://example.com/a.png")) is network.proxy
    assert network.for_calls_to("https://127.0.0.1:1") is network
