"""``report.html`` and ``report.json``, which a run writes beside the pictures at its end. Blocking.

A run never fails because they can't be written. It logs a warning instead.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeAlias

import attrs

from qwen_edit_async.batch.journal.outcomes import read_chosen
from qwen_edit_async.batch.outcome import BatchOutcome, BatchStatus
from qwen_edit_async.batch.report import JSON_NAME, PAGE_NAME, BatchReport
from qwen_edit_async.display.gallery import GalleryEdit, Picture
from qwen_edit_async.display.links import relative_path
from qwen_edit_async.display.page import write_page, write_whole
from qwen_edit_async.display.store import ThumbnailStore
from qwen_edit_async.images.kinds import is_url
from qwen_edit_async.log import log

_Show: TypeAlias = Callable[[str | Path], Picture]
"""Returns an image as the page shows it."""

_UNFINISHED: Final[dict[BatchStatus, str]] = {
    "planned": "not submitted yet",
    "submitting": "uncertain",  # no submission is under way when the page is written
    "submitted": "in flight",
    "completed": "completed, but not saved",
    "uncertain": "uncertain",
}


class _GivenUpError(Exception):
    """The page is not finished, because nobody waits for it any more."""


def publish(
    report: BatchReport,
    journal: Path,
    thumbnails: ThumbnailStore,
    *,
    limit: int,
    preview_seconds: float,
    given_up: threading.Event,
) -> BatchReport:
    """Write both files. Return the report with the page's path, or the reason why the page is missing.

    Args:
        report: The report of the run.
        journal: The journal, which lies in the folder of both files.
        thumbnails: The thumbnails made so far. Missing thumbnails are made.
        limit: The maximum number of edits on the page; edits with errors come first. 0 means no page.
        preview_seconds: Seconds for making thumbnails. Later edits show their files instead.
        given_up: Set when nobody waits for the files any more.
    """
    thumbnails.finish()
    previews_until = time.monotonic() + preview_seconds

    def show(image: str | Path) -> Picture:
        if given_up.is_set():
            raise _GivenUpError
        thumbnail = thumbnails.get(image, make=time.monotonic() < previews_until)
        return Picture(thumbnail=thumbnail, path=relative_path(image, journal.parent))

    if limit:
        page = journal.with_name(PAGE_NAME)
        try:
            _write_page(page, journal, report.facts(limit), limit, show)
        except _GivenUpError:
            return report
        except Exception as error:  # noqa: BLE001  # the run's pictures are worth more than the page
            report = attrs.evolve(report, gallery_problem=_log_problem(page, error))
        else:
            report = attrs.evolve(report, gallery=str(page))
    _write_json(journal.with_name(JSON_NAME), report)
    return report


def _write_page(page: Path, journal: Path, summary: Mapping[str, object], limit: int, show: _Show) -> None:
    title = journal.absolute().parent.name or "Edits"
    with contextlib.closing(read_chosen(journal, limit)) as outcomes:
        write_page(page, outcomes, functools.partial(_gallery_edit, show=show), title=title, summary=summary)


def _write_json(path: Path, report: BatchReport) -> None:
    try:
        write_whole(path, [report.to_json(), "\n"])
    except Exception as error:  # noqa: BLE001  # also values of a damaged journal that JSON can't hold
        _log_problem(path, error)


def _gallery_edit(outcome: BatchOutcome, show: _Show) -> GalleryEdit:
    inputs = [image for image in outcome.images if image and not is_url(image) and os.path.isfile(image)]
    outputs = [path for path in outcome.files if path.is_file()]
    facts = {"status": _UNFINISHED.get(outcome.status), **outcome.parameters}
    return GalleryEdit(
        key=outcome.key,
        instruction=outcome.instruction,
        before=tuple(map(show, inputs)),
        after=tuple(map(show, outputs)),
        facts=facts | {"cost": outcome.cost, "task": outcome.task_id, "note": "; ".join(outcome.notes) or None},
        error=outcome.error,
    )


def _log_problem(path: Path, error: Exception) -> str:
    problem = getattr(error, "strerror", None) or str(error)
    log.warning("%s could not be written: %s", path, problem)
    return problem
