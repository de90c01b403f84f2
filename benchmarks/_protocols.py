"""The server of ``peers.py``: a task engine with the protocols of several services, as far as the clients use them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import attrs
from _server import process_with_pipe
from aiohttp import web

_RESULT_URL = "https://results.invalid/picture.png"
_CREATED = "2026-01-01T00:00:00.000Z"

Reply = dict[str, Any]


@attrs.define
class Counters:
    """Counts of the engine.

    Attributes:
        submits: Accepted submissions.
        checks: Answered status checks.
        completed: Tasks that a check has reported as completed.
        submissions: The distinct bodies of the submissions.
    """

    submits: int = 0
    checks: int = 0
    completed: int = 0
    submissions: set[str] = attrs.field(factory=set)


class Engine:
    """Completes each task at its ``checks``-th status check."""

    def __init__(self, checks: int) -> None:
        self.counters = Counters()
        self._checks = checks
        self._left: dict[str, int] = {}

    def submit(self, body: str) -> str:
        """Create a task, and return its id."""
        self.counters.submits += 1
        self.counters.submissions.add(body)
        task_id = f"task-{self.counters.submits}"
        self._left[task_id] = self._checks
        return task_id

    def check(self, task_id: str) -> bool:
        """Count a check, and return whether the task is completed."""
        self.counters.checks += 1
        self._left[task_id] -= 1
        if self._left[task_id]:
            return False
        del self._left[task_id]
        self.counters.completed += 1
        return True


@attrs.frozen
class Protocol:
    """The paths and replies of a service.

    Attributes:
        submit: Path that takes submissions.
        check: Path that takes status checks, with ``{id}``.
        accepted: Returns the reply to a submission, given the server's URL and the task's id.
        status: Returns the reply to a check, given the task's id and whether it is completed.
        result: Path and reply of a separate call for the result, if there is one.
    """

    submit: str
    check: str
    accepted: Callable[[str, str], Reply]
    status: Callable[[str, bool], Reply]
    result: tuple[str, Reply] | None = None


def _qwen_accepted(url: str, task_id: str) -> Reply:  # noqa: ARG001  # the protocols' common signature
    return {"id": task_id, "status": "in_progress", "model": "qwen_image_edit_plus", "created_at": 1767225600}


def _qwen_status(task_id: str, completed: bool) -> Reply:  # noqa: FBT001  # the protocols' common signature
    if not completed:
        return {"id": task_id, "status": "in_progress", "progress": 0.5}
    return {
        "id": task_id,
        "status": "completed",
        "output": [{"content": [{"type": "image", "url": _RESULT_URL}]}],
        "usage": {"cost": "0.0065", "quantity": 1},
    }


def _fal_accepted(url: str, task_id: str) -> Reply:
    request = f"{url}/bench/edit/requests/{task_id}"
    return {
        "request_id": task_id,
        "response_url": request,
        "status_url": f"{request}/status",
        "cancel_url": f"{request}/cancel",
        "queue_position": 0,
    }


def _fal_status(task_id: str, completed: bool) -> Reply:  # noqa: FBT001  # the protocols' common signature
    if not completed:
        return {"request_id": task_id, "status": "IN_PROGRESS", "logs": None}
    return {"request_id": task_id, "status": "COMPLETED", "logs": None, "metrics": {"inference_time": 0.1}}


def _replicate_accepted(url: str, task_id: str) -> Reply:
    return {
        "id": task_id,
        "model": "bench/edit",
        "version": "1",
        "status": "starting",
        "input": {},
        "output": None,
        "logs": "",
        "error": None,
        "metrics": None,
        "created_at": _CREATED,
        "started_at": None,
        "completed_at": None,
        "urls": {"get": f"{url}/v1/predictions/{task_id}", "cancel": f"{url}/v1/predictions/{task_id}/cancel"},
    }


def _replicate_status(task_id: str, completed: bool) -> Reply:  # noqa: FBT001  # the protocols' common signature
    reply = _replicate_accepted("", task_id)
    if not completed:
        return {**reply, "status": "processing", "started_at": _CREATED}
    return {**reply, "status": "succeeded", "output": [_RESULT_URL], "completed_at": _CREATED}


def _dashscope_accepted(url: str, task_id: str) -> Reply:  # noqa: ARG001  # the protocols' common signature
    return {"request_id": task_id, "output": {"task_id": task_id, "task_status": "PENDING"}}


def _dashscope_status(task_id: str, completed: bool) -> Reply:  # noqa: FBT001  # the protocols' common signature
    output: Reply = {"task_id": task_id, "task_status": "RUNNING", "submit_time": _CREATED}
    if completed:
        output |= {"task_status": "SUCCEEDED", "end_time": _CREATED, "results": [{"url": _RESULT_URL}]}
    return {"request_id": task_id, "output": output, **({"usage": {"image_count": 1}} if completed else {})}


PROTOCOLS = (
    Protocol("/model/v1/generation", "/model/v1/generation/task/{id}", _qwen_accepted, _qwen_status),
    Protocol(
        "/bench/edit",
        "/bench/edit/requests/{id}/status",
        _fal_accepted,
        _fal_status,
        result=("/bench/edit/requests/{id}", {"images": [{"url": _RESULT_URL, "content_type": "image/png"}]}),
    ),
    Protocol("/v1/models/bench/edit/predictions", "/v1/predictions/{id}", _replicate_accepted, _replicate_status),
    Protocol(
        "/api/v1/services/aigc/{service:.+}",
        "/api/v1/tasks/{id}{slash:/?}",
        _dashscope_accepted,
        _dashscope_status,
    ),
)


@attrs.frozen
class Server:
    """A running engine."""

    url: str
    _connection: Connection = attrs.field(repr=False)

    def counters(self) -> Counters:
        """Return the counts so far."""
        self._connection.send("counters")
        counters: Counters = self._connection.recv()
        return counters


@contextmanager
def serve(checks: int) -> Iterator[Server]:
    """Run an engine that speaks all protocols in a new process."""
    with process_with_pipe(_run, checks) as connection:
        yield Server(connection.recv(), connection)


def _run(connection: Connection, checks: int) -> None:
    asyncio.run(_serve(connection, Engine(checks)))


async def _serve(connection: Connection, engine: Engine) -> None:
    application = web.Application(client_max_size=2**24)
    for protocol in PROTOCOLS:
        _add_routes(application, engine, protocol)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    host, port = runner.addresses[0][:2]
    connection.send(f"http://{host}:{port}")
    # Clients that are stopped during a request are not errors of the server.
    logging.getLogger("aiohttp.server").disabled = True
    with contextlib.suppress(EOFError):
        while await asyncio.to_thread(connection.recv) == "counters":
            connection.send(engine.counters)
    await runner.cleanup()


def _add_routes(application: web.Application, engine: Engine, protocol: Protocol) -> None:
    async def submit(request: web.Request) -> web.Response:
        body = json.dumps(await request.json(), sort_keys=True)
        return web.json_response(protocol.accepted(f"http://{request.host}", engine.submit(body)))

    async def check(request: web.Request) -> web.Response:
        task_id = request.match_info["id"]
        return web.json_response(protocol.status(task_id, engine.check(task_id)))

    application.router.add_post(protocol.submit, submit)
    application.router.add_get(protocol.check, check)
    if protocol.result is not None:
        path, reply = protocol.result

        async def result(request: web.Request) -> web.Response:  # noqa: ARG001  # aiohttp's signature
            return web.json_response(reply)

        application.router.add_get(path, result)
