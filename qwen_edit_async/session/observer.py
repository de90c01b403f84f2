"""The observer of submissions, such as a journal, and the line of the user's code at which warnings point."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Protocol

import attrs

from qwen_edit_async.errors import EditWarning
from qwen_edit_async.images.upload import Upload
from qwen_edit_async.models import EditKeywords
from qwen_edit_async.scheduling.retry import CallFailure
from qwen_edit_async.tasks import TaskSnapshot

_NOT_THE_USERS = frozenset({__name__.partition(".")[0], "asyncio", "contextlib"})
"""Packages that are not the user's code, so warnings do not point at their lines."""


class SubmissionObserver(Protocol):
    """Called before and after each attempt to submit one edit.

    The session ignores ``resubmit_uncertain`` for an edit with an observer, so no attempt follows one that may have
    created a task. A background task of the session calls the observer.
    """

    async def about_to_submit(self, uploads: Sequence[Upload]) -> None:
        """Called before an attempt, with the images and their digests. The attempt is sent when this method returns.

        If this method raises an error, the attempt is not sent. The edit then ends with the error, unless it is a
        :class:`QwenEditError` that allows a retry. This method is cancelled if the edit is cancelled, if the edit's
        deadline passes, or if the session ends.
        """
        ...

    def settled(self, fate: TaskSnapshot | CallFailure) -> None:
        """Called with the task that an attempt created, or with the kind of the attempt's failure. Must not raise.

        Called once for each :meth:`about_to_submit` that returned, even if the edit has already ended.
        """
        ...


class NotNowError(Exception):
    """Raised by the observer of a bulk run if the run's limits do not allow the attempt now.

    The run may submit the edit again later, so the session neither counts nor reports the edit as refused.
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
        """Return the line that :meth:`kept` has stored, or else the line of the user's code that is running."""
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

        :meth:`of_caller` then returns this line, also on a thread that runs in a copy of this context.
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
