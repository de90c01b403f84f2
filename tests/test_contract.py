"""Each constant agrees with the documented contract."""

from __future__ import annotations

import pytest

from qwen_edit_async import contract as _contract

DOCUMENTED = {
    "MODEL": "qwen_image_edit_plus",
    "DEFAULT_BASE_URL": "https://cloud.vtrix.ai",
    "SUBMIT_PATH": "/model/v1/generation",
    "STATUS_PATH": "/model/v1/generation/task/{task_id}",
    "QUEUE_PATH": "/model/v1/queue/{model}",
    "QUEUE_REQUEST_PATH": "/model/v1/queue/{model}/requests/{request_id}",
    "CANCELED": "CANCELED",
    "MODEL_CONTRACT_PATH": "/api/v1/skill/model-contracts/{model}",
    "GATEWAY_HOSTS": frozenset({"cloud.vtrix.ai", "cloud.seaart.ai"}),
    "DASHSCOPE_BASE_URL": "https://dashscope-intl.aliyuncs.com",
    "DASHSCOPE_HOSTS": frozenset({"dashscope-intl.aliyuncs.com", "dashscope.aliyuncs.com"}),
    "DASHSCOPE_PATH": "/api/v1/services/aigc/multimodal-generation/generation",
    "DASHSCOPE_MODEL": "qwen-image-edit-plus",
    "MIN_IMAGES": 1,
    "MAX_IMAGES": 3,
    "MAX_IMAGE_BYTES": 10_485_760,
    "SAFE_IMAGE_BYTES": 7_500_000,
    "RECOMMENDED_MIN_SIDE": 384,
    "RECOMMENDED_MAX_SIDE": 3072,
    "MEDIA_TYPES": ("image/jpeg", "image/png", "image/bmp", "image/tiff", "image/webp", "image/gif"),
    "MAX_INSTRUCTION_CHARACTERS": 800,
    "MAX_NEGATIVE_PROMPT_CHARACTERS": 500,
    "MIN_N": 1,
    "MAX_N": 6,
    "MIN_SIDE": 512,
    "MAX_SIDE": 2048,
    "SIDE_MULTIPLE": 16,
    "DEFAULT_OUTPUT_PIXELS": 1_048_576,
    "MIN_SEED": 0,
    "MAX_SEED": 2147483647,
    "WATERMARK_TEXT": "Qwen-Image",
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_constant_is_the_documented_one(name: str) -> None:
    value = getattr(_contract, name)
    assert (value, type(value)) == (DOCUMENTED[name], type(DOCUMENTED[name]))


def test_no_constant_goes_unchecked() -> None:
    assert {name for name in vars(_contract) if name.isupper()} == DOCUMENTED.keys()


def test_a_re_encoded_image_fits_even_after_base64_adds_a_third() -> None:
    assert _contract.SAFE_IMAGE_BYTES * 4 / 3 < _contract.MAX_IMAGE_BYTES
