"""The session and the bulk run for code that is not async: the same names and arguments, without ``await``.

::

    from qwen_edit_async.sync import EditSession

    with EditSession() as session:
        session.edit("cat.jpg", "make it snow").save("out/")

An open session has its own thread with an event loop, so any thread can use it, even one with a running loop. The
session's thread iterates over the requests of ``edit_many``. Ctrl-C cancels the waiting call. A pickled copy is closed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, Self, cast

import qwen_edit_async as aio
from qwen_edit_async.faces import Face, LoopThread, blocking, like
from qwen_edit_async.session.observer import CallSite


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
        return EditResult(self._loop.call(self._wrapped._result), self._loop)  # noqa: SLF001  # of this package

    def cancel(self) -> None:
        """Stop watching the task and free its slot. See :meth:`qwen_edit_async.EditTask.cancel`."""
        self._loop.call(self._wrapped.cancel)

    @like(aio.EditTask.updates)
    def updates(self) -> Iterator[aio.TaskSnapshot]:
        """Yield the newest snapshot, and then a snapshot for each change until the task ends."""
        return self._loop.iterate(self._wrapped.updates)


class EditOutcome(Face[aio.EditOutcome]):
    """The outcome of one of many edits. See :class:`qwen_edit_async.EditOutcome`."""

    @property
    def result(self) -> EditResult:
        """The result of the edit. If the edit failed, this raises the edit's error."""
        return EditResult(self._wrapped.result, self._loop)


class EditSession(Face[aio.EditSession]):
    """Edits images. See :class:`qwen_edit_async.EditSession`. Use ``with``, or call :meth:`open` and :meth:`close`."""

    @like(aio.EditSession.__init__)
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(aio.EditSession(*args, **options), LoopThread(CallSite.kept))

    edit: Final = EditResult.returned_by(aio.EditSession.edit)
    submit: Final = EditTask.returned_by(aio.EditSession.submit)
    attach: Final = EditTask.returned_by(aio.EditSession.attach)
    estimate: Final = blocking(aio.EditSession.estimate)
    status: Final = blocking(aio.EditSession.status)

    @like(aio.EditSession.edit_many)
    def edit_many(self, *args: Any, **options: Any) -> Iterator[EditOutcome]:
        """Run many edits, and yield their outcomes as they end. Leaving the loop stops submitting."""
        outcomes = self._loop.iterate(lambda: self._wrapped.edit_many(*args, **options))
        return (EditOutcome(outcome, self._loop) for outcome in outcomes)

    @like(aio.EditSession.pictures)
    def pictures(self, *args: Any) -> tuple[OutputImage, ...]:
        """Return the result pictures of a task whose result URLs are known."""
        return tuple(OutputImage(image, self._loop) for image in self._loop.call(self._wrapped.pictures, *args))

    @like(aio.EditSession.with_options)
    def with_options(self, **options: Any) -> EditSession:
        """Return this session with other limits. Both share one thread, and are opened and closed together."""
        session = EditSession.__new__(EditSession)
        Face.__init__(session, self._wrapped.with_options(**options), self._loop)
        return session

    def open(self) -> Self:
        """Open the session. A ``with`` statement does this."""
        return self.__enter__()

    def close(self) -> None:
        """Wait for calls of other threads to end, and close the session. A second call does nothing."""
        self.__exit__(None)

    def __enter__(self) -> Self:
        self._loop.__enter__().call(self._wrapped.open)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.is_open:
            with self._loop as loop:
                loop.call(self._wrapped.__aexit__, kind)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the service, but not the key, so that ``datasets`` recognizes its cached results."""
        protocol = self._wrapped._service.protocol  # noqa: SLF001  # of this package
        service = f"{self.base_url} {protocol.name} {getattr(protocol, 'model', '')}"
        return object.__new__, (EditSession,), {"_wrapped": service, "_loop": self._loop}


class EditBatch(Face[aio.EditBatch]):
    """Edits in bulk that survive any interruption. See :class:`qwen_edit_async.EditBatch`."""

    @like(aio.EditBatch.__init__)
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(aio.EditBatch(*args, **options), LoopThread())

    def run(
        self, session: EditSession, *, on_plan: Callable[[aio.BatchPlan], None] | None = None, service: str = ""
    ) -> aio.BatchReport:
        """Make all remaining edits, like ``await batch.run(session)``."""
        inner, loop = session._wrapped, session._loop  # noqa: SLF001  # another class of this module
        return cast("aio.BatchReport", loop.call(self._wrapped.run, inner, on_plan=on_plan, service=service))

    @like(aio.EditBatch.plan)
    def plan(self, **options: Any) -> aio.BatchPlan:
        """Return the plan of a run. This needs no session, key or network."""
        with LoopThread() as loop:
            return cast("aio.BatchPlan", loop.call(self._wrapped.plan, **options))

    @like(aio.EditBatch.outcomes)
    def outcomes(self) -> Iterator[aio.BatchOutcome]:
        """Yield the outcomes of all edits of all runs, in the order of the plan."""
        with LoopThread() as loop:
            yield from loop.iterate(self._wrapped.outcomes)
