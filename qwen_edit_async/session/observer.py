"""The interface for observers of submissions (such as a journal), and code that passes events and warnings to users."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Protocol

import attrs

from qwen_edit_async.errors import EditWarning
from qwen_edit_async.images.encode import Upload
from qwen_edit_async.models import EditKeywords
from qwen_edit_async.scheduling.retry import CallFailure
from qwen_edit_async.tasks import TaskSnapshot

_NOT_THE_USERS = frozenset({__name__.partition(".")[0], "asyncio", "contextlib"})
"""Packages that are not the user's code, so warnings do not point at their lines."""


class SubmissionObserver(Protocol):
    """Called before and after each attempt to submit one edit.

    An edit can take several attempts, one after the other. If an attempt may have created a task, no other attempt
    follows: the session ignores ``resubmit_uncertain`` for an edit with an observer. A background task of the session
    calls the observer.
    """

    async def about_to_submit(self, uploads: Sequence[Upload]) -> None:
        """Called before an attempt, with the images and their digests. The attempt is sent when this method returns.

        If a ``Retry-After`` pause has begun meanwhile, the attempt is not sent, but settled as refused.

        If this method raises an error, the attempt is not sent, and the edit ends with the error. This method is
        cancelled if the edit is cancelled, if its deadline passes, or if the session ends.
        """
        ...

    def settled(self, fate: TaskSnapshot | CallFailure) -> None:
        """Called with the task that an attempt created, or with the kind of the attempt's failure. Must not raise.

        Each time :meth:`about_to_submit` has returned without an error, this method is called once, even if the edit
        was cancelled or its deadline passed meanwhile.
        """
        ...


class NotNowError(Exception):
    """Raised by the observer of a bulk run if the run's limits do not allow the attempt now.

    The run may submit the edit again later, so the edit has not ended: it is neither counted nor reported as refused.
    """


class SubmitKeywords(EditKeywords, total=False):
    """The keyword arguments of ``EditSession.submit``."""

    observer: SubmissionObserver | None


@attrs.frozen(eq=False)
class CallSite:
    """A line of the user's code, at which warnings point."""

    filename: str
    line: int
    module: str | None
    registry: dict[str | tuple[str, type[Warning], int], int]

    @classmethod
    def of_caller(cls) -> CallSite:
        """Return the line of the user's code that is running, or the line that :meth:`kept` has stored."""
        if (kept := _kept.get()) is not None:
            return kept
        frame = sys._getframe(1)  # noqa: SLF001  # `inspect` would block, because it reads source files
        while frame.f_globals.get("__name__", "").partition(".")[0] in _NOT_THE_USERS and frame.f_back is not None:
            frame = frame.f_back
        names: dict[str, Any] = frame.f_globals
        registry = names.setdefault("__warningregistry__", {})
        return cls(frame.f_code.co_filename, frame.f_lineno, names.get("__name__"), registry)

    @classmethod
    @contextlib.contextmanager
    def kept(cls) -> Iterator[None]:
        """Store the line of the user's code that is running now, until the block ends.

        In another thread that runs in a copy of this context, :meth:`of_caller` returns the stored line.
        """
        token = _kept.set(cls.of_caller())
        try:
            yield
        finally:
            _kept.reset(token)

    def warn(self, warning: EditWarning) -> None:
        """Issue a warning that points at this line."""
        warnings.warn_explicit(warning, EditWarning, self.filename, self.line, self.module, self.registry)


_kept: ContextVar[CallSite | None] = ContextVar("qwen_edit_async_call_site", default=None)
