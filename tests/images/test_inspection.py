"""An image file is checked and hashed in one read."""

from __future__ import annotations

import hashlib
import io
import random

import pytest
from PIL import Image

from qwen_edit_async.errors import InvalidEditError
from qwen_edit_async.images import inspection as _inspection
from qwen_edit_async.images.inspection import inspect

LIMIT = 10_000_000


def encoded(kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.frombytes("RGB", (500, 400), random.Random(3).randbytes(500 * 400 * 3)).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
@pytest.mark.parametrize("block", [7_000, 1_000_000])
def test_a_file_is_checked_and_hashed(monkeypatch, tmp_path, kind, block) -> None:
    monkeypatch.setattr(_inspection, "_BLOCK", block)
    content = encoded(kind, exif=Image.Exif())
    (tmp_path / "a").write_bytes(content)
    found = inspect(tmp_path / "a", "image 1", LIMIT)
    assert (found.size, found.media_type) == (len(content), f"image/{kind.lower()}")
    assert found.findings.problem(f"image/{kind.lower()}", fit=False) == ""
    assert found.digest == hashlib.blake2b(content, digest_size=20).hexdigest()


def test_damage_is_found_and_the_whole_file_hashed_all_the_same() -> None:
    content = encoded("PNG").replace(b"IDAT", b"IDAX", 1)
    found = inspect(content, "image 1", LIMIT)
    assert "damaged" in found.findings.damage
    assert found.digest == hashlib.blake2b(content, digest_size=20).hexdigest()


def test_what_is_no_image_is_hashed_as_well() -> None:
    found = inspect(b"just text", "image 1", LIMIT)
    assert (found.media_type, found.findings.damage) == (None, "")
    assert found.digest == hashlib.blake2b(b"just text", digest_size=20).hexdigest()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_a_file_is_read_hardly_more_than_once(monkeypatch, kind) -> None:
    class Counted(io.BytesIO):
        count = 0

        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            Counted.count += len(data)
            return data

    content = encoded(kind)
    upload = _inspection.open_image(content, "image 1", LIMIT)[1]
    monkeypatch.setattr(_inspection, "open_image", lambda *_: (Counted(content), upload))
    inspect(content, "image 1", LIMIT)
    assert len(content) <= Counted.count < len(content) + 1000


def test_a_file_that_is_too_large_is_refused() -> None:
    with pytest.raises(InvalidEditError, match="over 10 bytes"):
        inspect(bytes(11), "image 1", 10)
