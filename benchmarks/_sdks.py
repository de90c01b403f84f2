"""Clients of ``peers.py``: the SDKs of similar services, each with its own protocol."""

# ruff: noqa: PLC0415  # only the process that measures an SDK imports it, before measuring

from __future__ import annotations

from _clients import API_KEY, INSTRUCTION, Plan, run_edits, timed
from _measure import Cost


def fal_client(url: str, plan: Plan) -> Cost:
    """Make the edits with ``AsyncClient.subscribe``, which fetches the result with another call."""
    from fal_client import AsyncClient, client

    # FAL_QUEUE_RUN_HOST changes the host, but not the scheme.
    client.QUEUE_URL_FORMAT = f"{url}/"

    async def edits() -> None:
        fal = AsyncClient(key=API_KEY)

        async def edit() -> None:
            await fal.subscribe("bench/edit", {"prompt": INSTRUCTION, "image_url": plan.image}, interval=plan.interval)

        await run_edits(edit, plan)

    return timed(edits())


def replicate(url: str, plan: Plan) -> Cost:
    """Make the edits with ``Client.async_run``."""
    from httpx import Timeout
    from replicate import Client

    async def edits() -> None:
        # By default a call fails when it waits more than 10 s for one of 100 connections.
        service = Client(API_KEY, base_url=url, timeout=Timeout(60.0))
        service.poll_interval = plan.interval

        async def edit() -> None:
            await service.async_run(
                "bench/edit",
                {"prompt": INSTRUCTION, "image": plan.image},
                wait=False,  # the reply to the submission does not wait for the task
                use_file_output=False,
            )

        await run_edits(edit, plan)

    return timed(edits())


def dashscope(url: str, plan: Plan) -> Cost:
    """Make the edits with ``AioImageSynthesis.call``. It checks each task once a second."""
    import dashscope
    from dashscope.aigc.image_synthesis import AioImageSynthesis
    from dashscope.api_entities.aio_session import close_shared_aio_session

    dashscope.base_http_api_url = f"{url}/api/v1"

    async def edits() -> None:
        async def edit() -> None:
            reply = await AioImageSynthesis.call(
                "wanx2.1-imageedit",
                INSTRUCTION,
                function="description_edit",
                base_image_url=plan.image,
                api_key=API_KEY,
            )
            if reply.output.task_status != "SUCCEEDED":
                raise RuntimeError(str(reply))

        await run_edits(edit, plan)
        await close_shared_aio_session()

    return timed(edits())
