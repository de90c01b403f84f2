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
    with Path(os.devnull).open("w", encoding="utf-8") as null:
        output, errors = _Output(sys.stdout, null), _Output(sys.stderr, null)
        with (
            contextlib.redirect_stdout(cast("TextIO", output)),
            contextlib.redirect_stderr(cast("TextIO", errors)),
        ):
            try:
                yield
            finally:
                output.flush()
                errors.flush()


class _Output:
    """A text stream that drops everything after a write error.

    Args:
        stream: The real stream, or ``None`` if the process was started without one.
        null: The null device, which replaces a stream that is missing or can't be written to.
    """

    def __init__(self, stream: TextIO | None, null: TextIO) -> None:
        self._stream = null if stream is None else stream
        self._null = null

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

    def _break(self) -> None:
        # Python flushes open streams at exit. If that failed, the exit code would be 120.
        with contextlib.suppress(OSError, ValueError):
            self._stream.close()
        self._stream = self._null
