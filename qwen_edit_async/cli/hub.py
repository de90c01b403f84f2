"""``qwen-edit hub`` makes edits for worker processes that share one account, over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import os
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from qwen_edit_async.cli.command import EMBEDDED_SERVICE, Command
from qwen_edit_async.cli.display import Screen, put
from qwen_edit_async.cli.messages import ExitCode
from qwen_edit_async.cli.options import ConnectionOptions, Output, SubmissionOptions
from qwen_edit_async.errors import ConfigurationError

if TYPE_CHECKING:
    from qwen_edit_async.session.session import EditSession

_TOKEN_VARIABLE = "QWEN_EDIT_HUB_TOKEN"  # noqa: S105  # a name, not a token
_SHORTEST_TOKEN = 16


def hub(
    *,
    output: Output,
    listen: str = "127.0.0.1:8788",
    concurrency: Annotated[int, Parameter(name=("--concurrency", "-c"))] = 16,
    submit_rate: float | None = None,
    max_cost: Decimal | None = None,
    max_tasks: int | None = None,
    submission: SubmissionOptions | None = None,
    connection: ConnectionOptions | None = None,
) -> int:
    """Make edits for worker processes that share one account, until Ctrl-C.

    A worker sends POST /edits with the fields of an edit as JSON (key, image, instruction, any parameter) and with
    "Authorization: Bearer TOKEN". The reply is the outcome. Sending an edit again costs nothing. Results are saved as
    in a batch, beside a journal. GET /pictures/NAME downloads a picture. Set QWEN_EDIT_HUB_TOKEN to the workers' token,
    at least 16 characters and not the API key.

    Args:
        output: The folder for the results and the journal.
        listen: A loopback or private address and a port. The connection is not encrypted. Port 0 takes a free port.
        concurrency: The most tasks in flight at a time, for all workers together.
        submit_rate: The most submissions per second (no limit).
        max_cost: Stop submitting before all edits of the folder could cost more than this amount.
        max_tasks: Stop submitting after this many tasks have been created for the folder.
        submission: Options for submissions.
        connection: Options for the connection.
    """
    from qwen_edit_async.batch.hub import EditHub  # noqa: PLC0415  # see the package's docstring
    from qwen_edit_async.batch.server import address_of, serve  # noqa: PLC0415  # see the package's docstring

    token, screen, submission = _token(), Screen(), submission or SubmissionOptions()
    address_of(listen)  # refuses a bad address before the session opens
    command = Command(screen, connection or ConnectionOptions(), submission, concurrency, output)
    command.submit_rate, command.journalled = submit_rate, True

    async def work(session: EditSession) -> int:
        edits = EditHub(
            output,
            session,
            max_cost=max_cost,
            max_tasks=max_tasks,
            resubmit_uncertain=submission.resubmit_uncertain,
            service=EMBEDDED_SERVICE if submission.emulator else "",
        )
        try:
            with contextlib.suppress(asyncio.CancelledError):  # Ctrl-C is the normal end
                async with serve(edits, listen, token) as url, edits:
                    put(url)
                    await edits.wait_failed()
        finally:
            for line in edits.report.text().splitlines() if edits.report is not None else ():
                screen.line(line, whole=True)
        return ExitCode.DONE

    return command(work)


def _token() -> str:
    token = os.environ.get(_TOKEN_VARIABLE, "").strip()
    if len(token) < _SHORTEST_TOKEN:
        raise ConfigurationError(
            f"{_TOKEN_VARIABLE} is missing or short: set a random text of at least {_SHORTEST_TOKEN} characters, "
            "here and for the workers"
        )
    if token in (value.strip() for name, value in os.environ.items() if name.endswith("_API_KEY")):
        raise ConfigurationError(f"{_TOKEN_VARIABLE} is the API key, which workers must not know: choose another text")
    return token
