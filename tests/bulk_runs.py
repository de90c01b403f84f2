"""Helpers of the bulk runs' tests."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import anyio
from emulator_calls import encode
from jitter import NoJitter
from PIL import Image

from qwen_edit_async import (
    EditSession,
    FixedInterval,
)
from qwen_edit_async.batch.journal.journal import JOURNAL_NAME
from qwen_edit_async.emulator import EditEmulator, Fault, FaultPlan, FixedEngine

PHOTO = encode(Image.new("RGB", (400, 400), "#7f9cf5"))


@contextlib.asynccontextmanager
async def service(
    *faults: Fault,
    duration: float = 0.0,
    max_in_flight: int = 8,
    protocol: Any = None,
    on_event: Any = None,
    fit: bool = False,
    **settings: object,
):
    """Start an emulator, and yield it with a session on it."""
    plan = FaultPlan(faults)
    async with (
        EditEmulator(duration=duration, engine=FixedEngine(), faults=plan, **settings) as emulator,
        EditSession(
            emulator.api_key,
            base_url=emulator.url,
            protocol=protocol,
            polling=FixedInterval(0.01),
            max_in_flight=max_in_flight,
            max_retries=0,
            random=NoJitter(),
            on_event=on_event,
            fit=fit,
        ) as session,
    ):
        yield emulator, session


def states(out: Path) -> dict[str, str]:
    with contextlib.closing(sqlite3.connect(out / JOURNAL_NAME)) as journal:
        return dict(journal.execute("SELECT key, state FROM edits ORDER BY number"))


def pictures(out: Path) -> set[str]:
    return {path.name for path in out.iterdir() if path.suffix == ".png"}


LOSES_SIGHT = Fault.status(400).on("check")
"""Makes a session stop waiting for its task, so that the run ends with the task in flight."""


async def until(condition) -> None:
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110  # the emulator and the session have no event for it
            await asyncio.sleep(0.005)


def columns(out: Path, *names: str) -> list[tuple[object, ...]]:
    """Return columns of the journal's edits, in order."""
    with contextlib.closing(sqlite3.connect(out / JOURNAL_NAME)) as journal:
        return journal.execute(f"SELECT {', '.join(names)} FROM edits ORDER BY number").fetchall()


class OddPath:
    """A path object of another library whose ``__fspath__`` raises."""

    def __str__(self) -> str:
        return "bucket/a.png"

    def __fspath__(self) -> str:
        raise RuntimeError("no local path")
