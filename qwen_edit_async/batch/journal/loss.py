"""Detects a lost journal by the reports that earlier runs left in its folder. Blocking."""

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
"""The size of a SQLite database's header. A shorter file holds no journal."""


def check_not_lost(journal: Path) -> None:
    """Refuse to begin a new journal beside an earlier report, because all edits would be paid for again.

    Raises:
        JournalError: If the journal beside such a report is missing or empty.
    """
    with contextlib.suppress(OSError):  # a missing file; opening the journal reports other errors
        if journal.stat().st_size >= _HEADER_BYTES:
            return
    for report, is_ours in ((journal.with_name(JSON_NAME), _is_report), (journal.with_name(PAGE_NAME), _is_page)):
        with contextlib.suppress(OSError, ValueError):
            if is_ours(report):
                raise JournalError(
                    f"the journal {journal} is missing or empty, but {report.name} is from an earlier run: "
                    "restore a copy of the journal; a run in another folder would submit and pay for every edit again"
                )


def _is_report(path: Path) -> bool:
    report = json.loads(path.read_bytes())
    return isinstance(report, dict) and {"folder", "saved", "uncertain_keys"} <= report.keys()


def _is_page(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_PAGE_START)) == _PAGE_START
