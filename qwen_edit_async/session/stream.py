"""``edit_many``: requests in, outcomes out, both lazily.

The work is done by a :class:`Feed` in the session's host task. Users hold only an iterator; when that goes, by the end
of a ``with``, a ``break`` or garbage collection, the feed stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Coroutine, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from qwen_edit_async.errors import InvalidEditError, SessionClosedError
from qwen_edit_async.models import EditParameters, EditRequest, RequestInput, request_from_fields
from qwen_edit_async.session.results import EditResult

if TYPE_CHECKING:
    from qwen_edit_async.display.cards import EditView

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class EditOutcome:
    """How one of many edits ended.

    Attributes:
        index: The request's position in the input, from 0.
        request: The request, as it was given.
        result: What came of it, if it went well.
        error: Why not, if it did not.
    """

    index: int
    request: RequestInput
    result: EditResult | None = None
    error: Exception | None = None

    @property
    def ok(self) -> bool:
        """Whether there is a result."""
        return self.error is None

    def as_row(self) -> dict[str, Any]:
        """The outcome as plain values: ``pandas.DataFrame([outcome.as_row() for outcome in outcomes])``.

        The columns are the same for every outcome; times are in seconds, the cost is a ``Decimal``.
        """
        request = _as_request(self.request)
        result = self.result
        parameters = request.parameters if request is not None else EditParameters()
        timings = result.timings if result is not None else None
        return {
            "index": self.index,
            "key": request.key if request is not None else None,
            "instruction": request.instruction if request is not None else None,
            **attrs.asdict(parameters),
            "ok": self.ok,
            "task_id": result.task_id if result is not None else getattr(self.error, "task_id", None),
            "pictures": len(result.images) if result is not None else 0,
            "cost": result.usage.cost if result is not None else None,
            "queued": timings.queued if timings is not None else None,
            "submitting": timings.submitting if timings is not None else None,
            "running": timings.running if timings is not None else None,
            "lag": timings.lag if timings is not None else None,
            "checks": timings.checks if timings is not None else None,
            "error": type(self.error).__name__ if self.error is not None else None,
            "message": str(self.error) if self.error is not None else None,
        }

    def _repr_html_(self) -> str:
        """Before and after, in a notebook, or why not."""
        from qwen_edit_async.display.cards import edit_html  # noqa: PLC0415  # notebooks alone need it

        return edit_html(self._view())

    def _view(self) -> EditView:
        from qwen_edit_async.display.cards import EditView  # noqa: PLC0415  # likewise

        if self.result is not None:
            return self.result._view()  # noqa: SLF001  # one of the package to another
        request = _as_request(self.request)
        task_id = getattr(self.error, "task_id", None)
        return EditView(
            instruction=request.instruction if request is not None else "",
            facts=tuple(filter(None, (request.key if request is not None else None, task_id and f"task {task_id}"))),
            error=f"{type(self.error).__name__}: {self.error}",
        )


class Feed:
    """Pulls requests, edits them, and keeps the outcomes until they are fetched.

    A permit is taken before a request is pulled, and given back when its outcome is fetched, so that never more than
    ``window`` requests are alive, however slow the loop over the outcomes is. A result that is there when the loop is
    left counts as unclaimed.
    """

    def __init__(
        self,
        requests: Iterable[RequestInput] | AsyncIterable[RequestInput],
        edit: Callable[[RequestInput], Awaitable[EditResult]],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        *,
        on_unclaimed: Callable[[str], None],
        window: int,
        ordered: bool,
    ) -> None:
        self._requests = requests
        self._edit = edit
        self._on_unclaimed = on_unclaimed
        self._spawn = spawn
        self._ordered = ordered
        self._permits = asyncio.Semaphore(window)
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._finished = False
        self._stopped = False
        self._input_error: Exception | None = None
        self._ready: deque[EditOutcome] = deque()
        self._early: dict[int, EditOutcome] = {}
        self._next_index = 0
        self._news = asyncio.Event()

    async def next(self) -> EditOutcome:
        """The next outcome.

        Raises:
            StopAsyncIteration: When there are no more.
            SessionClosedError: If the session was closed meanwhile.
            Exception: What the input raised, after the outcomes of everything before that.
        """
        if self._task is None and not self._stopped:
            self._task = self._spawn(self._run())
        while not self._ready:
            if self._input_error is not None and self._finished:
                error, self._input_error = self._input_error, None
                raise error
            if self._finished or self._stopped:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        self._permits.release()
        return self._ready.popleft()

    def stop(self) -> None:
        """Submit nothing more, and cancel what is in flight."""
        self._stopped = True
        for outcome in (*self._ready, *self._early.values()):
            if outcome.result is not None:
                self._on_unclaimed(outcome.result.task_id)
        self._ready.clear()
        self._early.clear()
        if self._task is not None:
            self._task.cancel()
        self._news.set()

    def stop_from_anywhere(self) -> None:
        """As :meth:`stop`, but from a finalizer, which may run on any thread."""
        with contextlib.suppress(RuntimeError):
            if asyncio.get_running_loop() is self._loop:
                self.stop()
                return
        with contextlib.suppress(RuntimeError):  # the loop is closed: nothing is running any more
            self._loop.call_soon_threadsafe(self.stop)

    async def aclose(self) -> None:
        """Stop, and wait until nothing is left running."""
        self.stop()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as edits:
                index = 0
                async with contextlib.aclosing(pull(self._requests)) as requests:
                    while True:
                        await self._permits.acquire()
                        try:
                            request = await anext(requests)
                        except StopAsyncIteration:
                            break
                        except Exception as error:  # noqa: BLE001  # the input's own error belongs to the loop outside
                            self._input_error = error
                            break
                        edits.create_task(self._edit_one(index, request))
                        del request
                        index += 1
        except BaseException:  # a cancellation or an interrupt
            if not self._stopped:
                self._input_error = SessionClosedError("the session was closed in the middle of edit_many")
            raise
        finally:
            self._requests = ()  # a generator that nobody holds any more cleans up after itself
            self._finished = True
            self._news.set()

    async def _edit_one(self, index: int, request: RequestInput) -> None:
        # No outcome is kept in a variable here: an error's traceback holds this frame, which would make a cycle.
        try:
            result = await self._edit(request)
        except Exception as error:  # noqa: BLE001  # whatever is wrong with one request is its outcome
            self._deliver(EditOutcome(index=index, request=request, error=error))
        else:
            self._deliver(EditOutcome(index=index, request=request, result=result))

    def _deliver(self, outcome: EditOutcome) -> None:
        if not self._ordered:
            self._ready.append(outcome)
        else:
            self._early[outcome.index] = outcome
            while (following := self._early.pop(self._next_index, None)) is not None:
                self._ready.append(following)
                self._next_index += 1
        self._news.set()


class EditStream:
    """The outcomes of many edits, to be looped over once.

    ``async for outcome in session.edit_many(requests)`` stops submitting, and cancels what is in flight, as soon as the
    loop is left, however it is left. ``async with session.edit_many(requests) as outcomes`` does so at the end of the
    block, and waits until nothing is left running.
    """

    def __init__(self, make_feed: Callable[[], Feed]) -> None:
        self._make_feed = make_feed
        self._iterator: OutcomeIterator | None = None
        self._used = False

    def __aiter__(self) -> OutcomeIterator:
        if self._used:
            raise RuntimeError("edit_many can be looped over once: call it again")
        self._used = True
        return OutcomeIterator(self._make_feed())

    async def __aenter__(self) -> OutcomeIterator:
        self._iterator = aiter(self)
        return self._iterator

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._iterator is not None:
            await self._iterator.aclose()


class OutcomeIterator:
    """Iterates over the outcomes of ``edit_many``; the edits stop when it is dropped."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        weakref.finalize(self, feed.stop_from_anywhere).atexit = False

    def __aiter__(self) -> OutcomeIterator:
        return self

    async def __anext__(self) -> EditOutcome:
        try:
            return await self._feed.next()
        finally:
            del self  # or else this frame, in an exception's traceback, would keep the iterator and the edits alive

    async def aclose(self) -> None:
        """Stop submitting, cancel what is in flight, and wait until nothing is left running."""
        await self._feed.aclose()


def _as_request(given: RequestInput) -> EditRequest | None:
    """The request that was meant; ``None`` if it is none."""
    if isinstance(given, EditRequest):
        return given
    try:
        return request_from_fields(given)
    except InvalidEditError:
        return None


async def pull(requests: Iterable[T] | AsyncIterable[T]) -> AsyncGenerator[T, None]:
    """Iterate over either kind of input."""
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request
