"""``report.html`` and ``report.json``, which a run writes beside the pictures at its end. Blocking.

A run never fails because they can't be written. It logs a warning instead.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Final

import attrs

from qwen_edit_async.batch.journal.outcomes import read_chosen
from qwen_edit_async.batch.outcome import BatchOutcome, BatchStatus
from qwen_edit_async.batch.report import BatchReport
from qwen_edit_async.display.gallery import GalleryEdit
from qwen_edit_async.display.page import picture, write_page, write_whole
from qwen_edit_async.errors import JournalError
from qwen_edit_async.images.kinds import is_url
from qwen_edit_async.log import log

PAGE_NAME: Final = "report.html"
JSON_NAME: Final = "report.json"
_PAGE_START: Final = (
    b'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy"'
)
_HEADER_BYTES: Final = 100
"""The size of a SQLite database's header. SQLite takes a file of 0 or 1 bytes for a new database."""

_UNFINISHED: Final[dict[BatchStatus, str]] = {
    "planned": "not submitted yet",
    "submitting": "uncertain",  # the page is written when no submission goes on any more
    "submitted": "in flight",
    "completed": "completed, but not saved",
    "uncertain": "uncertain",
}


class AbandonedError(Exception):
    """The page is not finished, because nobody waits for it any more."""


def publish(
    report: BatchReport, journal: Path, *, limit: int, preview_seconds: float, abandoned: threading.Event
) -> BatchReport:
    """Write both files, and return the report with the page's path, or with the reason why there is none.

    Args:
        report: The report of the run.
        journal: The journal, which lies in the folder of both files.
        limit: The maximum number of edits on the page, those that went wrong first. With 0 there is no page.
        preview_seconds: The time for making thumbnails. Later edits show their files instead.
        abandoned: Set when nobody waits for the files any more.
    """
    page = journal.with_name(PAGE_NAME)
    previews_until = time.monotonic() + preview_seconds

    def draw(outcome: BatchOutcome) -> GalleryEdit:
        if abandoned.is_set():
            raise AbandonedError
        return _gallery_edit(outcome, page.parent, thumbnails=time.monotonic() < previews_until)

    if limit:
        title = journal.absolute().parent.name or "Edits"
        try:
            with contextlib.closing(read_chosen(journal, limit)) as outcomes:
                write_page(page, outcomes, draw, title=title, summary=report.facts(limit))
        except AbandonedError:
            return report
        except Exception as error:  # noqa: BLE001  # the run's pictures are worth more than the page
            report = attrs.evolve(report, gallery_problem=_log_problem(page, error))
        else:
            report = attrs.evolve(report, gallery=str(page))
    json_file = journal.with_name(JSON_NAME)
    try:
        write_whole(json_file, [report.to_json(), "\n"])
    except Exception as error:  # noqa: BLE001  # also values of a damaged journal that JSON can't hold
        _log_problem(json_file, error)
    return report


def check_not_lost(journal: Path) -> None:
    """Refuse to begin a new journal beside the report of an earlier run: all edits would be paid for again.

    Raises:
        JournalError: If the journal beside such a report is missing or empty.
    """
    with contextlib.suppress(OSError):  # opening the journal reports it
        if journal.stat().st_size >= _HEADER_BYTES:
            return
    for report, is_ours in ((journal.with_name(JSON_NAME), _is_report), (journal.with_name(PAGE_NAME), _is_page)):
        with contextlib.suppress(OSError, ValueError):
            if is_ours(report):
                raise JournalError(
                    f"the journal {journal} is gone, or has lost its content, but {report.name} tells of an earlier "
                    "run: put a copy of it back; in another folder everything would be submitted, and paid for, again"
                )


def _is_report(path: Path) -> bool:
    report = json.loads(path.read_bytes())
    return isinstance(report, dict) and {"folder", "saved", "uncertain_keys"} <= report.keys()


def _is_page(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_PAGE_START)) == _PAGE_START


def _gallery_edit(outcome: BatchOutcome, folder: Path, *, thumbnails: bool) -> GalleryEdit:
    inputs = [image for image in outcome.images if image and not is_url(image) and os.path.isfile(image)]  # noqa: PTH113  # a str
    outputs = [path for path in outcome.files if path.is_file()]
    facts = {"status": _UNFINISHED.get(outcome.status), **outcome.parameters}
    return GalleryEdit(
        key=outcome.key,
        instruction=outcome.instruction,
        before=tuple(picture(image, folder, thumbnail=thumbnails) for image in inputs),
        after=tuple(picture(path, folder, thumbnail=thumbnails) for path in outputs),
        facts=facts | {"cost": outcome.cost, "task": outcome.task_id, "note": "; ".join(outcome.notes) or None},
        error=outcome.error,
    )


def _log_problem(path: Path, error: Exception) -> str:
    problem = getattr(error, "strerror", None) or str(error)
    log.warning("%s could not be written: %s", path, problem)
    return problem
