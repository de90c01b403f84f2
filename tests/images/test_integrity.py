"""JPEG files from marker to marker, and how little of them is decoded."""

from __future__ import annotations

import contextlib
import io
import random

import pytest
from PIL import Image

from qwen_edit_async.images import pillow as _pillow
from qwen_edit_async.images.decoders import JpegFile
from qwen_edit_async.images.findings import DamageError, Findings, ImageError
from qwen_edit_async.images.integrity import find_cut, find_damage
from qwen_edit_async.images.jpeg import check_jpeg, coefficient_bytes
from qwen_edit_async.images.prepare import prepare

SCAN = b"\xff\xda"
TO_ARITHMETIC = (b"\xff\xc2\0\x11", b"\xff\xca\0\x11")


def jpeg(**options: object) -> bytes:
    file = io.BytesIO()
    picture = Image.frombytes("RGB", (400, 400), random.Random(3).randbytes(400 * 400 * 3))
    picture.save(file, "JPEG", **options)
    return file.getvalue()


def damage(data: bytes) -> str:
    return find_damage(io.BytesIO(data), len(data), "JPEG").damage


def with_inserted(data: bytes, position: int, inserted: bytes) -> bytes:
    return data[:position] + inserted + data[position:]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 1}])
def test_a_whole_jpeg_has_no_damage(options) -> None:
    assert damage(jpeg(**options)) == ""


@pytest.mark.parametrize("marker", [b"\xff\xc0", b"\xff\xd8", b"\xff\x80", b"\xff\xf7"])
def test_a_marker_that_does_not_belong_into_pixel_data_is_damage(marker) -> None:
    data = jpeg()
    assert damage(with_inserted(data, len(data) // 2, marker)) == "its pixel data is damaged"


def test_an_end_marker_inside_of_a_comment_between_scans_is_not_the_end() -> None:
    data = jpeg(progressive=True)
    second_scan = data.index(SCAN, data.index(SCAN) + 2)
    tables = data.rindex(b"\xff\xc4", 0, second_scan)
    commented = with_inserted(data, tables, b"\xff\xfe\x00\x04\xff\xd9")
    assert damage(commented) == ""
    assert damage(commented[:-2]) == "it is cut short"


def test_a_file_that_ends_within_a_segment_between_scans_is_cut_short() -> None:
    data = jpeg(progressive=True)
    second_scan = data.index(SCAN, data.index(SCAN) + 2)
    assert damage(data[: second_scan + 3]) == "it is cut short"


@pytest.mark.parametrize("block", [2, 3, 7, 1000])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("inserted", [b"", b"\xff\xfe\x00\x04\xff\xd9", b"\xff\xfe\x00\x00", b"\xff\xc0"])
def test_it_does_not_matter_where_blocks_end(block, whole, inserted) -> None:
    data = jpeg(progressive=True, quality=10)
    second_scan = data.index(SCAN, data.index(SCAN) + 2)
    data = with_inserted(data, data.rindex(b"\xff\xc4", 0, second_scan), inserted)[: None if whole else -2]
    expected = damage(data)
    assert expected == ("its pixel data is damaged" if inserted == b"\xff\xc0" else "" if whole else "it is cut short")
    with pytest.raises(DamageError, match=expected) if expected else contextlib.nullcontext():
        check_jpeg(io.BytesIO(data), len(data), block=block)


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
    data = data[:-2] + comment * 900 + data[-2:]
    assert find_damage(Watched(data), len(data), "JPEG").damage == ""
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
    assert find_cut(file, len(data), kind).damage == ""
    assert file.count < 2000 < len(data)


@pytest.mark.parametrize(
    ("kind", "kept"), [("JPEG", -1), ("JPEG", 100), ("PNG", -1), ("PNG", 40), ("WEBP", -1), ("GIF", 6), ("BMP", 20)]
)
def test_a_file_that_is_cut_short_is_found(kind, kept) -> None:
    data = encoded(kind)[:kept]
    assert find_cut(io.BytesIO(data), len(data), kind).damage == "it is cut short"
    assert find_damage(io.BytesIO(data), len(data), kind).damage == "it is cut short"


@pytest.mark.parametrize(("kind", "appended"), [("JPEG", b"\0"), ("PNG", b"a trailer")])
def test_what_something_was_appended_to_is_whole(kind, appended) -> None:
    data = encoded(kind) + appended
    assert find_cut(io.BytesIO(data), len(data), kind).damage == ""


def test_a_header_that_is_damaged_is_found() -> None:
    data = bytearray(encoded("PNG"))
    data[17] ^= 0x10
    assert find_cut(io.BytesIO(data), len(data), "PNG").damage
    data = encoded("JPEG")
    data = data[:2] + data[data.index(SCAN) :]
    assert find_cut(io.BytesIO(data), len(data), "JPEG").damage == "its segments are damaged"


@pytest.mark.parametrize("stray", [b"\0" * 70_000, b"\xff\xfe\0\2" * 2000])
def test_more_stray_bytes_or_segments_than_any_picture_has_are_damage(stray) -> None:
    data = encoded("JPEG")
    assert damage(with_inserted(data, data.index(b"\xff\xdb"), stray)) == "its segments are damaged"


@pytest.mark.parametrize("lost", range(1, 10))
def test_a_progressive_jpeg_that_lost_scans_is_damaged(lost) -> None:
    data = jpeg(progressive=True)
    scans = [at for at in range(len(data)) if data.startswith(SCAN, at)]
    assert len(scans) == 10
    tables = data.rindex(b"\xff\xc4", 0, scans[-lost])
    data = data[:tables] + b"\xff\xd9"
    assert damage(data) == damage(data.replace(*TO_ARITHMETIC, 1)) == "it lacks some of its scans"


def test_arithmetic_coding_may_need_less_than_a_bit_for_a_block() -> None:
    data = jpeg(progressive=True).replace(*TO_ARITHMETIC, 1)
    assert damage(data[: scan_of(data)] + b"\0" + data[data.index(b"\xff\xc4", scan_of(data)) :]) == ""


def test_a_jpeg_that_lost_the_scan_of_a_component_is_damaged() -> None:
    data = smooth(mode="L")
    frame = data.index(b"\xff\xc0")
    data = data[:frame] + b"\xff\xc0\0\x0e\x08\1\x90\1\xf4\2\1\x11\0\2\x11\0" + data[frame + 13 :]
    assert damage(data) == "it lacks some of its scans"


def test_more_scans_than_any_picture_has_are_damage() -> None:
    data = jpeg(progressive=True)
    last = data.rindex(SCAN)
    assert damage(data[:-2] + data[last:-2] * 100 + data[-2:]) == "it has more than 100 scans"


@pytest.mark.parametrize("stray", [b"\0", b"junk", b"\xff\0\xff\0", b"\0" * 5000])
@pytest.mark.parametrize("marker", [b"\xff\xdb", b"\xff\xc4", SCAN, b"\xff\xd9"])
@pytest.mark.parametrize("fit", [False, True])
def test_stray_bytes_between_segments_are_skipped(stray, marker, fit) -> None:
    data = encoded("JPEG")
    data = with_inserted(data, data.index(marker), stray)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
    (upload,) = prepare([data], fit=fit)
    assert upload.size == len(data)


def test_stray_bytes_are_read_once() -> None:
    data = encoded("JPEG")
    data = with_inserted(data, data.index(b"\xff\xdb"), b"\0" * 60_000)
    file = Counted(data)
    assert find_damage(file, len(data), "JPEG").damage == ""
    assert file.count <= len(data)


def test_broken_tables_are_found_by_decoding() -> None:
    data = bytearray(jpeg())
    tables = data.index(b"\xff\xc4")
    data[tables + 5 : tables + 21] = b"\xff" * 16
    assert damage(bytes(data)) == ""
    with pytest.raises(ImageError, match="is damaged or of an unsupported kind"):
        _pillow.check(io.BytesIO(data), Findings())


def test_only_the_beginning_of_the_pixel_data_is_decoded(monkeypatch) -> None:
    given: list[bytes] = []
    load_read = JpegFile.load_read

    def spying(image, size):
        given.append(load_read(image, size))
        return given[-1]

    monkeypatch.setattr(JpegFile, "load_read", spying)
    data = jpeg(quality=95)
    assert _pillow.check(io.BytesIO(data), Findings()).sides == (400, 400)
    assert len(b"".join(given)) < data.index(SCAN) + 10 * 1024 < len(data)


def scan_of(data: bytes) -> int:
    """Where a JPEG's first pixel data begins."""
    scan = data.index(SCAN)
    return scan + 2 + int.from_bytes(data[scan + 2 : scan + 4])


def with_height(data: bytes, height: int) -> bytes:
    frame = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    return data[: frame + 5] + height.to_bytes(2) + data[frame + 7 :]


def cut_and_closed(data: bytes, share: float) -> bytes:
    start = scan_of(data)
    return data[: start + int((len(data) - start) * share)] + b"\xff\xd9"


def smooth(width: int = 500, height: int = 400, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    Image.radial_gradient("L").resize((width, height)).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_scan_without_data_is_damage(options, mode) -> None:
    assert "too little data" in damage(cut_and_closed(smooth(mode=mode), 0))


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (17, 33), (385, 401), (1000, 7)])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize(
    "options",
    [
        *({}, {"optimize": True}, {"progressive": True}, {"restart_marker_blocks": 3}, {"restart_marker_rows": 1}),
        {"restart_marker_blocks": 3, "progressive": True},
    ],
)
def test_a_picture_of_one_colour_has_enough_data(size, mode, options) -> None:
    file = io.BytesIO()
    Image.new(mode, size).save(file, "JPEG", quality=5, **options)
    found = find_damage(file, len(file.getvalue()), "JPEG")
    assert found.damage == ""
    _pillow.check(file, found)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_missing_restart_markers_are_damage(share) -> None:
    assert "% of its pixels" in damage(cut_and_closed(jpeg(restart_marker_rows=1), share))


def test_restart_markers_in_another_order_are_damage() -> None:
    data = jpeg(restart_marker_rows=1)
    second = data.index(b"\xff\xd1", scan_of(data))
    assert damage(data[: second + 1] + b"\xd5" + data[second + 2 :]) == "its pixel data is damaged"


def test_one_restart_marker_too_many_is_no_damage() -> None:
    data = jpeg(restart_marker_blocks=625)  # without any
    assert damage(data[:-2] + b"\xff\xd0" + data[-2:]) == ""


@pytest.mark.parametrize("file", [with_height(smooth(500, 400), 1200), cut_and_closed(smooth(500, 400), 0.4)])
def test_a_jpeg_that_lacks_most_of_its_data_is_refused(file) -> None:
    found = find_damage(io.BytesIO(file), len(file), "JPEG")
    assert found.doubtful_end == len(file) - 2
    with pytest.raises(ImageError, match=r"^is damaged: some of its pixels are missing"):
        _pillow.check(io.BytesIO(file), found)


def test_a_scan_that_lacks_most_of_its_data_is_not_made_whole_by_another() -> None:
    data = smooth(500, 400)
    cut = cut_and_closed(data, 0.4)[:-2] + data[data.index(SCAN) :]
    found = find_damage(io.BytesIO(cut), len(cut), "JPEG")
    with pytest.raises(ImageError, match=r"^is damaged: some of its pixels are missing"):
        _pillow.check(io.BytesIO(cut), found)


def test_a_jpeg_with_little_data_is_decoded_at_an_eighth_of_its_size(monkeypatch) -> None:
    decoded = []
    load_end = JpegFile.load_end
    monkeypatch.setattr(JpegFile, "load_end", lambda image: (decoded.append(image.size), load_end(image)))
    data = smooth(500, 400)
    _pillow.check(io.BytesIO(data), find_damage(io.BytesIO(data), len(data), "JPEG"))
    assert decoded == [(63, 50)]


def in_several_scans(gray: bytes) -> bytes:
    """A baseline JPEG whose three components are in a scan each."""
    frame, scan = gray.index(b"\xff\xc0"), gray.index(SCAN)
    components = b"\3\1\x11\0\2\x11\0\3\x11\0"
    scans = [SCAN + b"\0\x08\1" + bytes([number, 0]) + b"\0\x3f\0" + gray[scan_of(gray) : -2] for number in (1, 2, 3)]
    head = gray[:frame] + b"\xff\xc0\0\x11" + gray[frame + 4 : frame + 9] + components + gray[frame + 13 : scan]
    return head + b"".join(scans) + b"\xff\xd9"


def test_several_scans_need_memory_for_all_coefficients() -> None:
    gray = smooth(504, 400, "L")
    data = in_several_scans(gray)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
    assert damage(data) == ""
    assert coefficient_bytes(io.BytesIO(data)) == 3 * 504 * 400 * 2
    assert coefficient_bytes(io.BytesIO(gray)) == coefficient_bytes(io.BytesIO(jpeg())) == 0


def test_a_sound_jpeg_with_little_data_is_decoded_and_passes() -> None:
    data = smooth(500, 400) + b"a trailer"
    found = find_damage(io.BytesIO(data), len(data), "JPEG")
    assert found.doubtful_end == data.rindex(b"\xff\xd9")
    assert _pillow.check(io.BytesIO(data), found).sides == (500, 400)


def test_a_usual_photo_is_not_decoded_whole() -> None:
    data = jpeg()
    assert find_damage(io.BytesIO(data), len(data), "JPEG").doubtful_end is None


def test_a_jpeg_whose_height_is_told_later_passes() -> None:
    data = with_height(jpeg(), 0)
    assert damage(data) == ""


@pytest.mark.parametrize(
    "segment", [b"\xff\xc0\x00\x0b\x08\x01\x90\x01\x90\x01\x01\x00\x00", b"\xff\xc0\x00\x08\x08\x01\x90\x01\x90\x00"]
)
def test_a_frame_without_samples_is_damage(segment) -> None:
    data = jpeg()
    assert damage(data[:2] + segment + data[2:]) == "its segments are damaged"


@pytest.mark.parametrize("change", [(b"\xff\xc0", b"\xff\xee"), (b"\x03\x01\x00\x02\x11", b"\x03\x09\x00\x02\x11")])
def test_a_scan_of_unknown_components_is_damage(change) -> None:
    data = jpeg()
    frame = data.index(b"\xff\xc0")
    assert change[0] in data[frame:]
    assert damage(data[:frame] + data[frame:].replace(*change, 1)) == "its segments are damaged"


@pytest.mark.parametrize("header", [b"\0\0", b"\0\2", b"\0\3\1", b"\0\x08\3\1\0\2\x11\3"])
def test_a_scan_with_a_short_header_is_damage(header) -> None:
    data = jpeg()
    scan = data.index(SCAN)
    assert damage(data[: scan + 2] + header + data[scan_of(data) :]) == "its segments are damaged"


@pytest.mark.parametrize("marker", [b"\xff\xd8", b"\xff\xd9"])
def test_a_jpeg_that_begins_or_ends_within_its_header_is_damaged(marker) -> None:
    data = jpeg()
    assert damage(data[:2] + marker + data[2:]) == "its segments are damaged"
