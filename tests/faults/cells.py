"""The cells of the fault matrix: ways of editing under a fault, and checks that hold in every cell."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import attrs
from emulator_calls import encode
from PIL import Image
from raw_proxy import RawProxy, WireFault, WireFaults

from qwen_edit_async import (
    BatchReport,
    EditBatch,
    EditRequest,
    EditSession,
    FixedInterval,
    NotFoundError,
    SubmitUncertainError,
)
from qwen_edit_async.emulator import EditEmulator, Fault, FaultPlan, FixedEngine
from qwen_edit_async.emulator.faults import FaultRun
from qwen_edit_async.http.api import AiohttpTransport
from qwen_edit_async.http.body import JSONBody
from qwen_edit_async.http.network import Network
from qwen_edit_async.http.options import resolve_timeouts
from qwen_edit_async.http.secret import Secret
from qwen_edit_async.protocol.base import Call
from qwen_edit_async.threads import Offloader

PHOTO = encode(Image.new("RGB", (400, 400), "#7f9cf5"))
DEADLINE = 60.0
TIMEOUT = 10.0
EDITS = 3

LONGEST_EDIT = DEADLINE + 4 * TIMEOUT
"""The most seconds that an edit may take: the deadline, one more reply, and three attempts at a download."""

PROTOCOL_OF_PHASE = {"result": "queue", "cancel": "queue", "dashscope": "dashscope"}

OPTIONS: dict[str, Any] = {
    "polling": FixedInterval(1.0),
    "deadline": DEADLINE,
    "timeout": TIMEOUT,
    "max_in_flight": 2,
}


@attrs.define(eq=False)
class Service:
    """An emulator, the URL and protocol to use, and the fault of the proxies if the URL is a proxy's."""

    emulator: EditEmulator
    url: str
    faults: WireFaults | None = None
    protocol: str = "generation"

    def mend(self) -> None:
        """Remove the fault."""
        self.emulator._runtime.service.faults = FaultRun(FaultPlan())
        for record in self.emulator.tasks.values():
            record.fault = None  # vanished tasks come back
        if self.faults is not None:
            self.faults.spent = True

    @property
    def created(self) -> set[str]:
        """Check that no edit has two tasks and that the key reached only the API. Return the ids of all tasks."""
        edits = Counter(record.submission.instruction for record in self.emulator.tasks.values())
        assert max(edits.values(), default=0) <= 1
        assert self.emulator.statistics().keys_at_results == 0
        return set(self.emulator.tasks)


@contextlib.asynccontextmanager
async def troubled_service(fault: Fault | WireFault, phase: str, *, once: bool) -> AsyncIterator[Service]:
    """Start a service whose fault strikes once, or every submission and every request of the first task."""
    plan = FaultPlan([narrowed(fault, phase, once=once)] if isinstance(fault, Fault) else [])
    async with EditEmulator(engine=FixedEngine(), duration=1.5, faults=plan) as emulator:
        if isinstance(fault, Fault):
            yield Service(emulator, emulator.url, protocol=PROTOCOL_OF_PHASE.get(phase, "generation"))
            return
        faults = WireFaults(fault, phase, once)
        async with (
            RawProxy(emulator.url, faults).serving() as proxy,
            RawProxy(emulator.results_url, faults).serving() as results,
        ):
            emulator._runtime.service.results_url = results.url
            yield Service(emulator, proxy.url, faults)


def narrowed(fault: Fault, phase: str, *, once: bool) -> Fault:
    if phase == "task":
        return fault.times(1) if once else fault
    fault = fault.on("submit" if phase == "dashscope" else phase)
    if once:
        return fault.times(1)
    return fault if phase in {"submit", "dashscope", "precharge"} else fault.for_task(1)


@contextlib.asynccontextmanager
async def session_on(service: Service, **options: Any) -> AsyncIterator[EditSession]:
    """Open a session. Check at its end that no edit waits and no task is in flight or checked."""
    key, timeouts = Secret(service.emulator.api_key), resolve_timeouts(TIMEOUT)
    transport = AiohttpTransport(service.url, key, timeouts, default_headers={}, network=Network())
    envelope = "flat" if service.protocol == "generation" else "auto"
    service_options = {"protocol": service.protocol, "envelope": envelope, "transport": transport, "random": Random(7)}
    options = OPTIONS | service_options | options
    async with EditSession(service.emulator.api_key, base_url=service.url, **options) as session:
        if service.faults is not None and service.faults.fault is WireFault.CLOSED_WHEN_REUSED:
            # Open a connection for the first check and the first submission.
            with contextlib.suppress(NotFoundError):
                await session.status("nobody")
            body = JSONBody([b"{}"], [], Offloader(1), stall_timeout=1.0)
            await transport.send(Call(method="POST", path="/nowhere"), body)
        yield session
        counts = session.statistics()
        assert (counts.in_flight, counts.waiting, counts.watched) == (0, 0, 0)


async def single(service: Service, _: Path) -> str:
    """Make one edit and its download."""
    async with session_on(service) as session:
        end = await _end_of(session, PHOTO)
        hold_accounts(service, [end], session.unfinished, edits=1)
    return shown([end])


async def many(service: Service, _: Path) -> str:
    """Make three edits with ``edit_many``, two at a time, and download the results."""
    async with session_on(service) as session:
        ends = [outcome.error or await _downloaded(outcome.result) async for outcome in session.edit_many(_requests())]
        hold_accounts(service, ends, session.unfinished, edits=EDITS)
    return shown(ends)


async def given_up(service: Service, _: Path) -> str:
    """Give up one task, and close the session."""
    async with session_on(service) as session:
        task = await session.submit(PHOTO, "make it sepia")
        task.cancel()
    at_service = "cancelled" if service.emulator.tasks[task.id].failure is not None else "runs on"
    in_session = "runs on" if task.id in session.unfinished else "cancelled"
    return at_service if at_service == in_session else f"{at_service} at the service, but {in_session} in the session"


async def estimated(service: Service, _: Path) -> str:
    """Request the price of an edit."""
    async with session_on(service) as session:
        try:
            outcome = f"{(await session.estimate(PHOTO, 'make it sepia')).cost:f}"
        except Exception as error:  # noqa: BLE001  # the error is the cell's outcome
            outcome = _name(error)
    assert service.created == set()
    return outcome


async def batch(service: Service, folder: Path) -> str:
    """Make three edits with ``EditBatch``, two at a time."""
    return await _run_batch(service, folder / "out")


async def batch_again(service: Service, folder: Path) -> str:
    """Run the same batch again without the fault."""
    service.mend()
    return await _run_batch(service, folder / "out")


async def _run_batch(service: Service, folder: Path) -> str:
    """Check that the journal has each task's id, or that the task's edit is uncertain."""
    bulk = EditBatch(_requests(), folder)
    async with session_on(service) as session:
        report = await bulk.run(session)
    outcomes = [outcome async for outcome in bulk.outcomes()]
    nameless = service.created - {outcome.task_id for outcome in outcomes}
    assert len(nameless) <= sum(outcome.status == "uncertain" and not outcome.task_id for outcome in outcomes)
    assert report.total == len(outcomes) == EDITS
    assert report.saved == len(list(folder.glob("*.png")))  # noqa: ASYNC240  # only the test waits
    return shown_report(report)


def hold_accounts(service: Service, ends: list[str | Exception], unfinished: tuple[str, ...], *, edits: int) -> None:
    """Check that each edit has one outcome and at most one task, and that each task has a known id or is uncertain."""
    assert len(ends) == edits
    named = {end if isinstance(end, str) else getattr(end, "task_id", None) for end in ends} | set(unfinished)
    uncertain = sum(isinstance(end, SubmitUncertainError) for end in ends)
    assert len(service.created) <= edits
    assert len(service.created - named) <= uncertain


def shown(ends: list[str | Exception]) -> str:
    """Return a summary such as "2 done, 1 `DownloadError` with id"."""
    words = Counter("done" if isinstance(end, str) else _name(end) for end in ends)
    return ", ".join(f"{count} {word}" for word, count in words.items()) if len(ends) > 1 else next(iter(words))


def shown_report(report: BatchReport) -> str:
    """Return a summary such as "2 saved, 1 uncertain"."""
    states = ("saved", "unsaved", "in_flight", "planned", "failed", "uncertain")
    counts = {state.replace("_", " "): getattr(report, state) for state in states}
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count)


async def _end_of(session: EditSession, image: bytes) -> str | Exception:
    try:
        result = await session.edit(image, "make it sepia")
    except Exception as error:  # noqa: BLE001  # the error is the cell's outcome
        return error
    return await _downloaded(result)


async def _downloaded(result: Any) -> str | Exception:
    try:
        assert (await result.images[0].read()).startswith(b"\x89PNG")
    except Exception as error:  # noqa: BLE001  # the error is the cell's outcome
        return error
    return str(result.task_id)


def _requests() -> list[EditRequest]:
    return [EditRequest(PHOTO, f"make it sepia {number}", key=f"edit{number}") for number in range(EDITS)]


def _name(error: Exception) -> str:
    return f"`{type(error).__name__}`" + (" with id" if getattr(error, "task_id", None) else "")
