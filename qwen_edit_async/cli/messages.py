"""Error messages for shell users, and exit codes."""

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
    "With --emulator, edit and batch need no key, because an embedded service makes the pictures, not the model."
)

_SHELL_WORDS = {
    "let the session do so with fit=True": "use --fit",
    "name it in allow_result_hosts": "pass --allow-result-host NAME",
    "max_cost": "--max-cost",
    "max_tasks": "--max-tasks",
    "give the price of a picture yourself": "give the price of a picture with --price",
    "overwrite=True": "--overwrite",
    "recursive=True": "--recursive",
    "resubmit_uncertain": "--resubmit-uncertain",
    "resubmit_uncertain=True": "--resubmit-uncertain",
    "stop_after_failures": "--stop-after-failures",
    "trust_env=True": "--trust-env",
    ", or allow_insecure=True": "",
}
"""The library's advice, and the shell's words for the same advice."""

_LIBRARY_WORDS = re.compile("|".join(map(re.escape, sorted(_SHELL_WORDS, reverse=True))))  # longest first
_ATTACH = re.compile(r"session\.attach\('([^']+)'\)")


class MissingKeyError(Exception):
    """The environment has no API key, or an invalid key."""


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
    """Return the exit code for a command's final error."""
    if isinstance(error, _CREDENTIAL_ERRORS):
        return ExitCode.CREDENTIALS
    return ExitCode.USAGE if isinstance(error, _USAGE_ERRORS) else ExitCode.FAILED


def shell_text(error: Exception | str) -> str:
    """Return an error's text, with the library's calls and arguments replaced by commands and options."""
    text = _ATTACH.sub(r"qwen-edit fetch \1", str(error) or type(error).__name__)
    return _LIBRARY_WORDS.sub(lambda found: _SHELL_WORDS[found[0]], text)


def error_as_json(error: Exception) -> dict[str, Any]:
    """Return an error as a JSON object for programs."""
    return {
        "error": {
            "type": type(error).__name__,
            "message": shell_text(error),
            "task_id": getattr(error, "task_id", None),
            "code": getattr(error, "code", None),
        }
    }
