"""Turns, converts and shrinks a PIL image, so that every decoder shows the same picture. Needs Pillow."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any, Final, cast

from PIL import Image

from qwen_edit_async.images.findings import ImageError
from qwen_edit_async.images.tiff import BITS, ORIENTATION, PHOTOMETRIC, UPRIGHT, WHITE_IS_ZERO, read_directory

_METHODS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that turns a picture upright, by Exif orientation."""

_XMP_ORIENTATION: Final = re.compile(r"tiff:Orientation(?:=[\"']|>)([1-8])")
_GRAY_MODES: Final = frozenset({"1", "L", "LA"})
_PROFILED_MODES: Final = {b"GRAY": frozenset({"L"}), b"RGB ": frozenset({"RGB", "RGBA"})}
"""The modes of pictures that an ICC profile can describe, by the profile's colour space."""

_RIGHT_SHADES: Final = frozenset({"1", "L", "RGB"})
"""The raw modes in which a PNG's transparent colour has as many bits per sample as the decoded pixels."""

_OPAQUE: Final = 255


def stored_orientation(image: Image.Image, exif: bytes = b"") -> int:
    """Return the Exif orientation of a newly opened file; 1 (upright) if the file has no valid one.

    Pillow's ``getexif()`` is not used. It may decode a PNG first, and its warnings can't be caught safely on a thread.
    ``exif`` is the Exif data that the check of a PNG's structure found.
    """
    info = image.info
    try:
        if hasattr(image, "tag_v2"):
            value = image.tag_v2.get(ORIENTATION)
        else:
            raw = info.get("Raw profile type exif", "").split("\n", 3)[3:]
            data = (info.get("exif") or exif or bytes.fromhex("".join(raw))).removeprefix(b"Exif\0\0")
            value, *_ = (read_directory(io.BytesIO(data), len(data)) if data else {}).get(ORIENTATION) or (None,)
        if value is None and (found := _XMP_ORIENTATION.search(info.get("xmp", b"").decode("latin-1"))):
            value = int(found[1])
    except Exception:  # noqa: BLE001  # corrupt metadata raises any kind of error, but the picture may be intact
        return UPRIGHT
    return value if value in _METHODS else UPRIGHT


def orientation(image: Image.Image) -> int:
    """Return the Exif orientation of the user's PIL image; 1 (upright) if it has no valid one."""
    try:
        value = cast("int", image.getexif().get(ORIENTATION))
    except Exception:  # noqa: BLE001  # corrupt metadata raises any kind of error, but the picture may be intact
        return UPRIGHT
    return value if value in _METHODS else UPRIGHT


def plain(image: Image.Image, turn: int, side: int | None = None) -> Image.Image:
    """Return the image upright, in 8-bit gray, RGB or RGBA. A fully opaque alpha channel is dropped.

    ``turn`` is the image's Exif orientation. ``side`` is the maximum length of the longest side in pixels.

    Raises:
        ImageError: The image has samples or a transparent colour that can't be converted to 8 bits reliably.
    """
    _check_transparent_colour(image)
    image.load()  # an icon's mode is known only after loading
    tags = getattr(image, "tag_v2", {})
    _check_range(image, tags)
    converted = _to_eight_bits(image, tags.get(BITS, (16,))[0])
    if converted.mode == "RGBA" and converted.getchannel("A").getextrema()[0] == _OPAQUE:
        converted = converted.convert("RGB")
    profile = converted.info.get("icc_profile") or b""
    if profile and converted.mode not in _PROFILED_MODES.get(profile[16:20], ()):
        converted = converted.copy() if converted is image else converted
        del converted.info["icc_profile"]
    if side is not None:
        converted = shrunk(converted, side)
    if turn != UPRIGHT and image.format != "TIFF":  # Pillow itself turns a TIFF image upright when loading
        converted = converted.transpose(_METHODS[turn])
    return converted


def to_srgb(image: Image.Image) -> Image.Image:
    """Convert a gray, RGB or RGBA image to sRGB, and remove its ICC profile."""
    converted = _through_profile(image) or image.copy()
    converted.info.pop("icc_profile", None)
    return converted


def shrunk(image: Image.Image, side: int) -> Image.Image:
    """Return the image with a longest side of at most ``side`` pixels."""
    if max(image.size) <= side:
        return image
    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _check_range(image: Image.Image, tags: Mapping[int, Any]) -> None:
    """Refuse samples of more than 8 bits, unless it is certain which value is black and which is white."""
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):  # Pillow scales a PPM file to 16 bits
        raise ImageError(f"has samples of unknown range (mode {image.mode!r}): convert it to 8 bits")
    if image.mode.startswith("I;16"):
        if image.format is None:  # it may be a copy of a 12-bit picture
            advice = "give the file from which the image comes, or convert it to 8 bits"
            raise ImageError(f"has 16-bit samples of unknown range: {advice}")
        if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
            raise ImageError("has 16-bit samples with white at 0: convert it to 8 bits, with black at 0")


def _check_transparent_colour(image: Image.Image) -> None:
    """Refuse an image whose transparent colour has more or fewer bits per sample than the decoded pixels."""
    if "transparency" not in image.info or image.mode in {"P", "PA"}:
        return
    tile = getattr(image, "tile", ())
    raw_mode = tile[0].args if image.format == "PNG" and tile else image.mode
    shade = image.info["transparency"]
    if raw_mode not in _RIGHT_SHADES or (isinstance(shade, tuple) and max(shade) > _OPAQUE):
        raise ImageError("has a transparent colour that can't be converted: save it as an 8-bit RGBA PNG")


def _to_eight_bits(image: Image.Image, bits: int) -> Image.Image:
    transparent = image.has_transparency_data
    if image.mode == "RGBA" or (image.mode in {"L", "RGB"} and not transparent):
        return image
    if image.mode.startswith("I"):
        return image.convert("I").point(lambda value: value * (1 / (1 << (bits - 8)))).convert("L")
    if image.mode == "1" and not transparent:
        return image.convert("L")
    if image.mode in {"CMYK", "LAB"}:
        converted = _through_profile(image) or image.convert("RGB")
        converted.info.pop("icc_profile", None)
        return converted
    if image.mode == "La":
        image = image.convert("LA")  # Pillow can't convert La to anything else
    converted = image.convert("RGBA" if transparent else "RGB")
    if image.mode in _GRAY_MODES and (coloured := _through_profile(image.convert("L"))):
        coloured.putalpha(converted.getchannel("A"))
        return coloured
    return converted


def _through_profile(image: Image.Image) -> Image.Image | None:
    """Return an image converted to sRGB through its ICC profile; ``None`` without a usable profile."""
    profile = image.info.get("icc_profile")
    if not profile:
        return None
    try:
        from PIL import ImageCms  # noqa: PLC0415  # Pillow may lack this module
    except ImportError:
        return None
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    try:
        converted: Any = ImageCms.profileToProfile(
            image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode=mode
        )
    except (ImportError, OSError, ImageCms.PyCMSError):  # ImportError: Pillow was built without LittleCMS
        return None
    converted.info.pop("icc_profile", None)
    return cast("Image.Image", converted)
