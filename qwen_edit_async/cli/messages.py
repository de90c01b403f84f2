"""Errors in the shell's words, and as exit codes."""

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

MISSING_KEY = (
    "there is no API key. Set it in the environment:\n"
    "  export QWEN_EDIT_API_KEY=…\n"
    "edit and batch need no key with --emulator: then an embedded service makes the pictures, not the model."
)

_SHELL_WORDS = (
    (r"session\.attach\('([^']+)'\)", r"qwen-edit fetch \1"),
    (r"let the session do so with fit=True", "use --fit"),
    (r"resubmit_uncertain(=True)?", "--resubmit-uncertain"),
    (r"overwrite=True", "--overwrite"),
    (r"name it in allow_result_hosts", "pass --allow-result-host NAME"),
    (r"recursive=True", "--recursive"),
    (r"trust_env=True", "--trust-env"),
    (r"\bmax_tasks\b", "--max-tasks"),
    (r"\bmax_cost\b", "--max-cost"),
    (r"\bstop_after_failures\b", "--stop-after-failures"),
    (r", or allow_insecure=True", ""),
)
"""Patterns of the library's words, and the shell's words for the same."""


class MissingKeyError(Exception):
    """The environment has no API key, or one that can't be right."""


_CREDENTIAL_ERRORS = (MissingKeyError, AuthenticationError, InsufficientBalanceError, PermissionDeniedError)
_USAGE_ERRORS = (ConfigurationError, InvalidEditError)


class ExitCode(enum.IntEnum):
    """The process's exit codes."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    CREDENTIALS = 3
    INTERRUPTED = 130


def exit_code(error: Exception) -> ExitCode:
    """Return the exit code of a command that an error ended."""
    if isinstance(error, _CREDENTIAL_ERRORS):
        return ExitCode.CREDENTIALS
    return ExitCode.USAGE if isinstance(error, _USAGE_ERRORS) else ExitCode.FAILED


def shell_text(error: Exception | str) -> str:
    """Return an error's text, with the command's options in place of the library's."""
    text = str(error) or type(error).__name__
    for pattern, words in _SHELL_WORDS:
        text = re.sub(pattern, words, text)
    return text


def error_as_json(error: Exception) -> dict[str, Any]:
    """Return an error as the JSON object that programs read."""
    return {
        "error": {
            "type": type(error).__name__,
            "message": shell_text(error),
            "task_id": getattr(error, "task_id", None),
            "code": getattr(error, "code", None),
        }
    }
