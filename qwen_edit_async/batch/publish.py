"""``report.html`` and ``report.json`` beside the pictures, at the end of a run. Blocking.

They are a courtesy: what keeps them from being written never fails a run, but is told.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from qwen_edit_async.batch.outcomes import BatchOutcome, BatchStatus, read_chosen
from qwen_edit_async.batch.report import BatchReport
from qwen_edit_async.display.page import GalleryEdit, write_gallery, write_whole
from qwen_edit_async.errors import JournalError
from qwen_edit_async.images.kinds import is_url
from qwen_edit_async.log import log

PAGE_NAME: Final = "report.html"
JSON_NAME: Final = "report.json"
_PAGE_START: Final = (
    b'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy"'
)
_HEADER_BYTES: Final = 100
"""What each SQLite database begins with; a file of a byte or none passes for a new one."""

_UNFINISHED: Final[dict[BatchStatus, str]] = {
    "planned": "not submitted yet",
    "submitting": "uncertain",  # a page is made when nothing is being submitted any more
    "submitted": "in flight",
    "completed": "completed, but not saved",
    "uncertain": "uncertain",
}


class AbandonedError(Exception):
    """Nobody waits for the page any more."""


def publish(
    report: BatchReport, journal: Path, *, limit: int, preview_seconds: float, abandoned: threading.Event
) -> BatchReport:
    """Write both files, unless ``limit`` is 0, when there is no page; the report, which tells what became of the page.

    Args:
        report: How the run went.
        journal: What became of each edit.
        limit: How many edits the page shows at most; those that went wrong come first.
        preview_seconds: For how long small pictures are made; after that the page shows the files themselves.
        abandoned: Set if it need not be finished.
    """
    page = journal.with_name(PAGE_NAME)
    if limit:
        try:
            edits = _edits(journal, limit, time.monotonic() + preview_seconds, abandoned)
            title = journal.absolute().parent.name or "Edits"
            write_gallery(page, edits, title=title, summary=report.facts(limit))
        except AbandonedError:
            return report
        except Exception as error:  # noqa: BLE001  # whatever it is, the run's pictures are worth more than the page
            problem = getattr(error, "strerror", None) or str(error)
            log.warning("%s could not be written: %s", page, problem)
            report = attrs.evolve(report, gallery_problem=problem)
        else:
            report = attrs.evolve(report, gallery=str(page))
    try:
        write_whole(journal.with_name(JSON_NAME), [report.to_json(), "\n"])
    except Exception as error:  # noqa: BLE001  # as above: a damaged journal can hold what is no JSON
        problem = getattr(error, "strerror", None) or str(error)
        log.warning("%s could not be written: %s", journal.with_name(JSON_NAME), problem)
    return report


def check_not_lost(journal: Path) -> None:
    """Refuse to begin a journal anew where earlier runs have left their reports: all would be paid for again.

    Raises:
        JournalError: If there is no journal, or one without content, beside such a report.
    """
    with contextlib.suppress(OSError):  # whatever it is, opening the journal will say
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


def _edits(journal: Path, limit: int, previews_until: float, abandoned: threading.Event) -> Iterator[GalleryEdit]:
    with contextlib.closing(read_chosen(journal, limit)) as outcomes:
        for outcome in outcomes:
            if abandoned.is_set():
                raise AbandonedError
            yield _edit(outcome, previews=time.monotonic() < previews_until)


def _edit(outcome: BatchOutcome, *, previews: bool) -> GalleryEdit:
    return GalleryEdit(
        key=outcome.key,
        instruction=outcome.instruction,
        inputs=tuple(image for image in outcome.images if image and not is_url(image) and os.path.isfile(image)),  # noqa: PTH113  # a str
        outputs=tuple(path for path in outcome.files if path.is_file()),
        parameters=outcome.parameters,
        cost=outcome.cost,
        task_id=outcome.task_id,
        status=_UNFINISHED.get(outcome.status),
        error=outcome.error,
        notes=outcome.notes,
        previews=previews,
    )
