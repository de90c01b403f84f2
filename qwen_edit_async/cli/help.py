"""The commands, and the help of the command line as a whole, which imports nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

COMMANDS: Final = {
    "edit": "Edit one to three pictures together.",
    "batch": "Edit many pictures.",
    "hub": "Make the edits that workers in other processes ask for, until Ctrl-C.",
    "status": "Print the state of a task. The exit code is 1 if the task failed.",
    "fetch": "Wait for a task that was submitted earlier, and save its pictures.",
    "doctor": "Check the key, the connection and the service's answers. This creates no task and costs nothing.",
    "emulator": "Run the embedded service on this machine until Ctrl-C.",
    "mcp": "Serve the tools edit_image, edit_folder and get_task to an agent, over standard input and output.",
}
"""The first line of each command's help. The command is the function of its name in the module of its name."""

_HELP: Final = """\
Usage: qwen-edit COMMAND

Edit pictures with the hosted model qwen_image_edit_plus.

Commands
{commands}

  -h, --help            show this help; after a command: its own
  --version             show the version
  --install-completion  make the shell complete commands and options

Environment
  QWEN_EDIT_API_KEY   the API key; no option takes it
  QWEN_EDIT_BASE_URL  the service's address
  QWEN_EDIT_HUB_TOKEN the token of a hub's workers
  QWEN_EDIT_LOG       log to the standard error stream, at a level such as info

Exit codes
  0    all done
  1    not all done: an edit failed or is uncertain, or a limit was reached;
       in a dry run: a row is bad
  2    wrong usage, or a bad row with --strict; nothing was sent
  3    the key is refused or the balance is too low
  130  interrupted; running tasks are printed by edit, journalled by batch"""


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Return whether the arguments ask for the help of the command line as a whole."""
    return not arguments or arguments[0] in {"-h", "--help"}


def help_text() -> str:
    """Return the help of the command line as a whole."""
    return _HELP.format(commands="\n".join(f"  {name:<10}{line}" for name, line in COMMANDS.items()))
