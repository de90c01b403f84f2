"""Requests to the emulator, made without the library's client."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import aiohttp
from PIL import Image

SUBMIT = "/model/v1/generation"


def encode(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def decode(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def data_uri(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


PHOTO = encode(Image.radial_gradient("L").resize((96, 64)).convert("RGB"))
PHOTO_URI = data_uri(PHOTO)


def flat_body(*images: str, text: str = "make it sepia", **parameters: Any) -> dict[str, Any]:
    content = [*({"image": image} for image in images or (PHOTO_URI,)), {"text": text}]
    body: dict[str, Any] = {
        "model": "qwen_image_edit_plus",
        "input": {"messages": [{"role": "user", "content": content}]},
    }
    return body | ({"parameters": parameters} if parameters else {})


def params_body(*images: str, **parameters: Any) -> dict[str, Any]:
    body = flat_body(*images, **parameters)
    model = body.pop("model")
    return {"model": model, "input": [{"params": body}]}


class Caller:
    """Sends requests to an emulator with its key."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def post(self, body: object, path: str = SUBMIT, **options: Any) -> tuple[int, Any]:
        data = io.BytesIO(json.dumps(body).encode())  # as a stream, because aiohttp warns of large bytes
        async with self.session.post(path, data=data, **options) as response:
            return response.status, await response.json()

    async def submit(self, body: object = None) -> str:
        status, reply = await self.post(flat_body() if body is None else body)
        assert status == 200, reply
        return str(reply["id"])

    async def check(self, task_id: str) -> tuple[int, Any]:
        async with self.session.get(f"{SUBMIT}/task/{task_id}") as response:
            return response.status, await response.json(content_type=None)

    async def urls(self, task_id: str) -> list[str]:
        status, reply = await self.check(task_id)
        assert (status, reply["status"]) == (200, "completed"), reply
        return [item["url"] for item in reply["output"][0]["content"]]

    async def pictures(self, task_id: str) -> list[Image.Image]:
        return [decode((await download(url))[1]) for url in await self.urls(task_id)]


async def download(url: str) -> tuple[int, bytes]:
    async with aiohttp.ClientSession() as session, session.get(url, allow_redirects=False) as response:
        return response.status, await response.read()
