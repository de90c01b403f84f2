"""Whether a PNG file is whole, from its bytes alone."""

from __future__ import annotations

import io
import itertools
import struct
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from qwen_edit_async.images.png import PngCheck, PngError

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def header(width: int = 5, height: int = 3) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


PIXELS = chunk(b"IDAT", zlib.compress(bytes(5 * 3 * 3 + 3)))
END = chunk(b"IEND")


def picture() -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((37, 23)).save(file, "PNG", dpi=(72, 72))
    return file.getvalue()


PICTURE = picture()


def check(*pieces: bytes) -> PngCheck:
    png = PngCheck()
    for piece in pieces:
        png.feed(piece)
    png.finish()
    return png


@pytest.mark.fuzz
@given(st.lists(st.integers(0, len(PICTURE))).map(sorted))
def test_a_whole_picture_passes_in_whatever_pieces_it_comes(cuts: list[int]) -> None:
    edges = [0, *cuts, len(PICTURE)]
    png = check(*(PICTURE[start:end] for start, end in itertools.pairwise(edges)))
    assert (png.width, png.height, png.complete) == (37, 23, True)


@pytest.mark.fuzz
@given(st.integers(0, len(PICTURE) - 1))
def test_a_picture_that_is_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(PngError, match="cut short"):
        check(PICTURE[:length])


@pytest.mark.fuzz
@given(st.integers(0, len(PICTURE) - 1), st.integers(1, 255))
def test_a_picture_with_any_one_byte_changed_is_refused(position: int, flip: int) -> None:
    damaged = bytearray(PICTURE)
    damaged[position] ^= flip
    with pytest.raises(PngError):
        check(bytes(damaged))


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (b"<html>not found</html>", "begins with"),
        (SIGNATURE + PIXELS + END, "does not begin with one header"),
        (SIGNATURE + header() + header() + PIXELS + END, "does not begin with one header"),
        (SIGNATURE + chunk(b"IHDR", b"short") + PIXELS + END, "does not begin with one header"),
        (SIGNATURE + header() + END, "ends without pixels"),
        (SIGNATURE + header() + chunk(b"IDAT") + END, "ends without pixels"),
        (SIGNATURE + header() + PIXELS + chunk(b"IEND", b"more"), "its end is damaged"),
        (SIGNATURE + header(0, 3) + PIXELS + END, "no pixels"),
        (SIGNATURE + header(5, 0) + PIXELS + END, "no pixels"),
        (SIGNATURE + header() + PIXELS[:-1] + bytes([PIXELS[-1] ^ 1]) + END, "'IDAT' is damaged"),
        (SIGNATURE + header() + b"\xff\xff\xff\xffIDAT", "is no chunk"),
        (SIGNATURE + header() + b"\x00\x00\x00\x001234", "is no chunk"),
        (SIGNATURE + header() + PIXELS + END + b"\r\n", "2 bytes follow its end"),
        (b"", "cut short"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(file: bytes, reason: str) -> None:
    with pytest.raises(PngError, match=reason):
        check(file)


def test_what_follows_the_end_is_counted_however_it_comes() -> None:
    png = PngCheck()
    for piece in (PICTURE + b"ab", b"c"):
        png.feed(piece)
    assert (png.complete, png.trailing) == (True, 3)


def test_a_large_chunk_is_checked_in_constant_memory() -> None:
    size, block = 32 * 1024 * 1024, bytes(64 * 1024)
    crc = zlib.crc32(b"IDAT")
    tracemalloc.start()
    try:
        png = PngCheck()
        png.feed(SIGNATURE + header() + struct.pack(">I", size) + b"IDAT")
        for _ in range(size // len(block)):
            png.feed(block)
            crc = zlib.crc32(block, crc)
        png.feed(struct.pack(">I", crc) + END)
        png.finish()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 256 * 1024
