"""Pictures that look like noise, and are the same in each run."""

from __future__ import annotations

from random import Random

from PIL import Image


def noise(width: int, height: int, mode: str = "L") -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    return Image.frombytes(mode, (width, height), Random(0).randbytes(width * height * bands))
