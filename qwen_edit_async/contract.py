"""The service's documented contract for ``qwen_image_edit_plus``, as constants.

Limits, sizes and words only: no behaviour. Client and emulator share this module and nothing else, so that a mistake in
one of them cannot hide in the other.
"""

from __future__ import annotations

from typing import Final

MODEL: Final = "qwen_image_edit_plus"
"""Value of the body's ``model`` member."""

DEFAULT_BASE_URL: Final = "https://cloud.vtrix.ai"
SUBMIT_PATH: Final = "/model/v1/generation"
STATUS_PATH: Final = "/model/v1/generation/task/{task_id}"

MIN_IMAGES: Final = 1
MAX_IMAGES: Final = 3
"""A message holds one to three ``{"image": …}`` items and exactly one ``{"text": …}`` item."""

MAX_IMAGE_BYTES: Final = 10 * 1024 * 1024
"""Largest image file, in bytes, before Base64."""

SAFE_IMAGE_BYTES: Final = 7_500_000
"""What a re-encoded image stays under, so that it fits even if measured after Base64, which adds a third."""

RECOMMENDED_MIN_SIDE: Final = 384
RECOMMENDED_MAX_SIDE: Final = 3072
"""Both sides between these, in pixels, give the best quality: a recommendation, not a rule."""

MEDIA_TYPES: Final = (
    "image/jpeg",
    "image/png",
    "image/bmp",
    "image/tiff",
    "image/webp",
    "image/gif",
)
"""Accepted image formats (JPG and JPEG are one); only a GIF's first frame is used."""

MAX_INSTRUCTION_CHARACTERS: Final = 800
MAX_NEGATIVE_PROMPT_CHARACTERS: Final = 500
"""The service cuts the rest off silently; every character counts 1."""

MIN_N: Final = 1
MAX_N: Final = 6
MIN_SIDE: Final = 512
MAX_SIDE: Final = 2048
"""Each side of ``size``, in pixels."""

SIDE_MULTIPLE: Final = 16
"""The service rounds each side of the output to the nearest multiple of this: ``1033*1032`` gives ``1040*1024``."""

DEFAULT_OUTPUT_PIXELS: Final = 1024 * 1024
"""Without ``size``: the ratio of the last input image at about this many pixels in total."""

MIN_SEED: Final = 0
MAX_SEED: Final = 2_147_483_647

WATERMARK_TEXT: Final = "Qwen-Image"
