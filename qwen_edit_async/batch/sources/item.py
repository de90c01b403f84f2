"""One edit of a source, or why there is none. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from qwen_edit_async.errors import InvalidEditError
from qwen_edit_async.images.kinds import unwrapped
from qwen_edit_async.models import EditParameters, EditRequest, request_from_fields

SAYS_IT_ALL = "an EditRequest says it all: give no instruction or parameters beside it"


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


def request_of(given: object, defaults: EditDefaults) -> EditRequest:
    """The request that an item of an iterable makes: a request, its fields by name, or its images alone.

    Raises:
        InvalidEditError: If it makes none, or if it is a request, and there are defaults.
    """
    if isinstance(given, EditRequest):
        if defaults != EditDefaults():
            raise InvalidEditError(SAYS_IT_ALL)
        return given
    if isinstance(given, Mapping) and unwrapped(given) is given:
        fields = dict(given)
        fields["instruction"] = fields.get("instruction") or defaults.instruction
        fields["parameters"] = fields.get("parameters") or defaults.parameters
        return request_from_fields(fields)
    if defaults.instruction is None:
        raise InvalidEditError(
            f"a request is {type(given).__name__!r}: give an EditRequest, a mapping of its fields, "
            "or images with an instruction for all of them"
        )
    return EditRequest(given, defaults.instruction, defaults.parameters)  # type: ignore[arg-type]  # checked there
