"""The state of a session: not open yet, open, or closed."""

from __future__ import annotations

import attrs

from qwen_edit_async.errors import SessionClosedError
from qwen_edit_async.session.options import Options
from qwen_edit_async.session.runtime import Runtime
from qwen_edit_async.session.service import Service


@attrs.define(eq=False)
class SessionState:
    """The state of a session, shared with the sessions that :meth:`EditSession.with_options` returns.

    Attributes:
        runtime: The runtime of the session; ``None`` until the session is opened.
        closed: Whether the session is closed, or could not be opened.
    """

    runtime: Runtime | None = None
    closed: bool = False

    async def open(self, service: Service, options: Options) -> None:
        """Open the session on the running event loop.

        Raises:
            SessionClosedError: The session was opened or closed before.
        """
        if self.runtime is not None or self.closed:
            raise SessionClosedError("a session can be opened only once: create another")
        self.runtime = Runtime(service, options)
        try:
            await self.runtime.start()
        except BaseException:  # also a cancellation: a half-open session must not be used
            self.closed = True
            raise

    def require_open(self) -> Runtime:
        """Return the runtime of the open session.

        Raises:
            SessionClosedError: The session is not open, or belongs to another process or event loop.
        """
        if self.closed:
            raise SessionClosedError("the session is closed: create another")
        if self.runtime is None:
            raise SessionClosedError("the session is not open: use `async with`, or await session.open()")
        self.runtime.require_running()
        return self.runtime

    async def close(self, *, cancel: bool) -> None:
        """Close the session. Without ``cancel``, first wait for all unfinished calls."""
        if self.runtime is not None:
            self.runtime.require_own_loop()
        closing, self.closed = self.closed, True
        if self.runtime is not None:
            await (self.runtime.wait_closed() if closing else self.runtime.close(cancel=cancel))

    def __del__(self) -> None:
        if self.runtime is not None and not self.closed:
            self.runtime.warn_unclosed()
