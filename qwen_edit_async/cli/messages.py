"""The exit codes, and the errors that lead to them."""

from __future__ import annotations

import enum

from qwen_edit_async.errors import (
    AuthenticationError,
    ConfigurationError,
    InsufficientBalanceError,
    InvalidEditError,
    PermissionDeniedError,
)

MISSING_KEY = (
    "there is no API key. Set it in the environment:\n"
    "  export {variable}=…\n"
    "With --emulator, the commands edit and batch need no key: the emulator, not the model, makes the pictures."
)


class MissingKeyError(Exception):
    """The environment has no API key, or its key is invalid."""


class ExitCode(enum.IntEnum):
    """The process's exit codes."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    CREDENTIALS = 3
    INTERRUPTED = 130


def exit_code(error: Exception) -> ExitCode:
    """Return the exit code for a command's final error."""
    if isinstance(error, MissingKeyError | AuthenticationError | InsufficientBalanceError | PermissionDeniedError):
        return ExitCode.CREDENTIALS
    return ExitCode.USAGE if isinstance(error, ConfigurationError | InvalidEditError) else ExitCode.FAILED
