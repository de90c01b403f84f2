"""Finds the pictures in a folder, or the pictures that match a pattern. Blocking.

A file with the extension of an accepted format counts as a picture, and is not opened. If it can't be sent, the plan
reports why. Any other file is recognised by its first 64 bytes. Paths are strings, because it is slow to create 100,000
:class:`Path` objects.
"""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

import attrs

from qwen_edit_async.batch.journal.journal import JOURNAL_NAME
from qwen_edit_async.batch.rules.identity import storable
from qwen_edit_async.batch.rules.item import Reading, SourceItem
from qwen_edit_async.errors import ConfigurationError
from qwen_edit_async.images.kinds import ACCEPTED_ENDINGS, HEAD_BYTES, PICTURE_ENDINGS, format_problem, sniff
from qwen_edit_async.models import EditRequest
from qwen_edit_async.text import counted

NO_INSTRUCTION: Final = "the pictures have no instruction: give an instruction"
PICTURE: Final = "JPEG, PNG, BMP, TIFF, WEBP or GIF picture"
_NAMED_OTHERS: Final = 3
_ANY_FOLDERS: Final = re.compile(r"(?<![^/\\])\*\*(?:[/\\]+|$)")
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
"""Lower-case names of folders where operating systems and network drives keep deleted files, snapshots or previews."""


@attrs.frozen
class _File:
    """A file in a source.

    Attributes:
        below: The normalized path, relative to the source's folder.
        real: The path, with all links resolved.
        is_link: Whether the file is a link, or lies in a linked folder below the source's folder.
    """

    path: str
    below: str
    real: str
    is_link: bool


@attrs.define
class Search:
    """Finds pictures in folders, and records the files and folders that it leaves out."""

    reading: Reading
    _system: dict[str, None] = attrs.field(factory=dict)
    _results: dict[str, None] = attrs.field(factory=dict)
    _repeats: dict[str, None] = attrs.field(factory=dict)
    _others: list[str] = attrs.field(factory=list)
    _unreadable: list[OSError] = attrs.field(factory=list)
    _seen: dict[str | tuple[int, int], str] = attrs.field(factory=dict)

    def items(
        self, paths: Iterable[str], where: str, folder: str, advice: Callable[[], str] = str
    ) -> Iterator[SourceItem]:
        """Yield an edit or a problem for each picture, and a problem for each folder that can't be read.

        A file that can't be opened counts as a picture; its edit fails later.

        A link to another file of the source is left out, so that adding or moving links does not change the edits. A
        link to a file outside the source is a picture of its own. Only the first of a file's hard links counts.

        Args:
            paths: The files.
            where: The name of the source in messages.
            folder: The folder that the edits' identities are relative to; empty for the working directory.
            advice: Called if there is no picture; returns a hint.
        """
        if self.reading.defaults.instruction is None:
            raise ConfigurationError(NO_INSTRUCTION)
        found = False
        for file in self._links_last(paths, folder):
            if (item := self._item(file)) is not None:
                found = True
                yield item
        for error in self._unreadable:
            yield SourceItem(problem=f"can't be read: {error.strerror}", place=str(error.filename))
        left_out = self._left_out()
        if not found:
            but = f"; {left_out}" if left_out else ""
            raise ConfigurationError(f"there is no {PICTURE} in {where}{but}{advice()}")
        if left_out:
            self.reading.note(left_out)
        if self._others:
            self.reading.note(left_out_others(self._others))

    def _links_last(self, paths: Iterable[str], folder: str) -> Iterator[_File]:
        """Yield the files. Links come last, after the files that they lead to."""
        root, links = os.path.realpath(folder), []
        parents: dict[str, tuple[str, str]] = {}
        for path in paths:
            parent, name = os.path.split(path)
            if parent not in parents:
                parents[parent] = os.path.relpath(parent or os.curdir, folder or os.curdir), os.path.realpath(parent)
            below = os.path.normpath(os.path.join(parents[parent][0], name))
            real = os.path.realpath(path) if os.path.islink(path) else os.path.join(parents[parent][1], name)
            file = _File(path, below, real, is_link=real != os.path.join(root, below))
            if file.is_link:
                links.append(file)
            else:
                yield file
        yield from links

    def _item(self, file: _File) -> SourceItem | None:
        """Return the edit or the problem of a file, or ``None`` if the file is left out."""
        path = file.path
        try:
            status = os.stat(path)
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode) or not self._is_new(file, status):
            return None
        problem = _problem(path, fit=self.reading.fit)
        if problem:
            return SourceItem(problem=problem, place=path)
        if problem is None:
            self._others.append(path)
            return None
        defaults = self.reading.defaults
        request = EditRequest(path, defaults.instruction or "", defaults.parameters)
        return SourceItem(request=request, identity=storable(file.below.replace(os.sep, "/")))

    def files_of(self, folder: str) -> Iterator[str]:
        """Yield the files of a folder, and of its subfolders if the search is recursive, sorted by name in each folder.

        Raises:
            ConfigurationError: If the folder itself can't be read.
        """
        for root, files in self._walk(folder, self._unreadable.append, recursive=self.reading.recursive):
            yield from (os.path.join(root, name) for name in files)
        for error in self._unreadable:
            if error.filename == folder:
                raise ConfigurationError(f"{folder} can't be read: {error.strerror}")

    def matches_of(self, pattern: str, base: str = "") -> Iterator[str]:
        """Yield the files and folders that match a pattern, which is relative to the folder ``base``.

        ``**`` matches any number of folders, but does not follow links to folders. All other parts of a pattern follow
        such links, as in ``Path.glob``. Wildcards skip hidden folders, system folders and folders with results of other
        runs. A pattern that names such a folder includes its files.
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
        """Yield the files and folders that match a pattern without ``**``."""
        folder_pattern = Path(os.path.dirname(pattern)).parts
        entered: dict[str, bool] = {}
        for match in sorted(glob.glob(pattern, root_dir=base or None)):
            folder = os.path.dirname(match)
            if folder not in entered:
                entered[folder] = self._enters_all(base, folder_pattern, Path(folder).parts)
            if entered[folder]:
                yield os.path.join(base, match)

    def _enters_all(self, folder: str, pattern: Iterable[str], names: Iterable[str]) -> bool:
        """Return whether every folder that a wildcard matched may be searched."""
        for part, name in zip(pattern, names, strict=True):
            if glob.has_magic(part) and not part.startswith(".") and not self._enters(folder, name):
                return False
            folder = os.path.join(folder, name)
        return True

    def _is_new(self, file: _File, status: os.stat_result) -> bool:
        """Return whether a file is outside the excluded folder and was not found before."""
        exclude = self.reading.exclude
        if exclude and file.real.startswith(os.path.join(exclude, "")):
            return False
        known: str | tuple[int, int] = (status.st_dev, status.st_ino) if status.st_nlink > 1 else file.real
        if file.is_link and known not in self._seen:
            known = file.below
        if (first := self._seen.get(known)) is None:
            self._seen[known] = file.below
        elif first != file.below:
            self._repeats[file.path] = None
        return first is None

    def _left_out(self) -> str:
        parts = [
            _counted(self._system, "system folder", "system folders"),
            _counted(self._results, "folder with the results of another run", "folders with the results of other runs"),
            _counted(self._repeats, "other path to the same file", "other paths to the same files"),
        ]
        return f"left out: {', '.join(filter(None, parts))}" if any(parts) else ""

    def _walk(
        self, start: str, onerror: Callable[[OSError], None] | None = None, *, recursive: bool
    ) -> Iterator[tuple[str, list[str]]]:
        """Yield a folder, and its subfolders if ``recursive``, each with the names of its files.

        Hidden files and folders are left out, because they are usually previews or incomplete downloads.
        """
        for root, folders, files in os.walk(start, onerror=onerror):
            folders[:] = [name for name in sorted(folders) if recursive and self._enters(root, name)]
            yield root, [name for name in sorted(files) if not name.startswith(".")]

    def _enters(self, root: str, name: str) -> bool:
        path = os.path.join(root, name)
        if name.startswith(".") or os.path.realpath(path) == self.reading.exclude:
            return False
        if name.lower() in _SYSTEM_FOLDERS:
            self._system[path] = None
            return False
        if os.path.lexists(os.path.join(path, JOURNAL_NAME)):
            self._results[path] = None
            return False
        return True


def _counted(paths: Collection[str], one: str, several: str) -> str:
    if not paths:
        return ""
    return f"{len(paths)} {one if len(paths) == 1 else several} ({_listed(paths)})"


def _listed(paths: Collection[str]) -> str:
    names = [os.path.basename(path) for path in islice(paths, _NAMED_OTHERS)]
    return ", ".join(names) + (", …" if len(paths) > len(names) else "")


def left_out_others(paths: Collection[str]) -> str:
    """Return a remark about files that are not pictures."""
    return f"left out: {counted(len(paths), 'file')} that the service does not accept ({_listed(paths)})"


def is_picture(path: str) -> bool:
    """Return whether a file has the extension or the content of a picture. An unreadable file counts as a picture."""
    return _problem(path, fit=True) is not None


def _problem(path: str, *, fit: bool) -> str | None:
    """Return why a picture can't be edited; empty if no reason is known. Return ``None`` if the file is not a picture.

    Without ``fit``, a ``.heic`` file, for example, is opened, because it may be a JPEG file.
    """
    ending = os.path.splitext(path)[1].lower()
    if ending in (PICTURE_ENDINGS if fit else ACCEPTED_ENDINGS):
        return ""
    try:
        with open(path, "rb", buffering=0) as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return ""  # the file may be a picture
    if (kind := sniff(head, path)) is not None:
        return format_problem(kind, fit=fit)
    return "" if ending in PICTURE_ENDINGS else None
