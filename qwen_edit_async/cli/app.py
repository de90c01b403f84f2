"""The command line: its commands, its help, its exit codes."""

from __future__ import annotations

from collections.abc import Sequence

import cyclopts

from qwen_edit_async.cli.batch import batch
from qwen_edit_async.cli.display import Screen
from qwen_edit_async.cli.edit import edit
from qwen_edit_async.cli.emulator import emulator
from qwen_edit_async.cli.fetch import fetch
from qwen_edit_async.cli.mcp import mcp
from qwen_edit_async.cli.messages import ExitCode, exit_code, shell_text
from qwen_edit_async.cli.status import status
from qwen_edit_async.errors import QwenEditError
from qwen_edit_async.version import __version__

_HELP = "Edit pictures with the hosted model qwen_image_edit_plus."
_EPILOGUE = """\
Environment
  QWEN_EDIT_API_KEY   the API key; no option takes it
  QWEN_EDIT_BASE_URL  the service's address
  QWEN_EDIT_LOG       log to the standard error stream, at a level such as info

Exit codes
  0    all done
  1    not all done: an edit failed or is uncertain, or a limit was reached;
       in a dry run: a row is bad
  2    wrong usage, or a bad row with --strict; nothing was sent
  3    the key is refused or the balance is too low
  130  interrupted; running tasks are printed by edit, journalled by batch"""

_LONGEST_ERROR = 500


def _error_panel(error: cyclopts.CycloptsError) -> object:
    """Describe wrong usage, without quoting long arguments in full."""
    text = str(error)
    if isinstance(error, cyclopts.UnusedCliTokensError) and error.command_chain == ("batch",):
        sources = len(error.unused_tokens or ()) + 1
        text = f'batch takes one source, not {sources}: put a pattern into quotes, such as "photos/*.jpg"'
    return cyclopts.CycloptsPanel(text if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]}…")


_app = cyclopts.App(
    name="qwen-edit",
    help=_HELP,
    help_epilogue=_EPILOGUE,
    help_format="plaintext",
    version=__version__,
    error_formatter=_error_panel,
    suppress_keyboard_interrupt=False,
)
_app.command(edit, sort_key=1)
_app.command(batch, sort_key=2)
_app.command(status, sort_key=3)
_app.command(fetch, sort_key=4)
_app.command(emulator, sort_key=5)
_app.command(mcp, sort_key=6)


def run(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code."""
    try:
        code = _app(list(arguments), exit_on_error=False, result_action="return_value")
    except cyclopts.CycloptsError:
        return ExitCode.USAGE  # cyclopts has printed the error
    except (QwenEditError, OSError) as error:
        Screen().error(shell_text(error))
        return ExitCode.USAGE if isinstance(error, OSError) else exit_code(error)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    return int(code or ExitCode.DONE)
