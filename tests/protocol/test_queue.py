"""The queue protocol: each request letter by letter, and each kind of reply."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import attrs
import pytest
from wire_replies import TASK, reply, sent

from qwen_edit_async.errors import APIResponseError, APIStatusError, BadRequestError, NotFoundError, RateLimitError
from qwen_edit_async.models import EditParameters, EditRequest
from qwen_edit_async.protocol.base import Call, Reply
from qwen_edit_async.protocol.queue import QueueProtocol
from qwen_edit_async.tasks import TaskFailure, TaskSnapshot, TaskStatus

QUEUE = QueueProtocol()

SUBMIT_URL = "https://gateway.example/model/v1/queue/qwen_image_edit_plus"

OUTPUT = {"type": "image", "url": "https://r/1", "content_type": "image/png", "file_name": "1.png", "width": 1}


def asked(document: object, status: int = 200, task: TaskSnapshot = TASK) -> TaskSnapshot:
    return QUEUE.read_status(reply(document, status), task)


def failed(code: int | str | None, message: str, error_type: str = "", provider_error: str = "") -> TaskFailure:
    return TaskFailure(code=code, message=message, error_type=error_type, provider_error=provider_error)


def created(url: str = SUBMIT_URL, **members: object) -> TaskSnapshot:
    return QUEUE.read_submission(attrs.evolve(reply({"request_id": "task-1", **members}), url=url))


def test_a_submission_is_a_plain_body_with_only_what_was_given() -> None:
    call = QUEUE.submission(EditRequest("a.png", "make it snow"))
    assert (call.method, call.path, call.headers) == ("POST", "/model/v1/queue/qwen_image_edit_plus", {})
    assert sent(call, "https://example.com/a.png") == {
        "prompt": "make it snow",
        "images": ["https://example.com/a.png"],
    }


def test_a_submission_holds_three_images_and_every_parameter() -> None:
    parameters = EditParameters(
        n=2, negative_prompt='{"gap": "image"}', size="1024*1536", prompt_extend=False, watermark=True, seed=7
    )
    call = QUEUE.submission(EditRequest(["a.png"] * 3, '{"gap": "text"}', parameters))
    assert sent(call, "1", "2", "3") == {
        "images": ["1", "2", "3"],
        "prompt": '{"gap": "text"}',
        "n": 2,
        "negative_prompt": '{"gap": "image"}',
        "size": "1024*1536",
        "prompt_extend": False,
        "watermark": True,
        "seed": 7,
    }


def test_another_model_has_another_path() -> None:
    protocol, task = QueueProtocol(model="a/b"), attrs.evolve(TASK, task_id="x/../y")
    assert protocol.submission(EditRequest("a.png", "snow")).path == "/model/v1/queue/a%2Fb"
    assert protocol.status_check(task).path == "/model/v1/queue/a%2Fb/requests/x%2F..%2Fy/status"


def test_each_call_about_a_request_has_its_path() -> None:
    start = "/model/v1/queue/qwen_image_edit_plus/requests/task-1/"
    assert QUEUE.status_check(TASK) == Call(method="GET", path=start + "status")
    assert QUEUE.cancellation(TASK) == Call(method="PUT", path=start + "cancel")
    completed = attrs.evolve(TASK, status=TaskStatus.COMPLETED)
    assert QUEUE.result_call(completed) == Call(method="GET", path=start + "response")


@pytest.mark.parametrize("status", set(TaskStatus) - {TaskStatus.COMPLETED})
def test_only_a_completed_task_takes_a_second_call(status: TaskStatus) -> None:
    assert QUEUE.result_call(attrs.evolve(TASK, status=status)) is None


def test_a_status_that_came_with_the_pictures_takes_no_second_call() -> None:
    assert QUEUE.result_call(asked({"status": "COMPLETED", "outputs": [OUTPUT]})) is None


@pytest.mark.parametrize("word", ["QUEUED", "IN_QUEUE", None])
def test_a_submission_is_answered_with_the_id(word: str | None) -> None:
    document = {"request_id": "task-1", "queue_position": 0} | ({} if word is None else {"status": word})
    snapshot = QUEUE.read_submission(reply(document))
    assert (snapshot.task_id, snapshot.status, snapshot.raw) == ("task-1", TaskStatus.QUEUED, document)


def test_the_urls_of_the_service_are_used_as_they_are() -> None:
    task = created(
        status_url="https://gateway.example/other/task-1?a=%2F",
        response_url="https://GATEWAY.example:443/other/task-1/result",
        cancel_url="/other/task-1/stop",
    )
    completed = asked({"status": "COMPLETED"}, task=task)
    calls = [QUEUE.status_check(task), QUEUE.result_call(completed), QUEUE.cancellation(completed)]
    assert [call.path for call in calls if call] == [
        "/other/task-1?a=%2F",
        "/other/task-1/result",
        "/other/task-1/stop",
    ]


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/steal",
        "http://gateway.example/steal",
        "https://gateway.example:8443/steal",
        "https://gateway.example@evil.example/steal",
        "https://gateway.example.evil.example/steal",
        "//evil.example/steal",
        "https://[bad/steal",
        "https://gateway.example/other/task-1\r\nX: y",
        "https://gateway.example/other/task-1\n",
        "/other/\x00task-1",
        "/other/\x85task-1",
        "",
        5,
        None,
    ],
    ids=repr,
)
def test_a_url_that_is_broken_or_on_another_origin_is_not_used(url: object) -> None:
    assert QUEUE.status_check(created(status_url=url)) == QUEUE.status_check(TASK)


def test_below_a_base_url_with_a_path_only_urls_below_it_are_used() -> None:
    proxied = "https://proxy.example/gateway"
    inside = created(proxied + "/model/v1/queue/qwen_image_edit_plus", status_url=f"{proxied}/x")
    outside = created(proxied + "/model/v1/queue/qwen_image_edit_plus", status_url="https://proxy.example/gatewayx/x")
    assert QUEUE.status_check(inside).path == "/x"
    assert QUEUE.status_check(outside) == QUEUE.status_check(TASK)


@pytest.mark.parametrize(
    ("status", "document", "kind"),
    [
        (429, {"error": {"code": "RATE_LIMIT_EXCEEDED", "message": "slow"}, "request_id": "r"}, RateLimitError),
        (400, {"detail": "images is missing"}, BadRequestError),
        (200, {"error": {"code": "REQUEST_INVALID", "message": "no"}, "request_id": "r"}, APIStatusError),
    ],
    ids=repr,
)
def test_the_request_id_of_a_refusal_names_no_task(status: int, document: object, kind: type[APIStatusError]) -> None:
    with pytest.raises(APIStatusError) as caught:
        QUEUE.read_submission(reply(document, status))
    assert (type(caught.value), caught.value.task_id) == (kind, None)


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("IN_QUEUE", TaskStatus.QUEUED),
        ("IN_PROGRESS", TaskStatus.IN_PROGRESS),
        ("COMPLETED", TaskStatus.COMPLETED),
        ("CANCELED", TaskStatus.FAILED),
        ("DREAMING", TaskStatus.UNKNOWN),
    ],
)
def test_each_status_word_is_read(word: str, status: TaskStatus) -> None:
    snapshot = asked({"status": word, "request_id": "r"})
    assert (snapshot.task_id, snapshot.status, snapshot.status_word) == ("task-1", status, word)


@pytest.mark.parametrize(
    ("members", "failure"),
    [
        ({"error": "no", "error_type": "CONTENT_BLOCKED"}, failed("CONTENT_BLOCKED", "no", "CONTENT_BLOCKED")),
        ({"error": {"code": 7, "message": "no"}, "error_type": "X"}, failed(7, "no", "X")),
        ({"error": "no", "provider_error": {"code": "E"}}, failed(None, "no", "", '{"code": "E"}')),
        ({"error": {"code": "E7"}, "provider_error": "gpu lost"}, failed("E7", "gpu lost", "", "gpu lost")),
        ({"error_message": "no"}, TaskFailure()),
        ({"data": {"id": "t", "status": "COMPLETED", "error": "no"}}, failed(None, "no")),
    ],
    ids=repr,
)
def test_a_completed_request_that_has_an_error_failed(members: Any, failure: TaskFailure) -> None:
    snapshot = asked({"status": "COMPLETED", **members})
    assert (snapshot.status, snapshot.failure) == (TaskStatus.FAILED, failure)
    assert QUEUE.result_call(snapshot) is None


@pytest.mark.parametrize(
    "members",
    [{"error": None}, {"error": {}}, {"error": ""}, {"message": "done"}, {"detail": "done in 9 s"}, {"code": 7}],
    ids=repr,
)
def test_a_completed_request_without_a_plain_error_is_completed(members: Any) -> None:
    assert asked({"status": "COMPLETED", **members}).status is TaskStatus.COMPLETED


def test_a_canceled_request_says_so() -> None:
    snapshot = asked({"status": "COMPLETED", "error": "canceled by the caller", "error_type": "CANCELED"})
    assert (snapshot.status, snapshot.failure and snapshot.failure.error_type) == (TaskStatus.FAILED, "CANCELED")


def test_the_response_gives_the_pictures_and_keeps_what_the_status_told() -> None:
    status = asked({"status": "COMPLETED", "usage": {"cost": "0.1"}, "metadata": {"a": 1}}, task=created())
    document = {"request_id": "task-1", "outputs": [OUTPUT, {**OUTPUT, "url": "https://r/2"}], "metadata": {}}
    snapshot = asked(document, task=status)
    assert (snapshot.status, snapshot.urls) == (TaskStatus.COMPLETED, ("https://r/1", "https://r/2"))
    assert (snapshot.usage.cost, snapshot.metadata, snapshot.raw) == (Decimal("0.1"), {"a": 1}, document)


def test_a_response_may_tell_the_cost_itself() -> None:
    assert asked({"outputs": [OUTPUT], "usage": {"cost": "0.2"}}).usage.cost == Decimal("0.2")


@pytest.mark.parametrize("body", [b"", b"null", b"{}", b'{"request_id": "task-1"}', b'{"detail": "still in progress"}'])
def test_a_response_with_202_is_of_an_unfinished_request(body: bytes) -> None:
    assert QUEUE.read_status(Reply(status=202, body=body), TASK).status is TaskStatus.IN_PROGRESS


def test_a_status_with_202_is_what_it_says() -> None:
    assert asked({"status": "IN_QUEUE"}, 202).status is TaskStatus.QUEUED


def test_a_response_without_pictures_is_completed() -> None:
    assert asked({"request_id": "task-1", "outputs": []}).lacks_pictures


@pytest.mark.parametrize(
    ("members", "failure"),
    [
        ({"error": "blurred"}, TaskFailure(message="blurred")),
        ({"error": {"code": "ODD", "message": "blurred"}}, TaskFailure(code="ODD", message="blurred")),
        (
            {"error": {"code": "INTERNAL_SERVER_ERROR", "message": "no"}, "error_type": "INFERENCE_FAILURE"},
            TaskFailure(code="INTERNAL_SERVER_ERROR", message="no", error_type="INFERENCE_FAILURE"),
        ),
    ],
    ids=repr,
)
def test_a_response_with_an_error_is_of_a_failed_edit(members: Any, failure: TaskFailure) -> None:
    snapshot = asked({"request_id": "task-1", **members}, task=asked({"status": "COMPLETED"}, task=created()))
    assert (snapshot.status, snapshot.failure) == (TaskStatus.FAILED, failure)


@pytest.mark.parametrize("code", ["RATE_LIMIT_EXCEEDED", "INTERNAL_SERVER_ERROR", 40201])
def test_a_response_that_is_refused_leaves_the_edit_completed(code: object) -> None:
    with pytest.raises(APIStatusError):
        asked({"error": {"code": code, "message": "no"}}, task=asked({"status": "COMPLETED"}, task=created()))


def test_a_reply_that_says_nothing_can_not_be_understood() -> None:
    with pytest.raises(APIResponseError, match="no status and no outputs") as caught:
        asked({"request_id": "task-1"})
    assert (caught.value.task_id, json.loads(caught.value.body)) == ("task-1", {"request_id": "task-1"})


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"status": "COMPLE'])
def test_a_broken_reply_can_not_be_understood(body: bytes) -> None:
    with pytest.raises(APIResponseError):
        QUEUE.read_status(Reply(status=200, body=body), TASK)


@pytest.mark.parametrize(("status", "kind"), [(404, NotFoundError), (429, RateLimitError), (200, APIStatusError)])
def test_an_error_of_a_check_is_that_error_and_names_the_task(status: int, kind: type[APIStatusError]) -> None:
    with pytest.raises(kind) as caught:
        asked({"error": {"code": "SOME_ERROR", "message": "no"}, "request_id": "r"}, status)
    assert (caught.value.task_id, caught.value.code) == ("task-1", "SOME_ERROR")


@pytest.mark.parametrize("word", ["CANCELED", "Cancelled"])
def test_a_status_word_tells_that_a_request_was_canceled(word: str) -> None:
    failure = asked({"status": word}).failure
    assert failure == failed("CANCELED", "", "CANCELED")


@pytest.mark.parametrize(
    "document",
    [
        {"request_id": "task-1", "status": "CANCELED"},
        {"status": "CANCELLATION_REQUESTED"},
        {"status": "COMPLETED", "error": "canceled by the caller", "error_type": "CANCELED"},
        {"error": "canceled", "error_type": "canceled"},
        {"message": "the request was canceled"},
        {},
    ],
    ids=repr,
)
def test_a_cancellation_is_accepted(document: object) -> None:
    QUEUE.read_cancellation(reply(document, 202), TASK)


def test_a_cancellation_may_be_accepted_without_a_word() -> None:
    QUEUE.read_cancellation(Reply(status=204, body=b""), TASK)


@pytest.mark.parametrize(
    ("status", "document", "said"),
    [
        (409, {"detail": "the request is completed"}, "the request is completed"),
        (200, {"error": {"code": "INTERNAL", "message": "not now"}}, "not now"),
        (200, {"error": {"code": 200, "message": "not now"}}, "not now"),
        (200, {"status": "ERROR", "error": "not now"}, "not now"),
        (200, {"code": 409, "message": "too late"}, "too late"),
        (200, {"status": "COMPLETED"}, "no reason"),
    ],
    ids=repr,
)
def test_a_cancellation_is_refused(status: int, document: object, said: str) -> None:
    with pytest.raises(APIStatusError, match=said) as caught:
        QUEUE.read_cancellation(reply(document, status), TASK)
    assert caught.value.task_id == "task-1"


def test_a_reply_to_a_cancellation_that_can_not_be_read_confirms_nothing() -> None:
    with pytest.raises(APIResponseError):
        QUEUE.read_cancellation(Reply(status=200, body=b"<html>"), TASK)
