"""What a downloaded result is, and what its file is called."""

from __future__ import annotations

import io
import random
import re
import struct
from pathlib import Path

import pytest
from PIL import EpsImagePlugin, Image

from qwen_edit_async.images.findings import ImageError
from qwen_edit_async.images.integrity import Verdict, judge
from qwen_edit_async.images.pillow import decode, thumbnail


def picture(kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    noise = random.Random(7).randbytes(100 * 80 * 3)
    Image.frombytes("RGB", (100, 80), noise).save(file, kind, **options)
    return file.getvalue()


def verdict(content: bytes, *, lenient: bool = False) -> Verdict:
    return judge(io.BytesIO(content), len(content), lenient=lenient)


def test_a_png_is_as_documented() -> None:
    assert verdict(picture("PNG")) == Verdict("PNG", sides=(100, 80))


@pytest.mark.parametrize(
    ("kind", "ending"),
    [("JPEG", ".jpg"), ("WEBP", ".webp"), ("AVIF", ".avif"), ("GIF", ".gif"), ("BMP", ".bmp"), ("TIFF", ".tif")],
)
def test_a_complete_picture_of_another_format_is_kept(kind, ending) -> None:
    found = verdict(picture(kind))
    assert (found.problem, found.kind, found.rename(Path("a.png"))) == ("", kind, Path(f"a{ending}"))
    assert found.flaw.endswith(f"{kind}, not a PNG")


@pytest.mark.parametrize(("kind", "ending"), [("JPEG2000", ".jp2"), ("PPM", ".ppm"), ("ICO", ".ico"), ("QOI", ".qoi")])
def test_a_picture_of_any_other_format_is_named(kind, ending) -> None:
    found = verdict(picture(kind))
    assert (found.problem, found.kind, found.rename(Path("a.png"))) == ("", kind, Path(f"a{ending}"))
    assert found.flaw == f"is {'an' if kind[0] in 'AI' else 'a'} {kind}, not a PNG"


@pytest.mark.parametrize("appended", [b"x", b"trailing bytes"])
def test_an_avif_with_something_after_its_end_is_complete(appended) -> None:
    assert verdict(picture("AVIF") + appended).flaw == "is an AVIF, not a PNG"


def test_a_heif_file_is_not_decoded() -> None:
    content = picture("AVIF").replace(b"ftypavif", b"ftypheic", 1)
    assert verdict(content) == Verdict("HEIF", flaw="is a HEIF, not a PNG")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF"])
@pytest.mark.parametrize("share", [0.4, 0.95])
def test_a_picture_that_is_cut_short_is_a_problem(kind, share) -> None:
    content = picture(kind)
    found = verdict(content[: int(len(content) * share)])
    assert "cut short" in found.problem
    assert kind in found.problem


@pytest.mark.parametrize("end", [b"", b"\0\0\0\0IEND\xae\x42\x60"])
def test_a_png_that_lacks_only_its_end_is_kept_and_flagged(end) -> None:
    found = verdict(picture("PNG")[:-12] + end)
    assert found == Verdict("PNG", flaw="is a damaged PNG file: it is cut short", damaged=True, sides=(100, 80))


@pytest.mark.parametrize("size", [1, 2])
def test_a_jpeg_that_lacks_only_its_end_marker_is_kept_at_last(size) -> None:
    content = picture("JPEG")[:-size]
    assert verdict(content).problem == "it is a JPEG file that is cut short"
    found = verdict(content, lenient=True)
    assert found == Verdict("JPEG", flaw="is a JPEG, not a PNG, and damaged: it is cut short", damaged=True)


KINDS = {
    "WEBP": {},
    "AVIF": {},
    "JPEG2000": {},
    "JPEG": {"subsampling": 0},
    "JPEG, restarts": {"restart_marker_rows": 1, "subsampling": 0},
    "GIF": {},
    "GIF, interlaced": {"interlace": 1},
    "GIF, transparent": {"transparency": 0},
    "BMP": {},
    "TIFF": {},
    "PPM": {},
}


def cut(kind: str, share: float) -> bytes:
    content = picture(kind.partition(",")[0], **KINDS[kind])
    return content[: int(len(content) * share)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.99, 0.8, 0.65])
def test_a_picture_of_which_more_than_half_came_is_kept_at_last(kind, share) -> None:
    content, name = cut(kind, share), kind.partition(",")[0]
    first, last = verdict(content), verdict(content, lenient=True)
    assert re.match(f"it is an? {name} file that is (cut short|damaged) after [5-9][0-9] %$", first.problem)
    assert last.problem == ""
    assert re.match(f"is an? {name}, not a PNG, and damaged: (it is cut|not all of its pixels can)", last.flaw)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.05, 0.25, 0.4])
def test_a_picture_of_which_half_is_missing_is_a_problem(kind, share) -> None:
    assert re.match(
        r"it is an? \w+ file that is (cut short|damaged)( after [1-4]?[0-9] %)?$",
        verdict(cut(kind, share), lenient=True).problem,
    )


@pytest.mark.parametrize("lost", [1, 2, 20])
def test_a_progressive_jpeg_that_has_a_part_of_each_scan_is_kept_at_last(lost) -> None:
    content = picture("JPEG", progressive=True)[:-lost]
    assert verdict(content).problem == "it is a JPEG file that is cut short"
    found = verdict(content, lenient=True)
    assert found == Verdict("JPEG", flaw="is a JPEG, not a PNG, and damaged: it is cut short", damaged=True)


@pytest.mark.parametrize("share", [0.4, 0.7])
def test_a_progressive_jpeg_that_lacks_a_scan_is_a_problem(share) -> None:
    content = picture("JPEG", progressive=True)
    found = verdict(content[: int(share * len(content))], lenient=True)
    assert found.problem == "it is a JPEG file that is cut short"


def test_a_picture_that_pillow_can_not_open_is_kept_if_it_is_not_cut_short() -> None:
    content = picture("TIFF").replace(struct.pack("<HHI", 262, 3, 1) + b"\2", struct.pack("<HHI", 262, 3, 1) + b"\x09")
    flaw = "is a TIFF, not a PNG, and damaged: not all of its pixels can be decoded"
    assert verdict(content, lenient=True) == Verdict("TIFF", flaw=flaw, damaged=True)


@pytest.mark.parametrize("kind", ["ICO", "ICNS", "WEBP"])
def test_a_picture_of_which_pillow_decodes_nothing_is_a_problem_at_first(kind) -> None:
    content = picture(kind)
    damaged = content[:20] + bytes(len(content) - 20)
    assert verdict(damaged).problem == f"it is {'an' if kind[0] == 'I' else 'a'} {kind} file that is damaged"
    assert verdict(damaged, lenient=True).problem == ""


@pytest.mark.usefixtures("no_pillow")
def test_without_pillow_a_jpeg_that_is_cut_short_is_a_problem() -> None:
    assert verdict(picture("JPEG")[:-1], lenient=True).problem == "it is a JPEG file that is cut short"


@pytest.mark.usefixtures("no_pillow")
def test_a_picture_is_not_decoded_without_pillow() -> None:
    found = verdict(picture("GIF")[:2000])
    assert (found.problem, found.flaw) == ("", "is a GIF, not a PNG")


def test_a_png_with_something_after_its_end_is_kept() -> None:
    found = verdict(picture("PNG") + b"more")
    assert (found.problem, found.flaw) == ("", "is a PNG file with 4 bytes after its end")


def test_a_png_with_a_damaged_text_is_kept() -> None:
    content = picture("PNG", dpi=(72, 72))
    position = content.index(b"pHYs") + 5
    found = verdict(content[:position] + b"\xff" + content[position + 1 :])
    assert (found.problem, found.flaw) == (
        "",
        "is a PNG file with damaged metadata: its chunk b'pHYs' is damaged",
    )


def test_a_png_that_was_damaged_on_the_way_is_a_problem() -> None:
    content = picture("PNG")
    position = content.index(b"IDAT") + 100
    found = verdict(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
    assert found.problem == "it is a damaged PNG file: its chunk b'IDAT' is damaged"


def test_a_jpeg_whose_pixel_data_is_missing_is_kept_at_last() -> None:
    content = picture("JPEG", restart_marker_rows=1)
    damaged = content[: content.index(b"\xff\xd2")] + b"\xff\xd9"
    assert verdict(damaged).problem == "it is a JPEG file that is damaged"
    found = verdict(damaged, lenient=True)
    assert found.problem == ""
    assert found.flaw == "is a JPEG, not a PNG, and damaged: it has data for 40 % of its pixels"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "it is empty"),
        (b"\n<!DOCTYPE html><p>gone", "it is an HTML page"),
        (b"<HTML>gone", "it is an HTML page"),
        (b"<?xml version='1.0'?><Error/>", "it is XML text"),
        (b'{"error": "gone"}', "it is JSON text"),
        (b"just some words", "it is not a picture: it begins with b'just som'"),
        (b"\0\0\0\x10ftypisom", "it is not a picture: it begins with b'\\x00\\x00\\x00\\x10ftyp'"),
    ],
)
def test_what_is_no_picture_is_named(content, problem) -> None:
    assert verdict(content) == Verdict(problem=problem)


@pytest.mark.parametrize(
    ("boxes", "complete"),
    [
        (b"\0\0\0\0mdat anything", True),
        (b"\0\0\0\1mdat\0\0\0\0\0\0\0\x18datadata", True),
        (b"\0\0\0\1mdat\0\0\0\0\0\0\0\x19datadata", False),
        (b"\0\0\0\2mdat", True),
    ],
)
def test_the_boxes_of_an_avif_are_followed(boxes, complete) -> None:
    found = verdict(b"\0\0\0\x10ftypavif\0\0\0\0" + boxes)  # none of its pixels can be decoded
    assert found.problem.startswith("it is an AVIF file that is " + ("damaged" if complete else "cut short"))


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("a.png", "a.jpg"),
        ("a.PNG", "a.jpg"),
        ("a.b.png", "a.b.jpg"),
        ("a.jpg", "a.jpg"),
        ("a.jpeg", "a.jpeg"),
        ("a", "a"),
        ("v1.2", "v1.2"),
    ],
)
def test_a_file_gets_the_ending_of_its_format(asked, given) -> None:
    assert verdict(picture("JPEG")).rename(Path("folder") / asked) == Path("folder") / given


def test_ghostscript_never_runs_a_downloaded_file(monkeypatch) -> None:
    content = picture("EPS")
    runs: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *drawing: runs.append(drawing))
    assert verdict(content).problem == "it is an EPS file that is damaged"
    assert verdict(content, lenient=True).kind == "EPS"  # paid for, so kept
    with pytest.raises(ImageError, match="a drawing without pixels"):
        decode(content)
    with pytest.raises(ImageError, match="a drawing without pixels"):
        thumbnail(io.BytesIO(content), 64)
    assert not runs
