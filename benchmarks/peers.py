"""The cost of many short edits: the library, hand-written loops, and the SDKs of similar services.

All clients make the same edits with the same number of status checks. A task engine in its own process speaks each
client's protocol and makes no pictures. It counts the requests, so that the benchmark can check the clients' work.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable, Iterator, Sequence

import attrs
from _clients import (
    Plan,
    library,
    loops_on_aiohttp,
    loops_on_httpx,
    minimal,
)
from _measure import Cost, fresh_process, interleaved
from _protocols import serve
from _report import Row, parse, report
from _sdks import dashscope, fal_client, replicate
from PIL import Image

_TARGET, _TARGET_OF_FEWER = 1.5, 1.4
_FEWER = 500
_TARGET_WITH_FILES = 1.5
_CHECKS = 1

Client = Callable[[str, Plan], Cost]
_OWN_PROTOCOL: Sequence[Client] = (
    library,
    minimal,
    loops_on_aiohttp,
    loops_on_httpx,
)
_SDKS: Sequence[Client] = (dashscope, fal_client, replicate)


Figure = tuple[str, Callable[[Cost, Plan], float]]
_CPU: Figure = ("CPU per edit, {} (ms)", lambda cost, plan: 1000 * cost.cpu / plan.edits)
_MEMORY: Figure = (
    "memory per edit in flight, {} (KB)",
    lambda cost, plan: cost.memory_growth / 1024 / plan.in_flight,
)


@attrs.frozen
class Group:
    """Clients that take turns with one plan.

    Attributes:
        title: Name of the plan, for the figures' names.
        plan: Each client's work.
        clients: The clients. The CPU of each is given as a multiple of the last client's CPU.
        repetitions: Number of rounds.
        figures: Other figures of each client.
        target: The limit for the first client's CPU, as a multiple of the last client's CPU.
    """

    title: str
    plan: Plan
    clients: Sequence[Client]
    repetitions: int
    figures: Sequence[Figure] = (_CPU,)
    target: float | None = None

    def rows(self) -> Iterator[Row]:
        """Measure the clients, and yield the rows of the table."""
        print(f"{self.title}: {self.plan.edits} edits", flush=True)
        costs = interleaved(
            {client: functools.partial(measure, client, self.plan) for client in self.clients}, self.repetitions
        )
        *others, last = self.clients
        for client in others:
            ratios = [cost.cpu / base.cpu for cost, base in zip(costs[client], costs[last], strict=True)]
            figure = f"CPU per edit, {self.title}, as a multiple of {name_of(last)}"
            yield Row(figure, name_of(client), ratios, self.target if client is self.clients[0] else None)
        for figure, value in self.figures:
            for client, repeated in costs.items():
                values = [value(cost, self.plan) for cost in repeated]
                yield Row(figure.format(self.title), name_of(client), values)


def name_of(client: Client) -> str:
    """Return a client's name in the table."""
    return client.__name__.replace("_", " ")


def measure(client: Client, plan: Plan) -> Cost:
    """Measure one client with a new engine, and check that it did exactly the planned work."""
    with fresh_process() as process, serve(_CHECKS) as server:
        cost = process.run(client, server.url, plan)
        counters = server.counters()
    expected = (plan.edits, plan.edits * _CHECKS, plan.edits, 1)
    actual = (counters.submits, counters.checks, counters.completed, len(counters.submissions))
    if actual != expected:
        raise RuntimeError(f"submissions, checks, completed tasks, different submissions: {actual}, not {expected}")
    if client in _OWN_PROTOCOL and counters.submissions != {json.dumps(plan.body(), sort_keys=True)}:
        raise RuntimeError(f"{name_of(client)} submitted something else: {str(counters.submissions)[:500]}")
    return cost


def small_picture() -> bytes:
    """Return a JPEG file of 512×512 pixels with some texture."""
    noise = Image.effect_noise((64, 64), 60).resize((512, 512), Image.Resampling.BICUBIC)
    picture = Image.merge("RGB", [noise, noise.transpose(Image.Transpose.ROTATE_90), noise])
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    return file.getvalue()


def main() -> None:
    """Run the benchmark."""
    options = parse(
        __doc__,
        {"edits": 200, "in_flight": 100, "interval": 0.1, "repetitions": 1},
        edits=(4_000, "edits of each measurement"),
        in_flight=(2000, "edits in flight at a time"),
        interval=(0.5, "seconds between checks"),
        repetitions=(3, "repetitions of each"),
    )
    edits, in_flight, repetitions = options.edits, options.in_flight, options.repetitions
    plan = Plan(edits, in_flight, options.interval)
    files = attrs.evolve(plan, edits=min(edits, 1000), in_flight=min(in_flight, 500), image=small_picture())
    fewer = attrs.evolve(plan, edits=min(edits, 5_000), in_flight=min(in_flight, _FEWER))
    fewest = attrs.evolve(plan, edits=min(edits, 200), in_flight=min(in_flight, 50), interval=options.interval / 2)
    groups = [
        Group(
            f"{in_flight:,} in flight",
            plan,
            (library, minimal),
            repetitions,
            (_CPU, _MEMORY),
            _TARGET,
        ),
        Group(
            f"{fewer.in_flight:,} in flight",
            fewer,
            (library, minimal),
            repetitions,
            target=_TARGET_OF_FEWER,
        ),
        Group("JPEG files", files, (library, minimal), repetitions, target=_TARGET_WITH_FILES),
        Group(
            f"{fewest.in_flight} in flight",
            fewest,
            (library, loops_on_aiohttp, loops_on_httpx, *_SDKS, minimal),
            1,
            (_CPU, _MEMORY),
        ),
    ]
    rows = [row for group in groups for row in group.rows()]
    setup = {
        **{
            group.title: f"{group.plan.edits} edits checked every {group.plan.interval:g} s, {group.repetitions} rounds"
            for group in groups
        },
        "checks per task": _CHECKS,
    }
    report("peers", rows, setup, options)


if __name__ == "__main__":
    main()
