"""The documented contract of ``qwen_image_edit_plus``, as constants.

Docstrings cite the contract's sections in the form "(contract, *Images*)".

The client and the emulator share only this module. If they shared more, a mistake in shared code would escape tests.
"""

from __future__ import annotations

from typing import Final

MODEL: Final = "qwen_image_edit_plus"
"""The value of ``model`` in the body of a submission."""

DEFAULT_BASE_URL: Final = "https://cloud.vtrix.ai"
SUBMIT_PATH: Final = "/model/v1/generation"
STATUS_PATH: Final = "/model/v1/generation/task/{task_id}"

QUEUE_PATH: Final = "/model/v1/queue/{model}"
QUEUE_REQUEST_PATH: Final = QUEUE_PATH + "/requests/{request_id}"
"""The queue protocol's paths for submissions and, with a suffix such as ``/status``, for calls about a task. The
protocol's word for a task is request."""

CANCELED: Final = "CANCELED"
"""The ``error_type`` of a cancelled task in the queue protocol."""

MODEL_CONTRACT_PATH: Final = "/api/v1/skill/model-contracts/{model}"
"""The path of the gateway's own description of a model. The description names the protocol to use."""

GATEWAY_HOSTS: Final = frozenset({"cloud.vtrix.ai", "cloud.seaart.ai"})
"""The hosts of the gateway, which has the protocols ``generation`` and ``queue``."""

DASHSCOPE_BASE_URL: Final = "https://dashscope-intl.aliyuncs.com"
DASHSCOPE_HOSTS: Final = frozenset({"dashscope-intl.aliyuncs.com", "dashscope.aliyuncs.com"})
DASHSCOPE_PATH: Final = "/api/v1/services/aigc/multimodal-generation/generation"
DASHSCOPE_MODEL: Final = "qwen-image-edit-plus"
"""The same model at Alibaba Model Studio, where the reply to a submission contains the result."""

MIN_IMAGES: Final = 1
MAX_IMAGES: Final = 3
"""A message holds one to three ``{"image": …}`` items and exactly one ``{"text": …}`` item."""

MAX_IMAGE_BYTES: Final = 10 * 1024 * 1024
"""The maximum size of an image file in bytes, before Base64 encoding."""

SAFE_IMAGE_BYTES: Final = 7_500_000
"""The maximum size of a re-encoded image in bytes. The image's Base64 text is also smaller than ``MAX_IMAGE_BYTES``."""

RECOMMENDED_MIN_SIDE: Final = 384
RECOMMENDED_MAX_SIDE: Final = 3072
"""The range of both sides, in pixels, that gives the best quality. It is a recommendation, not a rule."""

MEDIA_TYPES: Final = (
    "image/jpeg",
    "image/png",
    "image/bmp",
    "image/tiff",
    "image/webp",
    "image/gif",
)
"""The accepted image formats. The service uses only the first frame of a GIF."""

MAX_INSTRUCTION_CHARACTERS: Final = 800
MAX_NEGATIVE_PROMPT_CHARACTERS: Final = 500
"""The service ignores the rest of a longer text, and reports no error. A Chinese character counts as one."""

MIN_N: Final = 1
MAX_N: Final = 6
MIN_SIDE: Final = 512
MAX_SIDE: Final = 2048
"""The range of each side of ``size``, in pixels."""

SIDE_MULTIPLE: Final = 16
"""The service rounds each output side to the nearest multiple: 1033 becomes 1040, and 1032 (halfway) becomes 1024."""

DEFAULT_OUTPUT_PIXELS: Final = 1024 * 1024
"""The approximate number of output pixels if no ``size`` is given. The aspect ratio is that of the last input image."""

MIN_SEED: Final = 0
MAX_SEED: Final = 2_147_483_647

WATERMARK_TEXT: Final = "Qwen-Image"
