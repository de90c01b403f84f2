"""The ``qwen-edit`` command.

::

    main ──► help            the top-level help
             app             the lookup of a command, and usage errors
             edit  batch  hub  status  fetch  doctor  emulator  mcp    one command each
             checks          the checks of doctor
             command         a command's session, errors and unfinished tasks
             signals         Ctrl-C and termination
             display         results, notes, warnings, the progress bar
             messages        exit codes, and the error for a missing key
             options         options that commands share
             output          standard streams that survive write errors

Commands import slow modules, such as the session and rich, only when needed, so that ``--help`` and usage errors appear
quickly.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from qwen_edit_async.cli.help import HELP
from qwen_edit_async.cli.messages import ExitCode
from qwen_edit_async.cli.output import unbreakable_output

_EXTRAS = {"cyclopts": "cli", "rich": "cli", "PIL": "cli", "mcp": "mcp"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. By default, use the process's arguments."""
    arguments = sys.argv[1:] if arguments is None else arguments
    with unbreakable_output():
        if not arguments or arguments[0] in {"-h", "--help"}:
            print(HELP)  # noqa: T201  # rich is slow to import
            return ExitCode.DONE
        try:
            from qwen_edit_async.cli.app import run  # noqa: PLC0415  # the extra may be missing

            return run(arguments)
        except ModuleNotFoundError as error:
            extra = _EXTRAS.get((error.name or "").partition(".")[0])
            if extra is None:
                raise
            print(f'error: this command needs {error.name}: pip install "qwen-edit-async[{extra}]"', file=sys.stderr)  # noqa: T201  # rich may be missing
            return ExitCode.USAGE
        except KeyboardInterrupt:
            return ExitCode.INTERRUPTED
