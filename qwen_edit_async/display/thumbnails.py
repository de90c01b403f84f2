"""Makes thumbnails of inputs and results, to embed in pages and notebooks. Blocking.

A missing thumbnail is never an error. URLs, streams, missing files and pictures that can't be decoded have
no thumbnail. Without Pillow, there are no thumbnails.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any, Final

import attrs

from qwen_edit_async.images.kinds import MAX_SOURCE_BYTES, ArrayLike, PillowImage
from qwen_edit_async.images.source import exclusive_access, local_path
from qwen_edit_async.images.upload import encode_base64, open_image
from qwen_edit_async.storage.bucket import BucketPath

THUMBNAIL_SIDE: Final = 256
"""The maximum width and height of a thumbnail, in pixels."""


@attrs.frozen
class Thumbnail:
    """A small WebP file, with its width and height in pixels."""

    content: bytes = attrs.field(repr=False)
    width: int
    height: int

    @property
    def data_uri(self) -> str:
        """The file as a data URI."""
        return f"data:image/webp;base64,{encode_base64(self.content).decode('ascii')}"


class Previews:
    """The thumbnails of one edit. They are made only in a notebook, when an output is downloaded.

    Attributes:
        before: The thumbnails of the inputs, in order. Inputs without a thumbnail are left out.
        after: The thumbnails of the downloaded outputs, by index.
    """

    def __init__(self, inputs: Iterable[Any] = ()) -> None:
        self._inputs = tuple(inputs)
        self.before: tuple[Thumbnail, ...] = ()
        self.after: dict[int, Thumbnail] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Inputs may be open files, which can't be copied. A copied result can't download, so it needs no inputs.
        return self.__dict__ | {"_inputs": ()}

    def lacks(self, index: int) -> bool:
        """Return whether a downloaded output still needs a thumbnail."""
        return index not in self.after and in_notebook()

    def remember(self, index: int, output: Any) -> None:
        """Make the thumbnail of an output from its path or bytes. The first call also makes the inputs' thumbnails."""
        if self._inputs:
            self.before = tuple(filter(None, map(make_thumbnail, self._inputs)))
            self._inputs = ()
        if (thumbnail := make_thumbnail(output)) is not None:
            self.after[index] = thumbnail


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook, without importing IPython."""
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return get_shell is not None and getattr(get_shell(), "kernel", None) is not None


def make_thumbnail(image: Any) -> Thumbnail | None:
    """Make a thumbnail of any image that a request accepts. Return ``None`` if that is impossible.

    A file in a bucket is read over the network.
    """
    try:
        from qwen_edit_async.images import pillow  # noqa: PLC0415  # Pillow is optional, and slow to import

        image = BucketPath.of(image) or image
        if isinstance(image, str | bytes | bytearray | memoryview | os.PathLike):
            with open_image(image, MAX_SOURCE_BYTES)[0] as file:
                encoded = pillow.thumbnail(file, THUMBNAIL_SIDE, local_path(image) or "")
        elif isinstance(image, PillowImage | ArrayLike):
            with exclusive_access(image):
                encoded = pillow.thumbnail(image, THUMBNAIL_SIDE)
        else:
            return None
        with encoded.file as content:
            content.seek(0)
            return Thumbnail(content.read(), *encoded.sides)
    except Exception:  # noqa: BLE001  # decoders raise any kind of error, and pages do without a thumbnail
        return None
