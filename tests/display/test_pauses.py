"""The time at which a pause ends, for people."""

from __future__ import annotations

import re

from qwen_edit_async.display.cards import local_time_in


def test_a_time_of_today_has_no_date() -> None:
    assert re.fullmatch(r"[0-9]{2}:[0-9]{2}", local_time_in(0.0))


def test_a_time_of_another_day_has_its_date() -> None:
    assert re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}", local_time_in(100_000.0))
