"""The synchronous face: the async contract, called from threads."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import contextvars
import gc
import inspect
import itertools
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import pytest
from bulk_runs import PHOTO

import qwen_edit_async as aio
from qwen_edit_async import sync
from qwen_edit_async.emulator import EditEmulator, FixedEngine
from qwen_edit_async.loop_thread import CallerIterable, LoopThread

pytestmark = pytest.mark.may_block("the face blocks the thread that calls it")


@pytest.fixture
def session(qwen_edit_emulator):
    with open_session(qwen_edit_emulator) as session:
        yield session


def open_session(emulator, **options):
    return sync.EditSession(emulator.api_key, base_url=emulator.url, polling=aio.FixedInterval(0.02), **options)


def public_signatures(owner):
    return {
        name: inspect.signature(member)
        for name, member in inspect.getmembers(owner, inspect.isfunction)
        if (not name.startswith("_") or name == "__init__")
    }


def parameters_of(signature):
    return [(each.name, each.kind, each.default) for each in signature.parameters.values()]


FACES = ["EditSession", "EditBatch", "EditResult", "EditTask", "EditOutcome", "OutputImage"]


@pytest.mark.parametrize("name", FACES)
def test_methods_take_the_arguments_of_the_async_ones(name):
    ours, theirs = public_signatures(getattr(sync, name)), public_signatures(getattr(aio, name))
    for each in set(ours) & set(theirs):
        assert parameters_of(ours[each]) == parameters_of(theirs[each]), each


@pytest.mark.parametrize("name", FACES)
def test_no_method_is_left_that_needs_an_event_loop(name):
    public = {each for each in dir(getattr(aio, name)) if not each.startswith("_")}
    face = getattr(sync, name)
    assert set(dir(face)) >= public - {"aclose", "require_open"}
    is_async = (inspect.iscoroutinefunction, inspect.isasyncgenfunction)
    methods = [getattr(face, each) for each in dir(face) if not each.startswith("_")]
    assert not any(check(method) for method in methods for check in is_async)
    assert all(inspect.getdoc(method) for method in methods if inspect.isfunction(method))


@pytest.mark.parametrize("name", FACES)
def test_the_declared_members_are_those_that_exist(name):
    """Methods that the class defines are declared, and everything declared exists."""
    stub = ast.parse(Path(sync.__file__).with_suffix(".pyi").read_text())
    [declared] = [each for each in stub.body if isinstance(each, ast.ClassDef) and each.name == name]
    names = {getattr(each, "name", None) or each.target.id for each in declared.body}
    face, wrapped = getattr(sync, name), getattr(aio, name)
    assert {each for each in names if not hasattr(face, each) and not hasattr(wrapped, each)} == set()
    assert {each for each in vars(face) if not each.startswith("_")} <= names


def test_an_edit_is_saved(session, photos, tmp_path):
    result = session.edit(photos / "a.png", "make it snow", n=2, seed=7)
    paths = result.save(tmp_path / "out")
    assert [path.name for path in paths] == [f"{result.task_id}-0.png", f"{result.task_id}-1.png"]
    assert result.images[1].read() == paths[1].read_bytes()
    assert result.images[0].open().size == result.images[1].open().size
    assert result.usage.quantity == len(result.images) == 2


@pytest.mark.parametrize("protocol", ["generation", "queue", "dashscope"])
def test_edits_end_in_each_protocol(protocol, qwen_edit_emulator):
    with open_session(qwen_edit_emulator, protocol=protocol) as session:
        result = session.edit(PHOTO, "make it snow", n=2)
        assert [image.read()[:4] for image in result.images] == [b"\x89PNG"] * 2
        outcomes = list(session.edit_many({"image": PHOTO, "instruction": f"edit {number}"} for number in range(4)))
        assert all(outcome.ok for outcome in outcomes)
        assert {record.protocol for record in qwen_edit_emulator.tasks.values()} == {protocol}


def test_a_task_that_is_given_up_is_cancelled_at_the_service_where_the_protocol_can():
    with EditEmulator(duration=3600, engine=FixedEngine()).in_thread() as emulator:
        with open_session(emulator, protocol="queue") as session:
            session.submit(PHOTO, "make it snow").cancel()
        assert (session.statistics().cancellations, session.unfinished) == (1, ())
        assert emulator.statistics().tasks_cancelled == 1


def test_a_task_can_be_awaited_attached_and_given_up(session):
    task = session.submit(PHOTO, "make it snow")
    assert session.estimate(PHOTO, "make it snow", n=2).cost == 2 * session.estimate(PHOTO, "make it snow").cost
    assert session.status(task.id).task_id == task.id
    assert task.result().task_id == session.attach(task.id).result().task_id == task.id
    given_up = session.submit(PHOTO, "make it rain")
    given_up.cancel()
    with pytest.raises(aio.EditCancelledError):
        given_up.result()
    assert session.unfinished == (given_up.id,)


def test_the_changes_of_a_task_are_a_plain_iterator(session):
    task = session.submit(PHOTO, "make it snow")
    assert [snapshot.status for snapshot in task.updates()][-1] is aio.TaskStatus.COMPLETED


def test_pictures_whose_urls_are_known_are_had_again(session):
    result = session.edit(PHOTO, "make it snow")
    [image] = session.pictures(result.task_id, [result.images[0].url])
    assert image.read() == result.images[0].read()


def test_the_context_variables_of_the_caller_hold_for_the_edit(qwen_edit_emulator):
    caller, seen = contextvars.ContextVar("caller", default="nobody"), set()
    with open_session(qwen_edit_emulator, on_event=lambda _: seen.add(caller.get())) as session:
        caller.set("me")
        session.edit(PHOTO, "make it snow")
    assert seen == {"me"}


def test_a_session_is_pickled_in_the_same_way_before_and_after_its_edits():
    """So that a hash of its content finds a cached result."""
    with (
        EditEmulator(envelope="params", duration=0.0, engine=FixedEngine()).in_thread() as emulator,
        open_session(emulator) as session,
    ):
        before = pickle.dumps(session)
        session.edit(PHOTO, "make it snow")
        assert pickle.dumps(session) == before


def test_a_pickled_session_has_no_key_and_is_closed(session):
    assert b"qwen_image_edit_plus" in pickle.dumps(session)
    assert b"emulator-key" not in pickle.dumps(session)
    copied = pickle.loads(pickle.dumps(session))
    with pytest.raises(aio.SessionClosedError, match="not open in this process"):
        copied.edit(PHOTO, "make it snow")
    before = threading.enumerate()
    with pytest.raises(aio.SessionClosedError, match="create another"):
        copied.open()
    assert [thread for thread in threading.enumerate() if thread not in before] == []
    assert (copied.is_open, copied.base_url) == (False, session.base_url)
    copied.close()


def test_a_pickled_result_keeps_what_it_says(session):
    result = session.edit(PHOTO, "make it snow")
    copied = pickle.loads(pickle.dumps(result))
    assert (copied.task_id, copied.usage) == (result.task_id, result.usage)
    with pytest.raises(aio.SessionClosedError, match="not open in this process"):
        copied.save("anywhere")


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_does_not_wait_for_a_thread_that_it_lacks(session):
    pid = os.fork()
    if pid == 0:
        try:
            session.edit(PHOTO, "make it snow")
        except aio.SessionClosedError:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


def test_the_requests_of_edit_many_are_pulled_on_the_thread_that_waits(session):
    """So they can use the session, and may block without stopping other threads."""

    def requests():
        assert threading.current_thread() is threading.main_thread()
        yield {"image": session.edit(PHOTO, "make it snow").images[0].read(), "instruction": "make it rain"}

    [outcome] = session.edit_many(requests())
    assert outcome.ok


def test_an_input_that_waits_does_not_stop_other_threads(session):
    def requests():
        yield {"image": PHOTO, "instruction": "make it snow"}
        with ThreadPoolExecutor(1) as other:
            assert other.submit(session.edit, PHOTO, "make it rain").result(timeout=20).task_id

    [outcome] = session.edit_many(requests())
    assert outcome.ok


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_of_the_input_reaches_the_loop_over_the_outcomes(session, raised):
    def requests():
        yield {"image": PHOTO, "instruction": "make it snow"}
        raise raised("no more")

    with pytest.raises(raised, match="no more"):
        list(session.edit_many(requests()))
    assert session.edit(PHOTO, "make it rain").task_id


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit])
def test_an_exit_of_a_callback_reaches_the_caller(qwen_edit_emulator, raised):
    def leave(event):
        raise raised("enough")

    with open_session(qwen_edit_emulator, on_event=leave) as session:
        with pytest.raises(raised, match="enough"):
            session.edit(PHOTO, "make it snow")
        with pytest.raises(aio.SessionClosedError):
            session.edit(PHOTO, "make it snow")


def test_an_input_ends_on_the_thread_that_waits_when_the_loop_over_the_outcomes_is_left(session):
    ended_on = []
    for _ in session.edit_many(requests_that_end(ended_on)):
        break
    assert ended_on == [threading.main_thread()]


def test_an_input_ends_at_once_even_if_an_item_is_wanted():
    ended_on = []
    gc.disable()
    try:
        source = CallerIterable(requests_that_end(ended_on))
        with LoopThread() as loop:
            for _ in loop.iterate(one_ahead(source), source):
                break
            assert ended_on == [threading.main_thread()]
    finally:
        gc.enable()


def test_an_item_that_nobody_waits_for_any_more_is_no_error():
    pulling, pulled = threading.Event(), threading.Event()
    reported = []

    def items():
        pulling.set()
        assert pulled.wait(20)
        yield 1

    async def give_up_the_first(source):
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(context["message"]))
        wanted = asyncio.ensure_future(anext(aiter(source)))
        await asyncio.to_thread(pulling.wait, 20)
        wanted.cancel()
        await asyncio.wait([wanted])
        delivered = asyncio.Event()
        source.news.put(lambda: loop.call_soon_threadsafe(delivered.set))  # runs after the item's delivery
        pulled.set()
        await delivered.wait()
        yield "done"

    source = CallerIterable(items())
    with LoopThread() as loop:
        assert list(loop.iterate(give_up_the_first(source), source)) == ["done"]
    assert reported == []


def requests_that_end(ended_on):
    try:
        for number in itertools.count():
            yield {"image": PHOTO, "instruction": f"edit {number}"}
    finally:
        ended_on.append(threading.current_thread())


async def one_ahead(source):
    items = aiter(source)
    first = await anext(items)
    ahead = asyncio.ensure_future(anext(items))
    await asyncio.sleep(0)
    yield first
    ahead.cancel()


class Sequence:
    """An iterable of the old kind, without ``__iter__``."""

    pulled_on: ClassVar = set()

    def __getitem__(self, number):
        self.pulled_on.add(threading.current_thread())
        return {"image": PHOTO, "instruction": "make it snow"} if number < 2 else [][number]


def test_an_input_without_iter_is_pulled_on_the_thread_that_waits(session):
    assert len(list(session.edit_many(Sequence()))) == 2
    assert Sequence.pulled_on == {threading.main_thread()}


class AlarmError(Exception):
    """Raised by a signal's handler."""


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGALRM, AlarmError)])
def test_an_edit_that_a_signal_interrupts_names_its_task(number, raised, monkeypatch):
    def interrupt(*_):
        raise raised

    before = signal.signal(number, interrupt)
    try:
        with EditEmulator(duration=3600, engine=FixedEngine()).in_thread() as emulator:
            main = threading.main_thread().ident

            def kill(event):
                if isinstance(event, aio.EditSubmitted):
                    signal.pthread_kill(main, number)

            session = open_session(emulator, on_event=kill).open()
            with pytest.raises(raised) as caught:
                session.edit(PHOTO, "make it snow")
            [task_id] = emulator.tasks
            assert caught.value.__notes__ == [
                f"task {task_id} runs on at the service: session.attach({task_id!r}) gets its result"
            ]
            assert session.unfinished == (task_id,)
            session.__exit__(KeyError)
    finally:
        signal.signal(number, before)


def test_an_interrupted_call_that_had_already_returned_names_its_result(qwen_edit_emulator):
    interrupted = threading.Event()
    main = threading.main_thread().ident

    async def edit():
        async with aio.EditSession(qwen_edit_emulator.api_key, base_url=qwen_edit_emulator.url) as session:
            result = await session.edit(PHOTO, "make it snow")
        signal.pthread_kill(main, signal.SIGINT)
        assert interrupted.wait(20)
        return result

    before = signal.signal(signal.SIGINT, lambda *args: (interrupted.set(), signal.default_int_handler(*args)))
    try:
        with LoopThread() as loop, pytest.raises(KeyboardInterrupt) as caught:
            loop.call(edit)
    finally:
        signal.signal(signal.SIGINT, before)
    [note] = caught.value.__notes__
    assert note.startswith("the interrupted call had already returned EditResult(task_id=")


def test_equal_objects_have_equal_wrappers(session):
    task = session.submit(PHOTO, "make it snow")
    assert session.attach(task.id) == task
    assert len({session.attach(task.id), task}) == 1
    assert task != session.submit(PHOTO, "make it rain")
    assert task != task.id


def test_the_key_is_in_no_local_variable_of_a_traceback(qwen_edit_emulator):
    with pytest.raises(aio.ConfigurationError) as caught:
        open_session(qwen_edit_emulator, max_in_flight=0)
    frames = [frame for frame, _ in traceback.walk_tb(caught.tb) if frame.f_globals["__name__"].startswith("qwen")]
    assert frames
    assert not any(qwen_edit_emulator.api_key in repr(frame.f_locals) for frame in frames)


def test_a_pickle_tells_what_changes_results(qwen_edit_emulator):
    def pickled(**options):
        return pickle.dumps(sync.EditSession("key-1", base_url=qwen_edit_emulator.url, **options))

    same = [pickled(), pickled(max_in_flight=3)]
    other = [pickled(fit=True), pickled(protocol="queue"), pickled(model="another")]
    assert len(set(same)) == 1
    assert len({*same, *other}) == 4


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_session_made_before_a_fork_can_be_opened_after_it(qwen_edit_emulator):
    session = open_session(qwen_edit_emulator)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with session:
                status = 0 if session.edit(PHOTO, "make it snow").task_id else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_generator_that_is_forgotten_on_its_own_thread_ends_the_thread():
    loops = []

    def numbers():
        with LoopThread() as loop:
            loops.append(loop)
            yield from loop.iterate(endless())

    generators = [numbers()]
    assert next(generators[0]) == 0
    thread = loops[0].call(threading.current_thread)
    loops[0].call(generators.clear)
    thread.join(20)
    assert not thread.is_alive()


async def endless():
    for number in itertools.count():
        yield number


def test_a_callback_can_not_wait_for_its_own_session(qwen_edit_emulator):
    errors = []

    def ask(event):
        try:
            session.status("a-task")
        except aio.SessionClosedError as error:
            errors.append(str(error))

    with open_session(qwen_edit_emulator, on_event=ask) as session:
        session.edit(PHOTO, "make it snow")
    assert set(errors) == {"the session can't be called from its own thread: use another session"}


def test_a_result_that_comes_just_before_the_thread_ends_is_returned():
    class Late(queue.SimpleQueue):
        timed_out = False

        def get(self, *, timeout):
            if self.timed_out:
                return super().get(timeout=timeout)
            self.timed_out = True  # the first wait times out; then the call and the thread end
            result = super().get(timeout=20)
            loop.stop()
            self.put(result)
            raise queue.Empty

    async def results():
        yield "a paid result"

    source = CallerIterable(())
    source.news = Late()
    with LoopThread() as loop:
        assert next(loop.iterate(results(), source)) == "a paid result"


def test_the_loop_is_made_on_its_own_thread(monkeypatch):
    makers, make = [], asyncio.new_event_loop

    def noting():
        makers.append(threading.current_thread())
        return make()

    monkeypatch.setattr(asyncio, "new_event_loop", noting)
    monkeypatch.setattr(asyncio.events, "new_event_loop", noting)
    with LoopThread() as loop:
        assert makers == [loop.call(threading.current_thread)]


@pytest.mark.parametrize("has_loop", [False, True])
def test_a_loop_ends_if_ctrl_c_comes_while_its_thread_starts(has_loop, monkeypatch):
    threads, may_go_on, loop_made = [], threading.Event(), threading.Event()
    start, get_loop = threading.Thread.start, asyncio.Runner.get_loop

    def interrupted(thread):
        start(thread)
        threads.append(thread)
        if has_loop:
            may_go_on.set()
            loop_made.wait(20)
        raise KeyboardInterrupt

    def slow(runner):
        may_go_on.wait(20)
        loop_made.set()
        return get_loop(runner)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    monkeypatch.setattr(asyncio.Runner, "get_loop", slow)
    with pytest.raises(KeyboardInterrupt):
        LoopThread().start()
    may_go_on.set()
    [thread] = threads
    thread.join(20)
    assert not thread.is_alive()


def test_threads_that_start_a_loop_at_once_start_one(monkeypatch):
    calls = []
    second_waits = threading.Event()

    class Lock:
        """The loop's lock, which tells when the second thread waits for it."""

        def __init__(self, own):
            self.own = own

        def __enter__(self):
            if threading.current_thread() is second:
                second_waits.set()
            self.own.acquire()

        def __exit__(self, *_):
            self.own.release()

    def start_in_second_thread():
        loop.start(lambda: calls.append("second"))
        second_waits.set()

    def process_id():
        """Called by the first thread when it has found that there is no thread yet."""
        monkeypatch.undo()
        second.start()
        assert second_waits.wait(20)
        return os.getpid()

    second = threading.Thread(target=start_in_second_thread)
    lock = Lock(threading.Lock())
    with monkeypatch.context() as patch:
        patch.setattr(threading, "Lock", lambda: lock)
        loop = LoopThread()
    before = set(threading.enumerate())
    monkeypatch.setattr(os, "getpid", process_id)
    loop.start(lambda: calls.append("first"))
    second.join(20)
    started = set(threading.enumerate()) - before
    loop.stop()
    assert (calls, len(started)) == (["first", "second"], 1)


def test_a_call_that_is_interrupted_while_the_loop_is_busy_is_never_made(qwen_edit_emulator):
    loops = []
    with open_session(qwen_edit_emulator, on_event=lambda _: loops.append(asyncio.get_running_loop())) as session:
        session.edit(PHOTO, "make it rain")
        busy, free = threading.Event(), threading.Event()
        loops[0].call_soon_threadsafe(lambda: (busy.set(), free.wait(20)))
        assert busy.wait(20)
        threading.Timer(0.2, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT]).start()
        threading.Timer(0.4, free.set).start()
        with pytest.raises(KeyboardInterrupt):
            session.edit(PHOTO, "make it snow")
    assert qwen_edit_emulator.statistics().tasks_created == 1


def test_outcomes_that_are_forgotten_after_the_session_was_closed_are_no_error(qwen_edit_emulator):
    with open_session(qwen_edit_emulator) as session:
        outcomes = session.edit_many([{"image": PHOTO, "instruction": "make it snow"}])
        assert next(outcomes).ok
    outcomes.close()


def test_warnings_point_at_the_line_of_the_caller(session):
    long = "x" * 801
    with pytest.warns(aio.EditWarning) as caught:  # noqa: PT031  # each call stands on a line of its own
        session.edit(PHOTO, long)
        [_] = session.edit_many([{"image": PHOTO, "instruction": long}])
    here = inspect.currentframe().f_lineno
    assert [(warning.filename, warning.lineno) for warning in caught] == [(__file__, here - 2), (__file__, here - 1)]


def test_errors_are_those_of_the_async_session(session):
    with pytest.raises(aio.InvalidEditError, match="n is 9"):
        session.edit(PHOTO, "make it snow", n=9)
    with pytest.raises(aio.InvalidEditError, match="instruction is missing"):
        session.edit(PHOTO)


def test_other_limits_share_the_session(session, qwen_edit_emulator):
    quick = session.with_options(deadline=300, max_retries=0)
    task = quick.submit(PHOTO, "make it snow")
    assert session.attach(task.id).result().task_id == task.id
    assert quick.statistics().submitted == qwen_edit_emulator.statistics().tasks_created == 1
    with pytest.raises(aio.ConfigurationError, match="max_retries is -1"):
        session.with_options(max_retries=-1)


def test_a_closed_session_says_so(qwen_edit_emulator):
    unopened = open_session(qwen_edit_emulator)
    with pytest.raises(aio.SessionClosedError, match="use `with EditSession"):
        unopened.edit(PHOTO, "make it snow")
    with open_session(qwen_edit_emulator) as session, pytest.raises(aio.SessionClosedError, match="opened only once"):
        session.open()
    session.close()
    for use in (lambda: session.edit(PHOTO, "x"), lambda: session.status("t"), lambda: list(session.edit_many([]))):
        with pytest.raises(aio.SessionClosedError):
            use()
    with open_session(qwen_edit_emulator) as second:
        assert second.edit(PHOTO, "make it snow").task_id


def test_many_threads_share_a_session(session, qwen_edit_emulator):
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda number: session.edit(PHOTO, f"edit {number}"), range(24)))
    assert len({result.task_id for result in results}) == qwen_edit_emulator.statistics().tasks_created == 24


def test_edit_many_is_lazy_and_stops_when_its_loop_is_left(session, qwen_edit_emulator):
    pulled = []

    def requests():
        for number in range(10_000):
            pulled.append(number)
            yield {"image": PHOTO, "instruction": f"edit {number}"}

    for outcome in session.edit_many(requests(), ordered=True):
        assert outcome.result.task_id
        if outcome.index == 3:
            break
    assert len(pulled) <= 4 + session.max_in_flight + 1
    created = qwen_edit_emulator.statistics().tasks_created
    assert session.edit(PHOTO, "one more").task_id
    assert qwen_edit_emulator.statistics().tasks_created <= created + session.max_in_flight


def test_one_bad_request_is_an_outcome(session):
    good, bad = session.edit_many([{"image": PHOTO, "instruction": "x"}, {"image": PHOTO}], ordered=True)
    assert good.ok
    assert isinstance(bad.error, aio.InvalidEditError)
    with pytest.raises(aio.InvalidEditError):
        _ = bad.result


@pytest.mark.anyio
async def test_it_works_while_the_loop_of_the_thread_runs(qwen_edit_emulator):
    with open_session(qwen_edit_emulator) as session:
        assert session.edit(PHOTO, "make it snow").task_id
        assert asyncio.get_running_loop().is_running()


def test_a_bulk_run_goes_on_where_it_ended(session, photos, tmp_path, qwen_edit_emulator):
    plan = sync.EditBatch(photos, tmp_path / "out", instruction="make it snow").plan(price="0.05")
    report = sync.EditBatch(photos, tmp_path / "out", instruction="make it snow", max_tasks=1).run(session)
    assert (report.saved, qwen_edit_emulator.statistics().tasks_created) == (1, 1)
    batch = sync.EditBatch(photos, tmp_path / "out", instruction="make it snow")
    report = batch.run(session)
    assert report.saved == plan.rows == qwen_edit_emulator.statistics().tasks_created
    assert [outcome.status for outcome in batch.outcomes()] == ["saved"] * report.saved
    assert batch.progress.saved == report.saved


def test_a_bulk_run_refuses_an_asynchronous_session(photos, tmp_path, qwen_edit_emulator):
    session = aio.EditSession(qwen_edit_emulator.api_key, base_url=qwen_edit_emulator.url)
    with pytest.raises(aio.ConfigurationError, match=r"must be an EditSession from qwen_edit_async\.sync, because"):
        sync.EditBatch(photos, tmp_path / "out", instruction="make it snow").run(session)


def test_leaving_the_block_by_an_exception_ends_the_waits_of_other_threads():
    with EditEmulator(duration=3600, engine=FixedEngine()).in_thread() as emulator, ThreadPoolExecutor(1) as threads:
        session = open_session(emulator).open()
        task = session.submit(PHOTO, "make it snow")
        wait = threads.submit(task.result)
        session.__exit__(KeyError, KeyError(), None)
        with pytest.raises(aio.SessionClosedError, match=task.id):
            wait.result()
    assert session.unfinished == (task.id,)


_UNCLOSED = """
import sys
from qwen_edit_async import FixedInterval
from qwen_edit_async.sync import EditSession
session = EditSession(sys.argv[1], base_url=sys.argv[2], polling=FixedInterval(0.02)).open()
print(session.edit(sys.argv[3], "make it snow").task_id)
"""


def test_a_process_ends_even_if_its_session_was_never_closed(qwen_edit_emulator, photos):
    command = [sys.executable, "-c", _UNCLOSED, qwen_edit_emulator.api_key, qwen_edit_emulator.url, photos / "a.png"]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=30, check=True)
    assert process.stdout.split() == list(qwen_edit_emulator.tasks)


_USED_AT_EXIT = """
import sys
from qwen_edit_async import SessionClosedError
from qwen_edit_async.sync import EditSession

class App:
    def __init__(self):
        self.session = EditSession(sys.argv[1], base_url=sys.argv[2]).open()
        self.outcomes = self.session.edit_many([{"image": sys.argv[3], "instruction": "make it snow"}] * 2)

    def __del__(self):
        try:
            self.session.status("a-task")
        except SessionClosedError as error:
            print(sys.is_finalizing(), error)

app = App()
print(next(app.outcomes).ok)
"""


def test_a_session_that_is_used_while_the_interpreter_exits_does_not_wait_for_its_thread(qwen_edit_emulator, photos):
    """The interpreter no longer runs the thread. From Python 3.14 on, the thread seems to be alive all the same."""
    command = [sys.executable, "-c", _USED_AT_EXIT, qwen_edit_emulator.api_key, qwen_edit_emulator.url]
    process = subprocess.run([*command, photos / "a.png"], stdout=subprocess.PIPE, text=True, timeout=30, check=True)
    first, second = process.stdout.splitlines()
    assert first == "True"
    assert second.startswith("True the session is not open in this process")


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_can_leave_the_block_of_its_parents_session(qwen_edit_emulator):
    with contextlib.ExitStack() as stack:
        stack.enter_context(open_session(qwen_edit_emulator))
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                stack.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0


_INTERRUPTED = """
import sys
from qwen_edit_async import FixedInterval
from qwen_edit_async.sync import EditBatch, EditSession
_, key, url, call, photo = sys.argv
try:
    with EditSession(key, base_url=url, polling=FixedInterval(0.02)) as session:
        task = session.submit(photo, "make it snow")
        print("waiting", flush=True)
        if call == "batch":
            EditBatch([photo], photo + "-out", instruction="make it rain").run(session)
        task.result() if call == "task" else session.edit(photo, "make it rain")
finally:
    print(*session.unfinished)
"""


@pytest.mark.parametrize("call", ["task", "edit", "batch"])
def test_ctrl_c_ends_the_wait_and_names_the_tasks(call, photos):
    created = {"task": 1, "edit": 2, "batch": 2}[call]
    with EditEmulator(duration=3600, engine=FixedEngine()).in_thread() as emulator:
        command = [sys.executable, "-c", _INTERRUPTED, emulator.api_key, emulator.url, call, str(photos / "a.png")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "waiting\n"
            while [task.checks > 0 for task in list(emulator.tasks.values())] != [True] * created:
                pass  # after its first check, the process knows the id of a task
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
    assert set(out.split()) == set(emulator.tasks)
    assert process.returncode == -signal.SIGINT
    # Only the notes follow, and no error of the session's thread.
    *_, notes = err.rpartition("KeyboardInterrupt\n")
    [task_id] = [task_id for task_id in emulator.tasks if task_id in notes] or [None]
    expected = {
        "task": "",
        "edit": f"task {task_id} runs on at the service: session.attach({task_id!r}) gets its result\n",
        "batch": "the run was stopped with 0 edits done; run it again to go on: ",
    }
    assert notes.startswith(expected[call])
    assert notes.count("\n") == (call != "task")
