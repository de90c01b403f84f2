"""The errors that this package raises.

::

    QwenEditError
    ├── ConfigurationError             the key, the host, an option or an extra is missing or wrong
    ├── InvalidEditError (ValueError)  the edit is invalid: no task was created
    ├── APIConnectionError             the service sent no reply
    │   └── APITimeoutError (TimeoutError)
    ├── APIStatusError                 the service replied with an error
    │   ├── BadRequestError            400, 413, 422
    │   ├── AuthenticationError        401
    │   ├── InsufficientBalanceError   402, or a code such as 40201
    │   ├── PermissionDeniedError      403
    │   ├── NotFoundError              404
    │   ├── RateLimitError             429, or a code such as 1002
    │   └── InternalServerError        5xx
    ├── APIResponseError               the reply can't be understood
    ├── SubmitUncertainError           a task may exist and be charged
    ├── EditFailedError                the task failed at the service
    ├── EditCancelledError             the edit was cancelled
    ├── DeadlineExceededError (TimeoutError)  the edit did not end in time
    ├── DownloadError                  the task is completed, but a picture could not be downloaded or decoded
    ├── JournalError                   the journal of a bulk run or a hub can't be used
    └── SessionClosedError             the session is not open, or belongs to another event loop or process

No error refers to an exception of the HTTP library, because such exceptions hold the request's headers with the key.
"""

from __future__ import annotations

import copy
from decimal import Decimal
from typing import Final, Self

_MAX_SUMMARY_CHARACTERS: Final = 200


class QwenEditError(Exception):
    """The base class of all errors of this package.

    The text of an error is its message, followed by its hint if it has one.

    Args:
        message: The problem, and the place where it was found.
        hint: The remedy.
        summary: The message without image names, task ids and quoted text.
        task_id: The id of the task that the error is about.

    Attributes:
        hint: The remedy, or an empty string.
        task_id: The id of the task that the error is about, if it is known. ``session.attach(task_id)`` waits for the
            task again.
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
        """The message without the hint, image names, task ids and quoted text.

        Errors of one kind have the same summary.
        """
        if self._summary:
            return self._summary
        text = super().__str__() or type(self).__name__
        return text.replace(self.task_id, "…") if self.task_id else text

    def for_task(self, task_id: str | None) -> Self:
        """Return a copy of this error with the given task id, but without traceback, context and notes."""
        error = copy.copy(self)
        error.task_id = task_id
        error.__dict__.pop("__notes__", None)
        error.__cause__ = self.__cause__
        return error


class ConfigurationError(QwenEditError):
    """The key, the host, an option or an extra is missing or wrong. An edit that fails with this error was not sent."""


class InvalidEditError(QwenEditError, ValueError):
    """The edit breaks the documented contract, or an image can't be read. No task was created or charged."""

    @property
    def summary(self) -> str:
        """The message without image names and quoted text, followed by the hint."""
        return f"{super().summary}; {self.hint}" if self.hint else super().summary


class APIConnectionError(QwenEditError):
    """The service sent no reply.

    Attributes:
        request_sent: Whether the service may have received the whole request. If ``False``, the request certainly
            created no task.
    """

    def __init__(self, message: str, *, hint: str = "", task_id: str | None = None, request_sent: bool = False) -> None:
        super().__init__(message, hint=hint, task_id=task_id)
        self.request_sent = request_sent


class APITimeoutError(APIConnectionError, TimeoutError):
    """Connecting, sending the request or waiting for the reply took too long; see the session's ``timeout``."""


class APIStatusError(QwenEditError):
    """The service replied with an error.

    Attributes:
        status_code: The HTTP status. It can be 200, because some gateways send errors with that status.
        code: The service's error code. A code that consists of digits is an integer.
        message: The service's error message.
        request_id: The id that the service gave to the request. The service's support may ask for it.
        retry_after: The seconds that the service asks the client to wait before the next request.
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
        facts = {"HTTP": self.status_code, "code": self.code, "request": self.request_id, "task": self.task_id}
        details = [f"{name} {value}" for name, value in facts.items() if value is not None]
        if self.retry_after is not None:
            details.append(f"retry after {self.retry_after:g} s")
        text = f"{self.message} ({', '.join(details)})"
        return f"{text}; {self.hint}" if self.hint else text

    @property
    def summary(self) -> str:
        """The service's message, with the HTTP status and the code."""
        code = "" if self.code is None else f", code {self.code}"
        return f"{self.message} (HTTP {self.status_code}{code})"


class BadRequestError(APIStatusError):
    """The service refuses the request as malformed (400, 413, 422). Sending it again does not help."""


class AuthenticationError(APIStatusError):
    """The key is missing or invalid (401). If a submission gets this error, the session submits nothing more."""


class InsufficientBalanceError(APIStatusError):
    """The account's balance is too low (402, or a code such as 40201).

    If a submission gets this error, the session submits nothing more.
    """


class PermissionDeniedError(APIStatusError):
    """The key lacks permission (403). If a submission gets this error, the session submits nothing more."""


class NotFoundError(APIStatusError):
    """The service does not know the task, or the path of the call (404)."""

    @property
    def summary(self) -> str:
        """The service's message, or a fixed message if the error is about a task."""
        if self.task_id is None:
            return super().summary
        return "the service does not know the task or has forgotten it; the task may have been charged"


class RateLimitError(APIStatusError):
    """The service replied "too many requests" (429, or a code such as 1002). The session retries until the deadline."""

    @property
    def summary(self) -> str:
        """The hint if there is one, or else the service's message. A hint says that a deadline ended the edit."""
        return self.hint or super().summary


class InternalServerError(APIStatusError):
    """The service failed to handle the request (5xx)."""


class APIResponseError(QwenEditError):
    """The service's reply can't be understood.

    Attributes:
        body: The start of the reply's body, as text. If a completed task's reply has no picture, the text names only
            the reply's members.
    """

    def __init__(self, message: str, *, hint: str = "", body: str = "", task_id: str | None = None) -> None:
        super().__init__(message, hint=hint, task_id=task_id)
        self.body = body


class SubmitUncertainError(QwenEditError):
    """The request was sent whole, but its reply was lost or unclear. A task may exist and be charged.

    By default, the session does not repeat the submission, because the protocol has no idempotency key. Look for the
    task in your account at the service. A session with ``resubmit_uncertain=True`` repeats such submissions, and may
    pay twice. ``__cause__`` is the error that left the submission uncertain, if there is one.
    """

    @property
    def summary(self) -> str:
        """A fixed text followed by the summary of ``__cause__``, or the message if there is no cause."""
        cause = self.__cause__
        return (
            f"a task may exist, and be charged: {summary_of(cause)}"
            if isinstance(cause, Exception)
            else super().summary
        )


class EditFailedError(QwenEditError):
    """The task failed at the service.

    Attributes:
        code: The service's error code. A code that consists of digits is an integer. 110001 stands for content
            moderation, and 190000 for an input image that the service could not download.
        message: The service's error message.
        error_type: The kind of failure, such as ``CONTENT_BLOCKED``; empty if the service does not name it.
        provider_error: The error text of the provider that ran the model for the service; may be empty.
        cost: The cost that the service stated, in the account's currency; ``None`` if it stated none.
    """

    def __init__(
        self,
        message: str,
        *,
        code: int | str | None = None,
        error_type: str = "",
        provider_error: str = "",
        cost: Decimal | None = None,
        task_id: str | None = None,
    ) -> None:
        super().__init__(message, task_id=task_id)
        self.message = message
        self.code = code
        self.error_type = error_type
        self.provider_error = provider_error
        self.cost = cost

    def __str__(self) -> str:
        return f"task {self.task_id} failed: {self.summary}"

    @property
    def summary(self) -> str:
        """The service's message, with its code."""
        return f"{self.message}{'' if self.code is None else f' (code {self.code})'}"


class EditCancelledError(QwenEditError):
    """The edit was cancelled, usually with ``EditTask.cancel()``. A task is charged unless the service cancels it."""


class DeadlineExceededError(QwenEditError, TimeoutError):
    """The edit did not end within its ``deadline``.

    If the error has a ``task_id``, the task may run on and be charged. ``session.attach(task_id)`` waits for the task
    again.
    """


class DownloadError(QwenEditError):
    """The task is completed, but a picture could not be downloaded or decoded.

    If the protocol has status checks, ``session.attach(task_id)`` gets the task's result again, with new URLs.

    Attributes:
        url: The URL that was tried last, or an empty string. The URL needs no key, and expires.
    """

    def __init__(self, message: str, *, hint: str = "", task_id: str | None = None, url: str = "") -> None:
        super().__init__(message, hint=hint, task_id=task_id)
        self.url = url


class JournalError(QwenEditError):
    """The journal of a bulk run or a hub can't be used, or another run or hub uses it.

    After this error, the run or hub can't continue.
    """


class SessionClosedError(QwenEditError):
    """The session is not open yet, is closed, or belongs to another event loop or process."""


def summary_of(error: Exception) -> str:
    """Return the summary of any exception, cut off after 200 characters."""
    if isinstance(error, QwenEditError):
        text = error.summary
    elif isinstance(error, OSError) and error.strerror:
        text = f"a file can't be written: {error.strerror}"
    else:
        text = str(error) or type(error).__name__
    return text[:_MAX_SUMMARY_CHARACTERS]


class EditWarning(UserWarning):
    """The result of an edit may be bad, for example because the instruction is too long or a picture is damaged.

    Attributes:
        summary: The message without image names, so that warnings of one kind have the same summary.
    """

    def __init__(self, message: str, summary: str = "") -> None:
        super().__init__(message)
        self.summary: str = summary or message
