"""How a command runs: on an event loop that signals can stop, with a session whose unfinished tasks are told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from rich.text import Text

from qwen_edit_async.cli.display import Screen
from qwen_edit_async.cli.messages import MISSING_KEY, ExitCode, exit_code, plain
from qwen_edit_async.cli.options import ConnectionOptions, SubmissionOptions
from qwen_edit_async.errors import ConfigurationError, EditWarning, QwenEditError
from qwen_edit_async.text import visible

if TYPE_CHECKING:
    from qwen_edit_async.session.results import EditResult
    from qwen_edit_async.session.session import EditSession
    from qwen_edit_async.session.task import EditTask

EMULATOR_NOTE = "an embedded service makes these pictures, not the model"


class MissingKeyError(Exception):
    """The environment has no key, or one that can't be."""


@attrs.define
class Run:
    """One run of a command that talks to the service.

    Attributes:
        screen: What people see.
        connection: How to talk to the service.
        submission: What may be submitted, and where; ``None`` if nothing is, so that nothing can be left behind.
        max_in_flight: Tasks at a time.
        output: Where results go.
        unsaved: Ids of completed tasks whose pictures are not all saved yet.
        on_error: Shows the error that ends the command.
        journalled: Whether a journal has the ids of tasks, so that nobody need note them.
    """

    screen: Screen
    connection: ConnectionOptions
    submission: SubmissionOptions | None = None
    max_in_flight: int = 16
    output: Path = Path()
    unsaved: dict[str, None] = attrs.field(factory=dict)
    on_error: Callable[[Exception], None] | None = None
    journalled: bool = False

    def __call__(self, work: Callable[[EditSession], Coroutine[Any, Any, int]]) -> int:
        """Open a session, do the work, close it, and return the exit code.

        SIGINT, SIGTERM and SIGHUP cancel the work.
        """
        show = self.on_error or (lambda error: self.screen.error(plain(error)))
        try:
            _check_output(self.output)
            with _notes_on(self.screen), asyncio.Runner() as runner:
                return runner.run(self._run(work))
        except MissingKeyError as error:
            show(error)
            return ExitCode.CREDENTIALS
        except (KeyboardInterrupt, asyncio.CancelledError):
            return ExitCode.INTERRUPTED
        except (QwenEditError, OSError) as error:
            show(error)
            for note in getattr(error, "__notes__", ()):
                self.screen.line(plain(note), whole=True)
            return exit_code(error)

    async def _run(self, work: Callable[[EditSession], Coroutine[Any, Any, int]]) -> int:
        cancel_on_termination()
        async with self._session() as session:
            return await work(session)

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncIterator[EditSession]:
        from qwen_edit_async.scheduling.policies import FixedInterval  # noqa: PLC0415  # see the package's docstring
        from qwen_edit_async.session.session import EditSession  # noqa: PLC0415  # likewise

        interval = self.connection.poll_interval
        submission = self.submission or SubmissionOptions()
        async with contextlib.AsyncExitStack() as stack:
            key, base_url, embedded = None, None, None
            if submission.emulator:
                from qwen_edit_async.emulator import EditEmulator  # noqa: PLC0415  # likewise

                embedded = await stack.enter_async_context(EditEmulator())
                key, base_url = embedded.api_key, embedded.url
                self.screen.note(EMULATOR_NOTE)
            else:
                _check_key()
            session = EditSession(
                key,
                base_url=base_url,
                envelope=submission.envelope,
                max_in_flight=self.max_in_flight,
                polling=None if interval is None else FixedInterval(interval),
                timeout=self.connection.timeout,
                deadline=self.connection.deadline,
                resubmit_uncertain=submission.resubmit_uncertain,
                strict=submission.strict,
                fit=submission.fit,
                trust_env=self.connection.trust_env,
                allow_result_hosts=self.connection.allow_result_host,
            )
            try:
                async with session:
                    try:
                        yield session
                    except asyncio.CancelledError:
                        self.screen.line("interrupted", "bold")
                        raise
            finally:
                self.screen.close()
                rest = {**dict.fromkeys(session.unfinished), **self.unsaved}
                if embedded is not None:  # what an earlier run left behind ended with that one's
                    rest = {task_id: None for task_id in rest if task_id in embedded.tasks}
                self._tell_rest(rest, session.statistics().uncertain)

    def _tell_rest(self, task_ids: Iterable[str], uncertain: int) -> None:
        """Say what was paid for and is not here."""
        if self.submission is None:
            return
        ids = list(task_ids)
        if ids and self.submission.emulator:
            self.screen.line(
                f"{_count(ids, 'task')} ended with the embedded service: --resubmit-uncertain repeats them"
            )
        elif ids and not self.journalled:
            self.screen.line(f"{_count(ids, 'task')} of this run may be charged, and can be fetched when done:")
            for task_id in ids:
                self.screen.line(f"  {fetch_command(task_id, self.output)}", whole=True)
        if uncertain and not self.submission.emulator:
            self.screen.warning(
                f"{uncertain} of the submissions got no reply: tasks whose ids are unknown may exist, and be charged"
            )


async def wait_for(task: EditTask, run: Run) -> EditResult:
    """Wait for a task while people see how it stands; until its pictures are saved, the run has its id."""
    with run.screen.console.status(Text(visible(f"task {task.id}"))) as shown:
        async for snapshot in task.updates():
            progress = "" if snapshot.progress is None else f" {snapshot.progress:.0%}"
            # As Text: of a str the spinner would read markup, which the service's words are not.
            shown.update(Text(visible(f"task {task.id}: {snapshot.status_word or snapshot.status.value}{progress}")))
        result = await task
    run.unsaved[task.id] = None
    return result


def fetch_command(task_id: str, output: Path) -> str:
    """What to type to fetch a task's pictures."""
    return shlex.join(["qwen-edit", "fetch", task_id, "-o", str(output)])


def cancel_on_termination() -> None:
    """Let SIGTERM, SIGHUP, and SIGINT each time, cancel the running task; SIGHUP stays ignored under ``nohup``.

    By itself asyncio raises KeyboardInterrupt the second time, in the middle of whatever runs on the loop: what that
    leaves half done may be waited for without end.
    """
    task = asyncio.current_task()
    if task is not None:
        # Windows has none of these handlers (NotImplementedError), and threads but the main one may set none (the other
        # two, of asyncio and uvloop): Ctrl-C is then a KeyboardInterrupt, as everywhere.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGTERM, task.cancel)
            loop.add_signal_handler(signal.SIGINT, task.cancel)
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
                loop.add_signal_handler(signal.SIGHUP, task.cancel)


def _check_output(folder: Path) -> None:
    """Find out that results can't be written before they are paid for."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError as error:
        raise ConfigurationError(f"{folder} can't be a folder for results: {error.strerror}") from None
    if not writable:
        raise ConfigurationError(f"{folder} can't be written to")


def _check_key() -> None:
    from qwen_edit_async.http.options import API_KEY_VARIABLE, resolve_api_key  # noqa: PLC0415  # see the package's docstring

    if not os.environ.get(API_KEY_VARIABLE, "").strip():
        raise MissingKeyError(MISSING_KEY)
    try:
        resolve_api_key(None, os.environ.get(API_KEY_VARIABLE))
    except ConfigurationError as error:
        raise MissingKeyError(str(error)) from None


@contextlib.contextmanager
def _notes_on(screen: Screen) -> Iterator[None]:
    """Show the library's warnings as notes, and others as Python does; Pillow's are left out, as they name no file."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("always", EditWarning)
        python_shows = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
            if issubclass(category, EditWarning):
                screen.note(str(message))
            else:
                python_shows(message, category, *rest, **more)

        warnings.showwarning = show
        yield


def _count(things: list[str], word: str) -> str:
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"
