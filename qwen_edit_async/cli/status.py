"""``qwen-edit status`` prints the state of a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qwen_edit_async.cli.command import Command
from qwen_edit_async.cli.display import Screen, print_json, print_output
from qwen_edit_async.cli.messages import ExitCode
from qwen_edit_async.cli.options import AsJSON, ConnectionOptions
from qwen_edit_async.tasks import TaskSnapshot, TaskStatus
from qwen_edit_async.text import visible

if TYPE_CHECKING:
    from qwen_edit_async.session.session import EditSession


def status(task_id: str, /, *, as_json: AsJSON = False, connection: ConnectionOptions = ConnectionOptions()) -> int:
    """Print the state of a task. The exit code is 1 if the task failed.

    Args:
        task_id: The task's id.
        as_json: Print the service's whole reply.
        connection: Options for the connection.
    """

    async def work(session: EditSession) -> int:
        snapshot = await session.status(task_id)
        if as_json:
            print_json(dict(snapshot.raw))
        else:
            print_output(visible(_describe(snapshot)))
        return ExitCode.FAILED if snapshot.status is TaskStatus.FAILED else ExitCode.DONE

    return Command(Screen(), connection)(work)


def _describe(snapshot: TaskSnapshot) -> str:
    lines = [("task", snapshot.task_id), ("status", snapshot.status_word or snapshot.status.value)]
    if snapshot.progress is not None:
        lines.append(("progress", f"{snapshot.progress:.0%}"))
    if snapshot.failure is not None:
        code = "" if snapshot.failure.code is None else f" (code {snapshot.failure.code})"
        lines.append(("reason", f"{snapshot.failure.message}{code}"))
    if snapshot.usage.cost is not None:
        lines.append(("cost", f"{snapshot.usage.cost:f}"))
    lines += [("picture", url) for url in snapshot.urls]
    return "\n".join(f"{name:<9} {value}" for name, value in lines)
