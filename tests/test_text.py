"""Messages cut long values, and never quote the Base64 text of an image."""

from __future__ import annotations

import base64
import json
from decimal import Decimal

import pytest

from qwen_edit_async import EditBatch, EditParameters, EditRequest, EditSession, QwenEditError, TaskFailure
from qwen_edit_async.batch.rules.item import EditDefaults, Reading
from qwen_edit_async.batch.sources import read_source
from qwen_edit_async.cli import main
from qwen_edit_async.errors import BadRequestError
from qwen_edit_async.protocol.base import Reply
from qwen_edit_async.protocol.generation import GenerationProtocol
from qwen_edit_async.protocol.replies import error_from_reply
from qwen_edit_async.text import without_signatures

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(100)).decode()
JPEG = base64.b64encode(b"\xff\xd8\xff\xe0" + bytes(100)).decode()
HEIC = base64.b64encode(b"\0\0\0\x18ftypheic" + bytes(range(256)) * 20).decode()
URL_SAFE = base64.urlsafe_b64encode(b"\x89PNG\r\n\x1a\n" + b"\xff" * 100).decode()
BARE = pytest.mark.parametrize("text", [PNG, JPEG, HEIC, URL_SAFE], ids=["png", "jpeg", "unknown", "url-safe"])
ADVICE = "is Base64 text: put data:image/png;base64, in front of it, or give the decoded bytes"
LONG = "long" * 5000
MOST = 600


@BARE
def test_base64_without_a_data_uri_is_explained(text):
    with pytest.raises(QwenEditError) as refused:
        EditRequest(["a.png", text], "snow")
    assert str(refused.value) == f"image 2 {ADVICE}"


@BARE
@pytest.mark.parametrize("name", ["edits.csv", "edits.jsonl"])
def test_base64_in_a_table_is_that_row_s_problem(tmp_path, text, name):
    row = f"image\n{text}\n" if name == "edits.csv" else json.dumps({"image": text})
    (tmp_path / name).write_text(row, encoding="utf-8")
    [item] = read_source(tmp_path / name, Reading(EditDefaults("snow")))
    assert item.problem == f"image 1 {ADVICE}"


@pytest.mark.parametrize("text", [PNG, HEIC, f"data:image/png;base64,{PNG}"], ids=["png", "unknown", "data URI"])
def test_base64_as_a_source_is_not_quoted(text, tmp_path):
    with pytest.raises(QwenEditError) as refused:
        EditBatch(text, tmp_path, instruction="snow")
    assert str(refused.value) == "the input is Base64 text: give a folder, a pattern, a table, or a list of requests"


@BARE
@pytest.mark.parametrize("arguments", [["edit"], ["edit", "--json"], ["batch"], ["batch", "--dry-run"]], ids=" ".join)
def test_the_command_does_not_quote_base64(text, arguments, tmp_path, service, capsys):
    assert main([*arguments, text, "-i", "snow", "-o", str(tmp_path)]) == 2
    said = "".join(capsys.readouterr())
    assert "is Base64 text" in said
    assert text[:64] not in said


@pytest.mark.parametrize(
    "path",
    ["photos/2024/a-long-name-of-a-folder-without-dots/and-another-one-that-is-long/a", "/9j/photos/a.jpg", PNG[:60]],
)
def test_a_path_is_not_taken_for_base64(path):
    assert EditRequest(path, "snow").images == (path,)


@pytest.mark.parametrize(
    "make",
    [
        lambda _: EditParameters(size=LONG),
        lambda _: EditParameters(n=LONG),
        lambda _: EditParameters(watermark=LONG),
        lambda _: EditRequest("a.png", [LONG]),
        lambda _: EditSession("key", deadline=LONG),
        lambda _: EditSession("key", envelope=LONG),
        lambda _: EditSession("key", allow_result_hosts=LONG),
        lambda _: EditSession("key", allow_result_hosts=[f"{LONG}/"]),
        lambda _: EditSession("key", default_headers={f"{LONG} x": "x"}),
        lambda folder: EditBatch(["a.png"], folder, max_tasks=LONG),
        lambda folder: EditBatch(["a.png"], folder, max_cost=LONG),
        lambda folder: list(read_source(folder / LONG, Reading(EditDefaults("snow")))),
        lambda folder: list(read_source(folder / "edits.csv", Reading(EditDefaults("snow")))),
    ],
)
def test_a_long_value_is_cut(make, tmp_path):
    (tmp_path / "edits.csv").write_text(f"x,{LONG},y\n1,2,3\n", encoding="utf-8")
    with pytest.raises(QwenEditError) as refused:
        make(tmp_path)
    assert "longlong" in str(refused.value)
    assert len(str(refused.value)) < MOST


def test_a_short_value_is_quoted_whole(tmp_path):
    with pytest.raises(QwenEditError, match=r"^max_cost is '-1': give an amount"):
        EditBatch(["a.png"], tmp_path, max_cost=Decimal(-1))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("can't get https://b.example/a.png?X-Amz-Date=1&X-Amz-Signature=abc: 403", "https://b.example/a.png?… 403"),
        ('{"url": "https://c.example/a?sv=1&sig=x%3D"}', '{"url": "https://c.example/a?…"}'),
        ("see https://docs.example/errors?code=7", "see https://docs.example/errors?code=7"),
        ("what is the signature=?", "what is the signature=?"),
        ("see https://b.example/a?b=1?c&Signature=abc", "see https://b.example/a?…"),
        ("https://b.example/a?b=1 https://b.example/a?sig=2", "https://b.example/a?b=1 https://b.example/a?…"),
    ],
)
def test_the_signature_of_a_url_is_cut_off(text, shown):
    assert without_signatures(text).endswith(shown)


@pytest.mark.timeout(60)  # quadratic time would be hours
def test_a_reply_full_of_question_marks_is_read_in_linear_time():
    reply = Reply(status=400, body=json.dumps({"error": "?" * 1024 * 1024}).encode())
    assert set(error_from_reply(reply).message) == {"?"}


def test_what_the_service_says_holds_no_signature():
    told = "https://b.example/a.png?X-Amz-Signature=abc can't be read"
    failure = TaskFailure(message=told, provider_error=told)
    reply = Reply(status=400, body=json.dumps({"error": {"code": 1, "message": told}}).encode())
    for text in (failure.message, failure.provider_error, str(error_from_reply(reply))):
        assert "https://b.example/a.png?… can't be read" in text


def test_the_reason_for_a_missing_price_holds_no_signature():
    told = "https://b.example/a.png?X-Amz-Signature=abc can't be read"
    body = json.dumps({"status": "failed", "data": {"cost": None, "reason": told}}).encode()
    with pytest.raises(BadRequestError) as caught:
        GenerationProtocol().read_estimate(Reply(status=200, body=body))
    assert "https://b.example/a.png?… can't be read" in str(caught.value)
