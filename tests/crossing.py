"""Files that show whether two threads read them at once."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class Crossing(io.BytesIO):
    """A file whose readers wait for each other: two that are in it at once take turns after each piece."""

    meeting: threading.Barrier | None = None

    def read(self, size: int | None = -1, /) -> bytes:
        if self.meeting is not None:
            with contextlib.suppress(threading.BrokenBarrierError):
                self.meeting.wait(0.1)  # nobody comes: once broken, it holds up no other piece
        return super().read(size)


def at_once(*jobs: Callable[[], object]) -> list[object]:
    """What each job returns, all of them on threads of their own."""
    with ThreadPoolExecutor(len(jobs)) as threads:
        return [job.result() for job in [threads.submit(job) for job in jobs]]
