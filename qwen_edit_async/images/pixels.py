"""Turns, converts and shrinks a PIL image, so that every decoder sees the same picture. Needs Pillow."""

from __future__ import annotations

import io
from typing import Any, Final, cast

from PIL import Image, ImageChops, ImageOps

from qwen_edit_async.errors import InvalidEditError
from qwen_edit_async.images.tiff import ORIENTATION, PHOTOMETRIC, WHITE_IS_ZERO, read_directory

_UPRIGHT: Final = 1
_TURNED: Final = frozenset(range(2, 9))
"""Exif orientations other than upright."""

_BITS_PER_SAMPLE: Final = 258
_AMBIGUOUS_MODES: Final = frozenset({"I", "F"})
_PROFILED_MODES: Final = {b"GRAY": frozenset({"L"}), b"RGB ": frozenset({"RGB", "RGBA"})}
"""The modes of pictures that an ICC profile can describe, by the profile's colour space."""

_OPAQUE: Final = 255


def orientation(image: Image.Image) -> int:
    """Return the Exif orientation: 1 if the picture is upright, or says nothing that makes sense."""
    try:
        value = cast("int", image.getexif().get(ORIENTATION, _UPRIGHT))
    except Exception:  # noqa: BLE001  # corrupt Exif data fails in ways that Pillow does not list; the picture can be fine
        return _UPRIGHT
    return value if value in _TURNED else _UPRIGHT


def stored_orientation(image: Image.Image) -> int:
    """Return the orientation of an image that was just opened, as :func:`orientation` does, without warnings."""
    exif = image.info.get("exif", b"")
    if not isinstance(exif, bytes) or not exif:
        value = getattr(image, "tag_v2", {}).get(ORIENTATION)
    else:
        exif = exif.removeprefix(b"Exif\0\0")
        value, *_ = (read_directory(io.BytesIO(exif), len(exif)) or {}).get(ORIENTATION) or (_UPRIGHT,)
    return value if value in _TURNED else _UPRIGHT


def plain(image: Image.Image, name: str) -> Image.Image:
    """Return the image upright, as 8 bits of gray, RGB or RGBA. An alpha channel that hides nothing is dropped.

    Raises:
        InvalidEditError: If the range of its values is not known.
    """
    image.load()  # the mode of an icon is not certain before
    if image.mode in _AMBIGUOUS_MODES:
        raise InvalidEditError(f"{name} has 32-bit samples (mode {image.mode!r}): convert it to 8 bits, 0 to 255")
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16") and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        raise InvalidEditError(f"{name} has 16-bit samples with white at 0: convert it to 8 bits, with black at 0")
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    if orientation(image) != _UPRIGHT:
        image = ImageOps.exif_transpose(image)
    converted = _to_eight_bits(image, bits)
    if converted.mode == "RGBA" and converted.getchannel("A").getextrema()[0] == _OPAQUE:
        converted = converted.convert("RGB")
    profile = converted.info.get("icc_profile") or b""
    if profile and converted.mode not in _PROFILED_MODES.get(profile[16:20], ()):
        converted = converted.copy() if converted is image else converted
        del converted.info["icc_profile"]
    return converted


def to_srgb(image: Image.Image) -> Image.Image:
    """Return a gray, RGB or RGBA image in the colours of sRGB, without a profile."""
    converted = _through_profile(image, image.mode) or image.copy()
    converted.info.pop("icc_profile", None)
    return converted


def shrunk(image: Image.Image, side: int) -> Image.Image:
    """Return the image with a longest side of at most ``side`` pixels."""
    if max(image.size) <= side:
        return image
    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _to_eight_bits(image: Image.Image, bits: int) -> Image.Image:
    transparent = image.has_transparency_data
    if image.mode == "RGBA" or (image.mode in {"L", "RGB"} and not transparent):
        return image
    if image.mode.startswith("I;16"):
        wide = image.convert("I")
        gray = wide.point(lambda value: value * (1 / (1 << (bits - 8)))).convert("L")
        shade = gray.info.pop("transparency", None)
        return gray if shade is None else Image.merge("LA", (gray, _alpha(wide, shade))).convert("RGBA")
    if image.mode == "1" and not transparent:
        return image.convert("L")
    if image.mode in {"CMYK", "LAB"}:
        converted = _through_profile(image, "RGB") or image.convert("RGB")
        converted.info.pop("icc_profile", None)
        return converted
    if image.mode == "La":
        image = image.convert("LA")  # the only conversion that Pillow has for it
    return image.convert("RGBA" if transparent else "RGB")


def _alpha(wide: Image.Image, shade: int) -> Image.Image:
    """Return the alpha channel of a 16-bit gray image with one shade that is transparent."""
    above = wide.point(lambda value: value * 1 - shade).convert("L")  # clipped at 0 and 255
    below = wide.point(lambda value: value * -1 + shade).convert("L")
    return ImageChops.lighter(above, below).point([0] + [_OPAQUE] * 255)


def _through_profile(image: Image.Image, mode: str) -> Image.Image | None:
    """Convert an image to sRGB through its profile; ``None`` if it has none that can be used."""
    profile = image.info.get("icc_profile")
    if not profile:
        return None
    try:
        from PIL import ImageCms  # noqa: PLC0415  # part of Pillow only where it was built with LittleCMS
    except ImportError:
        return None
    try:
        converted: Any = ImageCms.profileToProfile(
            image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode=mode
        )
    except (ImportError, OSError, ImageCms.PyCMSError):  # the module can lack its compiled part
        return None
    return cast("Image.Image", converted)
