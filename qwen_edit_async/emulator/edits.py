"""Picture effects, and the English and Chinese words that request them.

Each effect takes an RGB picture and returns an RGB picture of the same size.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import TypeAlias, cast

import attrs
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter, ImageMath, ImageOps

Picture: TypeAlias = Image.Image
Effect: TypeAlias = Callable[[Picture, random.Random, re.Match[str]], Picture]
"""A function that takes a picture, a random source, and the words that requested the effect."""

_LEVELS = 256


@attrs.frozen
class Edit:
    """An effect that an instruction requests."""

    name: str
    words: re.Match[str]
    effect: Effect

    def __call__(self, picture: Picture, random_source: random.Random) -> Picture:
        """Return the edited picture."""
        return self.effect(picture, random_source, self.words)


def recognise(instruction: str) -> list[Edit]:
    """Return the edits that an instruction requests, in the order of their words. Negated edits are left out."""
    found: list[Edit] = []
    for name, (pattern, effect) in _VOCABULARY.items():
        match = pattern.search(instruction)
        if match and not _NEGATION.search(instruction[: match.start()]):
            found.append(Edit(name, match, effect))
    found.sort(key=lambda edit: edit.words.start())
    return found


def cover(picture: Picture, size: tuple[int, int]) -> Picture:
    """Scale a picture to fill a size, and crop the excess evenly on both sides."""
    return ImageOps.fit(picture, size, Image.Resampling.LANCZOS)


def _grey(picture: Picture) -> Picture:
    return picture.convert("L").convert("RGB")


def _scale(picture: Picture, red: float, green: float | None = None, blue: float | None = None) -> Picture:
    """Multiply each channel by its factor. A channel without a factor takes the factor of red."""
    factors = (red, red if green is None else green, red if blue is None else blue)
    lut = [min(255, round(value * factor)) for factor in factors for value in range(_LEVELS)]
    return picture.point(lut)


def _colorize(picture: Picture, dark: str, middle: str, light: str) -> Picture:
    return ImageOps.colorize(picture.convert("L"), dark, light, middle)


def _noise(size: tuple[int, int], random_source: random.Random, cell: int) -> Picture:
    """Return a grey picture of smooth clouds, each about `cell` pixels in size."""
    small = (max(size[0] // cell, 2), max(size[1] // cell, 2))
    clouds = Image.frombytes("L", small, random_source.randbytes(small[0] * small[1]))
    return clouds.resize(size, Image.Resampling.BICUBIC)


def _vignette(picture: Picture, strength: float = 0.75) -> Picture:
    edge = Image.radial_gradient("L").resize(picture.size).point([round(v**2 / 255 * strength) for v in range(256)])
    return Image.composite(Image.new("RGB", picture.size), picture, edge)


def _dodge(base: Picture, mask: Picture) -> Picture:
    """Lighten a grey picture with a mask, like the colour dodge of image editors."""
    result = ImageMath.lambda_eval(
        lambda args: args["convert"](args["min"](args["base"] * 255 / (256 - args["mask"]), 255), "L"),
        base=base,
        mask=mask,
    )
    return cast("Picture", result)


def _sketch(picture: Picture) -> Picture:
    grey = ImageOps.autocontrast(picture.convert("L"), cutoff=1)
    softened = ImageOps.invert(grey).filter(ImageFilter.GaussianBlur(max(picture.size) / 120))
    lines = _dodge(grey, softened)
    return ImageOps.colorize(lines.point([round(255 * (v / 255) ** 2.2) for v in range(256)]), "#26262b", "#fbf9f4")


def _oil(picture: Picture) -> Picture:
    small = ImageOps.scale(picture, 0.4)
    strokes = small.filter(ImageFilter.ModeFilter(7)).resize(picture.size, Image.Resampling.BICUBIC)
    return ImageEnhance.Color(strokes.filter(ImageFilter.UnsharpMask(4, 160, 0))).enhance(1.35)


def _watercolour(picture: Picture) -> Picture:
    washed = ImageOps.scale(picture, 0.5).filter(ImageFilter.ModeFilter(5)).filter(ImageFilter.MedianFilter(5))
    washed = washed.resize(picture.size, Image.Resampling.BICUBIC)
    paper = Image.blend(ImageEnhance.Color(washed).enhance(1.2), Image.new("RGB", picture.size, "#fffdf5"), 0.28)
    return ImageChops.multiply(paper, Image.blend(_sketch(picture), Image.new("RGB", picture.size, "white"), 0.6))


def _cartoon(picture: Picture) -> Picture:
    flat = ImageOps.posterize(ImageOps.scale(picture, 0.5).filter(ImageFilter.MedianFilter(7)), 3)
    flat = ImageEnhance.Color(flat.resize(picture.size, Image.Resampling.BICUBIC)).enhance(1.5)
    outline = picture.convert("L").filter(ImageFilter.GaussianBlur(2)).filter(ImageFilter.FIND_EDGES)
    ink = ImageOps.invert(outline).point([0 if v < 226 else 255 for v in range(256)])  # noqa: PLR2004 - edge threshold chosen by eye
    return ImageChops.multiply(_scale(flat, 1.12), ink.filter(ImageFilter.GaussianBlur(1)).convert("RGB"))


def _edges(picture: Picture) -> Picture:
    edges = picture.filter(ImageFilter.GaussianBlur(1.5)).filter(ImageFilter.FIND_EDGES)
    edges = ImageEnhance.Color(_scale(edges, 4.0)).enhance(1.8)
    return ImageChops.screen(edges, edges.filter(ImageFilter.GaussianBlur(max(picture.size) / 150)))


def _emboss(picture: Picture) -> Picture:
    relief = picture.convert("L").filter(ImageFilter.GaussianBlur(1)).filter(ImageFilter.EMBOSS)
    return ImageOps.autocontrast(relief, cutoff=1).convert("RGB")


def _pixelate(picture: Picture) -> Picture:
    cell = max(picture.size) // 48
    small = picture.resize((max(picture.width // cell, 1), max(picture.height // cell, 1)), Image.Resampling.BOX)
    return small.resize(picture.size, Image.Resampling.NEAREST)


def _night(picture: Picture, random_source: random.Random) -> Picture:
    dark = _scale(ImageEnhance.Color(ImageOps.autocontrast(picture, cutoff=1)).enhance(0.45), 0.28, 0.35, 0.58)
    lights = _scale(picture.point([0 if v < 205 else (v - 205) * 5 for v in range(256)] * 3), 1.0, 0.85, 0.5)  # noqa: PLR2004 - chosen by eye
    glow = lights.filter(ImageFilter.GaussianBlur(max(picture.size) / 60))
    scene = ImageChops.add(dark, _scale(glow, 0.55))
    stars = Image.new("L", picture.size)
    draw = ImageDraw.Draw(stars)
    for _ in range(120):
        x, y = random_source.random() * picture.width, random_source.random() ** 2 * picture.height * 0.5
        radius = random_source.uniform(0.4, 1.3) * max(picture.size) / 900
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=random_source.randrange(120, 256))
    return _vignette(ImageChops.screen(scene, stars.convert("RGB")), 0.6)


def _flakes(size: tuple[int, int], random_source: random.Random, number: int, radius: float) -> Picture:
    layer = Image.new("L", size)
    draw = ImageDraw.Draw(layer)
    for _ in range(number):
        x, y = random_source.random() * size[0], random_source.random() * size[1]
        r = radius * random_source.uniform(0.6, 1.4)
        draw.ellipse((x - r, y - r * 1.15, x + r, y + r * 1.15), fill=random_source.randrange(150, 256))
    return layer.filter(ImageFilter.GaussianBlur(radius / 2.5))


def _snow(picture: Picture, random_source: random.Random) -> Picture:
    cold = _scale(ImageEnhance.Color(picture).enhance(0.55), 0.86, 0.93, 1.06)
    pale = Image.blend(cold, Image.new("RGB", picture.size, "#dfe9f5"), 0.22)
    unit = max(picture.size) / 1024
    for number, radius in ((700, 1.6), (260, 3.4), (60, 7.5)):
        flakes = _flakes(picture.size, random_source, number, radius * unit)
        pale = ImageChops.screen(pale, flakes.convert("RGB"))
    return pale


def _rain(picture: Picture, random_source: random.Random) -> Picture:
    wet = _scale(ImageEnhance.Color(picture).enhance(0.5), 0.62, 0.68, 0.78)
    streaks = Image.new("L", picture.size)
    draw = ImageDraw.Draw(streaks)
    unit = max(picture.size) / 1024
    for _ in range(520):
        x, y = random_source.uniform(-0.05, 1.05) * picture.width, random_source.uniform(-0.1, 1) * picture.height
        length = random_source.uniform(18, 60) * unit
        draw.line(
            (x, y, x - length * 0.22, y + length),
            fill=random_source.randrange(60, 170),
            width=max(round(1.6 * unit), 1),
        )
    return ImageChops.screen(wet, streaks.filter(ImageFilter.GaussianBlur(0.8 * unit)).convert("RGB"))


def _fog(picture: Picture, random_source: random.Random) -> Picture:
    clouds = _noise(picture.size, random_source, max(picture.size) // 5)
    height = Image.linear_gradient("L").resize(picture.size)
    density = Image.blend(clouds, height, 0.45).point([70 + round(v * 0.62) for v in range(256)])
    soft = ImageEnhance.Color(picture.filter(ImageFilter.GaussianBlur(max(picture.size) / 700))).enhance(0.6)
    return Image.composite(Image.new("RGB", picture.size, "#e4e8ea"), soft, density)


def _sunset(picture: Picture) -> Picture:
    glow = ImageOps.colorize(Image.linear_gradient("L").resize(picture.size), "#ff9a4d", "#5b2a6e", "#ff5e5b")
    return ImageEnhance.Contrast(Image.blend(_scale(picture, 1.05, 0.88, 0.72), glow, 0.34)).enhance(1.15)


def _vintage(picture: Picture, random_source: random.Random) -> Picture:
    faded = ImageEnhance.Contrast(ImageEnhance.Color(picture).enhance(0.5)).enhance(0.82)
    warm = ImageChops.add(_scale(faded, 1.0, 0.92, 0.74), Image.new("RGB", picture.size, (26, 16, 10)))
    grain = _noise(picture.size, random_source, 2).point([round(118 + v * 0.08) for v in range(256)])
    grainy = ImageChops.overlay(warm, grain.convert("RGB"))
    return _vignette(grainy, 0.85)


def _frame(picture: Picture) -> Picture:
    width = min(max(picture.size) // 24, min(picture.size) // 6)  # also fits narrow pictures
    inner = cover(picture, (picture.width - 4 * width, picture.height - 4 * width))
    mount = ImageOps.expand(inner, width, "#f6f2e9")
    return cover(
        ImageOps.expand(ImageOps.expand(mount, width // 4, "#caa45a"), width - width // 4, "#5a3d22"), picture.size
    )


def _turn(picture: Picture, _: random.Random, words: re.Match[str]) -> Picture:
    """Rotate by the degrees in the words, or by 90. Turn clockwise unless the words say left or counterclockwise."""
    text = words[0].casefold()
    degrees = re.search(r"\d{1,3}(\.\d+)?", text)
    angle = float(degrees[0]) if degrees else 90.0
    is_left = re.search(r"left|counter|anti|左|逆", text) is not None
    turned = picture.convert("RGBA").rotate(angle if is_left else -angle, Image.Resampling.BICUBIC, expand=True)
    inner = ImageOps.contain(turned, picture.size, Image.Resampling.LANCZOS)
    # A blurred copy of the picture fills the corners that the rotation leaves empty.
    backdrop = _scale(picture.filter(ImageFilter.GaussianBlur(max(picture.size) / 30)), 0.6)
    backdrop.paste(inner, ((picture.width - inner.width) // 2, (picture.height - inner.height) // 2), inner)
    return backdrop


def _plain(function: Callable[[Picture], Picture]) -> Effect:
    return lambda picture, _random, _words: function(picture)


def _seeded(function: Callable[[Picture, random.Random], Picture]) -> Effect:
    return lambda picture, random_source, _words: function(picture, random_source)


def _words(english: str, chinese: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{english})|{chinese}", re.IGNORECASE)


_NEGATION = re.compile(
    r"(?:\b(?:no|not|without|don'?t|do not|never|remove|undo)\b(?:\s+(?!but\b|and\b)[\w-]+){0,2}\s*"
    r"|(?:不要|去掉|去除|没有|别)\w{0,3})$",
    re.IGNORECASE,
)

_VOCABULARY: dict[str, tuple[re.Pattern[str], Effect]] = {
    "grayscale": (
        _words(r"gr[ae]y ?-?scale|black[- ]and[- ]white|b&w|monochrome|desaturate", "黑白|灰度|去色"),
        _plain(_grey),
    ),
    "sepia": (
        _words("sepia", "棕褐色|褐色"),
        _plain(lambda picture: _colorize(picture, "#1c0f05", "#a07a4f", "#fff3d8")),
    ),
    "vintage": (_words(r"vintage|retro\b|old[- ](?:photo|film)|nostalgi", "复古|怀旧|老照片"), _seeded(_vintage)),
    "blur": (
        _words(r"blur|out of focus|soft focus", "模糊|虚化"),
        _plain(lambda picture: picture.filter(ImageFilter.GaussianBlur(max(picture.size) / 90))),
    ),
    "sharpen": (
        _words(r"sharp|crisp", "锐化|清晰"),
        _plain(lambda picture: picture.filter(ImageFilter.UnsharpMask(3, 190, 2))),
    ),
    "brighter": (
        _words(r"bright|lighten|lighter|increase (?:the )?exposure", "变亮|更亮|提亮|明亮"),
        _plain(lambda picture: _scale(picture, 1.4)),
    ),
    "darker": (_words(r"dark|dimmer|dim\b", "变暗|更暗|调暗"), _plain(lambda picture: _scale(picture, 0.55))),
    "warmer": (_words(r"warm|golden hour", "暖"), _plain(lambda picture: _scale(picture, 1.18, 1.02, 0.74))),
    "colder": (
        _words(r"cold|cool|chilly", "冷色|更冷|变冷"),
        _plain(lambda picture: _scale(picture, 0.76, 0.97, 1.22)),
    ),
    "softer contrast": (
        _words(r"(?:less|lower|reduce(?: the)?|low|softer) contrast", "降低对比度"),
        _plain(lambda picture: ImageEnhance.Contrast(picture).enhance(0.55)),
    ),
    "contrast": (
        _words(
            r"(?<!less )(?<!lower )(?<!reduce )(?<!the )(?<!low )(?<!softer )(?:contrast|dramatic)", "(?<!降低)对比度"
        ),
        _plain(lambda picture: ImageEnhance.Contrast(picture).enhance(1.7)),
    ),
    "saturated": (
        _words(r"saturat|vivid|vibrant|colou?rful", "饱和|鲜艳"),
        _plain(lambda picture: ImageEnhance.Color(picture).enhance(2.0)),
    ),
    "upside down": (
        _words(r"upside[- ]down|flip(?:ped)?(?: (?:it|the \w+))? vertical", "上下颠倒|垂直翻转|倒置"),
        _plain(ImageOps.flip),
    ),
    "mirror": (
        _words(r"mirror|flip(?!(?:ped)?(?: (?:it|the \w+))? vertical)", "镜像|水平翻转|左右翻转"),
        _plain(ImageOps.mirror),
    ),
    "rotate": (
        re.compile(
            r"\b(?:rotat\w*|turn(?:ed)?(?= (?:it |the \w+ )?(?:left|right|\d)))[^,.;]{0,40}"
            r"|(?:向?[左右]|逆时针|顺时针)?旋转[^\W_]{0,12}",
            re.IGNORECASE,
        ),
        _turn,
    ),
    "inverted": (_words(r"invert|inverse|negative", "反色|反相|负片"), _plain(ImageOps.invert)),
    "pixelated": (_words(r"pixel|mosaic|8[- ]bit", "马赛克|像素"), _plain(_pixelate)),
    "posterized": (
        _words(r"poster|pop[- ]art", "海报|波普"),
        _plain(lambda picture: ImageOps.posterize(ImageEnhance.Color(ImageOps.autocontrast(picture)).enhance(1.6), 2)),
    ),
    "sketch": (_words(r"sketch|pencil|drawing|drawn|charcoal|line art", "素描|铅笔|线稿"), _plain(_sketch)),
    "watercolour": (_words(r"water ?colou?r", "水彩"), _plain(_watercolour)),
    "oil painting": (_words(r"oil\b|painting|painted|impressionis|van gogh", "油画|梵高"), _plain(_oil)),
    "cartoon": (_words(r"cartoon|comic|anime|ghibli", "卡通|漫画|动漫"), _plain(_cartoon)),
    "embossed": (_words(r"emboss|relief", "浮雕"), _plain(_emboss)),
    "neon": (_words(r"neon|outlines?\b|edges\b|glowing", "霓虹|轮廓"), _plain(_edges)),
    "night": (_words(r"night|midnight|moonlit", "夜"), _seeded(_night)),
    "snow": (_words(r"snow|winter|blizzard", "雪|冬"), _seeded(_snow)),
    "rain": (_words(r"rain(?!bow)|storm", "雨"), _seeded(_rain)),
    "fog": (_words(r"fog|mist\b|misty|haz[ey]", "雾"), _seeded(_fog)),
    "sunset": (_words(r"sunset|sunrise|dusk|dawn", "日落|夕阳|黄昏|日出"), _plain(_sunset)),
    "vignette": (_words("vignette", "暗角"), _plain(_vignette)),
    "frame": (_words(r"frame|border|polaroid", "边框|相框"), _plain(_frame)),
}
