"""Standard streams that drop output after a write error, so that lost output never ends a run.

A write fails if a pipe's reader exits, a disk is full, a terminal closes, or a stream was never open. The command still
saves its results, and its exit code is still correct.
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
    """Drop output that can't be written to the standard streams, while the block runs."""
    with (
        contextlib.closing(_Output(sys.stdout)) as output,
        contextlib.closing(_Output(sys.stderr)) as errors,
        contextlib.redirect_stdout(cast("TextIO", output)),
        contextlib.redirect_stderr(cast("TextIO", errors)),
    ):
        yield


class _Output:
    """A text stream that writes to the null device after a write error.

    Args:
        stream: The real stream, or ``None`` if the process was started without one.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._null: TextIO | None = None
        self._stream = self._to_null() if stream is None else stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, with escapes for characters that the encoding lacks."""
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            return self.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError):  # ValueError: the stream is closed
            self._break()
        return len(text)

    def flush(self) -> None:
        """Write the buffered text."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._break()

    def close(self) -> None:
        """Flush the stream, but leave it open, because the caller owns it."""
        self.flush()
        if self._null is not None:
            self._null.close()

    def _break(self) -> None:
        # Python flushes open streams at exit. If that failed, the exit code would be 120.
        with contextlib.suppress(OSError, ValueError):
            self._stream.close()
        self._stream = self._to_null()

    def _to_null(self) -> TextIO:
        self._null = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # closed with this stream
        return self._null
