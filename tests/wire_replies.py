"""Replies of the service, and the snapshots that the documented dialect reads from them."""

from __future__ import annotations

import json

from qwen_edit_async.models import TaskSnapshot, TaskStatus
from qwen_edit_async.protocol.base import Reply
from qwen_edit_async.protocol.generation import GenerationProtocol

FLAT = GenerationProtocol("flat")


PARAMS = GenerationProtocol("params")

TASK = TaskSnapshot(task_id="task-1", status=TaskStatus.UNKNOWN)


def reply(document: object, status: int = 200, **headers: str) -> Reply:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status=status, headers=names, body=json.dumps(document).encode())


def created(document: object, status: int = 200) -> TaskSnapshot:
    return FLAT.read_submission(reply(document, status))


def asked(**members: object) -> TaskSnapshot:
    return FLAT.read_status(reply({"status": "in_progress", **members}), TASK)
