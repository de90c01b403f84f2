"""The standard streams while a command runs: what they can't take is dropped, so that output never ends a run.

A pipe's reader leaves, a disk is full, a terminal is closed, a stream was never open: what was paid for is saved all
the same, and the exit code stays true.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, cast


@contextlib.contextmanager
def unbreakable_output() -> Iterator[None]:
    """Let the standard output and error streams drop what they can't write while the block runs."""
    with (
        contextlib.closing(_Output(sys.stdout)) as output,
        contextlib.closing(_Output(sys.stderr)) as errors,
        contextlib.redirect_stdout(cast("TextIO", output)),
        contextlib.redirect_stderr(cast("TextIO", errors)),
    ):
        yield


class _Output:
    """A text stream that becomes the null device when it breaks.

    Args:
        stream: The real stream; ``None`` if the process was started without it.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._null: TextIO | None = None
        self._stream = self._to_null() if stream is None else stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text; characters that the encoding lacks are escaped."""
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            return self.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError):  # ValueError: it is closed
            self._break()
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._break()

    def close(self) -> None:
        """Flush the stream, and leave it open for whoever made it."""
        self.flush()
        if self._null is not None:
            self._null.close()

    def _break(self) -> None:
        # Closing drops the buffered text. Otherwise Python would try to write it at exit, and make the exit code 120.
        with contextlib.suppress(OSError, ValueError):
            self._stream.close()
        self._stream = self._to_null()

    def _to_null(self) -> TextIO:
        self._null = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # closed with this stream
        return self._null
