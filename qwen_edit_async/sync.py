"""The session and the bulk run for code that is not async: the same names and arguments, without ``await``.

::

    from qwen_edit_async.sync import EditSession

    with EditSession() as session:
        session.edit("cat.jpg", "make it snow").save("out/")

An open session has its own thread with an event loop, so any thread can use it, even one with a running loop. The
session's thread iterates over the requests of ``edit_many``. Ctrl-C cancels the waiting call. A pickled copy
of a session can't be opened.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import sys
import threading
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from typing import Any, Concatenate, Final, Generic, ParamSpec, Self, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

import qwen_edit_async as aio
from qwen_edit_async.session.observer import CallSite

A = TypeVar("A")
P = ParamSpec("P")
T = TypeVar("T")

_ENDING_SECONDS: Final = 5.0
_WAKING_SECONDS: Final = 0.5
_ALL: Final = functools.WRAPPER_ASSIGNMENTS
_END: Final[Any] = object()


class LoopThread:
    """An event loop in its own thread. It does not run in a forked process, or in a copy made by pickle.

    anyio's ``start_blocking_portal`` would join the thread when an unclosed session is collected. If the interpreter
    is exiting, joining would wait forever.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._thread: threading.Thread | None = None
        self._portal: BlockingPortal | None = None

    def __enter__(self) -> Self:
        if self._thread is None:
            started: Future[BlockingPortal] = Future()
            self._thread = threading.Thread(target=anyio.run, args=(_serve, started), daemon=True)
            self._thread.start()
            self._portal = started.result()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None and self._portal is not None and self._process == os.getpid():
            self._portal.start_task_soon(self._portal.stop)
            self._thread.join(_ENDING_SECONDS)

    def __reduce__(self) -> tuple[type[LoopThread], tuple[()]]:
        return LoopThread, ()

    def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a function on the loop, and return its result. On Ctrl-C, cancel an async function and wait for its end.

        Raises:
            SessionClosedError: If the loop is not running, or if its own thread makes this call.
        """
        ended: Future[Sequence[str]] = Future()

        async def run() -> Any:
            try:
                result = function(*args, **options)
                return await result if inspect.iscoroutine(result) else result
            finally:
                ended.set_result(getattr(sys.exception(), "__notes__", ()))

        if self._portal is None or self._process != os.getpid():
            raise aio.SessionClosedError("the session is not open in this process: use `with EditSession() as session`")
        try:
            with CallSite.kept():
                future = self._portal.start_task_soon(run)
        except RuntimeError:
            message = "the session is closed, or was called from its own thread: use another session"
            raise aio.SessionClosedError(message) from None
        try:
            while not wait([future], _WAKING_SECONDS).done:  # the timeout lets Python handle pending signals
                pass
        except KeyboardInterrupt as interrupt:
            future.cancel()
            for note in ended.result():
                interrupt.add_note(note)
            raise
        return future.result()

    def iterate(self, make: Callable[[], AsyncIterable[T]]) -> Iterator[T]:
        """Yield the items of an async iterable. Close it at the end, or when the caller stops early."""
        items: Any = self.call(lambda: aiter(make()))
        try:
            while (item := self.call(lambda: _await(anext(items, _END)))) is not _END:
                yield item
        finally:
            with contextlib.suppress(aio.SessionClosedError):  # the loop has ended, and the iterable with it
                self.call(lambda: _await(items.aclose()))


async def _serve(started: Future[BlockingPortal]) -> None:
    async with BlockingPortal() as portal:
        started.set_result(portal)
        await portal.sleep_until_stopped()


async def _await(awaitable: Awaitable[T]) -> T:
    return await awaitable


class Face(Generic[A]):
    """A synchronous wrapper of an async object. Attributes that the wrapper lacks are those of the object."""

    def __init__(self, wrapped: A, loop: LoopThread) -> None:
        self._wrapped, self._loop = wrapped, loop

    @classmethod
    def returned_by(cls, method: Callable[Concatenate[Any, P], Any]) -> Callable[Concatenate[Any, P], Self]:
        """Return a synchronous method that calls ``method`` on the loop, and wraps the result in this class."""
        call: Callable[..., Any] = blocking(method)
        return like(method, _ALL)(lambda self, *args, **options: cls(call(self, *args, **options), self._loop))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._wrapped, name)

    def __repr__(self) -> str:
        return repr(self._wrapped)


def like(
    method: Callable[Concatenate[Any, P], object], attributes: Sequence[str] = ()
) -> Callable[[Callable[..., T]], Callable[Concatenate[Any, P], T]]:
    """Return a decorator that gives a method the signature and these attributes of another method."""
    return functools.wraps(method, assigned=attributes)


def blocking(method: Callable[Concatenate[Any, P], Awaitable[T]]) -> Callable[Concatenate[Any, P], T]:
    """Return a synchronous method that calls an async method, and returns its result."""
    return like(method, _ALL)(lambda self, *args, **options: self._loop.call(method, self._wrapped, *args, **options))


class OutputImage(Face[aio.OutputImage]):
    """One result picture. See :class:`qwen_edit_async.OutputImage`."""

    read: Final = blocking(aio.OutputImage.read)
    save: Final = blocking(aio.OutputImage.save)
    open: Final = blocking(aio.OutputImage.open)


class EditResult(Face[aio.EditResult]):
    """A completed edit. See :class:`qwen_edit_async.EditResult`."""

    save: Final = blocking(aio.EditResult.save)

    @property
    def images(self) -> tuple[OutputImage, ...]:
        """The result pictures."""
        return tuple(OutputImage(image, self._loop) for image in self._wrapped.images)


class EditTask(Face[aio.EditTask]):
    """A task at the service. See :class:`qwen_edit_async.EditTask`. Use ``task.result()``, not ``await task``."""

    def result(self) -> EditResult:
        """Wait for the end of the task, and return its result. This raises the same errors as ``await task``."""
        return EditResult(self._loop.call(_await, self._wrapped), self._loop)

    def cancel(self) -> None:
        """Stop watching the task and free its slot. See :meth:`qwen_edit_async.EditTask.cancel`."""
        self._loop.call(self._wrapped.cancel)

    @like(aio.EditTask.updates)
    def updates(self) -> Iterator[aio.TaskSnapshot]:
        """Yield the newest snapshot, and then a snapshot for each change until the task ends."""
        return self._loop.iterate(self._wrapped.updates)


class EditOutcome(Face[aio.EditOutcome]):
    """The outcome of one edit of ``edit_many``. See :class:`qwen_edit_async.EditOutcome`."""

    @property
    def result(self) -> EditResult:
        """The result of the edit. If the edit failed, this raises the edit's error."""
        return EditResult(self._wrapped.result, self._loop)


class EditSession(Face[aio.EditSession]):
    """Edits images. See :class:`qwen_edit_async.EditSession`. Use ``with``, or call :meth:`open` and :meth:`close`."""

    @like(aio.EditSession.__init__)
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(aio.EditSession(*args, **options), LoopThread())

    edit: Final = EditResult.returned_by(aio.EditSession.edit)
    submit: Final = EditTask.returned_by(aio.EditSession.submit)
    attach: Final = EditTask.returned_by(aio.EditSession.attach)
    estimate: Final = blocking(aio.EditSession.estimate)
    status: Final = blocking(aio.EditSession.status)

    @like(aio.EditSession.edit_many)
    def edit_many(self, *args: Any, **options: Any) -> Iterator[EditOutcome]:
        """Run many edits, and yield outcomes as edits end. Leaving the loop stops submitting."""
        outcomes = self._loop.iterate(lambda: self._wrapped.edit_many(*args, **options))
        return (EditOutcome(outcome, self._loop) for outcome in outcomes)

    @like(aio.EditSession.pictures)
    def pictures(self, *args: Any) -> tuple[OutputImage, ...]:
        """Return the result pictures of a task whose result URLs are known."""
        return tuple(OutputImage(image, self._loop) for image in self._loop.call(self._wrapped.pictures, *args))

    @like(aio.EditSession.with_options)
    def with_options(self, **options: Any) -> EditSession:
        """Return this session with other limits. Both sessions share one thread, and open and close together."""
        session = EditSession.__new__(EditSession)
        Face.__init__(session, self._wrapped.with_options(**options), self._loop)
        return session

    def open(self) -> Self:
        """Open the session. A ``with`` statement does this."""
        with contextlib.ExitStack() as undo:
            if not self._wrapped.is_open:
                undo.enter_context(self._loop)
            self._loop.call(self._wrapped.open)
            undo.pop_all()
        return self

    def close(self) -> None:
        """Wait for calls of other threads to end, and close the session. A second call does nothing."""
        self.__exit__(None)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.is_open:
            with self._loop as loop:
                loop.call(self._wrapped.__aexit__, kind)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the service's address and model, not the key, so that ``datasets`` recognizes its cached results."""
        protocol = self._wrapped._service.protocol  # noqa: SLF001  # of this package
        return _closed_copy, (self.base_url, protocol.name, getattr(protocol, "model", None))


def _closed_copy(base_url: str, protocol: Any, model: str | None) -> EditSession:
    session = EditSession("none", base_url=base_url, protocol=protocol, model=model, allow_insecure=True)
    session._wrapped._state.closed = True  # noqa: SLF001  # of this package
    return session


class EditBatch(Face[aio.EditBatch]):
    """A bulk run that can be resumed after any interruption. See :class:`qwen_edit_async.EditBatch`."""

    @like(aio.EditBatch.__init__)
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(aio.EditBatch(*args, **options), LoopThread())

    def run(
        self, session: EditSession, *, on_plan: Callable[[aio.BatchPlan], None] | None = None, service: str = ""
    ) -> aio.BatchReport:
        """Make all remaining edits, like ``await batch.run(session)``."""
        if not isinstance(session, EditSession):
            raise aio.ConfigurationError("session must be an EditSession of qwen_edit_async.sync, like this EditBatch")
        run, inner = self._wrapped.run, session._wrapped  # noqa: SLF001  # another class of this module
        report: aio.BatchReport = session._loop.call(run, inner, on_plan=on_plan, service=service)  # noqa: SLF001
        return report

    @like(aio.EditBatch.plan)
    def plan(self, **options: Any) -> aio.BatchPlan:
        """Return the plan of the next run. This needs no session and no key."""
        with LoopThread() as loop:
            plan: aio.BatchPlan = loop.call(self._wrapped.plan, **options)
            return plan

    @like(aio.EditBatch.outcomes)
    def outcomes(self) -> Iterator[aio.BatchOutcome]:
        """Yield the outcomes of all edits of all runs, in the order in which the edits were planned."""
        with LoopThread() as loop:
            yield from loop.iterate(self._wrapped.outcomes)
