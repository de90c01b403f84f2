"""Many edits amid faults of every kind: no edit may be lost or made twice, and memory and open files may not grow.

The emulator, in its own process, injects faults into one request in twenty of each kind, and into one task in twenty.
Each edit has a number in its instruction, so that the service's tasks can be compared with the session's results.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import attrs
import psutil
from _measure import Cost, fresh_process, metered
from _report import Row, drawn, parse, report
from _server import process_with_pipe
from PIL import Image

from qwen_edit_async import EditOutcome, EditRequest, EditSession, SessionStatistics, Timeouts
from qwen_edit_async.emulator import EditEmulator, EmulatorStatistics, Fault, FaultPlan, FixedEngine, Operation

GROWTH_TARGET, FILES_TARGET = 0.5, 0
_MB = 1_000_000
_UNIT = 10_000
_SAMPLES = 200
_ROUNDS = 5
_WARM_UP = 1 / _ROUNDS
_REST = 35.0  # seconds; an idle download connection is closed after 15 to 30
_TASK_SECONDS = 0.02
_TIMEOUTS = Timeouts(connect=5.0, send=5.0, reply=2.0)
_DEADLINE = 8.0
_DONE, _UNCERTAIN, _NO_TASK = "done", "SubmitUncertainError", "-"


def _as_list(reply: dict[str, Any]) -> list[dict[str, Any]]:
    return [reply]


def _without_id(reply: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in reply.items() if name != "id"}


_ANY_REQUEST = (
    *(Fault.status(status) for status in (200, 400, 404, 500, 503, 504)),
    Fault.status(503, retry_after=0.1),
    Fault.html_page(),
    Fault.redirect(),
    Fault.drop_reply(),
    Fault.drop_request(),
    Fault.drop_request(read_body=False),
    Fault.hang(),
    Fault.hang(accepted=False),
    Fault.slow(delay=0.5),
    Fault.slow(delay=3.0),
    Fault.slow(bytes_per_second=500),
    Fault.slow(bytes_per_second=10),
    Fault.content_type(),
)
_TOO_MANY = (Fault.status(429), Fault.status(429, retry_after=0.1))
# A 429 strikes only one request in 5,000. A session lowers its limits after each 429, so if 429s were as frequent as
# other faults, few tasks would be in flight.
_TOO_MANY_SHARE = 1 / 5000
_JSON_REPLY = (
    Fault.truncated_json(),
    Fault.malformed_json(),
    Fault.reshape(_as_list),
    Fault.reshape(_without_id),
    Fault.reshape(lambda _: {}),
)
# A 401 or 403 on a submission or check, or a 402 on a submission, would end the session, so these are left out.
_FAULTS: dict[Operation, tuple[Fault, ...]] = {
    "submit": (
        *_ANY_REQUEST,
        *_JSON_REPLY,
        Fault.status(500, accepted=True),
        Fault.html_page(504, accepted=True),
    ),
    "check": (
        *_ANY_REQUEST,
        *_JSON_REPLY,
        Fault.status(402),
        Fault.status_word("dreaming"),
        Fault.status_word(str.upper),
    ),
    "download": (
        *_ANY_REQUEST,
        *_TOO_MANY,
        *(Fault.status(status) for status in (401, 402, 403)),
        Fault.expired_url(),
        Fault.truncated_download(),
        Fault.wrong_download(),
    ),
}
_TASK_FAULTS = (
    Fault.stuck_task(),
    Fault.failed_task(),
    Fault.failed_task(shape="string"),
    Fault.vanished_task(),
    Fault.vanished_task(after_checks=1),
)


@attrs.frozen
class Plan:
    """The work, and its faults.

    Attributes:
        in_flight: The most edits at a time, and the most downloads at a time.
        share: Share of the requests of each kind, and of the tasks, that a fault strikes.
        seed: Seed of the faults.
    """

    edits: int
    in_flight: int
    share: float
    seed: int

    @property
    def step(self) -> int:
        """Number of edits between two samples of memory and open files."""
        return max(1, self.edits // _SAMPLES)

    def faults(self) -> FaultPlan:
        """Return all faults. Those of one kind of request are equally likely."""
        faults = [fault.with_probability(self.share / len(_TASK_FAULTS)) for fault in _TASK_FAULTS]
        faults += [
            fault.on("submit", "check").with_probability(_TOO_MANY_SHARE / len(_TOO_MANY)) for fault in _TOO_MANY
        ]
        for operation, struck in _FAULTS.items():
            faults += [fault.on(operation).with_probability(self.share / len(struck)) for fault in struck]
        return FaultPlan(faults, seed=self.seed)


@attrs.frozen
class Created:
    """A task of the service."""

    task_id: str
    edit: int
    completed: bool


@attrs.frozen
class End:
    """The outcome of an edit: done or an error's type, and the task's id."""

    edit: int
    word: str
    task_id: str


@attrs.define
class Soak(Cost):
    """The result of a soak.

    Attributes:
        resident: Bytes of resident memory at each sample.
        files: Open files and sockets at each sample.
        files_at_rest: Open files and sockets after each round, when all connections are closed.
        blocks_at_rest: Python's memory blocks after each round.
        files_left: Open files at the end, minus those before the session.
        unfinished: Ids of tasks that the session reports as unfinished.
        statistics: The session's counters.
    """

    resident: list[int] = attrs.field(factory=list)
    files: list[int] = attrs.field(factory=list)
    files_at_rest: list[int] = attrs.field(factory=list)
    blocks_at_rest: list[int] = attrs.field(factory=list)
    files_left: int = 0
    unfinished: frozenset[str] = frozenset()
    statistics: SessionStatistics = attrs.field(factory=SessionStatistics)


def serve(connection: Connection, plan: Plan) -> None:
    """Run the emulator, and send its tasks and counters on request."""
    emulator = EditEmulator(engine=FixedEngine(), duration=_TASK_SECONDS, faults=plan.faults(), request_log=0)
    with emulator.in_thread():
        connection.send((emulator.url, emulator.api_key))
        connection.recv()
        tasks = [
            Created(record.id, int(record.submission.instruction.split()[-1]), record.status == "completed")
            for record in emulator.tasks.values()
        ]
        connection.send((tasks, emulator.statistics()))


def edit_all(url: str, api_key: str, plan: Plan, folder: Path) -> Soak:
    """Make the edits and their downloads, and record each outcome."""
    soak = Soak()
    with metered(soak):
        asyncio.run(_edit_all(url, api_key, plan, folder, soak))
    return soak


async def _edit_all(url: str, api_key: str, plan: Plan, folder: Path, soak: Soak) -> None:
    process = psutil.Process()
    files_before = process.num_fds()
    places = asyncio.Semaphore(plan.in_flight)
    ended = 0

    # Outcomes go to a file, because a growing list would distort the measured memory.
    with (folder / "ends").open("w", encoding="utf-8") as ends:

        async def finish(outcome: EditOutcome) -> None:
            nonlocal ended
            ends.write("{0.edit} {0.word} {0.task_id}\n".format(await _end_of(outcome, folder)))
            places.release()
            ended += 1
            if ended % plan.step == 0:
                soak.resident.append(process.memory_info().rss)
                soak.files.append(process.num_fds() - files_before)
            if ended % (plan.step * _SAMPLES // 10) == 0:
                print(f"{ended:,} edits: {soak.resident[-1] / _MB:.1f} MB, {soak.files[-1]} files", flush=True)

        async with EditSession(
            api_key, base_url=url, max_in_flight=plan.in_flight, timeout=_TIMEOUTS, deadline=_DEADLINE
        ) as session:
            requests = _requests(plan, folder)
            for _ in range(_ROUNDS):
                async with asyncio.TaskGroup() as downloads:
                    async for outcome in session.edit_many(itertools.islice(requests, -(-plan.edits // _ROUNDS))):
                        await places.acquire()
                        downloads.create_task(finish(outcome))
                await asyncio.sleep(_REST)
                soak.files_at_rest.append(process.num_fds() - files_before)
                soak.blocks_at_rest.append(sys.getallocatedblocks())
            soak.statistics = session.statistics()
    soak.unfinished = frozenset(session.unfinished)
    soak.files_left = process.num_fds() - files_before


def _requests(plan: Plan, folder: Path) -> Iterator[EditRequest]:
    for number in range(plan.edits):
        yield EditRequest(folder / "input.png", f"make it snow {number}", key=str(number))


async def _end_of(outcome: EditOutcome, folder: Path) -> End:
    assert isinstance(outcome.request, EditRequest)
    edit, error = int(outcome.request.key or ""), outcome.error
    if outcome.ok:
        try:
            await outcome.result.images[0].save(folder / "out" / f"{edit % _SAMPLES}.png")
        except Exception as failure:  # noqa: BLE001  # any error is this edit's outcome
            error = failure
        else:
            return End(edit, _DONE, outcome.result.task_id)
    return End(edit, type(error).__name__, getattr(error, "task_id", None) or _NO_TASK)


def wrong_accounts(
    edits: int, ends: Sequence[End], unfinished: frozenset[str], tasks: Sequence[Created]
) -> Iterator[str]:
    """Yield the contradictions between the requests, the session's results and the service's tasks."""
    counts = Counter(end.edit for end in ends)
    for number in range(edits):
        if counts[number] != 1:
            yield f"edit {number} has {counts[number]} outcomes"
    created = {task.task_id: task for task in tasks}
    for unknown in unfinished - set(created):
        yield f"unfinished, but unknown to the service: {unknown}"
    for end in ends:
        task = created.get(end.task_id)
        if end.task_id != _NO_TASK and (task is None or task.edit != end.edit):
            yield f"{end} names a task of another edit, or no task of the service"
        if end.word == _DONE and not (task and task.completed):
            yield f"{end} has no completed task"
    yield from _wrong_tasks(ends, unfinished, tasks)


def _wrong_tasks(ends: Sequence[End], unfinished: frozenset[str], tasks: Sequence[Created]) -> Iterator[str]:
    """Yield tasks that were made twice or lost."""
    for number, count in Counter(task.edit for task in tasks).items():
        if count > 1:
            yield f"edit {number} has {count} tasks"
    known = unfinished | {end.task_id for end in ends}
    words = {end.edit: end.word for end in ends}
    for task in tasks:
        if task.task_id not in known and words.get(task.edit) != _UNCERTAIN:
            yield f"no record names {task}, whose edit ended as {words.get(task.edit)}"


def measure(plan: Plan) -> tuple[Soak, Counter[str], EmulatorStatistics, int]:
    """Make the edits with a new emulator, and compare the records of both sides.

    Returns:
        The result, the number of edits by outcome, the service's counters, and the number of tasks with unknown ids.

    Raises:
        RuntimeError: The records contradict each other.
    """
    with (
        tempfile.TemporaryDirectory() as name,
        fresh_process() as process,
        process_with_pipe(serve, plan) as connection,
    ):
        folder = Path(name)
        Image.new("RGB", (512, 512), "#7f9cf5").save(folder / "input.png")
        url, api_key = connection.recv()
        soak = process.run(edit_all, url, api_key, plan, folder)
        connection.send("tell")
        tasks, counted = connection.recv()
        lines = (folder / "ends").read_text(encoding="utf-8").splitlines()
    ends = [End(int(number), word, task_id) for number, word, task_id in map(str.split, lines)]
    wrong = list(wrong_accounts(plan.edits, ends, soak.unfinished, tasks))
    if counted.keys_at_results:
        wrong.append(f"the key reached the results origin {counted.keys_at_results} times")
    if soak.statistics.in_flight or soak.statistics.watched or soak.statistics.waiting:
        wrong.append(f"the session still has edits or checks: {soak.statistics}")
    if wrong:
        raise RuntimeError("\n".join([f"{len(wrong)} contradictions, such as:", *wrong[:20]]))
    nameless = {task.task_id for task in tasks} - {end.task_id for end in ends} - soak.unfinished
    return soak, Counter(end.word for end in ends), counted, len(nameless)


def main() -> None:
    """Run the soak."""
    options = parse(
        __doc__,
        {"edits": 400},
        edits=(100_000, "number of edits"),
        in_flight=(64, "edits in flight at a time"),
        share=(0.05, "share of requests and tasks with a fault"),
        seed=(7, "seed of the faults"),
    )
    edits = options.edits
    plan = Plan(edits, options.in_flight, options.share, options.seed)
    soak, words, counted, nameless = measure(plan)
    # A fault can strike the submission and the task of an edit, so up to twice the share of edits may fail.
    resident = [size / _MB for size in soak.resident]
    rows = [
        Row(f"RSS growth per {_UNIT:,} edits (MB)", "library", [growth(resident, plan)], GROWTH_TARGET),
        Row("open files at rest, more than after the warm-up", "library", [grown(soak.files_at_rest)], FILES_TARGET),
        Row("open files left behind", "library", [soak.files_left], 0),
        Row("share of edits that did not succeed", "library", [1 - words[_DONE] / edits], 2 * plan.share),
        Row("share of edits that ended as uncertain", "library", [words[_UNCERTAIN] / edits], plan.share),
        Row(
            f"blocks of memory at rest, growth per {_UNIT:,} edits",
            "library",
            [grown(soak.blocks_at_rest) * _UNIT / (edits * (1 - _WARM_UP))],
        ),
        Row("open files at rest", "library", soak.files_at_rest),
        Row("blocks of memory at rest", "library", soak.blocks_at_rest),
        Row("RSS, all samples (MB)", "library", resident),
        Row("open files, all samples", "library", soak.files),
        *(Row("edits that ended so", word, [count]) for word, count in words.most_common()),
        *(
            Row("tasks", what, [count])
            for what, count in (
                ("created", counted.tasks_created),
                ("completed", counted.tasks_completed),
                ("whose id nobody knows", nameless),
            )
        ),
        *(Row("requests", kind, [getattr(counted, kind)]) for kind in ("submits", "checks", "downloads", "refused")),
        *(
            Row("counted by the session", what, [getattr(soak.statistics, what)])
            for what in ("retries", "throttled", "failed_checks", "renewals", "uncertain")
        ),
        Row("CPU per edit (ms)", "library", [1000 * soak.cpu / edits]),
        Row("seconds", "library", [soak.wall]),
    ]
    setup = {"edits": edits, "in flight": plan.in_flight, "share of faults": plan.share, "seed": plan.seed}
    setup |= {"rounds": _ROUNDS, "edits between samples": plan.step, "warm-up": f"{_WARM_UP:.0%}"}
    missed = report("soak", rows, setup, options)
    plot(resident, soak.files, plan, options.output / "soak.svg")
    if missed:
        sys.exit(f"missed: {', '.join(missed)}")


def growth(values: Sequence[float], plan: Plan) -> float:
    """Return the slope of the samples after the warm-up, by least squares, per 10,000 edits."""
    first = int(len(values) * _WARM_UP)
    positions = [index * plan.step for index in range(first, len(values))]
    return _UNIT * statistics.linear_regression(positions, values[first:]).slope


def grown(at_rest: Sequence[int]) -> int:
    """Return the last value minus the first."""
    return at_rest[-1] - at_rest[0]


def plot(resident: Sequence[float], files: Sequence[int], plan: Plan, path: Path) -> None:
    """Plot memory and open files over the edits."""
    positions = [plan.step * (index + 1) for index in range(len(resident))]
    with drawn(path, nrows=2, figsize=(8, 4.5), sharex=True) as panels:
        for panel, values, title in zip(panels.flat, (resident, files), ("RSS (MB)", "open files"), strict=True):
            panel.plot(positions, values, color="#7f9cf5", linewidth=1)
            panel.axvline(plan.edits * _WARM_UP, color="#555", linestyle=":", linewidth=1)
            panel.set_title(title, loc="left", fontsize=9)
            panel.set_ylim(bottom=0)
        panels[-1, 0].set_xlabel("finished edits (the warm-up ends at the dotted line)", fontsize=8)
        panels[-1, 0].xaxis.set_major_formatter("{x:,.0f}")


if __name__ == "__main__":
    main()
