"""Alibaba Model Studio (DashScope): one call, whose reply holds the result. Pure: no I/O, no clock."""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar

import attrs

from qwen_edit_async.contract import DASHSCOPE_BASE_URL, DASHSCOPE_MODEL, DASHSCOPE_PATH, GATEWAY_HOSTS
from qwen_edit_async.errors import APIResponseError
from qwen_edit_async.models import EditParameters
from qwen_edit_async.protocol.base import Reply, WireProtocol, is_task_id
from qwen_edit_async.protocol.bodies import message_body
from qwen_edit_async.protocol.replies import error_from_reply, has_error
from qwen_edit_async.protocol.submissions import load_or_fragment
from qwen_edit_async.protocol.tasks import snapshot_of
from qwen_edit_async.tasks import TaskFailure, TaskSnapshot, TaskStatus, Usage

_MODERATION_CODES = frozenset({"DataInspectionFailed", "data_inspection_failed"})


@attrs.frozen
class DashScopeProtocol(WireProtocol):
    """The protocol of Alibaba Model Studio.

    The service has no tasks and no status checks. The id of the request serves as the task id. If the reply has no such
    id, a hash of the reply takes its place.
    """

    name: ClassVar[str] = "dashscope"
    default_base_url: ClassVar[str] = DASHSCOPE_BASE_URL
    foreign_hosts: ClassVar[frozenset[str]] = GATEWAY_HOSTS
    key_variables: ClassVar[tuple[str, ...]] = ("DASHSCOPE_API_KEY", "QWEN_EDIT_API_KEY")
    has_tasks: ClassVar[bool] = False
    reply_grace: ClassVar[float] = 0.2
    submission_path: ClassVar[str] = DASHSCOPE_PATH

    model: str = DASHSCOPE_MODEL

    def body(self, images: int, parameters: EditParameters) -> dict[str, Any]:
        """Return the documented body."""
        return {"model": self.model, **message_body(images, parameters)}

    def read_submission(self, reply: Reply) -> TaskSnapshot:
        """Read the pictures, or the failure of an edit that moderation refused.

        Raises:
            APIStatusError: The service refused the edit for another reason, possibly with a successful HTTP status.
            APIResponseError: The reply can't be understood. The edit may have run, and may be charged.
        """
        error = error_from_reply(reply)
        task_id = error.request_id or ""
        if not is_task_id(task_id):  # results are saved under their ids, so each needs its own
            task_id = f"unnamed-{hashlib.blake2s(reply.body, digest_size=4).hexdigest()}"
        if str(error.code).partition(".")[0] in _MODERATION_CODES:
            failure = TaskFailure(code=error.code, message=error.message)
            return TaskSnapshot(task_id=task_id, status=TaskStatus.FAILED, failure=failure)
        if not reply.ok:
            raise error
        document, broken = load_or_fragment(reply)
        snapshot = snapshot_of(document, task_id, reply.url)
        if snapshot.urls:
            count = snapshot.usage.raw.get("image_count")
            usage = Usage(quantity=count if type(count) is int else None, raw=snapshot.usage.raw)
            return attrs.evolve(snapshot, status=TaskStatus.COMPLETED, failure=None, usage=usage)
        if broken is not None:
            raise broken
        if error.code is not None and has_error(document):
            raise error
        raise APIResponseError("the reply has no picture and no error", body=reply.excerpt())
