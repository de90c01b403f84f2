"""One row of a source. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from qwen_edit_async.errors import InvalidEditError
from qwen_edit_async.images.kinds import unwrapped
from qwen_edit_async.models import EditParameters, EditRequest, as_fields, request_from_fields

NO_DEFAULTS = "an EditRequest has its own instruction and parameters: give the batch no instruction and no parameters"


@attrs.frozen(kw_only=True)
class SourceItem:
    """One row of a source: an edit, or the reason why the row can't be edited.

    Attributes:
        row: The number of a table row; ``None`` for other sources. In CSV files, the header is row 1, as in a
            spreadsheet. Rows of JSON Lines and Parquet files start at 1. Rows of data frames and datasets start at 0.
        request: The edit.
        identity: The identity of the edit; empty if it is not known yet.
        problem: The reason why the row can't be edited.
        kind: ``problem`` without any text of the row, such as its key; empty if ``problem`` has no such text.
        place: The origin of the row in :attr:`label`, such as a key, a path, or the name of a Parquet file. If
            ``place`` is empty, the label is the row number or the first image.
    """

    row: int | None = None
    request: EditRequest | None = None
    identity: str = ""
    problem: str | None = None
    kind: str = ""
    place: str = ""

    def refused(self, problem: str, kind: str = "") -> SourceItem:
        """Return the row with a problem instead of its edit."""
        return attrs.evolve(self, request=None, identity="", problem=problem, kind=kind)

    @property
    def label(self) -> str:
        """The name of the row in messages."""
        if self.row is not None:
            return f"row {self.row} of {self.place}" if self.place else f"row {self.row}"
        return self.place or (str(self.request.images[0]) if self.request is not None else "")


@attrs.frozen
class EditDefaults:
    """The default instruction and the default parameters of pictures and rows."""

    instruction: str | None = None
    parameters: EditParameters = attrs.field(factory=EditParameters)


@attrs.frozen
class Reading:
    """Options for reading a source.

    Attributes:
        defaults: The defaults of pictures and rows.
        note: Called with a remark about files that are left out, or about columns that are not used.
        base: The folder from which relative paths start, except paths in a table; empty for the working directory.
        recursive: Whether to read subfolders.
        exclude: The real path, or the URL, of a folder that is not input, such as the folder of the results.
        fit: Whether to accept pictures in formats that must be converted for the service.
    """

    defaults: EditDefaults
    note: Callable[[str], None] = attrs.field(default=lambda _: None, kw_only=True)
    base: str = attrs.field(default="", kw_only=True)
    recursive: bool = attrs.field(default=False, kw_only=True)
    exclude: str = attrs.field(default="", kw_only=True)
    fit: bool = attrs.field(default=False, kw_only=True)


def request_of(given: Any, defaults: EditDefaults) -> EditRequest:
    """Return the request for an item. The item is a request, a mapping of a request's fields, or only images.

    Raises:
        InvalidEditError: If the item is none of these, has no instruction, or is a request although there are defaults.
    """
    if isinstance(given, EditRequest):
        if defaults != EditDefaults():
            raise InvalidEditError(NO_DEFAULTS)
        return given
    given = as_fields(given)
    if isinstance(given, Mapping) and unwrapped(given) is given:
        fields = dict(given)
        fields["instruction"] = fields.get("instruction") or defaults.instruction
        fields["parameters"] = fields.get("parameters") or defaults.parameters
        return request_from_fields(fields)
    if defaults.instruction is None:
        raise InvalidEditError(
            f"an item of type {type(given).__name__!r} needs an instruction: give instruction= for all images, or give "
            "EditRequests or mappings of their fields"
        )
    return EditRequest(given, defaults.instruction, defaults.parameters)


def item_of(given: object, defaults: EditDefaults, number: int) -> SourceItem:
    """Return an item of an iterable as a row. Messages name the item by its key, or else by its number."""
    place = f"request {number}"
    try:
        request = request_of(given, defaults)
    except Exception as error:  # noqa: BLE001  # an error of one item must not stop the other items
        key = given.get("key") if isinstance(given, Mapping) else None
        kind = error.summary if isinstance(error, InvalidEditError) else ""
        return SourceItem(problem=str(error), kind=kind, place=place if key is None else str(key))
    return SourceItem(request=request, place=request.key or place)
