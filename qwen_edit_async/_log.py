"""The package's logger: silent unless the application, or the environment variable QWEN_EDIT_LOG, wants to hear it."""

from __future__ import annotations

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
    """Writes to the standard error stream of the moment: the command line and notebooks replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if sys.stderr is not None:
                sys.stderr.write(f"{self.format(record)}\n")
                sys.stderr.flush()
        except Exception:  # noqa: BLE001  # as every handler of the standard library does
            self.handleError(record)


class _OneLine(logging.Formatter):
    """A message may quote the service: it takes over no terminal, and no part of it looks like another message."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the standard library's name
        return visible(super().formatMessage(record)).replace("\n", r"\n")
