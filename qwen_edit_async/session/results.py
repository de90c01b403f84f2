"""The result of an edit, with pictures to read, save and open."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

import attrs

from qwen_edit_async.contract import MAX_N, MIN_N
from qwen_edit_async.display.thumbnails import Previews
from qwen_edit_async.errors import (
    APIResponseError,
    ConfigurationError,
    DownloadError,
    EditFailedError,
    QwenEditError,
    SessionClosedError,
)
from qwen_edit_async.files import safe_stem
from qwen_edit_async.images.findings import ImageError
from qwen_edit_async.log import about
from qwen_edit_async.models import EditRequest
from qwen_edit_async.protocol.urls import expiry_of
from qwen_edit_async.storage.paths import AnyPath, FilePath, file_path
from qwen_edit_async.tasks import EditTimings, TaskFailure, TaskSnapshot, TaskStatus, Usage, shortfall

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL.Image import Image

    from qwen_edit_async.display.cards import EditView

T = TypeVar("T")


class ResultStore(Protocol):
    """Downloads result pictures."""

    async def read(self, url: str, task_id: str, index: int) -> bytes:
        """Download the picture, and return its bytes."""
        ...

    async def save(self, url: str, task_id: str, index: int, path: FilePath) -> tuple[FilePath, str]:
        """Download the picture to a file, and create the file's folder.

        Return the file's path, and a description of the picture's damage, which is empty for an intact picture.
        """
        ...

    async def offload(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function off the event loop."""
        ...


@attrs.frozen(kw_only=True)
class OutputImage:
    """One result picture, downloaded on request. Its documented format is PNG.

    Its URL expires, usually after 24 hours. If a download finds that the URL has expired, a status check gets a new
    one. An output image can be pickled and deep-copied, but a copy has no session, so it can't be downloaded: use
    ``session.attach(task_id)``. The protocol ``dashscope`` supports neither new URLs nor ``attach``.

    Attributes:
        url: The URL of the picture. The download needs no key.
        task_id: The id of the task that produced the picture.
        index: The picture's position in the task's output, from 0.
    """

    url: str
    task_id: str
    index: int
    _store: ResultStore | None = attrs.field(repr=False, eq=False)  # `None` in a copy
    _previews: Previews | None = attrs.field(default=None, repr=False, eq=False)

    @property
    def expires_at(self) -> datetime | None:
        """The time when the URL expires; ``None`` if the URL does not state it."""
        return expiry_of(self.url)

    async def read(self) -> bytes:
        """Download the picture, and return its bytes.

        A PNG is refused, and downloaded again, if a chunk that its pixels need is missing or damaged. A damaged picture
        in another format is refused too, but the last attempt accepts it if more than half of it seems usable. An
        accepted picture with damaged pixels causes an :class:`EditWarning`. Other flaws are only logged.

        Raises:
            DownloadError: If no usable picture could be downloaded.
            SessionClosedError: If the session is closed.
        """
        content = await self._open_store().read(self.url, self.task_id, self.index)
        await self._remember(content)
        return content

    @overload
    async def save(self, path: Path) -> Path: ...

    @overload
    async def save(self, path: AnyPath) -> FilePath: ...

    async def save(self, path: AnyPath) -> FilePath:
        """Download the picture to ``path``. A missing folder is created. The file appears only when it is complete.

        A local file of that name is replaced. In a bucket, no file is replaced, unless the path is a
        :class:`BucketPath` with ``replace=True``.

        Args:
            path: A local path, a URL in a bucket (``s3://``, ``gs://``, ``az://``), or a tuple ``(store, path)`` with
                an obstore store.

        Returns:
            The file's path. If ``path`` has another format's extension, the picture gets its own format's extension,
            unless a different file already has the new name.

        Raises:
            ConfigurationError: If results can't be written to ``path``, for example because it is an http URL, or has
                no file name.
            DownloadError: If no usable picture could be downloaded.
            OSError: If the file can't be written.
            SessionClosedError: If the session is closed.
        """
        target = file_path(path)
        if not target.name:
            raise ConfigurationError(f"{str(target)!r} has no file name: give the path of a file, such as out/cat.png")
        saved, _ = await self._save(target)
        return saved

    async def _save(self, path: FilePath) -> tuple[FilePath, str]:
        saved, damage = await self._open_store().save(self.url, self.task_id, self.index, path)
        await self._remember(saved)
        return saved, damage

    async def open(self) -> Image:
        """Download the picture and decode it. Decoding needs the ``images`` extra.

        Damaged parts of the picture are black or gray.

        Raises:
            ConfigurationError: If Pillow is not installed.
            DownloadError: If no usable picture could be downloaded, or if the picture can't be decoded.
            SessionClosedError: If the session is closed.
        """
        try:
            import PIL.Image  # noqa: F401, PLC0415  # an extra: fail before the download if it is missing
        except ImportError:
            raise ConfigurationError('decoding needs Pillow: pip install "qwen-edit-async[images]"') from None
        try:
            content = await self.read()
            return await self._open_store().offload(_decode, content)
        except ImageError as error:
            message, hint = f"image {self.index} of task {self.task_id} {error}", "call save() to get the file as it is"
            raise DownloadError(message, hint=hint, task_id=self.task_id, url=self.url) from None

    def _open_store(self) -> ResultStore:
        if self._store is None:
            raise SessionClosedError(
                f"image {self.index} of task {self.task_id} can't be downloaded, because a copied or unpickled result "
                f"has no session: in an open session, (await session.attach({self.task_id!r})).images has the image "
                f"with the index {self.index}",
                task_id=self.task_id,
            )
        return self._store

    async def _remember(self, output: bytes | FilePath) -> None:
        if self._previews is not None and self._previews.lacks(self.index):
            with contextlib.suppress(QwenEditError):  # a closing session needs no preview
                await self._open_store().offload(self._previews.remember, self.index, output)


@attrs.frozen(kw_only=True)
class EditResult:
    """A completed edit. It can be pickled and deep-copied, like :class:`OutputImage` and :class:`EditRequest`.

    Attributes:
        task_id: The task's id.
        images: The result pictures, at most 6. The service may return fewer than ``n``.
        usage: The cost.
        metadata: The service's own metadata, unchanged.
        timings: The duration of each phase.
        notes: Sentences about changes by ``fit=True``, ignored text and pages, input images that may give a bad
            result, and missing pictures.
        request: The request; ``None`` for an attached task.
        raw: The service's whole reply, unchanged.
    """

    task_id: str
    images: tuple[OutputImage, ...]
    usage: Usage = attrs.field(factory=Usage)
    metadata: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    timings: EditTimings = attrs.field(factory=EditTimings, repr=False)
    notes: tuple[str, ...] = ()
    request: EditRequest | None = attrs.field(default=None, repr=False)
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    _previews: Previews = attrs.field(factory=Previews, repr=False, eq=False)

    @overload
    async def save(self, directory: Path, *, stem: str | None = None) -> tuple[Path, ...]: ...

    @overload
    async def save(self, directory: AnyPath, *, stem: str | None = None) -> tuple[FilePath, ...]: ...

    async def save(self, directory: AnyPath, *, stem: str | None = None) -> tuple[FilePath, ...]:
        """Download all pictures into a folder as ``{stem}-{index}.png``. A missing folder is created.

        A picture in another format gets the extension of that format, as in :meth:`OutputImage.save`.

        Args:
            directory: The folder, which may be in a bucket, as in :meth:`OutputImage.save`.
            stem: The start of the files' names; by default the request's ``key``, or else the task's id. Characters
                that are unsafe in file names become ``_``.

        Raises:
            ConfigurationError: If results can't be written to ``directory``, for example because it is an http URL.
            DownloadError: If one of the pictures could not be downloaded, or is unusable.
            OSError: If a file can't be written.
            SessionClosedError: If the session is closed.
        """
        key = self.request.key if self.request is not None else None
        name = safe_stem(stem or key or self.task_id)
        folder = file_path(directory)
        return tuple([await image.save(folder / f"{name}-{image.index}.png") for image in self.images])

    def _repr_html_(self) -> str:
        """Return HTML for a notebook: thumbnails of the input and of the results downloaded so far."""
        from qwen_edit_async.display.cards import edit_html  # noqa: PLC0415  # only notebooks need it

        return edit_html(self._view())

    def _view(self) -> EditView:
        from qwen_edit_async.display.cards import EditView  # noqa: PLC0415  # only notebooks need it

        after = self._previews.after
        cost, count = self.usage.cost, len(self.images)
        facts = (
            self.request.key if self.request is not None else None,
            f"task {self.task_id}",
            f"{count} picture{'' if count == 1 else 's'}" + ("" if len(after) == count else ", not all downloaded yet"),
            None if cost is None else f"cost {cost:f}",
            f"{self.timings.total:.1f} s",
            *self.notes,
        )
        return EditView(
            instruction=self.request.instruction if self.request is not None else "",
            before=self._previews.before,
            after=tuple(after[index] for index in sorted(after)),
            facts=tuple(filter(None, facts)),
        )


def pictures_of(
    task_id: str, urls: Iterable[str], store: ResultStore, previews: Previews | None = None
) -> tuple[OutputImage, ...]:
    """Return the result pictures of a task. Omit pictures whose URL is an empty string."""
    picture = functools.partial(OutputImage, task_id=task_id, store=store, previews=previews)
    return tuple([picture(url=url, index=index) for index, url in enumerate(urls) if url])


def result_or_error(
    snapshot: TaskSnapshot,
    timings: EditTimings,
    store: ResultStore,
    *,
    request: EditRequest | None,
    notes: tuple[str, ...],
) -> EditResult | QwenEditError:
    """Return the result or error for a task's terminal snapshot. ``request`` is ``None`` for an attached task."""
    if snapshot.status is TaskStatus.FAILED:
        return failure_of(snapshot)
    if not snapshot.urls:
        return APIResponseError(
            f"task {snapshot.task_id} is completed, but the service's reply has no picture",
            hint=f"session.attach({snapshot.task_id!r}) checks the task again",
            body=f"the reply has only the members {', '.join(snapshot.raw)}",
            task_id=snapshot.task_id,
        )
    previews = Previews(request.images if request is not None else ())
    images = pictures_of(snapshot.task_id, snapshot.urls, store, previews)
    return EditResult(
        task_id=snapshot.task_id,
        images=images[:MAX_N],  # a reply with many pictures must not fill the disk
        usage=snapshot.usage,
        metadata=snapshot.metadata,
        timings=timings,
        notes=(*notes, *_odd_count(snapshot.task_id, request, len(images))),
        request=request,
        raw=snapshot.raw,
        previews=previews,
    )


def failure_of(snapshot: TaskSnapshot) -> EditFailedError:
    """Return the error for a snapshot of a failed task."""
    failure = snapshot.failure or TaskFailure()
    return EditFailedError(
        failure.message or "the service gave no reason",
        code=failure.code,
        error_type=failure.error_type,
        provider_error=failure.provider_error,
        cost=snapshot.usage.cost,
        task_id=snapshot.task_id,
    )


def _odd_count(task_id: str, request: EditRequest | None, given: int) -> tuple[str, ...]:
    """Log a warning if there are too many or too few pictures. Return a note if there are too few."""
    if given > MAX_N:
        about(task_id).warning("task %s has %d pictures: only the first %d are kept", task_id, given, MAX_N)
    asked = (request.parameters.n or MIN_N) if request is not None else MIN_N
    missing = shortfall(given, asked)
    for note in missing:
        about(task_id).warning("task %s: %s", task_id, note)
    return missing


def _decode(content: bytes) -> Image:
    from qwen_edit_async.images import pillow  # noqa: PLC0415  # Pillow is an extra

    return pillow.decode(content)
