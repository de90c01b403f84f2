"""The list of commands and the top-level help. This module imports nothing slow."""

from __future__ import annotations

from typing import Final

COMMANDS: Final = {
    "edit": "Edit one to three pictures together.",
    "batch": "Edit many pictures.",
    "hub": "Make edits for worker processes that share one account, until Ctrl-C.",
    "status": "Print the state of a task. The exit code is 1 if the task failed.",
    "fetch": "Wait for a task that was submitted earlier, and save its pictures.",
    "doctor": "Check the key, the connection and the service's replies. The checks create no task and cost nothing.",
    "emulator": "Run an emulator of the service on this machine until Ctrl-C.",
    "mcp": "Serve the tools edit_image, edit_folder and get_task to an agent, over standard input and output.",
}
"""Each command's name and the first line of its help. The command's module and function have the command's name."""

_LINES: Final = "\n".join(f"  {name:<10}{line}" for name, line in COMMANDS.items())

HELP: Final = f"""\
Usage: qwen-edit COMMAND

Edit pictures with the hosted model qwen_image_edit_plus.

Commands
{_LINES}

  -h, --help            show this help; after a command, show the command's help
  --version             show the version
  --install-completion  make the shell complete commands and options

Environment
  QWEN_EDIT_API_KEY   the API key (for dashscope, DASHSCOPE_API_KEY); there is no option for the key
  QWEN_EDIT_BASE_URL  the service's address
  QWEN_EDIT_PROTOCOL  the default of --protocol: generation, queue or dashscope
  QWEN_EDIT_HUB_TOKEN the token that a hub's workers send
  QWEN_EDIT_LOG       the log level on the standard error stream, such as info

Exit codes
  0    all done
  1    not all done: an edit failed or is uncertain, or a limit was reached;
       in a dry run: a row is bad
  2    wrong usage, or a bad row with --strict; nothing was sent
  3    the key is missing or refused, or the balance is too low
  130  interrupted; running tasks are printed (edit) or recorded (batch)"""
