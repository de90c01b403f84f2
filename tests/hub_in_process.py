"""A cluster's hub and worker in the test's process, without Ray."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
from collections.abc import Callable
from pathlib import Path

import attrs
from commands import API_KEY

from qwen_edit_async import EditRequest, FixedInterval
from qwen_edit_async.emulator import EditEmulator, Fault, FaultPlan, FixedEngine
from qwen_edit_async.ray import EditRows
from qwen_edit_async.ray.actor import HubActor


@attrs.define
class LocalHub:
    """A hub in this process.

    Attributes:
        on_images: Called with images that a worker sends, before they arrive.
    """

    actor: HubActor
    on_images: Callable[[object], None]

    async def ask(self, method: str, *arguments: object) -> object:
        if method == "edit" and len(arguments) > 1:
            await asyncio.to_thread(self.on_images, arguments[1])
        return _copied(await getattr(self.actor, method)(*_copied(arguments)))


@attrs.define
class DeafHub:
    """A hub that never gets the calls of one method, as if the worker had died before the call.

    Attributes:
        hub: The hub that gets the other calls.
        method: The name of the method.
        missed: The arguments of the calls that the hub missed.
    """

    hub: LocalHub | None
    method: str
    missed: list[tuple[object, ...]] = attrs.field(factory=list)

    async def ask(self, method: str, *arguments: object) -> object:
        if method == self.method:
            self.missed.append(arguments)
            raise ConnectionError("the worker died")
        return await self.hub.ask(method, *arguments)


async def identified(cells: dict[str, object]) -> EditRequest:
    """Return the request that a worker sends to the hub for a row."""
    hub = DeafHub(None, "edit")
    await EditRows(hub, "out").edit(cells)
    ((request,),) = hub.missed
    return request


def _copied(value):
    """Return the value as another process would receive it."""
    return pickle.loads(pickle.dumps(value))


@contextlib.asynccontextmanager
async def cluster(
    tmp_path: Path,
    *faults: Fault,
    save_to: str = "",
    duration: float = 0.0,
    on_images: Callable[[object], None] = lambda _: None,
    **session: object,
):
    """Start an emulator and a hub, and yield them with a worker."""
    plan = FaultPlan(faults)
    async with EditEmulator(api_key=API_KEY, duration=duration, engine=FixedEngine(), faults=plan) as emulator:
        session |= {"base_url": emulator.url, "polling": FixedInterval(0.01), "max_retries": 0}
        actor = HubActor(str(tmp_path / "job"), {}, session)
        try:
            yield emulator, actor, EditRows(LocalHub(actor, on_images), save_to or tmp_path / "out")
        finally:
            await actor.stop()


def row(photo: object, key: str | None = "a", **cells: object) -> dict[str, object]:
    return {"image": photo, "instruction": "make it snow", "key": key, **cells}
