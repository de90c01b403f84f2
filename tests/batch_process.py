"""Bulk runs that a test can kill: ``batch_process.py URL KEY FOLDER``.

Each line on standard input forks a process for one run, which saves the start of Python. The output is ``running PID``
when a run begins, and ``ended CODE`` when its process has ended.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from qwen_edit_async import EditBatch, EditParameters, EditRequest, EditSession, FixedInterval

EDITS = 60
CONSENT = "resubmit"


def pictures(number: int) -> int:
    return 1 + number % 2


def requests(folder: Path) -> Iterator[EditRequest]:
    for number in range(EDITS):
        parameters = EditParameters(n=pictures(number), seed=number)
        yield EditRequest(folder / "photo.png", "make it snow", parameters, key=f"edit{number}")


async def main(url: str, key: str, folder: Path, *, consent: bool) -> int:
    async with EditSession(key, base_url=url, polling=FixedInterval(0.01), max_in_flight=4) as session:
        say(f"running {os.getpid()}")
        report = await EditBatch(requests(folder), folder / "out", resubmit_uncertain=consent).run(session)
    return 0 if report.ok else 1


def say(line: str) -> None:
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


if __name__ == "__main__":
    url, key, folder = sys.argv[1:]
    for line in sys.stdin:
        process = os.fork()
        if not process:
            os._exit(asyncio.run(main(url, key, Path(folder), consent=line.strip() == CONSENT)))
        _, status = os.waitpid(process, 0)
        say(f"ended {os.waitstatus_to_exitcode(status)}")
