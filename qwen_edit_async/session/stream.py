"""Runs the edits of ``edit_many``.

An :class:`EditPipeline` does the work in background tasks of the session. It pulls requests as the user fetches
outcomes, and yields outcomes as edits end. Users hold only an :class:`EditStream` and its iterator. The pipeline
refers to neither, so the iterator can be garbage-collected while edits run.

The pipeline stops when the ``async with`` block of the stream ends, or when the iterator is garbage-collected, for
example after a ``break``.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from qwen_edit_async.errors import InvalidEditError, SessionClosedError
from qwen_edit_async.images.kinds import copyable
from qwen_edit_async.models import EditParameters, EditRequest, RequestInput, request_from_fields, restore
from qwen_edit_async.session.observer import CallSite
from qwen_edit_async.session.options import Limits
from qwen_edit_async.session.results import EditResult
from qwen_edit_async.session.submission import Submission
from qwen_edit_async.session.submitter import Submitter
from qwen_edit_async.session.task import EditTask, outcome_for_waiter

if TYPE_CHECKING:
    from qwen_edit_async.display.cards import EditView

T = TypeVar("T")

_TIMINGS = ("queued", "submitting", "running", "lag", "checks")
"""The members of :class:`EditTimings` that are columns of a table of outcomes."""


@attrs.frozen(kw_only=True)
class EditOutcome:
    """The result or error of one edit of ``edit_many``.

    Attributes:
        index: The request's position in the input, from 0.
        request: The request, as it was given.
        error: The edit's error; ``None`` if the edit succeeded.
    """

    index: int
    request: RequestInput
    _result: EditResult | None = None
    error: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        state = attrs.asdict(self, recurse=False)
        if isinstance(self.request, Mapping):
            state["request"] = {name: copyable(value) for name, value in self.request.items()}
        return state

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        restore(self, state)

    @property
    def ok(self) -> bool:
        """Whether the edit succeeded."""
        return self.error is None

    @property
    def result(self) -> EditResult:
        """The result of the edit.

        Raises:
            Exception: The edit's :attr:`error`, if the edit failed.
        """
        if self._result is None:
            raise self.error or ValueError("this outcome has neither a result nor an error")
        return self._result

    def as_row(self) -> dict[str, Any]:
        """Return the outcome as a table row, for ``pandas.DataFrame([outcome.as_row() for outcome in outcomes])``.

        All outcomes have the same columns. Times are in seconds, and the cost is a ``Decimal``.
        """
        request = _as_request(self.request)
        result = self._result
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
            **{name: getattr(timings, name, None) for name in _TIMINGS},
            "error": type(self.error).__name__ if self.error is not None else None,
            "message": str(self.error) if self.error is not None else None,
        }

    def _repr_html_(self) -> str:
        """Return HTML for a notebook: thumbnails of the pictures before and after the edit, or the error."""
        from qwen_edit_async.display.cards import edit_html  # noqa: PLC0415  # only notebooks need it

        return edit_html(self._view())

    def _view(self) -> EditView:
        from qwen_edit_async.display.cards import EditView  # noqa: PLC0415  # only notebooks need it

        if self._result is not None:
            return self._result._view()  # noqa: SLF001  # another class of this package
        request = _as_request(self.request)
        task_id = getattr(self.error, "task_id", None)
        return EditView(
            instruction=request.instruction if request is not None else "",
            facts=tuple(filter(None, (request.key if request is not None else None, task_id and f"task {task_id}"))),
            error=f"{type(self.error).__name__}: {self.error}",
        )


@attrs.define(eq=False)
class EditPipeline:
    """Pulls requests, runs their edits, and keeps the outcomes until they are fetched.

    A slow loop over the outcomes slows the edits down. After the loop is left, the log names the tasks whose results
    were not fetched.

    Args:
        requests: The input. At most ``max_in_flight`` requests are held, each until its outcome is fetched.
        call_site: The line of the user's code at which warnings point.
        ordered: Whether outcomes come in the order of the input.

    Attributes:
        edits: The edits that have not ended, in the order of the input.
    """

    _requests: Iterable[RequestInput] | AsyncIterable[RequestInput]
    _submitter: Submitter
    _limits: Limits
    _call_site: CallSite
    _ordered: bool
    _permits: asyncio.Semaphore = attrs.field(init=False)
    _task: asyncio.Task[None] | None = attrs.field(default=None, init=False)
    _stopped: bool = attrs.field(default=False, init=False)
    _input_error: Exception | None = attrs.field(default=None, init=False)
    edits: dict[_Edit, None] = attrs.field(factory=dict, init=False)
    _done: OrderedDict[int, EditOutcome] = attrs.field(factory=OrderedDict, init=False)
    _next_index: int = attrs.field(default=0, init=False)
    _news: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self._permits = asyncio.Semaphore(self._submitter.parts.options.max_in_flight)

    async def next(self) -> EditOutcome:
        """Return the next outcome.

        Raises:
            StopAsyncIteration: If there are no more outcomes.
            SessionClosedError: If the session was closed before the input ended.
            Exception: If the input raised this exception. All earlier outcomes are returned first.
        """
        if self._task is None and not self._stopped:
            self._task = self._submitter.background.start(self._pull())
        while (outcome := self._take()) is None:
            finished = self._task is not None and self._task.done() and not self.edits
            if self._input_error is not None and finished:
                error, self._input_error = self._input_error, None
                raise error
            if finished or self._stopped:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        self._permits.release()
        return outcome

    def _take(self) -> EditOutcome | None:
        """Remove the next outcome, if there is one, and return it."""
        if not self._ordered:
            return self._done.popitem(last=False)[1] if self._done else None
        outcome = self._done.pop(self._next_index, None)
        self._next_index += outcome is not None
        return outcome

    def stop(self) -> None:
        """Stop submitting, and give up the edits in flight."""
        self._stopped = True
        for outcome in self._done.values():
            if outcome.ok:
                self._submitter.poller.remember_unclaimed(outcome.result.task_id)
        self._done.clear()
        edits, self.edits = self.edits, {}
        for edit in edits:
            edit.give_up()
            self._submitter.poller.active_calls.leave()
        if self._task is not None:
            self._task.cancel()
        self._news.set()

    def stop_from_anywhere(self) -> None:
        """Stop soon, from a finalizer, which may run on any thread, and in the middle of any other method."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nothing is running
            self._submitter.poller.loop.call_soon_threadsafe(self.stop)

    async def aclose(self) -> None:
        """Stop, and wait until nothing more is sent. Replies to requests already sent arrive in the background."""
        submissions = [
            edit.stage.work for edit in self.edits if isinstance(edit.stage, Submission) and not edit.stage.sent_whole
        ]
        self.stop()
        if self._task is not None:
            await asyncio.wait([self._task, *submissions])

    async def _pull(self) -> None:
        try:
            index = 0
            async with contextlib.aclosing(iterate(self._requests)) as requests:
                while True:
                    await self._permits.acquire()
                    try:
                        request = await anext(requests)
                    except StopAsyncIteration:
                        break
                    except Exception as error:  # noqa: BLE001  # an error of the input is raised in the user's loop
                        self._input_error = error
                        break
                    self._begin(index, request)
                    del request
                    index += 1
        except BaseException:  # also a cancellation: the user's loop must not wait forever
            if not self._stopped:
                self._input_error = SessionClosedError("the session was closed in the middle of edit_many")
            raise
        finally:
            self._requests = ()  # drop the user's generator, so that it is finalized now
            self._news.set()

    def _begin(self, index: int, given: RequestInput) -> None:
        try:
            request = given if isinstance(given, EditRequest) else request_from_fields(given)
            submission = self._submitter.begin(request, self._limits, call_site=self._call_site)
        except Exception as error:  # noqa: BLE001  # an error of one request becomes its outcome
            self._deliver(EditOutcome(index=index, request=given, error=error))
        else:
            edit = _Edit(self, index, given, submission)
            self.edits[edit] = None
            self._submitter.poller.active_calls.enter()
            submission.accepted.add_done_callback(edit.advance)

    def finish(self, edit: _Edit, end: EditResult | Exception) -> None:
        """Record the end of an edit, and deliver its outcome."""
        del self.edits[edit]
        self._submitter.poller.active_calls.leave()
        result, error = (end, None) if isinstance(end, EditResult) else (None, end)
        self._deliver(EditOutcome(index=edit.index, request=edit.given, result=result, error=error))

    def _deliver(self, outcome: EditOutcome) -> None:
        self._done[outcome.index] = outcome
        self._news.set()


@attrs.define(eq=False)
class _Edit:
    """One edit of a pipeline, first a submission and then a task. It waits with callbacks, not in a coroutine."""

    pipeline: EditPipeline
    index: int
    given: RequestInput
    stage: Submission | EditTask
    change: asyncio.Future[None] | None = None

    def advance(self, _: asyncio.Future[Any]) -> None:
        """Called after each change. Finishes the edit if it has ended."""
        if self not in self.pipeline.edits:
            return
        if isinstance(self.stage, Submission):
            error = self.stage.accepted.exception()
            if isinstance(error, Exception):
                self.pipeline.finish(self, error)
                return
            self.stage = self.stage.accepted.result()
        if self.stage.outcome is not None:
            self.pipeline.finish(self, outcome_for_waiter(self.stage.outcome))
        else:
            self.change = self.stage.next_change()
            self.change.add_done_callback(self.advance)

    def give_up(self) -> None:
        if isinstance(self.stage, Submission):
            self.stage.give_up()
        else:
            if self.change is not None:
                self.change.cancel()
            self.stage.cancel_unless_awaited()


class EditStream:
    """The outcomes of many edits. They can be iterated over only once.

    ``async for outcome in session.edit_many(requests)`` stops submitting as soon as the loop is left in any way, and
    gives up the edits in flight. ``async with session.edit_many(requests) as outcomes`` does the same at the end of
    the block, and waits until nothing more is sent.
    """

    def __init__(self, pipeline: EditPipeline) -> None:
        self._pipeline = pipeline
        self._used = False

    def __aiter__(self) -> OutcomeIterator:
        if self._used:
            raise RuntimeError("an EditStream can be looped over only once: call edit_many again")
        self._used = True
        return OutcomeIterator(self._pipeline)

    async def __aenter__(self) -> OutcomeIterator:
        return aiter(self)

    async def __aexit__(self, *_: object) -> None:
        await self._pipeline.aclose()


class OutcomeIterator:
    """Iterates over the outcomes of ``edit_many``. The edits stop when the iterator is garbage-collected."""

    def __init__(self, pipeline: EditPipeline) -> None:
        self._pipeline = pipeline
        weakref.finalize(self, pipeline.stop_from_anywhere).atexit = False

    def __aiter__(self) -> OutcomeIterator:
        return self

    async def __anext__(self) -> EditOutcome:
        try:
            return await self._pipeline.next()
        finally:
            del self  # otherwise the traceback of an exception would keep the iterator and its edits alive

    async def aclose(self) -> None:
        """Stop submitting, give up the edits in flight, and wait until nothing more is sent."""
        await self._pipeline.aclose()


def _as_request(given: RequestInput) -> EditRequest | None:
    """Return an input as a request, or ``None`` if it is invalid."""
    if isinstance(given, EditRequest):
        return given
    try:
        return request_from_fields(given)
    except InvalidEditError:
        return None


async def iterate(requests: Iterable[T] | AsyncIterable[T]) -> AsyncGenerator[T, None]:
    """Iterate over a synchronous or asynchronous iterable."""
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request
