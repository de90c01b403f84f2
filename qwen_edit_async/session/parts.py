"""The parts of an open session that submissions share."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from qwen_edit_async.events import EditEvent
from qwen_edit_async.session.gate import Gate
from qwen_edit_async.session.options import Options
from qwen_edit_async.session.poller import Poller
from qwen_edit_async.session.service import Service
from qwen_edit_async.statistics import SessionStatistics
from qwen_edit_async.threads import Offloader


@attrs.frozen(eq=False, kw_only=True)
class SessionParts:
    """The parts of an open session that submissions share.

    Attributes:
        service: The service to submit to.
        options: The session's options.
        gate: The gate that decides when submissions start and requests are sent.
        poller: The poller of the accepted tasks.
        offloader: The threads that read and encode images.
        counters: The session's counts.
        report: Called with each event of an edit; ``None`` if the session has no ``on_event``.
    """

    service: Service
    options: Options
    gate: Gate
    poller: Poller
    offloader: Offloader
    counters: SessionStatistics
    report: Callable[[EditEvent], None] | None
