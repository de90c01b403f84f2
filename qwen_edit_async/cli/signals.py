"""Signal handlers: after Ctrl-C and termination, a command cleans up before it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading


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


def end_input_on_termination() -> None:
    """End the standard input on every SIGINT, SIGTERM and SIGHUP. A signal that was ignored stays ignored.

    A server that reads its standard input on a thread can't be cancelled, because nothing ends the thread's read. So
    the server reads from a pipe, and a signal ends the pipe.
    """
    source, end = os.dup(0), os.open(os.devnull, os.O_WRONLY)
    reader, writer = os.pipe()
    os.dup2(reader, 0)
    os.close(reader)

    def end_input(*_: object) -> None:
        os.dup2(end, writer)

    def copy() -> None:
        with contextlib.suppress(OSError):  # the server has ended, or the terminal has closed
            while chunk := os.read(source, 65536):
                os.write(writer, chunk)
        end_input()

    threading.Thread(target=copy, name="qwen-edit-input", daemon=True).start()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end_input)
