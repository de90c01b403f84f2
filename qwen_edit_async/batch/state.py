"""The state of one run, which its rows share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import attrs

from qwen_edit_async.batch.budget import Budget
from qwen_edit_async.batch.decide import Consent
from qwen_edit_async.batch.gather import Gatherer
from qwen_edit_async.batch.input import BatchInput
from qwen_edit_async.batch.journal.journal import Journal
from qwen_edit_async.display.store import ThumbnailStore
from qwen_edit_async.session.session import EditSession


@attrs.define(kw_only=True)
class BatchProgress:
    """The progress of a run.

    Attributes:
        saved: Edits that are done, those of earlier runs too, as far as the input was read.
        found: Edits among them that earlier runs had done.
        pictures: The files of these edits.
        failed: Edits that went wrong in this run.
        in_flight: Edits that this run is submitting, or whose tasks it waits for.
        cost: The cost of the whole batch so far.
        total: Rows, pictures or requests of the input, bad ones too; ``None`` if they were not counted beforehand.
        held: The reason why nothing is submitted until a completed edit is saved; empty if submissions go on.
        begun: Whether the run works on edits. Before that it opens its journal and reads its input.
        publishing: Whether the run writes ``report.html`` and ``report.json``, or has written them.
    """

    saved: int = 0
    found: int = 0
    pictures: int = 0
    failed: int = 0
    in_flight: int = 0
    cost: Decimal = Decimal(0)
    total: int | None = None
    held: str = ""
    begun: bool = False
    publishing: bool = False


@attrs.define(eq=False, kw_only=True)
class RunState:
    """The state of one run.

    Attributes:
        session: The session that edits.
        journal: The open journal.
        budget: The limits, and what was spent.
        files: The thread that reads files.
        given: The input, and the folder of the results.
        consent: What the user allows.
        deadline: Seconds for each edit; ``None`` for the session's.
        progress: The progress.
        thumbnails: The thumbnails for the page.
        shown: The number of edits on the page.
        error: The error that every other edit would meet, too.
        attempts: The number of submissions without a reply, or whose task ids are not written yet.
        unwritten: The keys and task ids that the journal could not take.
        news: Set when an edit's state or the budget has changed.
    """

    session: EditSession
    journal: Journal
    budget: Budget
    files: Gatherer
    given: BatchInput
    consent: Consent
    deadline: float | None
    progress: BatchProgress
    thumbnails: ThumbnailStore
    shown: int
    error: Exception | None = None
    attempts: int = 0
    unwritten: list[tuple[str, str]] = attrs.field(factory=list)
    news: asyncio.Event = attrs.field(factory=asyncio.Event)

    def stop(self, error: Exception) -> None:
        """Stop submitting, because every other edit would meet this error."""
        self.error = self.error or error
        self.budget.stop(str(error))
        self.news.set()

    def show_soon(self, number: int, images: Iterable[Any]) -> None:
        """Make thumbnails while the service works, if the page can show the edit of this number."""
        if number <= self.shown:
            self.thumbnails.make_soon(images)

    async def change(self) -> None:
        """Wait until an edit's state or the budget has changed."""
        self.news.clear()
        await self.news.wait()
