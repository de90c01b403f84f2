from __future__ import annotations

import sys

import pytest


@pytest.fixture
def no_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the modules that need Pillow fail to import, as without the extra ``images``."""
    for name in ("qwen_edit_async.images.pillow", "qwen_edit_async.images.decoders"):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delattr(name, raising=False)
