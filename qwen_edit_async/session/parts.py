"""The parts of an open session that all its calls share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from qwen_edit_async.errors import QwenEditError, RateLimitError
from qwen_edit_async.events import EditEvent
from qwen_edit_async.http.body import JSONBody
from qwen_edit_async.images.kinds import ImageInput
from qwen_edit_async.images.prepare import prepare
from qwen_edit_async.images.upload import Upload
from qwen_edit_async.log import about
from qwen_edit_async.protocol.base import Call
from qwen_edit_async.session.gate import Gate
from qwen_edit_async.session.options import Options
from qwen_edit_async.session.service import Service
from qwen_edit_async.statistics import SessionStatistics
from qwen_edit_async.threads import Offloader


@attrs.frozen(eq=False)
class SessionParts:
    """The parts of an open session.

    Attributes:
        offloader: The threads that read and encode images.
    """

    service: Service
    options: Options
    gate: Gate
    offloader: Offloader
    counters: SessionStatistics

    def tell(self, kind: type[EditEvent], **facts: Any) -> None:
        """Call ``on_event``, if it is set, with an event. Log any error that ``on_event`` raises."""
        if (on_event := self.options.on_event) is None:
            return
        event = kind(**facts)
        try:
            on_event(event)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001  # a user's function may raise anything, even CancelledError
            kinds = type(error).__name__, kind.__name__
            about(event.task_id).warning("on_event raised %s for %s: %s", *kinds, error)

    async def prepare(self, images: Sequence[ImageInput], *, hashed: bool = False) -> tuple[Upload, ...]:
        """Read and check images off the event loop, and change them as the options require."""
        fit, inline = self.options.fit, self.options.inline
        return await self.offloader.run(prepare, images, fit=fit, inline=inline, hashed=hashed)

    def body(self, call: Call, uploads: Sequence[Upload]) -> JSONBody:
        """Return the body of a call with images."""
        return JSONBody(call.parts, uploads, self.offloader, stall_timeout=self.options.timeouts.send)

    def check_answered(self) -> None:
        """Count the reply to a status check or estimate."""
        self.counters.checks += 1
        self.gate.pacer.rate.let_in(self.gate.loop.time())

    def check_failed(self, error: QwenEditError, sent_at: float) -> None:
        """Count a failed status check or estimate, and slow all requests if the service requires that."""
        self.counters.failed_checks += 1
        if isinstance(error, RateLimitError):
            self.counters.throttled += 1
            self.gate.pacer.rate.refused(self.gate.loop.time(), sent_at)
        self.gate.hold_back(error)
