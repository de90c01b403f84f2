"""CPU per edit: a session's ``edit_many`` beside a hand-written aiohttp loop that sends the same requests.

Both clients submit the same edits of the same small image and ask for each task equally often; the emulator, in a
process of its own, makes no pictures and counts what arrives, so that "the same" is checked, not claimed.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import functools
import io
import warnings
from collections.abc import Callable
from pathlib import Path

import aiohttp
import attrs
from _measure import Cost, interleaved, metered, run_in_fresh_process
from _report import Row, report
from _server import Server, serve
from PIL import Image

from qwen_edit_async import EditRequest, EditSession, EditWarning, FixedInterval

TARGET = 1.5
_INSTRUCTION = "make it snow"


@attrs.frozen
class Plan:
    """What both clients do."""

    edits: int
    in_flight: int
    checks: int
    interval: float
    image: bytes = attrs.field(repr=False)


def library(url: str, api_key: str, plan: Plan) -> Cost:
    """The edits through ``EditSession.edit_many``."""
    warnings.simplefilter("ignore", EditWarning)
    with metered() as cost:
        asyncio.run(_library(url, api_key, plan))
    return cost


async def _library(url: str, api_key: str, plan: Plan) -> None:
    async with EditSession(
        api_key, base_url=url, max_in_flight=plan.in_flight, polling=FixedInterval(plan.interval)
    ) as session:
        requests = (EditRequest(plan.image, _INSTRUCTION) for _ in range(plan.edits))
        async for outcome in session.edit_many(requests):
            if outcome.error is not None:
                raise outcome.error


def minimal(url: str, api_key: str, plan: Plan) -> Cost:
    """The same edits through aiohttp alone: no checks, no retries, no deadlines, no errors."""
    with metered() as cost:
        asyncio.run(_minimal(url, api_key, plan))
    return cost


async def _minimal(url: str, api_key: str, plan: Plan) -> None:
    todo = iter(range(plan.edits))
    generation = f"{url}/model/v1/generation"
    async with aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {api_key}"}, connector=aiohttp.TCPConnector(limit=0)
    ) as http:

        async def worker() -> None:
            for _ in todo:
                image = f"data:image/jpeg;base64,{base64.b64encode(plan.image).decode()}"
                content = [{"image": image}, {"text": _INSTRUCTION}]
                body = {
                    "model": "qwen_image_edit_plus",
                    "input": {"messages": [{"role": "user", "content": content}]},
                }
                async with http.post(generation, json=body) as response:
                    task = await response.json()
                while task["status"] != "completed":
                    await asyncio.sleep(plan.interval)
                    async with http.get(f"{generation}/task/{task['id']}") as response:
                        task = await response.json()

        await asyncio.gather(*(worker() for _ in range(plan.in_flight)))


def small_picture(kind: str) -> bytes:
    """A picture of 512×512 pixels with some texture, as a file."""
    noise = Image.effect_noise((64, 64), 60).resize((512, 512), Image.Resampling.BICUBIC)
    picture = Image.merge("RGB", [noise, noise.transpose(Image.Transpose.ROTATE_90), noise])
    file = io.BytesIO()
    if kind == "jpeg":
        picture.save(file, "JPEG", quality=80)
    else:
        picture.quantize(8).save(file, "PNG")
    return file.getvalue()


def measure(client: Callable[[str, str, Plan], Cost], plan: Plan) -> Cost:
    """Run one client against a new emulator, and see that it did all that the other does, and no more."""
    with serve(plan.checks) as server:
        cost = run_in_fresh_process(client, server.url, server.api_key, plan)
        _verify(server, plan)
    return cost


def _verify(server: Server, plan: Plan) -> None:
    counted, submissions = server.counters()
    expected = (plan.edits, plan.edits, plan.edits * plan.checks, 1)
    actual = (counted.submits, counted.tasks_completed, counted.checks, len(submissions))
    if actual != expected:
        raise RuntimeError(f"submissions, completed tasks, checks, different submissions: {actual}, not {expected}")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edits", type=int, default=5000, help="edits a measurement (default: %(default)s)")
    parser.add_argument("--in-flight", type=int, default=500, help="edits in flight at a time (default: %(default)s)")
    parser.add_argument("--checks", type=int, default=3, help="status checks a task (default: %(default)s)")
    parser.add_argument("--interval", type=float, default=0.5, help="seconds between them (default: %(default)s)")
    parser.add_argument("--repetitions", type=int, default=5, help="of each measurement (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="200 edits, once: does it run at all?")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder for the results")
    options = parser.parse_args()
    if options.quick:
        options.edits, options.in_flight, options.interval, options.repetitions = 200, 50, 0.1, 1
    pictures = {kind: small_picture(kind) for kind in ("png", "jpeg")}
    plans = {
        kind: Plan(options.edits, options.in_flight, options.checks, options.interval, picture)
        for kind, picture in pictures.items()
    }
    costs = interleaved(
        {
            (client.__name__, kind): functools.partial(measure, client, plan)
            for kind, plan in plans.items()
            for client in (library, minimal)
        },
        options.repetitions,
    )
    target = None if options.quick else TARGET
    rows: list[Row] = []
    for kind in plans:
        ours, theirs = costs["library", kind], costs["minimal", kind]
        ratios = [our.cpu / their.cpu for our, their in zip(ours, theirs, strict=True)]
        rows.append(Row(f"CPU per edit, {kind}, library / minimal", "library", ratios, target))
        for name, repeated in (("library", ours), ("minimal", theirs)):
            rows.append(Row(f"CPU per edit, {kind} (ms)", name, [1000 * cost.cpu / options.edits for cost in repeated]))
        for name, repeated in (("library", ours), ("minimal", theirs)):
            rows.append(Row(f"edits per second, {kind}", name, [options.edits / cost.wall for cost in repeated]))
    setup = {
        "edits": options.edits,
        "in flight": options.in_flight,
        "checks per task": options.checks,
        "seconds between checks": options.interval,
        **{f"bytes of the {kind}": len(picture) for kind, picture in pictures.items()},
        "repetitions": options.repetitions,
    }
    report("throughput", rows, setup, options.output)


if __name__ == "__main__":
    main()
