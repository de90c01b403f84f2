"""Every error this package raises on purpose.

::

    QwenEditError
    ├── ConfigurationError             key, host or option missing or wrong: nothing was sent
    ├── InvalidEditError (ValueError)  the service would refuse this edit: nothing was sent
    ├── APIConnectionError             no reply came back
    │   └── APITimeoutError (TimeoutError)
    ├── APIStatusError                 the service answered with an error
    │   ├── BadRequestError            400, 413, 422
    │   ├── AuthenticationError        401
    │   ├── InsufficientBalanceError   402, or codes 40201 to 40208
    │   ├── PermissionDeniedError      403
    │   ├── NotFoundError              404
    │   ├── RateLimitError             429, or code 1002
    │   └── InternalServerError        5xx
    ├── APIResponseError               a reply that can't be understood
    ├── SubmitUncertainError           a task may exist, and be charged
    ├── EditFailedError                the service ran the task, and it failed
    ├── EditCancelledError             the handle of a task that was given up with ``cancel()``
    ├── DeadlineExceededError (TimeoutError)
    ├── DownloadError                  the task is done, its picture could not be fetched
    ├── JournalError                   the journal of a bulk run can't be opened, locked or written
    └── SessionClosedError             not opened yet, closed, or used on another event loop or after a fork

None of them refers to an exception of the HTTP library: those carry the request's headers, and so the key.
"""

from __future__ import annotations

import copy
from typing import Self


class QwenEditError(Exception):
    """Base of every error of this package.

    Its text is the message, and then the hint if there is one.

    Args:
        message: What is wrong, and where.
        hint: What to do about it.
        summary: The message without the names of one image or task.
        task_id: The task that the error is about.

    Attributes:
        hint: What to do about it; may be empty.
        task_id: The task that the error is about, if one is known. ``session.attach(task_id)`` asks for it again.
    """

    def __init__(self, message: str, *, hint: str = "", summary: str = "", task_id: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        self.task_id = task_id
        self._summary = summary

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}; {self.hint}" if self.hint else text

    @property
    def summary(self) -> str:
        """What errors of the same kind have in common: the message without its hint, and without names of one edit."""
        if self._summary:
            return self._summary
        text = super().__str__() or type(self).__name__
        return text.replace(self.task_id, "…") if self.task_id else text

    def for_task(self, task_id: str | None) -> Self:
        """Return a fresh copy of this error, without traceback and context, for another waiter."""
        error = copy.copy(self)
        error.task_id = task_id
        error.__dict__.pop("__notes__", None)
        error.__cause__ = self.__cause__
        return error


class ConfigurationError(QwenEditError):
    """The key, the host or an option is missing or wrong; nothing was sent."""


class InvalidEditError(QwenEditError, ValueError):
    """The contract (part A) makes this edit an error; it was found before anything was sent or paid for."""


class APIConnectionError(QwenEditError):
    """No reply came back from the service.

    Attributes:
        request_sent: Whether the whole request may have reached the service. ``False`` is a certainty: no task was
            created by it.
    """

    def __init__(self, message: str, *, hint: str = "", task_id: str | None = None, request_sent: bool = False) -> None:
        super().__init__(message, hint=hint, task_id=task_id)
        self.request_sent = request_sent


class APITimeoutError(APIConnectionError, TimeoutError):
    """Connecting, sending or waiting for the reply took longer than the session's ``timeout`` (seconds)."""


class APIStatusError(QwenEditError):
    """The service answered with an error.

    Attributes:
        status_code: The HTTP status. It can be 200: some gateways put an error into a successful reply.
        code: The service's own code, an integer where it looks like one.
        message: The service's own words.
        request_id: What the service calls this request, for its support.
        retry_after: Seconds after which the service wants to be asked again.
        body: The start of the reply's body, as text.
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int = 0,
        code: int | str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        body: str = "",
        task_id: str | None = None,
    ) -> None:
        super().__init__(message, task_id=task_id)
        self.message = message
        self.status_code = status_code
        self.code = code
        self.request_id = request_id
        self.retry_after = retry_after
        self.body = body

    def __str__(self) -> str:
        details = [f"HTTP {self.status_code}"]
        if self.code is not None:
            details.append(f"code {self.code}")
        if self.request_id is not None:
            details.append(f"request {self.request_id}")
        if self.task_id is not None:
            details.append(f"task {self.task_id}")
        if self.retry_after is not None:
            details.append(f"retry after {self.retry_after:g} s")
        text = f"{self.message} ({', '.join(details)})"
        return f"{text}; {self.hint}" if self.hint else text

    @property
    def summary(self) -> str:
        """The service's words, with the HTTP status and the code."""
        code = "" if self.code is None else f", code {self.code}"
        return f"{self.message} (HTTP {self.status_code}{code})"


class BadRequestError(APIStatusError):
    """The service refuses the request as it is (400, 413, 422); sending it again will not help."""


class AuthenticationError(APIStatusError):
    """The key is missing or invalid (401). Set QWEN_EDIT_API_KEY; the session submits nothing more."""


class InsufficientBalanceError(APIStatusError):
    """The account's balance is too low (402, or codes 40201 to 40208). Top up; the session submits nothing more."""


class PermissionDeniedError(APIStatusError):
    """The key may not do this (403); the session submits nothing more."""


class NotFoundError(APIStatusError):
    """The service knows no such task (404)."""

    @property
    def summary(self) -> str:
        """The fact that the service does not know the task."""
        if self.task_id is None:
            return super().summary
        return "the service does not know the task (any more), which may have been charged"


class RateLimitError(APIStatusError):
    """Too many requests (429), for longer than the edit's deadline allows to wait."""

    @property
    def summary(self) -> str:
        """The fact that the edit was rejected until its deadline, or would be."""
        return self.hint or "too many requests, until the deadline"


class InternalServerError(APIStatusError):
    """The service broke (5xx)."""


class APIResponseError(QwenEditError):
    """A reply that can't be understood.

    Attributes:
        body: The start of the reply's body, as text.
    """

    def __init__(self, message: str, *, hint: str = "", body: str = "", task_id: str | None = None) -> None:
        super().__init__(message, hint=hint, task_id=task_id)
        self.body = body


class SubmitUncertainError(QwenEditError):
    """The submission was sent whole, but whether it was accepted is unknown: a task may exist, and be charged.

    It is not repeated by itself, since the protocol has no idempotency key: look into the service's own records, or
    pass ``resubmit_uncertain=True`` to a session that may pay twice. ``__cause__`` says what happened.
    """

    @property
    def summary(self) -> str:
        """The fact that a task may exist, and why that is not known."""
        return super().summary if self.__cause__ is None else f"a task may exist, and be charged: {self.__cause__}"


class EditFailedError(QwenEditError):
    """The service ran the task, and it failed.

    Attributes:
        code: The service's code, an integer where it looks like one (110001: moderation; 190000: an input image could
            not be downloaded).
        message: The service's own words.
    """

    def __init__(self, message: str, *, code: int | str | None = None, task_id: str | None = None) -> None:
        super().__init__(message, task_id=task_id)
        self.message = message
        self.code = code

    def __str__(self) -> str:
        code = "" if self.code is None else f" (code {self.code})"
        return f"task {self.task_id} failed: {self.message}{code}"

    @property
    def summary(self) -> str:
        """The service's words, with its code."""
        return f"{self.message}{'' if self.code is None else f' (code {self.code})'}"


class EditCancelledError(QwenEditError):
    """The task was given up with ``EditTask.cancel()``; at the service it runs on and is charged."""


class DeadlineExceededError(QwenEditError, TimeoutError):
    """The edit did not end within its ``deadline`` (seconds).

    With a ``task_id`` the task runs on and is charged: ``session.attach(task_id)`` waits for it again.
    """


class DownloadError(QwenEditError):
    """The task is done, but no complete result picture could be fetched; ``session.attach(task_id)`` tries again.

    Attributes:
        url: The URL that was tried last, which needs no key, and expires; empty if there is none.
    """

    def __init__(self, message: str, *, hint: str = "", task_id: str | None = None, url: str = "") -> None:
        super().__init__(message, hint=hint, task_id=task_id)
        self.url = url


class JournalError(QwenEditError):
    """The journal of a bulk run can't be opened or written, or another run has it; nothing goes on without it."""


class SessionClosedError(QwenEditError):
    """The session is not open yet, is closed, or belongs to another event loop or process."""


class EditWarning(UserWarning):
    """The service will take the edit, but not as it was meant: text that it cuts off, or an image of a poor size."""
