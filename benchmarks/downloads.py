"""Downloads of results by the session, and by a bare loop on aiohttp that writes what it reads.

The session checks each picture, syncs the file to the disk, and then renames it. The loop runs a second time with the
same check. The difference between the loop's two runs is the cost of the check.
"""

from __future__ import annotations

import asyncio
import functools
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import IO

import aiohttp
from _clients import IMAGE_URL, INSTRUCTION
from _measure import Cost, fresh_process, interleaved, metered
from _report import Row, parse, report
from _server import serve
from batch import write_pictures

from qwen_edit_async import EditRequest, EditSession
from qwen_edit_async.images.integrity import judge

CPU_TARGET = 1.5
_AT_A_TIME = 16
_MB = 1_000_000

Download = Callable[[EditSession, aiohttp.ClientSession, str, str, Path], Coroutine[None, None, object]]


async def library(session: EditSession, _: aiohttp.ClientSession, task_id: str, url: str, path: Path) -> object:
    """Save a picture."""
    (picture,) = session.pictures(task_id, [url])
    return await picture.save(path)


async def bare(_: EditSession, http: aiohttp.ClientSession, __: str, url: str, path: Path) -> object:
    """Write a picture as it arrives."""
    with path.open("wb") as file:  # as most scripts do
        await _receive(http, url, file)
    return path


async def checked(_: EditSession, http: aiohttp.ClientSession, __: str, url: str, path: Path) -> object:
    """Write a picture as it arrives, and check it on a thread, as the session does."""
    with path.open("w+b") as file:
        await _receive(http, url, file)
        await asyncio.to_thread(judge, file, file.tell())
    return path


async def _receive(http: aiohttp.ClientSession, url: str, file: IO[bytes]) -> None:
    async with http.get(url) as response:
        async for chunk in response.content.iter_any():
            file.write(chunk)


def run(download: Download, url: str, api_key: str, count: int) -> Cost:
    """Download the results of tasks that were made before the measurement."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_run(download, url, api_key, count, Path(folder)))


async def _run(download: Download, url: str, api_key: str, count: int, folder: Path) -> Cost:
    async with EditSession(api_key, base_url=url, max_in_flight=count) as session, aiohttp.ClientSession() as http:
        outcomes = [outcome async for outcome in session.edit_many([EditRequest(IMAGE_URL, INSTRUCTION)] * count)]
        todo = iter([outcome.result.images[0] for outcome in outcomes])

        async def worker() -> None:
            for image in todo:
                await download(session, http, image.task_id, image.url, folder / f"{image.task_id}.png")

        with metered() as cost:
            await asyncio.gather(*(worker() for _ in range(_AT_A_TIME)))
    return cost


def measure(download: Download, picture: Path, count: int) -> Cost:
    """Measure one client with a new emulator."""
    with fresh_process() as process, serve(0.0, picture) as server:
        return process.run(run, download, server.url, server.api_key, count)


def main() -> None:
    """Run the benchmark."""
    quick = {"downloads": 20, "repetitions": 1}
    options = parse(__doc__, quick, downloads=(400, "pictures"), repetitions=(3, "repetitions of each client"))
    with tempfile.TemporaryDirectory() as folder:
        picture, _ = write_pictures(Path(folder), 1)
        size = picture.stat().st_size * options.downloads / _MB
        clients = {"library": library, "bare": bare, "bare with the check": checked}
        costs = interleaved(
            {name: functools.partial(measure, client, picture, options.downloads) for name, client in clients.items()},
            options.repetitions,
        )
    cpu = {name: [1000 * cost.cpu / size for cost in costs[name]] for name in clients}
    check = [both - alone for both, alone in zip(cpu["bare with the check"], cpu["bare"], strict=True)]
    rest = [ours - part for ours, part in zip(cpu["library"], check, strict=True)]
    table = [
        Row("CPU per MB / bare", "library", _ratios(cpu["library"], cpu["bare"]), CPU_TARGET),
        Row("CPU per MB without the check / bare", "library", _ratios(rest, cpu["bare"]), CPU_TARGET),
        Row("CPU per MB / bare with the check", "library", _ratios(cpu["library"], cpu["bare with the check"])),
        Row("CPU per MB of the check (ms)", "library", check),
        *(Row("CPU per MB (ms)", name, values) for name, values in cpu.items()),
    ]
    report("downloads", table, {"MB": round(size), "at a time": _AT_A_TIME}, options)


def _ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [each / other for each, other in zip(ours, theirs, strict=True)]


if __name__ == "__main__":
    main()
