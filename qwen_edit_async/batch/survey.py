"""Looks at a batch's whole input, and at its journal, before anything is sent. Blocking; makes and changes nothing."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from qwen_edit_async.batch.content import are_whole, key_without_reading, located, read_content, read_key
from qwen_edit_async.batch.content import stamp as stamp_request
from qwen_edit_async.batch.forecast import BatchPlan, Tally
from qwen_edit_async.batch.input import BatchInput
from qwen_edit_async.batch.journal.database import Entry, Store
from qwen_edit_async.batch.plan import Change, State, Step, change_of, describe, next_step, other_request, reason_of
from qwen_edit_async.batch.sources import SourceItem, folded
from qwen_edit_async.errors import InvalidEditError
from qwen_edit_async.images.integrity import find_cut
from qwen_edit_async.images.kinds import check_format, check_size, image_name, is_data_uri, is_url, sniff
from qwen_edit_async.images.source import check_regular, local_path
from qwen_edit_async.models import EditRequest
from qwen_edit_async.session.results import safe_stem

_HEAD_BYTES: Final = 16
_FINISHED_FIRST: Final = frozenset({State.SUBMITTED, State.COMPLETED})
"""A run finishes such an edit, most likely, before it comes to its row."""


@attrs.frozen(kw_only=True)
class SurveyOptions:
    """What decides whether an edit can be submitted.

    Attributes:
        strict: Whether text that the service would cut off is a problem, and no note.
        fit: Whether images that are too large, or of another kind, are made to fit.
        resubmit_uncertain: Whether uncertain edits are submitted again.
        edit_changed: Whether an edit whose request was changed is replaced by a new one.
    """

    strict: bool = False
    fit: bool = False
    resubmit_uncertain: bool = False
    edit_changed: bool = False


def survey(given: BatchInput, journal: Path, options: SurveyOptions, abandoned: threading.Event) -> BatchPlan:
    """What a run would do.

    Args:
        given: The input.
        journal: Where the journal is, or would be.
        options: What decides whether an edit can be submitted.
        abandoned: Set if nobody waits for it any more.

    Raises:
        ConfigurationError: If the input can't be read.
        JournalError: If there is a journal that can't be read.
    """
    if not journal.exists():
        return _Survey(given, None, options, abandoned).plan()
    store = Store(journal, read_only=True)
    try:
        plan = _Survey(given, store, options, abandoned).plan()
        summary, totals = store.summary(), store.totals()
    finally:
        store.close()
    return attrs.evolve(
        plan,
        attach=summary.counts[State.SUBMITTED],
        download=plan.download + summary.counts[State.COMPLETED],
        spent=totals.cost,
        tasks=totals.tasks,
    )


@attrs.define(eq=False)
class _Survey:
    given: BatchInput
    store: Store | None
    options: SurveyOptions
    abandoned: threading.Event
    tally: Tally = attrs.field(factory=Tally)
    _seen: dict[str, tuple[str, str]] = attrs.field(factory=dict)

    def plan(self) -> BatchPlan:
        for item in self._items():
            if self.abandoned.is_set():
                break
            self.tally.rows += 1
            try:
                self._look_at(item)
            except InvalidEditError as error:
                self.tally.problem(self._label(item), str(error), reason_of(error, item.request))
        return self.tally.plan(str(self.given.targets.folder))

    def _items(self) -> Iterator[SourceItem]:
        return self.given.survey(self.tally.note, self._known)

    def _known(self, request: EditRequest, plain: str, hashed: str) -> str | None:
        """What the journal calls a row without a key; what it has no name for, it can't have been paid for."""
        if self.store is None:
            return None
        if self.store.find(hashed) is not None:
            return hashed
        entry = self.store.find(plain) if plain else None
        return plain if entry is not None and _is_surely_of(entry, request) else None

    def _label(self, item: SourceItem) -> str:
        if self.given.described:
            return item.label
        return (item.request.key if item.request is not None else None) or f"request {self.tally.rows}"

    def _look_at(self, item: SourceItem) -> None:
        request = item.request
        if request is None:
            raise InvalidEditError(item.problem or "it makes no edit")
        key = key_without_reading(request) or read_key(request)
        request = located(request, self.given.folder, key)
        if not self.given.described and self._is_repeated(key, request):
            return
        entry = None if self.store is None else self.store.find(key)
        if entry is None:
            self._submit(request, key)
            return
        state = State.UNCERTAIN if entry.state is State.SUBMITTING else entry.state
        has_task = entry.task_id is not None
        if not _is_of(entry, request):
            before = State.SAVED if state in _FINISHED_FIRST else state
            if change_of(before, has_task=has_task, edit_changed=self.options.edit_changed) is Change.REFUSE:
                raise InvalidEditError(other_request(edit_changed=self.options.edit_changed))
            self._submit(request, key, former=[name for name, _ in entry.files])
            return
        consent, has_urls = self.options.resubmit_uncertain, bool(entry.urls)
        match next_step(state, has_task=has_task, has_urls=has_urls, resubmit_uncertain=consent):
            case Step.SUBMIT | Step.REPLAN:
                self._submit(request, key)
            case Step.VERIFY:
                self.tally.count(State.SAVED if are_whole(self.given.targets.folder, entry.files) else Step.DOWNLOAD)
            case Step.LEAVE:
                self.tally.count(state)

    def _is_repeated(self, key: str, request: EditRequest) -> bool:
        """Whether a request was given before; a table's rows have keys of their own.

        Raises:
            InvalidEditError: If another request has its key, or one that names the same files.
        """
        this = key, _identity(request)
        if (first := self._seen.setdefault(folded(safe_stem(key)), this)) == this:
            return first is not this
        raise InvalidEditError("the key, or the files that it names, are those of another request")

    def _submit(self, request: EditRequest, key: str, former: Sequence[str] = ()) -> None:
        for position, image in enumerate(request.images, 1):
            _check_image(image, position, fit=self.options.fit)
        for cut in request.silently_cut():
            if self.options.strict:
                raise InvalidEditError(cut)
            self.tally.note("texts are longer than the service reads: it ignores what is over its limit")
        for name in self.given.targets.existing(request, key, former):
            self.tally.existing += 1
            self.tally.existing_example = self.tally.existing_example or name
        self.tally.submission(request.parameters)


def _identity(request: EditRequest) -> str:
    """What tells it from others of its key, whether or not its images can be read."""
    if identity := stamp_request(request):
        return identity
    try:
        return read_content(request).digest
    except InvalidEditError:
        return describe(request)


def _is_of(entry: Entry, request: EditRequest) -> bool:
    """Whether the journal's edit is this request, as far as its images can be read."""
    if entry.stamp and stamp_request(request) == entry.stamp:
        return True
    try:
        return read_content(request).digest == entry.digest
    except InvalidEditError:
        return True


def _is_surely_of(entry: Entry, request: EditRequest) -> bool:
    with contextlib.suppress(InvalidEditError):
        return stamp_request(request) == entry.stamp != "" or read_content(request).digest == entry.digest
    return False


def _check_image(image: Any, position: int, *, fit: bool) -> None:
    """Refuse what shows at a file's two ends to be no image that can be sent; what is between is not read.

    Raises:
        InvalidEditError: If it does.
    """
    if is_url(image) or is_data_uri(image) or (path := local_path(image)) is None:
        return
    name = image_name(image, position)
    try:
        size = check_regular(path, name)
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123  # a str
            head = file.read(_HEAD_BYTES)
            media_type = sniff(head)
            problem = "" if media_type is None else find_cut(file, size, media_type).problem(media_type, fit=fit)
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"can't be read: {error.strerror}"
        raise InvalidEditError(f"{name} {reason}") from None
    if not fit:
        check_size(size, name)
        check_format(head, name)
    if problem:
        raise InvalidEditError(f"{name} {problem}")
