"""The results server: renders pictures, and serves them under signed URLs that expire.

Pictures that are made from the input images are kept on disk. Other pictures are rendered anew for each download.
Requests for results need no key.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import math
import secrets
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

from qwen_edit_async.contract import MAX_IMAGE_BYTES
from qwen_edit_async.emulator.delivery import deliver, ignore_disconnects
from qwen_edit_async.emulator.engine import EditJob, read_size
from qwen_edit_async.emulator.replies import Reply, error_reply
from qwen_edit_async.emulator.tasks import Failure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qwen_edit_async.emulator.service import Service
    from qwen_edit_async.emulator.sizes import Size
    from qwen_edit_async.emulator.tasks import TaskRecord

_DOWNLOAD_FAILED_CODE = 190000
_RENDER_FAILED_CODE = 110001
_FETCH_SECONDS = 30.0
_OK = 200
_PATH = "/results/{task_id}/{index}.png"


class _InputError(Exception):
    """An input image can't be fetched or decoded."""


class Results:
    """Renders and serves the pictures of one emulator."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._secret = secrets.token_bytes(16)
        self._spool = Path()
        self._client: aiohttp.ClientSession | None = None

    def open(self, spool: Path) -> None:
        """Set the directory in which to keep pictures."""
        self._spool = spool

    async def aclose(self) -> None:
        """Stop rendering and fetching."""
        jobs = list(self._jobs.values())
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    def application(self) -> web.Application:
        """Return the web application that serves the pictures."""
        application = web.Application(middlewares=[ignore_disconnects])
        application.router.add_get(_PATH, self._download)
        application.router.add_route("*", "/{path:.*}", self._unknown)
        return application

    def begin(self, record: TaskRecord, payloads: Sequence[bytes | None]) -> None:
        """Start to make a task's pictures. `payloads` holds the input images; None stands for an image to fetch."""
        task = self._service.loop.create_task(self._make(record, payloads))
        self._jobs[record.id] = task
        task.add_done_callback(lambda _: self._jobs.pop(record.id, None))

    async def finish(self, record: TaskRecord) -> None:
        """Wait until the engine has finished the pictures of a task."""
        job = self._jobs.get(record.id)
        if job is not None:
            await asyncio.wait([job])

    def urls(self, record: TaskRecord, now: float) -> list[str]:
        """Return new signed URLs of a completed task's pictures."""
        expires = self._service.since_1970(now + self._service.settings.result_lifetime)
        milliseconds = int(expires * 1000)
        return [
            f"{self._service.results_url}{_PATH.format(task_id=record.id, index=index)}"
            f"?Expires={math.ceil(expires)}&Signature={milliseconds:x}-{self._sign(record.id, index, milliseconds)}"
            for index in range(record.submission.n)
        ]

    async def picture_size(self, record: TaskRecord) -> Size:
        """Return the width and height of a completed task's pictures, in pixels."""
        return read_size(await self._service.loop.run_in_executor(self._service.executor, self._read, record, 0))

    async def _make(self, record: TaskRecord, payloads: Sequence[bytes | None]) -> None:
        failure: Failure | None = None
        try:
            images = [
                await self._fetch(image.url) if payload is None else payload
                for image, payload in zip(record.submission.images, payloads, strict=True)
            ]
            record.image_sizes = await self._service.loop.run_in_executor(
                self._service.executor, self._render_to_disk, record, tuple(images)
            )
        except _InputError as error:
            failure = Failure(_DOWNLOAD_FAILED_CODE, str(error))
        except Exception as error:  # noqa: BLE001 - whatever an engine raises, only this task fails
            failure = Failure(_RENDER_FAILED_CODE, f"the engine failed: {error!r}")
        self._service.table.picture_done(record, self._service.now(), failure)

    def _render_to_disk(self, record: TaskRecord, images: tuple[bytes, ...]) -> tuple[tuple[int, int], ...]:
        try:
            sizes = tuple(read_size(image) for image in images)
            pictures = self._service.settings.engine.render(_job(record, images))
        except OSError as error:
            raise _InputError(f"an input image can't be decoded: {error}") from error
        for index, picture in enumerate(pictures):
            self._file(record.id, index).write_bytes(picture)
        return sizes

    async def _fetch(self, url: str | None) -> bytes:
        """Fetch an input image. Refuse a URL whose host is not on loopback."""
        if url is None or not _is_loopback(url):
            raise _InputError("input download failed: the emulator fetches from loopback only")
        if self._client is None:
            self._client = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_FETCH_SECONDS))
        try:
            async with self._client.get(url, allow_redirects=False) as response:
                if response.status != _OK:
                    raise _InputError(f"input download failed: HTTP {response.status}")
                data = bytearray()
                async for chunk in response.content.iter_any():
                    data += chunk
                    if len(data) > MAX_IMAGE_BYTES:
                        raise _InputError(f"input download failed: more than {MAX_IMAGE_BYTES} bytes")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _InputError(f"input download failed: {type(error).__name__}") from error
        return bytes(data)

    async def _download(self, request: web.Request) -> web.StreamResponse:
        service = self._service
        service.counts["download"] += 1
        self._watch(request)
        record = service.table.records.get(request.match_info["task_id"])
        action = service.faults.on_request("download", record.number if record else 0, record)
        return await deliver(service, request, action, lambda: self._picture(request, record))

    async def _unknown(self, request: web.Request) -> web.StreamResponse:
        self._watch(request)
        return web.Response(status=404)

    def _watch(self, request: web.Request) -> None:
        self._service.note(request)
        if "Authorization" in request.headers:
            self._service.keys_at_results += 1

    async def _picture(self, request: web.Request, record: TaskRecord | None) -> Reply:
        index = request.match_info["index"]
        if record is None or not index.isdecimal() or int(index) >= record.submission.n:
            return error_reply(404, 404, "no such result")
        stamp, _, signature = request.query.get("Signature", "").partition("-")
        try:
            milliseconds = int(stamp, 16)
        except ValueError:
            milliseconds = 0
        if not hmac.compare_digest(signature.encode(), self._sign(record.id, int(index), milliseconds).encode()):
            return error_reply(403, 403, "the URL's signature is wrong")
        if milliseconds <= self._service.since_1970(self._service.now()) * 1000:
            return error_reply(403, 403, "the URL has expired")
        read = self._service.loop.run_in_executor(self._service.executor, self._read, record, int(index))
        return Reply(_OK, await read, "image/png")

    def _read(self, record: TaskRecord, index: int) -> bytes:
        if self._service.settings.engine.reads_images:
            return self._file(record.id, index).read_bytes()
        return self._service.settings.engine.render(_job(record, ()))[index]

    def _file(self, task_id: str, index: int) -> Path:
        return self._spool / f"{task_id}-{index}.png"

    def _sign(self, task_id: str, index: int, milliseconds: int) -> str:
        text = f"{task_id}/{index}/{milliseconds}"
        return hmac.digest(self._secret, text.encode(), "sha256").hex()[:32]


def _job(record: TaskRecord, images: tuple[bytes, ...]) -> EditJob:
    submission = record.submission
    return EditJob(
        images=images,
        instruction=submission.instruction,
        negative_prompt=submission.negative_prompt,
        n=submission.n,
        size=submission.size,
        prompt_extend=submission.prompt_extend,
        watermark=submission.watermark,
        seed=record.seed,
    )


def _is_loopback(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
