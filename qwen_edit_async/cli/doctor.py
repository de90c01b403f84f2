"""``qwen-edit doctor`` checks a set-up and gives advice."""

from __future__ import annotations

import asyncio
from typing import Final

import attrs

from qwen_edit_async.cli.display import print_json, print_output
from qwen_edit_async.cli.messages import ExitCode
from qwen_edit_async.cli.options import AsJSON, ConnectionOptions
from qwen_edit_async.text import visible

_MARKS: Final = {True: "ok", False: "BAD", None: "?"}


def doctor(*, as_json: AsJSON = False, connection: ConnectionOptions = ConnectionOptions()) -> int:
    """Check the key, the connection and the service's replies. The checks create no task and cost nothing.

    The exit code is 0 if nothing is wrong, and 2 if the configuration is wrong. It is 3 if the key is missing or
    refused, or if the balance is too low. For any other problem, it is 1.

    Args:
        as_json: Print the findings as JSON.
        connection: Options for the connection.
    """
    from qwen_edit_async.cli.checks import examine  # noqa: PLC0415  # slow to import

    findings = asyncio.run(examine(connection))
    wrong = [each.check for each in findings if each.ok is False]
    if as_json:
        print_json({"ok": not wrong, "checks": [attrs.asdict(each) for each in findings]})
    else:
        for each in findings:
            print_output(visible(f"{_MARKS[each.ok]:<4} {each.check:<14} {each.found}"))
            if each.advice:
                print_output(visible(f"{'':<19} -> {each.advice}"))
    codes = {"configuration": ExitCode.USAGE, "key": ExitCode.CREDENTIALS}
    return codes.get(wrong[0], ExitCode.FAILED) if wrong else ExitCode.DONE
