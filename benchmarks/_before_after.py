"""Draws the README's picture: a landscape before and after an edit by the emulator.

Run it as ``python benchmarks/_before_after.py``; it writes ``results/before-after.png``.
"""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

from qwen_edit_async import EditSession
from qwen_edit_async.emulator import EditEmulator

INSTRUCTION = "make it snow"
WIDTH, HEIGHT = 960, 640
SCALE = 2
GAP = 24


def landscape() -> Image.Image:
    """Draw a house between hills at twice the size, then reduce the picture to smooth its edges."""
    picture = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE))
    draw = ImageDraw.Draw(picture)
    for y in range(HEIGHT * SCALE):
        part = y / (HEIGHT * SCALE)
        draw.line([(0, y), (WIDTH * SCALE, y)], fill=(int(96 + 120 * part), int(168 + 60 * part), int(226 + 10 * part)))

    def shape(points: list[tuple[int, int]], color: str) -> None:
        draw.polygon([(x * SCALE, y * SCALE) for x, y in points], fill=color)

    def disc(x: int, y: int, radius: int, color: str) -> None:
        draw.ellipse(
            [((x - radius) * SCALE, (y - radius) * SCALE), ((x + radius) * SCALE, (y + radius) * SCALE)], color
        )

    disc(770, 120, 56, "#ffe9a8")
    for x, y, radius in ((170, 120, 34), (210, 106, 44), (262, 122, 34), (520, 84, 24), (552, 76, 32), (590, 88, 24)):
        disc(x, y, radius, "#f4f8fb")
    shape(
        [(0, 400), (180, 240), (330, 360), (520, 210), (720, 370), (860, 280), (960, 350), (960, 640), (0, 640)],
        "#7f9db3",
    )
    shape([(0, 450), (240, 380), (520, 440), (760, 390), (960, 440), (960, 640), (0, 640)], "#6fa05f")
    shape([(0, 520), (300, 470), (640, 510), (960, 470), (960, 640), (0, 640)], "#5b8c4c")
    shape([(430, 640), (500, 505), (530, 505), (560, 640)], "#d9c08f")
    shape([(400, 360), (620, 360), (620, 510), (400, 510)], "#e8d6b3")
    shape([(375, 368), (510, 272), (645, 368)], "#b0523c")
    shape([(560, 285), (590, 285), (590, 340), (560, 320)], "#8c4a38")
    shape([(486, 430), (534, 430), (534, 510), (486, 510)], "#6f4a34")
    for x in (424, 558):
        shape([(x, 400), (x + 40, 400), (x + 40, 444), (x, 444)], "#6fb1d1")
    for x, y in ((150, 500), (250, 480), (720, 480), (830, 500)):
        shape([(x - 8, y), (x + 8, y), (x + 8, y + 50), (x - 8, y + 50)], "#6b4a2f")
        for step in range(3):
            shape(
                [
                    (x - 56 + step * 12, y + 8 - step * 42),
                    (x, y - 74 - step * 42),
                    (x + 56 - step * 12, y + 8 - step * 42),
                ],
                "#2f6b4a",
            )
    return picture.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


async def edited(picture: Image.Image) -> Image.Image:
    """Send a picture through the library to the emulator, and return the result."""
    async with (
        EditEmulator(duration=0.0) as emulator,
        EditSession(emulator.api_key, base_url=emulator.url) as session,
    ):
        result = await session.edit(picture, INSTRUCTION, size=f"{WIDTH}*{HEIGHT}", seed=7)
        return Image.open(io.BytesIO(await result.images[0].read())).convert("RGB")


def side_by_side(before: Image.Image, after: Image.Image) -> Image.Image:
    """Put two pictures side by side at half their size, with an arrow between them."""
    size = (WIDTH // 2, HEIGHT // 2)
    picture = Image.new("RGB", (2 * size[0] + 3 * GAP, size[1]), "white")
    picture.paste(before.resize(size, Image.Resampling.LANCZOS), (0, 0))
    picture.paste(after.resize(size, Image.Resampling.LANCZOS), (size[0] + 3 * GAP, 0))
    left, middle = size[0] + GAP // 2, size[1] // 2
    arrow = [(left, middle - 5), (left + 30, middle - 5), (left + 30, middle - 15), (left + 48, middle)]
    arrow += [(left + 30, middle + 15), (left + 30, middle + 5), (left, middle + 5)]
    ImageDraw.Draw(picture).polygon(arrow, fill="#5b6b7a")
    return picture


def main() -> None:
    """Write the picture."""
    before = landscape().filter(ImageFilter.SMOOTH)
    after = asyncio.run(edited(before))
    path = Path(__file__).parent / "results" / "before-after.png"
    side_by_side(before, after).quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG).save(
        path, optimize=True
    )
    print(f"{path}: {path.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
