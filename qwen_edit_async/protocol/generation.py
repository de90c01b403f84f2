"""The documented protocol and its envelopes. Pure: no I/O, no clock."""

from __future__ import annotations

from typing import Any, ClassVar, Literal
from urllib.parse import quote

import attrs

from qwen_edit_async.contract import MODEL, STATUS_PATH, SUBMIT_PATH
from qwen_edit_async.errors import APIResponseError, APIStatusError, BadRequestError
from qwen_edit_async.models import EditParameters, EditRequest
from qwen_edit_async.protocol.base import KNOWN_PRICE, Call, Reply, WireProtocol
from qwen_edit_async.protocol.bodies import message_body
from qwen_edit_async.protocol.replies import cost_of, error_from_reply, first_text, has_error, load_object
from qwen_edit_async.protocol.submissions import is_refusal, read_submission
from qwen_edit_async.protocol.tasks import snapshot_of, status_word
from qwen_edit_async.tasks import Estimate, TaskSnapshot
from qwen_edit_async.text import without_signatures

_NO_SUCH_CALL = frozenset({404, 405, 501})

Envelope = Literal["flat", "params", "header"]


@attrs.frozen
class GenerationProtocol(WireProtocol):
    """The documented protocol, with the request body in one of three forms (envelopes).

    Attributes:
        envelope: ``flat`` is the documented ``{"model", "input": {"messages"}, "parameters"}``. ``params`` nests
            ``input`` and ``parameters``: ``{"model", "input": [{"params": {"input": {"messages"}, "parameters"}}]}``.
            ``header`` is ``flat`` with the model in the header ``X-Model`` instead of the body.
    """

    name: ClassVar[str] = "generation"
    has_prices: ClassVar[bool] = True
    submission_path: ClassVar[str] = SUBMIT_PATH

    envelope: Envelope = "flat"
    model: str = MODEL

    def body(self, images: int, parameters: EditParameters) -> dict[str, Any]:
        """Return the JSON body for images and an instruction (contract, *Creating a task*), in the envelope's form."""
        body = message_body(images, parameters)
        if self.envelope == "params":
            body = {"input": [{"params": body}]}
        return body if self.envelope == "header" else {"model": self.model, **body}

    def submission(self, request: EditRequest) -> Call:
        """Build the ``POST`` that creates a task, with the header ``X-Model`` if the envelope needs it."""
        call = super().submission(request)
        if self.envelope == "header":
            call.headers = {"X-Model": self.model}
        return call

    def status_check(self, task: TaskSnapshot) -> Call:
        """Build a ``GET`` of the task's status (contract, *Polling*)."""
        return Call(method="GET", path=STATUS_PATH.format(task_id=quote(task.task_id, safe="")))

    def read_submission(self, reply: Reply) -> TaskSnapshot:
        """Read the task's id and first status."""
        return read_submission(reply)

    def read_status(self, reply: Reply, task: TaskSnapshot) -> TaskSnapshot:
        """Read the task's status, failure, pictures and usage (contract, *The status reply*)."""
        if not reply.ok:
            raise error_from_reply(reply, task_id=task.task_id)
        document = load_object(reply, task_id=task.task_id)
        snapshot = snapshot_of(document, task.task_id, reply.url)
        if snapshot.status_word or snapshot.status.terminal or status_word(document) is not None:
            return snapshot
        if has_error(document):
            raise error_from_reply(reply, task_id=task.task_id)
        raise APIResponseError("the status reply has no status", body=reply.excerpt(), task_id=task.task_id)

    def estimation(self, request: EditRequest) -> Call:
        """Build the call that asks for the cost of an edit. The call has the same body as a submission."""
        return attrs.evolve(self.submission(request), path=f"{self.submission_path}/precharge")

    def read_estimate(self, reply: Reply) -> Estimate:
        """Read ``data.cost``. If it is missing, or the call failed, raise an error with the service's reason."""
        if not reply.ok:
            raise _with_advice(error_from_reply(reply))
        document = load_object(reply)
        data = document.get("data")
        data = data if isinstance(data, dict) else {}
        refused = is_refusal(document)
        if not refused and (cost := cost_of(data.get("cost"))) is not None:
            return Estimate(cost=cost, currency=first_text(data, ("currency",)) or "", raw=document)
        if reason := first_text(data, ("reason",)):
            message = f"the service gives no price: {without_signatures(reason)}"
            raise BadRequestError(message, status_code=reply.status)
        if refused or has_error(document):
            raise error_from_reply(reply)
        return super().read_estimate(reply)


def _with_advice(error: APIStatusError) -> APIStatusError:
    if error.status_code in _NO_SUCH_CALL:
        error.hint = f"this gateway can't tell what an edit costs: {KNOWN_PRICE}"
    return error
