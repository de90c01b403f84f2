"""From input images to images that can be sent: every kind, every damage, and making them fit."""

from __future__ import annotations

import base64
import errno
import importlib.util
import io
import json
import os
import pathlib
import random
import struct
import sys
import tarfile
import tempfile
import threading
import tracemalloc
import types
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from crossing import Crossing, RemoteMember, at_once, tar_of
from PIL import AvifImagePlugin, Image, ImageFile, ImageOps, PngImagePlugin

from qwen_edit_async.contract import MAX_IMAGE_BYTES, SAFE_IMAGE_BYTES
from qwen_edit_async.errors import ConfigurationError, InvalidEditError
from qwen_edit_async.images import pillow as _pillow
from qwen_edit_async.images import upload as upload_module
from qwen_edit_async.images.decoders import check_pixels
from qwen_edit_async.images.findings import ImageError
from qwen_edit_async.images.integrity import find_damage
from qwen_edit_async.images.kinds import MAX_SOURCE_BYTES
from qwen_edit_async.images.prepare import prepare
from qwen_edit_async.images.upload import Upload

FORMATS = ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"]
ORIENTATION = 0x0112


def photo(width: int = 640, height: int = 480) -> Image.Image:
    """Smooth, with some detail everywhere, so that every part of a file matters."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x % 251, y % 241, (x * y) % 239], axis=-1).astype(np.uint8))


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    return Image.frombytes(mode, (width, height), random.Random(7).randbytes(width * height * len(mode)))


def encoded(picture: Image.Image, format_name: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, format_name, **options)
    return file.getvalue()


def with_chunk(data: bytes, kind: bytes, body: bytes, *, damaged: bool = False) -> bytes:
    """A PNG file with one more chunk before its pixels."""
    checksum = struct.pack(">I", zlib.crc32(kind + body) ^ damaged)
    at = data.index(b"IDAT") - 4
    return data[:at] + struct.pack(">I", len(body)) + kind + body + checksum + data[at:]


def turned_jpeg(width: int = 640, height: int = 480) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    return encoded(photo(width, height), "JPEG", exif=exif)


def texts(uploads: tuple[Upload, ...]) -> list[str]:
    return [json.loads(b'"' + b"".join(each.chunk(index) for index in range(each.chunks)) + b'"') for each in uploads]


def contents(uploads: tuple[Upload, ...]) -> list[bytes]:
    return [base64.b64decode(text.partition(",")[2], validate=True) for text in texts(uploads)]


def content(*images: object, fit: bool = False) -> bytes:
    """What is sent of one image, after checking that its size was foretold."""
    uploads = prepare(images, fit=fit)
    try:
        assert [upload.text_size for upload in uploads] == [len(text.encode()) for text in texts(uploads)]
        return contents(uploads)[0]
    finally:
        for upload in uploads:
            upload.close()


@pytest.fixture
def large_jpeg() -> bytes:
    data = encoded(noise(900, 900), "JPEG", quality=95)
    assert len(data) > upload_module.RAW_CHUNK
    return data


class Remote:
    """A path in some store: it can be opened, but not by the operating system."""

    def __init__(self, data: bytes, *, fspath: str | Exception) -> None:
        self.data = data
        self.fspath = fspath
        self.files: list[io.BytesIO] = []

    def __fspath__(self) -> str:
        if isinstance(self.fspath, Exception):
            raise self.fspath
        return self.fspath

    def open(self, mode: str) -> io.BytesIO:
        assert mode == "rb"
        self.files.append(io.BytesIO(self.data))
        return self.files[-1]


class OpensWithoutMode:
    def __init__(self, data: bytes) -> None:
        self.file = io.BytesIO(data)

    def open(self) -> io.BytesIO:
        return self.file


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("fit", [False, True])
def test_a_file_of_an_accepted_format_passes_as_it_is(format_name, fit) -> None:
    data = encoded(photo(), format_name)
    uploads = prepare([data], fit=fit)
    assert contents(uploads) == [data]
    assert texts(uploads)[0].startswith(f"data:image/{format_name.lower()};base64,")
    assert (uploads[0].warnings, uploads[0].notes) == ((), ())


@pytest.mark.parametrize("options", [{"progressive": True}, {"quality": 30}, {"subsampling": 0}])
def test_every_kind_of_jpeg_passes(options) -> None:
    data = encoded(photo(), "JPEG", **options)
    assert content(data) == data


def test_a_jpeg_in_cmyk_passes() -> None:
    data = encoded(photo().convert("CMYK"), "JPEG")
    assert content(data) == data


def test_a_jpeg_with_fill_bytes_and_a_trailer_passes() -> None:
    data = encoded(photo(), "JPEG")
    data = data[:2] + b"\xff\xff" + data[2:] + b"trailer of a phone"
    assert content(data) == data


def test_a_png_with_a_trailer_passes() -> None:
    data = encoded(photo(), "PNG") + b"trailer"
    assert content(data) == data


def tiff(order: str, *, directory_last: bool) -> bytes:
    """400×400 gray pixels, laid out as neither Pillow nor this machine would."""
    pixels, directory_size = bytes(160_000), 2 + 9 * 12 + 4
    directory_at, pixels_at = (8 + len(pixels), 8) if directory_last else (8, 8 + directory_size)
    long, short = (f"{order}HHII", f"{order}HHIH2x")
    tags = [(256, long, 400), (257, long, 400), (258, short, 8), (259, short, 1), (262, short, 1)]
    tags += [(273, long, pixels_at), (277, short, 1), (278, long, 400), (279, long, len(pixels))]
    directory = struct.pack(f"{order}H", len(tags)) + b"".join(
        struct.pack(kind, tag, 4 if kind == long else 3, 1, value) for tag, kind, value in tags
    )
    head = (b"MM" if order == ">" else b"II") + struct.pack(f"{order}HI", 42, directory_at)
    rest = (pixels, directory + bytes(4)) if directory_last else (directory + bytes(4), pixels)
    return head + b"".join(rest)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("directory_last", [False, True])
def test_a_tiff_of_any_layout_passes(order, directory_last) -> None:
    data = tiff(order, directory_last=directory_last)
    assert content(data) == data


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("missing", [5, 1000])
def test_a_tiff_that_lost_its_directory_is_refused(order, missing) -> None:
    with pytest.raises(InvalidEditError, match="it is cut short"):
        prepare([tiff(order, directory_last=True)[:-missing]])


def test_a_jpeg_with_corrupt_metadata_passes_without_a_warning() -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x1a\0\x05\0\0\0\x01\0\0\xff\xf0"
    data = encoded(photo(), "JPEG")
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
    data = data.replace(b"JFIF\0", b"NONE\0", 1)  # so that Pillow would look for the resolution in the EXIF data
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert content(data) == data
    assert caught == []


def test_a_remark_of_pillow_while_it_opens_a_file_is_no_refusal() -> None:
    data = encoded(photo(), "TIFF", tiffinfo={271: "a maker with a long name"})
    entry = data.index(struct.pack("<HH", 271, 2))
    data = data[: entry + 8] + struct.pack("<I", 2**31) + data[entry + 12 :]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="Truncated"), Image.open(io.BytesIO(data)):
            pass
        assert content(data) == data


def test_fit_names_a_remark_of_pillow_that_counts_as_an_error() -> None:
    data = encoded(photo(), "TIFF", dpi=(72, 72))
    entry = data.index(struct.pack("<HHI", 296, 3, 1))
    data = data[: entry + 4] + struct.pack("<I", 2) + data[entry + 8 :]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert content(data, fit=True) == data
        warnings.simplefilter("error")
        assert content(data) == data
        with pytest.raises(InvalidEditError, match=r"Pillow warning was raised as an error: .* tag 296 had too many"):
            prepare([data], fit=True)


@pytest.mark.parametrize("kind", [str, pathlib.Path, os.fsencode])
def test_a_path_is_sent_whole_whatever_its_name(tmp_path, large_jpeg, kind) -> None:
    path = tmp_path / "é 'photo'.txt"
    path.write_bytes(large_jpeg)
    if kind is os.fsencode:

        class BytesPath:
            def __fspath__(self) -> bytes:
                return os.fsencode(path)

        assert content(BytesPath()) == large_jpeg
    else:
        assert content(kind(path)) == large_jpeg


def test_a_small_file_is_read_once_and_kept(tmp_path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(photo(400, 400), "PNG"))
    data = path.read_bytes()
    assert len(data) <= upload_module.RAW_CHUNK
    uploads = prepare([path])
    path.unlink()
    assert (uploads[0].file, uploads[0].reopen) == (None, None)
    assert contents(uploads) == [data]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_of_every_kind_are_sent(large_jpeg, kind) -> None:
    assert content(kind(large_jpeg)) == large_jpeg


def test_a_buffer_that_is_changed_later_is_sent_as_it_was(large_jpeg) -> None:
    buffer = bytearray(large_jpeg)
    uploads = prepare([buffer])
    buffer[:] = bytes(len(buffer))
    assert contents(uploads) == [large_jpeg]


@pytest.mark.parametrize("size", [300, 900])
def test_a_data_uri_is_passed_on_with_its_true_media_type(size) -> None:
    data = encoded(noise(size, size), "JPEG", quality=95)
    uri = 'data:image/jpg;name="x";base64,' + base64.b64encode(data).decode()
    uploads = prepare([uri])
    assert texts(uploads) == ["data:image/jpeg;base64," + base64.b64encode(data).decode()]
    assert uploads[0].text_size == len(texts(uploads)[0])


def test_a_url_is_sent_as_json_text_and_not_fetched() -> None:
    url = 'https://example.com/ä"b\\.png'
    uploads = prepare([url])
    assert texts(uploads) == [url]
    assert uploads[0].text_size == len(json.dumps(url)) - 2


def test_a_file_object_is_read_from_where_it_stands_and_left_open(large_jpeg) -> None:
    file = io.BytesIO(b"skip" + large_jpeg)
    file.seek(4)
    assert content(file) == large_jpeg
    assert not file.closed


def test_a_file_object_is_put_back_for_the_next_edit(large_jpeg) -> None:
    file = io.BytesIO(b"skip" + large_jpeg)
    file.seek(4)
    assert content(file, file) == content(file) == large_jpeg


def test_a_file_object_is_put_back_even_if_reading_it_fails(large_jpeg) -> None:
    class Flaky(io.BytesIO):
        faults = 1

        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() and self.faults:
                self.faults -= 1
                raise OSError("the network is down")
            return super().read(size)

    file = Flaky(large_jpeg)
    with pytest.raises(InvalidEditError, match="the network is down"):
        prepare([file])
    assert content(file) == large_jpeg


def test_a_stream_gives_its_image_to_one_edit(large_jpeg) -> None:
    class Stream(io.BytesIO):
        def seek(self, offset: int, whence: int = 0, /) -> int:
            raise io.UnsupportedOperation(f"seek {offset} {whence}")

    stream = Stream(large_jpeg)
    assert content(stream) == large_jpeg
    with pytest.raises(InvalidEditError, match="already read to its end"):
        prepare([stream])


def pixels(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB").tobytes()


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "GIF", "BMP"])
def test_a_picture_that_is_not_loaded_yet_is_whole_in_each_of_several_edits(format_name) -> None:
    file = Crossing(encoded(noise(300, 300), format_name))
    with Image.open(file) as picture:
        file.meeting = threading.Barrier(2)
        sent = at_once(*[lambda: content(picture)] * 4)
    assert {pixels(each) for each in sent} == {pixels(file.getvalue())}


def test_pictures_of_one_open_file_are_whole_in_edits_at_once() -> None:
    file = Crossing(encoded(noise(300, 300), "PNG"))
    with Image.open(file) as one, Image.open(file) as other:
        file.seek(0)
        file.meeting = threading.Barrier(2)
        sent = at_once(lambda: content(file), lambda: content(file))
        sent += at_once(lambda: content(one), lambda: content(other))
    assert {pixels(each) for each in sent} == {pixels(file.getvalue())}


def test_an_open_file_is_whole_in_each_of_several_edits(large_jpeg) -> None:
    file = Crossing(large_jpeg)
    file.meeting = threading.Barrier(2)
    assert at_once(*[lambda: content(file)] * 4) == [large_jpeg] * 4


@pytest.mark.parametrize(
    "member",
    [
        lambda archive, name: archive.extractfile(name),
        lambda archive, name: Image.open(archive.extractfile(name)),
        RemoteMember,
    ],
    ids=["file", "picture", "remote"],
)
def test_members_of_one_archive_are_whole_in_edits_at_once(member) -> None:
    files = [encoded(noise(300, 300 + number), "PNG") for number in range(4)]
    file = tar_of(files)
    with tarfile.open(fileobj=file) as archive:
        members = [member(archive, name) for name in archive.getnames()]
        file.meeting = threading.Barrier(2)
        sent = at_once(*[lambda each=each: content(each) for each in members])
    assert list(map(pixels, sent)) == list(map(pixels, files))


def test_a_file_that_hangs_delays_no_other() -> None:
    data, released, reading = encoded(photo(), "PNG"), threading.Event(), threading.Event()

    class Hanging(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            reading.set()
            released.wait()
            return super().read(size)

    with ThreadPoolExecutor(2) as threads:
        hanging = threads.submit(content, Hanging(data))
        reading.wait()
        try:
            assert threads.submit(content, io.BytesIO(data)).result(10) == data
        finally:
            released.set()
        assert hanging.result() == data


class Endless(io.BytesIO):
    """A file that wraps files without end, as a proxy seems to."""

    def __getattr__(self, name: str) -> Endless:
        if name not in {"fp", "raw", "fileobj", "file"}:
            raise AttributeError(name)
        return Endless()


class Opaque(io.BytesIO):
    """A file with an attribute that can't be read."""

    @property
    def raw(self) -> None:
        raise ValueError("detached")


@pytest.mark.parametrize("kind", [Endless, Opaque])
def test_a_file_with_odd_attributes_is_read(kind) -> None:
    data = encoded(photo(), "PNG")
    assert content(kind(data)) == data


def test_a_file_whose_position_has_to_be_awaited_is_read_from_where_it_stands() -> None:
    class Remotely(io.BytesIO):
        async def tell(self) -> int:
            return 0

    data = encoded(photo(), "PNG")
    assert content(Remotely(data)) == data


def test_a_stream_that_gives_little_at_a_time_is_read_to_its_end(large_jpeg) -> None:
    class Dribble(io.BytesIO):
        def read(self, size: int = -1, /) -> bytes:
            return super().read(min(size, 1000))

    assert content(Dribble(large_jpeg)) == large_jpeg


# What libraries for remote files raise when they are asked for a local path, or give for one.
@pytest.mark.parametrize("fspath", [NotImplementedError("remote"), TypeError("remote"), "s3://bucket/photo.jpg"])
def test_a_remote_path_is_opened_and_closed(large_jpeg, fspath) -> None:
    remote = Remote(large_jpeg, fspath=fspath)
    assert content(remote) == large_jpeg
    assert [file.closed for file in remote.files] == [True]


def test_something_that_opens_without_a_mode_is_opened_and_closed(large_jpeg) -> None:
    image = OpensWithoutMode(large_jpeg)
    assert content(image) == large_jpeg
    assert image.file.closed


@pytest.mark.parametrize("side", [300, 900])
def test_what_was_read_from_a_stream_can_be_sent_until_it_is_closed(side) -> None:
    data = encoded(noise(side, side), "PNG")
    uploads = prepare([io.BytesIO(data)])
    assert contents(uploads) == contents(uploads) == [data]
    spooled = uploads[0].file is not None
    assert spooled == (len(data) > 1024 * 1024)
    uploads[0].close()
    if spooled:
        with pytest.raises(InvalidEditError, match="temporary file"):
            uploads[0].chunk(0)


def test_three_images_keep_their_order() -> None:
    images = [encoded(photo(400 + shade, 400), "PNG") for shade in range(3)]
    uploads = prepare([images[0], io.BytesIO(images[1]), images[2]])
    assert contents(uploads) == images


@pytest.mark.parametrize(
    ("mode", "sent"),
    [
        *(("1", "L"), ("L", "L")),
        *(
            ("RGB", "RGB"),
            ("P", "RGB"),
            ("RGBX", "RGB"),
            ("CMYK", "RGB"),
            ("YCbCr", "RGB"),
            ("HSV", "RGB"),
            ("LAB", "RGB"),
        ),
        *(("RGBA", "RGBA"), ("LA", "RGBA"), ("PA", "RGBA"), ("RGBa", "RGBA"), ("La", "RGBA")),
    ],
)
def test_a_picture_of_any_mode_becomes_an_eight_bit_png(mode, sent) -> None:
    result = Image.open(io.BytesIO(content(Image.new(mode, (400, 500)))))
    assert (result.format, result.mode, result.size) == ("PNG", sent, (400, 500))


def test_pixels_and_transparency_of_a_picture_are_kept() -> None:
    picture = noise(400, 400, "RGBA")
    assert Image.open(io.BytesIO(content(picture))).tobytes() == picture.tobytes()


@pytest.mark.parametrize(("value", "shade"), [(0, 0), (256 * 100, 100), (65535, 255)])
@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_sixteen_bits_are_scaled_to_eight(mode, value, shade) -> None:
    picture = Image.new(mode, (400, 400), value)
    picture.format = "PNG"  # as if it were read from a file
    assert Image.open(io.BytesIO(content(picture))).getpixel((0, 0)) == shade


@pytest.mark.parametrize("mode", ["I", "F"])
@pytest.mark.parametrize("fit", [False, True])
def test_a_picture_whose_range_of_values_is_not_known_is_refused(mode, fit) -> None:
    with pytest.raises(InvalidEditError, match=rf"image 1 has samples of unknown range \(mode '{mode}'\): .* 8 bits$"):
        prepare([Image.new(mode, (400, 400))], fit=fit)


@pytest.mark.parametrize(("most", "value"), [(65535, 100 * 257), (1023, 401)])
def test_a_gray_ppm_file_with_more_than_eight_bits_is_scaled(most, value) -> None:
    assert fitted(b"P5 256 256 %d\n" % most + value.to_bytes(2) * 256 * 256)[0].getpixel((0, 0)) == 100


def test_sixteen_bit_files_are_scaled_to_eight() -> None:
    picture = Image.new("I;16", (3200, 100), 256 * 100)
    for format_name in ("PNG", "TIFF"):
        assert fitted(encoded(picture, format_name))[0].getpixel((0, 0)) == 100


def with_shade(mode: str, bits: int, *shade: int, width: int = 3200) -> bytes:
    """A PNG file with a transparent colour, too wide to be sent as it is."""
    kind, samples = {"L": (0, 1), "RGB": (2, 3)}[mode]
    rows = (b"\0" + bytes(-(-width * samples * bits // 8))) * 400
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, 400, bits, kind, 0, 0, 0))]
    parts += [(b"tRNS", struct.pack(f">{len(shade)}H", *shade)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )


@pytest.mark.parametrize("shade", [("L", 1, 0), ("L", 8, 0), ("RGB", 8, 0, 0, 0)])
def test_fit_keeps_a_transparent_shade_of_eight_bits_or_one(shade) -> None:
    assert fitted(with_shade(*shade))[0].getpixel((0, 0))[3] == 0


@pytest.mark.parametrize("shade", [("L", 2, 3), ("L", 4, 3), ("L", 16, 3), ("RGB", 16, 300, 300, 300)])
def test_fit_refuses_a_transparent_shade_of_other_depths(shade) -> None:
    with pytest.raises(InvalidEditError, match=r"image 1 has a transparent colour .*: save it as an 8-bit RGBA PNG$"):
        prepare([with_shade(*shade)], fit=True)
    data = with_shade(*shade, width=3000)
    assert content(data, fit=True) == data
    if max(shade[1:]) >= 16:
        picture = Image.open(io.BytesIO(data))
        picture.load()
        with pytest.raises(InvalidEditError, match="image 1 has a transparent colour"):
            prepare([picture])


@pytest.mark.parametrize("transparency", [b"\x00\xff", 0])
def test_the_transparency_of_a_palette_is_kept(transparency) -> None:
    picture = Image.new("P", (400, 400), 0)
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.info["transparency"] = transparency
    picture.putpixel((5, 5), 1)
    result = Image.open(io.BytesIO(content(picture)))
    assert (result.getpixel((0, 0)), result.getpixel((5, 5))) == ((10, 20, 30, 0), (40, 50, 60, 255))


def icc_profile(space: bytes, connection: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr") -> bytes:
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(data))
        body += data.ljust(-(-len(data) // 4) * 4, b"\0")
    header = struct.pack(">I4sI", 132 + 12 * len(tags) + len(body), b"none", 0x02400000) + kind + space + connection
    white = struct.pack(">III", 0xF6D6, 0x10000, 0xD32D)
    return (header.ljust(36, b"\0") + b"acsp").ljust(68, b"\0") + white + bytes(48) + table + body


def xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def wide_gamut() -> bytes:
    """Primaries like those of ProPhoto RGB, and a gamma of 1.8."""
    colours = [(0.7977, 0.2880, 0.0), (0.1352, 0.7119, 0.0), (0.0313, 0.0001, 0.8249)]
    tags = {name: xyz(*colour) for name, colour in zip((b"rXYZ", b"gXYZ", b"bXYZ"), colours, strict=True)}
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(1.8 * 256))
    return icc_profile(
        b"RGB ", b"XYZ ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve) | {b"wtpt": xyz(0.9642, 1, 0.8249)}
    )


def green_cyan() -> bytes:
    """A profile of CMYK in which cyan ink is a green."""
    identity = struct.pack(">9i", *(65536 * (place in {0, 4, 8}) for place in range(9)))
    curve = bytes(range(256))
    corners = b""
    for ink in range(16):  # cyan changes slowest
        dark = 255 if ink == 0 else 128 if ink == 8 else 40
        corners += bytes([dark, 128 - 60 * (ink == 8), 128 + 60 * (ink == 8)])
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + curve * 4 + corners + curve * 3
    return icc_profile(b"CMYK", b"Lab ", {b"A2B0": lut}, kind=b"prtr")


def linear_gray() -> bytes:
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, 256)
    return icc_profile(b"GRAY", b"XYZ ", {b"wtpt": xyz(0.9642, 1, 0.8249), b"kTRC": curve})


def colour(picture: Image.Image) -> tuple[int, ...]:
    return picture.convert("RGB").getpixel((picture.width // 2, picture.height // 2))


def test_a_color_profile_is_kept_with_the_colours_that_it_describes() -> None:
    picture = photo(400, 400)
    picture.info["icc_profile"] = wide_gamut()
    assert Image.open(io.BytesIO(content(picture))).info["icc_profile"] == wide_gamut()
    assert picture.info["icc_profile"] == wide_gamut()


@pytest.mark.parametrize("mode", ["CMYK", "LA", "YCbCr", "L", "RGBA"])
def test_a_color_profile_of_another_kind_of_colours_is_dropped(mode) -> None:
    picture = photo(400, 400).convert(mode)
    picture.info["icc_profile"] = icc_profile(b"CMYK", b"Lab ", {})
    sent = Image.open(io.BytesIO(content(picture)))
    assert "icc_profile" not in sent.info
    assert "icc_profile" in picture.info


def test_cmyk_is_converted_through_its_profile() -> None:
    picture = Image.new("CMYK", (400, 400), (255, 0, 0, 0))
    assert colour(Image.open(io.BytesIO(content(picture)))) == (0, 255, 255)
    picture.info["icc_profile"] = green_cyan()
    red, green, blue = colour(Image.open(io.BytesIO(content(picture))))
    assert green > red + 50
    assert green > blue + 50


def test_fit_converts_a_cmyk_photo_through_its_profile() -> None:
    result, _, _ = fitted(encoded(Image.new("CMYK", (3200, 400), (255, 0, 0, 0)), "JPEG", icc_profile=green_cyan()))
    red, green, blue = colour(result)
    assert green > red + 50
    assert green > blue + 50
    assert "icc_profile" not in result.info


def test_a_color_profile_goes_with_the_cmyk_that_it_does_not_describe() -> None:
    photo_in_cmyk = encoded(Image.new("CMYK", (3200, 400), (255, 0, 0, 0)), "JPEG", icc_profile=wide_gamut())
    result, _, _ = fitted(photo_in_cmyk)
    assert "icc_profile" not in result.info


def test_cmyk_is_converted_without_a_colour_management_module(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.ImageCms", None)
    monkeypatch.delattr("PIL.ImageCms", raising=False)
    picture = Image.new("CMYK", (400, 400), (255, 0, 0, 0))
    picture.info["icc_profile"] = green_cyan()
    assert colour(Image.open(io.BytesIO(content(picture)))) == (0, 255, 255)


def test_a_thumbnail_has_the_colours_of_its_profile() -> None:
    data = encoded(Image.new("RGB", (400, 400), (100, 180, 100)), "PNG", icc_profile=wide_gamut())
    made = _pillow.thumbnail(io.BytesIO(data), 64)
    small = Image.open(made.file)
    assert colour(small)[0] < 60  # far less red than the profile's own green has
    assert "icc_profile" not in small.info
    made.file.close()


@pytest.mark.parametrize("alpha", [255, 7])
def test_gray_with_transparency_is_converted_through_its_profile(alpha) -> None:
    picture = Image.merge("LA", (Image.new("L", (400, 400), 60), Image.new("L", (400, 400), alpha)))
    picture.info["icc_profile"] = linear_gray()
    sent = Image.open(io.BytesIO(content(picture)))
    assert (sent.convert("RGBA").getpixel((9, 9)), "icc_profile" in sent.info) == ((133, 133, 133, alpha), False)


def test_a_transparent_shade_of_gray_is_converted_through_its_profile() -> None:
    data = encoded(Image.linear_gradient("L").resize((3200, 400)), "PNG", icc_profile=linear_gray(), transparency=0)
    result, _, _ = fitted(data)
    assert (result.mode, result.getpixel((9, 0))[3]) == ("RGBA", 0)
    assert result.getpixel((9, 90)) == (133, 133, 133, 255)
    assert "icc_profile" not in result.info


def test_a_thumbnail_of_gray_has_the_colours_of_its_profile() -> None:
    data = encoded(Image.new("L", (400, 400), 60), "PNG", icc_profile=linear_gray())
    with _pillow.thumbnail(io.BytesIO(data), 64).file as file:
        assert abs(colour(Image.open(file))[0] - 133) <= 2


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "TIFF"])
def test_a_thumbnail_is_upright(format_name) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    with _pillow.thumbnail(io.BytesIO(encoded(photo(), format_name, exif=exif)), 64).file as file:
        assert Image.open(file).size == (48, 64)


@pytest.mark.parametrize("loaded", [False, True])
def test_a_picture_of_a_turned_tiff_is_turned_once(loaded) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    picture = Image.open(io.BytesIO(encoded(photo(), "TIFF", exif=exif)))
    if loaded:
        picture.load()
    assert Image.open(io.BytesIO(content(picture))).size == (480, 640)


def test_a_picture_of_which_nothing_can_be_decoded_is_refused() -> None:
    data = with_shade("L", 8, 0)
    start = data.index(b"IDAT") + 4
    with pytest.raises(ImageError, match=r"^is damaged"):
        _pillow.decode(data[:start] + b"junk" + data[start + 4 :])


def test_a_picture_of_a_turned_photo_is_turned_upright_and_stays_as_it_was() -> None:
    with Image.open(io.BytesIO(turned_jpeg())) as picture:
        result = Image.open(io.BytesIO(content(picture)))
        assert picture.size == (640, 480)
    assert result.size == (480, 640)
    assert result.getexif().get(ORIENTATION, 1) == 1


@pytest.mark.parametrize(
    ("shape", "mode"), [((400, 500), "L"), ((400, 500, 1), "L"), ((400, 500, 3), "RGB"), ((400, 500, 4), "RGBA")]
)
def test_an_array_becomes_a_png_of_its_pixels(shape, mode) -> None:
    array = np.random.default_rng(7).integers(0, 256, shape, np.uint8)
    result = Image.open(io.BytesIO(content(array)))
    assert (result.format, result.mode, result.size) == ("PNG", mode, (500, 400))
    assert np.array_equal(np.asarray(result), array.reshape(shape[:2]) if mode == "L" else array)


class OnlyInterface:
    """An object that speaks NumPy's array interface and nothing else."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    @property
    def __array_interface__(self) -> dict[str, object]:
        return self.array.__array_interface__


@pytest.mark.parametrize("shape", [(400, 500), (400, 500, 1), (400, 500, 3)])
def test_an_object_with_nothing_but_the_array_interface_is_sent(shape) -> None:
    array = np.random.default_rng(7).integers(0, 256, shape, np.uint8)[::-1]
    assert content(OnlyInterface(array)) == content(np.ascontiguousarray(array))


def test_an_object_with_the_array_interface_needs_numpy(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    advice = "image 1 is 'OnlyInterface', which needs NumPy: pip install numpy, or give a PIL image"
    with pytest.raises(InvalidEditError, match=advice):
        prepare([OnlyInterface(np.zeros((400, 400), np.uint8))])


def test_an_array_that_does_not_fit_into_memory_is_refused_in_plain_words() -> None:
    class Vast:
        __array_interface__ = {"shape": (400, 400), "typestr": "|u1", "version": 3, "strides": (400, 1)}  # noqa: RUF012

        def tobytes(self) -> bytes:
            raise MemoryError

    with pytest.raises(InvalidEditError, match="image 1 needs more memory for decoding than is free: shrink it"):
        prepare([Vast()])


def test_an_array_that_is_a_view_is_sent_as_it_is_seen() -> None:
    array = np.random.default_rng(7).integers(0, 256, (400, 500, 3), np.uint8)[::-1, :, ::-1]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content(array)))), array)


def test_a_picture_that_is_too_large_as_png_is_refused_with_advice() -> None:
    with pytest.raises(InvalidEditError, match=r"as PNG.*fit=True"):
        prepare([noise(2000, 2000)])


def test_something_that_only_looks_like_a_picture_is_refused() -> None:
    class Lookalike:
        size = (400, 400)

        def tobytes(self) -> bytes:
            raise AssertionError

        def save(self, fp: object) -> None:
            raise AssertionError(fp)

    with pytest.raises(InvalidEditError, match="image 1 is damaged or of an unsupported kind: convert it to PNG"):
        prepare([Lookalike()])


def test_a_picture_whose_file_is_cut_short_is_refused() -> None:
    data = encoded(photo(), "JPEG")
    with (
        Image.open(io.BytesIO(data[: len(data) // 2])) as picture,
        pytest.raises(InvalidEditError, match="image 1 is damaged: some of its pixels are missing"),
    ):
        prepare([picture])


def with_file(path: pathlib.Path, data: bytes) -> pathlib.Path:
    path.write_bytes(data)
    return path


def png_of_unknown_depth() -> bytes:
    data = encoded(photo(), "PNG")
    header = b"IHDR" + struct.pack(">IIBBBBB", 640, 480, 7, 7, 0, 0, 0)
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


BAD_FILES = {
    "a missing file": (lambda _: None, "does not exist"),
    "a directory": (pathlib.Path.mkdir, "is a directory"),
    "a pipe": (os.mkfifo, "not a regular file"),
    "an empty file": (b"", "is empty"),
    "a text file": (b"not a picture", "not a JPEG, PNG, BMP, TIFF, WEBP or GIF"),
    "a 10 MB + 1 byte file": (bytes(MAX_IMAGE_BYTES + 1), "10,485,760 bytes.*fit=True"),
    "a JPEG with broken segments": (b"\xff\xd8\xff\xe0\0\x02oops\xff\xd9", "JPEG file: its segments are damaged"),
    "a PNG with a damaged chunk": (encoded(photo(), "PNG").replace(b"IDAT", b"IDAX", 1), "PNG file: .*damaged"),
    "a PNG of no known kind": (png_of_unknown_depth(), "PNG file: its header is not valid"),
}


@pytest.mark.parametrize("case", BAD_FILES)
@pytest.mark.parametrize("fit", [False, True])
def test_a_bad_file_is_refused_and_named(tmp_path, case, fit) -> None:
    what, reason = BAD_FILES[case]
    path = tmp_path / "photo.jpg"
    if isinstance(what, bytes):
        path.write_bytes(what)
    else:
        what(path)
    if fit:  # may have other words for it
        reason = ""
    with pytest.raises(InvalidEditError, match=rf"^image 2 \(.*photo\.jpg\) .*{reason}"):
        prepare(["https://example.com/first.png", path], fit=fit)


def turned_and_damaged(format_name: str) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    options = {"JPEG": {"restart_marker_rows": 1}, "PNG": {}}[format_name]
    data = encoded(photo(), format_name, exif=exif, **options)
    if format_name == "JPEG":
        return data[: len(data) // 2] + b"\xff\xd9"
    position = data.index(b"IDAT") + 1000
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


@pytest.mark.parametrize("format_name", ["JPEG", "PNG"])
@pytest.mark.parametrize("fit", [False, True])
def test_damage_is_refused_whether_or_not_the_image_is_re_encoded(format_name, fit) -> None:
    with pytest.raises(InvalidEditError, match=f"image 1 is a damaged {format_name} file"):
        prepare([turned_and_damaged(format_name)], fit=fit)


def test_an_unreadable_file_is_refused(tmp_path, monkeypatch) -> None:
    path = with_file(tmp_path / "a.png", encoded(photo(), "PNG"))

    def refuse(*_: object) -> None:  # permissions bind neither root nor Windows
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(InvalidEditError, match="can't be read: Permission denied"):
        prepare([path])


@pytest.mark.parametrize("path", ["x" * 5000, "\udfff.png"])
def test_a_path_that_can_be_none_is_refused(path) -> None:
    with pytest.raises(InvalidEditError, match="image 1"):
        prepare([path])


@pytest.mark.parametrize("part", [0.05, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("format_name", FORMATS)
def test_a_file_that_is_cut_short_is_refused(format_name, part) -> None:
    data = encoded(photo(), format_name)
    with pytest.raises(InvalidEditError, match="image 1"):
        prepare([data[: int(len(data) * part)]])


@pytest.mark.parametrize("fit", [False, True])
@pytest.mark.parametrize("format_name", FORMATS)
def test_a_file_that_is_cut_short_is_refused_even_if_pillow_accepts_it(monkeypatch, format_name, fit) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = encoded(photo(), format_name)
    assert prepare([data], fit=fit)[0].size == len(data)
    with pytest.raises(InvalidEditError, match=r"it is cut short|some of its pixels are missing"):
        prepare([data[: int(len(data) * 0.9)]], fit=fit)


def test_a_jpeg_with_too_little_data_is_refused_even_if_pillow_accepts_it(monkeypatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = encoded(photo(), "JPEG", quality=50)
    with pytest.raises(InvalidEditError, match="some of its pixels are missing"):
        prepare([data[: len(data) // 5] + b"\xff\xd9"])


@pytest.mark.parametrize("part", [0.05, 0.5, 0.99])
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP"])
@pytest.mark.usefixtures("no_pillow")
def test_a_file_that_is_cut_short_is_refused_without_pillow_too(format_name, part) -> None:
    data = encoded(photo(), format_name)
    with pytest.raises(InvalidEditError, match="it is cut short"):
        prepare([data[: int(len(data) * part)]])


@pytest.mark.parametrize("length", [3, 5, 21, 200])
def test_a_jpeg_that_is_cut_short_in_its_head_is_refused(length) -> None:
    with pytest.raises(InvalidEditError, match="it is cut short"):
        prepare([encoded(photo(), "JPEG")[:length]])


@pytest.mark.usefixtures("no_pillow")
def test_a_jpeg_is_refused_if_only_its_thumbnail_is_whole() -> None:
    thumbnail = b"Exif\0\0" + encoded(photo(64, 64), "JPEG")
    data = encoded(photo(), "JPEG")
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + data[2:]
    assert content(data) == data
    with pytest.raises(InvalidEditError, match="cut short"):
        prepare([data[:-10]])


def test_the_end_of_a_jpeg_is_seen_across_the_edge_of_a_block() -> None:
    data = encoded(noise(900, 900), "JPEG", quality=95)
    scan = data.index(b"\xff\xda")
    body = scan + 2 + int.from_bytes(data[scan + 2 : scan + 4])
    block = 192 * 1024
    assert len(data) > body + block
    cut = data[: body + block - 1].rstrip(b"\xff").ljust(body + block - 1, b"\x01") + b"\xff\xd9"
    assert find_damage(io.BytesIO(cut), len(cut), "JPEG").damage == ""


def test_a_gif_that_does_not_decode_is_refused() -> None:
    data = bytearray(encoded(photo(400, 400), "GIF"))
    with pytest.raises(InvalidEditError, match="some of its pixels are missing"):
        prepare([bytes(data[: len(data) // 2])])


@pytest.mark.parametrize("rows", [b"x", zlib.compress(bytes(600 * 1801 - 1))])
def test_a_png_with_right_checksums_and_wrong_pixel_data_is_refused(rows) -> None:
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 600, 600, 8, 2, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part)) for kind, part in chunks
    )
    with pytest.raises(InvalidEditError, match="image 1 is a damaged PNG file: it has data for"):
        prepare([data])


@pytest.mark.parametrize("fit", [False, True])
@pytest.mark.parametrize("kind", ["file", "picture"])
def test_a_picture_of_too_many_pixels_is_refused_unread(fit, kind) -> None:
    image = Image.new("L", (9460, 9460))
    if kind == "file":
        data = bytearray(encoded(photo(), "BMP"))
        data[18:26] = struct.pack("<ii", *image.size)
        image = bytes(data)
    with pytest.raises(InvalidEditError, match="9460×9460, more than 89,478,485 pixels"):
        prepare([image], fit=fit)


@pytest.mark.parametrize(
    ("format_name", "sides", "more"),
    [
        ("AVIF", (5, 17_895_697), (2, 44_739_243)),
        ("JPEG2000", (2, 22_369_621), (3, 14_913_081)),
        ("WEBP", (2, 22_369_621), (3, 14_913_081)),
    ],
)
def test_a_format_whose_decoder_is_greedy_may_have_half_as_many_pixels(format_name, sides, more) -> None:
    check_pixels(sides, format_name)
    with pytest.raises(ImageError, match=rf"is {more[0]}×{more[1]}, more than .* pixels: shrink it$"):
        check_pixels(more, format_name)


def test_a_decompression_bomb_is_refused_without_a_warning() -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )
    with pytest.raises(InvalidEditError, match="60000×60000"):
        prepare([bomb])


@pytest.mark.parametrize("uri", ["data:image/png;base64,AAAA", "data:image/png;base64," + "A" * 70_000 + "????"])
def test_a_data_uri_without_an_image_is_refused(uri) -> None:
    with pytest.raises(InvalidEditError, match="image 1 is"):
        prepare([uri])


def test_base64_with_padding_in_its_middle_is_refused() -> None:
    text = base64.b64encode(encoded(noise(900, 900), "JPEG", quality=95)).decode()
    middle = upload_module._TEXT_PIECE
    with pytest.raises(InvalidEditError, match="broken Base64"):
        prepare(["data:image/jpeg;base64," + text[: middle - 1] + "=" + text[middle:]])


def test_a_data_uri_over_ten_megabytes_is_refused() -> None:
    uri = "data:image/png;base64," + base64.b64encode(bytes(MAX_IMAGE_BYTES + 1)).decode()
    with pytest.raises(InvalidEditError, match="10,485,760"):
        prepare([uri])


class AsyncFile:
    async def read(self, size: int = -1) -> bytes:
        raise AssertionError(size)


class NonBlocking:
    def read(self, size: int = -1) -> None:
        assert size


class Failing:
    def read(self, size: int = -1) -> bytes:
        raise ConnectionError(f"the store is gone ({size})")


def closed_file() -> io.BytesIO:
    file = io.BytesIO(b"x")
    file.close()
    return file


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (io.StringIO("text"), 'text mode: open it with mode "rb"'),
        (io.TextIOWrapper(io.BytesIO(b"\x89PNG"), "utf-8"), 'text mode: open it with mode "rb"'),
        (AsyncFile(), "read\\(\\) returns 'coroutine'"),
        (NonBlocking(), "read\\(\\) returns 'NoneType'"),
        (Failing(), "can't be read: the store is gone"),
        (closed_file(), "can't be read"),
        (io.BytesIO(), "already read to its end: if edits share the file, give each edit the file's path or bytes"),
        (io.BytesIO(b"just text"), "not a JPEG"),
    ],
)
def test_a_file_object_that_gives_no_image_is_refused(file, reason) -> None:
    with pytest.raises(InvalidEditError, match=f"^image 1 .*{reason}"):
        prepare([file])


def test_a_remote_path_that_can_t_be_opened_is_refused() -> None:
    class Gone(Remote):
        def open(self, mode: str) -> io.BytesIO:
            raise PermissionError(mode)

    with pytest.raises(InvalidEditError, match="can't be read"):
        prepare([Gone(b"", fspath=TypeError())])


def test_no_more_than_one_byte_over_the_limit_is_read_from_a_stream() -> None:
    class Endless(io.RawIOBase):
        taken = 0

        def read(self, size: int = -1, /) -> bytes:
            self.taken += size
            return bytes(size)

    endless = Endless()
    with pytest.raises(InvalidEditError, match="10,485,760"):
        prepare([endless])
    assert endless.taken == MAX_IMAGE_BYTES + 1


def test_what_was_opened_is_closed_if_a_later_image_is_refused(monkeypatch) -> None:
    made = []
    make = tempfile.SpooledTemporaryFile
    monkeypatch.setattr(tempfile, "SpooledTemporaryFile", lambda **options: made.append(make(**options)) or made[-1])
    large = encoded(noise(900, 900), "PNG")
    with pytest.raises(InvalidEditError, match="image 3"):
        prepare([io.BytesIO(large), io.BytesIO(large), b"no picture"])
    assert [file.closed for file in made] == [True, True]


def test_a_file_that_changed_before_it_was_sent_is_refused(tmp_path, large_jpeg) -> None:
    path = with_file(tmp_path / "a.jpg", large_jpeg)
    uploads = prepare([path])
    assert uploads[0].chunk(0)
    path.write_bytes(large_jpeg[:-1])
    with pytest.raises(InvalidEditError, match=r"image 1 \(.*a.jpg\) has changed since"):
        uploads[0].chunk(0)


def test_a_file_that_was_touched_before_it_was_sent_is_refused(tmp_path, large_jpeg) -> None:
    path = with_file(tmp_path / "a.jpg", large_jpeg)
    uploads = prepare([path])
    os.utime(path, ns=(0, 0))
    with pytest.raises(InvalidEditError, match="has changed since"):
        uploads[0].chunk(1)


def test_a_file_that_is_gone_before_it_was_sent_is_refused(tmp_path, large_jpeg) -> None:
    path = with_file(tmp_path / "a.jpg", large_jpeg)
    uploads = prepare([path])
    path.unlink()
    with pytest.raises(InvalidEditError, match="can't be read any more"):
        uploads[0].chunk(0)


@pytest.mark.parametrize(
    ("sides", "words"),
    [
        ((384, 384), None),
        ((3072, 3072), None),
        ((383, 500), "image 1 is 383×500 pixels: expect a blurred picture"),
        ((500, 383), "image 1 is 500×383 pixels: expect a blurred picture"),
        ((3073, 500), "image 1 is 3073×500 pixels: expect a slow edit"),
        ((500, 3073), "image 1 is 500×3073 pixels: expect a slow edit"),
    ],
)
@pytest.mark.parametrize("kind", ["file", "picture"])
def test_sides_out_of_the_recommendation_are_told(sides, words, kind) -> None:
    picture = Image.new("L", sides)
    uploads = prepare([picture if kind == "picture" else encoded(picture, "PNG")])
    assert len(uploads[0].warnings) == (words is not None)
    assert all(str(warning).startswith(words) for warning in uploads[0].warnings)


def exif_data(kind: int, value: bytes) -> bytes:
    """Exif data with an orientation of some type."""
    return b"Exif\0\0II*\0\x08\0\0\0\1\0" + struct.pack("<HHI4s", ORIENTATION, kind, 1, value) + bytes(4)


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
EXIF_SIX = exif_data(3, b"\6\0")


def with_xmp(format_name: str) -> bytes:
    if format_name == "PNG":
        return with_chunk(encoded(photo(), "PNG"), b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)
    return encoded(photo(), format_name, xmp=XMP)


def with_late_exif() -> bytes:
    body = b"eXIf" + EXIF_SIX[6:]
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    data = encoded(photo(), "PNG")
    return data[:-12] + chunk + data[-12:]


def with_text_profile() -> bytes:
    text = f"Raw profile type exif\0\nexif\n{len(EXIF_SIX):8}\n{EXIF_SIX.hex()}\n"
    return with_chunk(encoded(photo(), "PNG"), b"tEXt", text.encode())


TURNED = {
    **{format_name: encoded(photo(), format_name, exif=EXIF_SIX) for format_name in ("JPEG", "PNG", "WEBP")},
    **{f"XMP of {format_name}": with_xmp(format_name) for format_name in ("JPEG", "PNG", "WEBP")},
    "TIFF": encoded(photo(), "TIFF", tiffinfo={ORIENTATION: 6}),
    "a LONG": encoded(photo(), "JPEG", exif=exif_data(4, b"\6\0\0\0")),
    "a BYTE": encoded(photo(), "JPEG", exif=exif_data(1, b"\6")),
    "an SLONG": encoded(photo(), "JPEG", exif=exif_data(9, b"\6\0\0\0")),
    "XMP beside Exif data": encoded(
        photo(), "JPEG", exif=exif_data(3, b"\6\0").replace(b"\x12\x01", b"\x13\x01"), xmp=XMP
    ),
    "at a PNG's end": with_late_exif(),
    "in a PNG's text": with_text_profile(),
}


@pytest.mark.parametrize("kind", TURNED)
def test_an_image_that_is_not_stored_upright_is_told_and_fit_turns_it(kind) -> None:
    (upload,) = prepare([TURNED[kind]])
    (warning,) = map(str, upload.warnings)
    assert warning.startswith("image 1 is upright only with its Exif orientation (6), which the service may ignore")
    assert "fit=True" in warning
    result, change, _ = fitted(TURNED[kind])
    assert result.size == (480, 640)
    assert "turned upright" in change
    assert (result.getexif().get(ORIENTATION, 1), prepare([encoded(result, "PNG")])[0].warnings) == (1, ())


@pytest.mark.parametrize("turn", range(2, 9))
def test_fit_turns_a_photo_as_its_orientation_says(turn) -> None:
    upright = photo()
    back = {6: 8, 8: 6}.get(turn, turn)
    exif = Image.Exif()
    exif[ORIENTATION] = back
    stored = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(upright, "PNG", exif=exif))))
    exif[ORIENTATION] = turn
    assert fitted(encoded(stored, "PNG", exif=exif))[0].tobytes() == upright.tobytes()


@pytest.mark.parametrize("orientation", [0, 1, 9, 65_535])
@pytest.mark.parametrize("fit", [False, True])
def test_an_orientation_that_turns_nothing_is_no_reason_for_anything(orientation, fit) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(photo(), "JPEG", exif=exif)
    (upload,) = prepare([data], fit=fit)
    assert (contents((upload,)), upload.warnings, upload.notes) == ([data], (), ())


def frames(format_name: str) -> bytes:
    return encoded(photo(400, 400), format_name, save_all=True, append_images=[noise(400, 400)])


@pytest.mark.parametrize("format_name", ["GIF", "TIFF", "WEBP", "PNG", "MPO"])
@pytest.mark.parametrize("fit", [False, True])
def test_an_image_of_several_pages_or_frames_is_noted(format_name, fit) -> None:
    (upload,) = prepare([frames(format_name)], fit=fit)
    assert upload.notes == ("image 1 has several pages or frames: only the first is edited",)


def test_an_image_of_several_frames_that_only_fit_reads_is_noted() -> None:
    (upload,) = prepare([frames("AVIF")], fit=True)
    assert upload.notes == (
        "image 1 was encoded as JPEG",
        "image 1 has several pages or frames: only the first is edited",
    )


def psd(*, layers: int) -> bytes:
    """A Photoshop file of 400×400 gray pixels, and of empty layers that are not shown."""
    layer = bytes(18) + b"8BIMnorm\xff\0\0\0" + bytes(4)
    section = struct.pack(">h", layers) + layer * layers
    section = struct.pack(">II", len(section) + 8, len(section)) + section + bytes(4)
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, 1, 400, 400, 8, 1)
    return head + bytes(8) + section + bytes(2) + bytes(400 * 400)


def test_layers_are_no_pages() -> None:
    data = psd(layers=2)
    with Image.open(io.BytesIO(data)) as image:
        assert image.is_animated
    (upload,) = prepare([data], fit=True)
    assert upload.notes == ("image 1 was encoded as PNG",)


def test_a_damaged_list_of_pictures_is_ignored() -> None:
    data = encoded(photo(), "JPEG")
    data = data[:2] + b"\xff\xe2\0\x10MPF\0II*\0\x08\0\0\0\0\0" + data[2:]
    (upload,) = prepare([data])
    assert (contents((upload,)), upload.notes) == ([data], ())


def test_an_image_of_several_pages_that_is_converted_is_noted_as_well() -> None:
    data = encoded(Image.new("L", (3100, 400)), "TIFF", save_all=True, append_images=[noise(400, 400)])
    (upload,) = prepare([data], fit=True)
    assert [note.partition(" ")[2][2:] for note in upload.notes] == [
        "was shrunk from 3100×400 to 3072×396, encoded as PNG",
        "has several pages or frames: only the first is edited",
    ]


def fitted(image: object) -> tuple[Image.Image, str, int]:
    uploads = prepare([image], fit=True)
    (data,), (change,) = contents(uploads), uploads[0].notes
    uploads[0].close()
    return Image.open(io.BytesIO(data)), change, len(data)


def test_fit_turns_a_turned_photo_upright() -> None:
    result, change, _ = fitted(turned_jpeg())
    assert (result.format, result.size, result.getexif().get(ORIENTATION, 1)) == ("JPEG", (480, 640), 1)
    assert change == "image 1 was turned upright, encoded as JPEG"


def test_fit_shrinks_a_photo_before_it_turns_it(monkeypatch) -> None:
    sizes = []
    transpose = Image.Image.transpose

    def watched(image: Image.Image, method: Image.Transpose) -> Image.Image:
        sizes.append(image.size)
        return transpose(image, method)

    monkeypatch.setattr(Image.Image, "transpose", watched)
    picture = Image.new("RGB", (6400, 3200))
    picture.getexif()[ORIENTATION] = 6
    assert fitted(picture)[0].size == (1536, 3072)
    assert sizes == [(3072, 1536)]


@pytest.mark.parametrize(("format_name", "sent"), [("JPEG", "JPEG"), ("PNG", "PNG")])
def test_fit_shrinks_the_longest_side_and_keeps_the_kind(format_name, sent) -> None:
    result, change, _ = fitted(encoded(Image.new("RGB", (6400, 3200), "teal"), format_name))
    assert (result.format, result.size) == (sent, (3072, 1536))
    assert change == f"image 1 was shrunk from 6400×3200 to 3072×1536, encoded as {sent}"


def test_fit_reads_heif_with_pillow_heif(monkeypatch) -> None:
    def register() -> None:
        monkeypatch.setitem(Image.OPEN, "HEIF", (AvifImagePlugin.AvifImageFile, None))

    data = encoded(Image.new("RGB", (256, 256), "teal"), "AVIF").replace(b"ftypavif", b"ftypheic", 1)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(InvalidEditError, match="image 1 is in HEIF format: pip install pillow-heif"):
        prepare([data], fit=True)
    monkeypatch.setitem(sys.modules, "pillow_heif", types.SimpleNamespace(register_heif_opener=register))
    result, change, _ = fitted(data)
    assert (result.size, change) == ((256, 256), "image 1 was encoded as JPEG")


@pytest.mark.parametrize("format_name", ["PPM", "ICO", "PCX", "AVIF", "JPEG2000", "QOI", "DDS", "SGI", "ICNS", "DIB"])
def test_fit_encodes_a_format_that_the_service_does_not_take(format_name) -> None:
    result, change, _ = fitted(encoded(Image.new("RGB", (256, 256), "teal"), format_name))
    size = (1024, 1024) if format_name == "ICNS" else (256, 256)  # the largest of several
    expected = "JPEG" if format_name in {"AVIF", "JPEG2000"} else "PNG"
    assert (result.format, result.size) == (expected, size)
    assert change == f"image 1 was encoded as {expected}"


ICC = encoded(photo(), "PNG", icc_profile=wide_gamut())


@pytest.mark.parametrize(
    ("data", "profile"),
    [
        (with_chunk(ICC, b"tEXt", b"a\0b", damaged=True), wide_gamut()),
        (with_chunk(ICC, b"pHYs", b"short"), wide_gamut()),
        (with_chunk(ICC, b"gAMA", b"j"), wide_gamut()),
    ],
    ids=["checksum", "resolution", "gamma"],
)
def test_fit_encodes_a_png_whose_only_fault_is_beside_its_picture(data, profile) -> None:
    with pytest.raises(InvalidEditError, match=r"image 1 is a PNG file with damaged metadata.*fit=True$"):
        prepare([data])
    result, _, _ = fitted(data)
    assert result.tobytes() == photo().tobytes()
    assert result.info.get("icc_profile") == profile


@pytest.mark.parametrize(
    ("data", "lost"),
    [
        (with_chunk(encoded(photo(), "PNG"), b"iCCP", b"junk", damaged=True), "iCCP"),
        (with_chunk(encoded(photo(), "PNG"), b"iCCP", b"junk"), "iCCP"),
        (with_chunk(ICC, b"tRNS", b"\0"), "tRNS"),
        (with_chunk(with_chunk(encoded(photo(), "PNG"), b"iCCP", b"junk"), b"tRNS", b"\0"), "iCCP and tRNS"),
    ],
)
def test_fit_encodes_a_png_without_its_broken_metadata(data, lost) -> None:
    with pytest.raises(InvalidEditError, match=r"image 1 is a PNG file with damaged metadata.*fit=True$"):
        prepare([data])
    (upload,) = prepare([data], fit=True)
    words = f"image 1 lost its damaged {lost} data, so its colours may look different"
    assert upload.notes == ("image 1 was encoded as PNG", words)
    result = Image.open(io.BytesIO(contents((upload,))[0]))
    assert result.tobytes() == photo().tobytes()
    assert result.info.get("icc_profile") == (None if "iCCP" in lost else wide_gamut())


@pytest.mark.parametrize("fit", [False, True])
def test_a_png_that_can_t_be_opened_without_its_metadata_either_is_refused(monkeypatch, fit) -> None:
    def fail(*_args: object) -> None:
        raise ValueError("unknown")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "_open", fail)
    with pytest.raises(InvalidEditError, match=r"image 1 is a (damaged )?PNG file.*(: save|\. Save) it as a new"):
        prepare([encoded(photo(), "PNG")], fit=fit)


def chromaticities(red_y: int) -> bytes:
    return struct.pack(">8I", 31_270, 32_900, 64_000, red_y, 30_000, 60_000, 15_000, 6_000)


WIDE = encoded(Image.new("RGB", (3100, 400)), "PNG")
GAMMA, SRGB_GAMMA = struct.pack(">I", 100_000), struct.pack(">I", 45_455)


@pytest.mark.parametrize(
    ("data", "lost"),
    [
        (with_chunk(WIDE, b"gAMA", GAMMA), "gAMA"),
        (with_chunk(WIDE, b"gAMA", SRGB_GAMMA), None),
        (with_chunk(WIDE, b"gAMA", struct.pack(">I", 45_000)), None),
        (with_chunk(WIDE, b"gAMA", struct.pack(">I", 46_000)), "gAMA"),
        (with_chunk(WIDE, b"cHRM", chromaticities(33_010)), None),
        (with_chunk(WIDE, b"cHRM", chromaticities(26_500)), "cHRM"),
        (with_chunk(WIDE, b"cHRM", b"junk"), None),
        (with_chunk(with_chunk(WIDE, b"cHRM", chromaticities(26_500)), b"sRGB", b"\0"), None),
        (with_chunk(with_chunk(WIDE, b"gAMA", GAMMA), b"sRGB", b"\0"), None),
        (with_chunk(WIDE, b"cICP", b"\x09\x10\0\1"), "cICP"),
        (with_chunk(WIDE, b"cICP", b"\1\x0d\0\1"), None),
    ],
)
def test_fit_notes_that_it_loses_what_describes_the_colours(data, lost) -> None:
    (upload,) = prepare([data], fit=True)
    words = f"image 1 lost its {lost} chunk, so its colours may look different"
    assert list(upload.notes[1:]) == ([words] if lost else [])


SRGB_BOX = b"\0\0\0\x0fcolr\x01\0\0\0\0\0\x10"


def with_profile(data: bytes) -> bytes:
    """A JPEG 2000 file whose colour box has a profile."""
    at, box = data.index(SRGB_BOX), b"colr\2\0\0" + wide_gamut()
    head = data.index(b"jp2h") - 4
    longer = struct.unpack(">I", data[head : head + 4])[0] + 4 + len(box) - len(SRGB_BOX)
    box = struct.pack(">I", 4 + len(box)) + box
    return data[:head] + struct.pack(">I", longer) + data[head + 4 : at] + box + data[at + len(SRGB_BOX) :]


@pytest.mark.parametrize(
    "data",
    [
        with_profile(encoded(photo(), "JPEG2000")),
        encoded(photo(), "AVIF").replace(b"colrnclx\0\1\0\x0d", b"colrnclx\0\x09\0\x10"),
    ],
    ids=["JPEG 2000 with a profile", "AVIF in HDR"],
)
def test_fit_notes_that_it_loses_the_colour_space_of_another_format(data) -> None:
    (upload,) = prepare([data], fit=True)
    assert upload.notes == (
        "image 1 was encoded as JPEG",
        "image 1 lost its colour space, so its colours may look different",
    )


def test_fit_drops_an_alpha_channel_that_hides_nothing() -> None:
    picture = noise(2000, 2000)
    picture.putalpha(255)
    result, _, _ = fitted(encoded(picture, "PNG", compress_level=1))
    assert (result.format, result.mode, result.size) == ("JPEG", "RGB", (2000, 2000))


@pytest.mark.parametrize("size", [(9999, 1), (1, 9999)])
def test_fit_leaves_each_side_a_pixel(size) -> None:
    result, _, _ = fitted(encoded(Image.new("L", size), "PNG"))
    assert sorted(result.size) == [1, 3072]


def large_jpeg_file(**options: object) -> bytes:
    """More pixels than are accepted, all of one colour."""
    return encoded(Image.new("L", (11_000, 9_000), 77), "JPEG", quality=20, **options)


def test_fit_shrinks_a_jpeg_of_very_many_pixels() -> None:
    data = large_jpeg_file()
    result, change, _ = fitted(data)
    assert result.size == (3072, 2513)
    assert abs(result.getpixel((99, 99)) - 77) <= 1
    assert "shrunk from 11000×9000 to 3072×2513" in change
    with pytest.raises(InvalidEditError, match=r"more than 89,478,485 pixels: shrink it, or let .* fit"):
        prepare([data])


def test_fit_shrinks_a_progressive_jpeg_of_very_many_pixels() -> None:
    result, change, _ = fitted(large_jpeg_file(progressive=True))
    assert result.size == (3072, 2513)
    assert "shrunk from 11000×9000 to 3072×2513" in change


@pytest.mark.parametrize("fit", [False, True])
def test_a_progressive_jpeg_that_needs_too_much_memory_is_refused(fit) -> None:
    start, *scans = encoded(photo(), "JPEG", progressive=True, subsampling=0).split(b"\xff\xda")
    start = start.replace(struct.pack(">HH", 480, 640), struct.pack(">HH", 9460, 9460))
    filled = (scan[: scan[1]] + bytes(600_000) + scan[scan[1] :] for scan in scans)  # enough data for the pixels
    with pytest.raises(InvalidEditError, match=r"89,478,485 pixels: it has several scans, .* progressive encoding$"):
        prepare([b"\xff\xda".join([start, *filled])], fit=fit)


@pytest.mark.parametrize(("format_name", "sides"), [("AVIF", (9460, 9460)), ("JPEG2000", (6690, 6690))])
def test_a_file_of_too_many_pixels_for_its_format_is_refused(format_name, sides) -> None:
    data = encoded(photo(), format_name)
    for order in ((0, 1), (1, 0)):
        stated = struct.pack(">II", *((640, 480)[each] for each in order))
        data = data.replace(stated, struct.pack(">II", *(sides[each] for each in order)))
    with pytest.raises(InvalidEditError, match=rf"image 1 is {sides[0]}×{sides[1]}, more than .* pixels: shrink it$"):
        prepare([data], fit=True)


@pytest.mark.parametrize("format_name", ["AVIF", "ICO", "ICNS", "WEBP"])
def test_a_damaged_file_is_not_called_sound(format_name) -> None:
    data = bytearray(encoded(Image.new("RGB", (256, 256), "teal"), format_name))
    data[16:] = bytes(len(data) - 16)
    with pytest.raises(InvalidEditError, match=r"image 1 is damaged or an unsupported kind of .*: convert it to PNG"):
        prepare([bytes(data)], fit=True)


@pytest.mark.parametrize("options", [{"lossless": True}, {}, {"exif": Image.Exif()}], ids=["VP8L", "VP8", "VP8X"])
@pytest.mark.parametrize("fit", [False, True])
def test_a_webp_of_too_many_pixels_is_refused_before_its_decoder_takes_memory(monkeypatch, options, fit) -> None:
    data = bytearray(encoded(photo(), "WEBP", **options))
    if data[12:16] == b"VP8X":
        data[24:30] = 2 * (6689).to_bytes(3, "little")
    elif data[12:16] == b"VP8L":
        data[21:25] = (6689 | 6689 << 14).to_bytes(4, "little")
    else:
        data[26:30] = struct.pack("<HH", 6690, 6690)
    monkeypatch.setitem(Image.OPEN, "WEBP", (None, None))
    with pytest.raises(InvalidEditError, match=r"image 1 is 6690×6690, more than 44,739,242 pixels: shrink it$"):
        prepare([bytes(data)], fit=fit)


def test_fit_makes_an_oversize_file_small(tmp_path) -> None:
    path = with_file(tmp_path / "a.bmp", encoded(noise(2000, 2000), "BMP"))
    assert path.stat().st_size > MAX_IMAGE_BYTES
    result, change, size = fitted(path)
    assert (result.format, result.size) == ("JPEG", (2000, 2000))
    assert size <= SAFE_IMAGE_BYTES
    assert change.startswith(f"image 1 ({path}) was encoded as JPEG")


@pytest.mark.parametrize("kind", ["bytes", "stream", "data URI"])
def test_fit_takes_an_oversize_image_of_every_kind(kind) -> None:
    data = encoded(noise(2000, 2000), "BMP")
    uri = "data:image/bmp;base64," + base64.b64encode(data).decode()
    _, _, size = fitted({"bytes": data, "stream": io.BytesIO(data), "data URI": uri}[kind])
    assert size <= SAFE_IMAGE_BYTES


def test_fit_keeps_the_transparency_of_an_oversize_image() -> None:
    result, change, size = fitted(noise(2000, 2000, "RGBA"))
    assert (result.format, result.mode) == ("PNG", "RGBA")
    assert size <= SAFE_IMAGE_BYTES
    assert change.startswith("image 1 was shrunk from 2000×2000 to ")


def test_fit_shrinks_a_photo_that_is_too_large_even_as_jpeg() -> None:
    result, _, size = fitted(encoded(noise(3072, 3072), "JPEG", quality=95))
    assert result.format == "JPEG"
    assert max(result.size) < 3072
    assert size <= SAFE_IMAGE_BYTES


def test_fit_leaves_a_picture_that_needs_nothing() -> None:
    picture = noise(400, 400)
    result, change, _ = fitted(picture)
    assert result.tobytes() == picture.tobytes()
    assert change == "image 1 was encoded as PNG"


def test_fit_does_not_touch_the_picture_that_it_was_given() -> None:
    with Image.open(io.BytesIO(encoded(Image.new("RGB", (6400, 3200)), "JPEG"))) as picture:
        fitted(picture)
        assert picture.size == (6400, 3200)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"just text", "is not a JPEG, .* image: it begins with b'just tex'"),
        (b"P6\n400 400\n255\n" + bytes(50), "is damaged: some of its pixels are missing$"),
    ],
)
def test_fit_refuses_what_nothing_can_read(data, reason) -> None:
    with pytest.raises(InvalidEditError, match=f"image 1 .*{reason}"):
        prepare([data], fit=True)


def test_fit_refuses_a_file_that_is_too_large_to_shrink(tmp_path) -> None:
    path = with_file(tmp_path / "a.png", encoded(photo(), "PNG"))
    os.truncate(path, MAX_SOURCE_BYTES + 1)
    with pytest.raises(InvalidEditError, match=r"268,435,456 bytes: shrink it$"):
        prepare([path], fit=True)


@pytest.mark.parametrize("exif", [b"Exif\0\0junk", b"Exif\0\0II*\0\x08\0\0\0\1\0", EXIF_SIX[:-10]])
def test_corrupt_metadata_is_ignored(exif) -> None:
    data = encoded(photo(), "JPEG", exif=exif)
    (upload,) = prepare([data], fit=True)
    assert (contents((upload,)), upload.warnings, prepare([data])[0].warnings) == ([data], (), ())


def test_corrupt_metadata_of_a_picture_is_ignored(monkeypatch) -> None:
    def corrupt(_self: object) -> None:
        raise ValueError("corrupt")

    monkeypatch.setattr(Image.Image, "getexif", corrupt)
    assert Image.open(io.BytesIO(content(photo()))).size == (640, 480)


def test_a_temporary_file_is_closed_if_encoding_fails(monkeypatch) -> None:
    made = []

    def failing_save(_self: object, file: io.BytesIO, *_args: object, **_options: object) -> None:
        made.append(file)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", failing_save)
    with pytest.raises(InvalidEditError, match="image 1 can't be converted: No space left on device"):
        prepare([photo()])
    assert [file.closed for file in made] == [True]


@pytest.mark.parametrize(
    ("image", "fit"), [(np.zeros((400, 400), np.uint8), False), (encoded(photo(), "PNG"), True)], ids=["array", "fit"]
)
@pytest.mark.usefixtures("no_pillow")
def test_what_needs_pillow_says_how_to_install_it(image, fit) -> None:
    with pytest.raises(ConfigurationError, match=r"qwen-edit-async\[images\]"):
        prepare([image], fit=fit)


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.usefixtures("no_pillow")
def test_files_are_sent_without_pillow_too(format_name) -> None:
    data = encoded(photo(100, 100), format_name)
    uploads = prepare([data])
    assert (contents(uploads), uploads[0].warnings) == ([data], ())


def test_base64_is_the_same_without_pybase64(monkeypatch) -> None:
    data = random.Random(7).randbytes(1000)
    monkeypatch.setitem(sys.modules, "pybase64", None)
    without = importlib.util.module_from_spec(upload_module.__spec__)
    upload_module.__spec__.loader.exec_module(without)
    assert without.encode_base64 is not upload_module.encode_base64
    assert (
        without.encode_base64(memoryview(data))
        == upload_module.encode_base64(memoryview(data))
        == base64.b64encode(data)
    )


def test_checking_a_large_photo_takes_little_memory(tmp_path) -> None:
    path = with_file(tmp_path / "a.jpg", encoded(noise(2600, 2600), "JPEG", quality=95))
    assert path.stat().st_size > 6_000_000
    prepare([path])  # imports
    tracemalloc.start()
    try:
        prepare([path])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000
