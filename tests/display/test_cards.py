"""The cards of results, outcomes and progress."""

from __future__ import annotations

from decimal import Decimal

import pytest
from ready_results import HOSTILE, PHOTO, Store, failure_of, result_of

from qwen_edit_async import EditOutcome, EditParameters, EditRequest
from qwen_edit_async.display.cards import Progress, progress_html


def test_an_outcome_with_a_result_shows_the_result():
    result = result_of(request=EditRequest("a.png", "i"))
    assert EditOutcome(index=0, request={}, result=result)._repr_html_() == result._repr_html_()


@pytest.mark.anyio
@pytest.mark.may_block(reason="the store of this test works on the loop")
async def test_a_saved_result_shows_before_and_after(notebook, tmp_path):
    request = EditRequest(PHOTO, "make it snow", key="cat")
    result = result_of(Store(), request=request)
    await result.save(tmp_path)
    shown = result._repr_html_()
    assert shown.count("data:image/webp;base64,") == 2
    assert shown.index("before") < shown.index("after")
    for expected in ("make it snow", "cat", "task-1", "cost 0.0357", "3.0 s"):
        assert expected in shown


@pytest.mark.anyio
@pytest.mark.may_block(reason="the store of this test works on the loop")
@pytest.mark.parametrize("method", ["read", "open"])
async def test_a_picture_that_was_read_is_shown(notebook, method):
    result = result_of(Store())
    await getattr(result.images[0], method)()
    assert "data:image/webp;base64," in result._repr_html_()


@pytest.mark.anyio
@pytest.mark.may_block(reason="the store of this test works on the loop")
async def test_several_pictures_are_smaller_than_one(notebook):
    one, two = result_of(Store()), result_of(Store(), count=2)
    for image in (*one.images, *two.images):
        await image.read()
    assert "max-width:256px" in one._repr_html_()
    assert two._repr_html_().count("max-width:128px") == 2


def test_a_result_that_was_not_downloaded_is_shown_in_words_and_fetches_nothing(notebook):
    shown = result_of(None, request=EditRequest("cat.jpg", "make it snow"), count=2)._repr_html_()
    assert "<img" not in shown
    assert "2 pictures, not all downloaded yet" in shown


def test_an_outcome_without_a_result_shows_why():
    shown = failure_of()._repr_html_()
    assert "EditFailedError: task task-9 failed: no" in shown
    assert "task-9" in shown


@pytest.mark.parametrize("view", ["result", "outcome", "progress"])
def test_hostile_text_stays_text(view):
    shown = {
        "result": lambda: result_of(request=EditRequest("cat.jpg", HOSTILE, key=HOSTILE))._repr_html_(),
        "outcome": lambda: failure_of(HOSTILE)._repr_html_(),
        "progress": lambda: progress_html(Progress(), HOSTILE),
    }[view]()
    assert "<script" not in shown
    assert "<img" not in shown


def test_rows_have_the_same_columns_whatever_the_outcome():
    parameters = EditParameters(n=2, seed=7)
    done = EditOutcome(
        index=0, request=EditRequest("a.png", "i", parameters), result=result_of(request=EditRequest("a.png", "i"))
    )
    invalid = EditOutcome(index=1, request={"images": ()}, error=ValueError("no images"))
    rows = [outcome.as_row() for outcome in (done, failure_of(), invalid)]
    assert rows[0].keys() == rows[1].keys() == rows[2].keys()
    assert (rows[0]["ok"], rows[0]["cost"], rows[0]["seed"], rows[0]["running"]) == (True, Decimal("0.0357"), 7, 3.0)
    assert (rows[1]["error"], rows[1]["task_id"], rows[1]["key"]) == ("EditFailedError", "task-9", "cat")
    assert (rows[2]["instruction"], rows[2]["message"]) == (None, "no images")


def test_a_mapping_makes_the_row_of_the_request_that_it_means():
    outcome = EditOutcome(index=0, request={"images": "a.png", "instruction": "i", "seed": 3}, error=ValueError("x"))
    assert (outcome.as_row()["instruction"], outcome.as_row()["seed"]) == ("i", 3)


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (Progress(), "0 edits · 0 s"),
        (Progress(done=3, total=12, seconds=1.5), "3 of 12 edits · 2.0/s · 4 s left"),
        (
            Progress(done=9, failed=1, total=1000, in_flight=8, cost=Decimal("0.30"), seconds=10),
            "10 of 1000 edits · 1 failed · 8 in flight · cost 0.30 · 1.0/s · 16 min 30 s left",
        ),
        (Progress(done=1, total=9000, seconds=1), "1 of 9000 edits · 1.0/s · 2 h 29 min left"),
        (Progress(done=2, total=2, seconds=62), "2 of 2 edits · 1.9/min · 1 min 02 s"),
        (Progress(done=61, failed=1, total=62, seconds=2, closing="so"), "62 of 62 edits · 1 failed · so"),
        (Progress(done=52, total=62, found=50, seconds=2), "52 of 62 edits · 1.0/s · 10 s left"),
        (
            Progress(done=10, total=40, seconds=300, paused=280, pause_left=600, paused_until="14:32"),
            "10 of 40 edits · 30.0/min · paused by the service until 14:32 · 11 min 00 s left",
        ),
        (
            Progress(total=40, in_flight=0, seconds=3, paused=3, pause_left=600, paused_until="14:32"),
            "0 of 40 edits · 0 in flight · paused by the service until 14:32 · 3 s",
        ),
        (Progress(done=2, total=2, seconds=2, pause_left=9, paused_until="14:32", closing="so"), "2 of 2 edits · so"),
    ],
)
def test_progress_in_words(progress, text):
    assert progress.text() == text


def test_the_rate_is_that_of_this_run():
    progress = Progress(done=90, found=80, total=100, seconds=5.0)
    assert progress.text() == "90 of 100 edits · 2.0/s · 5 s left"
