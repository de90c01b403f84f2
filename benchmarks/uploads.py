"""Memory, CPU and stalls of large uploads: a session, and a client that builds each request in memory.

Each edit sends three files of about 8 MB: two JPEG and one PNG. All edits run at once. The usual hand-written client
reads the files and posts them as one JSON text. It makes fewer edits, because each takes over 100 MB of memory.
"""

from __future__ import annotations

import asyncio
import functools
import json
import tempfile
import warnings
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import numpy as np
from _measure import Cost, fresh_process, heartbeat, interleaved, metered
from _report import Row, parse, report
from _server import serve
from PIL import Image

from qwen_edit_async import EditRequest, EditSession, EditWarning, FixedInterval
from qwen_edit_async.emulator import AfterChecks
from qwen_edit_async.images.upload import encode_base64  # both clients encode with the same function

GROWTH_TARGET, CPU_TARGET, STALL_TARGET = 64.0, 1.3, 150.0
_BEAT = 0.02  # seconds; short compared with relevant stalls, but too long to add much CPU
_MB = 1_000_000
_GB = 1_000_000_000
_NAMES = ("first.jpeg", "second.png", "third.jpeg")
_INSTRUCTION = "make it snow"


@attrs.frozen
class Plan:
    """A client's work."""

    edits: int
    images: tuple[Path, ...]

    @property
    def bytes_sent(self) -> int:
        """Total size of the sent image files, before Base64."""
        return self.edits * sum(self.sizes)

    @property
    def sizes(self) -> list[int]:
        """Sizes of the image files in bytes."""
        return [image.stat().st_size for image in self.images]


@attrs.define
class Upload(Cost):
    """The cost of uploads.

    Attributes:
        stall: The longest stall of the event loop in seconds.
    """

    stall: float = 0.0


def library(url: str, api_key: str, plan: Plan) -> Upload:
    """Make all edits at once with ``EditSession.edit_many``. Memory counts from before the session is opened."""
    warnings.simplefilter("ignore", EditWarning)
    return _metered(_library(url, api_key, plan))


def _metered(work: Coroutine[Any, Any, None]) -> Upload:
    upload = Upload()

    async def watched() -> None:
        async with heartbeat(_BEAT) as beats:
            await work
        upload.stall = max(beats.lags)

    with metered(upload):
        asyncio.run(watched())
    return upload


async def _library(url: str, api_key: str, plan: Plan) -> None:
    async with EditSession(api_key, base_url=url, max_in_flight=plan.edits, polling=FixedInterval(0.5)) as session:
        async for outcome in session.edit_many(EditRequest(plan.images, _INSTRUCTION) for _ in range(plan.edits)):
            if outcome.error is not None:
                raise outcome.error


def naive(url: str, api_key: str, plan: Plan) -> Upload:
    """Make all edits at once, each as one JSON text."""
    return _metered(_naive(url, api_key, plan))


async def _naive(url: str, api_key: str, plan: Plan) -> None:
    generation = f"{url}/model/v1/generation"
    headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
    async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0)) as http:

        async def edit() -> None:
            files = await asyncio.to_thread(lambda: [image.read_bytes() for image in plan.images])
            content: list[dict[str, str]] = [
                {"image": f"data:image/{image.suffix[1:]};base64,{encode_base64(file).decode()}"}
                for image, file in zip(plan.images, files, strict=True)
            ]
            body = {
                "model": "qwen_image_edit_plus",
                "input": {"messages": [{"role": "user", "content": [*content, {"text": _INSTRUCTION}]}]},
            }
            async with http.post(generation, data=json.dumps(body).encode()) as response:
                task = await response.json()
            while task["status"] != "completed":
                await asyncio.sleep(0.5)
                async with http.get(f"{generation}/task/{task['id']}") as response:
                    task = await response.json()

        await asyncio.gather(*(edit() for _ in range(plan.edits)))


def large_pictures(folder: Path, size: int) -> tuple[Path, ...]:
    """Write three files of noise of nearly ``size`` bytes each, and return their paths."""
    return tuple(_large_picture(folder / name, size, seed) for seed, name in enumerate(_NAMES))


def _large_picture(path: Path, size: int, seed: int) -> Path:
    random = np.random.default_rng(seed)
    width, height = 2048, 256
    while True:
        noise = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        noise.save(path, quality=95, compress_level=1)
        written = path.stat().st_size
        if 0.98 * size <= written <= size:
            return path
        height = int(height * 0.99 * size / written)


def measure(client: Callable[[str, str, Plan], Upload], plan: Plan) -> Upload:
    """Measure one client with a new emulator, and check that all edits were accepted."""
    with fresh_process() as process, serve(AfterChecks(1)) as server:
        cost = process.run(client, server.url, server.api_key, plan)
        counted, submissions = server.counters()
        sent = {image.size_bytes for submission in submissions for image in submission.images}
    if counted.tasks_completed != plan.edits or sent != {*plan.sizes}:
        raise RuntimeError(f"{counted.tasks_completed} of {plan.edits} edits, with images of {sent} bytes")
    return cost


def main() -> None:
    """Run the benchmark."""
    options = parse(
        __doc__,
        {"edits": 4, "naive_edits": 2, "megabytes": 1.0, "repetitions": 1},
        edits=(64, "edits at once"),
        naive_edits=(2, "edits of the hand-written client"),
        megabytes=(8.0, "size of each image file"),
        repetitions=(3, "repetitions of each"),
    )
    with tempfile.TemporaryDirectory() as folder:
        images = large_pictures(Path(folder), int(options.megabytes * _MB))
        plans = {library: Plan(options.edits, images), naive: Plan(options.naive_edits, images)}
        costs = interleaved(
            {client: functools.partial(measure, client, plan) for client, plan in plans.items()}, options.repetitions
        )
        sent = {client: plan.bytes_sent for client, plan in plans.items()}
    figures: dict[str, tuple[float | None, Callable[[Upload, int], float]]] = {
        "peak RSS growth (MB)": (GROWTH_TARGET, lambda cost, _: cost.memory_growth / _MB),
        "CPU per GB of images (s)": (CPU_TARGET, lambda cost, sent: cost.cpu / sent * _GB),
        "longest stall of the event loop (ms)": (STALL_TARGET, lambda cost, _: 1000 * cost.stall),
        "MB a second": (None, lambda cost, sent: sent / cost.wall / _MB),
    }
    rows = [
        Row(
            figure,
            client.__name__,
            [value(cost, sent[client]) for cost in costs[client]],
            aim if client is library else None,
        )
        for figure, (aim, value) in figures.items()
        for client, plan in plans.items()
    ]
    setup = {
        "images an edit": len(_NAMES),
        "edits at once, library": options.edits,
        "edits at once, naive": options.naive_edits,
        "MB an image": options.megabytes,
        "GB sent": round(sent[library] / _GB, 2),
        "repetitions": options.repetitions,
    }
    report("uploads", rows, setup, options)


if __name__ == "__main__":
    main()
