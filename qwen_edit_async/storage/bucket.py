"""Files in buckets (S3, Google Cloud Storage, Azure) and in obstore's other stores (extra ``cloud``). Blocking."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import posixpath
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import PurePosixPath
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any, Final, Self, TypeGuard
from urllib.parse import unquote, urlsplit

import attrs

from qwen_edit_async.errors import ConfigurationError
from qwen_edit_async.storage.part import Part

if TYPE_CHECKING:
    from obstore import ObjectMeta, ReadableFile
    from obstore.store import ObjectStore

_URL: Final = re.compile("(s3|gs|az)://([^/]+)/*(.*)", re.DOTALL | re.IGNORECASE)
_USER: Final = re.compile(r"(?<=://)[^\s\"'/?#]*@")
_QUERY: Final = re.compile(r"\?[^\s\"'<>]*")
_SCHEMES: Final = {"S3Store": "s3", "GCSStore": "gs", "AzureStore": "az", "LocalStore": "file"}

_SIGNED_FOR: Final = timedelta(hours=12)
"""The lifetime of presigned URLs. A task may wait long in the service's queue before its images are fetched."""


@attrs.frozen
class BucketPath(os.PathLike[str]):
    """A file or a folder in a bucket.

    Attributes:
        root: The URL of the bucket. If the user passed an obstore store with a prefix, the prefix follows.
        key: The path below ``root``.
        replace: Whether a write replaces an existing file.
        size: The file's size in bytes if this process has written or listed the file; otherwise -1.
    """

    root: str
    key: str
    replace: bool = attrs.field(default=False, eq=False, kw_only=True)
    size: int = attrs.field(default=-1, eq=False, kw_only=True)
    _users_store: Any = attrs.field(default=None, eq=False, kw_only=True, repr=False)
    _tag: str = attrs.field(default="", eq=False, kw_only=True, repr=False)

    @classmethod
    def of(cls, value: object) -> BucketPath | None:
        """Return the path for a URL, a tuple ``(store, path)`` or a ``BucketPath``; ``None`` for any other value."""
        if isinstance(value, str):
            match = _URL.fullmatch(value)
            return None if match is None else cls(f"{match[1].lower()}://{match[2]}", match[3].rstrip("/"))
        if isinstance(value, cls):
            return value
        return cls(_root_of(value[0]), value[1].strip("/"), users_store=value[0]) if is_pair(value) else None

    def __str__(self) -> str:
        return f"{self.root}/{self.key}".rstrip("/")

    def __fspath__(self) -> str:
        return str(self)

    def __truediv__(self, name: str) -> Self:
        return self._at(posixpath.normpath(posixpath.join(self.key, name)))

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.key).name

    @property
    def suffix(self) -> str:
        """The extension, with its dot."""
        return PurePosixPath(self.key).suffix

    @property
    def parent(self) -> Self:
        """The folder of the file."""
        parent = str(PurePosixPath(self.key).parent)
        return self._at("" if parent == "." else parent)

    def with_suffix(self, suffix: str) -> Self:
        """Return the path with another extension."""
        return self._at(str(PurePosixPath(self.key).with_suffix(suffix)))

    def _at(self, key: str) -> Self:
        return attrs.evolve(self, key=key, size=-1, tag="")

    def open(self, mode: str = "rb") -> IO[bytes]:
        """Open the file for reading. Content is fetched as it is read.

        Raises:
            OSError: The file does not exist, or can't be read.
        """
        if mode != "rb":
            raise ValueError(f"a file in a bucket can't be opened with mode {mode!r}: open it read-only, with 'rb'")
        with self._explained() as obstore:
            return io.BufferedReader(_Reader(self, obstore.open_reader(self._store, self.key)), 64 * 1024)

    def beginning(self, count: int) -> tuple[bytes, int]:
        """Return the first ``count`` bytes of the file, and the file's size.

        Raises:
            OSError: The file does not exist, or can't be read.
        """
        with self._explained() as obstore:
            try:
                reply = obstore.get(self._store, self.key, options={"range": (0, count)})
            except obstore.exceptions.BaseError:
                if obstore.head(self._store, self.key)["size"]:
                    raise
                return b"", 0  # stores refuse any range of an empty file
            return bytes(reply.bytes()), reply.meta["size"]

    def exists(self) -> bool:
        """Return whether the file exists.

        Raises:
            OSError: The store does not answer.
        """
        try:
            self._ask()
        except FileNotFoundError:
            return False
        return True

    def tag(self) -> str:
        """Return a tag that changes with the file's content. The store is asked only if the path has no tag yet.

        Raises:
            OSError: The file does not exist, or the store does not answer.
        """
        return self._tag or self._ask()

    def portable(self) -> Self:
        """Return the path with its tag, and without a user's store, which may hold credentials.

        Another process can identify the file by this path, even if that process can't read the file.

        Raises:
            OSError: The file does not exist, or the store does not answer.
        """
        return attrs.evolve(self, tag=self.tag(), users_store=None)

    def _ask(self) -> str:
        with self._explained() as obstore:
            return _tag_of(obstore.head(self._store, self.key))

    def files(self) -> Iterator[tuple[str, Self]]:
        """Yield the relative path and the ``BucketPath`` of each file in this folder and its subfolders.

        The ``BucketPath`` has the size of the file, and its tag if the store lists tags.

        Raises:
            OSError: The folder can't be read.
        """
        start = len(self.key) + 1 if self.key else 0
        with self._explained() as obstore:
            for page in obstore.list(self._store, self.key or None):
                for found in page:
                    tag = _tag_of(found) if found["e_tag"] else ""
                    yield found["path"][start:], attrs.evolve(self, key=found["path"], size=found["size"], tag=tag)

    def signed_url(self) -> str | None:
        """Return a URL from which anybody can read the file for 12 hours; ``None`` if the store can't sign URLs."""
        try:
            with self._explained() as obstore:
                url = str(obstore.sign(self._store, "GET", self.key, expires_in=_SIGNED_FOR))
        except (OSError, TypeError):  # without credentials, as for a public bucket; or the store refuses the path
            return None
        # For Google's stores, obstore does not quote "#", "?" and "%", so the URL would name another file.
        return url if unquote(urlsplit(url).path).endswith(f"/{self.key}") else None

    def put(self, file: IO[bytes]) -> None:
        """Write the complete file, or nothing.

        Raises:
            FileExistsError: A file with this path exists, and must not be replaced.
            OSError: The file can't be written.
        """
        file.seek(0)
        with self._explained() as obstore:
            obstore.put(self._store, self.key, file, mode="overwrite" if self.replace else "create")

    @property
    def _store(self) -> ObjectStore:
        return self._users_store or _store_at(self.root)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[ModuleType]:
        """Turn obstore's errors into :class:`OSError`, with texts that contain no credentials."""
        try:
            import obstore.exceptions  # noqa: PLC0415  # an extra
        except ImportError:
            raise ConfigurationError('a file in a bucket needs obstore: pip install "qwen-edit-async[cloud]"') from None
        try:
            yield obstore
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, "does not exist", str(self)) from None
        except obstore.exceptions.AlreadyExistsError:
            raise FileExistsError(errno.EEXIST, "another file has this name", str(self)) from None
        except (obstore.exceptions.BaseError, OSError, ValueError) as error:
            raise OSError(errno.EIO, _reason_of(error), str(self)) from None


class BucketPart(Part[BucketPath]):
    """A file that stays on this machine until it is complete: in memory, or in a temporary file if it is large."""

    def __init__(self, target: BucketPath) -> None:
        super().__init__(target, tempfile.SpooledTemporaryFile(1024 * 1024))  # noqa: SIM115  # close() closes it

    def commit(self, target: BucketPath) -> BucketPath:
        """Write the file to the bucket; see :meth:`Part.commit`. An existing file with the same content is accepted."""
        with self._lock, self._file:
            size = self._file.seek(0, os.SEEK_END)
            if target != self._target and target.exists() and not self._is_in(target):
                target = self._target
            try:
                target.put(self._file)
            except FileExistsError:
                if not self._is_in(target):
                    raise
            return attrs.evolve(target, size=size)

    def _is_in(self, target: BucketPath) -> bool:
        # An earlier run may have been killed just after it wrote the file.
        self._file.seek(0)
        with target.open() as known:
            return known.read() == self._file.read()


class _Reader(io.RawIOBase):
    """An obstore reader with the interface of a Python file."""

    def __init__(self, path: BucketPath, file: ReadableFile) -> None:
        self._path = path
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any, /) -> int:
        with self._path._explained():  # noqa: SLF001  # the same module
            piece = self._file.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)


def with_tags(paths: Iterable[BucketPath]) -> dict[BucketPath, BucketPath]:
    """Map each path without a tag to the same path with its tag. Up to 32 requests run at once.

    If a request fails, the path stays without a tag. Reading the file then shows the reason.
    """
    lacking = [path for path in paths if not path._tag]  # noqa: SLF001  # the same module
    if not lacking:
        return {}
    with ThreadPoolExecutor(32, "qwen-edit-tags") as threads:
        return dict(zip(lacking, threads.map(_with_tag, lacking), strict=True))


def _with_tag(path: BucketPath) -> BucketPath:
    with contextlib.suppress(OSError, ConfigurationError):
        return attrs.evolve(path, tag=path.tag())
    return path


def is_pair(value: object) -> TypeGuard[tuple[ObjectStore, str]]:
    """Return whether a value is a tuple ``(store, path)`` with an obstore store."""
    module = sys.modules.get("obstore.store")  # until obstore.store is imported, no store can exist
    return (
        module is not None
        and isinstance(value, tuple)
        and len(value) == 2  # noqa: PLR2004  # a pair
        and isinstance(value[0], module.ObjectStore)
        and isinstance(value[1], str)
    )


def _tag_of(found: ObjectMeta) -> str:
    tag = (found["e_tag"] or found["last_modified"].isoformat()).strip('"')  # Azure lists tags without quotes
    return f"{tag} {found['size']}"


def _root_of(store: Any) -> str:
    """Return the URL of a store, which identifies the store in a journal."""
    kind, config = type(store).__name__, getattr(store, "config", {})
    if kind == "HTTPStore":
        url = urlsplit(str(store.url))
        return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}".rstrip("/")  # the rest may be secret
    if kind == "MemoryStore":
        return f"memory://{id(store):x}"
    host = urlsplit(config.get("endpoint", "")).netloc
    bucket = config.get("bucket", config.get("container_name", ""))
    return "/".join(filter(None, (f"{_SCHEMES[kind]}:/", host, bucket, str(store.prefix or "").strip("/"))))


def _reason_of(error: Exception) -> str:
    """Return the first line of an error's text. Omit the secrets of URLs, and XML, which may name the account."""
    line, *_ = str(error).partition("\n")
    return _QUERY.sub("?…", _USER.sub("", line)).partition("<")[0].rstrip(": ")[:200]


@functools.lru_cache(maxsize=64)
def _store_at(root: str) -> ObjectStore:
    """Return the store of a bucket, with the environment's credentials. A cached store keeps its connections."""
    from obstore.store import from_url  # noqa: PLC0415  # an extra

    return from_url(root)
