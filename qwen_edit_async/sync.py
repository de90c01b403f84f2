"""The session and the bulk run for code that is not async: the same names and arguments, without ``await``.

::

    from qwen_edit_async.sync import EditSession

    with EditSession() as session:
        session.edit("cat.jpg", "make it snow").save("out/")

An open session has an event loop on a thread of its own. Any other thread can use the session, even one with a running
loop. The requests of ``edit_many`` are pulled on the thread that waits for the outcomes. Ctrl-C cancels the call that
the main thread waits for. A session that is pickled and loaded again is closed.
"""

import functools
import inspect
from collections.abc import AsyncIterable

import qwen_edit_async as aio
from qwen_edit_async.loop_thread import CallerIterable, LoopThread
from qwen_edit_async.session.observer import CallSite


class Face:
    """A synchronous wrapper of an async object. Wrappers of equal objects are equal."""

    _wrapped = _loop = None

    def _wrap(self, value):
        if type(value) is tuple:  # exact, so that an outcome's (wrong) request that is a named tuple keeps its type
            return tuple(map(self._wrap, value))
        if isinstance(value, AsyncIterable):
            return (self._wrap(item) for item in self._loop.iterate(value))
        if (cls := FACES.get(type(value))) is None:
            return value
        wrapper = cls.__new__(cls)
        wrapper._wrapped, wrapper._loop = value, self._loop
        return wrapper

    def __repr__(self):
        return repr(self._wrapped)

    def __eq__(self, other):
        return self._wrapped == other._wrapped if isinstance(other, Face) else NotImplemented

    def __hash__(self):
        return hash(self._wrapped)


def face(wraps, on_loop=()):
    """Return a wrapper class. The async methods of ``wraps``, and those named in ``on_loop``, run on the loop."""

    @functools.wraps(wraps.__init__)
    def init(self, *args, **options):
        try:
            self._wrapped, self._loop = wraps(*args, **options), LoopThread()
        finally:
            del args, options  # some tools show the local variables of a traceback, and the key is among them

    names = {name for name in dir(wraps) if not name.startswith("_") or name.startswith("_repr_")}
    members = {name: member(name, getattr(wraps, name), name in on_loop) for name in names - {"aclose", "require_open"}}
    return type(wraps.__name__, (Face,), members | {"__init__": init, "__doc__": wraps.__doc__, "__module__": __name__})


def member(name, wrapped, on_loop):
    """Return the synchronous counterpart of a method or an attribute."""
    if not inspect.isfunction(wrapped):
        return property(lambda self: self._wrap(getattr(self._wrapped, name)), doc=wrapped.__doc__)

    @functools.wraps(wrapped)
    def method(self, *args, **options):
        if not on_loop and not inspect.iscoroutinefunction(wrapped):
            return self._wrap(wrapped(self._wrapped, *args, **options))
        with CallSite.kept():
            return self._wrap(self._loop.call(wrapped, self._wrapped, *args, **options))

    return method


OutputImage, EditResult, EditOutcome = face(aio.OutputImage), face(aio.EditResult), face(aio.EditOutcome)


class EditTask(face(aio.EditTask, on_loop={"cancel", "updates"})):
    """A task at the service. See :class:`qwen_edit_async.EditTask`. Use ``task.result()``, not ``await task``."""

    def result(self):
        """Wait for the end of the task, and return its result. The errors are those of ``await task``."""
        return self._wrap(self._loop.call(self._wrapped._result))


class EditSession(face(aio.EditSession, on_loop={"attach", "pictures"})):
    """Edits images. See :class:`qwen_edit_async.EditSession`. Use ``with``, or call :meth:`open` and :meth:`close`."""

    @functools.wraps(aio.EditSession.edit_many)
    def edit_many(self, requests, **options):
        source = None if isinstance(requests, AsyncIterable) else CallerIterable(requests)
        with CallSite.kept():
            stream = self._loop.call(self._wrapped.edit_many, requests if source is None else source, **options)
        return (self._wrap(outcome) for outcome in self._loop.iterate(stream, source))

    def open(self):
        """Open the session, as a ``with`` statement does."""
        self._loop.start(self._wrapped.open)
        return self

    def close(self):
        """Wait for calls from other threads to end, and close the session. A second call does nothing."""
        self.__exit__(None)

    def __enter__(self):
        return self.open()

    def __exit__(self, kind, *_):
        if self.is_open:
            self._loop.stop(functools.partial(self._wrapped.__aexit__, kind))

    def __reduce__(self):
        # `datasets` finds cached results by a hash of the pickle. So the pickle leaves out the key and the counters.
        protocol = self._wrapped._forms.protocol
        return _closed_copy, (self.base_url, protocol.name, protocol.model, self.fit)


def _closed_copy(base_url, protocol, model, fit):
    session = EditSession("none", base_url=base_url, protocol=protocol, model=model, fit=fit, allow_insecure=True)
    session._wrapped._state.closed = True
    return session


class EditBatch(face(aio.EditBatch)):
    """A bulk run that can be resumed after any interruption. See :class:`qwen_edit_async.EditBatch`."""

    @functools.wraps(aio.EditBatch.run)
    def run(self, session, **options):
        if not isinstance(session, EditSession):
            raise aio.ConfigurationError(
                "session must be an EditSession from qwen_edit_async.sync, because this EditBatch comes from there"
            )
        return session._loop.call(self._wrapped.run, session._wrapped, **options)

    @functools.wraps(aio.EditBatch.plan)
    def plan(self, **options):
        with LoopThread() as loop:
            return loop.call(self._wrapped.plan, **options)

    @functools.wraps(aio.EditBatch.outcomes)
    def outcomes(self):
        with LoopThread() as loop:
            yield from loop.iterate(self._wrapped.outcomes())


FACES = {getattr(aio, each.__name__): each for each in (OutputImage, EditResult, EditOutcome, EditTask, EditSession)}
