"""What is counted as it happens has the names under which a session tells it."""

from __future__ import annotations

import inspect
import re

import attrs
import pytest

from qwen_edit_async.statistics import Counters, SessionStatistics

LIVE = ["in_flight", "waiting", "limit", "watched", "pause_left", "paused"]


def test_a_session_s_statistics_are_its_live_numbers_and_its_counters() -> None:
    counted = [field.name for field in attrs.fields(Counters)]
    assert [field.name for field in attrs.fields(SessionStatistics)] == LIVE + counted


def test_counters_become_statistics_under_their_own_names() -> None:
    counters = Counters(**{field.name: number for number, field in enumerate(attrs.fields(Counters), 1)})
    statistics = SessionStatistics(**attrs.asdict(counters))
    assert {name: getattr(statistics, name) for name in attrs.asdict(counters)} == attrs.asdict(counters)


@pytest.mark.parametrize("kind", [Counters, SessionStatistics])
def test_everything_is_counted_from_zero(kind: type[attrs.AttrsInstance]) -> None:
    assert set(attrs.asdict(kind()).values()) == {0}


def test_a_snapshot_can_not_be_changed() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        SessionStatistics().submitted = 1


def test_every_number_is_explained() -> None:
    explained = re.findall(r"^    (\w+): ", inspect.getdoc(SessionStatistics) or "", re.MULTILINE)
    assert explained == [field.name for field in attrs.fields(SessionStatistics)]
