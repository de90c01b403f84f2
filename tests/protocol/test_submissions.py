"""The id of a task in a reply that broke off."""

from __future__ import annotations

import pytest
from wire_replies import FLAT

from qwen_edit_async.errors import (
    APIResponseError,
    InternalServerError,
)
from qwen_edit_async.models import TaskStatus
from qwen_edit_async.protocol.base import Reply


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize(
    "text",
    [
        '{"id": "t-1", "sta',
        '{"id":"t-1"',
        ' \n{ "status" : "in_progress", "created_at": 17, "id" : "t-1" , ',
        '{"task_id": "t-1", "output": [{"id": "img"',
        '{"request_id": "t-1", "usage": {"id": "usage"',
        '{"request_id": "r", "id": "u", "task_id": "t-1", "sta',
        '{"error": {"code": 500, "message": "broken"}, "id": "t-1", "tra',
        '{"note": "say \\"id\\": \\"x\\"", "id": "t-1", ',
        '{"output": [], "id": "t-1", ',
        '{"metadata": {"id": "m", "a": [1]}, "id": "t-1", ',
        '{"usage": {"cost": 1}, "task_id": "t-1"',
        '\ufeff{"id": "t-\\u0031", "sta',
        '{"id": "t-1"} and more',
        '{"data": {"id": "t-1"}, ',
        '{"code": 0, "message": "success", "data": {"id": "t-1"}, ',
    ],
)
def test_the_id_of_a_creation_reply_that_was_cut_off_is_salvaged(text: str, *, complete: bool) -> None:
    snapshot = FLAT.read_submission(Reply(status=200, body=text.encode(), complete=complete))
    assert (snapshot.task_id, snapshot.status, dict(snapshot.raw)) == ("t-1", TaskStatus.UNKNOWN, {})


@pytest.mark.parametrize("text", ['{"id": 12345, "sta', '{"id": 12345}', '{"id" : 12345 }x'])
def test_a_number_that_came_whole_is_an_id_too(text: str) -> None:
    assert FLAT.read_submission(Reply(status=200, body=text.encode(), complete=False)).task_id == "12345"


def test_a_whole_object_of_which_more_was_announced_gives_its_id_too() -> None:
    assert FLAT.read_submission(Reply(status=200, body=b'{"id": "t-1"}', complete=False)).task_id == "t-1"


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"id": "t-',
        '{"id": "", ',
        '{"id": "a\\u00',
        '{"id": "a b", ',
        '{"id": 123',
        '{"data": {"id": "nested", ',
        '{"\n": 1, "id": "t-1", ',
        pytest.param('{"data": ' + "[" * 100_000, id="deep"),
        '[{"id": "nested", ',
        '"id": "t-1"',
        '{"note": "\\"id\\": \\"x\\"", ',
        '{"uid": "other", ',
        '{"code": 1002, "message": "slow down", "request_id": "req-77", "da',
        '{"request_id": "req-77", "message": "slow',
        '{"error": {"code": 500, "message": "broken"}, "request_id": "req-77", "tra',
        "<html><body>Bad gateway</body></html>",
    ],
)
def test_nothing_but_the_reply_s_own_id_is_salvaged(text: str, *, complete: bool) -> None:
    with pytest.raises(APIResponseError) as caught:
        FLAT.read_submission(Reply(status=200, body=text.encode(), complete=complete))
    assert caught.value.body == text[:2000]


def test_the_id_of_an_error_that_was_cut_off_is_salvaged() -> None:
    with pytest.raises(InternalServerError) as caught:
        FLAT.read_submission(Reply(status=500, body=b'{"id": "t-1", "sta', complete=False))
    assert caught.value.task_id == "t-1"


def test_an_error_that_was_cut_off_before_its_id_is_that_error() -> None:
    with pytest.raises(InternalServerError):
        FLAT.read_submission(Reply(status=500, body=b'{"id": "t-', complete=False))
