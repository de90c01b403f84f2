"""The session and the bulk run for code that is not async: the same names and arguments, without ``await``.

::

    from qwen_edit_async.sync import EditSession

    with EditSession() as session:
        session.edit("cat.jpg", "make it snow").save("out/")

An open session has its own thread with an event loop. It therefore works in scripts, web apps and notebooks, and any
number of threads can use it at the same time. Ctrl-C cancels the waiting call, like a cancellation in async code. The
session's thread pulls the requests of ``edit_many``.
"""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeAlias, TypeVar, Unpack

import anyio
from anyio.from_thread import BlockingPortal

import qwen_edit_async as aio
from qwen_edit_async.errors import SessionClosedError
from qwen_edit_async.images.kinds import ImageInput
from qwen_edit_async.models import EditKeywords, EditRequest
from qwen_edit_async.session.observer import SubmitKeywords
from qwen_edit_async.storage.paths import AnyPath, FilePath

if TYPE_CHECKING:
    from PIL.Image import Image

A = TypeVar("A")
P = ParamSpec("P")
T = TypeVar("T")
_Images: TypeAlias = "EditRequest | ImageInput | Sequence[ImageInput]"
_EDIT: Callable[..., Awaitable[aio.EditResult]] = aio.EditSession.edit
_SUBMIT: Callable[..., Awaitable[aio.EditTask]] = aio.EditSession.submit
_ESTIMATE: Callable[..., Awaitable[aio.Estimate]] = aio.EditSession.estimate


class _LoopThread:
    """A thread that runs an event loop. The interpreter does not wait for it at exit."""

    def __init__(self) -> None:
        started: Future[BlockingPortal] = Future()
        threading.Thread(target=anyio.run, args=(_serve, started), name="qwen-edit-async", daemon=True).start()
        self._portal = started.result()

    def call(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run an async function in the thread, and return its result. Ctrl-C during the wait cancels the function."""
        ended = threading.Event()

        async def run() -> T:
            try:
                return await function(*args, **kwargs)
            finally:
                ended.set()

        try:
            future = self._portal.start_task_soon(run)
        except RuntimeError:
            raise SessionClosedError("the session is closed: create another") from None
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            ended.wait()
            raise

    def call_soon(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in the thread, and return its result."""

        async def run() -> T:
            return function(*args, **kwargs)

        return self.call(run)

    def iterate(self, items: AsyncIterator[T], close: Callable[[], Awaitable[None]]) -> Iterator[T]:
        """Yield the items of an async iterator. Close the iterator at the end, or when the caller stops early."""
        try:
            while True:
                try:
                    item = self.call(items.__anext__)
                except StopAsyncIteration:
                    return
                yield item
        finally:
            self.call(close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._portal.start_task_soon(self._portal.stop)


async def _serve(started: Future[BlockingPortal]) -> None:
    async with BlockingPortal() as portal:
        started.set_result(portal)
        await portal.sleep_until_stopped()


class _Blocking(Generic[A]):
    """A wrapped object of the async interface, and the thread that runs the object's async methods."""

    def __init__(self, wrapped: A, thread: _LoopThread) -> None:
        self._wrapped = wrapped
        self._thread = thread

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._wrapped, name)

    def __repr__(self) -> str:
        return repr(self._wrapped)


def _as(model: Callable[Concatenate[Any, P], object]) -> Callable[[Callable[..., T]], Callable[Concatenate[Any, P], T]]:
    """Give a method the signature of an async method."""
    return functools.wraps(model, assigned=())


class OutputImage(_Blocking[aio.OutputImage]):
    """One result picture, as :class:`qwen_edit_async.OutputImage`."""

    def read(self) -> bytes:
        """Download the picture's file, as ``await image.read()``."""
        return self._thread.call(self._wrapped.read)

    def save(self, path: AnyPath) -> FilePath:
        """Download the picture to ``path``, as ``await image.save(…)``."""
        return self._thread.call(self._wrapped.save, path)

    def open(self) -> Image:
        """Download the picture and decode it, as ``await image.open()``."""
        return self._thread.call(self._wrapped.open)


class EditResult(_Blocking[aio.EditResult]):
    """A completed edit, as :class:`qwen_edit_async.EditResult`."""

    def save(self, directory: AnyPath, *, stem: str | None = None) -> tuple[FilePath, ...]:
        """Download all pictures into a folder, as ``await result.save(…)``."""
        return self._thread.call(self._wrapped.save, directory, stem=stem)

    @property
    def images(self) -> tuple[OutputImage, ...]:
        """The result pictures."""
        return tuple(OutputImage(image, self._thread) for image in self._wrapped.images)


class EditTask(_Blocking[aio.EditTask]):
    """A task at the service, as :class:`qwen_edit_async.EditTask`."""

    def result(self) -> EditResult:
        """Wait for the end of the task, and return its result. This raises the same errors as ``await task``."""

        async def wait() -> aio.EditResult:
            return await self._wrapped

        return EditResult(self._thread.call(wait), self._thread)

    def cancel(self) -> None:
        """Stop watching the task, and free its slot."""
        self._thread.call_soon(self._wrapped.cancel)


class EditOutcome(_Blocking[aio.EditOutcome]):
    """The end of one of many edits, as :class:`qwen_edit_async.EditOutcome`."""

    @property
    def result(self) -> EditResult:
        """The result of the edit. If the edit failed, this raises the edit's error."""
        return EditResult(self._wrapped.result, self._thread)


class EditSession(_Blocking[aio.EditSession]):
    """Edits images with the hosted model, many at once, as :class:`qwen_edit_async.EditSession`.

    Use ``with EditSession() as session:``, or call :meth:`open` and :meth:`close`.
    """

    @_as(aio.EditSession.__init__)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._wrapped = aio.EditSession(*args, **kwargs)

    def open(self) -> Self:
        """Open the session. A ``with`` statement does this."""
        self._thread = _LoopThread()
        self._thread.call(self._wrapped.open)
        return self

    def close(self) -> None:
        """Wait for calls of other threads to end, and close the session."""
        self.__exit__(None)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._thread:
            self._thread.call(self._wrapped.__aexit__, kind)

    @_as(aio.EditSession.with_options)
    def with_options(self, *args: Any, **kwargs: Any) -> EditSession:
        """Return this session with other limits, as ``session.with_options(…)``. The session must be open."""
        session = copy.copy(self)
        session._wrapped = self._wrapped.with_options(*args, **kwargs)  # noqa: SLF001  # of this class
        return session

    def edit(self, images: _Images, instruction: str | None = None, **options: Unpack[EditKeywords]) -> EditResult:
        """Edit one to three images, and wait for the result, as ``await session.edit(…)``."""
        return EditResult(self._thread.call(_EDIT, self._wrapped, images, instruction, **options), self._thread)

    def submit(self, images: _Images, instruction: str | None = None, **options: Unpack[SubmitKeywords]) -> EditTask:
        """Wait for a slot, submit an edit, and return its task, as ``await session.submit(…)``."""
        return EditTask(self._thread.call(_SUBMIT, self._wrapped, images, instruction, **options), self._thread)

    def estimate(
        self, images: _Images, instruction: str | None = None, **options: Unpack[EditKeywords]
    ) -> aio.Estimate:
        """Request the price of an edit, as ``await session.estimate(…)``."""
        return self._thread.call(_ESTIMATE, self._wrapped, images, instruction, **options)

    def status(self, task_id: str) -> aio.TaskSnapshot:
        """Check the status of a task now, as ``await session.status(…)``."""
        return self._thread.call(self._wrapped.status, task_id)

    @_as(aio.EditSession.attach)
    def attach(self, *args: Any, **kwargs: Any) -> EditTask:
        """Watch a task that was submitted elsewhere or earlier: ``session.attach(task_id).result()``."""
        return EditTask(self._thread.call_soon(self._wrapped.attach, *args, **kwargs), self._thread)

    @_as(aio.EditSession.edit_many)
    def edit_many(self, *args: Any, **kwargs: Any) -> Iterator[EditOutcome]:
        """Run many edits, and yield their outcomes as they end. Leaving the loop stops submitting."""
        outcomes = self._thread.call_soon(lambda: aiter(self._wrapped.edit_many(*args, **kwargs)))
        for outcome in self._thread.iterate(outcomes, outcomes.aclose):
            yield EditOutcome(outcome, self._thread)


class EditBatch(_Blocking[aio.EditBatch]):
    """Edits in bulk that survive any interruption, as :class:`qwen_edit_async.EditBatch`."""

    @_as(aio.EditBatch.__init__)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._wrapped = aio.EditBatch(*args, **kwargs)

    def run(
        self, session: EditSession, *, on_plan: Callable[[aio.BatchPlan], None] | None = None, service: str = ""
    ) -> aio.BatchReport:
        """Run all edits that are left, as ``await batch.run(session)``."""
        inner, thread = session._wrapped, session._thread  # noqa: SLF001  # another class of this module
        return thread.call(self._wrapped.run, inner, on_plan=on_plan, service=service)

    @_as(aio.EditBatch.plan)
    def plan(self, *args: Any, **kwargs: Any) -> aio.BatchPlan:
        """Return the plan of a run. This needs no session, key or network."""
        with _LoopThread() as thread:
            return thread.call(self._wrapped.plan, *args, **kwargs)

    def outcomes(self) -> Iterator[aio.BatchOutcome]:
        """Yield the outcomes of all edits of all runs, in the order of the plan."""
        with _LoopThread() as thread:
            outcomes = self._wrapped.outcomes()
            yield from thread.iterate(outcomes, outcomes.aclose)
