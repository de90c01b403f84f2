"""The package's logger: silent unless the application, or the environment variable QWEN_EDIT_LOG, wants to hear it."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Mapping

from ._markup import visible

LOG_VARIABLE = "QWEN_EDIT_LOG"

log = logging.getLogger("qwen_edit_async")


def configure_logging(environment: Mapping[str, str]) -> None:
    """Log to the standard error stream from the level that ``QWEN_EDIT_LOG`` names (``debug``, ``info``, …) on."""
    log.addHandler(logging.NullHandler())
    level = logging.getLevelNamesMapping().get(environment.get(LOG_VARIABLE, "").strip().upper())
    if level is not None:
        handler = _ToStandardError()
        handler.setFormatter(_OneLine("%(asctime)s %(name)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(level)


class _ToStandardError(logging.Handler):
    """Writes to the current standard error stream, which commands and notebooks replace; one that breaks is ignored."""

    def emit(self, record: logging.LogRecord) -> None:
        line = f"{self.format(record)}\n"
        with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed
            if sys.stderr is not None:
                sys.stderr.write(line)
                sys.stderr.flush()


class _OneLine(logging.Formatter):
    """A message may quote the service: it takes over no terminal, and no part of it looks like another message."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the standard library's name
        return visible(super().formatMessage(record)).replace("\n", r"\n")
