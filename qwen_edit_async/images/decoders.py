"""Decodes a part of an image file, or what is left of a damaged one. Needs Pillow."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import IO, Final

from PIL import ImageFile, JpegImagePlugin, PngImagePlugin

from qwen_edit_async.errors import InvalidEditError
from qwen_edit_async.images.png import essentials
from qwen_edit_async.log import log

_JPEG_LOOKAHEAD_BYTES: Final = 8
"""The most bytes that the decoder reads ahead of those that it needs."""

_OPTIONAL_CHUNKS: Final = (frozenset({b"tRNS", b"iCCP", b"eXIf"}), frozenset[bytes]())


class _SampleDecodedError(Exception):
    """Raised through Pillow's loop that feeds a decoder, to leave it."""


class JpegFile(JpegImagePlugin.JpegImageFile):
    """A JPEG file that is not asked for its resolution, because looking for that warns about corrupt Exif data."""

    _readable = sys.maxsize
    _padding: bytes | None = None

    @property
    def can_shrink(self) -> bool:
        """Whether it can be decoded at a reduced scale in little memory."""
        return not self.info.get("progressive")

    def sample(self, end: int) -> None:
        """Decode, at an eighth of its size, the part before ``end``. The picture can't be loaded after that.

        Raises:
            OSError: If the decoder fails.
        """
        with contextlib.suppress(_SampleDecodedError):
            self._decode_small(end)

    def decode_all(self, end: int, name: str) -> None:
        """Decode all pixels, at an eighth of their size, from the data before ``end``, where the end marker is.

        A decoder that meets that marker too early fills the rest with gray, so it gets a few bytes of padding instead.

        Raises:
            InvalidEditError: If the data does not suffice.
        """
        self._padding = bytes(_JPEG_LOOKAHEAD_BYTES)
        pixels = f"{self.width}×{self.height} pixels"
        try:
            self._decode_small(end)
        except OSError:
            raise InvalidEditError(f"{name} is a damaged JPEG file: it has too little data for its {pixels}") from None

    def load_read(self, read_bytes: int) -> bytes:
        """Return the next bytes for the decoder, which has accepted all bytes before."""
        if not self._readable:
            if self._padding is None:
                raise _SampleDecodedError
            data, self._padding = self._padding, b""
            return data
        data = super().load_read(min(read_bytes, self._readable))
        self._readable -= len(data)
        return data

    def _decode_small(self, end: int) -> None:
        self._readable = end  # the decoder begins at the start of the file
        self.draft(None, (max(1, self.width // 8), max(1, self.height // 8)))
        self.load()

    def _read_dpi_from_exif(self) -> None:
        pass


class PngEssentials(PngImagePlugin.PngImageFile):
    """A PNG file that can be opened only without the chunks beside its picture."""


def open_essentials(file: IO[bytes], name: str) -> PngEssentials:
    """Open a PNG file without the chunks beside its picture; those of its colours and orientation stay if they can.

    Raises:
        InvalidEditError: If it can't be opened without them either.
    """
    file.seek(0)
    data = file.read()
    for optional in _OPTIONAL_CHUNKS:
        with contextlib.suppress(Exception):  # Pillow raises whatever a broken file leads to
            return PngEssentials(io.BytesIO(essentials(data, optional)))
    raise InvalidEditError(f"{name} is a damaged PNG file: save it as a new one")


def load_what_is_there(image: ImageFile.ImageFile) -> None:
    """Decode the pixels up to the first that are damaged or missing. The rest stays black.

    Raises:
        Exception: If none can be decoded.
    """
    try:
        image.load()
    except Exception as error:  # decoders raise whatever a broken file leads to
        log.debug("a picture is decoded in part: %r", error)
        image.tile = []
        image.load()
        if image.getbbox(alpha_only=False) is None:
            raise
