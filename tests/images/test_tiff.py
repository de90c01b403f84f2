"""Kinds of TIFF: camera raw files, and those that decoders misread."""

from __future__ import annotations

import base64
import io
import struct

import pytest
from PIL import Image

from qwen_edit_async.errors import InvalidEditError
from qwen_edit_async.images.integrity import find_cut, find_damage
from qwen_edit_async.images.prepare import prepare

SHORT, LONG, ASCII, BYTE, IFD = 3, 4, 2, 1, 13


def tiff(
    *tags: tuple[int, int, object],
    order: str = "<",
    big: bool = False,
    bits: int = 8,
    samples: int = 1,
    pixels: bytes | None = None,
    after_head: bytes = b"",
) -> bytes:
    """400×400 gray pixels, or others, with more tags: each with its type and its value or values."""
    offset = "Q" if big else "I"
    pixels = bytes(400 * 400 * samples * bits // 8) if pixels is None else pixels
    head_size = (16 if big else 8) + len(after_head)
    usual = [(256, LONG, 400), (257, LONG, 400), (258, SHORT, (bits,) * samples), (259, SHORT, 1)]
    usual += [(262, SHORT, 1 if samples == 1 else 2), (273, LONG, head_size), (277, SHORT, samples)]
    usual += [(278, LONG, 400), (279, LONG, len(pixels))]
    entries = sorted({tag: (tag, kind, value) for tag, kind, value in [*usual, *tags]}.values())
    at = head_size + len(pixels)
    values_at = at + (8 if big else 2) + len(entries) * (20 if big else 12) + (8 if big else 4)
    directory, values = struct.pack(order + ("Q" if big else "H"), len(entries)), b""
    for tag, kind, value in entries:
        each = value if isinstance(value, bytes | tuple) else (value,)
        code = {SHORT: "H", LONG: "I", ASCII: "B", BYTE: "B", IFD: "I"}[kind]
        packed = struct.pack(f"{order}{len(each)}{code}", *each)
        directory += struct.pack(f"{order}HH{offset}", tag, kind, len(each))
        if len(packed) > struct.calcsize(offset):
            directory += struct.pack(order + offset, values_at + len(values))
            values += packed + b"\0" * (len(packed) % 2)
        else:
            directory += packed.ljust(struct.calcsize(offset), b"\0")
    head = (b"II" if order == "<" else b"MM") + (
        struct.pack(f"{order}HHHQ", 43, 8, 0, at) if big else struct.pack(f"{order}HI", 42, at)
    )
    return head + after_head + pixels + directory + struct.pack(order + offset, 0) + values


def problem(data: bytes) -> str:
    found = find_damage(io.BytesIO(data), len(data), "TIFF").problem("TIFF", fit=False)
    assert find_cut(io.BytesIO(data), len(data), "TIFF").problem("TIFF", fit=False) == found
    return found


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_plain_tiff_passes(order) -> None:
    data = tiff(order=order)
    assert problem(data) == ""
    with Image.open(io.BytesIO(data)) as image:
        image.load()


SENSOR_DATA = struct.pack("<HHHIHHI", 1, 262, SHORT, 1, 32803, 0, 0)
"""A directory whose picture is sensor data."""

RAW = {
    "DNG": tiff((50706, BYTE, (1, 4, 0, 0)), (330, LONG, 8)),
    "CR2": tiff(after_head=b"CR\x02\0"),
    "NEF": tiff((254, LONG, 1), (271, ASCII, b"NIKON CORPORATION\0"), (330, LONG, (8, 8))),
    "ARW": tiff((254, LONG, 1), (271, ASCII, b"SONY\0"), (330, LONG, 8), order=">"),
    "PEF": tiff((262, SHORT, 32803), (271, ASCII, b"PENTAX\0")),
    "unknown": tiff((254, LONG, 1)),
    "SRW": tiff((271, ASCII, b"SAMSUNG\0"), (330, IFD, 8), after_head=SENSOR_DATA),
    "unknown, old tag": tiff((255, SHORT, 2)),
}


@pytest.mark.parametrize("name", RAW)
@pytest.mark.parametrize("fit", [False, True])
def test_a_camera_raw_file_is_refused_and_its_format_named(name, fit) -> None:
    with pytest.raises(
        InvalidEditError, match=rf"looks like a camera raw file \({name.split(',')[0]} format\): .*Export"
    ):
        prepare([RAW[name]], fit=fit)
    assert "camera raw" in problem(RAW[name])


@pytest.mark.parametrize(
    "tag", [(254, LONG, 0), (254, LONG, 2), (255, SHORT, 1), (271, ASCII, b"SONY\0"), (330, LONG, (8, 8))]
)
def test_a_whole_page_a_tiff_of_a_camera_or_a_pyramid_passes(tag) -> None:
    assert problem(tiff(tag)) == ""


@pytest.mark.parametrize("other", [SENSOR_DATA.replace(struct.pack("<H", 32803), b"\2\0"), b"\xff" * 8])
def test_a_whole_picture_of_a_camera_with_other_pictures_passes(other) -> None:
    assert problem(tiff((271, ASCII, b"NIKON CORPORATION\0"), (330, LONG, (8, 8)), after_head=other)) == ""


@pytest.mark.parametrize("cut", [5, 30, 100])
def test_a_directory_that_is_cut_short_is_damage(cut) -> None:
    assert problem(tiff()[:-cut]) == "is a damaged TIFF file: it is cut short"


def test_a_directory_of_which_each_value_is_the_whole_file_is_damage() -> None:
    data = tiff(*((40_000 + number, BYTE, bytes(100)) for number in range(20)))
    assert problem(data) == ""
    data = data.replace(struct.pack("<HI", BYTE, 100), struct.pack("<HI", BYTE, 2**31))
    assert problem(data) == "is a damaged TIFF file: its directory is damaged"


def test_a_tag_whose_value_lies_outside_of_the_file_is_ignored() -> None:
    data = bytearray(tiff((271, ASCII, b"NIKON CORPORATION\0")))
    entry = data.index(struct.pack("<HH", 271, ASCII))
    data[entry + 8 : entry + 12] = b"\xff\xff\xff\xff"
    assert problem(bytes(data)) == ""


UNREADABLE = {
    "signed": tiff((339, SHORT, 2), bits=16),
    "signed 8 bits": tiff((339, SHORT, 2)),
    "float": tiff((339, SHORT, 3), bits=32),
    "32-bit": tiff(bits=32),
    "10-bit samples": tiff(bits=10),
    "14-bit samples": tiff(bits=14),
    "12-bit samples": tiff(bits=12, samples=3),
    "big-endian BigTIFF": tiff(big=True, order=">"),
    "16-bit samples with white at 0": tiff((262, SHORT, 0), bits=16),
    "16-bit samples in separate planes": tiff((284, SHORT, 2), bits=16, samples=3),
    "gray and alpha in separate planes": tiff((284, SHORT, 2), (262, SHORT, 1), (338, SHORT, 2), samples=2),
    "subsampled YCbCr": tiff((262, SHORT, 6), (530, SHORT, (2, 1)), samples=3),
    "YCbCr without compression": tiff((262, SHORT, 6), samples=3),
}


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("fit", [False, True])
def test_a_tiff_that_decoders_misread_is_refused(name, fit) -> None:
    reason = name.removesuffix(" 8 bits")
    with pytest.raises(InvalidEditError, match=rf"an unsupported kind of TIFF \(.*{reason}.*PNG$"):
        prepare([UNREADABLE[name]], fit=fit)


@pytest.mark.parametrize("fit", [False, True])
def test_a_tiff_of_a_kind_that_pillow_does_not_know_is_refused_in_plain_words(fit) -> None:
    with pytest.raises(InvalidEditError, match=r"^image 1 is an unsupported kind of TIFF: convert it to PNG$"):
        prepare([tiff((262, SHORT, 9))], fit=fit)


@pytest.mark.parametrize(
    "data",
    [
        tiff(bits=16),
        tiff(bits=16, samples=3),
        tiff((284, SHORT, 2), bits=16),
        tiff((339, SHORT, (1, 1, 1)), samples=3),
        tiff((339, SHORT, 4)),
        tiff((262, SHORT, 1), (338, SHORT, 2), samples=2),
        tiff((284, SHORT, 2), samples=3),
        tiff((262, SHORT, 6), (530, SHORT, (1, 1)), samples=3),
        tiff((262, SHORT, 6), (259, SHORT, 7), samples=3),
    ],
)
def test_a_tiff_of_unsigned_samples_passes(data) -> None:
    assert problem(data) == ""


@pytest.mark.parametrize("tags", [[(257, LONG, 4000)], [(278, LONG, 40), (279, LONG, 16_000)]])
@pytest.mark.parametrize("fit", [False, True])
def test_a_tiff_that_lacks_strips_is_refused(tags, fit) -> None:
    with pytest.raises(InvalidEditError, match=r"image 1 is damaged: some of its pixels are missing$"):
        prepare([tiff(*tags)], fit=fit)


@pytest.mark.parametrize("tag", [(274, SHORT, 6), (284, SHORT, 2)])
@pytest.mark.parametrize("rows", [100, 150])
def test_a_tiff_of_several_strips_passes(tag, rows) -> None:
    strips = [3 * 400 * min(rows, 400 - start) for start in range(0, 400, rows)]
    at = tuple(8 + sum(strips[:index]) for index in range(len(strips)))
    data = tiff(tag, (278, LONG, rows), (273, LONG, at), (279, LONG, tuple(strips)), samples=3)
    if tag[0] == 284:
        planes = [size // 3 for size in strips] * 3
        at = tuple(8 + sum(planes[:index]) for index in range(len(planes)))
        data = tiff(tag, (278, LONG, rows), (273, LONG, at), (279, LONG, tuple(planes)), samples=3)
    (upload,) = prepare([data])
    assert upload.size == len(data)


def sent(data: bytes) -> Image.Image:
    (upload,) = prepare([data], fit=True)
    text = upload.chunk(0).partition(b",")[2]
    assert upload.chunks == 1
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_a_picture_of_a_tiff_that_decoders_misread_is_refused() -> None:
    picture = Image.open(io.BytesIO(UNREADABLE["16-bit samples with white at 0"]))
    with pytest.raises(InvalidEditError, match="image 1 has 16-bit samples with white at 0"):
        prepare([picture])


TWELVE_BITS = tiff(bits=12, pixels=bytes([0x80, 0x08, 0x00]) * (400 * 200))


def test_fit_scales_a_twelve_bit_tiff() -> None:
    assert sent(TWELVE_BITS).getpixel((200, 200)) == 128


@pytest.mark.parametrize("fit", [False, True])
def test_a_copy_of_a_twelve_bit_picture_is_refused(fit) -> None:
    picture = Image.open(io.BytesIO(TWELVE_BITS))
    for copy in (picture.copy(), picture.crop((0, 0, 400, 390))):
        with pytest.raises(InvalidEditError, match=r"image 1 has 16-bit samples of unknown range: .* 8 bits$"):
            prepare([copy], fit=fit)
    assert prepare([picture])[0].size


def test_fit_converts_a_big_tiff() -> None:
    picture = sent(tiff(big=True, pixels=b"\x64" * 160_000))
    assert (picture.format, picture.size, picture.getpixel((9, 9))) == ("PNG", (400, 400), 100)


@pytest.mark.parametrize(
    ("data", "kind"), [(TWELVE_BITS, "a 12-bit TIFF file"), (tiff(big=True), "a BigTIFF file")], ids=["12-bit", "big"]
)
def test_an_unusual_tiff_is_refused_with_the_advice_to_fit_it(data, kind) -> None:
    with pytest.raises(InvalidEditError, match=f"image 1 is {kind}, .*Save it as a new PNG file, .* with fit=True"):
        prepare([data])


def test_a_camera_raw_file_that_is_a_big_tiff_is_refused() -> None:
    with pytest.raises(InvalidEditError, match="camera raw"):
        prepare([tiff((50706, BYTE, (1, 4, 0, 0)), big=True)], fit=True)
