"""Downloads result pictures without sending the API key.

A download is repeated if it fails or if the picture is damaged. The last attempt is judged leniently; see
:func:`judge`. If a result's URL has expired, a status check gets a new URL.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random
from typing import IO, Any, TypeAlias

import attrs

from qwen_edit_async.errors import DownloadError, EditWarning, QwenEditError
from qwen_edit_async.http.fetcher import Fetcher, FetchError
from qwen_edit_async.images.integrity import Verdict, judge
from qwen_edit_async.images.kinds import MAX_PIXELS
from qwen_edit_async.log import about
from qwen_edit_async.protocol.urls import expiry_of
from qwen_edit_async.scheduling.retry import RetryPolicy
from qwen_edit_async.statistics import SessionStatistics
from qwen_edit_async.storage.part import Part
from qwen_edit_async.storage.paths import FilePath, new_part
from qwen_edit_async.threads import Offloader

Renew: TypeAlias = Callable[[str], Awaitable[tuple[str, ...]]]

_AT_A_TIME = 16

_PIECE_BYTES = 1792 * 1024
"""Bytes to collect before each write. Most results are smaller, so a single call writes and checks them."""

_Check: TypeAlias = Callable[[IO[bytes], int], Verdict]
_Receive: TypeAlias = Callable[[AsyncIterator[bytes], _Check], Awaitable[Verdict]]


@attrs.define(eq=False)
class Downloader:
    """Downloads result pictures for a session, 16 at a time, over connections that never carry the session's key.

    Args:
        fetcher: Requests the pictures. The caller opens and closes it.
        offloader: The threads that write and check pictures.
        random: The source of the jitter between attempts.
        renew: Called with a task's id to get new result URLs; ``None`` if the service can't give them.
        replace: Whether a picture may replace a local file. For a file in a bucket, the path's ``replace`` decides.
    """

    _fetcher: Fetcher
    _offloader: Offloader
    _retry: RetryPolicy
    _counters: SessionStatistics
    _random: Random
    _renew: Renew | None
    _replace: bool = True
    _turns: asyncio.Semaphore = attrs.field(factory=lambda: asyncio.Semaphore(_AT_A_TIME), init=False)

    async def read(self, url: str, task_id: str, index: int) -> bytes:
        """Download a picture and return its bytes.

        Raises:
            DownloadError: No usable picture could be downloaded.
        """
        content = b""

        async def receive(chunks: AsyncIterator[bytes], check: _Check) -> Verdict:
            nonlocal content
            content = b"".join([chunk async for chunk in chunks])
            return await self._offloader.run(check, io.BytesIO(content), len(content))

        _report_flaw(await self._fetch(url, task_id, index, receive), task_id, index)
        return content

    async def save(self, url: str, task_id: str, index: int, path: FilePath) -> tuple[FilePath, str]:
        """Download a picture to ``path``. A missing folder is created. A failed download replaces no file.

        Returns:
            The file's path, and a description of the picture's damage; empty without damage. If ``path`` has another
            format's extension, the picture gets its own format's extension, unless a different file already has the
            new name.

        Raises:
            DownloadError: No usable picture could be downloaded.
            OSError: The picture can't be written, or a different file exists and must not be replaced.
        """
        part = await self._offloader.run(new_part, path, replace=self._replace)
        saved = path

        async def receive(chunks: AsyncIterator[bytes], check: _Check) -> Verdict:
            nonlocal saved
            offset, piece, size = 0, list[bytes](), 0
            async for chunk in chunks:
                if size >= _PIECE_BYTES:
                    offset = await self._offloader.run(part.write, offset, piece)
                    piece, size = [], 0
                piece.append(chunk)
                size += len(chunk)
            verdict, saved = await self._offloader.run(_finish, part, offset, piece, path, check)
            return verdict

        with contextlib.ExitStack() as undo:
            undo.callback(self._offloader.run_soon, part.close)
            verdict = await self._fetch(url, task_id, index, receive)
            undo.pop_all()
        _report_flaw(verdict, task_id, index)
        return saved, verdict.flaw if verdict.damaged else ""

    async def _fetch(self, url: str, task_id: str, index: int, receive: _Receive) -> Verdict:
        """Download a picture, and call ``receive`` with its chunks and a check. Repeat failed attempts."""
        attempt, renew = 0, self._renew
        while True:
            check = functools.partial(judge, lenient=attempt == self._retry.max_retries)
            try:
                async with self._turns, contextlib.aclosing(self._fetcher.chunks(url)) as chunks:
                    verdict = await receive(chunks, check)
                if (refusal := _refusal(verdict)) is not None:
                    raise refusal  # handled like any failed attempt
            except FetchError as error:
                failure = error
            else:
                self._counters.downloads += 1
                return verdict
            if failure.expired and renew is not None:
                url = await self._renewed(renew, url, task_id, index, failure)
                renew = None
                continue
            attempt += 1
            if failure.final or failure.expired or attempt > self._retry.max_retries:
                raise self._error(url, task_id, index, failure)
            about(task_id).info("downloading image %d of task %s again: %s", index, task_id, failure)
            await asyncio.sleep(self._retry.delay(attempt, self._random.random()))

    async def _renewed(self, renew: Renew, url: str, task_id: str, index: int, failure: FetchError) -> str:
        try:
            urls = await renew(task_id)
        except QwenEditError as error:
            raise self._error(url, task_id, index, failure) from error
        if not any(urls[index : index + 1]):
            raise self._error(url, task_id, index, failure)
        self._counters.renewals += 1
        return urls[index]

    def _error(self, url: str, task_id: str, index: int, failure: FetchError) -> DownloadError:
        if self._renew is not None:
            hint = f"session.attach({task_id!r}) gets the result again"
        else:
            until = f" until {expiry:%Y-%m-%d %H:%M} UTC" if (expiry := expiry_of(url)) is not None else ""
            hint = f"the image's URL is valid{until or ' for a limited time'}, and this protocol can't give another"
        return DownloadError(
            f"image {index} of task {task_id} could not be downloaded: {failure}", hint=hint, task_id=task_id, url=url
        )


def _finish(part: Part[Any], offset: int, last: list[bytes], path: FilePath, check: _Check) -> tuple[Verdict, FilePath]:
    """Write the last piece and check the file. Give an acceptable picture its final name."""
    verdict = part.finish(offset, last, check)
    return verdict, path if _refusal(verdict) is not None else part.commit(verdict.rename(path))


def _refusal(verdict: Verdict) -> FetchError | None:
    """Return the reason to refuse a download, or ``None``."""
    width, height = verdict.sides
    if width * height > MAX_PIXELS:
        return FetchError(f"it has {width}×{height} pixels, more than any result of an edit", final=True)
    return FetchError(verdict.problem) if verdict.problem else None


def _report_flaw(verdict: Verdict, task_id: str, index: int) -> None:
    if not verdict.flaw:
        return
    report = f"image {index} of task {task_id} {verdict.flaw}; it is kept as it is"
    about(task_id).warning("%s", report)
    if verdict.damaged:
        with contextlib.suppress(EditWarning):  # a filter that turns warnings into exceptions must not lose the picture
            warnings.warn(EditWarning(report, f"a picture {verdict.flaw}"), stacklevel=2)
