"""Failures before a request is sent, so certainly no task was created."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest
from cells import OPTIONS, PHOTO
from skipping_loop import SkippingLoop

from qwen_edit_async import (
    APIConnectionError,
    DeadlineExceededError,
    DownloadError,
    EditBatch,
    EditRequest,
    EditSession,
)
from qwen_edit_async.emulator import EditEmulator, FixedEngine
from qwen_edit_async.scheduling.schedule import LAST_CHECK_GRACE

pytestmark = [pytest.mark.anyio, pytest.mark.may_block("the loop waits for its threads")]


@pytest.fixture
def anyio_backend() -> object:
    return "asyncio", {"loop_factory": SkippingLoop}


@pytest.fixture
async def emulator():
    async with EditEmulator(engine=FixedEngine(), duration=1.5) as emulator:
        yield emulator


@pytest.fixture(params=["TLS", "name", "refused", "no answer"])
async def unreachable(request, emulator, monkeypatch) -> str:
    """Return an address at which the emulator can't be reached."""
    port = emulator.url.rpartition(":")[2]
    loop = asyncio.get_running_loop()
    match request.param:
        case "TLS":  # the server does not speak TLS
            return f"https://127.0.0.1:{port}"
        case "name":

            async def fail(*_: object, **__: object) -> list:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

            monkeypatch.setattr(loop, "getaddrinfo", fail)
            return "https://service.invalid"
        case "refused":
            with socket.socket() as closed:
                closed.bind(("127.0.0.1", 0))
                return f"http://127.0.0.1:{closed.getsockname()[1]}"
        case _:

            async def hang(*_: object) -> None:
                await asyncio.Event().wait()

            monkeypatch.setattr(loop, "sock_connect", hang)
            return "http://127.0.0.1:9"


def session_at(url: str, emulator: EditEmulator, **options: object) -> EditSession:
    return EditSession(emulator.api_key, base_url=url, **OPTIONS | options)


async def test_an_edit_without_a_connection_creates_no_task(unreachable, emulator):
    async with session_at(unreachable, emulator) as session:
        with pytest.raises(APIConnectionError) as caught:
            await session.edit(PHOTO, "snow")
        assert not caught.value.request_sent
        assert (session.statistics().retries, session.statistics().in_flight) == (2, 0)
    assert not emulator.tasks


async def test_each_of_many_edits_is_an_outcome_without_a_connection(unreachable, emulator):
    async with session_at(unreachable, emulator) as session:
        errors = [outcome.error async for outcome in session.edit_many([EditRequest(PHOTO, "snow")] * 3)]
    assert {isinstance(error, APIConnectionError) for error in errors} == {True}
    assert (len(errors), len(emulator.tasks)) == (3, 0)


async def test_a_batch_without_a_connection_is_done_by_its_next_run(unreachable, emulator, tmp_path, monkeypatch):
    requests = [EditRequest(PHOTO, "snow", key=f"edit{number}") for number in range(3)]
    async with session_at(unreachable, emulator) as session:
        report = await EditBatch(requests, tmp_path / "out").run(session)
    assert (report.failed, report.uncertain) == (3, 0)
    monkeypatch.undo()
    async with session_at(emulator.url, emulator) as session:
        report = await EditBatch(requests, tmp_path / "out").run(session)
    assert (report.saved, len(emulator.tasks)) == (3, 3)


async def test_a_task_is_checked_until_its_deadline_without_a_connection(unreachable, emulator):
    loop = asyncio.get_running_loop()
    async with session_at(unreachable, emulator) as session:
        started_at = loop.time()
        with pytest.raises(DeadlineExceededError, match="the last check failed") as caught:
            await session.attach("d758")
        assert loop.time() - started_at == pytest.approx(OPTIONS["deadline"] + LAST_CHECK_GRACE)
        assert session.unfinished == ("d758",)
    assert isinstance(caught.value.__cause__, APIConnectionError)


async def test_a_download_without_a_connection_names_its_task(unreachable, emulator):
    async with session_at(emulator.url, emulator) as session:
        [picture] = session.pictures("d758", [f"{unreachable}/picture.png"])
        with pytest.raises(DownloadError) as caught:
            await picture.read()
    assert caught.value.task_id == "d758"


async def test_a_refusing_address_does_not_hide_one_that_works(emulator, monkeypatch):
    port = int(emulator.url.rpartition(":")[2])
    addresses = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
    ]
    tried = []

    async def resolve(*_: object, **__: object) -> list:
        return addresses

    async def connect(sock: socket.socket, address: tuple) -> None:
        tried.append(sock.family)
        if sock.family == socket.AF_INET6:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        await original(sock, address)

    loop = asyncio.get_running_loop()
    original = loop.sock_connect
    monkeypatch.setattr(loop, "getaddrinfo", resolve)
    monkeypatch.setattr(loop, "sock_connect", connect)
    async with session_at(f"http://localhost:{port}", emulator) as session:
        await session.edit(PHOTO, "snow")
        assert session.statistics().retries == 0
    assert tried[:2] == [socket.AF_INET6, socket.AF_INET]


@pytest.mark.parametrize(("phase", "pauses"), [("submit", (1.4, 1.6, 0.0)), ("check", (3.0, 4.9, 0.0))])
async def test_an_idle_connection_is_closed_before_common_servers_close_it(emulator, monkeypatch, phase, pauses):
    monkeypatch.setattr("aiohttp.connector.monotonic", asyncio.get_running_loop().time)
    connections = []
    async with session_at(emulator.url, emulator) as session:
        task = await session.submit(PHOTO, "snow")
        task.cancel()
        await asyncio.sleep(5.0)
        loop, connect = asyncio.get_running_loop(), asyncio.get_running_loop().sock_connect

        async def count(*arguments):
            connections.append(arguments)
            return await connect(*arguments)

        monkeypatch.setattr(loop, "sock_connect", count)
        for pause in pauses:
            if phase == "submit":
                (await session.submit(PHOTO, "snow")).cancel()
            else:
                await session.status(task.id)
            await asyncio.sleep(pause)
    assert len(connections) == 2
