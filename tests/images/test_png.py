"""Whether a PNG file is whole, from its bytes alone."""

from __future__ import annotations

import importlib.util
import io
import random
import re
import struct
import sys
import tempfile
import tracemalloc
import zlib
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from noise import noise
from PIL import Image

from qwen_edit_async.images import png as _png
from qwen_edit_async.images.findings import DamageError, Findings
from qwen_edit_async.images.png import check_png, essentials

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def header(width: int = 5, height: int = 3, *rest: int) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, *(rest or (8, 2, 0, 0, 0))))


def pixels(inflated: bytes) -> bytes:
    return chunk(b"IDAT", zlib.compress(inflated))


PIXELS = pixels(bytes(5 * 3 * 3 + 3))
END = chunk(b"IEND")


def picture() -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((37, 23)).save(file, "PNG", dpi=(72, 72))
    return file.getvalue()


PICTURE = picture()


def check(file: bytes, **options: int) -> Findings:
    return check_png(io.BytesIO(file), len(file), **options)


def problem(file: bytes) -> str:
    try:
        found = check(file)
    except DamageError as error:
        return str(error)
    return found.damage or found.conversion_reason


def test_a_whole_picture_passes() -> None:
    assert check(PICTURE) == Findings(sides=(37, 23))


@pytest.mark.fuzz
@given(st.integers(0, len(PICTURE) - 1))
def test_a_picture_that_is_cut_anywhere_is_refused(length: int) -> None:
    assert problem(PICTURE[:length]) == "it is cut short"


@pytest.mark.fuzz
@given(st.integers(0, len(PICTURE) - 1), st.integers(1, 255))
def test_a_picture_with_any_one_byte_changed_is_refused(position: int, flip: int) -> None:
    damaged = bytearray(PICTURE)
    damaged[position] ^= flip
    assert problem(bytes(damaged))


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (b"<html>not found</html>", "begins with"),
        (SIGNATURE + PIXELS + END, "its header is missing, repeated or of the wrong length"),
        (SIGNATURE + header() + header() + PIXELS + END, "its header is missing, repeated or of the wrong length"),
        (SIGNATURE + chunk(b"IHDR", b"short") + PIXELS + END, "its header is missing, repeated or of the wrong length"),
        (SIGNATURE + header() + END, "ends without pixels"),
        (SIGNATURE + header() + chunk(b"IDAT") + END, "ends without pixels"),
        (SIGNATURE + header(0, 3) + PIXELS + END, "no pixels"),
        (SIGNATURE + header(5, 0) + PIXELS + END, "no pixels"),
        (SIGNATURE + header() + PIXELS[:-1] + bytes([PIXELS[-1] ^ 1]) + END, "'IDAT' is damaged"),
        (SIGNATURE + header() + b"\xff\xff\xff\xffIDAT", "is not a chunk"),
        (SIGNATURE + header() + b"\x00\x00\x00\x001234", "is not a chunk"),
        (b"", "cut short"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(file: bytes, reason: str) -> None:
    with pytest.raises(DamageError, match=reason):
        check(file)


def test_what_follows_the_end_is_counted() -> None:
    assert check(PICTURE + b"abc").trailing == 3


def test_a_large_chunk_is_checked_in_constant_memory() -> None:
    size, block = 32 * 1024 * 1024, bytes(64 * 1024)
    crc = zlib.crc32(b"IDAT")
    with tempfile.TemporaryFile() as file:
        file.write(SIGNATURE + header() + struct.pack(">I", size) + b"IDAT")
        for _ in range(size // len(block)):
            file.write(block)
            crc = zlib.crc32(block, crc)
        file.write(struct.pack(">I", crc) + END)
        file.seek(0)
        tracemalloc.start()
        try:
            check_png(file, 0)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 1024 * 1024


def encoded(mode: str, side: int = 37, **options: object) -> bytes:
    file = io.BytesIO()
    noise(side, side).convert(mode).save(file, "PNG", **options)
    return file.getvalue()


KINDS = [encoded(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")]


@pytest.mark.parametrize("file", KINDS)
@pytest.mark.parametrize("block", [13, 100, 1000])
def test_a_sound_picture_of_any_kind_has_no_flaw(file, block) -> None:
    assert check(file, block=block).damage == ""


def interlaced(width: int, height: int, *, lost: int = 0) -> bytes:
    """A gray picture as Adam7 passes, each row of which has its filter byte."""
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = b""
    for column, row, right, down in passes:
        columns = len(range(column, width, right))
        if columns:
            rows += len(range(row, height, down)) * (b"\4" + b"\7" * columns)
    return SIGNATURE + header(width, height, 8, 0, 0, 0, 1) + pixels(rows[: len(rows) - lost]) + END


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (5, 2), (8, 8), (9, 17), (100, 37)])
def test_the_rows_of_an_interlaced_picture_are_counted_for_each_pass(size) -> None:
    file = interlaced(*size)
    with Image.open(io.BytesIO(file)) as image:
        image.load()
    assert problem(file) == ""
    assert "pixels" in problem(interlaced(*size, lost=1))


@pytest.mark.parametrize(
    ("file", "flaw"),
    [
        (SIGNATURE + header(600, 600) + chunk(b"IDAT", b"x") + END, "it has data for 0 % of its pixels"),
        (SIGNATURE + header() + chunk(b"IDAT", b"junk") + END, "its pixel data is damaged"),
        (SIGNATURE + header() + pixels(bytes(47)) + END, "it has data for 97 % of its pixels"),
        (
            SIGNATURE + header() + chunk(b"IDAT", zlib.compress(bytes(48))[:-9]) + END,
            "it has data for 0 % of its pixels",
        ),
        (SIGNATURE + header() + pixels(bytes(16) + b"\5" + bytes(31)) + END, "its pixel data is damaged"),
        (SIGNATURE + header(5, 3, 7, 2, 0, 0, 0) + PIXELS + END, "its header is not valid"),
        (SIGNATURE + header(5, 3, 8, 5, 0, 0, 0) + PIXELS + END, "its header is not valid"),
        (SIGNATURE + header(5, 3, 8, 2, 0, 0, 2) + PIXELS + END, "its header is not valid"),
    ],
)
def test_a_complete_file_that_can_t_be_decoded_has_a_flaw(file, flaw) -> None:
    assert check(file).damage == flaw


def test_a_damaged_text_is_no_flaw_of_the_picture() -> None:
    found = check(SIGNATURE + header() + chunk(b"tEXt", b"a\0b")[:-1] + b"!" + PIXELS + END)
    assert found.damage == ""
    assert found.conversion_reason == "is a PNG file with damaged metadata: its chunk b'tEXt' is damaged"


TEXT, TRANSPARENT = chunk(b"tEXt", b"a\0b"), chunk(b"tRNS", bytes(6))


@pytest.mark.parametrize(
    ("file", "kept"),
    [
        (SIGNATURE + header() + TEXT + TRANSPARENT + PIXELS + END, SIGNATURE + header() + TRANSPARENT + PIXELS + END),
        (SIGNATURE + header() + TRANSPARENT[:-1] + b"!" + PIXELS + END, SIGNATURE + header() + PIXELS + END),
        (SIGNATURE + header() + TEXT + PIXELS[:-9], SIGNATURE + header() + PIXELS[:-9]),
    ],
)
def test_what_a_picture_needs_is_kept(file, kept) -> None:
    assert essentials(file)[0] == kept


def test_data_after_the_last_row_is_no_flaw() -> None:
    assert check(SIGNATURE + header() + pixels(bytes(1000)) + END).damage == ""


def test_rows_that_are_spread_over_many_chunks_are_counted() -> None:
    stream = zlib.compress(bytes(48))
    chunks = [chunk(b"IDAT", stream[index : index + 1]) for index in range(len(stream))]
    assert check(SIGNATURE + header() + b"".join(chunks) + END).damage == ""


def test_a_picture_that_inflates_far_is_checked_in_little_memory() -> None:
    file = SIGNATURE + header(9000, 9000) + pixels(bytes(9000 * (9000 * 3 + 1))) + END
    assert len(file) < 400_000
    tracemalloc.start()
    try:
        assert check(file).damage == ""
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000


def test_a_picture_of_too_many_pixels_is_not_inflated() -> None:
    assert check(SIGNATURE + header(60_000, 60_000) + chunk(b"IDAT", b"x") + END).damage == ""


PALETTE = chunk(b"PLTE", b"\1\2\3")
INDEXED = SIGNATURE + header(4, 4, 8, 3, 0, 0, 0)
INDICES = pixels(bytes(5 * 4))


@pytest.mark.parametrize("rest", [INDICES + END, INDICES + PALETTE + END])
def test_a_picture_of_a_palette_needs_it_before_its_pixels(rest) -> None:
    assert problem(INDEXED + PALETTE + INDICES + END) == ""
    assert problem(INDEXED + rest) == "it has no palette before its pixels"


@pytest.mark.parametrize("size", [0, 1, 4, 771])
def test_a_palette_has_1_to_256_colours(size) -> None:
    assert problem(INDEXED + chunk(b"PLTE", bytes(size)) + INDICES + END) == "its palette is damaged"


@pytest.mark.parametrize("size", [3, 768])
def test_the_smallest_and_the_largest_palette_pass(size) -> None:
    assert problem(INDEXED + chunk(b"PLTE", bytes(size)) + INDICES + END) == ""


def test_pixel_data_in_several_places_is_damage() -> None:
    stream = zlib.compress(bytes(48))
    first, second = chunk(b"IDAT", stream[:9]), chunk(b"IDAT", stream[9:])
    assert problem(SIGNATURE + header() + first + chunk(b"IDAT") + second + END) == ""
    assert problem(SIGNATURE + header() + first + TEXT + second + END) == "its chunk b'tEXt' interrupts its pixel data"


def test_an_unknown_critical_chunk_is_damage() -> None:
    assert problem(SIGNATURE + header() + chunk(b"ABCD") + PIXELS + END) == "its chunk b'ABCD' is of an unknown kind"


@pytest.mark.parametrize(
    ("end", "damage"),
    [
        (b"", "it is cut short"),
        (END[:-1], "it is cut short"),
        (END[:-1] + b"!", "its chunk b'IEND' is damaged"),
        (chunk(b"IEND", b"more"), "its end is damaged"),
        (b"\0\0\0\x041234", "b'1234' of 4 bytes is not a chunk"),
        (TEXT * 50_000 + END, "it has more than 50,000 chunks"),
    ],
)
def test_damage_after_the_last_row_is_a_flaw(end, damage) -> None:
    assert check(SIGNATURE + header() + PIXELS + end).damage == damage


def test_more_chunks_than_any_picture_has_are_damage() -> None:
    with pytest.raises(DamageError, match="it has more than 50,000 chunks"):
        check(SIGNATURE + header() + TEXT * 50_000 + PIXELS + END)


def without_isal(monkeypatch) -> ModuleType:
    monkeypatch.setitem(sys.modules, "isal", None)
    module = importlib.util.module_from_spec(_png.__spec__)
    _png.__spec__.loader.exec_module(module)
    return module


def test_rows_are_the_same_without_isal(monkeypatch) -> None:
    module, chance = without_isal(monkeypatch), random.Random(7)
    inflate, inflated = zlib.decompressobj, []
    monkeypatch.setattr(zlib, "decompressobj", lambda: inflated.append(inflate()) or inflated[-1])
    rows = b"".join(b"\0" + chance.randbytes(20) * 4 for _ in range(60))
    seen = set()
    for _ in range(300):
        stream = bytearray(zlib.compress(rows, chance.choice([0, 1, 6])))
        at = chance.randrange(len(stream))
        if chance.random() < 0.5:
            stream[at] ^= 1 << chance.randrange(8)
        else:
            del stream[at:]
        file = SIGNATURE + header(20, 60, 8, 6, 0, 0, 0) + chunk(b"IDAT", stream) + END
        damage = module.check_png(io.BytesIO(file), len(file), block=500).damage
        assert damage == check(file, block=500).damage
        seen.add(re.sub(r"\d+", "N", damage))
    assert seen == {"", "it has data for N % of its pixels", "its pixel data is damaged"}
    assert len(inflated) >= 300  # the module without isal uses zlib
