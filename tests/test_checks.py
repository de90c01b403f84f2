"""The checks of numbers that users give as options."""

from __future__ import annotations

from typing import Any

import pytest

from qwen_edit_async import ConfigurationError
from qwen_edit_async.checks import check_not_negative, check_positive

NO_POSITIVE_NUMBERS = [0, 0.0, -1, -0.5, float("nan"), float("inf"), 10**400, True, None, "60"]
shortly = {"ids": lambda value: repr(value)[:10]}


@pytest.mark.parametrize("value", NO_POSITIVE_NUMBERS, **shortly)
@pytest.mark.parametrize("integer", [False, True])
def test_what_is_no_positive_number_is_refused_and_named(value: Any, *, integer: bool) -> None:
    with pytest.raises(ConfigurationError, match=r"^deadline is .*: give a positive "):
        check_positive(value, "deadline", integer=integer)


@pytest.mark.parametrize("value", [1, 10**9, 0.1, 1e300])
def test_positive_numbers_pass(value: float) -> None:
    check_positive(value, "deadline")


def test_where_an_integer_is_wanted_a_fraction_is_refused() -> None:
    check_positive(2, "max_in_flight", integer=True)
    with pytest.raises(ConfigurationError, match=r"^max_in_flight is 2\.0: give a positive integer"):
        check_positive(2.0, "max_in_flight", integer=True)


@pytest.mark.parametrize("value", [0, 1, 10**9])
def test_integers_from_zero_pass(value: int) -> None:
    check_not_negative(value, "max_retries")


@pytest.mark.parametrize("value", [-1, 1.0, True, False, None, "1", float("nan")], ids=repr)
def test_what_is_no_integer_from_zero_is_refused_and_named(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^max_retries is .*: give 0 or a positive integer"):
        check_not_negative(value, "max_retries")
