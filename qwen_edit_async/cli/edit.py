"""``qwen-edit edit`` makes one edit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs

from qwen_edit_async.cli.command import Command, save_result, showing
from qwen_edit_async.cli.display import Screen, print_json
from qwen_edit_async.cli.messages import ExitCode
from qwen_edit_async.cli.options import (
    AsJSON,
    ConnectionOptions,
    Instruction,
    Output,
    ParameterOptions,
    SubmissionOptions,
)
from qwen_edit_async.models import EditRequest
from qwen_edit_async.storage.paths import FilePath

if TYPE_CHECKING:
    from qwen_edit_async.session.results import EditResult
    from qwen_edit_async.session.session import EditSession

_NAME_CHARACTERS = 60


def edit(
    images: list[str],
    /,
    *,
    instruction: Annotated[str, Instruction],
    output: Output = Path(),
    as_json: AsJSON = False,
    parameters: ParameterOptions = ParameterOptions(),
    submission: SubmissionOptions = SubmissionOptions(),
    connection: ConnectionOptions = ConnectionOptions(),
) -> int:
    """Edit one to three pictures together.

    The results are saved as NAME-TASK_ID-0.png, NAME-TASK_ID-1.png and so on. NAME is the first picture's name
    without its extension.

    Args:
        images: Files or http(s) URLs. In the instruction, "image 2" means the second one. Without --size, the last
            image sets the aspect ratio of the result.
        instruction: The instruction, in Chinese or English, at most 800 characters.
        output: The folder for the results.
        as_json: Print the result or the error as one JSON object. Usage errors are printed as text.
        parameters: Parameters of the edit.
        submission: Options for submissions.
        connection: Options for the connection.
    """
    command = Command(Screen(), connection, submission, output=output, as_json=as_json)

    async def work(session: EditSession) -> int:
        request = EditRequest(images, instruction, parameters.parameters())
        async with showing(session, command.screen, lambda: "submitting"):
            task = await session.submit(request)
        result, paths = await save_result(session, task, output, command, _stem(images[0], task.id))
        if as_json:
            print_json(_as_json(result, paths))
        return ExitCode.DONE

    return command(work)


def _stem(image: str, task_id: str) -> str:
    from qwen_edit_async.batch.rules.identity import image_stem  # noqa: PLC0415  # slow to import

    return f"{(image_stem(image) or 'picture')[:_NAME_CHARACTERS]}-{task_id}"


def _as_json(result: EditResult, paths: tuple[FilePath, ...]) -> dict[str, Any]:
    cost = result.usage.cost
    return {
        "task_id": result.task_id,
        "files": [str(path) for path in paths],
        "usage": {"cost": None if cost is None else f"{cost:f}", "quantity": result.usage.quantity},
        "timings": {**attrs.asdict(result.timings), "total": result.timings.total},
        "notes": list(result.notes),
    }
