"""Small pictures to be embedded in pages: of inputs and of results. Blocking: call it on a thread.

A thumbnail is a courtesy: what has none (a URL, which would have to be fetched; a stream, which was read; a file that
is gone; any picture where Pillow is missing) is shown by name.
"""

from __future__ import annotations

import base64
import io
import os
import sys
from collections.abc import Iterable
from typing import IO, Any, Final

import attrs

from qwen_edit_async.images.kinds import ArrayLike, PillowImage, base64_start, is_data_uri, is_url
from qwen_edit_async.images.turns import turn_at

THUMBNAIL_SIDE: Final = 256
"""Longest side of a thumbnail, in pixels."""


@attrs.frozen
class Thumbnail:
    """A small WebP file.

    Attributes:
        content: The file.
        width: In pixels.
        height: In pixels.
    """

    content: bytes = attrs.field(repr=False)
    width: int
    height: int

    @property
    def data_uri(self) -> str:
        """The file, to be embedded."""
        return f"data:image/webp;base64,{base64.b64encode(self.content).decode('ascii')}"


class Previews:
    """Thumbnails of an edit's pictures, as far as they are known: what a notebook can show without waiting.

    They are made when an output is downloaded, off the event loop, and in notebooks only. Outputs that were not
    downloaded have none: a repr fetches nothing.

    Attributes:
        before: Of the inputs that have one, in their order.
        after: Of the outputs that were downloaded, by their index.
    """

    def __init__(self, inputs: Iterable[Any] = ()) -> None:
        self._inputs = tuple(inputs)
        self.before: tuple[Thumbnail, ...] = ()
        self.after: dict[int, Thumbnail] = {}

    def __getstate__(self) -> dict[str, Any]:
        # The inputs may be open files. A copy has no session, so it makes no thumbnail of them.
        return self.__dict__ | {"_inputs": ()}

    def lacks(self, index: int) -> bool:
        """Whether an output that was just downloaded is to be remembered."""
        return index not in self.after and in_notebook()

    def remember(self, index: int, output: Any) -> None:
        """Make the thumbnail of an output, given as path or content, and with the first those of the inputs. Blocks."""
        if self._inputs:
            self.before = tuple(filter(None, map(make_thumbnail, self._inputs)))
            self._inputs = ()
        if (thumbnail := make_thumbnail(output)) is not None:
            self.after[index] = thumbnail


def in_notebook() -> bool:
    """Whether this is the kernel of a notebook; imports nothing."""
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return get_shell is not None and getattr(get_shell(), "kernel", None) is not None


def make_thumbnail(image: Any, side: int = THUMBNAIL_SIDE) -> Thumbnail | None:
    """A thumbnail of an image of a request, of a file or of a file's content; ``None`` if it has none. Blocks.

    Args:
        image: Of any kind that a request takes. Nothing is fetched: what is not on this machine has no thumbnail.
        side: The longest side, in pixels.
    """
    try:
        from qwen_edit_async.images import pillow as _pillow  # noqa: PLC0415  # Pillow is optional, and slow to import

        if isinstance(image, PillowImage | ArrayLike) and not isinstance(image, os.PathLike):
            with turn_at(image):
                encoded = _pillow.thumbnail(image, side, "the picture")
        else:
            file = _open(image)
            if file is None:
                return None
            with file:
                encoded = _pillow.thumbnail(file, side, "the picture")
        with encoded.file as content:
            content.seek(0)
            width, height = encoded.sides
            return Thumbnail(content.read(), width, height)
    except Exception:  # noqa: BLE001  # whatever Pillow, a file or an array raises: no preview is worth an edit
        return None


def _open(image: Any) -> IO[bytes] | None:
    if isinstance(image, bytes | bytearray | memoryview):
        return io.BytesIO(image)
    if is_url(image) or not isinstance(image, str | os.PathLike):
        return None
    if is_data_uri(image):
        return io.BytesIO(base64.b64decode(str(image)[base64_start(str(image), "the picture") :]))
    if not os.path.isfile(image):  # noqa: PTH113  # a str or a PathLike; a pipe would be waited for
        return None
    return open(image, "rb")  # noqa: PTH123  # likewise
