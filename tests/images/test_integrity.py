"""JPEG files from marker to marker, and how little of them is decoded."""

from __future__ import annotations

import io
import random

import pytest
from PIL import Image

from qwen_edit_async.errors import InvalidEditError
from qwen_edit_async.images import integrity as _structure
from qwen_edit_async.images import pillow as _pillow
from qwen_edit_async.images.integrity import find_cut, find_damage

SCAN = b"\xff\xda"


def jpeg(**options: object) -> bytes:
    file = io.BytesIO()
    picture = Image.frombytes("RGB", (400, 400), random.Random(3).randbytes(400 * 400 * 3))
    picture.save(file, "JPEG", **options)
    return file.getvalue()


def damage(data: bytes) -> str | None:
    return find_damage(io.BytesIO(data), len(data), "image/jpeg")


def with_inserted(data: bytes, position: int, inserted: bytes) -> bytes:
    return data[:position] + inserted + data[position:]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 1}])
def test_a_whole_jpeg_has_no_damage(options) -> None:
    assert damage(jpeg(**options)) is None


@pytest.mark.parametrize("marker", [b"\xff\xc0", b"\xff\xd8", b"\xff\x80", b"\xff\xf7"])
def test_a_marker_that_does_not_belong_into_pixel_data_is_damage(marker) -> None:
    data = jpeg()
    assert damage(with_inserted(data, len(data) // 2, marker)) == "its pixel data is damaged"


def test_an_end_marker_inside_of_a_comment_between_scans_is_not_the_end() -> None:
    data = jpeg(progressive=True)
    second_scan = data.index(SCAN, data.index(SCAN) + 2)
    tables = data.rindex(b"\xff\xc4", 0, second_scan)
    commented = with_inserted(data, tables, b"\xff\xfe\x00\x04\xff\xd9")
    assert damage(commented) is None
    assert damage(commented[:-2]) == "it is cut short"


def test_a_file_that_ends_within_a_segment_between_scans_is_cut_short() -> None:
    data = jpeg(progressive=True)
    second_scan = data.index(SCAN, data.index(SCAN) + 2)
    assert damage(data[: second_scan + 3]) == "it is cut short"


@pytest.mark.parametrize("block", [2, 3, 7, 1000])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("inserted", [b"", b"\xff\xfe\x00\x04\xff\xd9", b"\xff\xfe\x00\x00", b"\xff\xc0"])
def test_it_does_not_matter_where_blocks_end(monkeypatch, block, whole, inserted) -> None:
    data = jpeg(progressive=True, quality=10)
    second_scan = data.index(SCAN, data.index(SCAN) + 2)
    data = with_inserted(data, data.rindex(b"\xff\xc4", 0, second_scan), inserted)[: None if whole else -2]
    expected = damage(data)
    assert expected == (
        "its pixel data is damaged" if inserted == b"\xff\xc0" else None if whole else "it is cut short"
    )
    monkeypatch.setattr(_structure, "_BLOCK", block)
    assert damage(data) == expected


@pytest.mark.parametrize("comment", [b"\xff\xfe\x00\x02", b"\xff\xfe\xff\xff" + bytes(65_533)])
def test_a_file_is_read_once_however_many_comments_it_has(comment) -> None:
    read = 0

    class Watched(io.BytesIO):
        def read(self, size: int = -1) -> bytes:
            nonlocal read
            data = super().read(size)
            read += len(data)
            return data

    data = jpeg()
    data = data[:-2] + comment * (1_000_000 // len(comment)) + data[-2:]
    assert find_damage(Watched(data), len(data), "image/jpeg") is None
    assert read <= len(data)


class Counted(io.BytesIO):
    count = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.count += len(data)
        return data


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    Image.frombytes("RGB", (400, 400), random.Random(3).randbytes(400 * 400 * 3)).save(file, kind)
    return file.getvalue()


FORMATS = ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"]


@pytest.mark.parametrize("kind", FORMATS)
def test_whether_a_file_is_cut_short_is_told_without_reading_it(kind) -> None:
    data = encoded(kind)
    file = Counted(data)
    assert find_cut(file, len(data), f"image/{kind.lower()}") is None
    assert file.count < 2000 < len(data)


@pytest.mark.parametrize(
    ("kind", "kept"), [("JPEG", -1), ("JPEG", 100), ("PNG", -1), ("PNG", 40), ("WEBP", -1), ("GIF", 6), ("BMP", 20)]
)
def test_a_file_that_is_cut_short_is_found(kind, kept) -> None:
    data = encoded(kind)[:kept]
    for find in (find_cut, find_damage):
        assert find(io.BytesIO(data), len(data), f"image/{kind.lower()}") == "it is cut short"


@pytest.mark.parametrize(("kind", "appended"), [("JPEG", b"\0"), ("PNG", b"a trailer")])
def test_what_something_was_appended_to_is_whole(kind, appended) -> None:
    data = encoded(kind) + appended
    assert find_cut(io.BytesIO(data), len(data), f"image/{kind.lower()}") is None


@pytest.mark.parametrize(("kind", "position"), [("JPEG", 2), ("PNG", 17)])
def test_a_header_that_is_damaged_is_found(kind, position) -> None:
    data = bytearray(encoded(kind))
    data[position] ^= 0x10
    assert find_cut(io.BytesIO(data), len(data), f"image/{kind.lower()}")


def test_broken_tables_are_found_by_decoding() -> None:
    data = bytearray(jpeg())
    tables = data.index(b"\xff\xc4")
    data[tables + 5 : tables + 21] = b"\xff" * 16
    assert damage(bytes(data)) is None
    with pytest.raises(InvalidEditError, match="can't be decoded"):
        _pillow.check(io.BytesIO(data), "image/jpeg", "image 1")


def test_only_the_beginning_of_the_pixel_data_is_decoded(monkeypatch) -> None:
    given: list[bytes] = []
    load_read = _pillow._JpegFile.load_read

    def spying(image, size):
        given.append(load_read(image, size))
        return given[-1]

    monkeypatch.setattr(_pillow._JpegFile, "load_read", spying)
    data = jpeg(quality=95)
    assert _pillow.check(io.BytesIO(data), "image/jpeg", "image 1") == (400, 400)
    assert len(b"".join(given)) < data.index(SCAN) + 10 * 1024 < len(data)
