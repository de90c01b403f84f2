"""Edits on a Ray cluster, with Ray Data or Daft, within the limits of one account (extra ``ray``, about 700 MB).

::

    import ray
    from qwen_edit_async.ray import EditRows, start_hub

    hub = start_hub("/data/job", max_in_flight=64, submit_rate=20)
    options = {"hub": hub, "save_to": "/shared/edited"}
    rows = ray.data.read_csv("/shared/edits.csv")
    edited = rows.map(EditRows, fn_constructor_kwargs=options, concurrency=4, num_cpus=0.5)
    edited.write_parquet("/shared/table")
    print(hub.stop().text())

The hub is an actor that submits and journals all edits. The workers read the images, ask the hub for the edits, and
download the pictures. A worker mostly waits, so it does not need a whole CPU. Ray repeats the work of a process that
dies, but no edit is paid for twice:

- If a worker dies, its rows run again. They wait for edits in flight, and get finished edits from the journal.
- If the hub dies, Ray restarts it and repeats the workers' calls. Edits that the hub was submitting when it died are
  ``uncertain``.
- If the head node dies, start Ray, the hub and the job again. The journal's folder must have survived.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final, TypedDict

import attrs

from qwen_edit_async.batch import BatchOutcome, BatchReport, EditHub
from qwen_edit_async.batch.fingerprint import identify
from qwen_edit_async.batch.identity import reason_of
from qwen_edit_async.batch.sources import EditDefaults
from qwen_edit_async.batch.sources.rows import Rows
from qwen_edit_async.errors import ConfigurationError, InvalidEditError, QwenEditError
from qwen_edit_async.http.downloads import Downloader
from qwen_edit_async.http.hosts import ResultHosts
from qwen_edit_async.http.network import Network
from qwen_edit_async.http.options import Timeouts, resolve_result_hosts
from qwen_edit_async.images.kinds import MAX_SOURCE_BYTES, check_size, image_name
from qwen_edit_async.images.source import check_regular, local_path
from qwen_edit_async.models import EditRequest
from qwen_edit_async.scheduling.retry import RetryPolicy
from qwen_edit_async.session.results import EditResult, OutputImage
from qwen_edit_async.session.session import EditSession
from qwen_edit_async.statistics import SessionStatistics
from qwen_edit_async.storage.bucket import BucketPath, with_tag
from qwen_edit_async.storage.paths import AnyPath, FilePath, file_path
from qwen_edit_async.threads import Offloader

__all__ = ["EditRows", "EditedRow", "Hub", "get_hub", "start_hub"]

_NAMESPACE: Final = "qwen-edit"
_NAME: Final = "hub"
_HEAD: Final = "node:__internal_head__"
"""The resource that only the head node of a cluster has."""

_CALLS: Final = 10_000
"""The maximum number of workers' calls that the hub handles at a time. Further calls wait in Ray."""

_AT_A_TIME: Final = 16
"""The maximum number of rows of a batch that a worker edits at a time, because it holds their images in memory.

Ray Data gives a worker at most four batches, or 16 rows, at a time.
"""


def start_hub(
    folder: str | os.PathLike[str],
    *,
    name: str = _NAME,
    max_in_flight: int = 64,
    submit_rate: float | None = None,
    max_cost: float | str | None = None,
    max_tasks: int | None = None,
    resubmit_uncertain: bool = False,
    **session: Any,
) -> Hub:
    """Start the hub on the head node, or return the running hub with this name.

    The hub is a detached actor: it outlives this program, and Ray restarts it if it dies. It then continues from its
    journal. The API key comes from the environment in which Ray was started on the head node. A hub that submits
    nothing more, for example after the balance was too low, must be stopped and started again.

    Args:
        folder: The folder of the journal, on a disk of the head node.
        name: The hub's name in the cluster.
        max_in_flight: The maximum number of tasks in flight, for all workers together.
        submit_rate: The maximum number of submissions per second, for all workers together.
        max_cost: The maximum cost of all edits of the folder.
        max_tasks: The maximum number of tasks that may be created for the folder.
        resubmit_uncertain: Whether an uncertain edit is submitted again when its row runs again. Both tasks may be
            charged.
        **session: Other options of :class:`EditSession`, without secrets, because the cluster stores them.

    Raises:
        ConfigurationError: If Ray or the key is missing, an option is wrong, or the running hub has other options.
        JournalError: If the journal can't be opened.
    """
    if "api_key" in session:
        raise ConfigurationError("the hub takes its key from the head node's environment: leave out api_key")
    ray, limits = _ray(), {"max_cost": max_cost, "max_tasks": max_tasks, "resubmit_uncertain": resubmit_uncertain}
    session |= {"max_in_flight": max_in_flight, "submit_rate": submit_rate}
    given = (str(Path(folder).expanduser().absolute()), limits, session)
    lasting = {"lifetime": "detached", "get_if_exists": True, "max_restarts": -1, "max_task_retries": -1}
    options = lasting | {"num_cpus": 0, "resources": {_HEAD: 0.001}, "max_concurrency": _CALLS}
    actor = ray.remote(HubActor).options(name=name, namespace=_NAMESPACE, **options).remote(*given)
    try:
        running = ray.get(actor.open.remote())
    except Exception:  # Ray would otherwise restart an actor that can't open its journal or session
        ray.kill(actor)
        raise
    if running != given:
        raise ConfigurationError(f"the hub {name!r} runs with other options: stop it, or choose another name")
    return Hub(name, actor)


def get_hub(name: str = _NAME) -> Hub:
    """Return the running hub with a name.

    Raises:
        ConfigurationError: If there is no such hub in this cluster, or if Ray is missing.
    """
    try:
        return Hub(name, _ray().get_actor(name, namespace=_NAMESPACE))
    except ValueError:
        raise ConfigurationError(f"there is no hub {name!r} in this cluster: call start_hub") from None


@attrs.frozen
class Hub:
    """A running hub. It can be passed to any process of the cluster.

    Attributes:
        name: Its name.
    """

    name: str
    _actor: Any = attrs.field(repr=False)

    def __reduce__(self) -> tuple[Callable[[str], Hub], tuple[str]]:
        return get_hub, (self.name,)

    def statistics(self) -> SessionStatistics:
        """Return the counts of the hub's session since the hub was started or restarted."""
        counts: SessionStatistics = _ray().get(self._actor.statistics.remote())
        return counts

    def report(self) -> BatchReport:
        """Return the report on all edits of the folder so far."""
        report: BatchReport = _ray().get(self._actor.report.remote())
        return report

    def stop(self) -> BatchReport:
        """End the hub, and return its report. The next hub of the folder continues the tasks in flight."""
        try:
            report: BatchReport = _ray().get(self._actor.stop.remote())
        finally:
            _ray().kill(self._actor)
        return report

    async def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the actor. If the actor dies, Ray repeats the call."""
        return await getattr(self._actor, method).remote(*arguments)


class HubActor:
    """The actor: an :class:`EditHub` and its session, which the first call opens."""

    def __init__(self, folder: str, limits: dict[str, Any], session: dict[str, Any]) -> None:
        self._arguments = (folder, limits, session)
        self._stack = contextlib.AsyncExitStack()
        self._opening = asyncio.Lock()
        self._opened: tuple[EditSession, EditHub] | None = None

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
        """Open the session and the journal, and return the arguments of the actor."""
        await self._parts()
        return self._arguments

    async def edit(self, request: EditRequest) -> BatchOutcome:
        """Make an edit unless it is finished, and return its outcome. If it succeeded, the status is ``completed``."""
        return await (await self._parts())[1].edit(request)

    async def record(self, name: str, files: Sequence[tuple[str, int]], error: str | None) -> None:
        """Record that a worker saved an edit's pictures, or why it could not."""
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
        """Return the report on all edits of the folder so far."""
        return await (await self._parts())[1].write_report()

    async def stop(self) -> BatchReport | None:
        """Close the hub and its session, and return the last report."""
        _, hub = await self._parts()
        await self._stack.aclose()
        return hub.report


class EditedRow(TypedDict):
    """The columns that an edit adds to its row.

    Attributes:
        status: ``saved``, ``failed`` or ``uncertain``. Any other status means that the pictures are not saved yet: run
            the row again.
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

    The columns of a row are ``image``, ``image2``, ``image3``, ``instruction``, ``key`` and one per parameter. The
    columns of :class:`EditedRow` are added. The key identifies the edit. Without a key, the instruction, the parameters
    and the images' paths or URLs identify it; an image in memory is identified by its content. If an edit goes wrong,
    its row has an error; no exception is raised. A row that runs again gets the same pictures.

    The worker reads image files and sends them to the hub. It downloads the pictures without the API key. With Daft,
    pass the columns to the method ``edit``::

        rows = daft.cls(EditRows, max_concurrency=16)(hub, "/shared/edited")
        table = table.with_column("edit", rows.edit(to_struct(table["key"], table["image"], table["instruction"])))

    Args:
        hub: The hub.
        save_to: The folder for the pictures. All workers must share it, or it is in a bucket, such as
            ``s3://bucket/folder``. Other files in it are never replaced: an edit that would do so is ``completed``.
        trust_env: Whether downloads use the proxies of the worker's environment.
    """

    def __init__(self, hub: Hub, save_to: AnyPath, *, trust_env: bool = False) -> None:
        self._hub = hub
        folder = file_path(save_to)
        self._folder = folder.absolute() if isinstance(folder, Path) else folder
        self._network = Network(trust_env=trust_env)
        self._threads = Offloader(2)
        self._table = Rows("", EditDefaults(), typed=False, note=lambda _: None)

    async def __call__(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row, or a batch of NumPy columns, with the columns of :class:`EditedRow` added."""
        import pyarrow as pa  # noqa: PLC0415  # Ray Data requires it

        is_batch = all(getattr(column, "shape", ()) for column in rows.values())
        each = (
            (dict(zip(rows, cells, strict=True)) for cells in zip(*rows.values(), strict=True)) if is_batch else [rows]
        )
        room = asyncio.Semaphore(_AT_A_TIME)

        async def edit(row: Mapping[str, Any]) -> EditedRow:
            async with room:
                return await self.edit(row)

        edited: list[Any] = await asyncio.gather(*map(edit, each))
        # An Arrow scalar has a type even if it is null. So all blocks have the same schema, with pictures or without.
        text = pa.string()
        kinds = {"status": text, "task_id": text, "files": pa.list_(text), "cost": pa.float64(), "error": text}
        added = {name: [pa.scalar(row[name], kind) for row in edited] for name, kind in kinds.items()}
        return {**rows, **(added if is_batch else {name: column[0] for name, column in added.items()})}

    async def edit(self, row: Mapping[str, Any]) -> EditedRow:
        """Make the edit of a row, and return the added columns."""
        edited = EditedRow(status="planned", task_id=None, files=[], cost=None, error=None)
        try:
            outcome: BatchOutcome = await self._hub.ask("edit", await self._threads.run(self._request_of, row))
            cost = None if outcome.cost is None else float(outcome.cost)
            edited |= {"status": outcome.status, "task_id": outcome.task_id, "cost": cost, "error": outcome.error}
            if outcome.urls:
                edited["status"] = "completed"
                edited |= {"files": await self._save(outcome), "status": "saved", "error": None}
        except InvalidEditError as error:
            edited |= {"status": "failed", "error": str(error)}
        except Exception as error:  # noqa: BLE001  # an exception would fail the whole dataset, or drop other rows
            cause = getattr(error, "cause", None) or error  # Ray wraps an error of the hub
            edited["error"] = str(cause).partition("\n")[0]
        return edited

    def _request_of(self, row: Mapping[str, Any]) -> EditRequest:
        """Return the request of a row, with its files' content, as the hub may be unable to read them. Blocking."""
        item = self._table.item_of_fields(0, row)
        if item.request is None:
            raise InvalidEditError(item.problem or "it is not an edit")
        names = [image_name(image, position) for position, image in enumerate(item.request.images, 1)]
        images = tuple(map(_content, item.request.images, names))
        return attrs.evolve(item.request, images=images, key=item.request.key or identify(item.request), metadata={})

    async def _save(self, outcome: BatchOutcome) -> list[str]:
        """Save the pictures of an edit unless they are saved, and return their paths."""
        saved = [self._folder / path.name for path in outcome.files]
        if saved and await self._threads.run(lambda: [path for path in saved if path.exists()]) == saved:
            return [*map(str, saved)]
        try:
            paths = await self._download(outcome)
        except (QwenEditError, OSError) as error:  # also of a worker that lacks an extra
            await self._hub.ask("record", outcome.name, (), reason_of(error))
            raise
        sizes = await self._threads.run(lambda: [*map(_size, paths)])
        await self._hub.ask("record", outcome.name, [*zip((path.name for path in paths), sizes, strict=True)], None)
        return [*map(str, paths)]

    async def _download(self, outcome: BatchOutcome) -> Sequence[FilePath]:
        renew, hosts = functools.partial(self._hub.ask, "renew"), await self._hub.ask("result_hosts")
        settings = {"renew": renew, "hosts": hosts, "network": self._network, "replace": False}
        settings["random"] = Random()  # noqa: S311  # jitter
        store: Any = Downloader(self._threads, RetryPolicy(), Timeouts(), SessionStatistics(), **settings)
        task_id, urls = outcome.task_id or "", enumerate(outcome.urls)
        images = [OutputImage(url=url, task_id=task_id, index=index, store=store) for index, url in urls if url]
        await store.open()
        try:
            return await EditResult(task_id=task_id, images=tuple(images)).save(self._folder, stem=outcome.name)
        finally:
            await store.aclose()


def _content(image: Any, name: str) -> Any:
    """Return the content of an image file. Return any other image as it is. Blocking.

    A file in a bucket gets its tag, because the hub would have to ask for the tags of all workers' images.
    """
    if isinstance(image, BucketPath):
        return with_tag(image)
    path = local_path(image)
    if path is None or "://" in path or path.startswith("data:"):
        return image
    try:
        check_size(check_regular(path, name), name, MAX_SOURCE_BYTES)
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidEditError(f"{name} can't be read: {error.strerror or error}") from None


def _size(path: FilePath) -> int:
    return path.stat().st_size if isinstance(path, Path) else path.size


def _ray() -> Any:
    try:
        import ray  # noqa: PLC0415  # it is large
    except ImportError:
        raise ConfigurationError('this needs Ray: pip install "qwen-edit-async[ray]"') from None
    return ray
