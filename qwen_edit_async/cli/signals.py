"""Signal handlers: Ctrl-C and termination cancel the asyncio task of a command, so that the command can clean up."""

from __future__ import annotations

import asyncio
import contextlib
import signal


def cancel_on_termination() -> None:
    """Cancel the running asyncio task on every SIGINT, SIGTERM and SIGHUP. Under ``nohup``, ignore SIGHUP.

    The new SIGINT handler replaces asyncio's own. On a second Ctrl-C, asyncio's handler would raise KeyboardInterrupt
    in whatever code is running. Other code could then wait forever for the interrupted code.
    """
    task = asyncio.current_task()
    if task is None:
        return
    # If no handler can be set, the earlier handlers remain. On Windows, the loop raises NotImplementedError.
    # Outside the main thread, asyncio raises RuntimeError, and uvloop ValueError.
    with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
        loop.add_signal_handler(signal.SIGINT, task.cancel)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            loop.add_signal_handler(signal.SIGHUP, task.cancel)
