"""One edit of a bulk run, from wherever its journal says it stands to its saved pictures.

Each step is on the disk before anything relies on it: the intent before the request is sent, the result's URLs before
they are fetched, the files' names after they are there.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import attrs

from qwen_edit_async.batch.content import are_whole
from qwen_edit_async.batch.gather import Gatherer
from qwen_edit_async.batch.journal.database import Entry
from qwen_edit_async.batch.journal.journal import Journal
from qwen_edit_async.batch.plan import Budget, State, Step, Verdict, lack_of_balance, next_step, reason_of, state_after
from qwen_edit_async.batch.sources import EditDefaults
from qwen_edit_async.batch.targets import Targets
from qwen_edit_async.errors import (
    APIConnectionError,
    AuthenticationError,
    DownloadError,
    EditFailedError,
    InsufficientBalanceError,
    InvalidEditError,
    JournalError,
    PermissionDeniedError,
    QwenEditError,
    SessionClosedError,
    SubmitUncertainError,
)
from qwen_edit_async.log import log
from qwen_edit_async.models import EditRequest, TaskSnapshot, Usage
from qwen_edit_async.scheduling.retry import Failure
from qwen_edit_async.session.results import EditResult, OutputImage
from qwen_edit_async.session.session import EditSession
from qwen_edit_async.session.task import EditTask

_ENDS_RUN = (AuthenticationError, InsufficientBalanceError, PermissionDeniedError, SessionClosedError)
"""What every other edit would be answered, too."""


class _StoppedError(Exception):
    """The run has ended while an edit waited for its slot; it never leaves this module."""


@attrs.define(eq=False, kw_only=True)
class Counts:
    """What a run has seen so far."""

    saved: int = 0
    found: int = 0
    pictures: int = 0
    failed: int = 0
    in_flight: int = 0


@attrs.define(eq=False, kw_only=True)
class Surroundings:
    """What all edits of a run share.

    Attributes:
        session: What they are edited with.
        journal: What they rely on.
        budget: Whether they may be submitted.
        files: For looking at files.
        targets: Where their pictures go.
        inputs: The folder that relative paths of images are in.
        deadline: Seconds for each; ``None`` for the session's.
        resubmit_uncertain: Whether uncertain ones are submitted again.
        edit_changed: Whether an edit whose request was changed is replaced by a new one.
        defaults: What holds for images, and mappings that do not say otherwise.
        live: Keys of the edits that are being worked on.
        error: What would be the answer to every other edit, too.
        attempts: How many submissions are announced, whose fate is open.
        unwritten: Task ids by key that could not be journalled.
        counts: For progress.
        news: Set whenever an edit's fate, or the budget, has changed.
    """

    session: EditSession
    journal: Journal
    budget: Budget
    files: Gatherer
    targets: Targets
    inputs: str
    deadline: float | None
    resubmit_uncertain: bool
    edit_changed: bool = False
    defaults: EditDefaults = attrs.field(factory=EditDefaults)
    live: set[str] = attrs.field(factory=set)
    error: Exception | None = None
    attempts: int = 0
    unwritten: dict[str, str] = attrs.field(factory=dict)
    counts: Counts = attrs.field(factory=Counts)
    news: asyncio.Event = attrs.field(factory=asyncio.Event)

    def stop(self, error: Exception) -> None:
        """Submit nothing more, since it would be answered like this."""
        self.error = self.error or error
        self.budget.stop(str(error))
        self.news.set()

    async def change(self) -> None:
        """Wait until something has changed."""
        self.news.clear()
        await self.news.wait()


class Row:
    """One edit, and the observer of its submission.

    Args:
        entry: What the journal has of it.
        around: What it shares with the others.
    """

    def __init__(self, entry: Entry, around: Surroundings) -> None:
        self._entry = entry
        self._around = around
        self._state = entry.state
        self._repeats = entry.repeats
        self._uncertain = False
        self._in_flight = False

    async def finish(self, request: EditRequest | None = None) -> None:
        """Do all that is still to be done; whatever goes wrong is journalled.

        Args:
            request: What is asked for; ``None`` for an edit that has been submitted.

        Raises:
            JournalError: If the journal fails.
        """
        entry, around = self._entry, self._around
        has_task = entry.task_id is not None
        # A task that the service did not know is asked for once more before the edit is submitted again.
        consent = around.resubmit_uncertain and request is not None
        step = next_step(self._state, has_task=has_task, has_urls=bool(entry.urls), resubmit_uncertain=consent)
        if step is Step.VERIFY:
            if await around.files.call(are_whole, around.targets.folder, entry.files):
                self._count_saved(len(entry.files))
                around.counts.found += 1
                return
            await self._move(State.COMPLETED, files=None)
        if step is Step.REPLAN:
            await self._move(State.PLANNED, reason=None, problem=None)
        try:
            if step in {Step.SUBMIT, Step.REPLAN} and request is not None:
                await self._submit(request)
            elif step is Step.ATTACH and entry.task_id is not None:
                await self._attach(entry.task_id)
            elif step in {Step.DOWNLOAD, Step.VERIFY} and entry.task_id is not None:
                await self._save(around.session.pictures(entry.task_id, entry.urls))
        except SessionClosedError as error:
            around.stop(error)

    async def fail(self, error: Exception, request: EditRequest | None = None) -> None:
        """Journal that it can't even be submitted."""
        await self._record(State.FAILED, error, request)

    async def about_to_submit(self) -> None:
        """Journal the intent."""
        if self._around.budget.stopped or self._around.budget.held:
            raise _StoppedError("the run submits nothing more")
        self._enter()
        try:
            await self._move(State.SUBMITTING, repeats=self._repeats + self._is_doubtful)
        except asyncio.CancelledError:
            self._retreat()
            raise
        self._around.attempts += 1

    def settled(self, fate: TaskSnapshot | Failure) -> None:
        """Journal the task's id, or that there is none."""
        around = self._around
        around.attempts -= 1
        around.news.set()
        if isinstance(fate, TaskSnapshot):
            if self._state is State.SUBMITTING:
                around.budget.created()
            written = self._move(State.SUBMITTED, task_id=fate.task_id, reason=None, problem=None)
            written.add_done_callback(functools.partial(self._check_written, fate.task_id))
        elif fate is Failure.UNCERTAIN:
            self._repeats += self._is_doubtful
            self._uncertain = True
        else:
            self._retreat()

    @property
    def _is_doubtful(self) -> bool:
        """Whether a task may exist already: of an earlier run, or of an attempt of this one."""
        return self._uncertain or self._entry.state is State.UNCERTAIN

    def _retreat(self) -> None:
        """The service has nothing of this attempt: the edit stands where it stood before."""
        self._leave()
        if self._state not in {State.SUBMITTING, State.UNCERTAIN}:
            return
        if self._is_doubtful:
            self._move(State.UNCERTAIN, repeats=self._repeats)
        else:  # a later run may submit it without asking
            self._move(State.PLANNED, reason=None, problem=None)

    def _check_written(self, task_id: str, written: asyncio.Future[None]) -> None:
        error = JournalError("a step was not written") if written.cancelled() else written.exception()
        if error is not None:
            self._around.journal.set_aside(self._entry.key, task_id)
            self._around.unwritten[self._entry.key] = task_id
            self._around.budget.stop(str(error))

    async def _submit(self, request: EditRequest) -> None:
        around, pictures = self._around, self._entry.pictures
        while True:
            while (verdict := around.budget.admit(pictures)) is Verdict.WAIT:
                await around.change()
            if verdict is Verdict.STOP:
                return
            try:
                task = await around.session.submit(request, deadline=around.deadline, observer=self)
            except JournalError:
                raise
            except Exception as error:  # noqa: BLE001  # whatever is wrong with one edit is journalled, and ends it alone
                await self._not_submitted(error, request)
                if self._uncertain or not isinstance(error, _StoppedError):
                    return
            else:
                await self._wait(task, attached=False)
                return
            finally:
                self._leave()

    async def _not_submitted(self, error: Exception, request: EditRequest) -> None:
        budget, pictures = self._around.budget, self._entry.pictures
        if isinstance(error, _ENDS_RUN):
            self._around.stop(error)
        if self._state is State.SUBMITTED:  # accepted, in the moment in which the session was closed
            budget.released(pictures, chargeable=True)
            await self._record(State.SUBMITTED, error, request)
            return
        understood = isinstance(error, QwenEditError | _StoppedError) and not isinstance(error, SubmitUncertainError)
        if self._uncertain or (self._state is State.SUBMITTING and not understood):
            budget.created()
            budget.released(pictures, chargeable=True)
            await self._record(State.UNCERTAIN, error, request)
            return
        budget.refused()
        budget.released(pictures, chargeable=False)
        if not isinstance(error, (*_ENDS_RUN, _StoppedError)):  # which are not this edit's fault: it stays as it was
            await self._record(State.UNCERTAIN if self._is_doubtful else State.FAILED, error, request)

    async def _attach(self, task_id: str) -> None:
        task = self._around.session.attach(task_id, deadline=self._around.deadline)
        self._around.budget.adopt(self._entry.pictures)
        self._enter()
        await self._wait(task, attached=True)

    async def _wait(self, task: EditTask, *, attached: bool) -> None:
        around, pictures = self._around, self._entry.pictures
        try:
            try:
                result = await task
            finally:
                self._leave()  # what comes next is done here, not at the service
        except asyncio.CancelledError:
            if not task.awaited:
                task.cancel()
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, the journal says where the edit stands now
            if (lack := lack_of_balance(error)) is not None:
                around.stop(lack)
            elif isinstance(error, _ENDS_RUN):
                around.stop(error)
            chargeable, cost = not isinstance(error, EditFailedError), self._cost_of(task)
            around.budget.released(pictures, chargeable=chargeable, cost=cost, counted=self._entry.cost)
            await self._record(state_after(self._state, error), error, **_cost_columns(task.snapshot.usage, cost))
        else:
            cost = self._cost_of(task)
            await self._move(State.COMPLETED, **_columns(result, cost, attached=attached))
            around.budget.charged(pictures, cost, counted=self._entry.cost)
            around.news.set()
            await self._save(result.images, fresh=True)

    def _cost_of(self, task: EditTask) -> Decimal | None:
        """Return what the service says that a task cost, now or to an earlier run."""
        stated = task.snapshot.usage.cost if task.status.terminal else None
        return self._entry.cost if stated is None else stated

    async def _save(self, images: Sequence[OutputImage], *, fresh: bool = False) -> None:
        """Fetch an edit's pictures; ``fresh`` if it was completed in this run, so that its pictures should be there."""
        around, stem, asked = self._around, self._entry.stem, self._entry.pictures
        if len(images) > asked:  # whose names may be those of other files
            log.warning("a task made %d pictures instead of %d: the others are left where they are", len(images), asked)
        budget = around.budget
        budget.fetching += 1
        try:
            paths = [
                await image.save(around.targets.folder / f"{stem}-{place}.png")
                for place, image in zip(_places_of(images, asked), images, strict=False)
            ]
        except (DownloadError, SessionClosedError, OSError) as error:
            if isinstance(error, SessionClosedError):
                around.stop(error)
            elif isinstance(error, OSError):  # a full disk, most likely: what comes next could not be saved either
                budget.stop(f"pictures can't be saved: {error.strerror or error}")
            elif fresh and budget.unsaved(reason_of(error)):
                log.warning("%s; nothing more is submitted until one is saved", budget.held)
            await self._record(State.COMPLETED, error)
        else:
            budget.saved()
            self._state = State.SAVED
            await around.journal.save(self._entry.number, paths)
            self._count_saved(len(paths))
        finally:
            budget.fetching -= 1
            around.news.set()

    async def _record(self, state: State, error: Exception, request: EditRequest | None = None, **columns: Any) -> None:
        """Journal what went wrong, and where the edit stands now."""
        self._count_failure(error)
        await self._move(state, reason=reason_of(error, request), problem=str(error), **columns)

    def _count_saved(self, pictures: int) -> None:
        self._around.counts.saved += 1
        self._around.counts.pictures += pictures

    def _count_failure(self, error: Exception) -> None:
        around = self._around
        around.counts.failed += 1
        if not isinstance(error, InvalidEditError):  # of which a next run has as many: it would never come further
            around.budget.failed(unreachable=isinstance(error, APIConnectionError))
        around.news.set()

    @property
    def is_uncertain(self) -> bool:
        """Whether it is unknown if there is a task."""
        return self._state is State.UNCERTAIN

    def _enter(self) -> None:
        self._around.counts.in_flight += not self._in_flight
        self._in_flight = True

    def _leave(self) -> None:
        self._around.counts.in_flight -= self._in_flight
        self._in_flight = False
        self._around.news.set()

    def _move(self, state: State, **columns: Any) -> asyncio.Future[None]:
        self._state = state
        return self._around.journal.move(self._entry.number, state, **columns)


def _columns(result: EditResult, cost: Decimal | None, *, attached: bool) -> dict[str, Any]:
    """What the journal keeps of a result; the times of a task that an earlier run submitted are not known."""
    urls = {image.index: image.url for image in result.images}
    columns: dict[str, Any] = {
        "urls": json.dumps([urls.get(place, "") for place in range(max(urls) + 1)]),
        "reason": None,
        "problem": None,
        **_cost_columns(result.usage, cost),
    }
    if not attached:
        timings = result.timings
        columns |= {
            "queued": timings.queued,
            "running": timings.running,
            "lag": timings.lag,
            "checks": timings.checks,
        }
    return columns


def _cost_columns(usage: Usage, cost: Decimal | None) -> dict[str, Any]:
    if not usage.raw:  # the service says nothing: what an earlier run wrote down holds
        return {}
    return {
        "usage": json.dumps(dict(usage.raw), default=str),
        "cost": None if cost is None else str(cost),
    }


def _places_of(images: Sequence[OutputImage], asked: int) -> Sequence[int]:
    """Return the numbers in the names of the files of an edit's pictures: none that other files may have."""
    places = [image.index for image in images[:asked]]
    return places if all(place < asked for place in places) else range(len(places))
