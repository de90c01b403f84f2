"""What the results of an edit may not replace. Blocking."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import attrs

from qwen_edit_async.batch.journal.database import Entry
from qwen_edit_async.batch.plan import pictures_of
from qwen_edit_async.batch.sources import SourceItem, folded
from qwen_edit_async.errors import InvalidEditError
from qwen_edit_async.images.kinds import is_data_uri, is_url
from qwen_edit_async.models import EditRequest
from qwen_edit_async.session.results import safe_stem

_MAX_LINKS: Final = 40
"""As many as Linux follows: more are a circle, most likely."""


@attrs.define(eq=False)
class Targets:
    """The folder that results go to, and the files in it that are not theirs.

    Attributes:
        folder: Where the results go.
        overwrite: Whether files that are there already are replaced; an image that is to be edited never is.
    """

    folder: Path
    overwrite: bool
    _inputs: set[str] = attrs.field(factory=set)
    _is_here: dict[str, bool] = attrs.field(factory=dict)

    def noting_inputs(self, items: Iterable[SourceItem]) -> Iterator[SourceItem]:
        """The items, while it is noted which of their images are in the folder."""
        for item in items:
            if item.request is not None:
                self._inputs.update(self._names_here(item.request.images))
            yield item

    def existing(self, request: EditRequest, key: str, former: Collection[str] = ()) -> list[str]:
        """Names of an edit's results that are there already, before it has a task.

        Args:
            request: The edit.
            key: Its key.
            former: Names of the pictures of an edit that it replaces, which will be set aside.

        Raises:
            InvalidEditError: If they may not be replaced.
        """
        names = [f"{safe_stem(key)}-{index}.png" for index in range(pictures_of(request.parameters))]
        own = set(self._names_here(request.images))
        for name in names:
            if folded(name) in self._inputs or folded(name) in own:
                raise InvalidEditError(
                    "its result would replace an image that is to be edited: use another output folder or key"
                )
        existing = [name for name in names if name not in former and os.path.lexists(self.folder / name)]
        if existing and not self.overwrite:
            raise InvalidEditError(
                "a file with its result's name is there already, and not of this batch: move that, use another output "
                "folder or key, or overwrite=True"
            )
        return existing

    def set_aside(self, edit: Entry, stem: str) -> list[tuple[str, int]]:
        """Rename an edit's pictures, and return their new names and sizes.

        Renaming them once more does nothing, since the run may end before the journal has the new names.

        Raises:
            InvalidEditError: If one is an image that is to be edited, or can't be renamed.
        """
        renamed = [(name, f"{stem}{name.removeprefix(edit.stem)}", size) for name, size in edit.files]
        if any(folded(name) in self._inputs for name, _, _ in renamed):
            raise InvalidEditError("its earlier result is an image that is to be edited: use another output folder")
        try:
            for name, new, _ in renamed:
                with contextlib.suppress(FileNotFoundError):
                    (self.folder / name).rename(self.folder / new)
        except OSError as error:
            raise InvalidEditError(f"its earlier result can't be renamed: {error.strerror}") from None
        return [(new, size) for _, new, size in renamed]

    def _names_here(self, images: Iterable[Any]) -> Iterator[str]:
        for image in images:
            if isinstance(image, str | os.PathLike) and not is_url(image) and not is_data_uri(image):
                for path in _hops(str(image)):
                    folder, name = os.path.split(path)
                    here = self._is_here.get(folder)
                    if here is None:
                        here = self._is_here[folder] = _real(folder) == _real(self.folder)
                    if here:
                        yield folded(name)


def _hops(path: str) -> Iterator[str]:
    """A path and, if it is a link, each path that it leads over: whoever replaces one of them replaces the image."""
    with contextlib.suppress(OSError, ValueError):  # it is no link, or no path
        for _ in range(_MAX_LINKS):
            yield path
            path = os.path.join(os.path.dirname(path), os.readlink(path))  # noqa: PTH115, PTH118, PTH120  # a str


def _real(folder: str | Path) -> str | None:
    try:
        return os.path.realpath(folder)
    except ValueError:  # a NUL, or what can't be encoded: whoever reads the image says so
        return None
