from __future__ import annotations

from collections import Counter
from decimal import Decimal

import attrs
import pytest

from qwen_edit_async import BatchPlan, EditParameters, FailureGroup
from qwen_edit_async.batch.rules.plan import ParameterGroup, RowProblem, Tally
from qwen_edit_async.batch.rules.report import JournalSummary

PLAN = BatchPlan(
    folder="out",
    rows=9,
    submit=3,
    pictures=5,
    groups=(ParameterGroup("n=2, size=1024*1536", 2, 4), ParameterGroup("", 1, 1)),
    attach=1,
    download=2,
    saved=3,
    failed=4,
    uncertain=5,
    problems=(RowProblem("row 7", "n is 9"),),
    problem_count=3,
    problem_groups=(FailureGroup(reason="n is 9", count=1, keys=("row 7",)),),
    existing=2,
    existing_example="a-0.png",
    notes=("columns that are not used: shop",),
    spent=Decimal("1.00"),
    tasks=8,
    max_cost=Decimal("1.10"),
    max_tasks=10,
    price=Decimal("0.030"),
)


def test_a_plan_in_words():
    assert PLAN.text() == (
        "9 rows read; the results go to out\n"
        "  3 to submit: 5 pictures, about 0.15 at 0.030 a picture\n"
        "    2 edits, 4 pictures: n=2, size=1024*1536\n"
        "    1 edit, 1 picture: default parameters\n"
        "  1 in flight, to be waited for\n"
        "  2 completed, to be downloaded\n"
        "  3 done\n"
        "  4 failed at the service, not submitted again\n"
        "  5 uncertain: a task may exist; submitted again only with resubmit_uncertain=True\n"
        "  2 of the existing files would be replaced, such as a-0.png\n"
        "  note: max_tasks=10 allows only 2 of these submissions\n"
        "  note: max_cost=1.10 would end the run early\n"
        "  note: columns that are not used: shop\n"
        "3 of 9 rows can't be edited:\n"
        "  row 7: n is 9\n"
        "  … and 2 more"
    )


def test_a_plan_without_anything_special_is_two_lines():
    plan = BatchPlan(folder="out", rows=1, submit=1, pictures=1, groups=(ParameterGroup("", 1, 1),))
    assert plan.text() == "1 row read; the results go to out\n  1 to submit: 1 picture"
    assert (plan.ok, plan.cost) == (True, None)


@pytest.mark.parametrize(
    "change",
    [{"max_tasks": 11}, {"max_tasks": None}, {"max_cost": Decimal("1.15")}, {"max_cost": None}, {"price": None}],
)
def test_limits_that_hold_are_not_told(change):
    [name] = change
    told = "max_cost" if name == "price" else name
    assert f"{told}=" in PLAN.text()
    assert f"{told}=" not in attrs.evolve(PLAN, **change).text()


def test_the_cost_is_exact():
    assert attrs.evolve(PLAN, pictures=100_000, price=Decimal("0.0357")).cost == Decimal(3570)


def test_problems_are_listed_up_to_a_limit_and_the_rest_counted():
    tally = Tally()
    for row in range(100_000):
        tally.problem(f"row {row}", f"no {row}", f"no {row}")
    plan = tally.plan("out", 9, JournalSummary())
    assert (len(plan.problems), plan.problem_count, plan.ok) == (100, 100_000, False)
    assert plan.problem_lines()[-1] == "  … and 99900 more"
    assert plan.problem_lines(2)[1:] == ["  row 0: no 0", "  row 1: no 1", "  … and 99998 more"]


def test_problems_of_one_kind_are_one_line_without_their_files():
    tally = Tally()
    tally.problem("row 0", "n is 9", "n is 9")
    for row in range(1, 100_001):
        tally.problem(f"row {row}", f"image 1 ({row}.png) does not exist", "image 1 does not exist")
    plan = tally.plan("out", 9, JournalSummary())
    assert plan.problem_lines()[1:] == [
        "  100000 × image 1 does not exist: row 1, row 2, row 3, row 4, row 5, …",
        "  row 0: n is 9",
    ]
    assert plan.problem_lines(1)[1:] == [plan.problem_lines()[1], "  … and 1 more"]


def test_edits_are_grouped_by_all_parameters_but_the_seed():
    tally = Tally()
    for seed in range(1000):
        tally.submission(EditParameters(n=2, seed=seed))
    tally.submission(EditParameters(size="1024x1536", watermark=False))
    plan = tally.plan("out", 9, JournalSummary())
    assert (plan.submit, plan.pictures) == (1001, 2001)
    assert plan.groups == (
        ParameterGroup("n=2", 1000, 2000),
        ParameterGroup("size=1024*1536, watermark=False", 1, 1),
    )


def test_of_many_kinds_of_parameters_the_first_are_told():
    tally = Tally()
    for side in range(512, 612):
        tally.submission(EditParameters(size=(side, 512)))
    plan = tally.plan("out", 9, JournalSummary())
    assert (len(plan.groups), plan.submit) == (20, 100)
    assert plan.text().splitlines()[-2:] == [
        "    1 edit, 1 picture: size=531*512",
        "    … and 80 more edits, 80 pictures",
    ]


def test_a_plan_that_names_all_parameters_has_no_more():
    tally = Tally()
    for side in range(512, 532):
        tally.submission(EditParameters(size=(side, 512)))
    assert tally.plan("out", 9, JournalSummary()).text().endswith("\n    1 edit, 1 picture: size=531*512")


def test_everything_is_counted_and_noted_once():
    tally = Tally(Counter(download=1, saved=2, failed=3, uncertain=4))
    for _ in range(2):
        tally.note("the same")
    plan = tally.plan("out", 9, JournalSummary(in_flight=5, unsaved=6, cost=Decimal(7), tasks=8))
    assert (plan.download, plan.saved, plan.failed, plan.uncertain) == (7, 2, 3, 4)
    assert (plan.attach, plan.spent, plan.tasks) == (5, 7, 8)
    assert plan.notes == ("the same",)
