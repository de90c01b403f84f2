"""The counts of a session start from zero, and each is explained."""

from __future__ import annotations

import inspect
import re

import attrs

from qwen_edit_async.statistics import SessionStatistics


def test_everything_is_counted_from_zero() -> None:
    assert set(attrs.asdict(SessionStatistics()).values()) == {0}


def test_every_number_is_explained() -> None:
    explained = re.findall(r"^    (\w+): ", inspect.getdoc(SessionStatistics) or "", re.MULTILINE)
    assert explained == [field.name for field in attrs.fields(SessionStatistics)]
