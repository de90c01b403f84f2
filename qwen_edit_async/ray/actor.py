"""The Ray actor that runs the hub, in its own process on the head node."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Final, TypeAlias
from weakref import WeakValueDictionary

import attrs

from qwen_edit_async.batch import BatchOutcome, BatchReport, EditHub
from qwen_edit_async.batch.fingerprint import fingerprint_of
from qwen_edit_async.errors import InvalidEditError
from qwen_edit_async.http.hosts import ResultHosts
from qwen_edit_async.http.options import resolve_result_hosts
from qwen_edit_async.images.kinds import ImageInput
from qwen_edit_async.models import EditRequest
from qwen_edit_async.session.session import EditSession
from qwen_edit_async.statistics import SessionStatistics

Images: TypeAlias = Sequence[ImageInput] | InvalidEditError
"""The images of an edit, or the reason why they can't be sent."""

_DELIVERY_SECONDS: Final = 60.0
"""The maximum number of seconds that an edit waits for its images. Meanwhile, it may hold up other edits."""


@attrs.frozen
class ImagesWanted:
    """The reply that asks the caller to repeat the call with the images, because the edit will soon be submitted.

    Attributes:
        name: The beginning of the names of the result files.
        inline: Whether images in buckets must be read and sent. If not, presigned URLs are enough.
    """

    name: str
    inline: bool


class Delivery:
    """Passes the images of an edit from a caller to the hub."""

    def __init__(self) -> None:
        self.name: str = ""
        self.wanted: asyncio.Event = asyncio.Event()
        self._images: asyncio.Future[Images] = asyncio.get_running_loop().create_future()

    def send(self, images: Images) -> None:
        """Deliver the images, or the reason why they can't be sent. Drop them unless the edit waits for images."""
        if self.wanted.is_set() and not self._images.done():  # done: the wait has timed out or was cancelled
            self.wanted.clear()
            self._images.set_result(images)

    async def receive(self, name: str) -> Sequence[ImageInput]:
        """Tell all callers that the images are wanted, and wait until a caller sends the images.

        Raises:
            InvalidEditError: If the images can't be sent, or don't arrive in time.
        """
        self.name, self._images = name, asyncio.get_running_loop().create_future()
        self.wanted.set()
        try:
            async with asyncio.timeout(_DELIVERY_SECONDS):
                images = await self._images
        except TimeoutError:
            raise InvalidEditError(f"no worker sent the images within {_DELIVERY_SECONDS:g} s") from None
        finally:
            self.wanted.clear()
        if isinstance(images, InvalidEditError):
            raise images
        return images


class HubActor:
    """The actor, which holds an :class:`EditHub` and its session. The first call opens both."""

    def __init__(self, folder: str, limits: dict[str, Any], session: dict[str, Any]) -> None:
        self._arguments = (folder, limits, session)
        self._inline = bool(session.get("inline") or session.get("fit"))
        self._stack = contextlib.AsyncExitStack()
        self._opening = asyncio.Lock()
        self._opened: tuple[EditSession, EditHub] | None = None
        self._deliveries: WeakValueDictionary[tuple[str | None, str], Delivery] = WeakValueDictionary()

    async def _parts(self) -> tuple[EditSession, EditHub]:
        async with self._opening:
            if self._opened is None:
                folder, limits, options = self._arguments
                async with contextlib.AsyncExitStack() as opening:
                    session = await opening.enter_async_context(EditSession(**options))
                    hub = await opening.enter_async_context(EditHub(folder, session, save=False, **limits))
                    self._stack, self._opened = opening.pop_all(), (session, hub)
            return self._opened

    async def open(self) -> tuple[str, dict[str, Any], dict[str, Any]]:
        """Open the session and the journal, and return the arguments that the actor was created with."""
        await self._parts()
        return self._arguments

    async def edit(self, request: EditRequest, images: Images | None = None) -> BatchOutcome | ImagesWanted:
        """Make an edit unless it is finished. Return its outcome, or ask the caller for the images.

        A new edit that succeeds has the status ``completed``. After :meth:`record`, its status is ``saved``.

        The caller sends the images only when they are wanted. So the hub holds few images, and presigned URLs are
        created shortly before the submission.

        Args:
            request: The edit. Each image is a URL, a :class:`BucketPath` with a tag, or an :class:`ImageHash`.
            images: The images, or the reason why they can't be sent; ``None`` until they are wanted.
        """
        _, hub = await self._parts()
        edit = (request.key, fingerprint_of(request).digest)
        delivery = self._deliveries.setdefault(edit, Delivery())
        if images is not None:
            delivery.send(images)
        outcome = asyncio.create_task(hub.edit(request, load_images=delivery.receive))
        wanted = asyncio.create_task(delivery.wanted.wait())
        try:
            await asyncio.wait([outcome, wanted], return_when=asyncio.FIRST_COMPLETED)
            return outcome.result() if outcome.done() else ImagesWanted(delivery.name, self._inline)
        finally:
            outcome.cancel()  # ends only this call's wait: the hub goes on with the edit
            wanted.cancel()
            await asyncio.wait([outcome, wanted])  # so that neither asyncio task outlives the call

    async def record(self, name: str, files: Sequence[tuple[str, int]], error: str | None) -> None:
        """Record that a worker saved an edit's pictures, or why the pictures could not be saved."""
        await (await self._parts())[1].record(name, files, error)

    async def renew(self, task_id: str) -> tuple[str, ...]:
        """Return new URLs of the pictures of a task."""
        return (await (await self._parts())[0].status(task_id)).urls

    async def result_hosts(self) -> ResultHosts:
        """Return the hosts that pictures may be downloaded from."""
        session, allowed = (await self._parts())[0], self._arguments[2].get("allow_result_hosts", ())
        return resolve_result_hosts(session.base_url, allowed)

    async def statistics(self) -> SessionStatistics:
        """Return the counts of the session."""
        return (await self._parts())[0].statistics()

    async def report(self) -> BatchReport:
        """Write ``report.json``, and return the report on all edits in the journal so far."""
        return await (await self._parts())[1].write_report()

    async def stop(self) -> BatchReport | None:
        """Close the hub and its session, and return the last report."""
        _, hub = await self._parts()
        await self._stack.aclose()
        return hub.report
