"""Errors in the words of the shell, and as exit codes."""

from __future__ import annotations

import enum
import re
from typing import Any

from qwen_edit_async.errors import (
    AuthenticationError,
    ConfigurationError,
    InsufficientBalanceError,
    InvalidEditError,
    PermissionDeniedError,
)

CREDENTIAL_ERRORS = (AuthenticationError, InsufficientBalanceError, PermissionDeniedError)

MISSING_KEY = (
    "there is no API key. Set it in the environment:\n"
    "  export QWEN_EDIT_API_KEY=…\n"
    "edit and batch need none with --emulator, which makes the pictures with an embedded service instead of the model."
)

_FOR_THE_SHELL = (
    (re.compile(r"session\.attach\('([^']+)'\)"), r"qwen-edit fetch \1"),
    (re.compile(r"let the session do so with fit=True"), "use --fit"),
    (re.compile(r"resubmit_uncertain(=True)?"), "--resubmit-uncertain"),
    (re.compile(r"overwrite=True"), "--overwrite"),
    (re.compile(r"name it in allow_result_hosts"), "pass --allow-result-host NAME"),
    (re.compile(r"recursive=True"), "--recursive"),
    (re.compile(r"trust_env=True"), "--trust-env"),
    (re.compile(r"\bmax_tasks\b"), "--max-tasks"),
    (re.compile(r"\bmax_cost\b"), "--max-cost"),
    (re.compile(r"\bstop_after_failures\b"), "--stop-after-failures"),
    (re.compile(r", or allow_insecure=True"), ""),
)


class ExitCode(enum.IntEnum):
    """What the process says to the shell."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    CREDENTIALS = 3
    INTERRUPTED = 130


def exit_code(error: Exception) -> ExitCode:
    """The exit code of a command that this error ended."""
    if isinstance(error, CREDENTIAL_ERRORS):
        return ExitCode.CREDENTIALS
    if isinstance(error, ConfigurationError | InvalidEditError):
        return ExitCode.USAGE
    return ExitCode.FAILED


def plain(error: Exception | str) -> str:
    """What an error says, with the command's options where the library's are meant."""
    text = str(error) or type(error).__name__
    for pattern, words in _FOR_THE_SHELL:
        text = pattern.sub(words, text)
    return text


def error_as_json(error: Exception) -> dict[str, Any]:
    """An error for programs."""
    return {
        "error": {
            "type": type(error).__name__,
            "message": plain(error),
            "task_id": getattr(error, "task_id", None),
            "code": getattr(error, "code", None),
        }
    }
