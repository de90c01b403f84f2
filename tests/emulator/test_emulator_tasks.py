from __future__ import annotations

import random
import statistics
from decimal import Decimal

import pytest
from emulator_calls import flat_body

from qwen_edit_async.emulator import AfterChecks, Bimodal, FaultPlan, LogNormal
from qwen_edit_async.emulator.faults import Fault, FaultRun
from qwen_edit_async.emulator.tasks import Failure, TaskTable
from qwen_edit_async.emulator.validation import RejectedError, parse_body


def make_table(**changes):
    settings = {
        "duration": 10.0,
        "time_scale": 1.0,
        "slots": None,
        "queue": True,
        "price": Decimal("0.5"),
        "balance": None,
        "seed": 0,
    }
    return TaskTable(**settings | changes)


def create(table, now=0.0, fault=None, *, picture_ready=True, **parameters):
    submission = parse_body(flat_body(**parameters), envelope="flat", decode=False).submission
    record = table.create(submission, now, picture_ready=picture_ready)
    if fault is not None:
        record.fault = FaultRun(FaultPlan([fault])).on_task(record)
    table.enqueue(record)
    return record


def test_a_task_completes_when_it_is_due_and_not_before():
    table = make_table()
    record = create(table)
    table.advance(9.9)
    assert record.status == "running"
    table.advance(12.0)
    assert (record.status, record.finished_at) == ("completed", 10.0)


def test_the_time_scale_stretches_durations():
    assert create(make_table(time_scale=0.5)).duration == 5.0


def test_lag_is_the_time_from_the_end_to_the_first_check_that_reports_it():
    table = make_table()
    record = create(table)
    table.check(record, 5.0)
    assert record.lag is None
    for now in (11.5, 20.0):
        table.advance(now)
        table.check(record, now)
    assert (record.lag, record.checks) == (1.5, 3)


def test_waiting_tasks_start_when_a_slot_becomes_free():
    table = make_table(slots=2)
    records = [create(table, now) for now in (0.0, 1.0, 2.0, 3.0)]
    table.advance(5.0)
    assert [record.status for record in records] == ["running", "running", "queued", "queued"]
    table.advance(100.0)
    assert [record.finished_at for record in records] == [10.0, 11.0, 20.0, 21.0]


def test_without_a_queue_a_task_beyond_the_slots_is_refused():
    table = make_table(slots=1, queue=False)
    create(table)
    with pytest.raises(RejectedError) as caught:
        create(table)
    assert (caught.value.status, caught.value.code) == (429, 1002)
    table.advance(10.0)
    assert create(table, 10.0).status == "running"


def test_only_successful_tasks_are_charged():
    table = make_table(balance=Decimal(2))
    create(table, n=2)
    create(table, fault=Fault.failed_task())
    assert (table.charges, table.balance) == (0, Decimal("0.5"))
    table.advance(10.0)
    assert (table.charges, table.balance) == (Decimal(1), Decimal(1))
    assert (table.completed, table.failed, table.unfinished, table.peak_unfinished) == (1, 1, 0, 2)


def test_a_task_that_the_balance_does_not_cover_is_refused():
    table = make_table(balance=Decimal(1))
    create(table, n=2)
    with pytest.raises(RejectedError) as caught:
        create(table)
    assert (caught.value.status, caught.value.code, table.balance) == (402, 40201, Decimal(0))


def test_the_nth_check_ends_a_task_whose_duration_is_a_number_of_checks():
    table = make_table(duration=AfterChecks(3))
    record = create(table)
    states = []
    for now in (1000.0, 1001.0, 1002.0):
        table.check(record, now)
        states.append((record.status, table.progress(record, now)))
    assert states[:2] == [("running", 0.33), ("running", 0.67)]
    assert (record.status, record.lag) == ("completed", 0.0)


@pytest.mark.parametrize("duration", [10.0, AfterChecks(1)])
def test_a_stuck_task_never_ends(duration):
    table = make_table(duration=duration)
    record = create(table, fault=Fault.stuck_task())
    table.advance(1e9)
    table.check(record, 1e9)
    assert (record.status, table.progress(record, 1e9)) == ("running", 0.99)


def test_a_failed_task_fails_when_it_is_due_with_the_given_error():
    table = make_table()
    record = create(table, fault=Fault.failed_task(110001, "no"))
    assert record.status == "running"
    table.advance(10.0)
    assert (record.status, record.failure) == ("failed", Failure(110001, "no"))


def test_a_task_lasts_as_long_as_its_picture_takes():
    table = make_table()
    late, early = (create(table, picture_ready=False) for _ in range(2))
    table.picture_done(early, 3.0)
    table.advance(11.0)
    assert (late.status, early.finished_at) == ("running", 10.0)
    table.picture_done(late, 14.0)
    table.advance(20.0)
    assert (late.finished_at, table.completed) == (14.0, 2)


def test_a_late_picture_ends_its_task_once():
    table = make_table(slots=1)
    record, waiting = create(table, picture_ready=False), create(table)
    table.picture_done(record, 14.0, Failure(190000, "gone"))
    assert (record.status, record.finished_at) == ("failed", 14.0)
    assert waiting.started_at == 14.0
    table.advance(30.0)
    assert (table.failed, table.completed, table.unfinished) == (1, 1, 0)


def test_progress_grows_from_zero_and_stays_below_one():
    table = make_table(slots=1)
    record, waiting = create(table), create(table)
    assert [table.progress(record, now) for now in (0.0, 5.0, 99.0)] == [0.0, 0.5, 0.99]
    assert table.progress(waiting, 5.0) == 0.0


def test_the_same_seed_gives_the_same_durations_and_seeds():
    def run(seed):
        table = make_table(duration=LogNormal(), seed=seed)
        return [(record.duration, record.seed) for record in (create(table), create(table))]

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_a_requested_seed_is_kept():
    assert create(make_table(), seed=42).seed == 42


def test_task_ids_are_unique_across_emulators():
    assert create(make_table()).id != create(make_table()).id


def test_log_normal_durations_have_their_median():
    source = random.Random(1)
    drawn = [LogNormal(median=8.0, sigma=0.5)(source) for _ in range(4000)]
    assert statistics.median(drawn) == pytest.approx(8.0, rel=0.05)


def test_bimodal_durations_have_the_given_share_of_slow_ones():
    source = random.Random(1)
    drawn = [Bimodal(1.0, 60.0, slow_share=0.25)(source) for _ in range(4000)]
    assert set(drawn) == {1.0, 60.0}
    assert drawn.count(60.0) == pytest.approx(1000, rel=0.1)


def test_a_vanished_task_is_gone_after_the_given_checks():
    table = make_table()
    record = create(table, fault=Fault.vanished_task(after_checks=1))
    assert not record.is_vanished
    table.check(record, 1.0)
    assert record.is_vanished
