"""The hub of a cluster and its workers in the process of a test, without Ray."""

from __future__ import annotations

import contextlib
from pathlib import Path

import attrs
from commands import API_KEY

from qwen_edit_async import FixedInterval
from qwen_edit_async.emulator import EditEmulator, Fault, FaultPlan, FixedEngine
from qwen_edit_async.ray import EditRows
from qwen_edit_async.ray.actor import HubActor


@attrs.define
class LocalHub:
    """A hub in this process."""

    actor: HubActor

    async def ask(self, method: str, *arguments: object) -> object:
        return await getattr(self.actor, method)(*arguments)


@contextlib.asynccontextmanager
async def cluster(tmp_path: Path, *faults: Fault, save_to: str = ""):
    """Start an emulator and a hub, and yield them with a worker."""
    plan = FaultPlan(faults)
    async with EditEmulator(api_key=API_KEY, duration=0.0, engine=FixedEngine(), faults=plan) as emulator:
        session = {"base_url": emulator.url, "polling": FixedInterval(0.01), "max_retries": 0}
        actor = HubActor(str(tmp_path / "job"), {}, session)
        try:
            yield emulator, actor, EditRows(LocalHub(actor), save_to or tmp_path / "out")
        finally:
            await actor.stop()


def row(photo: object, key: str | None = "a", **cells: object) -> dict[str, object]:
    return {"image": photo, "instruction": "make it snow", "key": key, **cells}
