"""A use of ``import *`` that mypy accepts."""

from __future__ import annotations

from qwen_edit_async import *  # noqa: F403

outcomes: list[EditHub | BatchOutcome] = []  # noqa: F405
session: EditSession = EditSession("key", timeout=Timeouts(reply=5))  # noqa: F405
