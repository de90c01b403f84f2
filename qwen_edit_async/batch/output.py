"""The folder of a batch's results, with checks that keep results from replacing other files. Blocking."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from qwen_edit_async.batch.rules.identity import folded, image_locator
from qwen_edit_async.errors import ConfigurationError, InvalidEditError
from qwen_edit_async.images.integrity import judge
from qwen_edit_async.images.kinds import is_url
from qwen_edit_async.models import EditRequest, requested_pictures
from qwen_edit_async.storage.bucket import BucketPath
from qwen_edit_async.storage.part import PART_NAME_CHARACTERS
from qwen_edit_async.storage.paths import AnyPath, FilePath, file_path

_MAX_LINKS: Final = 40
"""The maximum number of links that Linux follows. A longer chain is most likely a loop."""

_PART_NAME: Final = re.compile(r"\.(.*)\.[0-9a-f]{8}\.part", re.DOTALL)
_PNG_END: Final = b"\0\0\0\0IEND\xae\x42\x60\x82"
_TAIL_BYTES: Final = 4096
"""The number of bytes at the end of a PNG file to search for the end marker. Other bytes may follow the marker."""


def local_folder(path: AnyPath, here: str, use: str) -> Path:
    """Return the path of a local folder. A relative ``path`` starts from ``here``. An error names the folder's ``use``.

    Raises:
        ConfigurationError: If the path is not local.
    """
    folder = file_path(path)
    if isinstance(folder, BucketPath):
        raise ConfigurationError(f"the folder of {use} must be local, but {folder} is in a bucket: give a local folder")
    return Path(here, folder)


def output_at(out_dir: AnyPath, journal: str | os.PathLike[str] | None, here: str, *, overwrite: bool) -> BatchOutput:
    """Return the :class:`BatchOutput` that a batch's options describe.

    Raises:
        ConfigurationError: If ``journal`` is needed but missing, given but not needed, or not local.
    """
    folder = file_path(out_dir)
    if isinstance(folder, BucketPath):
        if journal is None:
            raise ConfigurationError("results in a bucket need a local folder for the journal: give it as journal=PATH")
        home = local_folder(journal, here, "the journal")
        return BatchOutput(attrs.evolve(folder, replace=overwrite), overwrite, home)
    if journal is not None:
        raise ConfigurationError(
            "journal= is only for results in a bucket, because a local output folder also holds the journal: "
            "leave out journal="
        )
    return BatchOutput(Path(here, folder), overwrite)


@attrs.define(eq=False)
class BatchOutput:
    """The folder of the results, and what one plan or run has found in it.

    Attributes:
        folder: The folder, on this machine or in a bucket.
        overwrite: Whether results may replace other files. A result never replaces an input image of its own edit,
            or an image that the input folder or table lists.
        home: The local folder of the journal; by default the folder of the results.
    """

    folder: FilePath
    overwrite: bool
    home: Path = attrs.field(default=attrs.Factory(lambda self: Path(self.folder), takes_self=True))
    _listed: dict[str, int] | None = attrs.field(default=None, init=False)
    _inputs: set[str] = attrs.field(factory=set, init=False)
    _is_here: dict[str, bool] = attrs.field(factory=dict, init=False)

    def note_inputs(self, request: EditRequest) -> None:
        """Note which of a request's images are in the folder."""
        self._inputs.update(self._names_here(request.images))

    def existing(self, request: EditRequest, name: str) -> list[str]:
        """Return the names of existing files that the results of an edit would replace.

        Raises:
            InvalidEditError: If such a file may not be replaced.
        """
        names = [f"{name}-{index}.png" for index in range(requested_pictures(request.parameters))]
        own = set(self._names_here(request.images))
        if any(folded(each) in self._inputs or folded(each) in own for each in names):
            raise InvalidEditError(
                "its result would replace an image that is to be edited",
                hint="use another output folder, or give this edit another key (the name of its files)",
            )
        existing = [each for each in names if self._exists(each)]
        if any(self._is_folder(each) for each in existing):
            raise InvalidEditError(
                "the name of its result is taken by a folder",
                hint="move that folder, use another output folder, or give this edit another key (the name of its "
                "files)",
            )
        if existing and not self.overwrite:
            raise InvalidEditError(
                "the name of its result is taken by a file that this batch did not make",
                hint="move that file, use another output folder, give this edit another key (the name of its files), "
                "or use overwrite=True",
            )
        return existing

    def are_whole(self, files: Sequence[tuple[str, int]]) -> bool:
        """Return whether all saved pictures have their recorded sizes.

        A local ``.png`` file without an end marker must also pass the check for downloads.
        """
        if isinstance(self.folder, BucketPath):
            there = self._files_in(self.folder)
            return bool(files) and all(there.get(name) == size for name, size in files)
        try:
            return bool(files) and all(_ends_well(os.path.join(self.folder, name), size) for name, size in files)
        except OSError:
            return False

    def _exists(self, name: str) -> bool:
        if isinstance(self.folder, BucketPath):
            return name in self._files_in(self.folder)
        return os.path.lexists(self.folder / name)

    def _is_folder(self, name: str) -> bool:
        """Return whether a name is taken by a folder.

        A link to a folder does not count, because a result replaces the link itself.
        """
        if isinstance(self.folder, BucketPath):
            return False
        path = self.folder / name
        return path.is_dir() and not path.is_symlink()

    def _files_in(self, folder: BucketPath) -> dict[str, int]:
        """Return the size of each file in the bucket's folder. One listing is faster than a request for each file."""
        if self._listed is None:
            try:
                self._listed = {name: file.size for name, file in folder.files() if "/" not in name}
            except OSError as error:
                raise ConfigurationError(f"the folder {folder} can't be read: {error.strerror}") from None
        return self._listed

    def _names_here(self, images: Iterable[Any]) -> Iterator[str]:
        for image in images:
            path = None if is_url(image) else image_locator(image)
            for hop in _hops(path) if path is not None else ():
                folder, name = os.path.split(hop)
                here = self._is_here.get(folder)
                if here is None:
                    here = self._is_here[folder] = _real(folder) == _real(str(self.folder))
                if here:
                    yield folded(name)


def _hops(path: str) -> Iterator[str]:
    """Yield a path and, if it is a link, each path that the link leads to. None of these files may be replaced."""
    with contextlib.suppress(OSError, ValueError):  # the path is not a link, or is invalid
        for _ in range(_MAX_LINKS):
            yield path
            path = os.path.join(os.path.dirname(path), os.readlink(path))


def _real(folder: str) -> str | None:
    try:
        return os.path.realpath(folder)
    except ValueError:  # the path has a NUL or a lone surrogate; the edit fails when its image is read
        return None


def sweep(folder: Path, names: Iterable[str]) -> None:
    """Delete the part files that a killed run left for ``names``. Other part files may belong to other programs."""
    left = {name[:PART_NAME_CHARACTERS] for name in names}
    with os.scandir(folder) as entries:  # Path.glob would list them all in memory
        for entry in entries:
            if (match := _PART_NAME.fullmatch(entry.name)) is not None and match[1] in left:
                Path(entry.path).unlink(missing_ok=True)


def _ends_well(path: str, size: int) -> bool:
    with open(path, "rb", buffering=0) as file:
        if file.seek(0, os.SEEK_END) != size:
            return False
        file.seek(max(0, size - _TAIL_BYTES))
        if not path.endswith(".png") or _PNG_END in file.read():
            return True
    # The service may have sent another format, a PNG without its end, or many bytes after the end.
    with open(path, "rb") as odd:
        return not judge(odd, size, lenient=True).problem
