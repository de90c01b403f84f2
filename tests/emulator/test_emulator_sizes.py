from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_edit_async.emulator.sizes import output_size, parse_size, round_side

sides = st.integers(512, 2048)


def test_the_contracts_example_is_rounded_as_it_says():
    assert output_size(parse_size("1033*1032"), (10, 10)) == (1040, 1024)


@given(sides)
def test_a_side_becomes_the_nearest_multiple_of_16_within_the_limits(side):
    rounded = round_side(side)
    assert rounded % 16 == 0
    assert abs(rounded - side) <= 8
    assert 512 <= rounded <= 2048


@given(sides, sides)
def test_a_size_within_the_limits_is_read(width, height):
    assert parse_size(f"{width}*{height}") == (width, height)


@pytest.mark.parametrize(
    "text",
    ["511*512", "512*511", "2049*512", "512*2049", "512x512", "512", "", " 512*512", "a*b", "-512*512", "51\uff12*512"],
)
def test_another_size_is_refused(text):
    with pytest.raises(ValueError, match="size"):
        parse_size(text)


@given(st.floats(0.25, 4), st.integers(100, 4000))
def test_the_default_size_keeps_the_last_images_ratio_at_about_a_megapixel(ratio, height):
    last = (max(round(height * ratio), 1), height)
    width, height = output_size(None, last)
    assert width % 16 == height % 16 == 0
    assert width * height == pytest.approx(1024 * 1024, rel=0.04)
    assert width / height == pytest.approx(last[0] / last[1], rel=0.04)


def test_an_extremely_narrow_image_keeps_positive_sides():
    assert min(output_size(None, (1, 100_000))) == 16
