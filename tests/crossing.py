"""Files that show whether two threads read them at once."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class Crossing(io.BytesIO):
    """A file whose concurrent readers take turns after each read."""

    meeting: threading.Barrier | None = None

    def read(self, size: int | None = -1, /) -> bytes:
        if self.meeting is not None:
            with contextlib.suppress(threading.BrokenBarrierError):
                self.meeting.wait(0.1)  # no other reader: a broken barrier delays no later read
        return super().read(size)


def at_once(*jobs: Callable[[], object]) -> list[object]:
    """Run each job on a thread, and return their results."""
    with ThreadPoolExecutor(len(jobs)) as threads:
        return [job.result() for job in [threads.submit(job) for job in jobs]]
