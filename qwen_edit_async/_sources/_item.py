"""One edit of a source, or why there is none. Pure."""

from __future__ import annotations

import attrs

from qwen_edit_async._models import EditParameters, EditRequest


@attrs.frozen(kw_only=True)
class SourceItem:
    """One edit of a source, or why one of its rows makes none.

    Attributes:
        row: In a table: as a spreadsheet numbers it, from 1, the header included; without a header, the line or row
            from 1; in a data frame, its position from 0. ``None`` elsewhere.
        request: The edit; its ``key`` is the table's, or ``None``.
        problem: Why there is none.
        place: Where that is, if it is no row.
    """

    row: int | None = None
    request: EditRequest | None = None
    problem: str | None = None
    place: str = ""

    @property
    def label(self) -> str:
        """What to call it in messages."""
        if self.row is not None:
            return f"row {self.row}"
        return str(self.request.images[0]) if self.request is not None else self.place


@attrs.frozen
class EditDefaults:
    """What holds for each item that does not say otherwise.

    Attributes:
        instruction: What to do.
        parameters: How to do it.
    """

    instruction: str | None = None
    parameters: EditParameters = attrs.field(factory=EditParameters)
