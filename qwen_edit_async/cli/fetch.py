"""``qwen-edit fetch`` saves the pictures of a task that was submitted earlier."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qwen_edit_async.cli.command import Command, save_result
from qwen_edit_async.cli.display import Screen
from qwen_edit_async.cli.messages import ExitCode
from qwen_edit_async.cli.options import ConnectionOptions, Output

if TYPE_CHECKING:
    from qwen_edit_async.session.session import EditSession


def fetch(task_id: str, /, *, output: Output = Path(), connection: ConnectionOptions = ConnectionOptions()) -> int:
    """Wait for a task that was submitted earlier, and save its pictures.

    The pictures are saved as TASK_ID-0.png, TASK_ID-1.png and so on.

    Args:
        task_id: The task's id.
        output: The folder for the pictures.
        connection: Options for the connection.
    """
    command = Command(Screen(), connection, output=output)

    async def work(session: EditSession) -> int:
        await save_result(session, session.attach(task_id), output, command)
        return ExitCode.DONE

    return command(work)
