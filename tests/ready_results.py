"""Results without downloads, for tests of notebook output."""

from __future__ import annotations

from decimal import Decimal

import PIL.Image
from emulator_calls import encode

from qwen_edit_async import (
    EditFailedError,
    EditOutcome,
    EditRequest,
    EditResult,
    EditTimings,
    OutputImage,
    SessionClosedError,
    Usage,
)
from qwen_edit_async.display.thumbnails import Previews

PHOTO = encode(PIL.Image.new("RGB", (640, 480), "teal"))
HOSTILE = "</div><script>attack()</script>\"'><img src=x onerror=attack()>"


class Store:
    """A store that returns every result at once."""

    def __init__(self, *, closed: bool = False) -> None:
        self.closed = closed
        self.offloaded = 0

    async def read(self, url, task_id, index):
        return PHOTO

    async def save(self, url, task_id, index, path):
        path.write_bytes(PHOTO)
        return path, ""

    async def offload(self, function, *arguments):
        self.offloaded += 1
        if self.closed:
            raise SessionClosedError("closed")
        return function(*arguments)


def result_of(store=None, *, request=None, count=1, cost=Decimal("0.0357")) -> EditResult:
    previews = Previews(request.images if request is not None else ())
    return EditResult(
        task_id="task-1",
        images=tuple(
            OutputImage(
                url="https://host.test/x.png?sig=secret", task_id="task-1", index=i, store=store, previews=previews
            )
            for i in range(count)
        ),
        usage=Usage(cost=cost),
        timings=EditTimings(running=3.0, checks=2),
        request=request,
        previews=previews,
    )


def failure_of(instruction="make it snow") -> EditOutcome:
    return EditOutcome(
        index=3, request=EditRequest("cat.jpg", instruction, key="cat"), error=EditFailedError("no", task_id="task-9")
    )
