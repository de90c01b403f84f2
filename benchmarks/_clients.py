"""Clients of ``peers.py`` that use this service's own protocol: the library, and hand-written loops."""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import aiohttp
import attrs
from _measure import Cost, metered

from qwen_edit_async import EditRequest, EditSession, EditWarning, FixedInterval

API_KEY = "benchmark"
INSTRUCTION = "make it snow"
IMAGE_URL = "https://images.invalid/picture.png"


@attrs.frozen
class Plan:
    """A client's work.

    Attributes:
        in_flight: The most edits at a time.
        interval: Seconds between two status checks of a task.
        image: The bytes of a JPEG file, or a URL.
    """

    edits: int
    in_flight: int
    interval: float
    image: bytes | str = attrs.field(default=IMAGE_URL, repr=False)

    def body(self) -> dict[str, Any]:
        """Return the JSON of a submission."""
        image = self.image
        if isinstance(image, bytes):
            image = f"data:image/jpeg;base64,{base64.b64encode(image).decode()}"
        content = [{"image": image}, {"text": INSTRUCTION}]
        return {"model": "qwen_image_edit_plus", "input": {"messages": [{"role": "user", "content": content}]}}


def timed(work: Coroutine[Any, Any, None]) -> Cost:
    """Run the work on a new event loop, and return its cost."""
    # Do one-time work first: imports, and loading the certificates that the environment names.
    asyncio.run(_open_once())
    importlib.import_module("cattrs")
    with metered() as cost:
        asyncio.run(work)
    return cost


async def _open_once() -> None:
    async with EditSession(API_KEY, base_url="http://127.0.0.1:9"):
        pass


def library(url: str, plan: Plan) -> Cost:
    """Make the edits with ``EditSession.edit_many``."""
    return timed(_library(url, plan))


async def _library(url: str, plan: Plan) -> None:
    warnings.simplefilter("ignore", EditWarning)
    async with EditSession(
        API_KEY, base_url=url, max_in_flight=plan.in_flight, polling=FixedInterval(plan.interval)
    ) as session:
        requests = (EditRequest(plan.image, INSTRUCTION) for _ in range(plan.edits))
        async for outcome in session.edit_many(requests):
            if outcome.error is not None:
                raise outcome.error


def minimal(url: str, plan: Plan) -> Cost:
    """Make the edits with aiohttp, a prebuilt body and 100 connections, but no retries, deadlines or error handling."""
    return timed(_minimal(url, plan))


async def _minimal(url: str, plan: Plan) -> None:
    todo = iter(range(plan.edits))
    generation, body = f"{url}/model/v1/generation", json.dumps(plan.body()).encode()
    headers = {"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json"}
    async with aiohttp.ClientSession(headers=headers) as http:

        async def worker() -> None:
            for _ in todo:
                async with http.post(generation, data=body) as response:
                    task = json.loads(await response.read())
                while task["status"] != "completed":
                    await asyncio.sleep(plan.interval)
                    async with http.get(f"{generation}/task/{task['id']}") as response:
                        task = json.loads(await response.read())

        await asyncio.gather(*(worker() for _ in range(plan.in_flight)))


def loops_on_aiohttp(url: str, plan: Plan) -> Cost:
    """Start a coroutine for each edit, with a semaphore, a deadline, and a loop that sleeps and checks the task."""
    return timed(_loops_on_aiohttp(url, plan))


async def _loops_on_aiohttp(url: str, plan: Plan) -> None:
    async with aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {API_KEY}"}, connector=aiohttp.TCPConnector(limit=0)
    ) as http:

        async def call(method: str, path: str, json: dict[str, Any] | None = None) -> dict[str, Any]:
            async with http.request(method, f"{url}/model/v1/{path}", json=json) as response:
                response.raise_for_status()
                reply: dict[str, Any] = await response.json()
                return reply

        await _loops(call, plan)


def loops_on_httpx(url: str, plan: Plan) -> Cost:
    """Run the same loops on httpx, without a limit on connections."""
    import httpx  # noqa: PLC0415  # not needed by the other clients

    async def edits() -> None:
        async with httpx.AsyncClient(
            base_url=f"{url}/model/v1/",
            headers={"Authorization": f"Bearer {API_KEY}"},
            limits=httpx.Limits(max_connections=None),
            timeout=60.0,
        ) as http:

            async def call(method: str, path: str, json: dict[str, Any] | None = None) -> dict[str, Any]:
                response = await http.request(method, path, json=json)
                response.raise_for_status()
                reply: dict[str, Any] = response.json()
                return reply

            await _loops(call, plan)

    return timed(edits())


async def _loops(call: Callable[..., Coroutine[Any, Any, dict[str, Any]]], plan: Plan) -> None:
    async def edit() -> None:
        async with asyncio.timeout(600):
            task = await call("POST", "generation", plan.body())
            while task["status"] != "completed":
                if task["status"] == "failed":
                    raise RuntimeError(task["error"])
                await asyncio.sleep(plan.interval)
                task = await call("GET", f"generation/task/{task['id']}")

    await run_edits(edit, plan)


async def run_edits(edit: Callable[[], Awaitable[None]], plan: Plan) -> None:
    """Start all edits as tasks. At most ``in_flight`` run at a time."""
    semaphore = asyncio.Semaphore(plan.in_flight)

    async def in_turn() -> None:
        async with semaphore:
            await edit()

    async with asyncio.TaskGroup() as edits:
        for _ in range(plan.edits):
            edits.create_task(in_turn())
