"""The documented protocol: each request letter by letter, and each kind of reply."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wire_replies import FLAT, PARAMS, TASK, asked, created, reply, sent

from qwen_edit_async.batch.rules.budget import Budget
from qwen_edit_async.errors import (
    APIResponseError,
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    InsufficientBalanceError,
    InternalServerError,
    NotFoundError,
    RateLimitError,
)
from qwen_edit_async.models import EditParameters, EditRequest
from qwen_edit_async.protocol.base import Call, Reply
from qwen_edit_async.protocol.generation import GenerationProtocol
from qwen_edit_async.scheduling.retry import CallFailure, judge_submission
from qwen_edit_async.session.results import EditResult
from qwen_edit_async.tasks import TaskFailure, TaskSnapshot, TaskStatus

ONE_IMAGE_FLAT = """
{
  "model": "qwen_image_edit_plus",
  "input": {
    "messages": [
      {"role": "user", "content": [{"image": "https://example.com/a.png"}, {"text": "make it snow"}]}
    ]
  }
}
"""


THREE_IMAGES_FLAT = """
{
  "model": "qwen_image_edit_plus",
  "input": {
    "messages": [
      {
        "role": "user",
        "content": [
          {"image": "data:image/jpeg;base64,AAAA"},
          {"image": "https://example.com/b.png"},
          {"image": "data:image/png;base64,BBBB"},
          {"text": "她穿上图2的裙子"}
        ]
      }
    ]
  },
  "parameters": {
    "n": 2,
    "negative_prompt": "blur",
    "size": "1024*1536",
    "prompt_extend": false,
    "watermark": true,
    "seed": 2147483647
  }
}
"""


THREE_IMAGES_PARAMS = """
{
  "model": "qwen_image_edit_plus",
  "input": [
    {
      "params": {
        "input": {
          "messages": [
            {
              "role": "user",
              "content": [
                {"image": "data:image/jpeg;base64,AAAA"},
                {"image": "https://example.com/b.png"},
                {"image": "data:image/png;base64,BBBB"},
                {"text": "她穿上图2的裙子"}
              ]
            }
          ]
        },
        "parameters": {
          "n": 2,
          "negative_prompt": "blur",
          "size": "1024*1536",
          "prompt_extend": false,
          "watermark": true,
          "seed": 2147483647
        }
      }
    }
  ]
}
"""


ONE_IMAGE_PARAMS = """
{
  "model": "qwen_image_edit_plus",
  "input": [
    {
      "params": {
        "input": {
          "messages": [
            {"role": "user", "content": [{"image": "https://example.com/a.png"}, {"text": "make it snow"}]}
          ]
        }
      }
    }
  ]
}
"""


EVERY_PARAMETER = EditParameters(
    n=2, negative_prompt="blur", size=(1024, 1536), prompt_extend=False, watermark=True, seed=2147483647
)


@pytest.mark.parametrize(("protocol", "document"), [(FLAT, ONE_IMAGE_FLAT), (PARAMS, ONE_IMAGE_PARAMS)])
def test_one_image_and_a_text_are_sent_as_documented(protocol: GenerationProtocol, document: str) -> None:
    call = protocol.submission(EditRequest("a.png", "make it snow"))
    assert sent(call, "https://example.com/a.png") == json.loads(document)


@pytest.mark.parametrize(("protocol", "document"), [(FLAT, THREE_IMAGES_FLAT), (PARAMS, THREE_IMAGES_PARAMS)])
def test_three_images_and_every_parameter_are_sent_as_documented(protocol: GenerationProtocol, document: str) -> None:
    call = protocol.submission(EditRequest(["a.png"] * 3, "她穿上图2的裙子", EVERY_PARAMETER))
    images = ("data:image/jpeg;base64,AAAA", "https://example.com/b.png", "data:image/png;base64,BBBB")
    assert sent(call, *images) == json.loads(document)


def test_a_submission_is_a_post_to_the_generation_endpoint() -> None:
    call = FLAT.submission(EditRequest("a.png", "make it snow"))
    assert (call.method, call.path) == ("POST", "/model/v1/generation")


def test_the_model_is_sent_in_a_header_alone_if_the_envelope_is_header() -> None:
    call = GenerationProtocol("header", model="other").submission(EditRequest(["a.png"] * 3, "snow", EVERY_PARAMETER))
    flat = FLAT.submission(EditRequest(["a.png"] * 3, "snow", EVERY_PARAMETER))
    expected = sent(flat, "1", "2", "3")
    assert expected.pop("model") == "qwen_image_edit_plus"
    assert (sent(call, "1", "2", "3"), call.headers, call.path) == (expected, {"X-Model": "other"}, flat.path)


@pytest.mark.parametrize("envelope", ["flat", "params"])
def test_another_model_is_named_in_the_body_and_not_in_a_header(envelope: Any) -> None:
    call = GenerationProtocol(envelope, model="other").submission(EditRequest("a.png", "snow"))
    assert (sent(call, "1")["model"], call.headers) == ("other", {})


@pytest.mark.parametrize(
    ("name", "value", "on_the_wire"),
    [
        ("n", 1, 1),
        ("negative_prompt", "", ""),
        ("size", (512, 2048), "512*2048"),
        ("size", "1033x1032", "1033*1032"),
        ("prompt_extend", True, True),
        ("watermark", False, False),
        ("seed", 0, 0),
    ],
)
@pytest.mark.parametrize("protocol", [FLAT, PARAMS])
def test_a_parameter_is_sent_if_and_only_if_it_was_given(
    protocol: GenerationProtocol, name: str, value: Any, on_the_wire: object
) -> None:
    body = sent(protocol.submission(EditRequest("a.png", "snow", EditParameters(**{name: value}))), "x")
    inner = body["input"][0]["params"] if protocol is PARAMS else body
    assert inner["parameters"] == {name: on_the_wire}


def test_key_and_metadata_of_a_request_are_not_sent() -> None:
    request = EditRequest("a.png", "snow", key="row-17", metadata={"owner": "row-17"})
    assert b"row-17" not in b"".join(FLAT.submission(request).parts)


any_text = st.lists(
    st.text(st.characters()) | st.sampled_from(['{"image": null}', '{"image": "', '"}', "\\", '"', "\ud800", "雪"])
).map("".join)


@given(
    instruction=any_text.filter(str.strip),
    negative_prompt=st.none() | any_text,
    count=st.integers(1, 3),
    protocol=st.sampled_from([FLAT, PARAMS]),
)
@example(instruction='{"image": null}', negative_prompt='{"image": null}', count=3, protocol=FLAT)
@example(instruction="\ud83d", negative_prompt=None, count=1, protocol=FLAT)
def test_any_text_arrives_whole_and_leaves_each_image_its_gap(
    instruction: str, negative_prompt: str | None, count: int, protocol: GenerationProtocol
) -> None:
    request = EditRequest(["a.png"] * count, instruction, EditParameters(negative_prompt=negative_prompt))
    images = [f"image-{k}" for k in range(count)]
    inner: dict[str, object] = {
        "input": {
            "messages": [
                {"role": "user", "content": [*({"image": image} for image in images), {"text": joined(instruction)}]}
            ]
        }
    }
    if negative_prompt is not None:
        inner["parameters"] = {"negative_prompt": joined(negative_prompt)}
    body = inner if protocol is FLAT else {"input": [{"params": inner}]}
    assert sent(protocol.submission(request), *images) == {"model": "qwen_image_edit_plus", **body}


def joined(text: str) -> str:
    """Join two surrogates that make a pair into one character, as JSON does."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


@pytest.mark.parametrize(
    ("task_id", "path"),
    [
        ("d758n65e878c73cmdg20", "/model/v1/generation/task/d758n65e878c73cmdg20"),
        ("a/../b?c#d%2e", "/model/v1/generation/task/a%2F..%2Fb%3Fc%23d%252e"),
        ("任务", "/model/v1/generation/task/%E4%BB%BB%E5%8A%A1"),
        ("{task_id}", "/model/v1/generation/task/%7Btask_id%7D"),
    ],
)
def test_a_status_check_is_a_get_of_the_quoted_id_without_a_body(task_id: str, path: str) -> None:
    assert FLAT.status_check(attrs.evolve(TASK, task_id=task_id)) == Call(method="GET", path=path, parts=())


def test_there_is_no_cancellation_in_this_protocol() -> None:
    assert FLAT.cancellation(TASK) is None


def test_a_completed_task_takes_no_second_call() -> None:
    assert FLAT.result_call(asked(status="completed")) is None


def test_flat_is_the_default() -> None:
    assert GenerationProtocol() == FLAT


def test_the_documented_creation_reply_is_read_whole() -> None:
    document = {"id": "d758n65e878c73cmdg20", "status": "in_progress", "model": "m", "created_at": 1710000000}
    snapshot = created(document)
    assert snapshot == TaskSnapshot(
        task_id="d758n65e878c73cmdg20", status=TaskStatus.IN_PROGRESS, status_word="in_progress", raw=document
    )


@pytest.mark.parametrize(
    ("document", "task_id"),
    [
        ({"id": "a"}, "a"),
        ({"task_id": "a"}, "a"),
        ({"request_id": "a"}, "a"),
        ({"id": 17}, "17"),
        ({"task_id": 0}, "0"),
        ({"request_id": "r", "task_id": "t", "id": "i"}, "t"),
        ({"request_id": "r", "task_id": "t"}, "t"),
        ({"id": "", "task_id": "t"}, "t"),
        ({"id": None, "task_id": "t"}, "t"),
        ({"id": True, "request_id": "r"}, "r"),
        ({"id": ["x"], "request_id": "r"}, "r"),
        ({"id": {"id": "x"}, "request_id": "r"}, "r"),
        ({"data": {"id": "t"}, "request_id": "r"}, "t"),
        ({"data": {"task_id": "t"}, "request_id": "r"}, "t"),
        ({"data": [{"task_id": "t", "status": "submitted"}]}, "t"),
        ({"data": {"task": {"id": "t"}}}, "t"),
        ({"task": {"id": "t"}, "request_id": "r"}, "t"),
        ({"output": {"task_id": "t", "task_status": "PENDING"}, "request_id": "r"}, "t"),
        ({"data": {"request_id": "r"}, "request_id": "s"}, "r"),
        ({"taskId": "t", "id": "i"}, "t"),
        ({"id": "i", "data": {"id": "t"}}, "t"),
        ({"id": "i", "status": "completed", "data": {"id": "t", "status": "failed"}}, "t"),
        ({"id": "i", "code": 0, "data": {"task_id": "t", "task_status": "pending"}}, "t"),
        ({"id": 0, "data": {"taskId": "t"}}, "t"),
        ({"task_id": "t", "data": {"id": "x"}}, "t"),
        ({"id": "i", "data": {"request_id": "r"}}, "i"),
        ({"success": True, "result": {"id": "t"}}, "t"),
        ({"success": True, "result": {"task_id": "t"}, "id": "i"}, "t"),
        ({"code": 0, "message": "success", "data": "t"}, "t"),
        ({"id": "i", "data": "ready"}, "i"),
        ({"data": {"id": "t", "image": "https://r/input"}}, "t"),
        ({"id": "i", "status": "completed", "data": "https://r/1"}, "i"),
        ({"id": "i", "status": "completed", "data": [{"id": "picture", "url": "https://r/1"}]}, "i"),
        ({"id": "i", "status": "completed", "output": {"id": "picture", "content": []}}, "i"),
        ([{"id": "t", "status": "queued"}], "t"),
        ({"data": {"note": "x"}, "task": None, "output": [], "request_id": "r"}, "r"),
        ({"data": [], "request_id": "r"}, "r"),
    ],
    ids=repr,
)
def test_the_id_is_found_under_each_of_its_names(document: object, task_id: str) -> None:
    assert created(document).task_id == task_id


@pytest.mark.parametrize(
    "document",
    [
        {"code": 0, "message": "success", "data": {"id": "t", "status": "pending"}},
        *({"code": code, "message": "no matter", "id": "t"} for code in ("0", 0, 200, "200", 202, 20000, "Success")),
        {"code": "0", "data": {"task_id": "t", "status": "pending"}, "request_id": "r"},
        {"status": {"code": 0}, "id": "t"},
        {"status": {"code": 0, "message": "OK"}, "data": {"id": "t", "status": "pending"}},
        {"message": "accepted", "data": {"id": "t"}, "request_id": "r"},
        {"message": "accepted", "task": {"id": "t", "status": "queued"}, "request_id": "r"},
        {"code": 0, "message": "success", "request_id": "t"},
        {"message": "success", "request_id": "t"},
        {"error": {}, "id": "t"},
        {"error": {"code": 0, "message": ""}, "id": "t"},
        {"error": {"code": None, "message": None}, "request_id": "t"},
        {"error": {"code": "", "message": "", "details": []}, "request_id": "t"},
        {"error": {"code": "slow", "message": "slow today"}, "task_id": "t"},
        {"code": 7, "message": "slow today", "data": {"task_id": "t"}, "request_id": "r"},
    ],
    ids=repr,
)
def test_a_creation_that_the_service_took_is_a_task(document: dict[str, object]) -> None:
    assert created(document).task_id == "t"


def test_the_status_of_a_nested_task_is_read_where_its_id_is() -> None:
    document = {"code": 0, "status": "success", "data": {"id": "t", "status": "pending"}}
    snapshot = created(document)
    assert (snapshot.status, snapshot.status_word, snapshot.raw) == (TaskStatus.QUEUED, "pending", document)
    snapshot = created({"output": {"task_id": "t", "task_status": "RUNNING"}, "request_id": "r"})
    assert (snapshot.status, snapshot.status_word) == (TaskStatus.IN_PROGRESS, "RUNNING")
    snapshot = created({"status": "success", "data": {"task_id": "t", "task_status": "RUNNING"}})
    assert (snapshot.status, snapshot.status_word) == (TaskStatus.IN_PROGRESS, "RUNNING")


def test_a_creation_can_be_answered_with_any_successful_status() -> None:
    assert created({"id": "a"}, status=202).task_id == "a"


def test_a_creation_can_be_answered_with_a_finished_task() -> None:
    document = {"id": "a", "status": "completed", "output": [{"content": [{"type": "image", "url": "https://r/1"}]}]}
    snapshot = created(document)
    assert (snapshot.status, snapshot.urls) == (TaskStatus.COMPLETED, ("https://r/1",))


def test_a_creation_can_be_answered_with_a_failed_task() -> None:
    snapshot = created({"id": "a", "status": "failed", "error": {"code": 110001, "error_message": "moderation"}})
    assert (snapshot.status, snapshot.failure) == (
        TaskStatus.FAILED,
        TaskFailure(code=110001, message="moderation"),
    )


def test_a_task_that_has_only_a_request_id_and_failed_is_a_task() -> None:
    snapshot = created({"request_id": "r", "status": "failed", "error": "moderation"})
    assert (snapshot.task_id, snapshot.failure) == ("r", TaskFailure(message="moderation"))


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"status": "in_progress"},
        {"id": ""},
        {"id": None, "status": "in_progress"},
        {"id": 1.5},
        {"data": {"name": "nested"}},
        {"message": "gone"},
        {"message": "accepted", "data": {}},
        {"message": "accepted", "request_id": "r"},
        {"code": 0, "message": "success"},
        {"code": 200, "message": "success", "data": None},
        {"code": "OK", "message": "queued"},
        {"status": {"code": 0}},
        {"status": {"code": 7, "message": "queued"}},
        {"status": "success", "data": None},
        {"code": "Accepted", "message": "queued"},
        {"code": 1, "msg": "ok"},
        {"code": 1000, "message": "created", "data": {"request_id": "r"}},
        {"detail": "accepted"},
        {"error_code": 0, "error_message": "Success"},
    ],
    ids=repr,
)
def test_a_creation_reply_without_an_id_leaves_it_open_whether_a_task_exists(document: dict[str, object]) -> None:
    with pytest.raises(APIResponseError, match="the reply has no task id") as caught:
        created(document)
    assert judge_submission(caught.value) is CallFailure.UNCERTAIN
    assert caught.value.body == json.dumps(document)


def test_the_words_of_a_reply_without_an_id_are_in_the_error() -> None:
    with pytest.raises(APIResponseError, match=r"queued \(HTTP 200, code Accepted\)"):
        created({"code": "Accepted", "message": "queued"})


@pytest.mark.parametrize(
    ("document", "code", "message"),
    [
        ({"code": "InvalidParameter", "message": "bad size", "request_id": "r"}, "InvalidParameter", "bad size"),
        ({"error": {"code": 190000, "error_message": "no input"}, "request_id": 17}, 190000, "no input"),
        ({"error": "no input", "request_id": "r"}, None, "no input"),
        ({"status": {"code": 402, "message": "no"}, "data": None, "request_id": "r"}, 402, "no"),
        ({"status": None, "error": "no", "request_id": "r"}, None, "no"),
        ({"status": "failed", "message": "no"}, None, "no"),
        ({"data": {"status": "error", "message": "no"}}, None, "the service gave no reason"),
        ({"code": 110001, "message": "moderation"}, 110001, "moderation"),
        ({"code": 400, "detail": [{"msg": "field required"}]}, 400, '[{"msg": "field required"}]'),
        ({"error": {"code": 40201, "message": "no money", "id": "log-1"}}, 40201, "no money"),
        ({"error_message": "bad size"}, None, "bad size"),
        ({"error_code": 7}, 7, "the service gave no reason"),
        ({"code": 404, "message": "no", "data": {"request_id": "r"}}, 404, "no"),
    ],
    ids=repr,
)
def test_an_error_inside_of_a_successful_creation_reply_is_an_error(
    document: dict[str, object], code: object, message: str
) -> None:
    with pytest.raises(APIStatusError) as caught:
        created(document)
    assert (caught.value.status_code, caught.value.code, caught.value.message) == (200, code, message)


@pytest.mark.parametrize("task_id", ["..", "a b", "\ud800", "x" * 513], ids=ascii)
def test_an_id_that_can_not_be_asked_for_leaves_it_open_whether_a_task_exists(task_id: str) -> None:
    with pytest.raises(APIResponseError, match="task id that can't be part of a URL") as caught:
        created({"id": task_id, "status": "in_progress"})
    assert caught.value.body.startswith('{"id": ')
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("status", "kind"),
    [(302, APIStatusError), (400, BadRequestError), (401, AuthenticationError), (503, InternalServerError)],
)
@pytest.mark.parametrize(
    "document",
    [
        {"request_id": "a"},
        {"request_id": "a", "status": "in_progress"},
        {"request_id": "a", "error": {"code": 1, "message": "overloaded"}},
        {"error": {"code": 1, "message": "overloaded", "id": "a"}},
        {"data": "a"},
        {"id": "a b", "status": "in_progress"},
        ["a"],
    ],
    ids=repr,
)
def test_an_http_error_that_names_no_task_is_a_refused_creation(
    status: int, kind: type[APIStatusError], document: object
) -> None:
    with pytest.raises(APIStatusError) as caught:
        created(document, status)
    assert type(caught.value) is kind
    assert caught.value.task_id is None


@pytest.mark.parametrize("status", [303, 307, 400, 401, 408, 409, 429, 500, 502, 503, 504])
@pytest.mark.parametrize(
    "document",
    [
        {"id": "t"},
        {"id": "t", "status": "in_progress"},
        {"id": "t", "error": {"code": "SYNC_TIMEOUT", "message": "the task runs on"}},
        {"id": "t", "status": "timeout", "error": "the task runs on"},
        {"id": "t", "status": "failed", "message": "not yet"},
        {"error": "the same request is being worked on", "task_id": "t"},
        {"code": 409, "message": "exists", "data": {"task_id": "t"}, "request_id": "r"},
        {"error": {"code": "CONFLICT", "message": "exists", "task_id": "t"}, "request_id": "r"},
        {"error": {"message": "exists", "task_id": "t"}, "id": "i"},
    ],
    ids=repr,
)
def test_an_http_error_names_the_task_that_its_body_names(status: int, document: dict[str, object]) -> None:
    with pytest.raises(APIStatusError) as caught:
        created(document, status)
    assert (caught.value.task_id, caught.value.status_code) == ("t", status)


@pytest.mark.parametrize("status", [400, 402, 403])
@pytest.mark.parametrize(
    "document",
    [
        {"id": "t", "error": {"code": 40201, "message": "top up"}},
        {"id": "t", "error": {"code": 402, "message": "top up"}, "error_code": "40203"},
        {"status": {"code": 402, "error_code": 40201, "message": "top up"}, "data": None, "id": "t"},
    ],
    ids=repr,
)
def test_a_balance_that_is_too_low_names_the_task_too(status: int, document: dict[str, object]) -> None:
    with pytest.raises(InsufficientBalanceError) as caught:
        created(document, status)
    assert caught.value.task_id == "t"


@pytest.mark.parametrize("status", [303, 409, 500, 504])
def test_an_id_in_an_error_object_names_a_task_where_one_may_exist(status: int) -> None:
    with pytest.raises(InternalServerError) as caught:
        created({"error": {"id": "t", "code": "SYNC_TIMEOUT"}}, status)
    assert caught.value.task_id == "t"


@pytest.mark.parametrize("error", ["slow today", {"code": 429, "message": "slow today"}], ids=repr)
def test_a_successful_reply_with_an_id_and_an_error_gives_the_task(error: object) -> None:
    snapshot = created({"id": "t", "error": error})
    assert (snapshot.task_id, snapshot.status) == ("t", TaskStatus.UNKNOWN)


@pytest.mark.parametrize("status", [409, 500])
@pytest.mark.parametrize("task_id", ["a b", "..", None])
def test_an_error_that_names_no_id_of_use_is_that_error(status: int, task_id: str | None) -> None:
    with pytest.raises(APIStatusError, match="no luck") as caught:
        created({"id": task_id, "message": "no luck", "request_id": "r"}, status)
    assert caught.value.status_code == status


@pytest.mark.parametrize(
    "document", [{"code": 500, "message": "x"}, {"error": {"code": 504, "message": "x"}}], ids=repr
)
def test_a_server_error_inside_of_a_successful_reply_leaves_it_open_whether_a_task_exists(
    document: dict[str, object],
) -> None:
    with pytest.raises(InternalServerError) as caught:
        created(document)
    assert judge_submission(caught.value) is CallFailure.UNCERTAIN


@pytest.mark.parametrize("document", [{}, {"status": None}, {"status": 5, "id": "a"}, {"progress": 0.5}], ids=repr)
def test_a_status_reply_without_a_status_can_not_be_understood(document: dict[str, object]) -> None:
    with pytest.raises(APIResponseError, match="no status") as caught:
        FLAT.read_status(reply(document), TASK)
    assert (caught.value.task_id, caught.value.body) == ("task-1", json.dumps(document))


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ({"status": {"code": 1002, "message": "slow down"}, "data": None}, RateLimitError),
        ({"error": {"code": 40205, "message": "top up"}}, InsufficientBalanceError),
        ({"error": "gone"}, APIStatusError),
        ({"message": "gone"}, APIStatusError),
        ({"detail": [{"msg": "gone"}]}, APIStatusError),
        ({"code": 5}, APIStatusError),
    ],
    ids=repr,
)
def test_an_error_inside_of_a_successful_status_reply_is_that_error(
    document: dict[str, object], kind: type[APIStatusError]
) -> None:
    with pytest.raises(APIStatusError) as caught:
        FLAT.read_status(reply(document), TASK)
    assert type(caught.value) is kind
    assert (caught.value.status_code, caught.value.task_id) == (200, "task-1")


@pytest.mark.parametrize("members", [{"error": "slow today"}, {"message": "ok"}, {"code": 0}], ids=repr)
def test_a_status_with_words_beside_it_is_a_status(members: dict[str, object]) -> None:
    assert asked(**members).status is TaskStatus.IN_PROGRESS


def test_an_http_error_to_a_check_names_the_task() -> None:
    with pytest.raises(NotFoundError) as caught:
        FLAT.read_status(reply({"message": "no such task"}, 404), TASK)
    assert caught.value.task_id == "task-1"


@pytest.mark.parametrize(
    ("body", "complete"),
    [(b'{"status": "completed"}', False), (b'{"status": "comp', True), (b"<html>", True), (b"", True), (b"[]", True)],
)
def test_a_check_whose_reply_is_broken_can_not_be_understood(body: bytes, *, complete: bool) -> None:
    with pytest.raises(APIResponseError) as caught:
        FLAT.read_status(Reply(status=200, body=body, complete=complete), TASK)
    assert caught.value.task_id == "task-1"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=8,
)


member_names = [
    *("id", "task_id", "request_id", "status", "progress", "output", "usage", "metadata", "error"),
    *("code", "message", "detail", "error_message", "data"),
]


odd_values = json_values | st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("code", "message", "content", "cost", "detail", "quantity", "url"), json_values)
)


odd_documents = json_values | st.fixed_dictionaries({}, optional=dict.fromkeys(member_names, odd_values))


odd_replies = st.builds(
    Reply,
    status=st.sampled_from([200, 201, 204, 302, 400, 401, 402, 403, 404, 418, 429, 500, 503]) | st.integers(100, 999),
    headers=st.dictionaries(st.sampled_from(["retry-after", "date", "x-request-id"]), st.text()),
    body=st.binary() | odd_documents.map(lambda document: json.dumps(document).encode()),
    complete=st.booleans(),
)


@pytest.mark.fuzz
@given(odd_replies)
@example(Reply(status=200, body=b'{"error": {"code": "' + b"1" * 5000 + b'"}}'))
@example(Reply(status=400, body=b'{"error": {"code": ' + b"1" * 5000 + b"}}"))
@example(Reply(status=200, body=b"[" * 100_000))
@example(Reply(status=200, body=b'{"id": "\\ud800", "status": "queued"}'))
def test_any_reply_to_a_creation_is_an_askable_task_or_a_typed_error(odd: Reply) -> None:
    try:
        snapshot = FLAT.read_submission(odd)
    except (APIStatusError, APIResponseError) as error:
        str(error)
    else:
        assert odd.ok
        FLAT.status_check(snapshot).path.encode("ascii")


@pytest.mark.fuzz
@given(odd_replies)
@example(Reply(status=200, body=b'{"error": {"code": "' + b"1" * 5000 + b'"}}'))
@example(Reply(status=200, body=b'{"status": "completed", "usage": {"cost": 1e999}}'))
def test_any_reply_to_a_check_is_a_snapshot_or_a_typed_error_of_that_task(odd: Reply) -> None:
    try:
        task_id = FLAT.read_status(odd, TASK).task_id
    except (APIStatusError, APIResponseError) as error:
        task_id = error.task_id
    assert task_id == "task-1"


costs = st.one_of(
    st.decimals().map(str),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(),
    st.builds("{}{}e{}".format, st.sampled_from(["", "-", "+"]), st.integers(0), st.integers(-(10**18), 10**18)),
)


@pytest.mark.fuzz
@given(costs, st.sampled_from([None, Decimal(1)]))
@example("1e1000000", None)
@example("1E+999999999999999999", Decimal(1))
@example("1E-999999999999", None)
@example("-1e5", Decimal(1))
def test_whatever_an_edit_is_said_to_cost_it_can_be_shown_added_up_and_kept_to(cost: object, limit: Decimal) -> None:
    document = {"status": "completed", "usage": {"cost": cost}}
    usage = FLAT.read_status(Reply(status=200, body=json.dumps(document).encode()), TASK).usage
    result = EditResult(task_id="task-1", images=(), usage=usage)
    budget = Budget(max_cost=limit)
    for _ in range(3):
        budget.adopt(2)
        budget.completed(2, usage.cost, made=2)
        budget.admit(2)
    assert len(result._repr_html_()) < 2_000
    assert 0 <= budget.spent < Decimal("1e13")
    assert len(f"{budget.spent:f}{budget.spent}{budget.stopped}") < 300


@pytest.mark.parametrize("opening", ['{"error":{"x":', '{"id":"a","status":"failed","error":', '{"detail":'])
def test_nesting_of_any_depth_is_a_snapshot_or_a_typed_error(opening: str) -> None:
    for depth in range(700, 1100):
        odd = Reply(status=200, body=f"{opening}{'[' * depth}{']' * depth}{'}' * opening.count('{')}".encode())
        for read in (FLAT.read_submission, lambda odd: FLAT.read_status(odd, TASK)):
            try:
                read(odd)
            except (APIStatusError, APIResponseError) as error:
                assert str(error)  # noqa: PT017  # either way is right
