"""One edit of a bulk run, from its state in the journal to its saved pictures.

Each step is journalled on disk before anything relies on it. The intent to submit is journalled before the request is
sent, and the results' URLs before the download. The files' names are journalled after the files are saved.
"""

from __future__ import annotations

import asyncio
import errno
import functools
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

import attrs

from qwen_edit_async.batch.fingerprint import digest_of
from qwen_edit_async.batch.journal.database import Store
from qwen_edit_async.batch.rules.budget import Verdict
from qwen_edit_async.batch.rules.decide import SENDS, Action, Entry, State, state_after
from qwen_edit_async.batch.run import Run
from qwen_edit_async.errors import (
    APIConnectionError,
    DownloadError,
    EditFailedError,
    InvalidEditError,
    JournalError,
    QwenEditError,
    SessionClosedError,
    SubmitUncertainError,
    summary_of,
)
from qwen_edit_async.images.upload import Upload
from qwen_edit_async.log import about
from qwen_edit_async.models import EditRequest
from qwen_edit_async.protocol.replies import as_text
from qwen_edit_async.scheduling.retry import CallFailure
from qwen_edit_async.session.observer import NotNowError
from qwen_edit_async.session.results import EditResult, OutputImage, failure_of
from qwen_edit_async.session.task import EditTask
from qwen_edit_async.tasks import TaskSnapshot, TaskStatus, Usage

_ERRORS_OF_NAMES: Final = frozenset({errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG})
"""The errors of the file system that concern the name of one file, so that pictures with other names can be saved."""


class Row:
    """One edit of a run, and the observer of its submission. ``request`` is needed only to submit the edit."""

    def __init__(self, entry: Entry, run: Run, request: EditRequest | None = None) -> None:
        self._entry = entry
        self._run = run
        self._request = request
        self._state = entry.state
        self._accepted: TaskSnapshot | None = None

    async def fail(self, problem: InvalidEditError) -> None:
        """Journal why the edit can't be submitted."""
        await self._record(State.FAILED, problem)

    async def carry_out(self, action: Action) -> None:
        """Carry out an action, and journal the edit's errors.

        The caller handles ``RECORD_PROBLEM``, ``REPORT_PROBLEM`` and ``REPLACE_LATER``.
        """
        entry, run = self._entry, self._run
        if action is Action.VERIFY:
            if not run.options.saves or await run.disk.call(run.output.are_whole, entry.files):
                run.count_saved(len(entry.files))
                run.progress.found += 1
                return
            await self._move(State.COMPLETED, files=None)
        if self._was_completed_before:
            run.budget.fetching.add(entry.number)
        if action in SENDS and self._state is State.FAILED:
            await self._move(State.PLANNED, reason=None, problem=None)
        try:
            if action in SENDS and self._request is not None:
                await self._submit(self._request)
            elif action is Action.ATTACH and entry.task_id is not None:
                await self._attach(entry.task_id)
            elif action in {Action.DOWNLOAD, Action.VERIFY} and entry.task_id is not None:
                await self._save(run.session.pictures(entry.task_id, entry.urls))
        except SessionClosedError as error:
            run.stop_if_fatal(error)
        finally:
            run.budget.fetching.discard(entry.number)
            run.notify()

    async def about_to_submit(self, uploads: Sequence[Upload]) -> None:
        """Journal the intent to submit, and the hash of the edit's content if the journal lacks it.

        Raises:
            NotNowError: If the budget no longer admits the edit.
        """
        if not self._run.budget.confirm(self._entry.pictures):
            raise NotNowError("the limits of the run do not allow the edit now")
        self._run.in_flight.add(self._entry.number)
        columns: dict[str, Any] = {"repeats": self._entry.repeats + self._is_doubtful}
        if self._request is not None and not self._entry.digest:
            columns["digest"] = digest_of(self._request, uploads)
        try:
            await self._move(State.SUBMITTING, **columns)
        except asyncio.CancelledError:
            self._undo_attempt()
            raise
        self._run.unanswered.add(self._entry.identity)

    def settled(self, fate: TaskSnapshot | CallFailure) -> None:
        """Journal the task's id and its end, if known. If there is certainly no task, restore the edit's earlier state.

        The task is journalled here, and not in the edit's coroutine, because the coroutine may have been cancelled
        before the reply arrived. Some protocols report the end of a task only in this reply.
        """
        budget, pictures = self._run.budget, self._entry.pictures
        if isinstance(fate, TaskSnapshot):
            if self._state is State.SUBMITTING:
                budget.created()
            written = self._move(State.SUBMITTED, task_id=fate.task_id, reason=None, problem=None)
            cost = _cost_columns(fate.usage, fate.usage.cost)
            if fate.status is TaskStatus.COMPLETED and fate.urls:
                written = self._move(State.COMPLETED, urls=list(fate.urls), **cost)
            elif fate.status is TaskStatus.FAILED:
                error = failure_of(fate)
                written = self._move(State.FAILED, reason=summary_of(error), problem=str(error), **cost)
            written.add_done_callback(functools.partial(self._check_written, fate.task_id))
            self._accepted = fate
            self._count_late_end(fate)
            return
        self._run.unanswered.discard(self._entry.identity)
        self._run.notify()
        if fate is not CallFailure.UNCERTAIN:
            if budget.recall(pictures, self._entry.number):
                budget.cancelled()
                budget.ended(pictures, chargeable=False)
            self._undo_attempt()

    def _count_late_end(self, task: TaskSnapshot) -> None:
        """Count the cost of a task that this run no longer waits for, if the reply to the submission told its end."""
        budget, pictures, counted, cost = self._run.budget, self._entry.pictures, self._entry.cost, task.usage.cost
        if self._state is State.SUBMITTED or not budget.recall(pictures, self._entry.number):
            return
        if self._state is State.COMPLETED:
            budget.completed(pictures, cost, made=sum(map(bool, task.urls)), counted=counted)
        else:
            budget.ended(pictures, chargeable=False, cost=cost, counted=counted)

    def _leave_task(self) -> None:
        """Stop waiting for a task that exists or may exist. Its pictures keep counting against ``max_cost``."""
        self._run.budget.ended(self._entry.pictures, chargeable=True)
        self._run.budget.left.add(self._entry.number)

    @property
    def _is_doubtful(self) -> bool:
        """Whether an earlier submission of the edit may have created a task."""
        return self._entry.state is State.UNCERTAIN

    @property
    def _was_completed_before(self) -> bool:
        """Whether the task was completed in an earlier run."""
        return self._entry.state in {State.COMPLETED, State.SAVED}

    def _undo_attempt(self) -> None:
        """Restore the edit's earlier state in the journal, because this attempt created no task."""
        self._leave_flight()
        if self._state not in {State.SUBMITTING, State.UNCERTAIN}:
            return
        if self._is_doubtful:
            self._move(State.UNCERTAIN, repeats=self._entry.repeats)
        else:  # no task exists, so a later run may submit the edit without ``resubmit_uncertain``
            self._move(State.PLANNED, reason=None, problem=None)

    def _check_written(self, task_id: str, written: asyncio.Future[None]) -> None:
        run, key = self._run, self._entry.key
        run.unanswered.discard(self._entry.identity)
        run.notify()
        error = JournalError("a step was not written to the journal") if written.cancelled() else written.exception()
        if error is not None:
            run.unwritten.append((key, task_id))
            run.budget.stop(str(error))
            about(task_id).warning(
                "task %s of %r is not in the journal: session.attach(%r) gets its result", task_id, key, task_id
            )

    async def _submit(self, request: EditRequest) -> None:
        run, pictures = self._run, self._entry.pictures
        run.budget.left.discard(self._entry.number)  # the pictures of the earlier task count in addition
        while True:
            while (verdict := run.budget.admit(pictures)) is Verdict.WAIT:
                await run.wait_for_change()
            if verdict is Verdict.STOP:
                return
            try:
                task = await run.session.submit(request, deadline=run.options.deadline, observer=self)
            except JournalError:
                raise
            except Exception as error:  # noqa: BLE001  # the error is journalled, and must not end other edits
                await self._not_submitted(error)
                if not isinstance(error, NotNowError):
                    return
            else:
                run.preview_soon(self._entry.number, request.images)
                await self._wait(task)
                return
            finally:
                self._leave_flight()

    async def _not_submitted(self, error: Exception) -> None:
        budget, pictures = self._run.budget, self._entry.pictures
        is_fatal = self._run.stop_if_fatal(error)
        if self._accepted is not None:  # the reply came just as the deadline passed or the session closed
            self._leave_task()
            self._count_late_end(self._accepted)
            await self._record(self._state, failure_of(self._accepted) if self._state is State.FAILED else error)
            return
        is_certain = isinstance(error, QwenEditError) and not isinstance(error, SubmitUncertainError)
        if self._state is State.SUBMITTING and not is_certain:
            budget.created()
            self._leave_task()
            await self._record(State.UNCERTAIN, error)
            return
        budget.rejected(pictures)
        if not (is_fatal or isinstance(error, NotNowError)):  # otherwise, the edit keeps its earlier state
            await self._record(State.UNCERTAIN if self._is_doubtful else State.FAILED, error)

    async def _attach(self, task_id: str) -> None:
        task = self._run.session.attach(task_id, deadline=self._run.options.deadline)
        budget = self._run.budget
        budget.adopt(self._entry.pictures, self._entry.number)
        budget.attached += 1
        self._run.in_flight.add(self._entry.number)
        try:
            await self._wait(task)
        finally:
            budget.attached -= 1

    async def _wait(self, task: EditTask) -> None:
        run, pictures = self._run, self._entry.pictures
        try:
            try:
                result = await task
            finally:
                self._leave_flight()
        except asyncio.CancelledError:
            if not task.awaited:
                # Only a queued task is cancelled at the service. The next run gets the result of any other task.
                task.owned = task.status is TaskStatus.QUEUED
                task.cancel()
            raise
        except Exception as error:  # noqa: BLE001  # any error is journalled, with the edit's state
            run.stop_if_fatal(error, attached=task.attached)
            chargeable, cost = not isinstance(error, EditFailedError), self._cost_of(task)
            run.budget.ended(pictures, chargeable=chargeable, cost=cost, counted=self._entry.cost)
            if chargeable and cost is None:
                run.budget.left.add(self._entry.number)
            state = state_after(self._state, error, cost)
            if state is State.PLANNED:
                run.budget.cancelled()
                await self._move(State.PLANNED, task_id=None, reason=None, problem=None)
                return
            if state is State.COMPLETED:
                run.count_unsaved(summary_of(error), earlier=self._was_completed_before)
            await self._record(state, error, **_cost_columns(task.snapshot.usage, cost))
        else:
            run.budget.fetching.add(self._entry.number)
            cost = self._cost_of(task)
            run.budget.completed(pictures, cost, made=len(result.images), counted=self._entry.cost)
            await self._move(State.COMPLETED, **_columns(result, cost, attached=task.attached))
            # These pictures need no previews, because the report makes its own thumbnails.
            await self._save([attrs.evolve(image, previews=None) for image in result.images])

    def _cost_of(self, task: EditTask) -> Decimal | None:
        """Return the cost that the service stated in this run, or else in an earlier run."""
        stated = task.snapshot.usage.cost if task.status.terminal else None
        return self._entry.cost if stated is None else stated

    async def _save(self, images: Sequence[OutputImage]) -> None:
        run, name, asked = self._run, self._entry.name, self._entry.pictures
        if not run.options.saves:
            return  # callers of EditHub(save=False) save the pictures
        if len(images) > asked:  # file names with higher numbers may belong to other edits
            about(images[0].task_id).warning(
                "a task made %d pictures instead of %d: the extra ones are not saved", len(images), asked
            )
        try:
            saved = [
                await image._save(run.output.folder / f"{name}-{place}.png")  # noqa: SLF001  # private to the package
                for place, image in zip(_places_of(images, asked), images, strict=False)
            ]
        except (DownloadError, SessionClosedError, OSError) as error:
            # Other errors, such as a full disk, concern later pictures too.
            if isinstance(error, OSError) and error.errno not in _ERRORS_OF_NAMES:
                run.budget.stop(f"pictures can't be saved: {error.strerror or error}")
            elif not run.stop_if_fatal(error):
                run.count_unsaved(summary_of(error), earlier=self._was_completed_before)
            await self._record(State.COMPLETED, error)
        else:
            run.budget.saved()
            self._state = State.SAVED
            paths = [path for path, _ in saved]
            damage = "; ".join(f"{path.name} {damage}" for path, damage in saved if damage)
            await run.journal.do(Store.save, self._entry.number, paths, damage or None)
            run.count_saved(len(paths))
            run.preview_soon(self._entry.number, paths)

    async def _record(self, state: State, error: Exception, **columns: Any) -> None:
        """Count and journal an error, and journal the edit's state."""
        run = self._run
        run.progress.failed += 1
        # Bad input fails in every run. If it counted towards ``stop_after_failures``, it could stop every run.
        if not isinstance(error, InvalidEditError):
            run.budget.failed(unreachable=isinstance(error, APIConnectionError))
        run.notify()
        await self._move(state, reason=summary_of(error), problem=str(error), **columns)

    def _leave_flight(self) -> None:
        self._run.in_flight.discard(self._entry.number)
        self._run.notify()

    def _move(self, state: State, **columns: Any) -> asyncio.Future[None]:
        self._state = state
        return self._run.journal.do(Store.move, self._entry.number, state, **columns)


def _columns(result: EditResult, cost: Decimal | None, *, attached: bool) -> dict[str, Any]:
    """Return the journal's columns for a result. Leave out the timings of an attached task."""
    urls = {image.index: image.url for image in result.images}
    columns: dict[str, Any] = {
        "urls": [urls.get(place, "") for place in range(max(urls) + 1)],
        "reason": None,
        "problem": None,
        **_cost_columns(result.usage, cost),
    }
    if not attached:
        columns |= {name: getattr(result.timings, name) for name in ("queued", "running", "lag", "checks")}
    return columns


def _cost_columns(usage: Usage, cost: Decimal | None) -> dict[str, Any]:
    if not usage.raw:  # the service stated no usage, so the columns stay as they are
        return {}
    return {"usage": as_text(usage.raw), "cost": cost}


def _places_of(images: Sequence[OutputImage], asked: int) -> Sequence[int]:
    """Return the number for each picture's file name. All numbers are less than ``asked``."""
    places = [image.index for image in images[:asked]]
    return places if all(place < asked for place in places) else range(len(places))
