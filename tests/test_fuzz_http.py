"""Any bytes from a server give replies and pictures, or the documented errors."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
from connection_ends import ending
from hypothesis import example, given
from hypothesis import strategies as st
from memory_transport import KEY

from qwen_edit_async import (
    APIConnectionError,
    APIResponseError,
    APIStatusError,
    DownloadError,
    EditSession,
    Timeouts,
)

pytestmark = [pytest.mark.anyio, pytest.mark.fuzz]

DOCUMENTED = (APIConnectionError, APIResponseError, APIStatusError)

header_texts = st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=30)
headers = st.fixed_dictionaries(
    {},
    optional={
        "Content-Length": st.integers(-2, 200).map(str)
        | st.sampled_from(["10000000000", "1e3", " 5", "5, 5", "\u00b2"]),
        "Content-Type": st.sampled_from(["application/json", "image/png", "text/html; charset=no-such"]) | header_texts,
        "Content-Encoding": st.sampled_from(["gzip", "deflate", "br", "identity", "x"]),
        "Transfer-Encoding": st.sampled_from(["chunked", "gzip", "chunked, chunked"]),
        "Retry-After": st.sampled_from(["0", "-1", "1e999", "nan", "soon", "0.001"]),
        "Date": header_texts,
        "Location": st.sampled_from(["/", "//", "http://[", "file:///etc/passwd", "\u00ff"]) | header_texts,
        "X-Request-Id": header_texts,
        "Set-Cookie": header_texts,
    },
)
statuses = st.sampled_from([200, 201, 204, 302, 307, 400, 401, 404, 429, 500]) | st.integers(0, 1000)
bodies = st.binary(max_size=100) | st.sampled_from(
    [
        json.dumps({"id": "a", "status": "completed", "output": [{"content": [{"type": "image", "url": "x"}]}]}),
        json.dumps({"id": "a", "status": "queued"}),
        json.dumps({"error": {"code": 1002, "message": "slow down"}}),
        "<html>proxy</html>",
        "5\r\nhello\r\n0\r\n\r\n",
        "\x89PNG\r\n\x1a\n",
    ]
).map(lambda text: text.encode("latin-1"))


@st.composite
def spoken(draw) -> bytes:
    """Return the bytes of a reply."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in draw(headers).items())
    return f"HTTP/1.1 {draw(statuses)} Words\r\n{lines}\r\n".encode("latin-1") + draw(bodies)


said = spoken() | st.binary(max_size=200)


@contextlib.asynccontextmanager
async def speaking(text: bytes) -> AsyncIterator[str]:
    """Start a server that sends these bytes to each connection and closes it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with ending(writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(text)
            await writer.drain()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@contextlib.asynccontextmanager
async def session_at(url: str) -> AsyncIterator[EditSession]:
    options = {"envelope": "flat", "timeout": Timeouts(reply=2.0), "max_retries": 0}
    async with EditSession(KEY, base_url=url, **options) as session:
        yield session


@given(said)
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n{}")
@example(b'HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{"status": "x"}\n')
async def test_any_answer_to_a_check_is_a_snapshot_or_a_documented_error(text):
    async with speaking(text) as url, session_at(url) as session:
        try:
            snapshot = await session.status("task-1")
        except DOCUMENTED as error:
            assert error.task_id in {"task-1", None}  # noqa: PT017  # either way is right
        else:
            assert snapshot.task_id == "task-1"


@given(said)
async def test_any_answer_to_a_download_is_a_picture_or_a_documented_error(text):
    async with speaking(text) as url, session_at(url) as session:
        (image,) = session.pictures("task-1", [f"{url}/a.png"])
        with pytest.raises(DownloadError) as caught:
            await image.read()
    assert caught.value.task_id == "task-1"
