"""Bulk image editing with the hosted model ``qwen_image_edit_plus``, for asyncio.

Start with :class:`EditSession`. The names exported here are public, as are the modules ``emulator``, ``notebook``,
``ray`` and ``sync``, and the fixtures of ``pytest_plugin``. Any other module may change without notice.

In this table, a module imports only from modules on its own line or on lower lines::

    cli  notebook  sync  ...       front ends
    batch  emulator                EditBatch and EditHub, the journal, the sources of edits; the emulated service
    session                        EditSession: submissions, limits, status checks, tasks and results
    http                           calls to the API, streamed bodies, downloads
    display                        edits as HTML, for notebooks and reports; thumbnails
    protocol  scheduling           the form of calls and replies; when to submit, retry and check
    events  models  tasks          records of what happened to edits; requests; states of tasks
    images                         the kinds of images, their checks and their encoding
    storage                        local files, and files in buckets
    errors  contract  ...          the error tree; the documented limits; threads, file names, log, text
"""

import os as _os
from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

from qwen_edit_async.log import configure_logging as _configure_logging

if _TYPE_CHECKING:
    from qwen_edit_async.batch import BatchOutcome as BatchOutcome
    from qwen_edit_async.batch import BatchPlan as BatchPlan
    from qwen_edit_async.batch import BatchProgress as BatchProgress
    from qwen_edit_async.batch import BatchReport as BatchReport
    from qwen_edit_async.batch import BatchStatus as BatchStatus
    from qwen_edit_async.batch import EditBatch as EditBatch
    from qwen_edit_async.batch import EditHub as EditHub
    from qwen_edit_async.batch import FailureGroup as FailureGroup
    from qwen_edit_async.batch import ParameterGroup as ParameterGroup
    from qwen_edit_async.batch import Percentiles as Percentiles
    from qwen_edit_async.batch import RowProblem as RowProblem
    from qwen_edit_async.errors import APIConnectionError as APIConnectionError
    from qwen_edit_async.errors import APIResponseError as APIResponseError
    from qwen_edit_async.errors import APIStatusError as APIStatusError
    from qwen_edit_async.errors import APITimeoutError as APITimeoutError
    from qwen_edit_async.errors import AuthenticationError as AuthenticationError
    from qwen_edit_async.errors import BadRequestError as BadRequestError
    from qwen_edit_async.errors import ConfigurationError as ConfigurationError
    from qwen_edit_async.errors import DeadlineExceededError as DeadlineExceededError
    from qwen_edit_async.errors import DownloadError as DownloadError
    from qwen_edit_async.errors import EditCancelledError as EditCancelledError
    from qwen_edit_async.errors import EditFailedError as EditFailedError
    from qwen_edit_async.errors import EditWarning as EditWarning
    from qwen_edit_async.errors import InsufficientBalanceError as InsufficientBalanceError
    from qwen_edit_async.errors import InternalServerError as InternalServerError
    from qwen_edit_async.errors import InvalidEditError as InvalidEditError
    from qwen_edit_async.errors import JournalError as JournalError
    from qwen_edit_async.errors import NotFoundError as NotFoundError
    from qwen_edit_async.errors import PermissionDeniedError as PermissionDeniedError
    from qwen_edit_async.errors import QwenEditError as QwenEditError
    from qwen_edit_async.errors import RateLimitError as RateLimitError
    from qwen_edit_async.errors import SessionClosedError as SessionClosedError
    from qwen_edit_async.errors import SubmitUncertainError as SubmitUncertainError
    from qwen_edit_async.events import EditChecked as EditChecked
    from qwen_edit_async.events import EditEnded as EditEnded
    from qwen_edit_async.events import EditEvent as EditEvent
    from qwen_edit_async.events import EditRetried as EditRetried
    from qwen_edit_async.events import EditSubmitted as EditSubmitted
    from qwen_edit_async.events import EditThrottled as EditThrottled
    from qwen_edit_async.http.api import Transport as Transport
    from qwen_edit_async.http.body import JSONBody as JSONBody
    from qwen_edit_async.http.options import Timeouts as Timeouts
    from qwen_edit_async.images.kinds import ImageInput as ImageInput
    from qwen_edit_async.images.kinds import ImageInputs as ImageInputs
    from qwen_edit_async.models import EditParameters as EditParameters
    from qwen_edit_async.models import EditRequest as EditRequest
    from qwen_edit_async.protocol.base import Call as Call
    from qwen_edit_async.protocol.base import Reply as Reply
    from qwen_edit_async.scheduling.learned import Learned as Learned
    from qwen_edit_async.scheduling.policies import Backoff as Backoff
    from qwen_edit_async.scheduling.policies import FixedInterval as FixedInterval
    from qwen_edit_async.scheduling.policies import PolledTask as PolledTask
    from qwen_edit_async.scheduling.policies import PollPolicy as PollPolicy
    from qwen_edit_async.scheduling.retry import CallFailure as CallFailure
    from qwen_edit_async.session.observer import SubmissionObserver as SubmissionObserver
    from qwen_edit_async.session.results import EditResult as EditResult
    from qwen_edit_async.session.results import OutputImage as OutputImage
    from qwen_edit_async.session.session import EditSession as EditSession
    from qwen_edit_async.session.stream import EditOutcome as EditOutcome
    from qwen_edit_async.session.stream import EditStream as EditStream
    from qwen_edit_async.session.task import EditTask as EditTask
    from qwen_edit_async.statistics import SessionStatistics as SessionStatistics
    from qwen_edit_async.storage.bucket import BucketPath as BucketPath
    from qwen_edit_async.tasks import EditTimings as EditTimings
    from qwen_edit_async.tasks import Estimate as Estimate
    from qwen_edit_async.tasks import TaskFailure as TaskFailure
    from qwen_edit_async.tasks import TaskSnapshot as TaskSnapshot
    from qwen_edit_async.tasks import TaskStatus as TaskStatus
    from qwen_edit_async.tasks import Usage as Usage
    from qwen_edit_async.version import __version__ as __version__
else:  # hidden from type checkers, which would accept any name because of `__getattr__`
    _NAMES = {
        "batch": "BatchOutcome BatchPlan BatchProgress BatchReport BatchStatus EditBatch EditHub FailureGroup "
        "ParameterGroup Percentiles RowProblem",
        "errors": "APIConnectionError APIResponseError APIStatusError APITimeoutError "
        "AuthenticationError BadRequestError ConfigurationError DeadlineExceededError "
        "DownloadError EditCancelledError EditFailedError EditWarning "
        "InsufficientBalanceError InternalServerError InvalidEditError JournalError "
        "NotFoundError PermissionDeniedError QwenEditError RateLimitError SessionClosedError "
        "SubmitUncertainError",
        "events": "EditChecked EditEnded EditEvent EditRetried EditSubmitted EditThrottled",
        "http.api": "Transport",
        "http.body": "JSONBody",
        "http.options": "Timeouts",
        "images.kinds": "ImageInput ImageInputs",
        "models": "EditParameters EditRequest",
        "protocol.base": "Call Reply",
        "scheduling.learned": "Learned",
        "scheduling.policies": "Backoff FixedInterval PollPolicy PolledTask",
        "scheduling.retry": "CallFailure",
        "session.observer": "SubmissionObserver",
        "session.results": "EditResult OutputImage",
        "session.session": "EditSession",
        "session.stream": "EditOutcome EditStream",
        "session.task": "EditTask",
        "statistics": "SessionStatistics",
        "storage.bucket": "BucketPath",
        "tasks": "EditTimings Estimate TaskFailure TaskSnapshot TaskStatus Usage",
        "version": "__version__",
    }
    """The public names of each module. A module is imported when one of its names is used for the first time."""

    _MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}
    # An assignment to `__all__` would hide all names from mypy, which reads only the names in a literal list.
    globals()["__all__"] = list(_MODULES)

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value = getattr(_import_module(f"{__name__}.{_MODULES[name]}"), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_MODULES})


_configure_logging(_os.environ)
