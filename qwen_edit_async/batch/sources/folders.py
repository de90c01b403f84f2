"""Finds the pictures of a folder, or those that match a pattern. Blocking.

It reads the first 64 bytes of each file, because formats are recognised by content.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

import attrs

from qwen_edit_async.batch.identity import storable
from qwen_edit_async.batch.sources.item import EditDefaults, SourceItem
from qwen_edit_async.errors import ConfigurationError
from qwen_edit_async.images.kinds import HEAD_BYTES, other_advice, sniff, sniff_other
from qwen_edit_async.models import EditRequest

_NAMED_OTHERS: Final = 3
_ANY_FOLDERS: Final = re.compile(r"(?<![^/\\])\*\*(?:[/\\]|$)")
_SYSTEM_FOLDERS: Final = frozenset(
    {
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "@eadir",
        "@recycle",
        "@recently-snapshot",
        "__macosx",
        "lost+found",
        "recycler",
        "system volume information",
    }
)
"""Bins, snapshots and previews of network drives and operating systems, in lower case. Hidden ones go anyway."""


def picture_items(
    paths: Iterable[str | OSError],
    where: str,
    defaults: EditDefaults,
    search: Search,
    note: Callable[[str], None],
    *,
    folder: str,
    fit: bool = False,
    advice: Callable[[], str] = str,
) -> Iterator[SourceItem]:
    """Yield an edit for each picture. An unreadable file counts as a picture; its edit fails later.

    Without ``fit``, a picture in a format that must be converted becomes a row with that problem.

    Args:
        paths: The files, and an error for each folder that can't be read.
        where: The name of the source in messages.
        defaults: The instruction and the parameters.
        search: The search that found the files; it knows those that it found before.
        note: Called with a remark about files that were left out.
        folder: The folder that the edits' identities are relative to; empty for the working directory.
        fit: Whether pictures in other formats are converted. Otherwise they are problems.
        advice: Called if there is no picture; returns a hint.

    Raises:
        ConfigurationError: If there is no instruction, or if there is no picture.
    """
    if defaults.instruction is None:
        raise ConfigurationError("pictures say nothing about what to do with them: give an instruction")
    prefix = os.path.join(folder, "") if folder else ""  # noqa: PTH118  # strings, because 100,000 Path objects are slow
    named: list[str] = []
    others = count = 0
    for path in paths:
        if isinstance(path, OSError):
            yield SourceItem(problem=f"can't be read: {path.strerror}", place=str(path.filename))
            continue
        if not os.path.isfile(path) or not search.is_new(path):  # noqa: PTH113  # strings, because 100,000 Path objects are slow
            continue
        problem = _problem(path, fit=fit)
        if problem is None:
            others += 1
            named = [*named, os.path.basename(path)][:_NAMED_OTHERS]  # noqa: PTH119  # as above
            continue
        count += 1
        yield SourceItem(problem=problem, place=path) if problem else _item(path, prefix, defaults)
    if not count:
        but = f"; {search.note}" if search.note else ""
        raise ConfigurationError(f"there is no JPEG, PNG, BMP, TIFF, WEBP or GIF picture in {where}{but}{advice()}")
    if search.note:
        note(search.note)
    if others:
        names = ", ".join(named) + (", …" if others > len(named) else "")
        note(f"{others} of the files are not pictures that the service takes, and are left out: {names}")


@attrs.define
class Search:
    """Looks for files in folders, and counts what it leaves out.

    Attributes:
        exclude: A folder whose content is left out without a note; an absolute path without links.
        journal: The name of the file that marks a folder with the results of a run; empty for none.
    """

    exclude: str | None = None
    journal: str = ""
    _system: dict[str, None] = attrs.field(factory=dict)
    _results: dict[str, None] = attrs.field(factory=dict)
    _repeats: list[str] = attrs.field(factory=list)
    _seen: dict[str | tuple[int, int], str] = attrs.field(factory=dict)

    def files_of(self, folder: str, *, recursive: bool) -> Iterator[str | OSError]:
        """Yield a folder's files, sorted by name, and an error for each subfolder that can't be read.

        Raises:
            ConfigurationError: If the folder itself can't be read.
        """
        errors: list[OSError] = []
        for root, files in self._walk(folder, errors.append, recursive=recursive):
            yield from errors
            errors.clear()
            yield from (os.path.join(root, name) for name in files)  # noqa: PTH118  # strings, because 100,000 Path objects are slow
        for error in errors:
            if error.filename == folder:
                raise ConfigurationError(f"{folder} can't be read: {error.strerror}")
            yield error

    def matches_of(self, pattern: str, base: str = "") -> Iterator[str]:
        """Yield the files that match a pattern, below a folder.

        ``**`` stands for any folders, but does not follow links to them. Wildcards don't match folders that are left
        out. A pattern can name such a folder.
        """
        before, *after = _ANY_FOLDERS.split(pattern, maxsplit=1)
        if not after:
            yield from self._glob(pattern, base)
            return
        for start in self._glob(before, base) if before else [base]:
            for root, _ in self._walk(start or os.curdir, recursive=True):
                folder = root if start else root[len(os.curdir) + 1 :]
                yield from self.matches_of(after[0] or "*", folder)

    def _glob(self, pattern: str, base: str) -> Iterator[str]:
        """Yield what matches a pattern without ``**``."""
        folder_pattern = Path(os.path.dirname(pattern)).parts  # noqa: PTH120  # unlike Path, dirname respects a trailing slash
        entered: dict[str, bool] = {}
        for match in sorted(glob.glob(pattern, root_dir=base or None)):  # noqa: PTH207  # Path.glob knows no absolute patterns
            folder = os.path.dirname(match)  # noqa: PTH120  # strings, because 100,000 Path objects are slow
            if folder not in entered:
                entered[folder] = self._enters_all(base, folder_pattern, Path(folder).parts)
            if entered[folder]:
                yield os.path.join(base, match)  # noqa: PTH118  # as above

    def _enters_all(self, folder: str, pattern: Iterable[str], names: Iterable[str]) -> bool:
        """Return whether no wildcard matched a folder that is left out."""
        for part, name in zip(pattern, names, strict=True):
            if glob.has_magic(part) and not part.startswith(".") and not self._enters(folder, name):
                return False
            folder = os.path.join(folder, name)  # noqa: PTH118  # as above
        return True

    def is_new(self, path: str) -> bool:
        """Return whether a file is outside of the excluded folder, and was not found by another path before."""
        real = os.path.realpath(path)
        if self.exclude is not None and real.startswith(os.path.join(self.exclude, "")):  # noqa: PTH118  # as above
            return False
        file: str | tuple[int, int] = real
        with contextlib.suppress(OSError):  # it is gone: its edit fails later
            if (status := os.stat(real)).st_nlink > 1:  # noqa: PTH116  # as above
                file = (status.st_dev, status.st_ino)
        if (first := self._seen.get(file)) is None:
            self._seen[file] = path
        elif first != path:
            self._repeats.append(path)
        return first is None

    @property
    def note(self) -> str:
        """The files and folders that were left out, and why; empty if there are none."""
        parts = [
            _counted(self._system, "folder of the system", "folders of the system"),
            _counted(self._results, "folder with the results of another run", "folders with the results of other runs"),
            _counted(self._repeats, "other path to the same file", "other paths to the same files"),
        ]
        return f"left out: {', '.join(filter(None, parts))}" if any(parts) else ""

    def _walk(
        self, start: str, onerror: Callable[[OSError], None] | None = None, *, recursive: bool
    ) -> Iterator[tuple[str, list[str]]]:
        """Yield each folder with the names of its files.

        Hidden files and folders are left out: they are previews of other programs, or incomplete downloads.
        """
        for root, folders, files in os.walk(start, onerror=onerror):
            folders[:] = [name for name in sorted(folders) if recursive and self._enters(root, name)]
            yield root, [name for name in sorted(files) if not name.startswith(".")]

    def _enters(self, root: str, name: str) -> bool:
        path = os.path.join(root, name)  # noqa: PTH118  # as above
        if name.startswith(".") or (self.exclude is not None and os.path.realpath(path) == self.exclude):
            return False
        if name.lower() in _SYSTEM_FOLDERS:
            self._system[path] = None
            return False
        if self.journal and os.path.lexists(os.path.join(path, self.journal)):  # noqa: PTH118  # as above
            self._results[path] = None
            return False
        return True


def _counted(paths: Collection[str], one: str, several: str) -> str:
    if not paths:
        return ""
    return f"{len(paths)} {one if len(paths) == 1 else several} ({_listed(paths)})"


def _listed(paths: Collection[str]) -> str:
    names = [os.path.basename(path) for path in islice(paths, _NAMED_OTHERS)]  # noqa: PTH119  # as above
    return ", ".join(names) + (", …" if len(paths) > len(names) else "")


def _item(path: str, prefix: str, defaults: EditDefaults) -> SourceItem:
    request = EditRequest(path, defaults.instruction or "", defaults.parameters)
    return SourceItem(request=request, identity=storable(path.removeprefix(prefix).replace(os.sep, "/")))


def is_picture(path: str) -> bool:
    """Return whether a file begins as a picture does. An unreadable file counts as one."""
    return _problem(path, fit=True) is not None


def _problem(path: str, *, fit: bool) -> str | None:
    """Return why a picture can't be edited, empty if it can; ``None`` for a file that is not a picture."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # as above
            head = file.read(HEAD_BYTES)
    except OSError:
        return ""  # it may be a picture
    if (other := sniff_other(head, path)) is not None:
        return "" if fit else other_advice(other)
    return None if sniff(head) is None else ""
