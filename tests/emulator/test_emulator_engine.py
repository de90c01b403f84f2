from __future__ import annotations

import random

import pytest
from emulator_calls import decode, encode
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageFilter, ImageOps, ImageStat

from qwen_edit_async.emulator import EditJob, FixedEngine, PillowEngine
from qwen_edit_async.emulator.edits import _VOCABULARY, recognise
from qwen_edit_async.emulator.engine import _wrap, read_size

SIZE = (528, 512)


def scene():
    """Return a picture with an orange sky, a blue ground and a red block on the left."""
    picture = Image.new("RGB", (132, 128), (224, 150, 90))
    picture.paste((60, 90, 150), (0, 80, 132, 128))
    picture.paste((200, 30, 40), (10, 20, 40, 60))
    return picture


def render(instruction, *images, **changes):
    job = {
        "instruction": instruction,
        "images": tuple(images) or (encode(scene()),),
        "negative_prompt": None,
        "n": 1,
        "size": SIZE,
        "prompt_extend": True,
        "watermark": False,
        "seed": 1,
    }
    return [decode(data) for data in PillowEngine().render(EditJob(**job | changes))]


def means(picture):
    return ImageStat.Stat(picture).mean


def difference(first, second):
    return sum(ImageStat.Stat(ImageChops.difference(first, second)).mean)


@pytest.fixture(scope="module")
def plain():
    """Return the picture after an edit that only moves pixels."""
    return ImageOps.mirror(render("mirror it")[0])


@pytest.mark.parametrize("name", _VOCABULARY)
def test_each_edit_gives_a_png_of_the_size_that_differs_from_the_input(name, plain):
    instruction = {"upside down": "upside down", "rotate": "rotate 45 degrees"}.get(name, name)
    names = [edit.name for edit in recognise(instruction)]
    [picture] = render(instruction)
    assert name in names or any(name.startswith(found[:5]) for found in names)
    assert (picture.format, picture.size, picture.mode) == ("PNG", SIZE, "RGB")
    assert difference(picture, plain) > 1


def test_grayscale_has_equal_channels():
    red, green, blue = render("Make it black and white")[0].split()
    assert red.tobytes() == green.tobytes() == blue.tobytes()


@pytest.mark.parametrize(
    ("instruction", "direction"),
    [
        ("brighter", lambda after, before: sum(means(after)) > sum(means(before)) + 30),
        ("make it darker", lambda after, before: sum(means(after)) < sum(means(before)) - 30),
        ("night", lambda after, before: sum(means(after)) < sum(means(before)) / 2),
        ("warmer", lambda after, before: means(after)[0] - means(after)[2] > means(before)[0] - means(before)[2] + 20),
        ("colder", lambda after, before: means(after)[0] - means(after)[2] < means(before)[0] - means(before)[2] - 20),
        ("invert", lambda after, before: difference(ImageOps.invert(after), before) < 3),
        ("blur", lambda after, before: edginess(after) < edginess(before) * 0.9),
        ("sharpen", lambda after, before: edginess(after) > edginess(before)),
        ("more contrast", lambda after, before: spread(after) > spread(before) + 5),
        ("less contrast", lambda after, before: spread(after) < spread(before) - 5),
        ("vivid colours", lambda after, before: colourfulness(after) > colourfulness(before) + 5),
        ("sepia", lambda after, _: means(after)[0] > means(after)[1] > means(after)[2]),
        ("upside down", lambda after, before: difference(ImageOps.flip(after), before) < 3),
        ("snow", lambda after, before: min(means(after)) > min(means(before))),
        ("pencil sketch", lambda after, _: min(means(after)) > 200),
        ("posterize", lambda after, before: colours(after) < colours(before)),
        ("fog", lambda after, before: spread(after) < spread(before)),
        ("vignette", lambda after, before: sum(after.getpixel((0, 0))) < sum(before.getpixel((0, 0))) / 2),
        ("frame", lambda after, _: after.getpixel((2, 2)) == (0x5A, 0x3D, 0x22)),
    ],
)
def test_an_edit_goes_in_its_direction(instruction, direction, plain):
    assert direction(render(instruction)[0], plain)


def edginess(picture):
    return sum(means(picture.filter(ImageFilter.FIND_EDGES)))


def spread(picture):
    return ImageStat.Stat(picture.convert("L")).stddev[0]


def colourfulness(picture):
    return means(picture.convert("HSV"))[1]


def colours(picture):
    return len(picture.getcolors(SIZE[0] * SIZE[1]))


def test_left_and_right_turns_are_opposite():
    left, right = render("rotate left")[0], render("turn it right")[0]
    assert difference(left.rotate(180), right) < difference(left, right) / 3


@pytest.mark.parametrize(
    ("instruction", "names"),
    [
        ("First sepia, then mirror it", ["sepia", "mirror"]),
        ("Mirror it, then SEPIA", ["mirror", "sepia"]),
        ("把照片变成黑白", ["grayscale"]),
        ("让它下雪变成夜晚", ["snow", "night"]),
        ("向左旋转90度", ["rotate"]),
        ("flip it vertically", ["upside down"]),
        ("reduce the contrast", ["softer contrast"]),
        ("without any blur but brighter", ["brighter"]),
        ("remove the snow", []),
        ("不要模糊", []),
        ("put it on a white background", []),
        ("a rainbow over the train station", []),
    ],
)
def test_instructions_are_recognised_in_their_order(instruction, names):
    assert [edit.name for edit in recognise(instruction)] == names


@given(st.text(max_size=200))
def test_any_text_is_an_instruction(text):
    recognise(text)


def test_another_instruction_tints_the_picture_and_is_written_on_it(plain):
    [picture] = render("put it on a beach")
    [other] = render("put it on the moon")
    band = (0, SIZE[1] - 30, SIZE[0], SIZE[1])
    assert difference(picture, plain) > 5
    assert difference(picture.crop(band), other.crop(band)) > 1
    assert max(means(picture.crop(band))) < max(means(plain.crop(band)))


@pytest.mark.parametrize("size", [(512, 2048), (2048, 512), (512, 512)])
@pytest.mark.parametrize("instruction", ["x", "W" * 800, "word " * 160, "雪景海滩" * 30])
def test_instructions_of_any_length_fit_on_pictures_of_any_size(size, instruction):
    [picture] = render(instruction.replace("雪", "沙"), size=size)
    assert picture.size == size
    assert max(picture.crop((0, size[1] - 200, size[0], size[1])).convert("L").getextrema()) > 200


@pytest.mark.parametrize("size", [(384, 3072), (3072, 384)])
def test_a_narrow_picture_can_be_framed(size):
    [picture] = render("add a frame", encode(Image.new("RGB", size)), size=None)
    assert picture.getpixel((2, 2)) == (0x5A, 0x3D, 0x22)
    assert picture.getpixel((picture.width // 2, picture.height // 2)) == (0, 0, 0)


def test_lines_are_wrapped_between_words_and_long_words_within():
    class Font:
        def getlength(self, text):
            return len(text)

    assert _wrap("one two three abcdefghijkl", Font(), 8) == ["one two", "three", "abcdefgh", "ijkl"]


def test_the_same_seed_gives_the_same_picture_and_another_a_slightly_different_one():
    first, again, other = (render("sepia", seed=seed)[0] for seed in (3, 3, 4))
    assert difference(first, again) == 0
    assert 0 < difference(first, other) < 60


def test_n_pictures_differ_slightly():
    pictures = render("snow", n=3)
    assert len({picture.tobytes() for picture in pictures}) == 3


def test_the_watermark_changes_the_bottom_right_corner_only():
    with_mark, without = render("sepia", watermark=True)[0], render("sepia")[0]
    left, top, right, bottom = ImageChops.difference(with_mark, without).getbbox()
    assert left > SIZE[0] * 0.6
    assert top > SIZE[1] * 0.9
    assert (right, bottom) > (SIZE[0] - 20, SIZE[1] - 20)


def test_several_inputs_are_composed_in_the_last_ones_ratio():
    red, green = (encode(Image.new("RGB", size, colour)) for size, colour in (((90, 90), "red"), ((160, 80), "green")))
    [picture] = render("mirror", red, green, size=None)
    assert picture.width / picture.height == pytest.approx(2, rel=0.05)
    shown = picture.getcolors(picture.width * picture.height)
    assert sum(count for count, (r, g, b) in shown if g > 90 and r < 20) > picture.width * picture.height / 2
    assert sum(count for count, (r, g, b) in shown if r > 200 and g < 20) > picture.width * picture.height / 20


def test_exif_orientation_is_honoured():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.new("RGB", (200, 100)), "JPEG", exif=exif)
    assert read_size(data) == (100, 200)
    [picture] = render("sepia", data, size=None)
    assert picture.height > picture.width


def test_only_a_gifs_first_frame_is_used():
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    [picture] = render("mirror", encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    red, _, blue = means(picture)
    assert red > 200
    assert blue < 50


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "I;16", "CMYK"])
def test_every_colour_mode_is_edited(mode):
    image_format = "TIFF" if mode == "CMYK" else "PNG"
    assert render("sepia", encode(Image.new(mode, (40, 40)), image_format))[0].size == SIZE


def test_transparency_becomes_white():
    assert min(means(render("mirror", encode(Image.new("RGBA", (40, 40), (0, 0, 0, 0))))[0])) > 235


@pytest.mark.parametrize("data", [b"", b"text", encode(scene(), "JPEG")[:400], encode(scene())[:100]])
def test_an_undecodable_file_is_an_os_error(data):
    with pytest.raises(OSError, match=r"."):
        render("sepia", data)


def test_a_decompression_bomb_is_an_os_error(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    data = encode(scene())
    with pytest.raises(OSError, match="exceeds"):
        read_size(data)
    with pytest.raises(OSError, match="exceeds"):
        render("sepia", data)


def test_the_fixed_engine_gives_n_small_pngs():
    job = EditJob(
        images=(), instruction="x", negative_prompt=None, n=2, size=None, prompt_extend=True, watermark=False, seed=0
    )
    first, second = FixedEngine().render(job)
    assert first is second
    assert decode(first).format == "PNG"
    assert len(first) < 200


def test_effects_draw_from_their_seed_alone():
    edit = recognise("rain")[0]
    first, second = (edit(scene(), random.Random(9)) for _ in range(2))
    assert first.tobytes() == second.tobytes()
