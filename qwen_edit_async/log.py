"""The package's logger: silent unless the application, or the environment variable QWEN_EDIT_LOG, wants to hear it."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Mapping

from qwen_edit_async.text import visible

LOG_VARIABLE = "QWEN_EDIT_LOG"

log = logging.getLogger("qwen_edit_async")


def configure_logging(environment: Mapping[str, str]) -> None:
    """Log to the standard error stream from the level that ``QWEN_EDIT_LOG`` names (``debug``, ``info``, …) on."""
    log.addHandler(logging.NullHandler())
    name = environment.get(LOG_VARIABLE, "").strip()
    if not name:
        return
    level = logging.getLevelNamesMapping().get(name.upper())
    handler = _ToStandardError()
    handler.setFormatter(_OneLine("%(asctime)s %(name)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.WARNING if level is None else level)
    if level is None:
        log.warning("%s is %.40r: set it to debug, info, warning, error or critical", LOG_VARIABLE, name)


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
