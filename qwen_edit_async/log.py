"""The package's logger. It is silent unless the application or ``QWEN_EDIT_LOG`` in the environment enables it."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Mapping

from qwen_edit_async.text import visible

LOG_VARIABLE = "QWEN_EDIT_LOG"

log: logging.Logger = logging.getLogger("qwen_edit_async")
"""The logger. Its records have the attribute ``task_id``, which is ``None`` if a message is not about one task."""


def about(task_id: str | None) -> logging.LoggerAdapter[logging.Logger]:
    """Return a logger for messages about a task. The records have the task's id as ``task_id``."""
    return logging.LoggerAdapter(log, {"task_id": task_id})


def _with_task_id(record: logging.LogRecord) -> bool:
    record.__dict__.setdefault("task_id", None)
    return True


log.addFilter(_with_task_id)


def configure_logging(environment: Mapping[str, str]) -> None:
    """Log to standard error if ``QWEN_EDIT_LOG`` is set. Its value is a level (``debug``, ``info``, …)."""
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
    """Writes to the current ``sys.stderr``, which commands and notebooks replace. Ignores write errors."""

    def emit(self, record: logging.LogRecord) -> None:
        line = f"{self.format(record)}\n"
        with contextlib.suppress(OSError, ValueError):  # ValueError: the stream is closed
            if sys.stderr is not None:
                sys.stderr.write(line)
                sys.stderr.flush()


class _OneLine(logging.Formatter):
    """Formats each message as one line without control characters, because a message may quote the service."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the standard library's name
        return visible(super().formatMessage(record)).replace("\n", r"\n")
