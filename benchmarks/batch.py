"""The cost of a bulk run: a folder of pictures, edited by a hand-written script and by ``EditBatch``.

The script holds Base64 texts in memory, polls every 3 s and writes the files. It has no journal, and checks no file.
``EditBatch`` runs without its page, with its page, and again over the finished folder.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import attrs
import numpy as np
from _measure import Cost, fresh_process, interleaved, metered
from _report import Row, drawn, parse, report
from _server import serve
from PIL import Image

from qwen_edit_async import EditBatch, EditSession, EditWarning
from qwen_edit_async.batch.rules.report import PAGE_NAME
from qwen_edit_async.emulator import LogNormal

WALL_TARGET, AGAIN_TARGET, PUBLISHING_TARGET = 1.05, 1.0, 1.0
_INSTRUCTION = "make it snow"
_IN_FLIGHT = 50
_MOST_FOR_SCRIPT = 400
"""The most edits for the script. Its cost per edit does not depend on the number of edits."""

_MB = 1_000_000
_PLOTTED = ("wall time (s)", "CPU per edit (ms)", "peak memory growth (MB)")


@attrs.frozen
class Plan:
    """The folders of one measurement."""

    edits: int
    inputs: Path
    results: Path


@attrs.define
class Run(Cost):
    """A run's cost.

    Attributes:
        publishing: Seconds from the last result to the end of the run.
    """

    publishing: float = 0.0


def script(url: str, api_key: str, plan: Plan) -> Run:
    """Edit the pictures with a semaphore, a gather, and a loop that checks each task every 3 s."""
    run = Run()
    with metered(run):
        asyncio.run(_script(url, api_key, plan))
    return run


async def _script(url: str, api_key: str, plan: Plan) -> None:
    turn = asyncio.Semaphore(_IN_FLIGHT)
    generation = f"{url}/model/v1/generation"
    async with aiohttp.ClientSession() as http:

        async def edit(path: Path) -> None:
            image = base64.b64encode(path.read_bytes()).decode()  # noqa: ASYNC240  # as most scripts do
            content = [{"image": f"data:image/png;base64,{image}"}, {"text": _INSTRUCTION}]
            body = {"model": "qwen_image_edit_plus", "input": {"messages": [{"role": "user", "content": content}]}}
            key = {"Authorization": f"Bearer {api_key}"}
            async with turn:
                async with http.post(generation, json=body, headers=key) as response:
                    task = await response.json()
                while task["status"] != "completed":
                    await asyncio.sleep(3)
                    async with http.get(f"{generation}/task/{task['id']}", headers=key) as response:
                        task = await response.json()
                async with http.get(task["output"][0]["content"][0]["url"]) as response:
                    (plan.results / path.name).write_bytes(await response.read())

        await asyncio.gather(*map(edit, sorted(plan.inputs.iterdir())))


def batch(url: str, api_key: str, plan: Plan, *, page: bool) -> Run:
    """Edit the pictures with ``EditBatch``."""
    run = Run()
    warnings.simplefilter("ignore", EditWarning)
    with metered(run):
        asyncio.run(_batch(url, api_key, plan, run, page=page))
    return run


async def _batch(url: str, api_key: str, plan: Plan, run: Run, *, page: bool) -> None:
    edits = EditBatch(plan.inputs, plan.results, instruction=_INSTRUCTION, gallery_limit=plan.edits if page else 0)
    async with EditSession(api_key, base_url=url, max_in_flight=_IN_FLIGHT) as session:
        running, loop, ended_at = asyncio.create_task(edits.run(session)), asyncio.get_running_loop(), 0.0
        while not running.done():
            await asyncio.wait([running], timeout=0.02)
            if edits.progress.publishing and not ended_at:
                ended_at = loop.time()
        run.publishing = loop.time() - (ended_at or loop.time())
    if (await running).saved != plan.edits:
        raise RuntimeError((await running).text())


without_page = functools.partial(batch, page=False)
with_page = functools.partial(batch, page=True)
CLIENTS: dict[str, Callable[[str, str, Plan], Run]] = {
    "script": script,
    "library, no page": without_page,
    "library": with_page,
}


def measure(inputs: Path, edits: int, picture: Path, name: str, again: list[Run]) -> Run:
    """Measure a client with a new emulator. After the run with a page, measure a second run of the same folder."""
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(edits, inputs, Path(folder))
        with serve(LogNormal(2.0), picture) as server:
            with fresh_process() as process:
                run = process.run(CLIENTS[name], server.url, server.api_key, plan)
            if name == "library":
                with fresh_process() as process:
                    again.append(process.run(with_page, server.url, server.api_key, plan))
                check_page(plan)
            counted, _ = server.counters()
        saved = sum(path.stat().st_size == picture.stat().st_size for path in plan.results.glob("*.png"))
        if (counted.submits, counted.downloads, saved) != (edits,) * 3:
            raise RuntimeError(f"{counted.submits} submissions, {counted.downloads} downloads, {saved} files")
    return run


def check_page(plan: Plan) -> None:
    """Check that the page shows a thumbnail of each input and of each result."""
    shown = len(re.findall(r'src="data:image/', (plan.results / PAGE_NAME).read_text(encoding="utf-8")))
    if shown != 2 * plan.edits:
        raise RuntimeError(f"{shown} thumbnails of {plan.edits} edits")


def rows(edits: int, repetitions: int, picture: Path, inputs: Path) -> Iterator[Row]:
    """Measure the clients in turns."""
    again: list[Run] = []
    measures = {
        name: functools.partial(measure, inputs, edits, picture, name, again)
        for name in CLIENTS
        if name != "script" or edits <= _MOST_FOR_SCRIPT
    }
    runs = interleaved(measures, repetitions)
    for other, target in (("library, no page", WALL_TARGET), ("script", None)):
        if other not in runs:
            continue
        ratios = [ours.wall / theirs.wall for ours, theirs in zip(runs["library"], runs[other], strict=True)]
        yield Row(f"{edits:,} edits: wall time / {other}", "library", ratios, target)
    page = [run.publishing for run in runs["library"]]
    yield Row(f"{edits:,} edits: last result to page (s)", "library", page, PUBLISHING_TARGET)
    wall = [run.wall for run in again]
    yield Row(f"{edits:,} edits: second run (s)", "library", wall, AGAIN_TARGET)
    for name, costs in {**runs, "library, second run": again}.items():
        yield Row(f"{edits:,} edits: wall time (s)", name, [cost.wall for cost in costs])
        yield Row(f"{edits:,} edits: CPU per edit (ms)", name, [1000 * cost.cpu / edits for cost in costs])
        yield Row(f"{edits:,} edits: peak memory growth (MB)", name, [cost.memory_growth / _MB for cost in costs])


def write_pictures(folder: Path, edits: int) -> tuple[Path, Path]:
    """Write a photo-like result of about 2 MB and small inputs. Return the result's path and the inputs' folder."""
    picture, inputs = folder / "result.png", folder / "inputs"
    inputs.mkdir()
    photo((1024, 1024)).save(picture)
    photo((450, 300)).save(inputs / "0.png")
    for number in range(1, edits):
        shutil.copyfile(inputs / "0.png", inputs / f"{number}.png")
    return picture, inputs


def photo(size: tuple[int, int]) -> Image.Image:
    """Return large shapes with a little noise, which PNG compresses about as well as a photograph."""
    random = np.random.default_rng(1)
    shapes = Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    noise = random.normal(0, 4, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(shapes) + noise, 0, 255).astype(np.uint8))


def main() -> None:
    """Run the benchmark."""
    options = parse(
        __doc__, {"edits": [20]}, edits=([400, 2000], "edits of the runs"), repetitions=(1, "runs of each client")
    )
    table: list[Row] = []
    for edits in options.edits:
        with tempfile.TemporaryDirectory() as folder:
            picture, inputs = write_pictures(Path(folder), edits)
            setup = {
                "in flight": _IN_FLIGHT,
                "KB of an input": round((inputs / "0.png").stat().st_size / 1000),
                "KB of a result": round(picture.stat().st_size / 1000),
            }
            table += rows(edits, options.repetitions, picture, inputs)
    report("batch", table, setup, options)
    plot(table, options.output / "batch.svg")


def plot(table: list[Row], path: Path) -> None:
    """Plot wall time, CPU and memory of each client, beside each other."""
    figures = [figure for figure in dict.fromkeys(row.figure for row in table) if figure.endswith(_PLOTTED)]
    lines = len(figures) // len(_PLOTTED)
    with drawn(path, nrows=lines, ncols=len(_PLOTTED), figsize=(13, 2 * lines), sharey=True) as panels:
        for panel, figure in zip(panels.flat, figures, strict=True):
            rows = {row.contender: row.values[0] for row in table if row.figure == figure}
            colours = ["#7f9cf5" if name == "library" else "#c8cdd8" for name in rows]
            panel.bar_label(panel.barh([*rows], [*rows.values()], color=colours), fmt=" {:.3g}", fontsize=8)
            panel.set_title(figure, loc="left", fontsize=9)
        panels[0, 0].invert_yaxis()


if __name__ == "__main__":
    main()
