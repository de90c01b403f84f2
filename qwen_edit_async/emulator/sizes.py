"""Output sizes, as the contract describes them under ``size``. Pure arithmetic on pixels."""

from __future__ import annotations

import math
import re

from qwen_edit_async.contract import DEFAULT_OUTPUT_PIXELS, MAX_SIDE, MIN_SIDE, SIDE_MULTIPLE

Size = tuple[int, int]
"""Width and height in pixels."""

_SIZE = re.compile(r"([0-9]{1,6})\*([0-9]{1,6})")


def parse_size(text: str) -> Size:
    """Read a ``width*height`` string.

    Raises:
        ValueError: The text is not ``width*height``, or a side is outside 512 to 2048 pixels.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"size must look like 1024*1536, not {text[:40]!r}")
    width, height = int(match[1]), int(match[2])
    if not (MIN_SIDE <= width <= MAX_SIDE and MIN_SIDE <= height <= MAX_SIDE):
        raise ValueError(f"each side of size must be from {MIN_SIDE} to {MAX_SIDE} pixels, not {text}")
    return width, height


def round_side(side: float) -> int:
    """Return the nearest positive multiple of 16. A tie goes to the even factor: 1032 becomes 64 × 16."""
    return max(round(side / SIDE_MULTIPLE), 1) * SIDE_MULTIPLE


def output_size(requested: Size | None, last_image: Size) -> Size:
    """Return the output size in pixels, given the requested size and the last input image's size.

    Without a requested size, the output has the last image's aspect ratio and about 1024*1024 pixels in total.
    """
    if requested is not None:
        return round_side(requested[0]), round_side(requested[1])
    width, height = last_image
    ratio = width / height
    return round_side(math.sqrt(DEFAULT_OUTPUT_PIXELS * ratio)), round_side(math.sqrt(DEFAULT_OUTPUT_PIXELS / ratio))
