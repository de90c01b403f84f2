"""The state of a session, and the host task that runs its background work while it is open.

Opening a session leaves no task group or cancel scope open in the caller. So a session can be opened, used and closed
in different notebook cells.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import attrs

from qwen_edit_async.errors import BadRequestError, DeadlineExceededError, QwenEditError, SessionClosedError
from qwen_edit_async.http.api import Transport
from qwen_edit_async.http.body import JSONBody
from qwen_edit_async.http.downloads import Downloader
from qwen_edit_async.http.fetcher import Fetcher
from qwen_edit_async.images.prepare import prepare
from qwen_edit_async.images.upload import Upload
from qwen_edit_async.log import log
from qwen_edit_async.models import EditRequest
from qwen_edit_async.protocol.base import WireProtocol
from qwen_edit_async.protocol.choice import MALFORMED_STATUSES, Forms
from qwen_edit_async.scheduling.pacer import Pacer
from qwen_edit_async.scheduling.retry import CallFailure, judge_check
from qwen_edit_async.session.background import BackgroundTasks
from qwen_edit_async.session.gate import Gate
from qwen_edit_async.session.options import Limits, Options
from qwen_edit_async.session.parts import SessionParts
from qwen_edit_async.session.poller import Poller
from qwen_edit_async.session.shield import wait_shielded
from qwen_edit_async.session.submitter import Submitter
from qwen_edit_async.session.task import require_loop
from qwen_edit_async.statistics import SessionStatistics
from qwen_edit_async.storage.paths import FilePath
from qwen_edit_async.tasks import Estimate, TaskSnapshot, TaskStatus
from qwen_edit_async.threads import Offloader

T = TypeVar("T")

_THREADS = min(4, max(2, os.cpu_count() or 2))
"""The number of threads. More threads than cores slow each other down, but with one, a slow disk delays all work."""

_running: set[asyncio.Task[None]] = set()
"""The host tasks. Event loops hold tasks weakly, so without this set a host task could be garbage-collected."""


class Runtime:
    """The state and background work of an open session. It is also the :class:`ResultStore` of the session's results.

    The constructor starts the host task on the running event loop.

    Attributes:
        crash: The error that crashed the background work and ended the session; ``None`` without a crash.
    """

    def __init__(self, transport: Transport, forms: Forms, options: Options) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.crash: BaseException | None = None
        self._process = os.getpid()
        self._options = options
        self._closing = False
        has_tasks = forms.protocol.has_tasks
        pacer = Pacer(options.max_in_flight, options.submit_rate, replies_hold_results=not has_tasks)
        self.gate: Gate = Gate(pacer, self.loop)
        self._offloader, self._counters = Offloader(_THREADS), SessionStatistics()
        self._parts = SessionParts(transport, forms, options, self.gate, self._offloader, self._counters)
        self._fetcher = Fetcher(options.timeouts, options.result_hosts, options.network)
        renew = self._renew if has_tasks else None
        self._downloader = Downloader(
            self._fetcher, self._offloader, options.retry, self._counters, options.random, renew
        )
        self.poller: Poller = Poller(self._parts, self)
        self._background = BackgroundTasks(self.gate)
        self.submitter: Submitter = Submitter(self._parts, self.poller, self._background)
        self._started: asyncio.Future[None] = self.loop.create_future()
        self._task = self.loop.create_task(self._run(), name="qwen-edit-async session")
        _running.add(self._task)
        self._task.add_done_callback(_forget)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Replace the runtime with ``None`` in a result that is pickled or deep-copied."""
        return type(None), ()

    async def start(self) -> None:
        """Wait until the host task has opened the connections."""
        try:
            await self._started
        except asyncio.CancelledError:
            self._closing = True
            await self._stop()
            raise

    async def status(self, task_id: str, max_retries: int) -> TaskSnapshot:
        """Check the status of a task now. Retry after temporary failures."""
        task, attempt = TaskSnapshot(task_id=task_id, status=TaskStatus.UNKNOWN), 0
        with self.poller.active_calls:
            while True:
                sent_at = await self.gate.wait_turn()
                try:
                    snapshot = await self.poller.fetch_status(task)
                except QwenEditError as error:
                    attempt += 1
                    if not self._may_repeat(error, sent_at, attempt, max_retries):
                        raise
                else:
                    self._parts.check_answered()
                    return snapshot
                await self._wait_before_attempt(attempt)

    async def estimate(self, request: EditRequest, limits: Limits) -> Estimate:
        """Request the price of an edit. Retry after temporary failures."""
        uploads, fit, inline = tuple[Upload, ...](), self._options.fit, self._options.inline
        try:
            async with asyncio.timeout(limits.deadline) as limit:
                with self.poller.active_calls:
                    uploads = await self._offloader.run(prepare, request.images, fit=fit, inline=inline)
                    return await self._ask_price(request, uploads, limits.max_retries)
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeadlineExceededError("the deadline passed before the service gave the price of the edit") from None
        finally:
            for upload in uploads:
                upload.close()

    async def _ask_price(self, request: EditRequest, uploads: Sequence[Upload], max_retries: int) -> Estimate:
        protocol, first_refusal, attempt = self._parts.protocol, None, 0
        while True:
            sent_at = await self.gate.wait_turn()
            try:
                estimate = await self._ask_price_once(protocol, request, uploads)
            except BadRequestError as error:
                if (other := self._parts.forms.after(protocol, error)) is None:
                    self._parts.check_failed(error, sent_at)
                    if first_refusal is not None and error.status_code in MALFORMED_STATUSES:
                        raise first_refusal from None
                    raise
                protocol, first_refusal = other, error
                continue
            except QwenEditError as error:
                attempt += 1
                if not self._may_repeat(error, sent_at, attempt, max_retries):
                    raise
            else:
                self._parts.check_answered()
                return estimate
            await self._wait_before_attempt(attempt)

    async def _ask_price_once(
        self, protocol: WireProtocol, request: EditRequest, uploads: Sequence[Upload]
    ) -> Estimate:
        call, stall_timeout = protocol.estimation(request), self._options.timeouts.send
        body = JSONBody(call.parts, uploads, self._offloader, stall_timeout=stall_timeout)
        return protocol.read_estimate(await self._parts.transport.send(call, body))

    def _may_repeat(self, error: QwenEditError, sent_at: float, attempt: int, max_retries: int) -> bool:
        """Count a failed status check or estimate, and return whether another attempt may follow."""
        self._parts.check_failed(error, sent_at)
        may_pass = judge_check(error, in_grace=False) in {CallFailure.REFUSED, CallFailure.THROTTLED}
        return may_pass and attempt <= max_retries

    async def _wait_before_attempt(self, failed_attempts: int) -> None:
        delay = self._options.retry.delay(failed_attempts, self._options.random.random())
        await asyncio.wait([self._task], timeout=delay)  # the end of the session ends the wait

    async def close(self, *, cancel: bool) -> None:
        """End the session. Without ``cancel``, first wait for all unfinished calls.

        Raises:
            BaseException: The error that the background work crashed with, unless ``cancel`` is set.
        """
        self._closing = True
        try:
            while not cancel and self.poller.active_calls.count and self.crash is None:
                self.poller.active_calls.none_left.clear()
                await self.poller.active_calls.none_left.wait()
        finally:
            if cancel:
                self.poller.cancel_all()
            self._end(SessionClosedError("the session is closed"))
            await wait_shielded(self._finish())
        if self.crash is not None and not cancel:
            raise self.crash

    async def wait_closed(self) -> None:
        """Wait until another call of :meth:`close` has ended all work."""
        await asyncio.wait([self._task])

    async def read(self, url: str, task_id: str, index: int) -> bytes:
        """Download a result picture."""
        self.require_running(task_id)
        with self.poller.active_calls:
            return await self._downloader.read(url, task_id, index)

    async def save(self, url: str, task_id: str, index: int, path: FilePath) -> tuple[FilePath, str]:
        """Download a result picture to a file, and return the file's path and a description of any damage."""
        self.require_running(task_id)
        with self.poller.active_calls:
            return await self._downloader.save(url, task_id, index, path)

    async def offload(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function off the event loop."""
        self.require_running()
        with self.poller.active_calls:
            return await self._offloader.run(function, *arguments)

    def require_running(self, task_id: str | None = None) -> None:
        """Check that the session is open, in this process and on this event loop.

        If ``task_id`` is given and the session is closed, the error says how to get that task's result, if possible.

        Raises:
            SessionClosedError: If the session is closed, or belongs to another process or event loop.
        """
        self.require_own_loop()
        if self._task.done():
            hint = "" if task_id is None else self.poller.way_back(task_id)
            state = "is closed" if self.crash is None else "has crashed"
            raise SessionClosedError(f"the session {state}: create another", hint=hint, task_id=task_id)

    def require_own_loop(self) -> None:
        """Check that the session was opened in this process and on this event loop.

        Raises:
            SessionClosedError: If the session was opened before this process forked, or on another event loop.
        """
        if self._process != os.getpid():
            raise SessionClosedError(
                "this session was opened before the process forked: open a session in each process"
            )
        require_loop(self.loop)

    def warn_unclosed(self) -> None:
        """Issue a :class:`ResourceWarning`, once, if the session was never closed."""
        is_forked = self._process != os.getpid()  # the session may be in use in the parent process
        if not (is_forked or self._task.done() or self._closing):
            self._closing = True
            warnings.warn(
                "an EditSession was never closed: use `async with`, or aclose()", ResourceWarning, stacklevel=1
            )

    def statistics(self) -> SessionStatistics:
        """Return a copy of all counts."""
        pacer = self.gate.pacer
        pause_left = pacer.pause_left(self.loop.time())
        return attrs.evolve(
            self._counters,
            in_flight=pacer.in_flight,
            waiting=self.gate.waiting,
            limit=max(1, min(pacer.limit, pacer.max_in_flight)),
            watched=len(self.poller),
            pause_left=pause_left,
            paused=pacer.pauses - pause_left,
        )

    async def _run(self) -> None:
        try:
            await self._parts.transport.open()
            await self._fetcher.open()
            if not self._started.done():  # a cancelled `start` leaves the future done, and stops this task
                self._started.set_result(None)
            await self.poller.run()
        except asyncio.CancelledError:
            self.warn_unclosed()
            raise
        except (KeyboardInterrupt, SystemExit):  # these end the program; awaited edits raise SessionClosedError
            raise
        except BaseException as error:  # noqa: BLE001  # any error must end all waits
            self._crashed(_sole(error))
        finally:
            self.poller.over = True
            if not self._started.done():
                self._started.set_exception(SessionClosedError("the session was closed while it was being opened"))
            self._end(SessionClosedError("the session is closed"))
            # A cancellation that coincides with a crash is raised at the next await. Suppress it before the cleanup.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
            async with contextlib.AsyncExitStack() as closing:
                closing.push_async_callback(self._offloader.aclose)
                closing.push_async_callback(self._parts.transport.aclose)
                closing.push_async_callback(self._fetcher.aclose)
                closing.push_async_callback(self.poller.cancellations.aclose)
                closing.push_async_callback(self._background.stop)

    def _end(self, closed: SessionClosedError, crash: Exception | None = None) -> None:
        self.gate.close(closed)
        self.poller.give_up_all(crash)

    async def _finish(self) -> None:
        """Wait for the replies to sent submissions and cancellations, then stop the host task."""
        try:
            await self._background.finish_sent(self._parts.protocol.reply_grace)
            await self.poller.cancellations.finish()
        finally:
            await self._stop()

    async def _stop(self) -> None:
        if not self.poller.over:  # once the poller has ended, a cancellation would interrupt the cleanup
            self._task.cancel()
        await asyncio.wait([self._task])

    def _crashed(self, error: BaseException) -> None:
        log.error("the session's background task crashed: %s", type(error).__name__)
        self.crash = error
        if not self._started.done():
            self._started.set_exception(error)
        closed = SessionClosedError("the session has crashed: create another")
        closed.__cause__ = error
        self._end(closed, error if isinstance(error, Exception) else closed)
        self.poller.active_calls.none_left.set()

    async def _renew(self, task_id: str) -> tuple[str, ...]:
        return (await self.status(task_id, self._options.retry.max_retries)).urls


@attrs.define(eq=False)
class SessionState:
    """The state of a session, shared with the sessions that :meth:`EditSession.with_options` returns.

    Attributes:
        runtime: The runtime of the session; ``None`` until the session is opened.
        closed: Whether the session is closed, or could not be opened.
    """

    runtime: Runtime | None = None
    closed: bool = False

    async def open(self, transport: Transport, forms: Forms, options: Options) -> None:
        """Open the session on the running event loop.

        Raises:
            SessionClosedError: If the session was opened or closed before.
        """
        if self.runtime is not None or self.closed:
            raise SessionClosedError("a session can be opened only once: create another")
        self.runtime = Runtime(transport, forms, options)
        try:
            await self.runtime.start()
        except BaseException:  # also a cancellation: a half-open session must not be used
            self.closed = True
            raise

    def require_open(self) -> Runtime:
        """Return the runtime of the open session.

        Raises:
            SessionClosedError: If the session is not open, or belongs to another process or event loop.
        """
        if self.closed:
            raise SessionClosedError("the session is closed: create another")
        if self.runtime is None:
            raise SessionClosedError("the session is not open: use `async with`, or await session.open()")
        self.runtime.require_running()
        return self.runtime

    async def close(self, *, cancel: bool) -> None:
        """Close the session. Without ``cancel``, first wait for all unfinished calls."""
        if self.runtime is not None:
            self.runtime.require_own_loop()
        closing, self.closed = self.closed, True
        if self.runtime is not None:
            await (self.runtime.wait_closed() if closing and not cancel else self.runtime.close(cancel=cancel))

    def __del__(self) -> None:
        if self.runtime is not None and not self.closed:
            self.runtime.warn_unclosed()


def _forget(task: asyncio.Task[None]) -> None:
    _running.discard(task)
    if not task.cancelled():
        task.exception()  # marks a KeyboardInterrupt or SystemExit as retrieved, so asyncio does not report it


def _sole(error: BaseException) -> BaseException:
    """Return the first exception inside nested exception groups, or else the error itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
