"""The task that the reply to a submission names, also in a reply that broke off or reports an error."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from wire_replies import FLAT

from qwen_edit_async.errors import APIResponseError, APIStatusError, InternalServerError, QwenEditError
from qwen_edit_async.protocol.base import Reply
from qwen_edit_async.scheduling.retry import CallFailure, judge_submission
from qwen_edit_async.tasks import TaskSnapshot, TaskStatus


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


@pytest.mark.parametrize(
    "document",
    [
        {"detail": {"task_id": "t-1", "message": "exists"}},
        {"detail": {"id": "t-1", "message": "exists"}},
        {"status": {"code": 409, "task_id": "t-1"}},
        {"error": {"code": "CONFLICT", "details": {"task_id": "t-1"}}},
        {"error": {"code": "CONFLICT", "data": {"taskId": "t-1"}}},
    ],
    ids=repr,
)
def test_an_error_report_names_its_task_wherever_it_stands(document: dict[str, object]) -> None:
    with pytest.raises(APIStatusError) as raised:
        FLAT.read_submission(Reply(status=409, body=json.dumps(document).encode()))
    assert raised.value.task_id == "t-1"


@pytest.mark.parametrize(
    "document",
    [
        {"error": "none", "data": {}},
        {"error": "null"},
        {"error": "0"},
        {"error": "No error."},
        {"error": {"code": "INTERNAL_ERROR"}},
        {"error": {"code": "TIMEOUT", "message": "try later"}},
        {"error": "gateway timeout"},
        {"error": "Bad Gateway", "status": 502},
        {"error": "upstream", "status": 504},
        {"code": "InternalError", "message": "broken"},
    ],
    ids=repr,
)
def test_a_successful_reply_that_is_no_plain_refusal_is_uncertain(document: dict[str, object]) -> None:
    with pytest.raises(QwenEditError) as raised:
        FLAT.read_submission(Reply(status=200, body=json.dumps(document).encode()))
    assert judge_submission(raised.value) is CallFailure.UNCERTAIN


@pytest.mark.parametrize(
    "document",
    [
        {
            "request_id": "t-1",
            "output": {"choices": [{"message": {"content": [{"image": "https://r.example/a.png"}]}}]},
        },
        {"request_id": "t-1", "outputs": [{"url": "https://r.example/a.png"}]},
        {"code": 0, "data": {"id": "t-1", "output": ["https://r.example/a.png"]}},
        {"id": "t-1", "urls": ["https://r.example/a.png"], "state": "completed"},
        {"id": "t-1", "urls": ["https://r.example/a.png"], "status": 2},
    ],
    ids=repr,
)
def test_pictures_complete_a_task_without_a_status_word(document: dict[str, object]) -> None:
    reply = Reply(status=200, body=json.dumps(document).encode())
    for snapshot in (
        FLAT.read_submission(reply),
        FLAT.read_status(reply, TaskSnapshot(task_id="t-1", status=TaskStatus.QUEUED)),
    ):
        assert snapshot.task_id == "t-1"
        assert snapshot.status is TaskStatus.COMPLETED
        assert snapshot.urls == ("https://r.example/a.png",)


def test_an_inner_null_hides_no_member_of_the_envelope() -> None:
    document = {"data": {"id": "t-1", "status": "failed", "usage": None}, "usage": {"cost": "0.05"}}
    assert FLAT.read_submission(Reply(status=200, body=json.dumps(document).encode())).usage.cost == Decimal("0.05")


def test_a_url_in_a_list_may_hold_spaces() -> None:
    document = {"id": "t-1", "status": "completed", "urls": ["https://r.example/a b.png"]}
    assert FLAT.read_submission(Reply(status=200, body=json.dumps(document).encode())).urls == (
        "https://r.example/a b.png",
    )
