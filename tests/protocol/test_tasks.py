"""Tasks in every known shape of a status reply."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wire_replies import FLAT, TASK, asked, reply

from qwen_edit_async.protocol.base import Reply
from qwen_edit_async.protocol.tasks import STATUS_WORDS, snapshot_of
from qwen_edit_async.tasks import TaskFailure, TaskSnapshot, TaskStatus, Usage


def test_the_documented_status_reply_is_read_whole() -> None:
    document: dict[str, Any] = {
        "id": "task-1",
        "status": "completed",
        "output": [
            {"content": [{"type": "image", "url": "https://r/1.png", "jobId": "j", "img_id": "i", "metadata": {}}]},
            {"content": [{"type": "image", "url": "https://r/2.png"}]},
        ],
        "usage": {"cost": "0.0065", "quantity": 2, "unit_price": "0.00325", "discount": 1},
        "metadata": {"gpu": "a"},
        "progress": 1,
        "novelty": ["kept"],
    }
    assert FLAT.read_status(reply(document), TASK) == TaskSnapshot(
        task_id="task-1",
        status=TaskStatus.COMPLETED,
        status_word="completed",
        progress=1.0,
        urls=("https://r/1.png", "https://r/2.png"),
        usage=Usage(cost=Decimal("0.0065"), quantity=2, raw=document["usage"]),
        metadata={"gpu": "a"},
        raw=document,
    )


@pytest.mark.parametrize(
    "document",
    [
        {"code": 0, "message": "success", "data": {"id": "task-1", "status": "completed", "output": "OUTPUT"}},
        {"status": {"code": 0}, "data": {"status": "completed", "output": "OUTPUT"}, "usage": {"cost": "0.1"}},
        {"task": {"id": "task-1", "status": "completed", "output": "OUTPUT"}, "request_id": "r"},
    ],
    ids=repr,
)
def test_a_status_reply_in_an_envelope_is_read_as_one_without(document: dict[str, Any]) -> None:
    snapshot = FLAT.read_status(
        Reply(
            status=200,
            body=json.dumps(document).replace('"OUTPUT"', '[{"content": [{"url": "https://r/1"}]}]').encode(),
        ),
        TASK,
    )
    assert (snapshot.task_id, snapshot.status, snapshot.urls) == ("task-1", TaskStatus.COMPLETED, ("https://r/1",))
    assert snapshot.usage.cost == (Decimal("0.1") if "usage" in document else None)


def test_a_status_reply_is_about_the_task_that_was_asked_for() -> None:
    assert asked(id="something-else", request_id="r").task_id == "task-1"


DOCUMENTED_WORDS = {
    "pending": TaskStatus.QUEUED,
    "queued": TaskStatus.QUEUED,
    "IN_QUEUE": TaskStatus.QUEUED,
    "in_progress": TaskStatus.IN_PROGRESS,
    "processing": TaskStatus.IN_PROGRESS,
    "completed": TaskStatus.COMPLETED,
    "failed": TaskStatus.FAILED,
}


@pytest.mark.parametrize("change", [str, str.upper, str.lower, str.title, str.swapcase, "  {}\n".format])
@pytest.mark.parametrize("word", DOCUMENTED_WORDS)
def test_a_status_word_means_the_same_in_any_case(word: str, change: Any) -> None:
    snapshot = asked(status=change(word))
    assert (snapshot.status, snapshot.status_word) == (DOCUMENTED_WORDS[word], change(word))


def test_every_known_word_is_told_apart_from_still_running_correctly() -> None:
    terminal = {word for word, status in STATUS_WORDS.items() if status.terminal}
    assert terminal == {"completed", "succeeded", "success", "failed", "error", "canceled", "cancelled"}
    assert {word for word in terminal if STATUS_WORDS[word] is TaskStatus.COMPLETED} == {
        "completed",
        "succeeded",
        "success",
    }
    assert all(asked(status=word).status is status for word, status in STATUS_WORDS.items())


@given(st.text().filter(lambda word: word.strip().lower() not in STATUS_WORDS))
@example("")
@example("dreaming")
def test_an_unknown_word_counts_as_still_running_and_is_kept(word: str) -> None:
    snapshot = asked(status=word)
    assert (snapshot.status, snapshot.status.terminal, snapshot.status_word) == (TaskStatus.UNKNOWN, False, word)


END_WORDS = ("done", "finished", "complete", "failure", "expired", "timeout", "rejected", "", "DREAMING")


@pytest.mark.parametrize("word", END_WORDS)
def test_an_unknown_word_with_pictures_means_completed(word: str) -> None:
    snapshot = asked(status=word, output=["https://r/1"], error={"code": 7, "message": "slow"})
    assert (snapshot.status, snapshot.urls) == (TaskStatus.COMPLETED, ("https://r/1",))


@pytest.mark.parametrize("word", END_WORDS)
@pytest.mark.parametrize(
    ("members", "failure"),
    [
        ({"error": "moderation"}, TaskFailure(message="moderation")),
        ({"error": {"code": 7, "message": "moderation"}}, TaskFailure(code=7, message="moderation")),
        ({"code": 7, "message": "moderation"}, TaskFailure(code=7, message="moderation")),
        ({"error_message": "moderation", "output": [None]}, TaskFailure(message="moderation")),
        ({"data": {"task_id": "t", "status": "x", "code": "E7"}}, TaskFailure(code="E7")),
    ],
    ids=repr,
)
def test_an_unknown_word_with_an_error_means_failed(word: str, members: Any, failure: TaskFailure) -> None:
    snapshot = asked(status=word, **members)
    assert (snapshot.status, snapshot.failure) == (TaskStatus.FAILED, failure)


@pytest.mark.parametrize("word", END_WORDS)
@pytest.mark.parametrize(
    "members",
    [
        *({}, {"error": None}, {"error": {}}, {"code": 0, "message": "success"}, {"output": []}),
        *({"message": "please wait"}, {"detail": "please wait"}),
    ],
    ids=repr,
)
def test_an_unknown_word_with_neither_means_in_progress(word: str, members: Any) -> None:
    assert asked(status=word, **members).status is TaskStatus.UNKNOWN


@pytest.mark.parametrize("members", [{"output": ["https://r/1"]}, {"error": "slow"}, {"code": 7}], ids=repr)
def test_a_known_word_is_believed(members: Any) -> None:
    assert asked(status="in_progress", **members).status is TaskStatus.IN_PROGRESS


@pytest.mark.parametrize(
    ("members", "failure"),
    [
        ({"message": "moderation"}, TaskFailure(message="moderation")),
        ({"error": "no credit", "error_code": 40201}, TaskFailure(code=40201, message="no credit")),
        ({"error": {"code": 5, "message": "no"}, "error_code": 40201}, TaskFailure(code=40201, message="no")),
        ({"error": "no", "code": 0}, TaskFailure(message="no")),
        ({"code": 110001, "message": "moderation"}, TaskFailure(code=110001, message="moderation")),
        ({"output": {"task_id": "t", "code": "E7", "message": "no"}}, TaskFailure(code="E7", message="no")),
        ({}, None),
    ],
    ids=repr,
)
def test_why_a_task_failed_is_found_beside_the_error_too(members: Any, failure: TaskFailure | None) -> None:
    assert asked(status="failed", **members).failure == failure


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        ("out of memory", TaskFailure(message="out of memory")),
        ({"code": 110001, "error_message": "moderation"}, TaskFailure(code=110001, message="moderation")),
        ({"code": "110001", "error_message": "moderation"}, TaskFailure(code=110001, message="moderation")),
        ({"code": "BLOCKED", "message": "no"}, TaskFailure(code="BLOCKED", message="no")),
        ({"code": 1, "error_message": "a", "message": "b", "detail": "c"}, TaskFailure(code=1, message="a")),
        ({"message": "b", "detail": "c"}, TaskFailure(message="b")),
        ({"detail": "c"}, TaskFailure(message="c")),
        ({"code": 7}, TaskFailure(code=7)),
        ({"code": 402, "error_code": 40201}, TaskFailure(code=40201)),
        ({"other": "x"}, TaskFailure()),
        (["a", {"b": 1}], TaskFailure(message='["a", {"b": 1}]')),
        (17, TaskFailure(message="17")),
        ("", None),
        (None, None),
        ({}, None),
        ([], None),
        (False, None),
    ],
    ids=repr,
)
def test_a_task_s_error_is_understood_in_every_shape(error: object, failure: TaskFailure | None) -> None:
    assert asked(status="failed", error=error).failure == failure


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        ("0.0065", Decimal("0.0065")),
        (" 0.10 ", Decimal("0.10")),
        (0.0065, Decimal("0.0065")),
        (3, Decimal(3)),
        (0, Decimal(0)),
        ("", None),
        (None, None),
        ("free", None),
        ("NaN", None),
        ("sNaN", None),
        ("Infinity", None),
        (float("nan"), None),
        (float("inf"), None),
        ("1e99999999999999999999", None),
        ("1e1000000", None),
        ("1E+999999999999", None),
        ("1e-1000000", None),
        ("0e1000000", None),
        ("999999999999", Decimal(999999999999)),
        (10**12, None),
        (6.5e-05, Decimal("0.000065")),
        ("0." + "3" * 98, Decimal("0." + "3" * 98)),
        ("0." + "3" * 99, None),
        ("-0.1", None),
        (-5, None),
        (True, None),
        ([1], None),
        ({"amount": 1}, None),
    ],
    ids=repr,
)
def test_a_cost_is_exact_or_unknown(cost: object, expected: Decimal | None) -> None:
    usage = {"cost": cost, "quantity": 1}
    snapshot = asked(status="completed", usage=usage)
    assert snapshot.usage.cost == expected
    assert snapshot.usage.raw.keys() == usage.keys()


@pytest.mark.parametrize(("quantity", "expected"), [(2, 2), (0, 0), ("2", None), (2.5, None), (True, None)], ids=repr)
def test_a_quantity_is_an_integer_or_unknown(quantity: object, expected: int | None) -> None:
    assert asked(usage={"quantity": quantity}).usage.quantity == expected


@pytest.mark.parametrize("usage", [None, [], "0.01", 5], ids=repr)
def test_a_usage_that_is_no_object_says_nothing(usage: object) -> None:
    assert asked(usage=usage).usage == Usage()


@pytest.mark.parametrize(
    ("output", "urls"),
    [
        ([{"content": [{"url": "u1"}, {"url": "u2"}]}, {"content": [{"url": "u3"}]}], ("u1", "u2", "u3")),
        ({"content": [{"type": "image", "url": "u1"}]}, ("u1",)),
        ([{"content": {"type": "image", "url": "u1"}}], ("u1",)),
        ({"content": {"url": "u1"}}, ("u1",)),
        ([{"content": [{"type": "text", "text": "x"}, 5, "u1", {"url": "u3"}]}], ("u3",)),
        ([{"content": ["Here it is", {"text": "/ and so on"}, {"image": "u1"}]}], ("u1",)),
        ([{"content": [{"url": "u1"}, None, {"url": None}, {"url": 5}, {"url": "u5"}]}], ("u1", "", "", "", "u5")),
        ([{"content": [{"url": "u1"}]}, {"content": None}, {"content": [{"url": "u3"}]}], ("u1", "", "u3")),
        ([None, 5, "u1", {"content": None}, {}], ()),
        (["https://r/1", "//r/2", "/3", "no url"], ("https://r/1", "//r/2", "/3")),
        ([" https://r/1\n", "HTTPS://r/2"], ("https://r/1", "HTTPS://r/2")),
        (["img/1.png", "2.JPG?x=1", "n/a", "data:image/png;base64,AAAA"], ("img/1.png", "2.JPG?x=1")),
        (["https://r/1", None, "https://r/3"], ("https://r/1", "", "https://r/3")),
        (["", "https://r/2"], ("", "https://r/2")),
        ([{}, {"url": "u2"}], ("", "u2")),
        ([[], ["https://r/2"]], ("", "https://r/2")),
        ([{"content": []}, {"content": [{"url": "u2"}]}], ("", "u2")),
        ({"results": [{"url": "u1"}, {"code": "E", "message": "no"}, {"url": "u3"}]}, ("u1", "", "u3")),
        ({"results": [None, None], "images": ["https://r/1"]}, ("https://r/1",)),
        ({"message": "done", "images": ["https://r/1"]}, ("https://r/1",)),
        ({"url_list": ["https://r/1"]}, ("https://r/1",)),
        ({"output_url": "u1"}, ("u1",)),
        ("https://r/1", ("https://r/1",)),
        ([{"image_url": "u1"}, {"image": "u2"}, {"image_url": {"url": "u3"}}], ("u1", "u2", "u3")),
        ({"image_url": "u1"}, ("u1",)),
        ([{"url": "u1", "image": {"width": 1}}], ("u1",)),
        ({"images": ["https://r/1", "https://r/2"]}, ("https://r/1", "https://r/2")),
        ({"image_urls": ["https://r/1"]}, ("https://r/1",)),
        ({"results": [{"url": "u1"}, {"code": "InternalError"}]}, ("u1", "")),
        ({"choices": [{"message": {"content": [{"image": "u1"}, {"image": "u2"}]}}]}, ("u1", "u2")),
        ({"choices": [{"message": {"content": [{"text": "https://r/1"}]}}]}, ()),
        ([], ()),
        ({}, ()),
        (None, ()),
        ("u1", ()),
    ],
    ids=repr,
)
def test_every_url_of_an_output_is_found_in_order(output: object, urls: tuple[str, ...]) -> None:
    assert asked(status="completed", output=output).urls == urls


@pytest.mark.parametrize(
    "members",
    [
        {"outputs": [{"type": "image", "url": "https://r/1", "width": 1}]},
        {"output": {"choices": [{"message": {"content": [{"image": "https://r/1"}]}}]}, "request_id": "r"},
        {"output": [], "images": ["https://r/1"]},
        {"image_url": "https://r/1"},
        {"image": "https://r/1"},
        {"url": "https://r/1"},
        {"output_url": "https://r/1"},
        {"result_url": "https://r/1"},
        {"url_list": ["https://r/1"]},
        {"result": {"images": [{"url": "https://r/1"}]}},
        {"data": {"status": "completed", "output": ["https://r/1"]}},
        {"data": [{"url": "https://r/1"}]},
    ],
    ids=repr,
)
def test_urls_are_found_beside_the_output_too(members: dict[str, object]) -> None:
    assert asked(status="completed", **members).urls == ("https://r/1",)


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (0, 0.0),
        (0.5, 0.5),
        (1, 1.0),
        (1.01, None),
        (-0.1, None),
        (50, None),
        ("0.5", None),
        (True, None),
        (None, None),
        (float("nan"), None),
    ],
    ids=repr,
)
def test_progress_is_a_share_or_unknown(progress: object, expected: float | None) -> None:
    assert asked(progress=progress).progress == expected


@pytest.mark.parametrize("metadata", [None, [], "x", 5], ids=repr)
def test_metadata_that_is_no_object_is_empty(metadata: object) -> None:
    assert asked(metadata=metadata).metadata == {}


def test_pictures_nested_deeper_than_the_interpreter_can_follow_are_none() -> None:
    nested: dict[str, Any] = {"url": 1}
    for _ in range(5_000):
        nested = {"url": nested}
    snapshot = snapshot_of({"status": "completed", "output": nested}, "task-1")
    assert (snapshot.status, snapshot.urls) == (TaskStatus.COMPLETED, ())
