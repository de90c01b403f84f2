"""The interface between a session and a protocol of the service. Pure: no I/O, no clock."""

from __future__ import annotations

import abc
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import attrs

from qwen_edit_async.contract import DASHSCOPE_HOSTS, DEFAULT_BASE_URL
from qwen_edit_async.errors import APIResponseError, ConfigurationError, InvalidEditError
from qwen_edit_async.models import EditParameters, EditRequest
from qwen_edit_async.protocol.bodies import split_at_gaps, with_instruction
from qwen_edit_async.tasks import Estimate, TaskSnapshot

HEADERS_READ = ("date", "retry-after", "x-request-id")
"""The reply headers that a :class:`Reply` keeps."""

KNOWN_PRICE = "give a bulk run or hub the price of a picture as price=…"
"""Advice for users of a protocol or gateway that can't tell what an edit costs."""

_SUCCESSES = range(200, 300)
_EXCERPT_CHARACTERS = 2_000
_MAX_TASK_ID_CHARACTERS = 512


@attrs.define(kw_only=True)  # not frozen, because frozen objects take twice as long to create
class Call:
    """One HTTP call to the service, without the host and the API key.

    Attributes:
        method: ``GET``, ``POST`` or ``PUT``.
        path: The percent-encoded path, relative to the base URL.
        parts: The text of the JSON body, split at the images: image k goes between part k and part k + 1.
            Empty for a call without a body.
        headers: Headers to send in addition to those that every call has.
        holds_result: Whether the reply holds the result. If so, the service replies when the edit has ended.
    """

    method: str
    path: str
    parts: tuple[bytes, ...] = ()
    headers: Mapping[str, str] = attrs.field(factory=dict)
    holds_result: bool = False


@attrs.define(kw_only=True)  # not frozen, for the same reason
class Reply:
    """An HTTP reply.

    Attributes:
        status: The HTTP status.
        headers: The headers of the reply that :data:`HEADERS_READ` lists.
        body: The part of the body that arrived.
        complete: Whether the whole body arrived.
        url: The URL of the request.
        received_at: The time of arrival by this machine's clock, in seconds since 1970; ``None`` if it is unknown.
    """

    status: int
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    body: bytes = attrs.field(default=b"", repr=False)
    complete: bool = True
    url: str = attrs.field(default="", repr=False)
    received_at: float | None = attrs.field(default=None, repr=False)

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return self.status in _SUCCESSES

    def text(self) -> str:
        """Decode the body as UTF-8. Replace invalid bytes with U+FFFD."""
        return self.body.decode("utf-8", "replace")

    def excerpt(self) -> str:
        """Return the start of the body, for error messages and logs."""
        return self.text()[:_EXCERPT_CHARACTERS]


class WireProtocol(abc.ABC):
    """One protocol of the service.

    A protocol builds each :class:`Call` and reads each :class:`Reply`, so no other code handles the service's JSON. To
    support another protocol, write another subclass. The default methods suit a service that returns the result in its
    reply to the submission.

    Attributes:
        name: The protocol's name in options and messages.
        default_base_url: The service's address, which users can override.
        foreign_hosts: Known hosts that do not support this protocol.
        key_variables: The environment variables that may hold the API key, in order of precedence.
        has_tasks: Whether a task's status can be checked after its submission.
        has_prices: Whether the protocol has a call for the cost of an edit; see :meth:`estimation`.
        reply_grace: Seconds that an ending session or run waits for the replies to its submissions. A protocol
            whose replies hold results waits less, because even a few seconds would rarely bring a reply.
        model: The name of the model.
    """

    __slots__ = ()

    name: ClassVar[str]
    default_base_url: ClassVar[str] = DEFAULT_BASE_URL
    foreign_hosts: ClassVar[frozenset[str]] = DASHSCOPE_HOSTS
    key_variables: ClassVar[tuple[str, ...]] = ("QWEN_EDIT_API_KEY",)
    has_tasks: ClassVar[bool] = True
    has_prices: ClassVar[bool] = False
    reply_grace: ClassVar[float] = 5.0

    model: str

    @property
    @abc.abstractmethod
    def submission_path(self) -> str:
        """The percent-encoded path of submissions, relative to the base URL."""

    @abc.abstractmethod
    def body(self, images: int, parameters: EditParameters) -> dict[str, Any]:
        """Return the JSON body of a submission, with ``IMAGE`` for each image and ``TEXT`` for the instruction."""

    def submission(self, request: EditRequest) -> Call:
        """Build the ``POST`` that creates a task."""
        template = _template(self, len(request.images), request.parameters)
        return Call(
            method="POST",
            path=self.submission_path,
            parts=with_instruction(template, request.instruction),
            holds_result=not self.has_tasks,
        )

    @abc.abstractmethod
    def read_submission(self, reply: Reply) -> TaskSnapshot:
        """Read the reply to a submission.

        Raises:
            APIStatusError: The service refused. If the error has a ``task_id``, that task exists and is paid for.
                Otherwise, :func:`judge_submission` decides whether a task may exist.
            APIResponseError: The reply can't be understood. A task may exist.
        """

    def estimation(self, request: EditRequest) -> Call:  # noqa: ARG002  # other protocols need it
        """Build the call that asks for the cost of an edit. The call does not create a task.

        Raises:
            ConfigurationError: The protocol has no such call.
        """
        raise ConfigurationError(f"the protocol {self.name!r} can't tell what an edit costs", hint=KNOWN_PRICE)

    def read_estimate(self, reply: Reply) -> Estimate:
        """Read the cost of an edit from the reply to the call of :meth:`estimation`.

        Raises:
            APIStatusError: The service refused to answer.
            APIResponseError: The reply has no cost.
        """
        raise APIResponseError("the reply has no cost", body=reply.excerpt())

    def status_check(self, task: TaskSnapshot) -> Call:
        """Build the call that checks a task's status.

        Raises:
            ConfigurationError: The protocol has no status checks.
        """
        raise ConfigurationError(
            f"task {task.task_id}: the protocol {self.name!r} has no status checks, because the reply to a "
            "submission holds the result"
        )

    def read_status(self, reply: Reply, task: TaskSnapshot) -> TaskSnapshot:
        """Read the reply to a status check, or to the call for a result.

        Raises:
            APIStatusError: The service refused the call.
            APIResponseError: The reply can't be understood.
        """
        raise APIResponseError("the protocol has no status checks", body=reply.excerpt(), task_id=task.task_id)

    def result_call(self, task: TaskSnapshot) -> Call | None:  # noqa: ARG002  # other protocols need it
        """Build the call for the result of a completed task. Return ``None`` if no such call is needed."""
        return None

    def cancellation(self, task: TaskSnapshot) -> Call | None:  # noqa: ARG002  # other protocols need it
        """Build the call that cancels a task at the service. Return ``None`` if the protocol can't cancel."""
        return None

    def read_cancellation(self, reply: Reply, task: TaskSnapshot) -> None:
        """Check that a reply confirms the cancellation of a task. If this method raises, the task may still run.

        Raises:
            APIStatusError: The service refused.
            APIResponseError: The reply can't be understood.
        """
        raise APIResponseError("the protocol has no cancellation", body=reply.excerpt(), task_id=task.task_id)


@functools.lru_cache(maxsize=64)
def _template(protocol: WireProtocol, images: int, parameters: EditParameters) -> tuple[bytes, ...]:
    return split_at_gaps(protocol.body(images, parameters))


def check_task_id(task_id: object) -> str:
    """Return the task id if it can be part of a URL's path.

    Raises:
        InvalidEditError: The id is not text, is empty or too long, or has forbidden characters.
    """
    if not isinstance(task_id, str) or not task_id or len(task_id) > _MAX_TASK_ID_CHARACTERS:
        raise InvalidEditError(f"task id {task_id!r:.80}: give an id from a reply of the service")
    if task_id.strip(".") == "" or not task_id.isprintable() or task_id.split() != [task_id]:
        raise InvalidEditError(f"task id {task_id!r:.80}: no id looks like this; check for a copying error")
    return task_id


def is_task_id(text: str) -> bool:
    """Return whether :func:`check_task_id` accepts the text."""
    try:
        check_task_id(text)
    except InvalidEditError:
        return False
    return True
