"""``qwen-edit hub`` is an HTTP server that makes edits for worker processes that share one account."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

from qwen_edit_async.cli.command import Command
from qwen_edit_async.cli.display import Screen, print_output
from qwen_edit_async.cli.messages import ExitCode
from qwen_edit_async.cli.options import ConnectionOptions, HubOptions, Output, SubmissionOptions
from qwen_edit_async.errors import ConfigurationError

if TYPE_CHECKING:
    from qwen_edit_async.session.session import EditSession

_TOKEN_VARIABLE = "QWEN_EDIT_HUB_TOKEN"  # noqa: S105  # a name, not a token
_SHORTEST_TOKEN = 16


def hub(
    *,
    output: Output,
    options: HubOptions = HubOptions(),
    submission: SubmissionOptions = SubmissionOptions(),
    connection: ConnectionOptions = ConnectionOptions(),
) -> int:
    """Make edits for worker processes that share one account, until Ctrl-C.

    A worker sends POST /edits with the fields of an edit as JSON (key, image, instruction, any parameter) and with
    the header "Authorization: Bearer TOKEN". The reply is the outcome. An edit that is sent again is not paid for
    twice, except with --resubmit-uncertain. The hub saves results and keeps a journal, like a batch. GET /pictures/NAME
    returns the picture with that file name. Set QWEN_EDIT_HUB_TOKEN to the token that the workers send. The token needs
    at least 16 characters and must not be an API key.

    Args:
        output: The folder for the results and the journal.
        options: Options for the address and the limits.
        submission: Options for submissions.
        connection: Options for the connection.
    """
    from qwen_edit_async.batch.hub import EditHub  # noqa: PLC0415  # slow to import
    from qwen_edit_async.batch.server import address_of, load_certificate, serve  # noqa: PLC0415  # slow to import

    token = _token()
    address_of(options.listen)  # refuses a bad address before the session opens
    certificate = None if options.certificate is None else load_certificate(options.certificate)
    command = Command(
        Screen(), connection, submission, options.concurrency, output, submit_rate=options.submit_rate, journalled=True
    )

    async def work(session: EditSession) -> int:
        edits = EditHub(
            output,
            session,
            max_cost=options.max_cost,
            price=options.price,
            max_tasks=options.max_tasks,
            resubmit_uncertain=submission.resubmit_uncertain,
            service=submission.service,
        )
        try:
            with contextlib.suppress(asyncio.CancelledError):  # Ctrl-C is the normal end
                async with serve(edits, options.listen, token, certificate) as url, edits:
                    print_output(url)
                    await edits.wait_failed()
        finally:
            for line in edits.report.text().splitlines() if edits.report is not None else ():
                command.screen.line(line, whole=True)
        return ExitCode.DONE

    return command(work)


def _token() -> str:
    token = os.environ.get(_TOKEN_VARIABLE, "").strip()
    if len(token) < _SHORTEST_TOKEN:
        raise ConfigurationError(
            f"{_TOKEN_VARIABLE} is missing or too short: set it to {_SHORTEST_TOKEN} or more random characters, "
            "here and for the workers"
        )
    if token in (value.strip() for name, value in os.environ.items() if name.endswith("_API_KEY")):
        raise ConfigurationError(f"{_TOKEN_VARIABLE} is an API key, which workers must not know: choose another token")
    return token
