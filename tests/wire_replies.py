"""Helpers that read the bodies of calls, make replies, and read snapshots from the replies."""

from __future__ import annotations

import json
from typing import Any

from qwen_edit_async.protocol.base import Call, Reply
from qwen_edit_async.protocol.generation import GenerationProtocol
from qwen_edit_async.tasks import TaskSnapshot, TaskStatus

FLAT = GenerationProtocol("flat")


PARAMS = GenerationProtocol("params")

TASK = TaskSnapshot(task_id="task-1", status=TaskStatus.UNKNOWN)


def sent(call: Call, *images: str) -> Any:
    """Return the JSON of a call's body, with the images between the body's parts."""
    assert len(call.parts) == len(images) + 1
    pieces = [part + image.encode() for part, image in zip(call.parts, (*images, ""), strict=True)]
    return json.loads(b"".join(pieces))


def reply(document: object, status: int = 200, **headers: str) -> Reply:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status=status, headers=names, body=json.dumps(document).encode())


def created(document: object, status: int = 200) -> TaskSnapshot:
    return FLAT.read_submission(reply(document, status))


def asked(**members: object) -> TaskSnapshot:
    return FLAT.read_status(reply({"status": "in_progress", **members}), TASK)
