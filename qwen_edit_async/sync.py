"""The session and the bulk run for code that is not async: the same names and arguments, without ``await``.

::

    from qwen_edit_async.sync import EditSession

    with EditSession() as session:
        session.edit("cat.jpg", "make it snow").save("out/")

An open session runs its event loop on its own thread, so any other thread can use the session, even a thread with a
running loop. The session's thread also reads the requests of ``edit_many``. Ctrl-C cancels the waiting call. A copy
made by pickle is a closed session.
"""

import contextlib
import functools
import inspect
from collections.abc import AsyncIterable

import qwen_edit_async as aio
from qwen_edit_async.loop_thread import LoopThread
from qwen_edit_async.session.observer import CallSite

FACES = {}  # maps each async class to the class that wraps it


def on_loop(method):
    """Return a synchronous method that calls a method of the wrapped object on the loop."""

    @functools.wraps(method)
    def call(self, *args, **options):
        with CallSite.kept():
            return self._wrap(self._loop.call(method, self._wrapped, *args, **options))

    return call


class Face:
    """A synchronous wrapper of an async object, with the same constructor, methods and attributes."""

    def __init_subclass__(cls, wraps, needs_loop=()):
        """Add the public async methods of the class ``wraps``, and its methods that ``needs_loop`` names."""

        @functools.wraps(wraps.__init__)
        def init(self, *args, **options):
            self._wrapped, self._loop = wraps(*args, **options), LoopThread()

        cls.__init__, FACES[wraps] = init, cls
        for name, method in vars(wraps).items():
            if name in needs_loop or (inspect.iscoroutinefunction(method) and not name.startswith(("_", "aclose"))):
                setattr(cls, name, vars(cls).get(name) or on_loop(method))

    def _wrap(self, value):
        if isinstance(value, tuple):
            return tuple(map(self._wrap, value))
        if isinstance(value, AsyncIterable):
            return (self._wrap(item) for item in self._loop.iterate(value))
        if type(value) not in FACES:
            return value
        face = object.__new__(FACES[type(value)])
        face._wrapped, face._loop = value, self._loop
        return face

    def __getattr__(self, name):
        if name in {"_wrapped", "_loop"} or name.startswith("__"):  # pickle looks for these names before they are set
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self._wrap(getattr(self._wrapped, name))

    def __repr__(self):
        return repr(self._wrapped)


class OutputImage(Face, wraps=aio.OutputImage):
    """One result picture. See :class:`qwen_edit_async.OutputImage`."""


class EditResult(Face, wraps=aio.EditResult):
    """A completed edit. See :class:`qwen_edit_async.EditResult`."""


class EditOutcome(Face, wraps=aio.EditOutcome):
    """The outcome of one edit of ``edit_many``. See :class:`qwen_edit_async.EditOutcome`."""


class EditTask(Face, wraps=aio.EditTask, needs_loop={"cancel", "updates"}):
    """A task at the service. See :class:`qwen_edit_async.EditTask`. Use ``task.result()``, not ``await task``."""

    @on_loop
    async def result(task):  # noqa: N805  # on_loop passes the wrapped task
        """Wait for the end of the task, and return its result. The errors are those of ``await task``."""
        return await task


class EditSession(Face, wraps=aio.EditSession, needs_loop={"attach", "edit_many", "pictures"}):
    """Edits images. See :class:`qwen_edit_async.EditSession`. Use ``with``, or call :meth:`open` and :meth:`close`."""

    @functools.wraps(aio.EditSession.with_options)
    def with_options(self, **options):
        return self._wrap(self._wrapped.with_options(**options))

    def open(self):
        """Open the session. A ``with`` statement does this."""
        with contextlib.ExitStack() as undo:
            if not self.is_open:
                undo.enter_context(self._loop)
            self._loop.call(self._wrapped.open)
            undo.pop_all()
        return self

    def close(self):
        """Wait for calls of other threads to end, and close the session. A second call does nothing."""
        self.__exit__(None)

    def __enter__(self):
        return self.open()

    def __exit__(self, kind, *_):
        if self.is_open:
            with self._loop as loop:
                loop.call(self._wrapped.__aexit__, kind)

    def __reduce__(self):
        # `datasets` finds its cached results by a hash of the pickle. The key and the counters would change this hash.
        protocol = self._wrapped._service.protocol
        return _closed_copy, (self.base_url, protocol.name, getattr(protocol, "model", None))


def _closed_copy(base_url, protocol, model):
    session = EditSession("none", base_url=base_url, protocol=protocol, model=model, allow_insecure=True)
    session._wrapped._state.closed = True
    return session


class EditBatch(Face, wraps=aio.EditBatch):
    """A bulk run that can be resumed after any interruption. See :class:`qwen_edit_async.EditBatch`."""

    @functools.wraps(aio.EditBatch.run)
    def run(self, session, **options):
        if not isinstance(session, EditSession):
            raise aio.ConfigurationError("session must be an EditSession of qwen_edit_async.sync, like this EditBatch")
        return session._loop.call(self._wrapped.run, session._wrapped, **options)

    @functools.wraps(aio.EditBatch.plan)
    def plan(self, **options):
        with LoopThread() as loop:
            return loop.call(self._wrapped.plan, **options)

    @functools.wraps(aio.EditBatch.outcomes)
    def outcomes(self):
        with LoopThread() as loop:
            yield from loop.iterate(self._wrapped.outcomes())
