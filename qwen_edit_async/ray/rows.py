"""Edits the rows of a dataset in a worker."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final, TypedDict

import attrs

from qwen_edit_async.batch import BatchOutcome
from qwen_edit_async.batch.fingerprint import ImageHash, hash_image, identify
from qwen_edit_async.batch.rules.item import EditDefaults, Reading
from qwen_edit_async.batch.rules.rows import Rows
from qwen_edit_async.errors import ConfigurationError, InvalidEditError, QwenEditError, summary_of
from qwen_edit_async.http.downloads import Downloader
from qwen_edit_async.http.fetcher import Fetcher
from qwen_edit_async.http.network import Network
from qwen_edit_async.http.options import Timeouts
from qwen_edit_async.images.kinds import MAX_SOURCE_BYTES, ArrayLike, PillowImage, is_data_uri, is_url, map_images
from qwen_edit_async.images.prepare import signed_url
from qwen_edit_async.images.source import check_regular, check_size, local_path, reading
from qwen_edit_async.images.upload import open_image
from qwen_edit_async.models import EditRequest, requested_pictures
from qwen_edit_async.ray.actor import Images, ImagesWanted
from qwen_edit_async.ray.hub import Hub
from qwen_edit_async.scheduling.retry import RetryPolicy
from qwen_edit_async.session.results import EditResult, pictures_of
from qwen_edit_async.statistics import SessionStatistics
from qwen_edit_async.storage.bucket import BucketPath
from qwen_edit_async.storage.paths import AnyPath, FilePath, file_path
from qwen_edit_async.threads import Offloader

_AT_A_TIME: Final = 16
"""The maximum number of rows of each batch that a worker edits at a time, with their images in memory.

A worker may have several batches. By default, Ray Data gives it at most four batches at a time with ``map_batches``, or
16 rows with ``map``.
"""


class EditedRow(TypedDict):
    """The columns that an edit adds to its row.

    Attributes:
        status: ``saved``, ``failed`` or ``uncertain``. Any other status means that the edit is not finished: run the
            row again.
        task_id: The service's id for the task.
        files: The paths of the pictures.
        cost: The cost in the account's currency, if the service stated one.
        error: The error, if there is one.
    """

    status: str
    task_id: str | None
    files: list[str]
    cost: float | None
    error: str | None


class EditRows:
    """Edits rows in a worker, for ``map`` and ``map_batches`` of Ray Data and for ``daft.cls``.

    The columns of a row are ``image``, ``image2``, ``image3``, ``instruction``, ``key``, ``parameters`` (an object) and
    one column per parameter. ``EditRows`` adds the columns of :class:`EditedRow`. The key identifies the edit. Without
    a key, the instruction, the parameters and the images' paths or URLs identify the edit. An image in memory is
    identified by its content. If an edit goes wrong, its row gets an error, and no exception is raised. A row that runs
    again gets the same pictures.

    The worker sends an image to the hub shortly before the edit is submitted. For an image in a bucket, the worker
    sends a presigned URL, so the hub needs no credentials for the bucket. The service must fetch the
    image within 12 hours, and before the worker's temporary credentials expire. The worker downloads the results
    without the API key.

    With Daft, pass the columns to the method ``edit``::

        rows = daft.cls(EditRows, max_concurrency=16)(hub, "/shared/edited")
        table = table.with_column("edit", rows.edit(to_struct(table["key"], table["image"], table["instruction"])))

    Args:
        save_to: The folder for the pictures: a local folder that all workers share, or a folder in a bucket
            (``s3://bucket/folder``) that they can read and write. An edit is not submitted if a file with the name of
            its result exists. A file that appears later is not replaced: the row then has an error and the status
            ``completed``. A worker that is killed during a download can leave a hidden ``.part`` file.
        trust_env: Whether downloads use the proxies of the worker's environment.
    """

    def __init__(self, hub: Hub, save_to: AnyPath, *, trust_env: bool = False) -> None:
        self._hub = hub
        folder = file_path(save_to)
        self._folder = folder.absolute() if isinstance(folder, Path) else folder
        self._network = Network(trust_env=trust_env)
        self._threads = Offloader(2)
        self._table = Rows("", Reading(EditDefaults()))

    async def __call__(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row, or a batch of NumPy columns, with the columns of :class:`EditedRow` added.

        Raises:
            ConfigurationError: If the batch is not in NumPy format.
        """
        import pyarrow as pa  # noqa: PLC0415  # Ray Data installs PyArrow

        if not isinstance(rows, Mapping):
            raise ConfigurationError('a batch is not in NumPy format: use map_batches(…, batch_format="numpy")')
        is_batch = all(getattr(column, "shape", ()) for column in rows.values())
        each = (
            (dict(zip(rows, cells, strict=True)) for cells in zip(*rows.values(), strict=True)) if is_batch else [rows]
        )
        room = asyncio.Semaphore(_AT_A_TIME)

        async def edit(row: Mapping[str, Any]) -> EditedRow:
            async with room:
                return await self.edit(row)

        edited: list[Any] = await asyncio.gather(*map(edit, each))
        # An Arrow array has a type even if it is empty or all null. So all blocks of the dataset have the same schema.
        text = pa.string()
        kinds = {"status": text, "task_id": text, "files": pa.list_(text), "cost": pa.float64(), "error": text}
        added = {name: pa.array([row[name] for row in edited], kind) for name, kind in kinds.items()}
        return {**rows, **(added if is_batch else {name: column[0] for name, column in added.items()})}

    async def edit(self, row: Mapping[str, Any]) -> EditedRow:
        """Edit a row, and return the columns to add."""
        edited = EditedRow(status="planned", task_id=None, files=[], cost=None, error=None)
        try:
            outcome = await self._edit(*await self._threads.run(self._requests_of, row))
            cost = None if outcome.cost is None else float(outcome.cost)
            edited |= {"status": outcome.status, "task_id": outcome.task_id, "cost": cost, "error": outcome.error}
            if outcome.urls:
                edited["status"] = "completed"
                edited |= {"files": await self._save(outcome), "status": "saved", "error": None}
        except InvalidEditError as error:
            edited |= {"status": "failed", "error": str(error)}
        except Exception as error:  # noqa: BLE001  # an exception would fail the whole dataset, or drop other rows
            cause = getattr(error, "cause", None) or error  # Ray wraps an error of the hub
            # Ray's own errors have many lines. The first line states the problem.
            edited["error"] = str(cause) if isinstance(cause, QwenEditError) else str(cause).partition("\n")[0]
        return edited

    def _requests_of(self, row: Mapping[str, Any]) -> tuple[EditRequest, EditRequest]:
        """Return the request of a row, and the request in the form that :meth:`HubActor.edit` takes. Blocking."""
        item = self._table.item_of_fields(0, row)
        if item.request is None:
            raise InvalidEditError(item.problem or "it is not an edit")
        request = attrs.evolve(item.request, key=item.request.key or identify(item.request), metadata={})
        return request, attrs.evolve(request, images=map_images(_identified, request.images))

    async def _edit(self, request: EditRequest, identified: EditRequest) -> BatchOutcome:
        """Make an edit unless it is finished, and return its outcome."""
        reply: BatchOutcome | ImagesWanted = await self._hub.ask("edit", identified)
        while isinstance(reply, ImagesWanted):
            reply = await self._hub.ask("edit", identified, await self._threads.run(self._images_of, request, reply))
        return reply

    def _images_of(self, request: EditRequest, wanted: ImagesWanted) -> Images:
        """Return a request's images as they are sent to the hub, or the reason why they can't be sent. Blocking."""
        try:
            for index in range(requested_pictures(request.parameters)):
                if (self._folder / f"{wanted.name}-{index}.png").exists():
                    raise InvalidEditError(
                        "another file has the name of the result",
                        hint="move that file, or give this edit another key (the name of its files)",
                    )
            return map_images(functools.partial(_sendable, inline=wanted.inline), request.images)
        except (QwenEditError, OSError) as error:  # a missing extra is a QwenEditError, too
            return error if isinstance(error, InvalidEditError) else InvalidEditError(summary_of(error))

    async def _save(self, outcome: BatchOutcome) -> list[str]:
        """Save the pictures of an edit unless they are already saved, and return their paths."""
        saved = [self._folder / path.name for path in outcome.files]
        if saved and await self._threads.run(lambda: [path for path in saved if path.exists()]) == saved:
            return [*map(str, saved)]
        try:
            paths = await self._download(outcome)
        except (QwenEditError, OSError) as error:
            await self._hub.ask("record", outcome.name, (), summary_of(error))
            raise
        sizes = await self._threads.run(lambda: [*map(_size, paths)])
        await self._hub.ask("record", outcome.name, [*zip((path.name for path in paths), sizes, strict=True)], None)
        return [*map(str, paths)]

    async def _download(self, outcome: BatchOutcome) -> Sequence[FilePath]:
        renew, hosts = functools.partial(self._hub.ask, "renew"), await self._hub.ask("result_hosts")
        fetcher, random = Fetcher(Timeouts(), hosts, self._network), Random()  # noqa: S311  # jitter
        store: Any = Downloader(
            fetcher, self._threads, RetryPolicy(), SessionStatistics(), random=random, renew=renew, replace=False
        )
        task_id = outcome.task_id or ""
        result = EditResult(task_id=task_id, images=pictures_of(task_id, outcome.urls, store))
        await fetcher.open()
        async with contextlib.aclosing(fetcher):
            return await result.save(self._folder, stem=outcome.name)


def _identified(image: Any) -> Any:
    """Return what identifies an image: its URL, its hash, or its :class:`BucketPath` with a tag. Blocking."""
    if is_url(image):
        return image
    with reading():
        if isinstance(image, BucketPath):
            return image.portable()
        if not is_data_uri(image) and (path := local_path(image)) is not None:
            check_size(check_regular(path).st_size, MAX_SOURCE_BYTES)
    return ImageHash(hash_image(image))


def _sendable(image: Any, *, inline: bool) -> Any:
    """Return a URL, a PIL image or an array unchanged, and the content of any other image. Blocking.

    For an image in a bucket, return a presigned URL instead, unless ``inline`` is true or the bucket can't sign URLs.
    """
    if is_url(image) or isinstance(image, PillowImage | ArrayLike):
        return image
    if isinstance(image, BucketPath) and not inline and (url := signed_url(image)) is not None:
        return url
    with open_image(image, MAX_SOURCE_BYTES)[0] as file:
        return file.read()


def _size(path: FilePath) -> int:
    return path.stat().st_size if isinstance(path, Path) else path.size
