"""Every fault, in every phase, with three ways of editing. MATRIX.md lists the outcomes.

``QWEN_EDIT_WRITE_MATRIX=1 pytest tests/faults/test_matrix.py`` writes the file again. Review the differences.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from cells import LONGEST_EDIT, Service, batch, batch_again, estimated, given_up, many, single, troubled_service
from raw_proxy import WireFault
from skipping_loop import SkippingLoop

from qwen_edit_async.emulator import Fault, FaultPlan, Operation
from qwen_edit_async.emulator.faults import FaultRun

pytestmark = [pytest.mark.anyio, pytest.mark.may_block("the loop waits for its threads")]

MATRIX = Path(__file__).with_name("MATRIX.md")
WRITING = bool(os.environ.get("QWEN_EDIT_WRITE_MATRIX"))

HEAD = """\
# Outcomes of each fault

`test_matrix.py` can write this file from observed outcomes, and fails if the outcomes differ from the file. Each row is
a fault in one phase, over real connections. The emulator (`Fault.…`) or a proxy makes the fault. *Once*: the fault
strikes the first request of the phase. *Always*: it strikes every submission, or every other request about the first
task. Faults of a *task* strike the first task, or all tasks. The phases *result* and *cancel* belong to the queue
protocol. The phase *cancel* gives up one task. The phase *precharge* requests the price of one edit. The phase
*dashscope* is the submission in DashScope's protocol, whose reply holds the result.

*One edit* is an `edit` and a download. *Three* edits run two at a time. *The batch again* is a second run without the
fault. `max_retries` is 2, `deadline` 60 s, `timeout` 10 s, `resubmit_uncertain` off.

The test also checks every cell:

- No edit has two tasks.
- Each task's id is in a result, an error, `session.unfinished` or the journal, or its edit is reported as uncertain.
- All slots are free at the end. No check, connection or asyncio task is left.
- The key reached only the API.
- No edit takes longer than 100 s by the event loop's clock, and three edits take at most three times that.

| fault | phase | how often | one edit | three by `edit_many` | three by `EditBatch` | the batch again |
|---|---|---|---|---|---|---|
"""


def without_id(reply: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in reply.items() if name != "id"}


def as_list(reply: dict[str, Any]) -> list[dict[str, Any]]:
    return [reply]


def empty(_: dict[str, Any]) -> dict[str, Any]:
    return {}


FAULTS = [
    "status(200)",
    "status(400)",
    "status(401)",
    "status(402)",
    "status(403)",
    "status(404)",
    "status(429)",
    "status(429, retry_after=20)",
    "status(500)",
    "status(500, accepted=True)",
    "status(503)",
    "status(503, retry_after=20)",
    "status(504)",
    "html_page()",
    "html_page(504, accepted=True)",
    "redirect()",
    "drop_reply()",
    "drop_request()",
    "drop_request(read_body=False)",
    "hang()",
    "hang(accepted=False)",
    "slow(delay=5)",
    "slow(delay=20)",
    "slow(bytes_per_second=400)",
    "slow(bytes_per_second=1)",
    "truncated_json()",
    "malformed_json()",
    "content_type()",
    "reshape(without_id)",
    "reshape(as_list)",
    "reshape(empty)",
    "status_word('dreaming')",
    "status_word(str.upper)",
    "expired_url()",
    "truncated_download()",
    "wrong_download()",
    "stuck_task()",
    "failed_task()",
    "failed_task(shape='string')",
    "vanished_task()",
    "vanished_task(after_checks=1)",
]
"""Calls of `Fault`'s class methods."""

COLUMNS = 4
PHASES = ("submit", "check", "download")
WORK_OF_PHASE = {"cancel": ((given_up, 1),), "precharge": ((estimated, 1),)}


def phases_of(fault: Fault) -> list[str]:
    """Return the phases whose requests the fault strikes, or ``task`` if there are none."""
    struck = [phase for phase in get_args(Operation) if FaultRun(FaultPlan([fault])).on_request(phase, 1, None)]
    return struck or ["task"]


def rows() -> Iterator[tuple[str, Fault | WireFault, str, bool]]:
    for call in FAULTS:
        fault = eval(f"Fault.{call}")
        phases = phases_of(fault)
        for phase in (*phases, *(("dashscope",) if "submit" in phases else ())):
            yield from ((f"`{call}`", fault, phase, once) for once in (True, False))
    for wire_fault in WireFault:
        for phase in PHASES:
            yield from ((wire_fault.value, wire_fault, phase, once) for once in (True, False))


ROWS = list(rows())


@pytest.fixture
def anyio_backend() -> object:
    return "asyncio", {"loop_factory": SkippingLoop}


@pytest.fixture(scope="module")
def observed(told) -> Iterator[dict[str, str]]:
    """Return the observed rows by their first three columns."""
    found: dict[str, str] = {}
    yield found
    if WRITING:
        lines = told | found
        MATRIX.write_text(HEAD + "".join(lines.get(title(*row), "") for row in ROWS), encoding="utf-8")


@pytest.fixture(scope="module")
def told() -> dict[str, str]:
    """Return the file's rows by their first three columns."""
    return {columns_of(line): line for line in lines_told()}


def lines_told() -> list[str]:
    text = MATRIX.read_text(encoding="utf-8") if MATRIX.exists() else ""
    return text.partition("|---|\n")[2].splitlines(keepends=True)


def columns_of(line: str) -> str:
    return "|".join(line.split("|")[:4])


def title(name: str, _: Fault | WireFault, phase: str, once: bool) -> str:  # noqa: FBT001  # a row
    return f"| {name} | {phase} | {'once' if once else 'always'} "


async def timed(work: Callable[[Service, Path], Awaitable[str]], service: Service, folder: Path) -> tuple[str, float]:
    started_at = asyncio.get_running_loop().time()
    text = await work(service, folder)
    return text, asyncio.get_running_loop().time() - started_at


@pytest.mark.parametrize("row", ROWS, ids=[title(*row).strip("| ").replace(" | ", "-") for row in ROWS])
async def test_the_outcome_of_a_fault_is_the_one_in_the_matrix(row, tmp_path, observed, told):
    _, fault, phase, once = row
    cells = []
    for work, edits in WORK_OF_PHASE.get(phase, ((single, 1), (many, 3), (batch, 3))):
        async with troubled_service(fault, phase, once=once) as service:
            text, seconds = await timed(work, service, tmp_path)
            cells.append(text)
            assert seconds <= LONGEST_EDIT * edits
            if work is batch:
                cells.append(await batch_again(service, tmp_path))
    cells += [""] * (COLUMNS - len(cells))
    line = f"{title(*row)}| {' | '.join(cells)} |\n"
    observed[title(*row)] = line
    if not WRITING:
        assert line == told.get(title(*row))


def test_every_fault_of_the_emulator_is_in_the_matrix():
    makers = {name for name, member in vars(Fault).items() if isinstance(member, classmethod) and name[0] != "_"}
    assert {call.partition("(")[0] for call in FAULTS} == makers


@pytest.mark.skipif(WRITING, reason="this run rewrites the matrix, and does so after its last test")
def test_the_matrix_has_no_other_rows():
    assert MATRIX.read_text(encoding="utf-8").startswith(HEAD)
    assert [columns_of(line) for line in lines_told()] == [title(*row) for row in ROWS]
