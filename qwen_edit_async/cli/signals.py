"""Ctrl-C and termination: both cancel the command's task, so that it ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import signal


def cancel_on_termination() -> None:
    """Cancel the running task on every SIGINT, SIGTERM and SIGHUP. Under ``nohup``, SIGHUP stays ignored.

    asyncio's own handler raises KeyboardInterrupt on the second Ctrl-C, inside whatever code runs on the loop. A step
    that is cut off there can make its waiters wait forever.
    """
    task = asyncio.current_task()
    if task is None:
        return
    # Windows lacks these handlers (NotImplementedError). Threads other than the main one can't set them: asyncio raises
    # RuntimeError, uvloop ValueError. In these cases Ctrl-C stays a KeyboardInterrupt.
    with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
        loop.add_signal_handler(signal.SIGINT, task.cancel)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            loop.add_signal_handler(signal.SIGHUP, task.cancel)
