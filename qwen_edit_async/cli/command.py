"""Runs a command with an event loop and a session, and prints the command's errors and unfinished tasks."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from qwen_edit_async.cli.display import Screen, print_json, print_output
from qwen_edit_async.cli.messages import MISSING_KEY, ExitCode, MissingKeyError, exit_code
from qwen_edit_async.cli.options import ConnectionOptions, SubmissionOptions, shell_text
from qwen_edit_async.cli.signals import cancel_on_termination
from qwen_edit_async.display.cards import local_time_in
from qwen_edit_async.errors import ConfigurationError, QwenEditError
from qwen_edit_async.storage.bucket import BucketPath
from qwen_edit_async.storage.paths import FilePath
from qwen_edit_async.text import counted, visible

if TYPE_CHECKING:
    from qwen_edit_async.emulator import EditEmulator
    from qwen_edit_async.session.results import EditResult
    from qwen_edit_async.session.session import EditSession
    from qwen_edit_async.session.task import EditTask

EMULATOR_NOTE = "the emulator, not the model, makes these pictures"

Work: TypeAlias = "Callable[[EditSession], Coroutine[Any, Any, int]]"
"""A command's own code: it uses the open session and returns the exit code."""

_REFRESH_SECONDS = 0.2


@attrs.define
class Command:
    """A command that uses the service.

    Attributes:
        screen: The screen for messages.
        connection: Options for the connection.
        submission: Options for submissions; ``None`` for a command that submits nothing.
        max_in_flight: The maximum number of tasks in flight.
        output: The folder for results; ``None`` for a command that saves nothing.
        as_json: Whether the result or the error is printed as JSON.
        unsaved: Ids of completed tasks whose pictures are not all saved yet.
        submit_rate: The maximum number of submissions per second; ``None`` for no limit.
        journalled: Whether a journal records the tasks' ids, so that the command need not print them.
    """

    screen: Screen
    connection: ConnectionOptions
    submission: SubmissionOptions | None = None
    max_in_flight: int = 16
    output: FilePath | None = None
    as_json: bool = False
    unsaved: set[str] = attrs.field(factory=set)
    submit_rate: float | None = None
    journalled: bool = False
    _may_be_charged: bool = attrs.field(default=False, init=False)

    def __call__(self, work: Work) -> int:
        """Open a session, do the work, close the session, and return the exit code. Signals cancel the work."""
        try:
            if self.output is not None:
                _check_output(self.output)
            with self.screen.warnings_as_notes(), asyncio.Runner() as runner:
                return runner.run(self._main(work))
        except (KeyboardInterrupt, asyncio.CancelledError):
            return ExitCode.INTERRUPTED
        except (MissingKeyError, QwenEditError, OSError) as error:
            self._show(error)
            code = exit_code(error)  # USAGE means that nothing was sent
            return ExitCode.FAILED if code is ExitCode.USAGE and self._may_be_charged else code

    def _show(self, error: Exception) -> None:
        message = str(error) or type(error).__name__
        if self.as_json:
            details = {name: getattr(error, name, None) for name in ("task_id", "code")}
            print_json({"error": {"type": type(error).__name__, "message": shell_text(message), **details}})
        else:
            self.screen.error(message)
        for note in getattr(error, "__notes__", ()):
            self.screen.line(note, whole=True)

    async def _main(self, work: Work) -> int:
        cancel_on_termination()
        async with self._emulator() as emulator:
            session = self._new_session(emulator)
            try:
                async with session:
                    try:
                        return await work(session)
                    except asyncio.CancelledError:
                        self.screen.line("interrupted", "bold")
                        raise
            finally:
                counts = session.statistics()
                self._may_be_charged = counts.submitted + counts.uncertain > 0
                self.screen.close()
                self._print_unfinished(session, emulator)

    @contextlib.asynccontextmanager
    async def _emulator(self) -> AsyncIterator[EditEmulator | None]:
        """Start the emulator if the command uses it. Otherwise, check the API key."""
        if self.submission is None or not self.submission.emulator:
            check_key(self.connection)
            yield None
            return
        from qwen_edit_async.emulator import EditEmulator  # noqa: PLC0415  # slow to import

        async with EditEmulator() as emulator:
            self.screen.note(EMULATOR_NOTE)
            yield emulator

    def _new_session(self, emulator: EditEmulator | None) -> EditSession:
        from qwen_edit_async.session.session import EditSession  # noqa: PLC0415  # slow to import

        return EditSession(
            None if emulator is None else emulator.api_key,
            base_url=None if emulator is None else emulator.url,
            max_in_flight=self.max_in_flight,
            submit_rate=self.submit_rate,
            **self.connection.session_options(),
            **({} if self.submission is None else self.submission.session_options()),
        )

    def _print_unfinished(self, session: EditSession, emulator: EditEmulator | None) -> None:
        """Print the tasks that may be charged although their pictures are not saved."""
        if self.submission is None:
            return
        ids = list(dict.fromkeys([*session.unfinished, *sorted(self.unsaved)]))
        if emulator is not None:
            # Tasks of earlier runs are not counted: they were lost when the emulators of those runs stopped.
            if count := sum(task_id in emulator.tasks for task_id in ids):
                loss = f"the emulator stops, and loses {counted(count, 'task')}"
                way = "run the command again" + (" with --resubmit-uncertain" if self.journalled else "")
                self.screen.line(f"{loss}: to repeat the edits, {way}")
            return
        if ids and not self.journalled:
            way = "Fetch the pictures later with:" if session.has_tasks else "No pictures can be fetched later."
            self.screen.line(f"{counted(len(ids), 'task')} of this run may be charged. {way}")
            for task_id in ids if session.has_tasks else ():
                self.screen.command("qwen-edit", "fetch", task_id, "-o", str(self.output))
        if cancelled := session.statistics().cancellations:
            fate = "; the next run submits cancelled edits again" if self.journalled else ""
            self.screen.line(f"cancelled at the service: {counted(cancelled, 'task')}{fate}")
            if ids and self.journalled:
                left = counted(len(ids), "task")
                self.screen.line(f"not cancelled: {left}, which may be charged; the next run fetches the pictures")
        if uncertain := session.statistics().uncertain:
            submissions = counted(uncertain, "submission")
            self.screen.warning(f"{submissions} got no clear reply: tasks with unknown ids may exist and be charged")


def check_key(connection: ConnectionOptions) -> None:
    """Raise :class:`MissingKeyError` unless the environment has a valid API key."""
    from qwen_edit_async.http.options import (  # noqa: PLC0415  # slow to import
        PROTOCOL_VARIABLE,
        key_in_environment,
        resolve_api_key,
    )
    from qwen_edit_async.protocol.choice import choose_protocol  # noqa: PLC0415  # slow to import

    environment = os.environ
    protocol, _ = choose_protocol(connection.protocol, "auto", connection.model, environment.get(PROTOCOL_VARIABLE))
    if key_in_environment(protocol, environment) is None:
        raise MissingKeyError(MISSING_KEY.format(variable=protocol.key_variables[0]))
    try:
        resolve_api_key(None, protocol, environment)
    except ConfigurationError as error:
        raise MissingKeyError(str(error)) from None


@contextlib.asynccontextmanager
async def showing(session: EditSession, screen: Screen, state: Callable[[], str]) -> AsyncIterator[None]:
    """While the block runs, show the text from ``state`` and the end of a Retry-After pause on a terminal."""
    from rich.text import Text  # noqa: PLC0415  # slow to import

    with screen.console.status("") as line:

        async def refresh() -> None:
            while True:
                left = session.statistics().pause_left
                pause = f", paused by the service until {local_time_in(left)}" if left else ""
                line.update(Text(visible(state() + pause)))  # rich would parse a str as markup
                await asyncio.sleep(_REFRESH_SECONDS)

        refreshing = asyncio.create_task(refresh())
        try:
            yield
        finally:
            refreshing.cancel()


async def save_result(
    session: EditSession, task: EditTask, output: FilePath, command: Command, stem: str | None = None
) -> tuple[EditResult, tuple[FilePath, ...]]:
    """Wait for a task, save its pictures, and return its result and the pictures' paths.

    Show the task's progress. Print the result's notes and, unless the output is JSON, the paths.
    """

    def state() -> str:
        word, progress = task.snapshot.status_word, task.snapshot.progress
        return f"task {task.id}{f': {word}' if word else ''}{'' if progress is None else f' {progress:.0%}'}"

    async with showing(session, command.screen, state):
        try:
            result = await task
        except asyncio.CancelledError:
            task.cancel_unless_awaited()  # if the task has just ended, this keeps its id in `unfinished`
            raise
    command.unsaved.add(task.id)
    for note in result.notes:
        command.screen.note(note)
    paths = await result.save(output, stem=stem)
    command.unsaved.discard(task.id)
    if not command.as_json:
        for path in paths:
            print_output(str(path))
    return result, paths


def _check_output(folder: FilePath) -> None:
    """Create a local folder if it is missing, and check that it is writable, before any edit is paid for."""
    if isinstance(folder, BucketPath):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError as error:
        raise ConfigurationError(f"the output folder {folder} can't be created: {error.strerror}") from None
    if not writable:
        raise ConfigurationError(f"{folder} can't be written to: choose another output folder")
