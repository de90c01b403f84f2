"""Keeps results from replacing other files. Blocking."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import attrs

from qwen_edit_async.batch.identity import folded, pictures_of
from qwen_edit_async.errors import InvalidEditError
from qwen_edit_async.images.kinds import is_data_uri, is_url
from qwen_edit_async.models import EditRequest

_MAX_LINKS: Final = 40
"""The number of links that Linux follows. A longer chain is most likely a loop."""


@attrs.define(eq=False)
class Targets:
    """The folder of the results, and the files in it that are not results.

    Attributes:
        folder: The folder.
        overwrite: Whether results replace other files. They never replace an image that is to be edited.
    """

    folder: Path
    overwrite: bool
    _inputs: set[str] = attrs.field(factory=set)
    _is_here: dict[str, bool] = attrs.field(factory=dict)

    def note_inputs(self, request: EditRequest) -> None:
        """Note which of a request's images are in the folder."""
        self._inputs.update(self._names_here(request.images))

    def existing(self, request: EditRequest, name: str) -> list[str]:
        """Return the names of existing files that the results of an edit would replace.

        Raises:
            InvalidEditError: If these files may not be replaced.
        """
        names = [f"{name}-{index}.png" for index in range(pictures_of(request.parameters))]
        own = set(self._names_here(request.images))
        if any(folded(each) in self._inputs or folded(each) in own for each in names):
            raise InvalidEditError(
                "its result would replace an image that is to be edited", hint="use another output folder or key"
            )
        existing = [each for each in names if os.path.lexists(self.folder / each)]
        if existing and not self.overwrite:
            raise InvalidEditError(
                "a file that this batch did not make has the name of the result",
                hint="move that file, use another output folder or key, or overwrite=True",
            )
        return existing

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
    """Yield a path and, for a link, each path on the way to its file; none of these may be replaced."""
    with contextlib.suppress(OSError, ValueError):  # it is not a link, or not a path
        for _ in range(_MAX_LINKS):
            yield path
            path = os.path.join(os.path.dirname(path), os.readlink(path))


def _real(folder: str | Path) -> str | None:
    try:
        return os.path.realpath(folder)
    except ValueError:  # a NUL, or a lone surrogate: reading the image gives the reason
        return None
