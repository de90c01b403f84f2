"""Replies as values, and the check of task ids."""

from __future__ import annotations

import pytest

from qwen_edit_async.errors import (
    InvalidEditError,
)
from qwen_edit_async.protocol.base import Reply, check_task_id


@pytest.mark.parametrize(("status", "ok"), [(199, False), (200, True), (204, True), (299, True), (300, False)])
def test_exactly_the_2xx_statuses_are_ok(status: int, *, ok: bool) -> None:
    assert Reply(status=status).ok is ok


def test_a_reply_shows_neither_headers_nor_body_in_its_repr() -> None:
    assert repr(Reply(status=200, headers={"a": "hidden"}, body=b"hidden")) == "Reply(status=200, complete=True)"


def test_text_that_is_no_utf8_is_readable_all_the_same() -> None:
    assert Reply(status=200, body=b"a\xffb").text() == "a\ufffdb"


def test_an_excerpt_is_the_first_two_thousand_characters() -> None:
    assert Reply(status=200, body=("é" * 3000).encode()).excerpt() == "é" * 2000


@pytest.mark.parametrize("task_id", ["d758n65e878c73cmdg20", "a", "a/b", "..a", "任务", "x" * 512])
def test_an_id_that_can_be_put_into_a_path_is_taken_as_it_is(task_id: str) -> None:
    assert check_task_id(task_id) == task_id


@pytest.mark.parametrize(
    "task_id", ["", " ", "a b", "a\n", "a\u00a0b", "a\x00", "\ud800", ".", "..", "x" * 513, None, 5, b"a"], ids=repr
)
def test_what_can_be_no_id_is_refused(task_id: object) -> None:
    with pytest.raises(InvalidEditError, match="task id"):
        check_task_id(task_id)


def test_a_refused_id_is_not_quoted_at_length() -> None:
    with pytest.raises(InvalidEditError) as caught:
        check_task_id("x" * 100_000)
    assert len(str(caught.value)) < 200
