"""The state that the API server and the results server share, and the checks of each API call's rate and key."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import Counter, deque
from email.utils import formatdate
from typing import TYPE_CHECKING

from qwen_edit_async.emulator.faults import FaultRun
from qwen_edit_async.emulator.statistics import EmulatorStatistics, RequestRecord
from qwen_edit_async.emulator.tasks import RATE_LIMIT_CODE, TaskTable
from qwen_edit_async.emulator.validation import RejectedError

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from aiohttp import web

    from qwen_edit_async.emulator.settings import EmulatorSettings

_WINDOW_SECONDS = 1.0


class Service:
    """The state of one emulator."""

    def __init__(self, settings: EmulatorSettings) -> None:
        self.settings = settings
        self.table: TaskTable = TaskTable(
            duration=settings.duration,
            time_scale=settings.time_scale,
            slots=settings.slots,
            queue=settings.queue,
            price=settings.price,
            balance=settings.balance,
            seed=settings.seed,
        )
        self.faults: FaultRun = FaultRun(settings.faults)
        self.requests: deque[RequestRecord] = deque(maxlen=settings.request_log)
        self.counts: Counter[str] = Counter()
        self.refused = self.redirects = self.keys_at_results = 0
        self.results_url = ""
        self.closing: asyncio.Event = asyncio.Event()
        self._authorization = f"Bearer {settings.api_key}".encode()
        self._recent: deque[float] = deque()
        self._epoch = 0.0
        self._executor: Executor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def bind(self, executor: Executor) -> None:
        """Use the running loop's clock, and an executor for work that would block the loop."""
        self._loop = asyncio.get_running_loop()
        self._executor = executor
        self._epoch = time.time() - self._loop.time()

    def close(self) -> None:
        """End the waits of all requests, so that the emulator can close."""
        self.closing.set()
        for record in self.table.records.values():
            if record.on_change is not None:
                record.on_change()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The emulator's event loop.

        Raises:
            RuntimeError: The emulator is not started.
        """
        if self._loop is None:
            raise RuntimeError("the emulator is not started")
        return self._loop

    @property
    def executor(self) -> Executor | None:
        """Threads for work that would block the loop."""
        return self._executor

    def now(self) -> float:
        """Return the time of the loop's clock, in seconds."""
        return self.loop.time()

    def since_1970(self, moment: float) -> float:
        """Convert a time of the loop's clock to seconds since 1970."""
        return self._epoch + moment

    def note(self, request: web.BaseRequest) -> None:
        """Add a request to the log."""
        names = tuple(name.lower() for name in request.headers)
        self.requests.append(RequestRecord(request.method, request.path, self.now(), names))

    def admit(self, request: web.BaseRequest) -> None:
        """Check the rate and the key of an API call.

        Raises:
            RejectedError: The rate is too high (429), or the key is wrong (401).
        """
        if self.settings.requests_per_second is not None:
            now = self.now()
            while self._recent and self._recent[0] <= now - _WINDOW_SECONDS:
                self._recent.popleft()
            if len(self._recent) >= self.settings.requests_per_second:
                raise RejectedError("too many requests", status=429, code=RATE_LIMIT_CODE)
            self._recent.append(now)
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, self._authorization):
            raise RejectedError("the API key is missing or invalid", status=401, code=401)

    def retry_after(self) -> dict[str, str]:
        """Return the headers of a 429 reply."""
        setting = self.settings.retry_after
        if setting is None:
            return {}
        if setting == "date":
            return {"Retry-After": formatdate(self.since_1970(self.now()) + 1, usegmt=True)}
        return {"Retry-After": f"{setting:g}"}

    def statistics(self) -> EmulatorStatistics:
        """Return a snapshot of the counters."""
        table = self.table
        if self._loop is not None and not self._loop.is_closed():
            table.advance(self.now())
        records = list(table.records.values())
        return EmulatorStatistics(
            submits=self.counts["submit"],
            checks=self.counts["check"],
            results=self.counts["result"],
            cancels=self.counts["cancel"],
            downloads=self.counts["download"],
            precharges=self.counts["precharge"],
            refused=self.refused,
            redirects=self.redirects,
            tasks_created=len(records),
            tasks_completed=table.completed,
            tasks_failed=table.failed,
            tasks_cancelled=table.cancelled,
            unfinished=table.unfinished,
            peak_unfinished=table.peak_unfinished,
            charges=table.charges,
            balance=table.balance,
            keys_at_results=self.keys_at_results,
            checks_per_task=tuple(record.checks for record in records),
            lags=tuple(record.lag for record in records if record.lag is not None),
        )
