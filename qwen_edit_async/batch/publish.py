"""Writes ``report.html`` and ``report.json`` beside the pictures at the end of a run. Blocking.

If a file can't be written, the run logs a warning, but does not fail.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

import attrs

from qwen_edit_async.batch.journal.outcomes import read_chosen
from qwen_edit_async.batch.outcome import BatchOutcome, BatchStatus
from qwen_edit_async.batch.rules.report import JSON_NAME, PAGE_NAME, BatchReport
from qwen_edit_async.display.gallery import GalleryEdit, Picture, gallery_html
from qwen_edit_async.display.links import relative_path
from qwen_edit_async.display.store import ThumbnailStore
from qwen_edit_async.display.thumbnails import Thumbnail
from qwen_edit_async.log import log
from qwen_edit_async.storage.bucket import BucketPath
from qwen_edit_async.storage.paths import FilePath, new_part

_UNFINISHED: Final[dict[BatchStatus, str]] = {
    "planned": "not submitted yet",
    "submitting": "uncertain",  # when the page is written, no reply is awaited any more
    "submitted": "in flight",
    "completed": "completed, but not saved",
    "uncertain": "uncertain",
}

_TOGETHER: Final = 64
"""The number of edits whose missing thumbnails are made together, on several threads."""


def publish(
    report: BatchReport,
    journal: Path,
    folder: FilePath,
    thumbnails: ThumbnailStore,
    *,
    limit: int,
    preview_seconds: float,
    given_up: threading.Event,
) -> BatchReport:
    """Write ``report.html`` and ``report.json``. Return the report with the page's path or problem.

    The page shows at most ``limit`` edits, those with errors first; with 0, no page is written. After
    ``preview_seconds``, no missing thumbnail is begun. A picture without a thumbnail is shown from its file.
    ``given_up`` is set when nobody waits for the files any more.
    """
    thumbnails.finish()
    previews_until = time.monotonic() + preview_seconds

    def thumbnails_of(images: Iterable[Any]) -> dict[Any, Thumbnail | None]:
        made = thumbnails.get_all(images, lambda: time.monotonic() < previews_until and not given_up.is_set())
        if given_up.is_set():
            raise RuntimeError("the run no longer waits for the page")
        return made

    if limit:
        page = folder / PAGE_NAME
        try:
            with contextlib.closing(read_chosen(journal, folder, limit)) as outcomes:
                edits = _gallery_edits(outcomes, folder, thumbnails_of)
                write_atomically(page, gallery_html(edits, title=folder.name or "Edits", summary=report.facts(limit)))
            report = attrs.evolve(report, gallery=str(page))
        except Exception as error:  # noqa: BLE001  # a problem with the page must not fail the run
            report = attrs.evolve(report, gallery_problem=_log_problem(page, error))
        if given_up.is_set():
            return report
    # If the journal is lost, report.json in the journal's folder stops the next run from starting an empty journal.
    for path in {journal.with_name(JSON_NAME), folder / JSON_NAME}:
        _write_json(report, path)
    return report


def _write_json(report: BatchReport, path: FilePath) -> None:
    try:
        write_atomically(path, [report.to_json(), "\n"])
    except Exception as error:  # noqa: BLE001  # a damaged journal may hold values that JSON can't represent
        _log_problem(path, error)


def _gallery_edits(
    outcomes: Iterator[BatchOutcome],
    folder: FilePath,
    thumbnails_of: Callable[[Iterable[Any]], Mapping[Any, Thumbnail | None]],
) -> Iterator[GalleryEdit]:
    while some := [*islice(outcomes, _TOGETHER)]:
        thumbnails = thumbnails_of(image for outcome in some for image in (*outcome.images, *outcome.files))
        pictures = {
            image: Picture(thumbnail=thumbnail, path=relative_path(BucketPath.of(image) or image, folder))
            for image, thumbnail in thumbnails.items()
        }
        for outcome in some:
            yield _gallery_edit(outcome, pictures)


def _gallery_edit(outcome: BatchOutcome, pictures: Mapping[Any, Picture]) -> GalleryEdit:
    """Return an edit for the page. Images in memory, URLs and missing files are left out."""
    facts = {"status": _UNFINISHED.get(outcome.status), "damaged": outcome.damage, **outcome.parameters}
    return GalleryEdit(
        key=outcome.key,
        instruction=outcome.instruction,
        before=tuple(pictures[image] for image in outcome.images if image in pictures),
        after=tuple(pictures[path] for path in outcome.files if path in pictures),
        facts=facts | {"cost": outcome.cost, "task": outcome.task_id, "note": "; ".join(outcome.notes) or None},
        error=outcome.error,
    )


def write_atomically(path: FilePath, pieces: Iterable[str]) -> None:
    """Write a text file. If the write fails, an existing file stays as it was.

    Raises:
        OSError: If the file can't be written.
    """
    if isinstance(path, BucketPath):
        path = attrs.evolve(path, replace=True)
    with contextlib.closing(new_part(path)) as part:
        part.write(0, (piece.encode("utf-8", "replace") for piece in pieces))
        part.commit(path)


def _log_problem(path: FilePath, error: Exception) -> str:
    problem = getattr(error, "strerror", None) or str(error)
    log.warning("%s could not be written: %s", path, problem)
    return problem
