"""Decides what a bulk run does with an edit. Pure: no I/O, no clock.

::

    planned ──► submitting ──► submitted ──► completed ──► saved
       ▲  │             │           │            ▲           │
       │  └─► failed ◄──┘           └─► failed   └───────────┘  a file is missing or damaged
       │        │                       (has a task: final)
       └────────┘ without a task: nothing was paid

       submitting ──► planned           the service certainly created no task

       uncertain ◄──► submitting        the reply was lost; submitted again only with consent
         ▲  │
         │  └─► submitted, …            the task's id came late, or the service knows the task again
       submitted                        the service does not know the task

       submitted ──► planned            the service cancelled the task: nothing was made or charged

       completed, saved, failed, uncertain ──► replaced    the row has changed; with consent, a new edit takes its place

An edit is *submitting* from just before its request is sent until the reply is known. A later run that finds this state
can't know whether a task exists, so it marks the edit *uncertain*. An edit is also uncertain if the service does not
know its task. Each run checks such a task again, because an earlier check may have used the key of another account.
Consent to repeat an uncertain edit covers one run.

An edit can be *completed* before the service states the URLs of its pictures. Each run then checks the task again.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

import attrs

from qwen_edit_async import contract
from qwen_edit_async.errors import (
    APIResponseError,
    AuthenticationError,
    EditFailedError,
    InsufficientBalanceError,
    InvalidEditError,
    NotFoundError,
    PermissionDeniedError,
    SessionClosedError,
)

_REFUSED: Final = (AuthenticationError, PermissionDeniedError)
_ENDS_RUN: Final = (*_REFUSED, InsufficientBalanceError, SessionClosedError)
_BALANCE_CODES: Final = range(40201, 40209)
_FAILED_TASK_STATUS: Final = 200
"""The HTTP status of a reply that reports a failed task."""


class State(enum.Enum):
    """The state of an edit in the journal."""

    PLANNED = "planned"
    SUBMITTING = "submitting"
    SUBMITTED = "submitted"
    COMPLETED = "completed"
    SAVED = "saved"
    FAILED = "failed"
    UNCERTAIN = "uncertain"
    REPLACED = "replaced"


MOVES: Mapping[State, frozenset[State]] = {
    State.PLANNED: frozenset({State.SUBMITTING, State.FAILED}),
    State.SUBMITTING: frozenset(
        {State.SUBMITTING, State.SUBMITTED, State.PLANNED, State.FAILED, State.UNCERTAIN},
    ),
    State.SUBMITTED: frozenset({State.SUBMITTED, State.COMPLETED, State.FAILED, State.UNCERTAIN, State.PLANNED}),
    State.COMPLETED: frozenset({State.COMPLETED, State.SAVED, State.REPLACED}),
    State.SAVED: frozenset({State.COMPLETED, State.REPLACED}),
    State.FAILED: frozenset({State.FAILED, State.PLANNED, State.REPLACED}),
    State.UNCERTAIN: frozenset(State) - {State.SAVED},
    State.REPLACED: frozenset(),
}
"""The states to which an edit can move from each state.

A move from a state to itself records another attempt or problem. A task id that arrives late moves an uncertain edit
to *submitted*, and a late rejection moves it to *planned*. If the service knows the task of an uncertain edit again,
the edit moves to the task's state.
"""

ORIGINS: Mapping[State, tuple[State, ...]] = {
    target: tuple(state for state, targets in MOVES.items() if target in targets) for target in State
}
"""The states from which each state can be reached."""


class Action(enum.Enum):
    """An action that a run takes for an edit."""

    SUBMIT = "submit it"
    REPLACE = "keep the earlier result, and submit a new edit"
    REPLACE_LATER = "keep the earlier result, and submit a new edit once the earlier task has ended"
    ATTACH = "wait for its task"
    DOWNLOAD = "download its pictures"
    VERIFY = "check its files, and download missing or damaged files again"
    LEAVE = "do nothing"
    RECORD_PROBLEM = "journal why it can't be submitted; the next run tries again"
    REPORT_PROBLEM = "leave the journal as it is, and report the problem"


SENDS: Final = frozenset({Action.SUBMIT, Action.REPLACE})
"""The actions that submit a row now."""

PAYS: Final = SENDS | {Action.REPLACE_LATER}
"""The actions that lead to a new task, now or after the earlier task has ended. A plan counts them as submissions."""


@attrs.frozen
class Fingerprint:
    """The hashes of a row's current content.

    Attributes:
        digest: The hash of the images' content, the instruction and the parameters; empty if the images are not read
            yet, or can't be read.
        stamp: The hash of the request and its files' paths, sizes and times; empty if an image is neither a URL nor a
            local file.
        problem: The error if an image can't be read.
    """

    digest: str = ""
    stamp: str = ""
    problem: InvalidEditError | None = None


@attrs.frozen(kw_only=True)
class Consent:
    """The user's consent to pay more than once for an edit.

    Attributes:
        resubmit_uncertain: Whether to resubmit uncertain edits, although the earlier and the new task may both be
            charged.
        edit_changed: Whether to edit a changed row again, although its earlier edit was paid for.
    """

    resubmit_uncertain: bool = False
    edit_changed: bool = False


@attrs.frozen(kw_only=True)
class Entry:
    """An edit in the journal.

    Attributes:
        number: The edit's number in the journal.
        identity: The identity of the row, from :func:`identity_of`.
        key: The edit's key, or ``name`` for an edit without a key; shown to users.
        name: The beginning of the names of the result files.
        digest: As in :class:`Fingerprint`; empty until the row's image files are read.
        stamp: As in :class:`Fingerprint`.
        state: The edit's state.
        pictures: The number of requested pictures.
        task_id: The id of the edit's task.
        urls: The URLs of the pictures, once the edit is completed; an empty string for a picture without a URL.
        files: The name and the size in bytes of each picture's file, once the pictures are saved.
        repeats: The number of times that the edit was submitted again although a task might exist.
        cost: The cost that the service stated.
    """

    number: int
    identity: str
    key: str
    name: str
    digest: str
    stamp: str
    state: State
    pictures: int
    task_id: str | None = None
    urls: tuple[str, ...] = ()
    files: tuple[tuple[str, int], ...] = ()
    repeats: int = 0
    cost: Decimal | None = None


def decide(entry: Entry | None, fingerprint: Fingerprint | None, consent: Consent) -> Action:
    """Return the action for an edit. An edit that has a task is never resubmitted without consent.

    If an edit to submit turns out to be invalid, :func:`instead` returns the action to take.

    Args:
        entry: The edit in the journal; ``None`` for a new edit.
        fingerprint: The row's current fingerprint; ``None`` for a journalled edit whose row has not been read.
        consent: The user's consent.
    """
    if entry is None:
        return Action.SUBMIT
    if fingerprint is None:
        return _unchanged(entry, Consent())
    if fingerprint.digest and fingerprint.digest != entry.digest:
        return _changed(entry, consent)
    return _unchanged(entry, consent)


def instead(entry: Entry | None) -> Action:
    """Return the action for an edit that should be submitted but can't be."""
    is_unpaid = entry is None or (entry.state in {State.PLANNED, State.FAILED} and entry.task_id is None)
    return Action.RECORD_PROBLEM if is_unpaid else Action.REPORT_PROBLEM


def refusal(consent: Consent) -> InvalidEditError:
    """Return the error for a row that is refused because its content has changed."""
    return InvalidEditError(
        "the picture, the instruction or a parameter has changed since an earlier run",
        hint="the edit's task is still in flight: run the batch again later"
        if consent.edit_changed
        else "give the edit another key or folder, or repeat it in a bulk run with edit_changed=True",
    )


def _unchanged(entry: Entry, consent: Consent) -> Action:
    match entry.state:
        case State.PLANNED | State.FAILED if entry.task_id is None:
            return Action.SUBMIT
        case State.SUBMITTED:
            return Action.ATTACH
        case State.COMPLETED:
            return Action.DOWNLOAD if any(entry.urls) else Action.ATTACH
        case State.SAVED:
            return Action.VERIFY
        case State.UNCERTAIN | State.SUBMITTING if consent.resubmit_uncertain:
            return Action.SUBMIT
        case State.UNCERTAIN if entry.task_id is not None:
            return Action.ATTACH
        case _:
            return Action.LEAVE


def _changed(entry: Entry, consent: Consent) -> Action:
    """Return the action for an edit whose row has changed.

    An edit without a task is submitted with the changed row. Any other edit is replaced only with consent. An edit in
    flight is replaced after its task has ended. A completed edit is replaced even if its pictures are not saved,
    because each run first tries to save such pictures.
    """
    match entry.state:
        case State.PLANNED | State.FAILED if entry.task_id is None:
            return Action.SUBMIT
        case State.SUBMITTED if consent.edit_changed:
            return Action.REPLACE_LATER
        case State.PLANNED | State.REPLACED:
            return Action.REPORT_PROBLEM
        case _:
            return Action.REPLACE if consent.edit_changed else Action.REPORT_PROBLEM


def state_after(state: State, error: Exception, cost: Decimal | None = None) -> State:
    """Return the state of an edit after the wait for its task ended with an error.

    A completed edit stays completed, and each run tries to get its pictures again. An edit is planned again if the
    service cancelled its task and charged nothing.
    """
    match error:
        case _ if state is State.COMPLETED:
            return State.COMPLETED
        case EditFailedError(error_type=contract.CANCELED) if not cost:
            return State.PLANNED
        case EditFailedError():
            return State.FAILED
        case APIResponseError():  # the task is completed, but the reply has no URL of a picture
            return State.COMPLETED
        case NotFoundError():
            return State.UNCERTAIN
        case _:  # the task continues at the service
            return State.SUBMITTED


def error_of_run(error: Exception, *, attached: bool = False) -> Exception | None:
    """Return the error that ends the run if an edit fails with ``error``; ``None`` if only that edit is affected.

    ``attached`` says whether an earlier session submitted the edit's task. That session may have used another key, so
    a refused check shows nothing about other edits. If this key is invalid, the next submission shows it.
    """
    if attached and isinstance(error, _REFUSED):
        return None
    if isinstance(error, EditFailedError) and error.code in _BALANCE_CODES:
        return InsufficientBalanceError(
            error.message, status_code=_FAILED_TASK_STATUS, code=error.code, task_id=error.task_id
        )
    return error if isinstance(error, _ENDS_RUN) else None
