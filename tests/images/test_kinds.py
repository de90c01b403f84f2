"""What can be told about an input image without reading a file."""

from __future__ import annotations

import base64
import io
import pathlib
import zipfile

import numpy as np
import pytest
from PIL import Image

from qwen_edit_async.contract import MAX_IMAGE_BYTES
from qwen_edit_async.errors import InvalidEditError
from qwen_edit_async.images.findings import ImageError
from qwen_edit_async.images.kinds import (
    ACCEPTED,
    as_image_tuple,
    base64_start,
    check_format,
    check_image,
    image_name,
    is_data_uri,
    is_url,
    map_images,
    sniff,
)
from qwen_edit_async.images.prepare import prepare
from qwen_edit_async.images.source import check_size
from qwen_edit_async.models import EditRequest

GIF = b"GIF89a" + bytes(20)


def test_the_error_for_a_bad_presigned_url_holds_no_signature() -> None:
    with pytest.raises(InvalidEditError) as caught:
        EditRequest("https://b.example/a b.png?X-Amz-Signature=abc", "make it snow")
    assert "https://b.example/a b.png?…" in str(caught.value)
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize("image", [None, {"bytes": None, "path": None}])
def test_a_missing_image_is_named(image: object) -> None:
    [unwrapped] = as_image_tuple(image)
    with pytest.raises(InvalidEditError, match=r"^image 1 is missing: it is None, or a cell without bytes or path"):
        map_images(check_image, [unwrapped])


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "JPEG"),
        (b"\xff\xd8\xff\xe1\x00\x10Exif", "JPEG"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "PNG"),
        (b"GIF87a", "GIF"),
        (b"GIF89a", "GIF"),
        (b"II*\x00\x08\x00\x00\x00", "TIFF"),
        (b"MM\x00*\x00\x00\x00\x08", "TIFF"),
        (b"RIFF\x24\x00\x00\x00WEBPVP8 ", "WEBP"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", None),
        (b"BM\x36\x00\x00\x00\x00\x00\x00\x00\x36\x00\x00\x00\x28\x00", "BMP"),
        (b"BM\x36\x00\x00\x00\x00\x00\x00\x00\x36\x00\x00\x00\x0c\x00", "BMP"),
        (b"BMW is a car, and not a picture", None),
        (b"BM", None),
        (b"\x00\x00\x00\x1cftypavif", None),
        (b"<svg xmlns=", None),
        (b"just some text", None),
        (b"", None),
    ],
)
def test_a_format_is_recognised_by_content(head: bytes, kind: str | None) -> None:
    found = sniff(head)
    assert (found if found in ACCEPTED else None) == kind


@pytest.mark.parametrize("format_name", ["AVIF", "ICNS", "ICO", "JPEG2000", "PCX", "PPM", "QOI", "DDS", "SGI", "DIB"])
def test_a_format_that_only_fit_can_make_ready_is_named(format_name: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, format_name)
    head = file.getvalue()[:64]
    assert sniff(head) == format_name not in ACCEPTED
    with pytest.raises(InvalidEditError, match=f"image 1 is in {format_name} format, .* fit=True"):
        map_images(check_format, [head])


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x18ftypcrx \0\0\0\1", "CR3"),
        (b"IIRO\x08\0\0\0", "ORF"),
        (b"IIRS\x08\0\0\0", "ORF"),
        (b"MMOR\0\0\0\x08", "ORF"),
        (b"IIU\0\x08\0\0\0", "RW2"),
        (b"FUJIFILMCCD-RAW 0201", "RAF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "EPS"),
        (b"\xc5\xd0\xd3\xc6\x1e\0\0\0", "EPS"),
        (b"\xd7\xcd\xc6\x9a\0\0", "WMF"),
    ],
)
def test_a_format_that_fit_can_not_convert_is_named_without_the_advice_to_fit_it(head: bytes, kind: str) -> None:
    noun = "a drawing without pixels" if kind in {"EPS", "WMF"} else "a camera raw file"
    reason = rf"^image 1 is {noun} \({kind} format\)\. Export it as a JPEG$"
    for fit in (False, True):
        with pytest.raises(InvalidEditError, match=reason):
            prepare([head + bytes(500)], fit=fit)


@pytest.mark.parametrize(
    ("brands", "kind"),
    [
        (b"avif\0\0\0\0mif1miaf", "AVIF"),
        (b"mif1\0\0\0\0miafavif", "AVIF"),
        (b"miaf\0\0\0\0mif1avif", "AVIF"),
        (b"mif1\0\0\0\0miafheic", "HEIF"),
        (b"heic\0\0\0\0mif1avif", "HEIF"),
        (b"msf1\0\0\0\0iso8", "HEIF"),
        (b"mp42\0\0\0\0isom", None),
    ],
)
def test_each_brand_of_a_file_counts(brands: bytes, kind: str | None) -> None:
    head = (8 + len(brands)).to_bytes(4) + b"ftyp" + brands + b"\0\0\0\x28avif"
    assert sniff(head) == kind not in ACCEPTED


@pytest.mark.parametrize(
    ("path", "kind"), [("a.tga", "TGA"), ("b/A.TGA", "TGA"), ("a.xbm", "XBM"), ("a.dat", None), ("tga", None)]
)
def test_a_format_without_a_signature_is_recognised_by_its_name(path: str, kind: str | None) -> None:
    assert sniff(b"\0\0\2\0" + bytes(60), path) == kind


COMMENTED = [b"P6 # by a program\n640 480\n255\n", b"P5\n640 # wide\n480\n", b"P5\n640#wide\n#and\n480\n"]


@pytest.mark.parametrize(
    "head", [b"P1\n# by a program", b"P3\n4 4\n255\n", b"P6 4000 3000 255 ", b"P4\r\n16 16\n", *COMMENTED]
)
def test_a_plain_bitmap_begins_with_its_sides_or_a_comment(head: bytes) -> None:
    assert sniff(head) == "PPM" not in ACCEPTED


@pytest.mark.parametrize(
    "head",
    [
        b"\n",
        b"P4ssword",
        b"P1 Bug in the form",
        b"P3\nprio 2 and more",
        b"P1 # 5",
        b"P2 2 more",
        b"P7\nWIDTH 3",
        b"\0\0\0\x18ftypmp42",
        b"<svg",
        b"",
    ],
)
def test_other_files_are_no_pictures(head: bytes) -> None:
    assert sniff(head) is None


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_what_pillow_writes_is_recognised(format_name: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, format_name)
    assert sniff(file.getvalue()[:16]) == format_name in ACCEPTED


@pytest.mark.parametrize(
    ("image", "url", "data_uri"),
    [
        ("http://example.com/a.png", True, False),
        ("HTTPS://example.com/a.png", True, False),
        ("ftp://example.com/a.png", False, False),
        ("data:image/png;base64,AAAA", False, True),
        ("DATA:image/png;base64,AAAA", False, True),
        ("photos/a.png", False, False),
        (b"http://example.com", False, False),
    ],
)
def test_urls_and_data_uris_are_told_from_paths(image: object, url: bool, data_uri: bool) -> None:  # noqa: FBT001  # a table
    assert (is_url(image), is_data_uri(image)) == (url, data_uri)


@pytest.mark.parametrize(
    ("images", "count"),
    [("a.png", 1), (b"abc", 1), (bytearray(b"abc"), 1), (memoryview(b"abc"), 1), (["a", "b"], 2), (("a",), 1), ([], 0)],
)
def test_one_image_is_as_good_as_a_sequence(images: object, count: int) -> None:
    assert len(as_image_tuple(images)) == count


def test_an_array_is_one_image() -> None:
    assert len(as_image_tuple(np.zeros((2, 3, 3), np.uint8))) == 1


@pytest.mark.parametrize(
    "image",
    [
        "photos/a b.png",
        "C:\\photos\\a.png",
        pathlib.Path("a.png"),
        "https://example.com/a.png?size=1",
        "data:image/png;base64," + base64.b64encode(GIF).decode(),
        "data:;charset=x;BASE64," + base64.b64encode(GIF).decode(),
        GIF,
        bytearray(GIF),
        memoryview(GIF),
        io.BytesIO(GIF),
        Image.new("RGB", (1, 1)),
        np.zeros((2, 3), np.uint8),
        np.zeros((2, 3, 1), np.uint8),
        np.zeros((2, 3, 3), np.uint8),
        np.zeros((2, 3, 4), np.uint8),
    ],
)
def test_every_kind_of_image_passes(image: object) -> None:
    check_image(image)


def test_something_that_opens_a_file_passes() -> None:
    class Remote:
        def open(self, mode: str = "rb") -> io.BytesIO:
            raise AssertionError(mode)

    check_image(Remote())


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (None, "is missing"),
        (7, "'int'"),
        (["a.png"], "'list'"),
        ("", "is not a path"),
        ("a\0b", "is not a path"),
        ("ftp://example.com/a.png", "not http"),
        ("file:///a.png", "not http"),
        ("http://", "not a valid URL"),
        ("https:///a.png", "not a valid URL"),
        ("http://[::1", "not a valid URL"),
        ("https://example.com/a b.png", "not a valid URL"),
        ("data:image/png,abc", "malformed data URI"),
        ("data:image/png;base64;x=y,AAAA", "malformed data URI"),
        ("data:" + "x" * 500, "malformed data URI"),
        ("data:image/png;base64,AAA", "broken Base64"),
        ("data:image/png;base64,AA=A", "broken Base64"),
        ("data:image/png;base64,A===", "broken Base64"),
        ("data:image/png;base64,AAAÄ", "broken Base64"),
        ("data:image/png;base64,", "is empty"),
        (b"", "is empty"),
        (bytearray(), "is empty"),
        (Image.new("RGB", (0, 0)), "no pixels"),
        (Image.new("RGB", (5, 0)), "no pixels"),
        (np.zeros((0, 3, 3), np.uint8), "no pixels"),
        (np.zeros((2, 3, 3), np.float32), "give uint8"),
        (np.zeros((2, 3, 3), np.uint16), "give uint8"),
        (np.zeros((2, 3, 3), bool), "give uint8"),
        (np.zeros((2, 3, 2), np.uint8), "of shape"),
        (np.zeros((1, 2, 3, 3), np.uint8), "of shape"),
        (np.zeros(3, np.uint8), "of shape"),
    ],
)
def test_what_is_certainly_no_image_is_refused_by_name(image: object, reason: str) -> None:
    with pytest.raises(InvalidEditError, match=f"^image 2 .*{reason}"):
        map_images(check_image, ["a.png", image])


@pytest.mark.parametrize(
    ("images", "summary"),
    [
        (
            ["ftp://a/1.png", "ftp://b/2.png"],
            "image 1 is a URL that is not http(s), s3, gs or az; open it, and pass the file",
        ),
        (["http://", "https:///a.png"], "image 1 is not a valid URL"),
        (["", "a\0b"], "image 1 is not a path"),
    ],
)
def test_errors_of_a_kind_have_one_summary(images: list[str], summary: str) -> None:
    found = set()
    for image in images:
        with pytest.raises(InvalidEditError) as error:
            map_images(check_image, [image])
        found.add(error.value.summary)
        assert repr(image) in str(error.value)
    assert found == {summary}


def test_the_summary_of_an_unknown_format_has_no_beginning() -> None:
    with pytest.raises(InvalidEditError) as error:
        map_images(check_format, [b"just some text"])
    assert error.value.summary == "image 1 is not a JPEG, PNG, BMP, TIFF, WEBP or GIF image"


def test_the_beginning_of_base64_is_found() -> None:
    assert base64_start("data:image/png;base64,AAAA") == 22


def test_only_the_beginning_of_long_base64_is_looked_at() -> None:
    assert base64_start("data:image/png;base64," + "A" * 70_000 + "????") == 22


@pytest.mark.parametrize(
    ("size", "refused"), [(0, True), (1, False), (MAX_IMAGE_BYTES, False), (MAX_IMAGE_BYTES + 1, True)]
)
def test_a_file_may_have_ten_mebibytes_and_no_more(size: int, refused: bool) -> None:  # noqa: FBT001  # a table
    if refused:
        with pytest.raises(InvalidEditError, match="image 1"):
            map_images(check_size, [size])
    else:
        check_size(size)


def test_a_file_that_fit_could_shrink_is_refused_with_that_advice() -> None:
    with pytest.raises(ImageError, match="fit=True"):
        check_size(MAX_IMAGE_BYTES + 1)


def test_a_file_that_is_too_large_even_for_fit_is_refused_without_that_advice() -> None:
    with pytest.raises(ImageError, match=r"shrink it$"):
        check_size(101, 100)


def test_an_unknown_format_is_refused_with_its_beginning() -> None:
    with pytest.raises(ImageError, match="b'just som'"):
        check_format(b"just some text")


def test_a_known_format_is_named() -> None:
    assert check_format(GIF[:16]) == "GIF"


class Named(io.BytesIO):
    name = "remote/b.png"


class Presigned(io.BytesIO):
    name = "https://b.example/a.png?X-Amz-Signature=abc"


def picture_of_a_file(path: pathlib.Path) -> Image.Image:
    Image.new("RGB", (1, 1)).save(path)
    with Image.open(path) as picture:
        picture.load()
    return picture


def test_a_pil_image_is_called_by_its_file(tmp_path) -> None:
    path = tmp_path / "c.png"
    assert image_name(picture_of_a_file(path), 1) == f"image 1 ({path})"


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("photos/x.jpg", "image 2 (photos/x.jpg)"),
        (pathlib.PurePosixPath("photos/x.jpg"), "image 2 (photos/x.jpg)"),
        ("p" * 300, f"image 2 ({'p' * 200})"),
        ("https://example.com/secret", "image 2"),
        ("data:image/png;base64,AAAA", "image 2"),
        (Named(), "image 2 (remote/b.png)"),
        (Presigned(), "image 2"),
        (io.BytesIO(), "image 2"),
        (b"abc", "image 2"),
        (Image.new("RGB", (1, 1)), "image 2"),
        (None, "image 2"),
    ],
)
def test_an_image_is_called_by_its_position_and_its_file(image: object, name: str) -> None:
    assert image_name(image, 2) == name


def test_a_member_of_an_archive_in_memory_can_be_sent_though_its_path_has_no_file_name() -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file, file.open("cat.gif", "w") as picture:
        Image.new("RGB", (400, 400)).save(picture, "GIF")
    member = zipfile.Path(zipfile.ZipFile(archive), "cat.gif")
    with pytest.raises(TypeError):
        _ = member.filename
    (upload,) = prepare([member])
    assert upload.name == "image 1 (cat.gif)"


def test_a_directory_of_an_archive_in_memory_is_refused() -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("cats/a.gif", GIF)
    with pytest.raises(InvalidEditError, match=r"image 1 \(cats\) is a directory: give the files in it"):
        prepare([zipfile.Path(zipfile.ZipFile(archive), "cats/")])


def test_a_file_object_of_a_descriptor_is_called_by_its_position(tmp_path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    with (tmp_path / "x").open("rb") as file, open(file.fileno(), "rb", closefd=False) as unnamed:
        assert image_name(unnamed, 1) == "image 1"
