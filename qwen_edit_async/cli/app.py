"""Runs a ``qwen-edit`` command, reports its errors, and returns the exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, cast

import cyclopts

from qwen_edit_async.cli.help import COMMANDS
from qwen_edit_async.cli.messages import ExitCode, MissingKeyError, exit_code
from qwen_edit_async.errors import QwenEditError
from qwen_edit_async.text import visible
from qwen_edit_async.version import __version__

_LONGEST_ERROR = 500

_app = cyclopts.App(
    name="qwen-edit",
    help_format="plaintext",
    version=__version__,
    suppress_keyboard_interrupt=False,
    error_console=cast("Any", sys.stderr),  # never used; the default console would import rich
)
for _name in COMMANDS:
    _app.command(f"qwen_edit_async.cli.{_name}:{_name}", name=_name)
_app.register_install_completion_command()


def run(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code."""
    try:
        code = _app(list(arguments), exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.CycloptsError as error:
        print(f"error: {visible(_wrong_usage(error))}", file=sys.stderr)  # noqa: T201  # rich is slow to import
        return ExitCode.USAGE
    except (MissingKeyError, QwenEditError, OSError) as error:
        from qwen_edit_async.cli.display import Screen  # noqa: PLC0415  # rich is slow to import

        Screen().error(str(error))
        return ExitCode.USAGE if isinstance(error, OSError) else exit_code(error)
    return int(code or ExitCode.DONE)


def _wrong_usage(error: cyclopts.CycloptsError) -> str:
    if isinstance(error, cyclopts.UnusedCliTokensError) and error.command_chain == ("batch",):
        sources = len(error.unused_tokens or ()) + 1
        return f'batch takes one source, not {sources}: put a pattern into quotes, such as "photos/*.jpg"'
    text = str(error).strip()
    return text if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]}…"
