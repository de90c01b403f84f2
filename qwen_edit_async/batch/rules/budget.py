"""The budget of a bulk run. Pure: no I/O, no clock."""

from __future__ import annotations

import enum
import math
from decimal import Decimal, InvalidOperation
from typing import Final

import attrs

from qwen_edit_async.batch.rules.report import JournalSummary
from qwen_edit_async.errors import ConfigurationError
from qwen_edit_async.text import counted, quoted

_UNREACHABLE_LIMIT: Final = 20
_UNSAVED_LIMIT: Final = 3


class Verdict(enum.Enum):
    """A decision about submitting an edit: now, later or never."""

    GO = enum.auto()
    WAIT = enum.auto()
    STOP = enum.auto()


def _known(price: Decimal | None) -> Decimal | None:
    """Treat a price of 0 as unknown, because a price of 0 could not limit the number of edits."""
    return price or None


@attrs.define(kw_only=True)
class Budget:
    """The limits of a batch, and the costs and tasks that count against them.

    The cost of an edit is known only when its task ends. Until then, each picture of the edit counts against
    ``max_cost`` at the highest known price of a picture. Prices are known from completed edits or from the batch's
    ``price``. With ``max_cost``, edits run one at a time until a price above 0 is known. Each is assumed to cost
    as much as the most expensive edit so far, failed edits included. An edit that may have been charged, such as an
    uncertain one, could have cost any amount. After such an edit, nothing is submitted until a price is known.

    Prices can rise while an admitted edit waits for a slot, so :meth:`confirm` judges the edit again just before it is
    sent. Edits sent before a higher price is known can still exceed ``max_cost``.

    If the service states no costs, a batch with ``max_cost`` submits nothing more after an edit has completed. If it
    states some, the pictures of a completed edit without a cost keep counting at the highest known price.

    The budget also limits spending on pictures that can't be saved. Until a run has saved an edit, at most ``slots``
    edits are unfinished, and nothing is submitted while pictures are being saved. After an edit whose pictures could
    not be saved, edits run one at a time until an edit is saved. After three such edits in a row, nothing is submitted
    until an edit is saved. An edit that an earlier run completed never counts as the third, because pictures that are
    lost for good would otherwise block every later run.

    Attributes:
        max_cost: The maximum cost of the batch, earlier runs included, in the account's currency.
        max_tasks: The maximum number of tasks, earlier runs included.
        stop_after_failures: The number of failures in this run after which nothing more is submitted. Bad input does
            not count.
        slots: The maximum number of unfinished edits until an edit is saved, and while tasks of earlier runs are
            unfinished.
        on_demand: Whether callers request edits one by one, as from an ``EditHub``. If so, pictures that can't be
            downloaded and an unreachable service do not stop the batch.
        spent: The costs that the service stated.
        tasks: The number of tasks that were, or may have been, created.
        stopped: The reason why nothing more may be submitted; empty if there is none.
        held: The reason why submissions wait until an edit is saved; empty if submissions do not wait.
        fetching: The journal numbers of the completed edits whose pictures are being saved.
        limit: The name of the limit that stopped the batch, ``max_cost`` or ``max_tasks``; empty if neither did.
        attached: The number of unfinished tasks of earlier runs. They count against ``slots``.
        left: The journal numbers of the edits that this run no longer waits for, but whose tasks may still be charged.
            Their pictures keep counting against ``max_cost``.
    """

    max_cost: Decimal | None = None
    max_tasks: int | None = None
    stop_after_failures: int | None = None
    slots: float = math.inf
    on_demand: bool = False
    spent: Decimal = Decimal(0)
    tasks: int = 0
    stopped: str = ""
    held: str = ""
    fetching: set[int] = attrs.field(factory=set)
    limit: str = ""
    attached: int = 0
    left: set[int] = attrs.field(factory=set)
    _price: Decimal | None = attrs.field(default=None, converter=_known)
    _highest: Decimal = Decimal(0)
    _unpriced: int = 0
    _failures: int = 0
    _unreachable: int = 0
    _unsaved: int = 0
    _last_saved: bool = False
    _pending: int = 0
    _live: int = 0
    _reserved: int = 0

    def resume(self, known: JournalSummary) -> None:
        """Count the costs and tasks of earlier runs."""
        self.spent, self.tasks = known.cost, known.tasks
        self._price, self._highest = known.price or self._price, known.highest
        self._unpriced, self._reserved = known.unpriced, known.doubtful

    def stop(self, reason: str) -> None:
        """Stop submitting for a reason. Only the first reason is kept."""
        self.stopped = self.stopped or reason

    def admit(self, pictures: int) -> Verdict:
        """Return whether an edit with this many pictures may be submitted now.

        After ``GO``, the edit counts as unfinished until its end is recorded. After ``WAIT``, call this method
        again when another edit has changed its state. ``STOP`` is final, unless submissions are ``held`` and the
        budget is ``on_demand``.
        """
        verdict = self._judge(pictures)
        if verdict is Verdict.GO:
            self._reserve(pictures)
        return verdict

    def confirm(self, pictures: int) -> bool:
        """Return whether an admitted edit may still be submitted. Call this method just before the edit is sent.

        The batch may have stopped or been ``held`` since the edit was admitted, or the price may have risen. Whatever
        the answer, the edit counts as unfinished until its end is recorded.
        """
        if self.stopped or self.held:
            return False
        self.rejected(pictures)
        fits = self.max_cost is None or self._judge_cost(pictures, self.max_cost) is Verdict.GO
        self._reserve(pictures)
        return fits

    def adopt(self, pictures: int, number: int | None = None) -> None:
        """Count an edit as unfinished until its end is recorded. The pictures of an edit in ``left`` count already."""
        self._live += 1
        if number in self.left:
            self.left.discard(number)
        else:
            self._reserved += pictures

    def created(self) -> None:
        """Record that an admitted edit has, or may have, a task."""
        self._pending -= 1
        self.tasks += 1
        self._unreachable = 0

    def rejected(self, pictures: int) -> None:
        """Record the end of an admitted edit that has no task, so it can't be charged."""
        self._pending -= 1
        self.ended(pictures, chargeable=False)

    def recall(self, pictures: int, number: int) -> bool:
        """Count an edit in ``left`` as unfinished again. Return whether the edit was in ``left``."""
        if number not in self.left:
            return False
        self.adopt(pictures, number)
        return True

    def cancelled(self) -> None:
        """Record that a task was cancelled by the service, or never existed. It no longer counts as created."""
        self.tasks -= 1

    def completed(self, pictures: int, cost: Decimal | None, *, made: int, counted: Decimal | None = None) -> None:
        """Record that an edit completed. A cost above 0 may raise the known price of a picture.

        Args:
            pictures: The number of requested pictures.
            cost: The cost that the service stated.
            made: The number of pictures that the task made.
            counted: The edit's cost that ``spent`` already includes, because an earlier run counted it.
        """
        self.ended(pictures, chargeable=True, cost=cost, counted=counted)
        self._unpriced += cost is None
        if cost:
            self._price = max(cost / min(made, pictures), self._price or Decimal(0))

    def ended(
        self, pictures: int, *, chargeable: bool, cost: Decimal | None = None, counted: Decimal | None = None
    ) -> None:
        """Record that an edit ended. For a completed edit, call :meth:`completed` instead.

        A stated cost is counted as spent, but does not change the known price of a picture. A ``chargeable`` edit
        without a stated cost may still be charged, so it keeps counting against ``max_cost``.
        """
        self._live -= 1
        if cost is not None:
            self.spent += cost - (counted or 0)
            self._highest = max(cost, self._highest)
        if cost is not None or not chargeable:
            self._reserved -= pictures

    def failed(self, *, unreachable: bool = False) -> None:
        """Record that an edit failed in this run for a reason other than bad input.

        ``unreachable`` is true if the service could not be reached.
        """
        self._failures += 1
        self._unreachable = self._unreachable + 1 if unreachable else 0
        if self.stop_after_failures is not None and self._failures >= self.stop_after_failures:
            self.stop(f"{counted(self._failures, 'edit')} failed (stop_after_failures={self.stop_after_failures})")
        elif self._unreachable >= _UNREACHABLE_LIMIT and not self.on_demand:
            self.stop(f"the service could not be reached for {self._unreachable} edits in a row")

    def saved(self) -> None:
        """Record that a completed edit was saved."""
        self._unsaved, self._last_saved, self.held = 0, True, ""

    def unsaved(self, reason: str, *, earlier: bool) -> bool:
        """Record that the pictures of a completed edit could not be saved.

        Args:
            reason: The reason why the pictures could not be saved.
            earlier: Whether the edit was already completed in an earlier run.

        Returns:
            Whether submissions must wait from now on, because this is the third unsaved edit in a row.
        """
        self._last_saved = False
        if earlier and self._unsaved >= _UNSAVED_LIMIT - 1:
            return False
        self._unsaved += 1
        if self._unsaved != _UNSAVED_LIMIT:
            return False
        self.held = f"the pictures of {_UNSAVED_LIMIT} completed edits in a row could not be saved: {reason}"
        return True

    def _reserve(self, pictures: int) -> None:
        self.adopt(pictures)
        self._pending += 1

    def _waits_for_pictures(self) -> bool:
        if self._last_saved:
            return False
        return bool(self.held or self.fetching) or self._live >= (1 if self._unsaved else self.slots)

    def _judge(self, pictures: int) -> Verdict:
        if self.stopped:
            return Verdict.STOP
        if self.held and not (self._live or self.fetching):
            return Verdict.STOP if self.on_demand else self._exhaust("", self.held)
        if self._waits_for_pictures() or (self.attached and self._live >= self.slots):
            return Verdict.WAIT
        if self.max_tasks is not None and self.tasks + self._pending >= self.max_tasks:
            if self._pending:
                return Verdict.WAIT
            return self._exhaust("max_tasks", f"{counted(self.tasks, 'task')} created (max_tasks={self.max_tasks})")
        return Verdict.GO if self.max_cost is None else self._judge_cost(pictures, self.max_cost)

    def _judge_cost(self, pictures: int, limit: Decimal) -> Verdict:
        unstated = self._unpriced and (self._price is None or not self.spent)
        if self._live and (self._price is None or unstated):
            return Verdict.WAIT
        if unstated:
            # `self.limit` stays empty, because a higher max_cost would not help.
            return self._exhaust("", "the service does not say what edits cost: use max_tasks instead of max_cost")
        if self._price is None and self._reserved:
            # `self.limit` stays empty, because a higher max_cost would not help.
            advice = "give the price of a picture as price=…, or use max_tasks instead of max_cost"
            return self._exhaust("", f"an edit may have been charged, but no price is known: {advice}")
        if self._price is None:
            over = self.spent >= limit or self.spent + self._highest > limit
        else:
            over = self.spent + (self._reserved + pictures) * self._price > limit
        if not over:
            return Verdict.GO
        if self._live:
            return Verdict.WAIT
        reason = f"{self.spent} was spent, and the next edit could exceed max_cost={limit}"
        return self._exhaust("max_cost", reason)

    def _exhaust(self, limit: str, reason: str) -> Verdict:
        self.stop(reason)
        self.limit = limit
        return Verdict.STOP


def to_money(value: Decimal | float | str | None, name: str) -> Decimal | None:
    """Convert a value to an amount of money.

    Raises:
        ConfigurationError: If the value is not an amount of money, 0 or more.
    """
    try:
        cost = None if value is None else Decimal(str(value))
    except InvalidOperation:
        cost = Decimal("NaN")
    if cost is not None and not (cost.is_finite() and cost >= 0):
        raise ConfigurationError(f"{name} is {quoted(str(value))}: give an amount of money, 0 or more")
    return cost
