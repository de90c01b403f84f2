"""``qwen-edit mcp`` serves the library's tools to an agent."""

from __future__ import annotations

import os
import sys

from qwen_edit_async.cli.command import check_key
from qwen_edit_async.cli.messages import ExitCode
from qwen_edit_async.cli.options import ConnectionOptions
from qwen_edit_async.cli.signals import end_input_on_termination
from qwen_edit_async.errors import ConfigurationError


def mcp() -> int:
    """Serve the tools edit_image, edit_folder and get_task to an agent, over standard input and output.

    QWEN_EDIT_MCP_FOLDER names the only folder that the agent may use. QWEN_EDIT_MCP_MAX_COST limits what the server
    spends until it exits. QWEN_EDIT_MCP_PRICE is the price of a picture, for services that do not state prices.
    """
    from qwen_edit_async.mcp import make_server  # noqa: PLC0415  # slow to import

    if sys.stdin is None:
        raise ConfigurationError("the standard input is closed: let an agent start the server")
    check_key(ConnectionOptions())
    server = make_server(os.environ)
    end_input_on_termination()
    server.run("stdio")
    return ExitCode.DONE
