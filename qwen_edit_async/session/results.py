"""The result of an edit: pictures to read, save and open."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import attrs

from qwen_edit_async.contract import MAX_N, MIN_N
from qwen_edit_async.display.thumbnails import Previews
from qwen_edit_async.errors import (
    APIResponseError,
    ConfigurationError,
    DownloadError,
    EditFailedError,
    InvalidEditError,
    QwenEditError,
    SessionClosedError,
)
from qwen_edit_async.log import log
from qwen_edit_async.models import EditRequest, TaskFailure, TaskSnapshot, TaskStatus, Usage, shortfall

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL.Image import Image

    from qwen_edit_async.display.cards import EditView
    from qwen_edit_async.session.task import EditTask

T = TypeVar("T")

_UNSAFE_IN_NAMES = re.compile(r"[^\w.-]+")
_DEVICE = re.compile(r"^(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])\.", re.IGNORECASE)
"""Names that Windows takes for a device, whatever follows the first dot."""

_MAX_STEM_BYTES = 160


class ResultStore(Protocol):
    """Where result pictures come from: the session, as far as results need it."""

    async def read(self, url: str, task_id: str, index: int) -> bytes:
        """The picture's bytes."""
        ...

    async def save(self, url: str, task_id: str, index: int, path: Path) -> Path:
        """Write the picture to a file, and return its path; its folder is made."""
        ...

    async def offload(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function off the event loop."""
        ...


class DetachedStore:
    """The :class:`ResultStore` of a result that was pickled or deep-copied, which has no session."""

    async def read(self, _: str, task_id: str, index: int) -> bytes:
        """Raise :class:`SessionClosedError`."""
        raise _detached_error(task_id, index)

    async def save(self, _: str, task_id: str, index: int, path: Path) -> Path:  # noqa: ARG002  # the protocol's
        """Raise :class:`SessionClosedError`."""
        raise _detached_error(task_id, index)

    async def offload(self, function: Callable[..., T], *arguments: Any) -> T:  # noqa: ARG002  # likewise
        """Raise :class:`SessionClosedError`."""
        raise SessionClosedError("a copied or unpickled result has no session")


def _detached_error(task_id: str, index: int) -> SessionClosedError:
    return SessionClosedError(
        f"image {index} of task {task_id} can't be downloaded: its result was copied or unpickled, without a session. "
        f"(await session.attach({task_id!r})).images[{index}] has it in an open session",
        task_id=task_id,
    )


@attrs.frozen(kw_only=True)
class OutputImage:
    """One result picture, fetched when it is asked for: a PNG (contract, *Images*), or whatever picture came instead.

    Its URL expires: the documentation of such services says 24 hours. An expired one is renewed by asking the task
    again. It can be pickled and deep-copied, but the copy has no session: ``session.attach(task_id)`` finds it again.

    Attributes:
        url: Where it lies; it needs no key.
        task_id: The task that made it.
        index: Its position among the task's pictures, from 0.
    """

    url: str
    task_id: str
    index: int
    _store: ResultStore = attrs.field(repr=False, eq=False)
    _previews: Previews = attrs.field(factory=Previews, repr=False, eq=False)

    async def read(self) -> bytes:
        """Download the picture's file.

        It is a PNG (contract, *Images*). A complete picture in another format is returned as well, with a warning in
        the log.

        Raises:
            DownloadError: If no complete picture came.
            SessionClosedError: If the session is closed.
        """
        content = await self._store.read(self.url, self.task_id, self.index)
        await self._remember(content)
        return content

    async def save(self, path: str | os.PathLike[str]) -> Path:
        """Download the picture's file to ``path``, and make its folder. The name appears with the complete file.

        Returns:
            The file's path. If the picture is not a PNG, its ending is that of the picture's format, unless a file of
            that name exists.

        Raises:
            DownloadError: If no complete picture came.
            OSError: If it can't be written.
            SessionClosedError: If the session is closed.
        """
        file = Path(os.path.expanduser(path))  # noqa: ASYNC240, PTH111  # Path.expanduser raises for "~nobody"
        saved = await self._store.save(self.url, self.task_id, self.index, file)
        await self._remember(saved)
        return saved

    async def open(self) -> Image:
        """Download the picture and decode it; needs the ``images`` extra.

        If some of its pixels are damaged, the others are decoded, and the rest stays black.

        Raises:
            ConfigurationError: If Pillow is not installed.
            DownloadError: If it can't be had whole.
            SessionClosedError: If the session is closed.
        """
        try:
            import PIL.Image  # noqa: F401, PLC0415  # an extra, found missing before anything is downloaded
        except ImportError:
            raise ConfigurationError('decoding needs Pillow: pip install "qwen-edit-async[images]"') from None
        try:
            return await self._store.offload(_decode, await self.read(), f"image {self.index} of task {self.task_id}")
        except InvalidEditError as error:
            raise DownloadError(
                str(error), hint="save() keeps its file as it came", task_id=self.task_id, url=self.url
            ) from None

    async def _remember(self, output: bytes | Path) -> None:
        if self._previews.lacks(self.index):
            with contextlib.suppress(QwenEditError):  # the session closes: the picture is here all the same
                await self._store.offload(self._previews.remember, self.index, output)


@attrs.frozen(kw_only=True)
class EditTimings:
    """How long an edit took, in seconds.

    Attributes:
        queued: Waiting for a slot of the session, and for a turn.
        submitting: From having a slot to the service's acceptance: reading, uploading, and any retries.
        running: From there to the answer that told the end.
        lag: Upper bound of how long the end went unseen: between the last two answers.
        checks: Status checks that were answered.
        failed_checks: Status checks that were not.
    """

    queued: float = 0.0
    submitting: float = 0.0
    running: float = 0.0
    lag: float = 0.0
    checks: int = 0
    failed_checks: int = 0

    @property
    def total(self) -> float:
        """Seconds from the call to the result."""
        return self.queued + self.submitting + self.running


@attrs.frozen(kw_only=True)
class EditResult:
    """A completed edit. It can be pickled and deep-copied, like :class:`OutputImage` and :class:`EditRequest`.

    Attributes:
        task_id: The service's name for the task.
        images: The pictures, as many as ``n`` asked for if the service gave so many; never more than 6.
        usage: The cost.
        metadata: The service's own metadata, as it came.
        timings: The duration of each phase.
        notes: Changes made before sending (``fit=True``), text that the service ignored, and missing pictures, a
            sentence each.
        request: The request; ``None`` for a task that was attached to.
        raw: The service's whole reply, as it came.
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

    async def save(self, directory: str | os.PathLike[str], *, stem: str | None = None) -> tuple[Path, ...]:
        """Download all pictures into a folder, which is made, as ``{stem}-{index}.png``.

        A picture in another format gets the ending of that format, as in :meth:`OutputImage.save`.

        Args:
            directory: The folder.
            stem: What the files are called; the request's ``key`` or else the task's id by default. Characters that do
                not belong into a file's name become ``_``.

        Raises:
            DownloadError: If a picture can't be had whole.
            OSError: If one can't be written.
            SessionClosedError: If the session is closed.
        """
        key = self.request.key if self.request is not None else None
        name = safe_stem(stem or key or self.task_id)
        return tuple([await image.save(Path(directory) / f"{name}-{image.index}.png") for image in self.images])

    def _repr_html_(self) -> str:
        """Before and after, in a notebook: small pictures of what was downloaded by then."""
        from qwen_edit_async.display.cards import edit_html  # noqa: PLC0415  # notebooks alone need it

        return edit_html(self._view())

    def _view(self) -> EditView:
        from qwen_edit_async.display.cards import EditView  # noqa: PLC0415  # likewise

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


def conclude(task: EditTask, snapshot: TaskSnapshot, now: float, store: ResultStore) -> EditResult | QwenEditError:
    """Return the result or error that a terminal answer of the service amounts to."""
    if snapshot.status is TaskStatus.FAILED:
        failure = snapshot.failure or TaskFailure()
        return EditFailedError(
            failure.message or "the service gave no reason", code=failure.code, task_id=snapshot.task_id
        )
    if not snapshot.urls:
        return APIResponseError(
            f"task {snapshot.task_id} is completed, but the service names no picture of it",
            hint=f"session.attach({snapshot.task_id!r}) asks again",
            body=f"members: {', '.join(snapshot.raw)}",
            task_id=snapshot.task_id,
        )
    named = [(index, url) for index, url in enumerate(snapshot.urls) if url]
    if len(named) > MAX_N:  # a reply must not fill a disk, however many pictures it names
        log.warning("task %s names %d pictures: only the first %d are kept", snapshot.task_id, len(named), MAX_N)
    asked = (task.request.parameters.n or MIN_N) if task.request is not None else MIN_N
    missing = shortfall(len(named), asked) if len(named) < asked else ()
    for note in missing:
        log.warning("task %s: %s", snapshot.task_id, note)
    previews = Previews(task.request.images if task.request is not None else ())
    return EditResult(
        task_id=snapshot.task_id,
        images=tuple(
            [
                OutputImage(url=url, task_id=snapshot.task_id, index=index, store=store, previews=previews)
                for index, url in named[:MAX_N]
            ]
        ),
        usage=snapshot.usage,
        metadata=snapshot.metadata,
        timings=EditTimings(
            queued=task.queued,
            submitting=task.submitting,
            running=now - task.since,
            lag=now - task.checked_at,
            checks=task.checks,
            failed_checks=task.failed_checks,
        ),
        notes=(*task.notes, *missing),
        request=task.request,
        raw=snapshot.raw,
        previews=previews,
    )


def safe_stem(text: str) -> str:
    """A file name's stem made of any text, which may come from a server."""
    stem = _DEVICE.sub(r"\1_.", _UNSAFE_IN_NAMES.sub("_", text).lstrip("."))
    stem = stem.encode("utf-8", "replace")[:_MAX_STEM_BYTES].decode("utf-8", "ignore")
    if stem == text:
        return stem
    # The hash keeps texts apart that became the same by the change.
    return f"{stem}-{hashlib.blake2s(text.encode('utf-8', 'replace'), digest_size=4).hexdigest()}"


def _decode(content: bytes, name: str) -> Image:
    from qwen_edit_async.images import pillow  # noqa: PLC0415  # Pillow is an extra

    return pillow.decode(content, name)
