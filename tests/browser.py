"""Controls a headless Chromium with the Chrome DevTools Protocol over a WebSocket."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)
_MAX_SECONDS = 30
_KEYS = {"ArrowLeft": 37, "ArrowRight": 39, "Enter": 13, "Escape": 27, "Tab": 9}


def find_browser() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def is_required() -> bool:
    """Return whether tests fail, instead of being skipped, if no browser is installed."""
    return os.environ.get("QWEN_EDIT_REQUIRE_BROWSER") == "1"


@contextlib.contextmanager
def running_browser(profile: Path) -> Iterator[str]:
    """Start a browser with an empty profile, and yield the address of its WebSocket."""
    executable = find_browser()
    assert executable is not None, "install Chromium: apt-get install chromium"
    process = subprocess.Popen(
        [executable, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        with process.stderr:  # nobody reads what the browser writes later
            words = (line.partition("DevTools listening on ")[2].strip() for line in process.stderr)
            address = next(filter(None, words), None)
        assert address is not None, "the browser did not start"
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the browser has several processes
        process.wait()


class Page:
    """A tab.

    Attributes:
        requests: The URLs that the tab requested, without data URIs.
        problems: The errors and warnings of the console, violations of the security policy included.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._session: str | None = None
        self._loaded = asyncio.Event()
        self.requests: list[str] = []
        self.problems: list[str] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        await self._socket.send_json(message)
        async with asyncio.timeout(_MAX_SECONDS):
            answer = await self._answers[number]
        del self._answers[number]
        assert "error" not in answer, answer
        return answer["result"]

    async def listen(self) -> None:
        async for message in self._socket:
            content = json.loads(message.data)
            if "id" in content:
                self._answers[content["id"]].set_result(content)
            else:
                self._receive(content["method"], content.get("params", {}))

    def _receive(self, method: str, parameters: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent" and not parameters["request"]["url"].startswith("data:"):
            self.requests.append(parameters["request"]["url"])
        elif method == "Page.loadEventFired":
            self._loaded.set()
        elif method == "Log.entryAdded":
            self.problems.append(parameters["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.problems.append(str(parameters["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in {"error", "warning", "assert"}:
            self.problems.append(str(parameters["args"]))

    async def attach(self) -> None:
        target = await self.call("Target.createTarget", url="about:blank")
        self._session = (await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True))[
            "sessionId"
        ]
        for domain in ("Page", "Network", "Runtime", "Log"):
            await self.call(f"{domain}.enable")
        await self.call("Page.bringToFront")  # a background tab draws no frames

    async def open(self, path: Path, *, dark: bool = False, width: int = 1280, height: int = 900) -> None:
        """Open a file, and wait until it has loaded."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        self._loaded.clear()
        await self.call("Page.navigate", url=path.as_uri())
        async with asyncio.timeout(_MAX_SECONDS):
            await self._loaded.wait()

    async def evaluate(self, expression: str) -> Any:
        """Return the value of an expression. A promise is awaited."""
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, condition: str) -> None:
        """Check a condition in every frame until it holds."""
        await self.evaluate(
            f"new Promise((done) => {{ const look = () => ({condition}) ? done() : requestAnimationFrame(look); "
            "look(); })"
        )

    async def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            await self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=_KEYS[key], **text
            )

    async def write(self, text: str) -> None:
        """Type into the element that has the focus."""
        await self.call("Input.insertText", text=text)

    async def click(self, selector: str, *, across: float = 0.5) -> None:
        """Click on an element, at this share of its width from the left."""
        box = await self.evaluate(
            f"(() => {{ const element = document.querySelector({json.dumps(selector)}); "
            "element.scrollIntoView({block: 'nearest'}); const box = element.getBoundingClientRect(); "
            "return [box.x, box.y, box.width, box.height]; })()"
        )
        x, y = box[0] + box[2] * across, box[1] + box[3] / 2
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def screenshot(self) -> bytes:
        """Wait until all visible pictures are decoded, and return a screenshot as a PNG file."""
        await self.evaluate(
            "Promise.allSettled([...document.querySelectorAll('.card')].filter((card) => {"
            "const box = card.getBoundingClientRect(); return box.width && box.bottom > 0 && box.top < innerHeight; })"
            ".flatMap((card) => [...card.querySelectorAll('img')]).map((image) => image.decode()))"
            ".then(() => new Promise(requestAnimationFrame)).then(() => null)"
        )
        return base64.b64decode((await self.call("Page.captureScreenshot"))["data"])


@contextlib.asynccontextmanager
async def new_page(address: str) -> AsyncIterator[Page]:
    """Open a tab in a running browser."""
    async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:
        page = Page(socket)
        listening = asyncio.create_task(page.listen())
        try:
            await page.attach()
            yield page
        finally:
            listening.cancel()
            await asyncio.wait([listening])
