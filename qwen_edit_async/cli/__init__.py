"""The ``qwen-edit`` command.

Exit codes: 0 all done; 1 not all; 2 wrong usage, nothing was sent; 3 the key or the balance; 130 interrupted.

::

    main ──► app             commands, help, exit codes of wrong usage
             edit  batch  status  fetch  emulator         one file a command
             runner          signals, the session, what is said at the end
             display         what people see            messages     errors in the shell's words
             output          streams that break without ending a run
             options         options that commands share

What a command needs of the library is imported when it runs, so that ``--help`` is quick.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from qwen_edit_async.cli.output import unbreakable_output

_USAGE = 2
_INTERRUPTED = 130
_EXTRA = frozenset({"cyclopts", "rich", "PIL"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, by default the process's own, and return its exit code."""
    with unbreakable_output():
        return _main(sys.argv[1:] if arguments is None else arguments)


def _main(arguments: Sequence[str]) -> int:
    try:
        from qwen_edit_async.cli.app import run  # noqa: PLC0415  # the extra may be missing

        return run(arguments)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        print(f'error: this needs {error.name}: pip install "qwen-edit-async[cli]"', file=sys.stderr)  # noqa: T201  # rich may be what is missing
        return _USAGE
    except KeyboardInterrupt:  # while the imports ran
        return _INTERRUPTED
