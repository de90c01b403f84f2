"""Bulk image editing with the hosted model ``qwen_image_edit_plus``, for asyncio.

``EditSession`` is where to begin. Public is what is exported here, ``qwen_edit_async.emulator`` and
``qwen_edit_async.notebook``; the rest may change.

::

    _cli, _pytest_plugin          front ends                     emulator/   the embedded service
    _batch/                       EditBatch: journal, resume, report
    _session                      EditSession
    _host, _stream                the open session's task; edit_many
    _submitter, _tracking         request to task id; task id to result
    _gate, _poller, _downloads    the semaphore; the one coroutine; results
    _transport, _body, _prepare   HTTP; the streamed body; input images
    ------------------------------------------------------------ pure below
    _wire, _replies               the protocol: calls and replies
    _schedule, _budget, _polling  what is checked when
    _learned, _survival           the policy that learns how long edits take
    _retry, _pacing               what may be repeated; how much at once
    _models, _images, _png        values; what can be an image; is it whole
    _errors, _contract            the error tree; limits and words of part A

The README's "Contributing" says which file to open for which change.
"""

import os as _os
from typing import TYPE_CHECKING as _TYPE_CHECKING

from ._config import Timeouts as Timeouts
from ._errors import APIConnectionError as APIConnectionError
from ._errors import APIResponseError as APIResponseError
from ._errors import APIStatusError as APIStatusError
from ._errors import APITimeoutError as APITimeoutError
from ._errors import AuthenticationError as AuthenticationError
from ._errors import BadRequestError as BadRequestError
from ._errors import ConfigurationError as ConfigurationError
from ._errors import DeadlineExceededError as DeadlineExceededError
from ._errors import DownloadError as DownloadError
from ._errors import EditCancelledError as EditCancelledError
from ._errors import EditFailedError as EditFailedError
from ._errors import EditWarning as EditWarning
from ._errors import InsufficientBalanceError as InsufficientBalanceError
from ._errors import InternalServerError as InternalServerError
from ._errors import InvalidEditError as InvalidEditError
from ._errors import JournalError as JournalError
from ._errors import NotFoundError as NotFoundError
from ._errors import PermissionDeniedError as PermissionDeniedError
from ._errors import QwenEditError as QwenEditError
from ._errors import RateLimitError as RateLimitError
from ._errors import SessionClosedError as SessionClosedError
from ._errors import SubmitUncertainError as SubmitUncertainError
from ._exchange import SubmissionObserver as SubmissionObserver
from ._images import ImageInput as ImageInput
from ._learned import Learned as Learned
from ._log import configure_logging as _configure_logging
from ._models import EditParameters as EditParameters
from ._models import EditRequest as EditRequest
from ._models import TaskFailure as TaskFailure
from ._models import TaskSnapshot as TaskSnapshot
from ._models import TaskStatus as TaskStatus
from ._models import Usage as Usage
from ._polling import Backoff as Backoff
from ._polling import FixedInterval as FixedInterval
from ._polling import PolledTask as PolledTask
from ._polling import PollPolicy as PollPolicy
from ._results import EditResult as EditResult
from ._results import EditTimings as EditTimings
from ._results import OutputImage as OutputImage
from ._session import EditSession as EditSession
from ._statistics import SessionStatistics as SessionStatistics
from ._stream import EditOutcome as EditOutcome
from ._stream import EditStream as EditStream
from ._task import EditTask as EditTask
from ._version import __version__ as __version__

if _TYPE_CHECKING:
    from ._batch import BatchOutcome as BatchOutcome
    from ._batch import BatchPlan as BatchPlan
    from ._batch import BatchProgress as BatchProgress
    from ._batch import BatchReport as BatchReport
    from ._batch import BatchStatus as BatchStatus
    from ._batch import EditBatch as EditBatch
    from ._batch import FailureGroup as FailureGroup
    from ._batch import ParameterGroup as ParameterGroup
    from ._batch import Percentiles as Percentiles
    from ._batch import RowProblem as RowProblem

__all__ = [
    "APIConnectionError",
    "APIResponseError",
    "APIStatusError",
    "APITimeoutError",
    "AuthenticationError",
    "Backoff",
    "BadRequestError",
    "BatchOutcome",
    "BatchPlan",
    "BatchProgress",
    "BatchReport",
    "BatchStatus",
    "ConfigurationError",
    "DeadlineExceededError",
    "DownloadError",
    "EditBatch",
    "EditCancelledError",
    "EditFailedError",
    "EditOutcome",
    "EditParameters",
    "EditRequest",
    "EditResult",
    "EditSession",
    "EditStream",
    "EditTask",
    "EditTimings",
    "EditWarning",
    "FailureGroup",
    "FixedInterval",
    "ImageInput",
    "InsufficientBalanceError",
    "InternalServerError",
    "InvalidEditError",
    "JournalError",
    "Learned",
    "NotFoundError",
    "OutputImage",
    "ParameterGroup",
    "Percentiles",
    "PermissionDeniedError",
    "PollPolicy",
    "PolledTask",
    "QwenEditError",
    "RateLimitError",
    "RowProblem",
    "SessionClosedError",
    "SessionStatistics",
    "SubmissionObserver",
    "SubmitUncertainError",
    "TaskFailure",
    "TaskSnapshot",
    "TaskStatus",
    "Timeouts",
    "Usage",
    "__version__",
]

if not _TYPE_CHECKING:  # a type checker would take any name for one that exists

    def __getattr__(name: str) -> object:
        """What bulk runs need takes as long to import as all the rest, and is imported when it is first asked for."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import _batch  # noqa: PLC0415  # see above

        globals()[name] = value = getattr(_batch, name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


_configure_logging(_os.environ)
