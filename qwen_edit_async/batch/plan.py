"""What a bulk run does next, and what it must never do again. Pure: no I/O, no clock.

::

    planned ──► submitting ──► submitted ──► completed ──► saved
       ▲  │          │  │           │            ▲           │
       │  └─► failed ◄──┘           └─► failed   └───────────┘  a file is gone or damaged
       │        │                       (has a task id: stays so)
       └────────┘ without a task id: nothing was paid

       uncertain ◄──► submitting        repeated with consent only, and back if that was certainly refused
         ▲  │
         │  └─► as submitted            the service knows the task after all
       submitted                        the service does not know the task

       saved, failed, uncertain ──► replaced    its input was changed, and is edited anew with consent

An edit can be *completed* before the service names its pictures: then each run asks for them again.
An edit is *submitting* from before its request can reach the service until the fate of that request is known. Whoever
finds it in this state later can't know whether a task exists: it is *uncertain*. So is one whose task the service does
not know (any more): it keeps the task's id, and each run asks again, since it may be the wrong account that was asked.
It stays uncertain until the intent to repeat it is written: consent is given to one run, and ends with it.
"""

from __future__ import annotations

import enum
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Final

import attrs

from qwen_edit_async.batch.sources import unsigned
from qwen_edit_async.errors import (
    APIResponseError,
    APIStatusError,
    ConfigurationError,
    EditFailedError,
    InsufficientBalanceError,
    NotFoundError,
    RateLimitError,
    SubmitUncertainError,
)
from qwen_edit_async.images.kinds import image_name, is_data_uri
from qwen_edit_async.models import EditParameters, EditRequest
from qwen_edit_async.session.results import safe_stem
from qwen_edit_async.text import quoted

_PARAMETERS: Final = tuple(field.name for field in attrs.fields(EditParameters))
_BALANCE_CODES: Final = range(40201, 40209)
_SUCCESS: Final = 200
"""The HTTP status of the reply that tells a task's failure."""

_UNREACHABLE_LIMIT: Final = 20
_UNSAVED_LIMIT: Final = 3
_HASH_CHARACTERS: Final = 8
_MAX_REASON_CHARACTERS: Final = 200


class State(enum.Enum):
    """Where an edit of a bulk run stands, as its journal says."""

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
    State.SUBMITTED: frozenset({State.SUBMITTED, State.COMPLETED, State.FAILED, State.UNCERTAIN}),
    State.COMPLETED: frozenset({State.COMPLETED, State.SAVED}),
    State.SAVED: frozenset({State.COMPLETED, State.REPLACED}),
    State.FAILED: frozenset({State.FAILED, State.PLANNED, State.REPLACED}),
    State.UNCERTAIN: frozenset(State) - {State.SAVED},
    State.REPLACED: frozenset(),
}
"""The legal moves. One from a state to itself records something more, such as another attempt or a problem; one from
*uncertain* to *submitted* is a task id that came late; to *planned*, a refusal that did. From *uncertain* to what comes
after *submitted* leads only a task that the service knows again."""

ORIGINS: Mapping[State, tuple[State, ...]] = {
    target: tuple(state for state, targets in MOVES.items() if target in targets) for target in State
}
"""From where each state can be reached."""


class Step(enum.Enum):
    """What a run has to do for an edit."""

    SUBMIT = enum.auto()
    REPLAN = enum.auto()
    ATTACH = enum.auto()
    DOWNLOAD = enum.auto()
    VERIFY = enum.auto()
    LEAVE = enum.auto()


def next_step(state: State, *, has_task: bool, resubmit_uncertain: bool, has_urls: bool = True) -> Step:
    """What a run that finds an edit in this state has to do.

    What has a task id is never submitted again; unless the service does not know that task, and then with consent only.
    """
    match state:
        case State.SUBMITTED:
            return Step.ATTACH
        case State.COMPLETED if not has_urls:  # the service named no picture yet
            return Step.ATTACH
        case State.COMPLETED:
            return Step.DOWNLOAD
        case State.SAVED:
            return Step.VERIFY
        case State.PLANNED if not has_task:
            return Step.SUBMIT
        case State.FAILED if not has_task:
            return Step.REPLAN
        case State.UNCERTAIN if resubmit_uncertain:
            return Step.SUBMIT
        case State.UNCERTAIN if has_task:
            return Step.ATTACH
        case _:
            return Step.LEAVE


def state_after(state: State, error: Exception) -> State:
    """Return where an edit stands when the wait for its task ends with an error.

    Once the service has called a task completed it stays so: each run asks for its pictures again.
    """
    match error:
        case _ if state is State.COMPLETED:
            return State.COMPLETED
        case EditFailedError():
            return State.FAILED
        case APIResponseError():  # completed, but no picture was named
            return State.COMPLETED
        case NotFoundError():
            return State.UNCERTAIN
        case _:  # it runs on at the service, and can be attached to again
            return State.SUBMITTED


class Change(enum.Enum):
    """What becomes of an edit whose request is not the one that the journal has."""

    REFUSE = enum.auto()
    REDRAFT = enum.auto()
    REPLACE = enum.auto()


def change_of(state: State, *, has_task: bool, edit_changed: bool) -> Change:
    """What to do with a request that was changed since the journal took it.

    Without consent, only an edit that failed before anything was paid takes the new request. With ``edit_changed`` a
    new edit replaces one that may have been paid for, which the journal keeps under another key. An edit that is under
    way is finished first.
    """
    match state:
        case State.FAILED if not has_task:
            return Change.REDRAFT
        case State.PLANNED if edit_changed and not has_task:
            return Change.REDRAFT
        case State.SAVED | State.FAILED | State.UNCERTAIN if edit_changed:
            return Change.REPLACE
        case _:
            return Change.REFUSE


def other_request(*, edit_changed: bool) -> str:
    """Why an edit is refused whose image, instruction or parameters were changed."""
    advice = (
        "its task is still under way, so run it again later"
        if edit_changed
        else "edit it anew with edit_changed=True (--edit-changed), or give it another key or folder"
    )
    return f"the key is in the journal with another request: {advice}"


def content_hash(image_hashes: Sequence[str], request: EditRequest) -> str:
    """What an edit is: its images' content in their order, its instruction and its parameters."""
    return _hash([*image_hashes], request.instruction, _given(request.parameters))


def stamp_of(image_stamps: Sequence[str | None], request: EditRequest) -> str:
    """As :func:`content_hash`, with cheap stamps for the images' content; empty if an image has none."""
    return "" if None in image_stamps else _hash([*image_stamps], request.instruction, _given(request.parameters))


def key_of(request: EditRequest, image_hashes: Sequence[str]) -> str:
    """The name of an edit in its batch: the request's own, or one that every run finds again.

    Without a key of its own, it is made of the first image's name, and a hash of all images' names (of their content,
    for images without a name), the instruction and the parameters. The signature of a URL is no part of its name.
    """
    if request.key:
        return request.key
    locators = [image_locator(image) for image in request.images]
    names = [
        image_hash if locator is None else unsigned(locator)
        for locator, image_hash in zip(locators, image_hashes, strict=True)
    ]
    return automatic_key(names, request)


def automatic_key(names: Sequence[str], request: EditRequest) -> str:
    """Return the key of a request that has none of its own, made of its images' names."""
    first = image_locator(request.images[0]) or "edit"
    stem = first.split("?")[0].rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return f"{safe_stem(stem)}-{_hash([*names], request.instruction, _given(request.parameters))[:_HASH_CHARACTERS]}"


def image_locator(image: object) -> str | None:
    """Where an image is to be found: its path or URL; ``None`` for what is in memory."""
    if isinstance(image, str):
        return None if is_data_uri(image) else image
    return str(image) if isinstance(image, os.PathLike) else None


def describe(request: EditRequest) -> str:
    """The request as JSON text, for people and for reports; images that are nowhere to be found are ``null``."""
    members = {
        "images": [image_locator(image) for image in request.images],
        "instruction": request.instruction,
        "parameters": _given(request.parameters),
    }
    return json.dumps(members, ensure_ascii=False)


def pictures_of(parameters: EditParameters) -> int:
    """How many pictures an edit is to give, and so to be charged for (contract, *n*)."""
    return parameters.n or 1


def reason_of(error: Exception, request: EditRequest | None = None) -> str:
    """What failures of the same kind have in common: the error without what names this one edit."""
    match error:
        case EditFailedError():
            text = f"{error.message}{'' if error.code is None else f' (code {error.code})'}"
        case NotFoundError(task_id=str()):
            text = "the service does not know the task (any more), which may have been charged"
        case SubmitUncertainError() if error.__cause__ is not None:
            text = f"a task may exist, and be charged: {error.__cause__}"
        case RateLimitError():
            text = "too many requests, until the deadline"
        case APIStatusError():
            code = "" if error.code is None else f", code {error.code}"
            text = f"{error.message} (HTTP {error.status_code}{code})"
        case OSError(strerror=str(words)):
            text = f"a file can't be written: {words}"
        case _:
            text = str(error) or type(error).__name__
            text = "; ".join(part for part in text.split("; ") if "session.attach(" not in part)
            if (task_id := getattr(error, "task_id", None)) is not None:
                text = text.replace(task_id, "…")
    for position, image in enumerate(request.images if request is not None else (), 1):
        text = text.replace(image_name(image, position), f"image {position}")
    return text[:_MAX_REASON_CHARACTERS]


def lack_of_balance(error: Exception) -> InsufficientBalanceError | None:
    """What a task's failure says of every other edit, if it is the account's balance that it failed for (part B)."""
    if not isinstance(error, EditFailedError) or error.code not in _BALANCE_CODES:
        return None
    return InsufficientBalanceError(error.message, status_code=_SUCCESS, code=error.code, task_id=error.task_id)


class Verdict(enum.Enum):
    """Whether an edit may be submitted."""

    GO = enum.auto()
    WAIT = enum.auto()
    STOP = enum.auto()


@attrs.define(kw_only=True)
class Budget:
    """What a batch may still spend.

    Costs are known only when edits complete. ``max_cost`` is kept by reckoning each unfinished edit with the highest
    price per picture seen so far; until one is seen, edits go one at a time.

    Attributes:
        max_cost: The most that the batch may cost, in the account's currency; earlier runs count.
        max_tasks: The most tasks that may be created; earlier runs count.
        stop_after_failures: After how many failures in this run no more is submitted; what is wrong with the input is
            not among them.
        spent: What edits cost, as far as the service says.
        tasks: How many tasks were created, or may have been.
        stopped: Why nothing more may be submitted; empty as long as it may.
        held: Why nothing is submitted until a completed edit is saved; empty if nothing keeps it from being.
        fetching: Completed edits whose pictures are being fetched.
        limit: The name of the whole batch's limit that stopped it, if one did: a later run needs another.
    """

    max_cost: Decimal | None = None
    max_tasks: int | None = None
    stop_after_failures: int | None = None
    spent: Decimal = Decimal(0)
    tasks: int = 0
    stopped: str = ""
    held: str = ""
    fetching: int = 0
    limit: str = ""
    _price: Decimal | None = None
    _unpriced: int = 0
    _failures: int = 0
    _unreachable: int = 0
    _unsaved: int = 0
    _pending: int = 0
    _live: int = 0
    _reserved: int = 0

    def resume(self, *, spent: Decimal, tasks: int, price: Decimal | None, unpriced: int, doubtful: int) -> None:
        """Go on from where earlier runs came.

        Args:
            spent: What edits cost, as far as the service says.
            tasks: How many tasks were created, or may have been.
            price: The highest for a picture, if one is known.
            unpriced: Completed edits that came without a cost.
            doubtful: Pictures that may have been charged, without anybody knowing.
        """
        self.spent, self.tasks = spent, tasks
        self._price, self._unpriced, self._reserved = price, unpriced, doubtful

    def stop(self, reason: str) -> None:
        """Let nothing more be submitted; the first reason counts."""
        self.stopped = self.stopped or reason

    def admit(self, pictures: int) -> Verdict:
        """Whether an edit of so many pictures may be submitted now; after ``GO`` it counts until it is settled.

        ``WAIT`` means to ask again when something was settled.
        """
        if not self.stopped:
            verdict = self._judge(pictures)
            if verdict is Verdict.GO:
                self.adopt(pictures)
                self._pending += 1
            return verdict
        return Verdict.STOP

    def adopt(self, pictures: int) -> None:
        """Count an edit that was submitted earlier, until it is settled."""
        self._live += 1
        self._reserved += pictures

    def created(self) -> None:
        """An admitted edit has become a task, or may have."""
        self._pending -= 1
        self.tasks += 1
        self._unreachable = 0

    def refused(self) -> None:
        """An admitted edit was certainly not accepted; it can't be charged."""
        self._pending -= 1

    def charged(self, pictures: int, cost: Decimal | None, *, counted: Decimal | None = None) -> None:
        """Count a completed edit.

        Args:
            pictures: How many it was to give.
            cost: What the service says that it cost.
            counted: What an earlier run counted for it.
        """
        self._live -= 1
        self._reserved -= pictures
        if cost is None:
            self._unpriced += 1
            return
        self.spent += cost - (counted or 0)
        price = cost / pictures
        self._price = price if self._price is None else max(price, self._price)

    def released(
        self, pictures: int, *, chargeable: bool, cost: Decimal | None = None, counted: Decimal | None = None
    ) -> None:
        """Count an edit that ended otherwise; without a cost it stays reckoned with if it may still be charged.

        A cost of nothing tells no price.
        """
        if cost:
            self.charged(pictures, cost, counted=counted)
            return
        self._live -= 1
        if cost is not None or not chargeable:
            self._reserved -= pictures

    def failed(self, *, unreachable: bool = False) -> None:
        """An edit failed in this run, for another reason than its input."""
        self._failures += 1
        self._unreachable = self._unreachable + 1 if unreachable else 0
        if self.stop_after_failures is not None and self._failures >= self.stop_after_failures:
            self.stop(f"{self._failures} edits failed (stop_after_failures={self.stop_after_failures})")
        elif self._unreachable >= _UNREACHABLE_LIMIT:
            self.stop(f"the service could not be reached {self._unreachable} times in a row")

    def saved(self) -> None:
        """Count a completed edit whose pictures were saved."""
        self._unsaved, self.held = 0, ""

    def unsaved(self, reason: str) -> bool:
        """Count a completed edit whose pictures could not be fetched; return whether submissions stop because of it."""
        self._unsaved += 1
        if self._unsaved != _UNSAVED_LIMIT:
            return False
        self.held = f"the pictures of {_UNSAVED_LIMIT} completed edits in a row could not be saved: {reason}"
        return True

    def _judge(self, pictures: int) -> Verdict:
        if self.held:
            return Verdict.WAIT if self._live or self.fetching else self._exhaust("", self.held)
        if self.max_tasks is not None and self.tasks + self._pending >= self.max_tasks:
            if self._pending:
                return Verdict.WAIT
            return self._exhaust("max_tasks", f"{self.tasks} tasks were created (max_tasks={self.max_tasks})")
        if self.max_cost is None:
            return Verdict.GO
        if self._price is None:
            if self._live:
                return Verdict.WAIT
            if self._unpriced:
                reason = "the service does not say what edits cost: max_cost can't be kept, use max_tasks"
                return self._exhaust("max_cost", reason)
            over = self.spent >= self.max_cost
        else:
            over = self.spent + (self._reserved + pictures) * self._price > self.max_cost
        if not over:
            return Verdict.GO
        if self._live:
            return Verdict.WAIT
        reason = f"{self.spent} was spent, and the next edit could exceed max_cost={self.max_cost}"
        return self._exhaust("max_cost", reason)

    def _exhaust(self, limit: str, reason: str) -> Verdict:
        self.stop(reason)
        self.limit = limit
        return Verdict.STOP


def to_money(value: Decimal | float | str | None, name: str) -> Decimal | None:
    """Return an amount of money.

    Raises:
        ConfigurationError: If the value is none.
    """
    try:
        cost = None if value is None else Decimal(str(value))
    except InvalidOperation:
        cost = Decimal("NaN")
    if cost is not None and not (cost.is_finite() and cost >= 0):
        raise ConfigurationError(f"{name} is {quoted(str(value))}: give an amount of money, 0 or more")
    return cost


def _given(parameters: EditParameters) -> dict[str, object]:
    return {name: value for name in _PARAMETERS if (value := getattr(parameters, name)) is not None}


def _hash(*parts: object) -> str:
    text = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()
