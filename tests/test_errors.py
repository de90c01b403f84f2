"""The tree of errors matches its drawing, and errors keep their attributes when they are copied or pickled."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest

from qwen_edit_async import errors as _errors
from qwen_edit_async.errors import (
    APIConnectionError,
    APIResponseError,
    APIStatusError,
    APITimeoutError,
    BadRequestError,
    DeadlineExceededError,
    EditFailedError,
    EditWarning,
    InternalServerError,
    InvalidEditError,
    NotFoundError,
    QwenEditError,
    RateLimitError,
    SubmitUncertainError,
)

CLASSES = [kind for kind in vars(_errors).values() if isinstance(kind, type) and issubclass(kind, QwenEditError)]
STATUS_CLASSES = [kind for kind in CLASSES if issubclass(kind, APIStatusError)]

STATUS_FACTS: dict[str, Any] = {
    "status_code": 429,
    "code": 1002,
    "request_id": "r-1",
    "retry_after": 7.5,
    "body": '{"code": 1002}',
}
FACTS: dict[type, dict[str, Any]] = {
    **dict.fromkeys(STATUS_CLASSES, STATUS_FACTS),
    APIConnectionError: {"request_sent": True},
    APITimeoutError: {"request_sent": True},
    APIResponseError: {"body": "<html>"},
    EditFailedError: {"code": 110001},
}
every_class = pytest.mark.parametrize("kind", CLASSES)


def make(kind: type[QwenEditError]) -> QwenEditError:
    return kind("what to do", task_id="t-1", **FACTS.get(kind, {}))


def facts(error: QwenEditError) -> dict[str, Any]:
    return {**vars(error), "args": error.args, "str": str(error), "type": type(error)}


def test_the_drawn_tree_matches_the_classes() -> None:
    drawing = re.compile(r"^    ((?:│   |    )*)[├└]── (\w+)(?: \((\w+)\))?(?:  |$)", re.MULTILINE)
    drawn, path = {}, ["QwenEditError"]
    for indent, name, builtin in drawing.findall(_errors.__doc__ or ""):
        path[len(indent) // 4 + 1 :] = [name]
        drawn[name] = (path[-2], *([builtin] if builtin else []))
    real = {kind.__name__: tuple(base.__name__ for base in kind.__bases__) for kind in CLASSES}
    assert real.pop("QwenEditError") == ("Exception",)
    assert drawn == real
    assert list(drawn) == list(real), "drawn in the order of definition"


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [(InvalidEditError, ValueError), (APITimeoutError, TimeoutError), (DeadlineExceededError, TimeoutError)],
)
def test_an_error_can_be_caught_as_the_builtin_that_it_is(kind: type[QwenEditError], builtin: type) -> None:
    assert issubclass(kind, builtin)


def test_a_timeout_of_a_call_is_a_failed_connection() -> None:
    assert issubclass(APITimeoutError, APIConnectionError)


def test_advice_is_a_warning_and_not_an_error() -> None:
    assert issubclass(EditWarning, UserWarning)


@every_class
def test_an_error_keeps_what_it_was_made_with(kind: type[QwenEditError]) -> None:
    error = make(kind)
    given = {"task_id": "t-1", **FACTS.get(kind, {})}
    assert {name: getattr(error, name) for name in given} == given
    assert error.args == ("what to do",)
    assert getattr(error, "message", "what to do") == "what to do"


@every_class
def test_the_message_stands_in_the_text(kind: type[QwenEditError]) -> None:
    assert "what to do" in str(make(kind))


@every_class
def test_an_error_needs_nothing_but_a_message(kind: type[QwenEditError]) -> None:
    error = kind("what to do")
    assert error.task_id is None
    assert "what to do" in str(error)


@every_class
@pytest.mark.parametrize(
    "again",
    [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_a_copy_has_everything(kind: type[QwenEditError], again: Callable[[QwenEditError], QwenEditError]) -> None:
    error = make(kind)
    assert facts(again(error)) == facts(error)


@every_class
def test_an_error_for_another_task_is_fresh_and_says_the_same(kind: type[QwenEditError]) -> None:
    try:
        try:
            raise KeyError  # noqa: TRY301  # a context for the error below
        except KeyError as cause:
            raise make(kind) from cause
    except QwenEditError as caught:
        error = caught
    error.add_note("of the first waiter")
    other = error.for_task("t-2")
    assert other is not error
    assert (other.__traceback__, other.__context__) == (None, None)
    assert other.__cause__ is error.__cause__
    assert facts(other) == facts(make(kind)) | {"task_id": "t-2", "str": str(other)}
    assert str(other) == str(make(kind)).replace("t-1", "t-2")
    assert (error.task_id, error.__notes__) == ("t-1", ["of the first waiter"])


def test_an_error_can_have_no_task() -> None:
    assert make(BadRequestError).for_task(None).task_id is None


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RateLimitError("no", status_code=429), "no (HTTP 429)"),
        (
            RateLimitError("slow down", status_code=429, code=1002, request_id="r", retry_after=7.0, task_id="t"),
            "slow down (HTTP 429, code 1002, request r, task t, retry after 7 s)",
        ),
        (APIStatusError("no", status_code=200, code="E", retry_after=0.0), "no (HTTP 200, code E, retry after 0 s)"),
        (APIStatusError("no", status_code=200, code=0), "no (HTTP 200, code 0)"),
        (EditFailedError("moderation", code=110001, task_id="t"), "task t failed: moderation (code 110001)"),
        (EditFailedError("moderation", code=0, task_id="t"), "task t failed: moderation (code 0)"),
        (EditFailedError("moderation", task_id="t"), "task t failed: moderation"),
        (APITimeoutError("took too long"), "took too long"),
    ],
)
def test_the_text_of_an_error_has_its_facts(error: QwenEditError, text: str) -> None:
    assert str(error) == text


def test_the_body_is_not_in_the_text() -> None:
    assert "hidden" not in str(APIStatusError("no", body="hidden")) + str(APIResponseError("no", body="hidden"))


def test_a_request_counts_as_not_sent_by_default() -> None:
    assert APIConnectionError("no").request_sent is False


@pytest.mark.parametrize(
    ("error", "text", "summary"),
    [
        (QwenEditError("it broke"), "it broke", "it broke"),
        (QwenEditError("it broke", hint="mend it"), "it broke; mend it", "it broke"),
        (
            QwenEditError("a.png broke", summary="an image broke", hint="mend it"),
            "a.png broke; mend it",
            "an image broke",
        ),
        (QwenEditError("task t1 broke", task_id="t1"), "task t1 broke", "task … broke"),
        (QwenEditError(""), "", "QwenEditError"),
        (EditFailedError("no", code=110001, task_id="t1"), "task t1 failed: no (code 110001)", "no (code 110001)"),
        (EditFailedError("no", task_id="t1"), "task t1 failed: no", "no"),
        (
            RateLimitError("slow down", status_code=429, request_id="r9"),
            "slow down (HTTP 429, request r9)",
            "slow down (HTTP 429)",
        ),
        (
            BadRequestError("bad", status_code=400, code=7, request_id="r9"),
            "bad (HTTP 400, code 7, request r9)",
            "bad (HTTP 400, code 7)",
        ),
        (
            NotFoundError("no task t1", status_code=404, task_id="t1"),
            "no task t1 (HTTP 404, task t1)",
            "the service does not know the task or has forgotten it; the task may have been charged",
        ),
        (NotFoundError("no path", status_code=404), "no path (HTTP 404)", "no path (HTTP 404)"),
        (SubmitUncertainError("task t1 may exist", task_id="t1"), "task t1 may exist", "task … may exist"),
    ],
)
def test_a_summary_names_no_single_edit(error: QwenEditError, text: str, summary: str) -> None:
    assert (str(error), error.summary) == (text, summary)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.summary) == (text, summary)


def test_the_summary_of_an_uncertain_submission_is_its_cause() -> None:
    error = SubmitUncertainError("a task may exist: look at the account, or allow it")
    error.__cause__ = ConnectionError("no reply")
    assert error.summary == "a task may exist, and be charged: no reply"
    error.__cause__ = InternalServerError("boom", status_code=500, request_id="r9")
    assert error.summary == "a task may exist, and be charged: boom (HTTP 500)"
