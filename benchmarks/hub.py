"""The CPU of a hub and its workers, compared with ``EditBatch``, and a simulation of a large hub.

The same rows go through ``EditBatch`` in one process, and through a hub that 1, 4 and 16 worker processes call over
HTTP. The simulation runs on a virtual clock: 1,000 workers with 10 calls each, so 10,000 tasks are in flight.
"""

from __future__ import annotations

import asyncio
import collections
import functools
import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

import aiohttp
import attrs
import looptime
from _measure import Cost, fresh_process, interleaved, metered
from _report import Row, parse, report
from _server import process_with_pipe, serve
from PIL import Image

from qwen_edit_async import EditBatch, EditHub, EditRequest, EditSession, FixedInterval
from qwen_edit_async.batch.server import serve as serve_hub
from qwen_edit_async.emulator import AfterChecks
from qwen_edit_async.http.api import Transport
from qwen_edit_async.http.body import JSONBody
from qwen_edit_async.protocol.base import Call, Reply

CPU_TARGET = 2.0
_INSTRUCTION = "make it snow"
_TOKEN = "the-token-of-all-workers"
_WORKERS = (1, 4, 16)
_CALLS = 10
_SECONDS = 20.0
_PICTURE_BYTES = 1_800_000


@attrs.frozen
class Plan:
    """The work of one measurement."""

    rows: int
    in_flight: int
    image: str


@attrs.define
class Run(Cost):
    """A run's cost.

    Attributes:
        workers: Seconds of CPU of all workers.
    """

    workers: float = 0.0


def batch(url: str, api_key: str, plan: Plan) -> Run:
    """Run the rows through ``EditBatch``."""
    run = Run()
    with tempfile.TemporaryDirectory() as folder, metered(run):
        asyncio.run(_batch(url, api_key, plan, folder))
    return run


async def _batch(url: str, api_key: str, plan: Plan, folder: str) -> None:
    requests = (EditRequest(plan.image, _INSTRUCTION, key=f"row-{number}") for number in range(plan.rows))
    async with _session(url, api_key, plan) as session:
        report = await EditBatch(requests, folder, gallery_limit=0).run(session)
    if report.saved != plan.rows:
        raise RuntimeError(report.text())


def _session(url: str, api_key: str, plan: Plan) -> EditSession:
    return EditSession(api_key, base_url=url, max_in_flight=plan.in_flight, polling=FixedInterval(0.05))


def _run_hub(connection: Connection, url: str, api_key: str, plan: Plan) -> None:
    """Serve a hub until a message arrives, then send the hub's cost."""
    with tempfile.TemporaryDirectory() as folder, metered() as cost:
        asyncio.run(_hub(connection, url, api_key, plan, folder))
    connection.send(cost)


async def _hub(connection: Connection, url: str, api_key: str, plan: Plan, folder: str) -> None:
    async with _session(url, api_key, plan) as session:
        hub = EditHub(folder, session)
        async with serve_hub(hub, "127.0.0.1:0", _TOKEN) as address, hub:
            connection.send(address)
            await asyncio.to_thread(connection.recv)


def _run_worker(connection: Connection, address: str, numbers: range, plan: Plan, calls: int) -> None:
    """Wait for a message, ask the hub for some edits, and send the worker's cost."""
    connection.send("ready")
    connection.recv()
    with metered() as cost:
        asyncio.run(_worker(address, iter(numbers), plan, calls))
    connection.send(cost)


async def _worker(address: str, numbers: Iterator[int], plan: Plan, calls: int) -> None:
    headers, unlimited = {"Authorization": f"Bearer {_TOKEN}"}, aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(address, headers=headers, timeout=unlimited) as http:

        async def ask() -> None:
            for number in numbers:
                row = {"key": f"row-{number}", "image": plan.image, "instruction": _INSTRUCTION}
                async with http.post("/edits", json=row) as reply:
                    if (outcome := await reply.json())["status"] != "saved":
                        raise RuntimeError(str(outcome))

        await asyncio.gather(*(ask() for _ in range(calls)))


def measure_batch(plan: Plan) -> Run:
    """Measure ``EditBatch`` with a new emulator."""
    with fresh_process() as process, serve(AfterChecks(1)) as server:
        return process.run(batch, server.url, server.api_key, plan)


def measure_hub(plan: Plan, workers: int) -> Run:
    """Measure a hub and its workers with a new emulator."""
    calls = max(1, 2 * plan.in_flight // workers)
    with ExitStack() as stack:
        server = stack.enter_context(serve(AfterChecks(1)))
        hub = stack.enter_context(process_with_pipe(_run_hub, server.url, server.api_key, plan))
        address = hub.recv()
        pipes = [
            stack.enter_context(process_with_pipe(_run_worker, address, range(first, plan.rows, workers), plan, calls))
            for first in range(workers)
        ]
        for pipe in pipes:
            pipe.recv()
        for pipe in pipes:
            pipe.send("go")
        cpu = sum(pipe.recv().cpu for pipe in pipes)
        hub.send("end")
        cost = hub.recv()
        created = server.counters()[0].tasks_created
    if created != plan.rows:
        raise RuntimeError(f"{created} tasks of {plan.rows} rows")
    return Run(cpu=cost.cpu, wall=cost.wall, workers=cpu)


@attrs.define
class Memory(Transport):
    """The service in memory.

    Attributes:
        seed: The seed of the tasks' durations.
        created: The number of tasks for each instruction.
        ends: The time at which each task ends.
        peak: The most unfinished tasks at a time.
    """

    seed: int = 0
    created: collections.Counter[str] = attrs.field(factory=collections.Counter)
    ends: dict[str, float] = attrs.field(factory=dict)
    unfinished: int = 0
    peak: int = 0
    _random: Random = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._random = Random(self.seed)

    async def open(self) -> None:
        """Do nothing."""

    async def aclose(self) -> None:
        """Do nothing."""

    async def send(self, call: Call, body: JSONBody | None = None) -> Reply:
        """Create a task, or return the state of one."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0.05)
        if body is not None:
            content = json.loads(b"".join(call.parts))["input"]["messages"][0]["content"]
            self.created[content[-1]["text"]] += 1
            task_id = f"task-{len(self.ends):020}"
            seconds = _SECONDS * self._random.lognormvariate(0, 0.3)
            self.ends[task_id] = loop.time() + seconds
            self.unfinished += 1
            self.peak = max(self.peak, self.unfinished)
            loop.call_later(seconds, self._end)
            document: dict[str, object] = {"id": task_id, "status": "in_progress"}
        else:
            task_id = call.path.rpartition("/")[2]
            document = {"id": task_id, "status": "in_progress"}
            if loop.time() >= self.ends[task_id]:
                picture = {"type": "image", "url": f"https://results.example/{task_id}.png"}
                document |= {"status": "completed", "output": [{"content": [picture]}], "usage": {"cost": "0.0357"}}
        return Reply(status=200, body=json.dumps(document).encode())

    def _end(self) -> None:
        self.unfinished -= 1


@attrs.define
class Simulated(Cost):
    """A simulated run.

    Attributes:
        virtual: Seconds on the virtual clock.
        peak: The most tasks in flight.
    """

    virtual: float = 0.0
    peak: int = 0


def simulate(workers: int, rounds: int) -> Simulated:
    """Let each call of each worker ask a hub for ``rounds`` edits in turn, on a virtual clock."""
    simulated = Simulated()
    with tempfile.TemporaryDirectory() as folder, metered(simulated):
        loop = looptime.new_event_loop()
        try:
            loop.run_until_complete(_simulate(folder, workers, rounds, simulated))
        finally:
            loop.close()
    return simulated


async def _simulate(folder: str, workers: int, rounds: int, simulated: Simulated) -> None:
    service, loop, in_flight = Memory(), asyncio.get_running_loop(), workers * _CALLS
    session = EditSession(
        "key", base_url="http://127.0.0.1:9", envelope="flat", max_in_flight=in_flight, transport=service
    )

    async def ask(hub: EditHub, name: str) -> None:
        for number in range(rounds):
            row = EditRequest("https://pictures.example/cat.png", f"{name}, edit {number}", key=f"{name}-{number}")
            outcome = await hub.edit(row)
            if outcome.status != "completed":
                raise RuntimeError(str(outcome))
            await hub.record(outcome.name, [(f"{outcome.name}-0.png", _PICTURE_BYTES)])

    async with session, EditHub(folder, session, save=False) as hub:  # there is no host to download from
        begun = loop.time()
        async with asyncio.TaskGroup() as calls:
            for worker in range(workers):
                for call in range(_CALLS):
                    calls.create_task(ask(hub, f"worker-{worker}-{call}"))
        simulated.virtual, simulated.peak = loop.time() - begun, service.peak
    if hub.progress.saved != in_flight * rounds:
        raise RuntimeError(f"only {hub.progress.saved} edits were recorded as saved")
    if set(service.created.values()) != {1} or len(service.created) != in_flight * rounds:
        raise RuntimeError("an edit was made twice, or never")
    if service.peak > in_flight:
        raise RuntimeError(f"{service.peak} tasks were in flight at a time")


def main() -> None:
    """Run the benchmark."""
    options = parse(
        __doc__,
        {"rows": 200, "repetitions": 1, "workers": 20},
        rows=(1000, "rows of each run"),
        in_flight=(64, "edits in flight at a time"),
        repetitions=(1, "rounds"),
        workers=(1000, "workers of the simulation, with 10 calls each"),
    )
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "input.png"
        Image.new("RGB", (512, 512), "#7f9cf5").save(image)
        plan = Plan(options.rows, options.in_flight, str(image))
        table = [*cpu_rows(plan, options.repetitions)]
    table += simulation_rows(options.workers)
    setup = {"rows": plan.rows, "in flight": plan.in_flight, "repetitions": options.repetitions}
    report("hub", table, setup, options)


def cpu_rows(plan: Plan, repetitions: int) -> Iterator[Row]:
    """Measure hubs with their workers, and ``EditBatch``, in turns."""
    measures = {0: functools.partial(measure_batch, plan)}
    measures |= {workers: functools.partial(measure_hub, plan, workers) for workers in _WORKERS}
    runs = interleaved(measures, repetitions)
    for workers in _WORKERS:
        ratios = [ours.cpu / theirs.cpu for ours, theirs in zip(runs[workers], runs[0], strict=True)]
        yield Row(f"CPU, hub of {workers} / EditBatch", "library", ratios, CPU_TARGET)
    yield Row("CPU per edit (ms), EditBatch", "library", [1000 * run.cpu / plan.rows for run in runs[0]])
    for workers in _WORKERS:
        yield Row(
            f"CPU per edit (ms), hub of {workers}", "library", [1000 * run.cpu / plan.rows for run in runs[workers]]
        )
        yield Row(
            f"CPU per edit (ms), its workers ({workers})",
            "library",
            [1000 * run.workers / plan.rows for run in runs[workers]],
        )


def simulation_rows(workers: int) -> Iterator[Row]:
    """Simulate a hub whose workers keep all its slots busy."""
    rounds = 2
    with fresh_process() as process:
        run = process.run(simulate, workers, rounds)
    edits, name = workers * _CALLS * rounds, f"{workers * _CALLS:,} in flight, {workers:,} workers"
    least = rounds * _SECONDS
    yield Row(f"{name}: time / {rounds} tasks of {_SECONDS:g} s each", "library", [run.virtual / least])
    yield Row(f"{name}: most tasks in flight", "library", [run.peak], workers * _CALLS)
    yield Row(f"{name}: CPU per edit (ms)", "library", [1000 * run.cpu / edits])
    yield Row(f"{name}: memory per edit in flight (KB)", "library", [run.memory_growth / 1000 / (workers * _CALLS)])


if __name__ == "__main__":
    main()
