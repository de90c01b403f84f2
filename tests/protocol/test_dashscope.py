"""The protocol of Alibaba Model Studio: one call, whose reply is the result."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_replies import FLAT, TASK, reply, sent

from qwen_edit_async.errors import (
    APIResponseError,
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    InsufficientBalanceError,
    InternalServerError,
    PermissionDeniedError,
    QwenEditError,
    RateLimitError,
)
from qwen_edit_async.models import EditParameters, EditRequest
from qwen_edit_async.protocol.base import Reply
from qwen_edit_async.protocol.dashscope import DashScopeProtocol
from qwen_edit_async.scheduling.retry import CallFailure, judge_submission
from qwen_edit_async.tasks import TaskFailure, TaskSnapshot, TaskStatus

DASHSCOPE = DashScopeProtocol()

REQUEST_ID = "7a270c86-db58-9faf-b403-41d2fda77f37"


def answered(document: object, status: int = 200, **headers: str) -> TaskSnapshot:
    return DASHSCOPE.read_submission(reply(document, status, **headers))


def choices(*urls: str) -> dict[str, Any]:
    content = [{"image": url} for url in urls]
    return {"choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": content}}]}


def test_a_submission_is_the_documented_body_with_the_model_s_own_name() -> None:
    request = EditRequest(["a.png", "b.png"], "snow", EditParameters(n=2, size="1024*1536", seed=7))
    call = DASHSCOPE.submission(request)
    path = "/api/v1/services/aigc/multimodal-generation/generation"
    assert (call.method, call.path, call.headers, call.holds_result) == ("POST", path, {}, True)
    assert sent(call, "1", "2") == sent(FLAT.submission(request), "1", "2") | {"model": "qwen-image-edit-plus"}


def test_the_model_can_be_another() -> None:
    call = DashScopeProtocol(model="qwen-image-edit").submission(EditRequest("a.png", "snow"))
    assert sent(call, "1")["model"] == "qwen-image-edit"


def test_the_address_and_the_key_are_those_of_model_studio() -> None:
    assert DASHSCOPE.default_base_url == "https://dashscope-intl.aliyuncs.com"
    assert DASHSCOPE.key_variables == ("DASHSCOPE_API_KEY", "QWEN_EDIT_API_KEY")


def test_the_answer_is_the_finished_task() -> None:
    usage = {"image_count": 2, "width": 1024, "height": 1536}
    document = {"output": choices("https://r/1?Expires=1", "https://r/2"), "usage": usage, "request_id": REQUEST_ID}
    snapshot = answered(document)
    assert (snapshot.task_id, snapshot.status, snapshot.raw) == (REQUEST_ID, TaskStatus.COMPLETED, document)
    assert snapshot.urls == ("https://r/1?Expires=1", "https://r/2")
    assert (snapshot.usage.quantity, snapshot.usage.cost, snapshot.usage.raw) == (2, None, usage)


@pytest.mark.parametrize("usage", [None, {}, {"image_count": "2"}, {"image_count": True}], ids=repr)
def test_pictures_without_a_count_are_a_result(usage: object) -> None:
    snapshot = answered({"output": choices("https://r/1"), "usage": usage, "request_id": REQUEST_ID})
    assert (snapshot.urls, snapshot.usage.quantity) == (("https://r/1",), None)


def test_pictures_are_kept_whatever_stands_beside_them() -> None:
    document = {"output": choices("https://r/1"), "code": "Odd", "message": "odd", "request_id": REQUEST_ID}
    snapshot = answered(document)
    assert (snapshot.status, snapshot.urls, snapshot.failure) == (TaskStatus.COMPLETED, ("https://r/1",), None)


@pytest.mark.parametrize(
    ("members", "headers", "task_id"),
    [
        ({}, {"x_request_id": "h"}, "h"),
        ({"request_id": "b"}, {}, "b"),
        ({}, {}, r"unnamed-\w+"),
        ({"request_id": "a b"}, {}, r"unnamed-\w+"),
    ],
    ids=repr,
)
def test_a_result_without_an_id_is_kept(members: Any, headers: dict[str, str], task_id: str) -> None:
    assert re.fullmatch(task_id, answered({"output": choices("https://r/1"), **members}, **headers).task_id)


def test_results_without_ids_have_different_names_so_that_no_saved_picture_replaces_another() -> None:
    results = [answered({"output": choices(f"https://r/{number}")}) for number in range(10)]
    assert len({result.task_id for result in results}) == 10


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("code", ["DataInspectionFailed", "DataInspectionFailed.Output", "data_inspection_failed"])
def test_an_edit_that_moderation_refuses_has_failed(code: str, status: int) -> None:
    snapshot = answered({"code": code, "message": "inappropriate", "request_id": REQUEST_ID}, status)
    assert (snapshot.task_id, snapshot.status) == (REQUEST_ID, TaskStatus.FAILED)
    assert snapshot.failure == TaskFailure(code=code, message="inappropriate")


@pytest.mark.parametrize(
    ("code", "status", "kind", "failure"),
    [
        ("InvalidParameter", 400, BadRequestError, CallFailure.ENDS_CALL),
        ("InvalidApiKey", 401, AuthenticationError, CallFailure.ENDS_SESSION),
        ("Arrearage", 400, InsufficientBalanceError, CallFailure.ENDS_SESSION),
        ("AccessDenied", 403, PermissionDeniedError, CallFailure.ENDS_SESSION),
        ("AccessDenied.Unpurchased", 403, PermissionDeniedError, CallFailure.ENDS_SESSION),
        ("Throttling", 429, RateLimitError, CallFailure.THROTTLED),
        ("Throttling.RateQuota", 429, RateLimitError, CallFailure.THROTTLED),
        ("Throttling.AllocationQuota", 403, RateLimitError, CallFailure.THROTTLED),
        ("ThrottlingUser", 200, RateLimitError, CallFailure.THROTTLED),
        ("InternalError", 500, InternalServerError, CallFailure.UNCERTAIN),
        ("InternalError.Algo", 500, InternalServerError, CallFailure.UNCERTAIN),
        ("RequestTimeOut", 408, InternalServerError, CallFailure.UNCERTAIN),
        ("Unheard", 418, APIStatusError, CallFailure.ENDS_CALL),
    ],
)
@pytest.mark.parametrize("in_success", [False, True])
def test_an_error_is_the_same_in_a_successful_reply(
    code: str, status: int, kind: type[APIStatusError], failure: CallFailure, *, in_success: bool
) -> None:
    with pytest.raises(APIStatusError) as caught:
        answered({"code": code, "message": "no", "request_id": REQUEST_ID}, 200 if in_success else status)
    error = caught.value
    assert (type(error), error.code, error.message, error.request_id) == (kind, code, "no", REQUEST_ID)
    assert (error.task_id, judge_submission(error)) == (None, failure)


@pytest.mark.parametrize(
    "document",
    [{}, {"request_id": REQUEST_ID}, {"output": choices(), "request_id": REQUEST_ID}, {"message": "please wait"}],
    ids=repr,
)
def test_an_answer_without_a_picture_leaves_it_open_whether_the_edit_was_made(document: object) -> None:
    with pytest.raises(APIResponseError, match="no picture and no error") as caught:
        answered(document)
    assert judge_submission(caught.value) is CallFailure.UNCERTAIN


@pytest.mark.parametrize("body", [b'{"output": {"choices": [', b"<html>", b""])
def test_a_broken_answer_leaves_it_open_whether_the_edit_was_made(body: bytes) -> None:
    with pytest.raises(APIResponseError) as caught:
        DASHSCOPE.read_submission(Reply(status=200, body=body, complete=False))
    assert judge_submission(caught.value) is CallFailure.UNCERTAIN


def test_the_pictures_of_a_broken_answer_are_kept() -> None:
    body = json.dumps({"output": choices("https://r/1"), "usage": {"image_count": 1}, "request_id": REQUEST_ID})
    snapshot = DASHSCOPE.read_submission(Reply(status=200, body=body[:-3].encode(), complete=False))
    assert (snapshot.status, snapshot.urls) == (TaskStatus.COMPLETED, ("https://r/1",))


def test_a_proxy_s_page_is_an_error() -> None:
    with pytest.raises(InternalServerError, match="Bad gateway"):
        DASHSCOPE.read_submission(Reply(status=502, body=b"<html>Bad gateway</html>"))


def test_there_are_no_status_checks() -> None:
    with pytest.raises(ConfigurationError, match=r"task task-1: the protocol 'dashscope' has no status checks"):
        DASHSCOPE.status_check(TASK)
    with pytest.raises(APIResponseError, match="the protocol has no status checks"):
        DASHSCOPE.read_status(reply({}), TASK)
    with pytest.raises(APIResponseError, match="the protocol has no cancellation"):
        DASHSCOPE.read_cancellation(reply({}), TASK)
    assert (DASHSCOPE.result_call(TASK), DASHSCOPE.cancellation(TASK)) == (None, None)


@pytest.mark.fuzz
@given(st.binary() | st.sampled_from([b"[]", b'{"code": 5}', b'{"output": [], "code": []}']), st.integers(100, 999))
def test_any_reply_is_a_finished_task_or_a_typed_error(body: bytes, status: int) -> None:
    try:
        snapshot = DASHSCOPE.read_submission(Reply(status=status, body=body))
    except QwenEditError as error:
        assert str(error)  # noqa: PT017  # either way is right
    else:
        assert snapshot.status.terminal
