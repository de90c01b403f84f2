"""Files that show whether two threads read them at once."""

from __future__ import annotations

import contextlib
import io
import tarfile
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import IO


class Crossing(io.BytesIO):
    """A file whose concurrent readers take turns after each read."""

    meeting: threading.Barrier | None = None

    def read(self, size: int | None = -1, /) -> bytes:
        if self.meeting is not None:
            with contextlib.suppress(threading.BrokenBarrierError):
                self.meeting.wait(0.1)  # no other reader came; the broken barrier does not delay later reads
        return super().read(size)


def at_once(*jobs: Callable[[], object]) -> list[object]:
    """Run each job on a thread, and return their results."""
    with ThreadPoolExecutor(len(jobs)) as threads:
        return [job.result() for job in [threads.submit(job) for job in jobs]]


class RemoteMember:
    """A remote path whose ``open()`` returns a member of an archive."""

    def __init__(self, archive: tarfile.TarFile, name: str) -> None:
        self._open = lambda: archive.extractfile(name)

    def open(self) -> IO[bytes] | None:
        return self._open()


def tar_of(contents: Iterable[bytes]) -> Crossing:
    """Return a tar archive of files whose names are their numbers."""
    file = Crossing()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number, each in enumerate(contents):
            member = tarfile.TarInfo(str(number))
            member.size = len(each)
            archive.addfile(member, io.BytesIO(each))
    file.seek(0)
    return file
