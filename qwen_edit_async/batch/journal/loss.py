"""Detects a lost journal by the reports of earlier runs beside it. Blocking."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Final

from qwen_edit_async.batch.report import JSON_NAME, PAGE_NAME
from qwen_edit_async.errors import JournalError

_PAGE_START: Final = (
    b'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy"'
)
_HEADER_BYTES: Final = 100
"""The size of a SQLite database's header. SQLite takes a file of 0 or 1 bytes for a new database."""


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
