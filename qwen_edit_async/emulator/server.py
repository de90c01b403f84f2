"""`EditEmulator`: two HTTP servers on 127.0.0.1, with worker threads and a temporary folder for the pictures."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

import attrs
from aiohttp import web
from anyio.from_thread import start_blocking_portal

from qwen_edit_async.emulator.calls import api_application
from qwen_edit_async.emulator.dashscope import DashScope
from qwen_edit_async.emulator.generation import Generation
from qwen_edit_async.emulator.models import Models
from qwen_edit_async.emulator.queue import Queue
from qwen_edit_async.emulator.results import Results
from qwen_edit_async.emulator.service import Service
from qwen_edit_async.emulator.settings import EmulatorSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from qwen_edit_async.emulator.faults import Fault
    from qwen_edit_async.emulator.statistics import EmulatorStatistics, RequestRecord
    from qwen_edit_async.emulator.tasks import TaskRecord

_HOST = "127.0.0.1"
_STATISTICS_PATH = "/__emulator__/statistics"
_SHUTDOWN_SECONDS = 0.1  # time for replies in progress; 0 would mean no limit


class _Runtime:
    def __init__(self, settings: EmulatorSettings) -> None:
        self.service = Service(settings)
        self.url = ""
        self._port = settings.port
        self._results = Results(self.service)
        self._stack: AsyncExitStack | None = None

    async def start(self) -> None:
        if self._stack is not None:
            raise RuntimeError("an emulator can be started only once: make a new one")
        self._stack = AsyncExitStack()
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._stack.aclose)
            spool = await asyncio.to_thread(tempfile.TemporaryDirectory, prefix="qwen-edit-emulator-")
            self._stack.push_async_callback(asyncio.to_thread, spool.cleanup)
            # The loop's default executor stays free, because the code under test resolves host names on it.
            executor = ThreadPoolExecutor(min(os.cpu_count() or 1, 4), thread_name_prefix="qwen-edit-emulator")
            self._stack.push_async_callback(asyncio.to_thread, executor.shutdown, cancel_futures=True)
            self.service.bind(executor)
            self._results.open(Path(spool.name))
            self._stack.push_async_callback(self._results.aclose)
            self.service.results_url = await self._serve(self._results.application(), 0)
            protocols = (Generation, Queue, DashScope, Models)
            routes = [route for protocol in protocols for route in protocol(self.service, self._results).routes()]
            routes.append(web.get(_STATISTICS_PATH, self._statistics))
            self.url = await self._serve(api_application(routes), self._port)
            undo.pop_all()

    async def aclose(self) -> None:
        if self._stack is not None:
            self.service.close()
            await self._stack.aclose()

    async def _statistics(self, _: web.Request) -> web.Response:
        """Send the counters and the tasks as JSON to a program in another process."""
        tasks = [
            {
                "id": record.id,
                "status": record.status,
                "instruction": record.submission.instruction,
                "created_at": record.created_at,
                "finished_at": record.finished_at,
            }
            for record in self.service.table.records.values()
        ]
        counts = attrs.asdict(self.service.statistics()) | {"tasks": tasks}
        return web.json_response(counts, dumps=functools.partial(json.dumps, default=str))

    async def _serve(self, application: web.Application, port: int) -> str:
        """Serve an application on loopback until the emulator closes, and return the origin."""
        if self._stack is None:
            raise RuntimeError("the emulator is not started")
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, _HOST, port)
        await site.start()
        return f"http://{_HOST}:{site.port}"


@attrs.frozen(kw_only=True, eq=False)
class EditEmulator(EmulatorSettings):
    """The service for ``qwen_image_edit_plus``, emulated in this process on 127.0.0.1, without the model.

    The emulator enforces the documented contract, edits the pictures, keeps an account balance, and fails on demand. It
    also supports the gateway's queue protocol and Alibaba Model Studio's protocol, each on its own paths. Use it with
    `async with`, or call `start` and `aclose`. Synchronous code uses `in_thread`. It can be started only once.

    Args: the fields of `EmulatorSettings`, by keyword.

    Example:
        ``async with EditEmulator(duration=0.1, faults=FaultPlan([Fault.status(503).times(2)])) as emulator: …``
    """

    _runtime: _Runtime = attrs.field(init=False, repr=False, default=attrs.Factory(_Runtime, takes_self=True))

    @property
    def url(self) -> str:
        """The API's origin, for the option ``base_url`` of a session. Empty before the start."""
        return self._runtime.url

    @property
    def results_url(self) -> str:
        """The origin of the result URLs, on another port. Clients must not send it the key. Empty before the start."""
        return self._runtime.service.results_url

    @property
    def tasks(self) -> Mapping[str, TaskRecord]:
        """All tasks by id, in the order of creation."""
        return MappingProxyType(self._runtime.service.table.records)

    @property
    def requests(self) -> Sequence[RequestRecord]:
        """The latest requests, oldest first. The setting `request_log` limits their number."""
        return tuple(self._runtime.service.requests)

    def statistics(self) -> EmulatorStatistics:
        """Return a snapshot of the counters. For other processes, ``/__emulator__/statistics`` serves them as JSON."""
        return self._runtime.service.statistics()

    def inject(self, *faults: Fault) -> None:
        """Append faults to the plan. Their numbers, as in `nth`, count only requests and tasks from now on."""
        self._runtime.service.faults.add(faults)

    async def start(self) -> Self:
        """Start serving.

        Raises:
            OSError: The port is taken.
            RuntimeError: The emulator was started before.
        """
        await self._runtime.start()
        return self

    async def aclose(self) -> None:
        """Stop serving, close open connections and delete the pictures. A second call does nothing."""
        await self._runtime.aclose()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @contextmanager
    def in_thread(self) -> Iterator[Self]:
        """Serve from a thread with its own event loop, for synchronous code or to keep the caller's loop free."""
        with start_blocking_portal("asyncio") as portal, portal.wrap_async_context_manager(self):
            yield self
