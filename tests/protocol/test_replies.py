"""Every known shape of an error in a reply, by status, code and body."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qwen_edit_async.errors import (
    APIResponseError,
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    InsufficientBalanceError,
    InternalServerError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
)
from qwen_edit_async.protocol.base import Reply
from qwen_edit_async.protocol.replies import (
    as_text,
    code_of,
    error_from_reply,
    first_text,
    has_error,
    load_object,
    parse_retry_after,
)

NEW_YEAR = "Mon, 01 Jan 2024 00:00:00 GMT"


def error(document: object, status: int = 400, **headers: str) -> APIStatusError:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return error_from_reply(Reply(status=status, headers=names, body=json.dumps(document).encode()))


@pytest.mark.parametrize("body", [b'{"a": 1}', b' {"a":1}\n', b'\xef\xbb\xbf{"a": 1}'])
def test_a_json_object_is_read(body: bytes) -> None:
    assert load_object(Reply(status=200, body=body)) == {"a": 1}


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[]", b'"a"', b"null", b"\xff\xfe\xfd", b"<html></html>", b"[" * 100_000, b"9" * 5000),
        *('{"a": 1}'.encode(encoding) for encoding in ("utf-16", "utf-16-le", "utf-32-be")),
    ],
)
def test_a_body_that_is_no_json_object_is_told_with_its_beginning(body: bytes) -> None:
    reply = Reply(status=203, body=body)
    with pytest.raises(APIResponseError, match=r"is not a JSON object \(HTTP 203\)") as caught:
        load_object(reply, task_id="t")
    assert (caught.value.body, caught.value.task_id) == (reply.excerpt(), "t")


def test_a_body_that_broke_off_is_not_believed_even_if_it_parses() -> None:
    with pytest.raises(APIResponseError, match=r"is incomplete \(HTTP 200\)"):
        load_object(Reply(status=200, body=b"{}", complete=False))


KINDS = {
    302: APIStatusError,
    400: BadRequestError,
    401: AuthenticationError,
    402: InsufficientBalanceError,
    403: PermissionDeniedError,
    404: NotFoundError,
    405: APIStatusError,
    409: APIStatusError,
    413: BadRequestError,
    418: APIStatusError,
    422: BadRequestError,
    429: RateLimitError,
    499: APIStatusError,
    500: InternalServerError,
    502: InternalServerError,
    503: InternalServerError,
    504: InternalServerError,
    599: InternalServerError,
    600: APIStatusError,
    200: APIStatusError,
}


@pytest.mark.parametrize("status", KINDS)
def test_the_status_says_which_error_it_is(status: int) -> None:
    found = error({"message": "no", "code": 5}, status)
    assert (type(found), found.status_code) == (KINDS[status], status)


@pytest.mark.parametrize("status", [200, 400, 401, 402, 403, 404, 429, 500, 503])
@pytest.mark.parametrize("code", [*range(40201, 40209), "40204"])
def test_a_balance_code_says_more_than_any_status(code: object, status: int) -> None:
    assert type(error({"error": {"code": code, "message": "top up"}}, status)) is InsufficientBalanceError


@pytest.mark.parametrize("status", [200, 400, 403, 500])
@pytest.mark.parametrize(
    "code", [1002, "1002", "RATE_LIMIT_EXCEEDED", "Throttling", "Throttling.RateQuota", "ThrottlingUser"]
)
def test_a_rate_limit_code_says_more_than_any_status(code: object, status: int) -> None:
    assert type(error({"code": code, "message": "slow down"}, status)) is RateLimitError


@pytest.mark.parametrize("status", [200, 400, 403])
@pytest.mark.parametrize(
    "document",
    [
        {"status": {"code": 402, "message": "no", "error_code": 40201}, "data": None},
        {"status": {"code": 402, "message": "no"}, "error_code": 40201},
        {"error": {"code": 5, "message": "no"}, "error_code": 40201},
        {"error": {"message": "no"}, "status": {"code": 402, "error_code": 40201}},
        {"error": "no", "code": 402, "error_code": 40201},
        {"message": "no", "code": 402, "error_code": 40201},
        {"detail": "no", "error_code": "40208"},
    ],
    ids=repr,
)
def test_an_error_code_goes_before_a_code_wherever_it_stands(document: dict[str, object], status: int) -> None:
    assert type(error(document, status)) is InsufficientBalanceError


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("Arrearage", InsufficientBalanceError),
        ("INSUFFICIENT_BALANCE", InsufficientBalanceError),
        ("InvalidApiKey", AuthenticationError),
        ("AccessDenied.Unpurchased", PermissionDeniedError),
        ("InvalidParameter.DataInspection", BadRequestError),
        ("InternalError.Algo", InternalServerError),
        ("SYNC_TIMEOUT", InternalServerError),
        ("INTERNAL_ERROR", InternalServerError),
        ("TIMEOUT", InternalServerError),
        ("rate_limit_exceeded", RateLimitError),
        (402, InsufficientBalanceError),
        ("429", RateLimitError),
        (404, NotFoundError),
        (500, InternalServerError),
        ("Unheard.Of", APIStatusError),
    ],
)
def test_an_error_inside_of_a_successful_reply_is_told_by_its_code(code: object, kind: type[APIStatusError]) -> None:
    found = error({"code": code, "message": "no"}, 200)
    assert (type(found), found.status_code) == (kind, 200)


@pytest.mark.parametrize("code", [40200, 40209, 1001, 1003, 110001, 190000, 429, "quota.rate_limit_exceeded"])
def test_other_codes_leave_it_to_the_status(code: object) -> None:
    assert type(error({"code": code, "message": "no"}, 403)) is PermissionDeniedError


@pytest.mark.parametrize(
    ("document", "code", "message"),
    [
        ({"error": "no credit"}, None, "no credit"),
        ({"error": "no credit", "code": 40201}, 40201, "no credit"),
        ({"error": {"code": 7, "error_message": "no"}}, 7, "no"),
        ({"error": {"code": "E7", "message": "no"}}, "E7", "no"),
        ({"error": {"code": 7}}, 7, '{"code": 7}'),
        ({"error": {"hint": "no"}}, None, '{"hint": "no"}'),
        ({"error": {"message": "inner", "code": 1}, "message": "outer", "code": 2}, 1, "inner"),
        ({"error": {"detail": ["a", "b"]}}, None, '["a", "b"]'),
        ({"error_message": "a", "message": "b", "detail": "c"}, None, "a"),
        ({"message": "b", "detail": "c"}, None, "b"),
        ({"message": "no", "code": "7"}, 7, "no"),
        ({"error": "", "message": "no"}, None, "no"),
        ({"error": None, "message": "no"}, None, "no"),
        ({"error": True, "message": "no"}, None, "no"),
        ({"detail": "Not Found"}, None, "Not Found"),
        ({"detail": [{"loc": ["n"], "msg": "required"}]}, None, '[{"loc": ["n"], "msg": "required"}]'),
        ({"detail": {"msg": "required"}}, None, '{"msg": "required"}'),
        ({"status": {"code": 7, "message": "no"}, "data": None}, 7, "no"),
        ({"status": {"code": 1, "message": "a"}, "error": {"code": 2, "message": "b"}}, 2, "b"),
        ({"message": 404}, None, "404"),
        ({"status": {"code": 402, "message": "no", "error_code": 40201}, "data": None}, 40201, "no"),
        ({"error": {"code": 402, "message": "no"}, "error_code": "40201"}, 40201, "no"),
        ({"error": "no", "code": 402, "error_code": 40201}, 40201, "no"),
        ({"message": "no", "code": 402, "error_code": 40201}, 40201, "no"),
        ({"message": "no", "code": 402, "error_code": 0}, 402, "no"),
        ({"message": "no", "code": 402, "error_code": None}, 402, "no"),
    ],
    ids=repr,
)
def test_code_and_words_are_found_in_every_shape(document: dict[str, object], code: object, message: str) -> None:
    assert has_error(document)
    found = error(document)
    assert (found.code, found.message) == (code, message)


@pytest.mark.parametrize(
    "document",
    [
        {"error": None},
        {"error": ""},
        {"error": [], "detail": []},
        {"message": "", "code": ""},
        {"code": " "},
        {"message": None, "detail": None},
        {"status": "failed"},
        {"id": "a", "data": {"message": "nested"}},
        {"code": True},
        {"message": True},
        {"error": {}},
        {"error": {}, "status": {}},
        {"error": {"code": None, "message": None}},
        {"error": {"code": "", "message": "", "details": []}},
    ],
    ids=repr,
)
def test_an_object_that_reports_nothing_has_no_error(document: dict[str, object]) -> None:
    assert not has_error(document)
    assert error(document).message == "the service gave no reason"


@pytest.mark.parametrize(
    "document",
    [
        {"code": 0, "message": "success"},
        {"code": 200, "message": "the task is queued"},
        {"code": "SUCCESS", "message": "the task is queued"},
        {"message": "OK"},
        {"message": "Success."},
        {"status": {"code": "0"}},
        {"status": {"code": 0, "message": "done"}},
        {"error": {"code": 0, "message": "no error"}},
        {"error": "ok"},
    ],
    ids=repr,
)
def test_words_and_codes_of_success_are_no_error(document: dict[str, object]) -> None:
    assert not has_error(document)


@pytest.mark.parametrize(
    "document",
    [
        {"code": 0, "error": "boom"},
        {"error": {"message": "boom"}, "code": 0},
        {"code": 300},
        {"code": 1, "message": "ok"},
    ],
    ids=repr,
)
def test_an_error_beside_a_word_of_success_is_an_error(document: dict[str, object]) -> None:
    assert has_error(document)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            b"<html><head><title>502 Bad Gateway</title></head>\n<body><h1>nginx</h1></body></html>",
            "502 Bad Gateway nginx",
        ),
        (
            b"<STYLE>p {color: red}</STYLE ><p>down\n\tfor <b>repair</b><script>\nif (1 < 2) {}\n</script>",
            "down for repair",
        ),
        (b"upstream connect error", "upstream connect error"),
        (b"[1, 2]", "[1, 2]"),
        (b"{}", "{}"),
        (b'{"message": "cut o', '{"message": "cut o'),
        (b"", "the service gave no reason"),
        (b"<html></html>", "the service gave no reason"),
    ],
)
def test_a_body_that_is_no_object_is_told_as_plain_words(body: bytes, message: str) -> None:
    assert error_from_reply(Reply(status=502, body=body)).message == message


def test_an_error_report_that_broke_off_is_told_as_it_came() -> None:
    reply = Reply(status=400, body=b'{"code": 40201}', complete=False)
    assert (error_from_reply(reply).code, error_from_reply(reply).message) == (None, '{"code": 40201}')


@pytest.mark.parametrize("status", [300, 302, 399])
def test_a_redirect_says_what_to_correct(status: int) -> None:
    assert "correct base_url" in error_from_reply(Reply(status=status, body=b"<a>moved</a>")).message


def test_a_message_is_bounded_and_the_body_kept_longer() -> None:
    found = error({"message": "x" * 5000})
    assert (len(found.message), len(found.body)) == (300, 2000)


@pytest.mark.parametrize(
    ("headers", "document", "request_id"),
    [
        ({"x_request_id": "h"}, {"request_id": "b"}, "h"),
        ({}, {"request_id": "b"}, "b"),
        ({}, {"request_id": 17}, "17"),
        ({}, {}, None),
    ],
)
def test_the_request_id_comes_from_the_header_or_the_body(
    headers: dict[str, str], document: dict[str, object], request_id: str | None
) -> None:
    assert error(document, **headers).request_id == request_id


def test_an_error_carries_the_task_and_what_retry_after_says() -> None:
    reply = Reply(status=429, headers={"retry-after": "7"})
    found = error_from_reply(reply, task_id="t")
    assert (found.task_id, found.retry_after) == ("t", 7.0)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("1.5", 1.5),
        ("86400", 86400.0),
        ("9" * 400, None),
        ("-3", None),
        ("+3", None),
        (".5", None),
        ("1e9", None),
        ("1_0", None),
        ("\u0661\u0662", None),
        ("inf", None),
        ("-inf", None),
        ("nan", None),
        ("1e999", None),
        ("", None),
        ("soon", None),
        ("Mon, 01 Jan 2024 00:01:30 GMT", 90.0),
        ("Monday, 01-Jan-24 00:01:30 GMT", 90.0),
        ("Mon, 01 Jan 2024 01:01:30 +0100", 90.0),
        ("Sun, 31 Dec 2023 23:59:00 GMT", 0.0),
        ("Mon, 01 Jan 2024 00:01:30", 90.0),
        ("Mon Jan  1 00:01:30 2024", 90.0),
        ("1704067290", 90.0),
        ("1704067290.5", 90.5),
        ("1704067199", 0.0),
        ("1000000000", 1e9),
        ("Mon, 01 Jan 2024 00:00:00 +99999999999999999999", None),
        ("Mon, 01 Jan 99999999999 00:00:00 GMT", None),
        ("Mon, 32 Jan 2024 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    assert parse_retry_after({"retry-after": value, "date": NEW_YEAR}, 0.0) == seconds


@pytest.mark.parametrize("headers", [{}, {"date": "yesterday"}, {"date": ""}])
def test_without_the_reply_s_own_date_this_machine_s_clock_counts(headers: dict[str, str]) -> None:
    reply = Reply(status=429, headers={"retry-after": NEW_YEAR, **headers}, received_at=1_704_067_200 - 90)
    assert error_from_reply(reply).retry_after == 90.0


@pytest.mark.parametrize("value", ["Mon, 01 Jan 2024 00:01:30 GMT", "1704067290"])
def test_a_date_counts_only_if_the_reply_s_time_is_known(value: str) -> None:
    reply = Reply(status=429, headers={"retry-after": value})  # as a user's transport may give it
    assert error_from_reply(reply).retry_after is None
    dated = Reply(status=429, headers={"retry-after": value, "date": NEW_YEAR})
    assert error_from_reply(dated).retry_after == 90.0


def test_no_retry_after_is_none() -> None:
    assert parse_retry_after({"date": NEW_YEAR}, 0.0) is None


@pytest.mark.fuzz
@given(st.text() | st.floats().map(str) | st.integers().map(str), st.none() | st.text() | st.just(NEW_YEAR))
@example("Mon, 01 Jan 2024 00:00:00 +99999999999999999999", NEW_YEAR)
def test_any_retry_after_is_a_finite_number_of_seconds_or_none(value: str, date: str | None) -> None:
    headers = {"retry-after": value} if date is None else {"retry-after": value, "date": date}
    seconds = parse_retry_after(headers, 0.0)
    assert seconds is None or (math.isfinite(seconds) and seconds >= 0)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (40201, 40201),
        ("40201", 40201),
        (" 1002 ", 1002),
        (0, 0),
        (-1, -1),
        ("-1", -1),
        ("BLOCKED", "BLOCKED"),
        (" BLOCKED\n", "BLOCKED"),
        ("4.5", "4.5"),
        ("١٢", "١٢"),
        ("1" * 5000, "1" * 5000),
        ("", None),
        ("  ", None),
        (None, None),
        (True, None),
        (4.5, None),
        ({"code": 1}, None),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_code_is_an_integer_where_it_looks_like_one(value: object, code: object) -> None:
    found = code_of(value)
    assert (found, type(found)) == (code, type(code))


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"a": "x", "b": "y"}, "x"),
        ({"b": "y"}, "y"),
        ({"a": "", "b": "y"}, "y"),
        ({"a": None, "b": 0}, "0"),
        ({"a": True, "b": False}, None),
        ({"a": ["x"], "b": 1.5}, None),
        ({}, None),
    ],
)
def test_the_first_member_that_is_text_or_an_integer_is_taken(document: dict[str, object], text: str | None) -> None:
    assert first_text(document, ("a", "b")) == text


def test_what_is_nested_too_deeply_to_be_written_is_shown_in_other_words() -> None:
    nested: list[object] = []
    for _ in range(500_000):
        nested = [nested]
    text = as_text(nested)
    assert text == "JSON that is nested too deeply to show"
    assert as_text("words") == "words"
