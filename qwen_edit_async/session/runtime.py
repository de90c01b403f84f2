"""Everything that exists while a session is open, and the one task in which it runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import warnings
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import attrs

from qwen_edit_async.errors import QwenEditError, SessionClosedError
from qwen_edit_async.http.api import Transport
from qwen_edit_async.http.downloads import Downloader
from qwen_edit_async.http.hosts import ResultHosts
from qwen_edit_async.http.options import Timeouts, check_not_negative, check_positive
from qwen_edit_async.log import log
from qwen_edit_async.models import TaskSnapshot
from qwen_edit_async.scheduling.pacing import Pacer
from qwen_edit_async.scheduling.policies import PollPolicy
from qwen_edit_async.scheduling.retry import Failure, RetryPolicy, judge_check
from qwen_edit_async.session.gate import Gate
from qwen_edit_async.session.pauses import hold_back
from qwen_edit_async.session.poller import Poller
from qwen_edit_async.session.results import DetachedStore
from qwen_edit_async.session.shield import see_through
from qwen_edit_async.session.submission import Negotiation, Submitter
from qwen_edit_async.session.task import EditTask, require_loop
from qwen_edit_async.session.tracking import Tracked, Tracker
from qwen_edit_async.statistics import Counters, SessionStatistics
from qwen_edit_async.threads import Offloader

T = TypeVar("T")

_CLOSING_GRACE = 5.0
"""Seconds that closing waits for the ids of tasks whose submission was given up."""

_THREADS = min(4, max(2, os.cpu_count() or 2))
"""Threads that contend for fewer cores take longer altogether; fewer than two would let one slow disk delay all."""

_running: set[asyncio.Task[None]] = set()
"""Host tasks: event loops hold tasks weakly, and one that is collected can't end in order."""


@attrs.frozen(kw_only=True)
class HostOptions:
    """What the host needs of a session's options; seconds and counts as in :class:`EditSession`."""

    max_in_flight: int
    submit_rate: float | None
    poll_rate: float | None
    polling: PollPolicy
    timeouts: Timeouts
    max_retries: int
    resubmit_uncertain: bool
    result_hosts: ResultHosts
    trust_env: bool

    def __attrs_post_init__(self) -> None:
        check_positive(self.max_in_flight, "max_in_flight", integer=True)
        check_not_negative(self.max_retries, "max_retries")
        for rate, name in ((self.submit_rate, "submit_rate"), (self.poll_rate, "poll_rate")):
            if rate is not None:
                check_positive(rate, name)


class Host:
    """The open half of a session.

    It is made and started inside of the event loop, and lives until :meth:`close` or the loop's end.
    """

    def __init__(self, transport: Transport, negotiation: Negotiation, options: HostOptions) -> None:
        self.loop = asyncio.get_running_loop()
        self._process = os.getpid()
        self.crash: BaseException | None = None
        self._transport = transport
        self._negotiation = negotiation
        self._random = Random()  # noqa: S311  # jitter is no secret
        self._retry = RetryPolicy(max_retries=options.max_retries)
        self._engaged = 0
        self._quiet = asyncio.Event()
        self._closing = False
        self._ended = False
        self._leaving = False
        self._task: asyncio.Task[None] | None = None
        self._group: asyncio.TaskGroup | None = None
        self.counters = Counters()
        self.pacer = Pacer(options.max_in_flight, options.submit_rate)
        self.gate = Gate(self.pacer, self.loop)
        self.offloader = Offloader(_THREADS)
        self.downloader = Downloader(
            self.offloader,
            self._retry,
            options.timeouts,
            self.counters,
            random=self._random,
            renew=self._renew,
            hosts=options.result_hosts,
            trust_env=options.trust_env,
        )
        self.tracker = Tracker(self, self.counters, watch=self._watch, forget=self._forget)
        self._poller: Poller[Tracked] = Poller(
            self.check,
            options.polling,
            self.pacer,
            self.counters,
            random=self._random,
            on_snapshot=self.tracker.seen,
            on_end=self.tracker.ended,
            on_fatal=self._lose_access,
            poll_rate=options.poll_rate,
        )
        self.submitter = Submitter(
            transport,
            negotiation,
            self.gate,
            self._retry,
            self.offloader,
            counters=self.counters,
            resubmit_uncertain=options.resubmit_uncertain,
            stall_timeout=options.timeouts.send,
            random=self._random,
            spawn=self.spawn,
            on_fatal=self.gate.close,
            on_orphan=self.tracker.orphaned,
        )

    def __reduce__(self) -> tuple[type[DetachedStore], tuple[()]]:
        """Leave the connection out of a result that is pickled or deep-copied."""
        return DetachedStore, ()

    async def start(self) -> None:
        """Open the connections and start the poller, in a task of its own."""
        started: asyncio.Future[None] = self.loop.create_future()
        self._task = self.loop.create_task(self._run(started), name="qwen-edit-async session")
        _running.add(self._task)
        self._task.add_done_callback(_forget_host)
        try:
            await started
        except asyncio.CancelledError:
            self._closing = True
            await self._stop()
            raise

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start background work that ends with the session at the latest; it must not raise."""
        if self._group is not None:
            with contextlib.suppress(RuntimeError):  # it is shutting down
                return self._group.create_task(work)
        work.close()
        raise SessionClosedError("the session is closed")

    def track(self, tracked: Tracked) -> EditTask:
        """Begin to wait for a task.

        Raises:
            SessionClosedError: If the session was closed while it was submitted; its id is kept.
        """
        if self._ended:
            if tracked.slot is not None:
                tracked.slot.release()
            self.tracker.orphaned(tracked.state.snapshot)
            raise _closed_error(tracked.task_id)
        return self.tracker.track(tracked)

    def count_refusal(self, error: BaseException) -> None:
        """An edit ended before the service accepted it."""
        if isinstance(error, asyncio.CancelledError):
            self.counters.cancelled += 1
        else:
            self.counters.refused += 1

    def engage(self, change: int) -> None:
        """Somebody begins (1) or ceases (-1) to wait for something of this session."""
        self._engaged += change
        if not self._engaged:
            self._quiet.set()

    async def check(self, task_id: str) -> TaskSnapshot:
        """Ask the service about a task, once."""
        protocol = self._negotiation.protocol
        return protocol.read_status(await self._transport.send(protocol.status_check(task_id)), task_id)

    async def check_persistently(self, task_id: str) -> TaskSnapshot:
        """Ask the service about a task, again after failures that may pass."""
        with self._engaging():
            return await self._check_persistently(task_id)

    async def _check_persistently(self, task_id: str) -> TaskSnapshot:
        attempt = 0
        while True:
            sent_at = await self.gate.wait_turn()
            try:
                snapshot = await self.check(task_id)
            except QwenEditError as error:
                attempt += 1
                now, failure = self.loop.time(), judge_check(error, in_grace=False)
                self.counters.failed_checks += 1
                if failure is Failure.THROTTLED:
                    self.counters.throttled += 1
                    self.pacer.rate.refused(now, sent_at)
                hold_back(self.pacer, error, now)
                if failure not in {Failure.REFUSED, Failure.THROTTLED} or attempt > self._retry.max_retries:
                    raise
            else:
                self.counters.checks += 1
                self.pacer.rate.let_in(self.loop.time())
                return snapshot
            await self.gate.sleep(self._retry.delay(attempt, self._random.random()))

    async def close(self, *, cancel: bool) -> None:
        """End everything; without ``cancel``, after everything that somebody waits for has ended.

        Raises:
            BaseException: What the poller crashed with, unless everything was cancelled anyhow.
        """
        self._closing = True
        try:
            while not cancel and self._engaged and self.crash is None:
                self._quiet.clear()
                await self._quiet.wait()
        finally:
            self._ended = True
            self.gate.close(SessionClosedError("the session is closed"))
            self.tracker.give_up_all(_closed_error)
            await see_through(self._finish())
        if self.crash is not None and not cancel:
            raise self.crash

    async def wait_closed(self) -> None:
        """Wait until nothing is left running; somebody else closes."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def read(self, url: str, task_id: str, index: int) -> bytes:
        """Download a result picture."""
        self.require_running()
        with self._engaging():
            return await self.downloader.read(url, task_id, index)

    async def save(self, url: str, task_id: str, index: int, path: Path) -> Path:
        """Download a result picture to a file, and return its path; its folder is made."""
        self.require_running()
        with self._engaging():
            return await self.downloader.save(url, task_id, index, path)

    async def offload(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function off the event loop."""
        self.require_running()
        with self._engaging():
            return await self.offloader.run(function, *arguments)

    def require_running(self) -> None:
        """Refuse what comes too late.

        Raises:
            SessionClosedError: If the session is closed, or in another process, or on another event loop.
        """
        self.require_own_loop()
        if self._task is None or self._task.done():
            raise SessionClosedError(
                "the session is closed: open another, session.attach(task_id) finds the task again"
            )

    def require_own_loop(self) -> None:
        """Refuse use elsewhere than where the session was opened.

        Raises:
            SessionClosedError: If this is a forked process, which shares the connections, or another event loop.
        """
        if self._process != os.getpid():
            raise SessionClosedError("this session was opened before the process forked: open one in each process")
        require_loop(self.loop)

    def warn_unclosed(self) -> None:
        """Warn, once, of a session that was forgotten, or that its event loop did not outlive."""
        if self._process != os.getpid():  # the session is still open in the process that forked this one
            return
        if self._task is not None and not self._task.done() and not self._closing:
            self._closing = True
            warnings.warn(
                "an EditSession was never closed: use `async with`, or aclose()", ResourceWarning, stacklevel=1
            )

    def statistics(self) -> SessionStatistics:
        """Everything that is counted."""
        pause_left = self.pacer.pause_left(self.loop.time())
        return SessionStatistics(
            in_flight=self.pacer.in_flight,
            waiting=self.gate.waiting,
            limit=max(1, min(self.pacer.limit, self.pacer.max_in_flight)),
            watched=len(self._poller),
            pause_left=pause_left,
            paused=self.pacer.pauses - pause_left,
            **attrs.asdict(self.counters),
        )

    async def _run(self, started: asyncio.Future[None]) -> None:
        try:
            await self._transport.open()
            await self.downloader.open()
            async with asyncio.TaskGroup() as self._group:
                if not started.done():  # given up already: `start` is about to stop this
                    started.set_result(None)
                await self._poller.run()
        except asyncio.CancelledError:
            self.warn_unclosed()
            raise
        except (KeyboardInterrupt, SystemExit):  # for the program: who awaits an edit learns that the session closed
            raise
        except BaseException as error:  # noqa: BLE001  # whatever it is, nobody may wait for ever
            self._crashed(_sole(error), started)
        finally:
            self._group, self._leaving, self._ended = None, True, True
            if not started.done():
                started.set_exception(SessionClosedError("the session was closed while it was opened"))
            self.gate.close(SessionClosedError("the session is closed"))
            self.tracker.abandon_all(_closed_error)
            # A cancellation that met a crash comes at the next await; here it has nothing left to cut short.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
            async with contextlib.AsyncExitStack() as closing:
                closing.push_async_callback(self.offloader.aclose)
                closing.push_async_callback(self._transport.aclose)
                closing.push_async_callback(self.downloader.aclose)

    async def _finish(self) -> None:
        """Collect the ids that are still to come, and leave nothing running."""
        try:
            await self.submitter.finish_sent(_CLOSING_GRACE)
        finally:
            await self._stop()

    async def _stop(self) -> None:
        if self._task is not None:
            if not self._leaving:  # or else connections would not be closed in order
                self._task.cancel()
            await asyncio.wait([self._task])

    def _crashed(self, error: BaseException, started: asyncio.Future[None]) -> None:
        log.error("the session's background task crashed: %s", type(error).__name__)
        self.crash = error
        if not started.done():
            started.set_exception(error)
        closed = SessionClosedError("the session has crashed, and submits nothing more")
        closed.__cause__ = error
        self.gate.close(closed)
        self.tracker.abandon_all(lambda _: error)
        self._quiet.set()

    @contextlib.contextmanager
    def _engaging(self) -> Iterator[None]:
        self.engage(1)
        try:
            yield
        finally:
            self.engage(-1)

    def _watch(self, tracked: Tracked) -> None:
        self._crashing(self._poller.watch, tracked)

    def _forget(self, tracked: Tracked) -> None:
        self._crashing(self._poller.forget, tracked)

    def _crashing(self, change: Callable[[Tracked], None], tracked: Tracked) -> None:
        """What a user's poll policy raises here is no less a crash than in the poller itself."""
        try:
            change(tracked)
        except Exception as error:  # noqa: BLE001  # whatever it is
            self.spawn(_raise(error))

    def _lose_access(self, error: QwenEditError) -> None:
        """Every call will be answered like this: nothing is submitted, and nothing waited for, any more."""
        self.gate.close(error)
        self.tracker.give_up_all(error.for_task)

    async def _renew(self, task_id: str) -> tuple[str, ...]:
        return (await self.check_persistently(task_id)).urls


def _forget_host(task: asyncio.Task[None]) -> None:
    _running.discard(task)
    if not task.cancelled():
        task.exception()  # an interrupt, which has left the event loop: asyncio need not log it as unseen


def _closed_error(task_id: str) -> SessionClosedError:
    return SessionClosedError(
        f"the session was closed before task {task_id} ended; it runs on: session.attach({task_id!r})", task_id=task_id
    )


async def _raise(error: Exception) -> None:
    raise error


def _sole(error: BaseException) -> BaseException:
    """The exception that a task group wrapped."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
