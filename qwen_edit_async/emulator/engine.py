"""Engines, which make the pictures in place of the model. The default engine applies simple effects."""

from __future__ import annotations

import hashlib
import io
import random
from typing import Protocol

import attrs

from qwen_edit_async.contract import WATERMARK_TEXT
from qwen_edit_async.emulator.sizes import Size, output_size

try:
    from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

    from qwen_edit_async.emulator.edits import cover, recognise
except ImportError as _error:
    raise ImportError("the emulator needs Pillow: pip install 'qwen-edit-async[images]'") from _error

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")
_CJK_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "DroidSansFallbackFull.ttf",
    "wqy-microhei.ttc",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "msyh.ttc",
    "simsun.ttc",
)
_CAPTION_LINES = 7
_PNG_COMPRESSION = 1  # zlib's level: three times as fast as the default, with files a tenth larger


@attrs.frozen
class EditJob:
    """The work of an engine for one task."""

    images: tuple[bytes, ...] = attrs.field(repr=False)
    """The input files, in order. Empty for an engine that does not read images."""
    instruction: str
    """The instruction, cut to at most 800 characters."""
    negative_prompt: str | None
    n: int
    """Number of pictures."""
    size: Size | None
    """Requested width and height in pixels, before rounding to multiples of 16."""
    prompt_extend: bool
    watermark: bool
    seed: int

    def output_size(self, last_image: Size) -> Size:
        """Return the output size in pixels according to the contract, given the size of the last input image."""
        return output_size(self.size, last_image)


class EditEngine(Protocol):
    """Makes the pictures of a task. To serve a local model through the emulator, write your own engine."""

    @property
    def reads_images(self) -> bool:
        """Whether the engine reads the input images.

        If false, the emulator neither fetches nor decodes input images, and stores no pictures. It calls `render` for
        each download, and for each reply that states the size of a picture.
        """
        ...

    def render(self, job: EditJob) -> list[bytes]:
        """Return `job.n` PNG files. If this method raises an exception, the task fails.

        For an engine that does not read images, the request that needed the pictures fails instead. The emulator calls
        `render` on worker threads, for several tasks at a time.
        """
        ...


class FixedEngine:
    """Returns the same small PNG for every task. Use it for benchmarks, and for tests that need no real pictures."""

    reads_images = False

    def __init__(self) -> None:
        self._picture = _png(Image.new("RGB", (16, 16), "#7f9cf5"))

    def render(self, job: EditJob) -> list[bytes]:
        """Return the PNG `n` times."""
        return [self._picture] * job.n


class PillowEngine:
    """Applies the effects that an instruction names (grayscale, snow, rotate left, …), in the instruction's order.

    If an instruction names no effect, the engine tints the picture and writes the instruction on it. If there are
    several inputs, the last input fills the picture, and the earlier inputs are pasted on it as small prints. Equal
    jobs give equal pictures. Pictures with different seeds differ slightly in crop, light and colour, and so do the `n`
    pictures of a task.
    """

    reads_images = True

    def render(self, job: EditJob) -> list[bytes]:
        """Return the edited pictures as PNG files.

        Raises:
            OSError: An input image can't be decoded.
        """
        sources = [_load(data) for data in job.images]
        size = job.output_size(sources[-1].size)
        edits = recognise(job.instruction)
        pictures: list[bytes] = []
        for index in range(job.n):
            random_source = random.Random(f"{job.seed}:{index}")  # noqa: S311 - replayable pictures, not secrets
            picture = _compose([_vary(source, random_source) for source in sources], size)
            for edit in edits:
                picture = edit(picture, random_source)
            if not edits:
                picture = _caption(_tint(picture, job.instruction), job.instruction)
            if job.watermark:
                picture = _watermark(picture)
            pictures.append(_png(picture))
        return pictures


def read_size(data: bytes) -> Size:
    """Return the width and height of an image file in pixels, after applying its Exif orientation.

    Raises:
        OSError: The file is not an image of an accepted format.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            transposed = image.getexif().get(0x0112, 1) >= 5  # noqa: PLR2004 - Exif orientations 5 to 8 swap the sides
            return (height, width) if transposed else (width, height)
    except (Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise OSError(str(error)) from error


def _load(data: bytes) -> Image.Image:
    """Decode the first frame, turn it upright, and put a white background behind it."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            upright = ImageOps.exif_transpose(image)
            rgba = upright.convert("RGBA")
    except (Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise OSError(str(error)) from error
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=_PNG_COMPRESSION)
    return buffer.getvalue()


def _vary(picture: Image.Image, random_source: random.Random) -> Image.Image:
    """Vary the crop, light and colour slightly."""
    margin_x, margin_y = picture.width * 0.03, picture.height * 0.03
    left, top = random_source.uniform(0, margin_x), random_source.uniform(0, margin_y)
    box = (round(left), round(top), round(picture.width - margin_x + left), round(picture.height - margin_y + top))
    cropped = picture.crop(box) if box[2] > box[0] and box[3] > box[1] else picture
    light = random_source.uniform(0.95, 1.06)
    factors = [light * random_source.uniform(0.975, 1.025) for _ in range(3)]
    return cropped.point([min(255, round(value * factor)) for factor in factors for value in range(256)])


def _compose(sources: list[Image.Image], size: Size) -> Image.Image:
    picture = cover(sources[-1], size)
    side = round(min(size) * 0.4)
    margin = round(min(size) * 0.04)
    for index, source in enumerate(sources[:-1]):
        card = ImageOps.contain(source, (side, side), Image.Resampling.LANCZOS)
        card = ImageOps.expand(card, max(side // 32, 2), "white").convert("RGBA")
        card = card.rotate(4 - 8 * (index % 2), Image.Resampling.BICUBIC, expand=True)
        x = margin if index == 0 else size[0] - card.width - margin
        shadow = Image.new("L", size)
        shadow.paste(153, (x + margin // 4, margin + margin // 3), card)
        picture.paste("black", mask=shadow.filter(ImageFilter.GaussianBlur(margin / 4)))
        picture.paste(card, (x, margin), card)
    return picture


def _tint(picture: Image.Image, instruction: str) -> Image.Image:
    """Tint the picture with a hue that depends on the instruction's text."""
    hue = int.from_bytes(hashlib.blake2b(instruction.encode(), digest_size=2).digest(), "big") % 360
    toned = ImageOps.colorize(
        picture.convert("L"), f"hsl({hue}, 60%, 8%)", f"hsl({(hue + 30) % 360}, 70%, 92%)", f"hsl({hue}, 55%, 50%)"
    )
    return ImageEnhance.Contrast(Image.blend(picture, toned, 0.6)).enhance(1.1)


def _font(size: int, text: str) -> _Font:
    """Return a font of `size` pixels. For Chinese text, prefer an installed Chinese font."""
    if any(ord(character) >= 0x2E80 for character in text):  # noqa: PLR2004 - where the CJK blocks begin
        for name in _CJK_FONTS:
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    return ImageFont.load_default(size)


def _wrap(text: str, font: _Font, width: int) -> list[str]:
    """Break a text into lines of at most `width` pixels, between words if possible."""
    lines = [""]
    words = text.split()
    for position, word in enumerate(words):
        start = f"{lines[-1]} " if position else ""
        if font.getlength(start + word) <= width:
            lines[-1] = start + word
            continue
        if position:
            lines.append("")
        for character in word:
            if lines[-1] and font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines


def _caption(picture: Image.Image, instruction: str) -> Image.Image:
    """Write the instruction on a band at the bottom of the picture."""
    pixels = max(round(min(picture.size) / 19), 12)
    padding = pixels
    font = _font(pixels, instruction)
    lines = _wrap(instruction, font, picture.width - 2 * padding)
    if len(lines) > _CAPTION_LINES:
        lines = [*lines[: _CAPTION_LINES - 1], lines[_CAPTION_LINES - 1][:-1] + "..."]
    step = round(pixels * 1.35)
    top = picture.height - step * len(lines) - round(padding * 1.4)
    band = picture.crop((0, top, picture.width, picture.height)).filter(ImageFilter.GaussianBlur(pixels / 2))
    picture.paste(Image.blend(band, Image.new("RGB", band.size, "#101014"), 0.66), (0, top))
    draw = ImageDraw.Draw(picture)
    for index, line in enumerate(lines):
        draw.text((padding, top + round(padding * 0.7) + index * step), line, font=font, fill="white")
    return picture


def _watermark(picture: Image.Image) -> Image.Image:
    pixels = max(round(min(picture.size) / 28), 10)
    font = ImageFont.load_default(pixels)
    overlay = Image.new("RGBA", picture.size)
    draw = ImageDraw.Draw(overlay)
    corner = (picture.width - pixels // 2, picture.height - pixels // 2)
    draw.text((corner[0] + 1, corner[1] + 1), WATERMARK_TEXT, font=font, fill=(0, 0, 0, 150), anchor="rs")
    draw.text(corner, WATERMARK_TEXT, font=font, fill=(255, 255, 255, 215), anchor="rs")
    return Image.alpha_composite(picture.convert("RGBA"), overlay).convert("RGB")
