"""Writes ``report.html`` and ``report.json`` beside the pictures at the end of a run. Blocking.

If they can't be written, the run logs a warning, but does not fail.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

import attrs

from qwen_edit_async.batch.journal.outcomes import read_chosen
from qwen_edit_async.batch.outcome import BatchOutcome, BatchStatus
from qwen_edit_async.batch.report import JSON_NAME, PAGE_NAME, BatchReport
from qwen_edit_async.display.gallery import GalleryEdit, Picture
from qwen_edit_async.display.links import relative_path
from qwen_edit_async.display.page import write_atomically, write_page
from qwen_edit_async.display.store import ThumbnailStore
from qwen_edit_async.images.kinds import is_url
from qwen_edit_async.log import log
from qwen_edit_async.storage.bucket import BucketPath
from qwen_edit_async.storage.paths import FilePath

_Show: TypeAlias = Callable[[str | FilePath], Picture]
"""A function that converts an image to a picture for the page."""

_UNFINISHED: Final[dict[BatchStatus, str]] = {
    "planned": "not submitted yet",
    "submitting": "uncertain",  # no submission is under way when the page is written
    "submitted": "in flight",
    "completed": "completed, but not saved",
    "uncertain": "uncertain",
}


class _GivenUpError(Exception):
    """Raised to stop writing the page when nobody waits for it any more."""


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
    """Write both files. Return the report with the page's path, or with the reason why there is no page.

    Args:
        report: The report of the run.
        journal: The journal.
        folder: The folder of the results, in which both files are written.
        thumbnails: The thumbnails made so far. Missing thumbnails are made.
        limit: The maximum number of edits on the page; edits with errors come first. 0 means no page.
        preview_seconds: Seconds for making thumbnails. After that, the page shows the picture files instead.
        given_up: Set when nobody waits for the files any more.
    """
    thumbnails.finish()
    previews_until = time.monotonic() + preview_seconds

    def show(image: str | FilePath) -> Picture:
        if given_up.is_set():
            raise _GivenUpError
        thumbnail = thumbnails.get(image, make=time.monotonic() < previews_until)
        return Picture(thumbnail=thumbnail, path=relative_path(image, folder))

    if limit:
        try:
            report = _with_page(report, journal, folder, limit, show)
        except _GivenUpError:
            return report
    # A report in the journal's folder lets the next run detect that the journal is lost.
    for path in {journal.with_name(JSON_NAME), folder / JSON_NAME}:
        _write_json(path, report)
    return report


def _with_page(report: BatchReport, journal: Path, folder: FilePath, limit: int, show: _Show) -> BatchReport:
    """Write the page. Return the report with the page's path, or with the reason why it could not be written."""
    page, draw = folder / PAGE_NAME, functools.partial(_gallery_edit, show=show)
    try:
        with contextlib.closing(read_chosen(journal, folder, limit)) as outcomes:
            write_page(page, outcomes, draw, title=folder.name or "Edits", summary=report.facts(limit))
    except _GivenUpError:
        raise
    except Exception as error:  # noqa: BLE001  # a problem with the page must not fail the run
        return attrs.evolve(report, gallery_problem=_log_problem(page, error))
    return attrs.evolve(report, gallery=str(page))


def _write_json(path: FilePath, report: BatchReport) -> None:
    try:
        write_atomically(path, [report.to_json(), "\n"])
    except Exception as error:  # noqa: BLE001  # a damaged journal may hold values that JSON can't represent
        _log_problem(path, error)


def _gallery_edit(outcome: BatchOutcome, show: _Show) -> GalleryEdit:
    inputs = [BucketPath.of(image) or image for image in outcome.images if image and not is_url(image)]
    facts = {"status": _UNFINISHED.get(outcome.status), "damaged": outcome.damage, **outcome.parameters}
    return GalleryEdit(
        key=outcome.key,
        instruction=outcome.instruction,
        before=tuple(map(show, filter(_is_there, inputs))),
        after=tuple(map(show, filter(_is_there, outcome.files))),
        facts=facts | {"cost": outcome.cost, "task": outcome.task_id, "note": "; ".join(outcome.notes) or None},
        error=outcome.error,
    )


def _is_there(path: str | FilePath) -> bool:
    """Return whether a file exists. A file in a bucket counts as existing, because requests for all would take long."""
    return isinstance(path, BucketPath) or os.path.isfile(path)


def _log_problem(path: FilePath, error: Exception) -> str:
    problem = getattr(error, "strerror", None) or str(error)
    log.warning("%s could not be written: %s", path, problem)
    return problem
