"""Distinguishes local paths from paths in buckets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeAlias

from qwen_edit_async.errors import ConfigurationError
from qwen_edit_async.storage.bucket import BucketPart, BucketPath
from qwen_edit_async.storage.part import Part, PartFile

FilePath: TypeAlias = Path | BucketPath
"""The path of a file or folder, local or in a bucket."""

AnyPath: TypeAlias = "str | os.PathLike[str] | tuple[object, str]"
"""A path that users give: a local path, a URL such as ``s3://bucket/folder``, or an obstore tuple ``(store, path)``."""


def file_path(path: Any) -> FilePath:
    """Convert a local path, a URL or a tuple ``(store, path)`` to the path of a result.

    Raises:
        ConfigurationError: If results can't be written to the path.
    """
    if (bucket := BucketPath.of(path)) is not None:
        return bucket
    try:
        text = os.path.expanduser(path)  # noqa: PTH111  # Path.expanduser raises for "~nobody"
    except Exception:  # noqa: BLE001  # another library's path may raise any error if it is not local
        text = "://"
    if not isinstance(text, str) or "://" in text:
        raise ConfigurationError(
            f"results can't be written to {str(path)!r}: give a local path, a URL such as s3://bucket/folder, "
            "gs://… or az://…, or a tuple (store, path) with an obstore store"
        )
    return Path(text)


def new_part(path: FilePath, *, replace: bool = True) -> Part[Any]:
    """Start to write a file. The file gets its final name when it is complete.

    ``replace`` says whether the new file may replace a local file. For a file in a bucket, ``path.replace`` decides.
    """
    return BucketPart(path) if isinstance(path, BucketPath) else PartFile(path, replace=replace)
