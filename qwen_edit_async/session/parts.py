"""The parts of an open session that all its calls share."""

from __future__ import annotations

import asyncio
from typing import Any

import attrs

from qwen_edit_async.errors import QwenEditError, RateLimitError
from qwen_edit_async.events import EditEvent
from qwen_edit_async.http.api import Transport
from qwen_edit_async.log import about
from qwen_edit_async.protocol.base import WireProtocol
from qwen_edit_async.protocol.choice import Forms
from qwen_edit_async.session.gate import Gate
from qwen_edit_async.session.options import Options
from qwen_edit_async.statistics import SessionStatistics
from qwen_edit_async.threads import Offloader


@attrs.frozen(eq=False)
class SessionParts:
    """The parts of an open session.

    Attributes:
        forms: The forms of request bodies that the service may accept.
        offloader: The threads that read and encode images.
        form_trial: The lock that one submission holds while it tries the forms. Other submissions wait for it.
    """

    transport: Transport
    forms: Forms
    options: Options
    gate: Gate
    offloader: Offloader
    counters: SessionStatistics
    form_trial: asyncio.Lock = attrs.field(factory=asyncio.Lock, init=False)

    @property
    def protocol(self) -> WireProtocol:
        """The protocol, in the form to use."""
        return self.forms.protocol

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
