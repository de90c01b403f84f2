"""Waiting under a ceiling of checks per second: sessions on the emulator, in real time."""

from __future__ import annotations

import asyncio
import io
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import NamedTuple

import attrs
from PIL import Image

from qwen_edit_async import EditRequest, EditSession, PollPolicy
from qwen_edit_async.emulator import EditEmulator, FixedEngine, LogNormal

GENERATIONS = 3
"""Edits per place in flight. The first ones start together and the last ones end alone, so only the middle counts."""


class Waits(NamedTuple):
    """Waits in seconds: the mean lag, and the longest time between two checks of a task."""

    lag: float
    longest: float


@attrs.frozen
class _Client:
    policy: PollPolicy
    url: str
    api_key: str
    connection: Connection


def emulate_rate(policies: dict[str, PollPolicy], in_flight: int, poll_rate: float, seed: int) -> dict[str, Waits]:
    """Measure all policies at the same time, each with its own emulator in its own process.

    A task lasts about four rounds of checks of all tasks in flight.
    """
    median = 4 * in_flight / poll_rate
    clients: dict[str, _Client] = {}
    with _emulators(len(policies), median, seed) as connections:
        for (name, policy), connection in zip(policies.items(), connections, strict=True):
            clients[name] = _Client(policy, *connection.recv(), connection)
        asyncio.run(_edit(list(clients.values()), in_flight, poll_rate))
        for client in clients.values():
            client.connection.send((in_flight, 2 * in_flight))
        return {name: client.connection.recv() for name, client in clients.items()}


async def _edit(clients: list[_Client], in_flight: int, poll_rate: float) -> None:
    file = io.BytesIO()
    Image.new("L", (400, 400)).save(file, "PNG")

    async def edit(client: _Client) -> None:
        async with EditSession(
            client.api_key, base_url=client.url, max_in_flight=in_flight, poll_rate=poll_rate, polling=client.policy
        ) as session:
            requests = (EditRequest(file.getvalue(), "make it snow") for _ in range(GENERATIONS * in_flight))
            async for outcome in session.edit_many(requests):
                if outcome.error is not None:
                    raise outcome.error

    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(edit(client))


@contextmanager
def _emulators(number: int, median: float, seed: int) -> Iterator[list[Connection]]:
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(number)]
    processes = [context.Process(target=_serve, args=(theirs, median, seed), daemon=True) for _, theirs in pipes]
    for process, (_, theirs) in zip(processes, pipes, strict=True):
        process.start()
        theirs.close()
    try:
        yield [ours for ours, _ in pipes]
    finally:
        for process, (ours, _) in zip(processes, pipes, strict=True):
            ours.close()
            process.join()


def _serve(connection: Connection, median: float, seed: int) -> None:
    emulator = EditEmulator(
        engine=FixedEngine(), duration=LogNormal(median=median, sigma=0.35), seed=seed, request_log=1_000_000
    )
    with emulator.in_thread():
        connection.send((emulator.url, emulator.api_key))
        try:
            first, last = connection.recv()
        except EOFError:
            return
        connection.send(_waits(emulator, first, last))


def _waits(emulator: EditEmulator, first: int, last: int) -> Waits:
    """Return the waits of the tasks ``first`` to ``last``, in the order of creation."""
    records = list(emulator.tasks.values())[first:last]
    asked_at = {record.id: record.created_at for record in records}
    longest = 0.0
    for request in emulator.requests:
        task_id = request.path.rpartition("/")[2]
        if task_id in asked_at:
            longest = max(longest, request.time - asked_at[task_id])
            asked_at[task_id] = request.time
    return Waits(sum(record.lag or 0.0 for record in records) / len(records), longest)
