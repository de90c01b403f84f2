from __future__ import annotations

import json
import re
from decimal import Decimal

import attrs
import pytest

from qwen_edit_async import BatchReport, FailureGroup, Percentiles
from qwen_edit_async.batch.rules.report import JournalSummary, make_report

DONE = BatchReport(folder="out", elapsed=2.5, saved=2, pictures=3, cost=Decimal("0.1071"))
HALF_DONE = BatchReport(
    folder="out",
    elapsed=2.5,
    planned=1,
    in_flight=2,
    unsaved=3,
    saved=4,
    failed=5,
    uncertain=2,
    refused=1,
    pictures=8,
    cost=Decimal("0.2856"),
    unpriced=1,
    queued=Percentiles(1.0, 2.0),
    running=Percentiles(20.0, 30.0),
    lag=Percentiles(0.5, 1.5),
    checks_per_edit=3.25,
    retries=6,
    repeats=1,
    uncertain_keys=("cat", "dog"),
    failures=(FailureGroup(reason="moderation", count=3, keys=("a", "b")),),
    stopped="max_cost",
    error=ValueError("why"),
)


def test_a_batch_that_is_all_done_is_ok_and_says_so_in_two_lines():
    assert DONE.ok
    assert DONE.text() == "2 of 2 edits done, 3 pictures in out\ncost 0.1071 · 2.5 s"


@pytest.mark.parametrize(
    "change",
    [
        {"planned": 1},
        {"in_flight": 1},
        {"unsaved": 1},
        {"failed": 1},
        {"uncertain": 1},
        {"refused": 1},
        {"stopped": "x"},
    ],
)
def test_a_batch_with_anything_left_is_not_ok(change):
    assert not BatchReport(folder="out", elapsed=1.0, saved=2, **change).ok


@pytest.mark.parametrize(
    "line",
    [
        "4 of 18 edits done, 8 pictures in out",
        "  1 not submitted yet",
        "  2 in flight when the run ended",
        "  3 completed, but not saved",
        "  5 failed",
        "  2 uncertain: a task may exist, and be charged",
        "  1 refused: malformed, gone, changed, or with the key of another request",
        "  1 submitted again with consent, although a task may exist",
        "cost 0.2856 (+ 1 edit without a price) · 2.5 s",
        "queued: half within 1.0 s, 95 % within 2.0 s",
        "running: half within 20.0 s, 95 % within 30.0 s",
        "end noticed: half within 0.5 s, 95 % within 1.5 s",
        "3.2 status checks per edit, 6 submissions repeated",
        "3 × moderation: a, b, …",
        "uncertain (submitted again only with resubmit_uncertain=True): cat, dog",
        "stopped: max_cost",
        "run it again to go on: no edit is paid for twice",
    ],
)
def test_the_text_says(line):
    assert line in HALF_DONE.text().splitlines()


def test_the_text_says_which_limit_is_in_the_way():
    assert "run it again with a higher max_cost to go on: " in attrs.evolve(HALF_DONE, limit="max_cost").text()


def test_the_text_names_the_tasks_of_unsaved_edits():
    some = attrs.evolve(HALF_DONE, unsaved_tasks={"cat": "t1", "dog": "t2"})
    assert "completed, but not saved: cat (task t1), dog (task t2), …" in some.text().splitlines()
    assert (
        "completed, but not saved: cat (task t1)"
        in attrs.evolve(some, unsaved=1, unsaved_tasks={"cat": "t1"}).text().splitlines()
    )


@pytest.mark.parametrize(
    ("change", "goes_on"),
    [
        ({}, False),
        ({"uncertain": 1}, False),
        ({"refused": 1}, False),
        ({"failed": 1}, False),
        ({"failed": 1, "retryable": 1}, True),
        ({"planned": 1}, True),
        ({"in_flight": 1}, True),
        ({"unsaved": 1}, True),
        ({"stopped": "why"}, True),  # what else the input has is unknown
        ({"stopped": "why", "rows": 2}, False),
        ({"stopped": "why", "rows": 3}, True),
    ],
)
def test_it_is_to_be_run_again_only_where_that_does_something(change, goes_on):
    report = attrs.evolve(DONE, **change)
    assert report.can_go_on is goes_on
    assert ("run it again" in report.text()) is goes_on


def test_rows_that_were_not_come_to_are_not_submitted_yet():
    report = attrs.evolve(HALF_DONE, rows=100)
    assert (report.total, report.unread) == (18, 82)
    assert report.text().startswith("4 of 100 edits done, 8 pictures in out\n  83 not submitted yet\n")
    assert attrs.evolve(report, stopped="").unread == 0
    assert json.loads(report.to_json())["unread"] == 82


def test_a_long_list_of_uncertain_edits_is_cut_visibly():
    report = BatchReport(folder="out", elapsed=1.0, uncertain=3, uncertain_keys=("cat", "dog"))
    assert report.text().splitlines()[-1].endswith("cat, dog, …")


def test_json_is_exact_about_money_and_complete():
    report = json.loads(HALF_DONE.to_json())
    assert report["cost"] == "0.2856"
    assert report["queued"] == {"p50": 1.0, "p95": 2.0}
    assert report["failures"] == [{"reason": "moderation", "count": 3, "keys": ["a", "b"]}]
    assert (report["total"], report["ok"], report["error"]) == (18, False, "why")
    assert json.loads(DONE.to_json())["error"] is None


def test_the_text_says_where_the_page_is_or_why_there_is_none():
    assert attrs.evolve(DONE, gallery="out/report.html").text().endswith("\nbefore and after: out/report.html")
    assert attrs.evolve(DONE, gallery_problem="full").text().endswith("could not be written: full")


def test_the_head_of_a_page_tells_the_whole():
    assert DONE.facts(2) == {"done": "2 of 2 edits", "pictures": 3, "cost": "0.1071"}
    facts = HALF_DONE.facts(10)
    assert (facts["failed"], facts["uncertain"], facts["in flight when the run ended"], facts["stopped"]) == (
        5,
        2,
        2,
        "max_cost",
    )
    assert facts["cost"] == "0.2856 (+ 1 edit without a price)"
    assert facts["running"] == "half within 20.0 s, 95 % within 30.0 s"
    assert facts["on this page"] == "10 of 17 edits, those with errors first"
    assert facts["not on this page"] == "1 refused row; see report.json for the reasons"


def test_a_report_adds_what_the_journal_does_not_have():
    summary = JournalSummary(saved=3, planned=2, uncertain=1, failures=(FailureGroup(reason="a", count=1),))
    refused = FailureGroup(reason="b", count=4, keys=("k",))
    report = make_report(summary, folder="out", elapsed=1.0, refused=iter([refused]), stopped="why")
    assert (report.saved, report.planned, report.uncertain, report.refused, report.total) == (3, 2, 1, 4, 10)
    assert [group.reason for group in report.failures] == ["b", "a"]
    assert report.stopped == "why"


def test_a_notebook_shows_the_report_as_a_table():
    shown = attrs.evolve(HALF_DONE, gallery="out/report.html")._repr_html_()
    rows = re.findall(r"<tr><th.*?>(.*?)</th><td.*?>(.*?)</td></tr>", shown)
    assert shown.startswith("<table>")
    assert dict(rows) == {
        "done": "4 of 18 edits",
        "pictures": "8",
        "not submitted yet": "1",
        "in flight when the run ended": "2",
        "completed, but not saved": "3",
        "failed": "5",
        "uncertain": "2",
        "refused": "1",
        "submitted again with consent, although a task may exist": "1",
        "cost": "0.2856 (+ 1 edit without a price)",
        "running": "half within 20.0 s, 95 % within 30.0 s",
        "stopped": "max_cost",
        "time": "2.5 s",
        "next": "run it again to go on: no edit is paid for twice",
        "failures": "3 × moderation: a, b, …",
        "before and after": '<a href="./out/report.html" target="_blank" rel="noopener">out/report.html</a>',
    }


def test_a_notebook_links_the_page_from_its_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, link in ((tmp_path / "öut", "./%C3%B6ut/report.html"), (tmp_path.parent, "./../report.html")):
        assert f'href="{link}"' in attrs.evolve(DONE, gallery=str(folder / "report.html"))._repr_html_()


def test_a_notebook_names_a_page_in_a_bucket_without_a_link():
    html = attrs.evolve(DONE, gallery="s3://edited/run/report.html")._repr_html_()
    assert ">s3://edited/run/report.html</td>" in html
    assert "<a" not in html


def test_a_notebook_names_a_page_on_another_drive_without_a_link(monkeypatch):
    def relpath(path, start):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr("os.path.relpath", relpath)
    shown = attrs.evolve(DONE, gallery="D:/out/report.html")._repr_html_()
    assert "D:/out/report.html" in shown
    assert "<a" not in shown


def test_a_notebook_shows_why_there_is_no_page():
    shown = attrs.evolve(DONE, gallery_problem="disk full")._repr_html_()
    assert "could not be written: disk full" in shown
    assert "failures" not in shown


def test_text_of_the_service_means_nothing_in_a_notebook():
    hostile = "<script>attack()</script>"
    failures = (FailureGroup(reason=hostile, count=1, keys=(hostile,)),)
    shown = attrs.evolve(DONE, failures=failures, stopped=hostile, gallery=hostile)._repr_html_()
    assert "<script" not in shown


def test_one_of_each_is_named_in_the_singular():
    report = make_report(JournalSummary(saved=1, pictures=1, retries=1, checks_per_edit=1.0), folder="out", elapsed=1.0)
    assert report.text().startswith("1 of 1 edit done, 1 picture in out\n")
    assert "1 submission repeated" in report.text()
