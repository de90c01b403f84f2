"""Checks numbers that users give as options. Pure."""

from __future__ import annotations

import sys

import attrs

from qwen_edit_async.errors import ConfigurationError
from qwen_edit_async.text import quoted


def check_positive(value: float | None, name: str, *, integer: bool = False) -> None:
    """Raise :class:`ConfigurationError` unless the value is a positive number. ``integer`` requires an integer."""
    kinds = (int,) if integer else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value <= sys.float_info.max:
        what = "a positive integer" if integer else "a positive number"
        raise ConfigurationError(f"{name} is {quoted(value)}: give {what}")


def check_not_negative(value: int, name: str) -> None:
    """Raise :class:`ConfigurationError` unless the value is 0 or a positive integer."""
    if type(value) is not int or value < 0:
        raise ConfigurationError(f"{name} is {quoted(value)}: give 0 or a positive integer")


def positive(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    """Apply :func:`check_positive` as an attrs validator."""
    check_positive(value, attribute.name)
