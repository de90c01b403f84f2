"""The learning policy: its bounds, its evidence, and the cost of waiting in a simulation."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from memory_transport import IMAGE, MemoryService, MemorySession

from qwen_edit_async import Backoff, ConfigurationError, EditParameters, FixedInterval, Learned
from qwen_edit_async.scheduling.policies import PolledTask
from qwen_edit_async.scheduling.schedule import ScheduledTask

COSTS = (0.05, 0.2, 1.0)


@cache
def simulation() -> Any:
    """Return the benchmark's module with workloads and a virtual clock."""
    path = Path(__file__).parents[2] / "benchmarks" / "_simulation.py"
    spec = importlib.util.spec_from_file_location("waiting_simulation", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def workload(name: str) -> Any:
    (found,) = (load for load in simulation().workloads(1000) if load.name == name)
    return found


@cache
def figures(policy: Callable[[], Any], name: str) -> Any:
    return simulation().simulate(policy(), workload(name), skip=150)


@cache
def learned_at(poll_cost: float, name: str) -> Any:
    return simulation().simulate(Learned(poll_cost), workload(name), skip=150)


def a_task(parameters: EditParameters | None = None, *, attached: bool = False) -> PolledTask:
    return ScheduledTask(task_id="t", since=0.0, parameters=parameters, attached=attached)


def run(
    policy: Learned,
    duration: float,
    parameters: EditParameters | None = None,
    *,
    progress: Callable[[float], float | None] = lambda _: None,
    attached: bool = False,
) -> list[float]:
    """Return the times of the checks of a task that runs from 0 to ``duration``."""
    task, times = a_task(parameters, attached=attached), []
    due = policy.next_check(task, 0.0)
    while due < duration:
        times.append(due)
        task.checks += 1
        task.found_running(due, progress(due / duration))
        due = policy.next_check(task, due)
    policy.ended(task, due, completed=True)
    return [*times, due]


def taught(*durations: float, parameters: EditParameters | None = None, attached: bool = False) -> Learned:
    policy = Learned()
    for duration in durations:
        run(policy, duration, parameters, attached=attached)
    return policy


def first_check(policy: Learned, parameters: EditParameters | None = None, *, attached: bool = False) -> float:
    return policy.next_check(a_task(parameters, attached=attached), 0.0)


@pytest.mark.parametrize(
    "options", [{"poll_cost": 0}, {"poll_cost": float("inf")}, {"max_interval": -1.0}, {"memory": float("nan")}]
)
def test_options_that_are_no_positive_numbers_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        Learned(**options)


lives = st.lists(
    st.tuples(
        st.floats(0, 1e4),  # duration of a task
        st.floats(0, 20),  # duration of a reply
        st.none() | st.floats(0, 1),  # reported progress
        st.booleans(),  # attached
        st.booleans(),  # completed
        st.booleans(),  # still queued
    ),
    max_size=12,
)


@given(lives, st.floats(1e-3, 1e3), st.floats(0.5, 1e3), st.floats(0, 1e9))
@example([(100.0, 0.0, 1.0, False, True, False)] * 12, 0.2, 30.0, 0.0)
def test_no_check_is_in_the_past_beyond_the_bound_or_sooner_than_it_pays(
    history: list[tuple[float, float, float | None, bool, bool, bool]],
    poll_cost: float,
    max_interval: float,
    start: float,
) -> None:
    policy = Learned(poll_cost, max_interval=max_interval)
    for duration, latency, progress, attached, completed, queued in history:
        task = ScheduledTask(task_id="t", since=start, attached=attached)
        now = start
        for _ in range(20):
            due = policy.next_check(task, now)
            assert due >= now
            assert due <= max(now, task.checked_at + max_interval)
            assert due >= task.checked_at + min(poll_cost, max_interval) * (1 - 1e-6) - 1e-6
            assert 0 <= policy.likelihood(task, due) <= 1
            now = due + latency
            if due >= start + duration:
                break
            task.found_running(due, progress, queued=queued)
        policy.ended(task, now, completed=completed)


@given(st.lists(st.floats(0.1, 300), max_size=10))
def test_the_same_history_gives_the_same_checks(durations: list[float]) -> None:
    assert run(taught(*durations), 50.0) == run(taught(*durations), 50.0)


def queued_until(policy: Learned, start: float) -> tuple[PolledTask, float]:
    """Return a task that each check up to ``start`` finds queued, and the time of its next check."""
    task = a_task()
    due = policy.next_check(task, 0.0)
    while due <= start:
        task.found_running(due, None, queued=True)
        due = policy.next_check(task, due)
    return task, due


def test_a_task_that_has_not_started_is_as_good_as_new() -> None:
    policy = taught(*[20.0] * 50)
    task, due = queued_until(policy, 500.0)
    assert due - task.checked_at == pytest.approx(first_check(policy))
    assert policy.likelihood(task, task.checked_at + 12.0) == pytest.approx(policy.likelihood(a_task(), 12.0))


def test_a_wait_in_the_queue_is_no_evidence_of_long_tasks() -> None:
    policy = taught(*[20.0] * 50)
    before = first_check(policy)
    for _ in range(50):
        task, due = queued_until(policy, 500.0)
        start = task.checked_at
        while due < start + 20.0:
            task.found_running(due, None)
            due = policy.next_check(task, due)
        policy.ended(task, due, completed=True)
    assert first_check(policy) == pytest.approx(before, abs=2.0)


def test_a_service_that_tells_what_is_queued_is_waited_for_at_less_cost() -> None:
    told, untold = (figures(Learned, name).cost(0.2) for name in ("shared queue, told", "shared queue"))
    assert told < 0.75 * untold


def test_cold_it_backs_off() -> None:
    times = run(Learned(), 60.0)
    intervals = [second - first for first, second in pairwise(times)]
    assert times[0] < 1
    assert all(later > 0.95 * earlier for earlier, later in pairwise(intervals))
    assert 3 < intervals[-1] < 10


def test_however_long_a_task_runs_it_is_checked_again_within_the_bound() -> None:
    policy = taught(*[10.0] * 50)
    times = run(policy, 5000.0)
    assert max(second - first for first, second in pairwise(times)) <= 30.0


def test_checks_gather_where_tasks_end() -> None:
    times = run(taught(*[19.0, 20.0, 21.0] * 40), 20.0)
    assert 15 < times[0] < 20
    assert len(times) <= 4
    assert times[-1] - 20 < 1


def test_a_service_that_slows_down_is_noticed_by_tasks_that_still_run() -> None:
    policy = taught(*[9.0, 10.0, 11.0] * 40)
    slow = [a_task() for _ in range(50)]
    for task in slow:
        due = policy.next_check(task, 0.0)
        while due < 40:
            task.found_running(due, None)
            due = policy.next_check(task, due)
    task = a_task()
    task.found_running(12.0, None)
    assert policy.likelihood(task, 15.0) < 0.5 * taught(*[9.0, 10.0, 11.0] * 40).likelihood(task, 15.0)


def test_a_task_that_failed_or_was_given_up_teaches_nothing_of_durations() -> None:
    policy = taught(*[20.0] * 30)
    before = first_check(policy)
    for _ in range(100):
        policy.ended(a_task(), 1.0, completed=False)
    assert first_check(policy) == before


@pytest.mark.parametrize(
    ("quick", "slow"),
    [
        (EditParameters(n=1), EditParameters(n=6)),
        (EditParameters(size=(512, 512)), EditParameters(size=(2048, 2048))),
        (None, EditParameters(n=2, size=(1536, 1536))),
    ],
)
def test_tasks_of_another_number_or_size_of_images_have_their_own_estimate(
    quick: EditParameters | None, slow: EditParameters
) -> None:
    policy = Learned(max_interval=100.0)
    for _ in range(100):
        run(policy, 10.0, quick)
        run(policy, 60.0, slow)
    assert first_check(policy, quick) < 11
    assert first_check(policy, slow) > 25


def test_sizes_about_the_default_are_of_one_kind() -> None:
    sizes = [(1152, 896), (1024, 1024), (896, 1152), (800, 1000), (1200, 1100)]
    policy = taught(*[30.0] * 40, parameters=EditParameters(n=1, size=sizes[0]))
    checks = {first_check(policy, parameters) for parameters in (None, *(EditParameters(size=size) for size in sizes))}
    assert len(checks) == 1
    assert first_check(policy, EditParameters(size=(2048, 1024))) not in checks


def test_a_kind_that_was_never_seen_is_checked_as_all_are() -> None:
    policy = taught(*[30.0] * 60, parameters=EditParameters(n=1))
    assert first_check(policy, EditParameters(n=4)) == pytest.approx(first_check(policy, EditParameters(n=1)), rel=0.2)


def test_tasks_of_unknown_age_teach_nothing_of_the_others() -> None:
    policy, never_seen = taught(*[30.0] * 60), EditParameters(n=4)
    for _ in range(200):
        run(policy, 1.0, attached=True)
    assert first_check(policy, never_seen) == first_check(taught(*[30.0] * 60), never_seen)
    assert first_check(policy, attached=True) < 2


def linear(fraction: float) -> float:
    return fraction


def teach_progress(policy: Learned, progress: Callable[[float], float | None]) -> None:
    for number in range(150):
        run(policy, 10.0 + 20 * (number * 7 % 10) / 10, progress=progress)


def test_progress_that_foretells_the_end_is_followed() -> None:
    policy = Learned()
    teach_progress(policy, linear)
    times = run(policy, 29.0, progress=linear)
    assert len(times) <= 5
    assert times[-1] - 29 < 0.5


@pytest.mark.parametrize("progress", [lambda fraction: (fraction * 997) % 1, lambda _: 0.0, lambda _: 1.0])
def test_progress_that_foretells_nothing_changes_nothing(progress: Callable[[float], float | None]) -> None:
    without, lied_to = Learned(), Learned()
    teach_progress(without, lambda _: None)
    teach_progress(lied_to, progress)
    assert len(run(lied_to, 25.0, progress=progress)) <= 1.2 * len(run(without, 25.0))


def test_where_progress_is_trusted_a_task_that_tells_none_is_checked_by_its_age() -> None:
    policy = Learned()
    teach_progress(policy, linear)
    assert len(run(policy, 20.0)) >= len(run(policy, 20.0, progress=linear))


def told_progress(policy: Learned, progress: float, *, attached: bool = False) -> PolledTask:
    """Return a task of age 10 that has just reported this progress."""
    task = a_task(attached=attached)
    task.found_running(10.0, progress)
    return task


def test_where_progress_is_trusted_likelihood_is_by_what_remains() -> None:
    policy = Learned()
    teach_progress(policy, linear)
    early, late = (told_progress(policy, progress) for progress in (0.35, 0.9))
    assert policy.likelihood(early, 12.0) < 0.1
    assert policy.likelihood(late, 12.0) > 0.8
    assert policy.likelihood(late, 10.2) < 0.1


def test_progress_of_a_task_of_unknown_age_is_not_looked_at() -> None:
    policy = Learned()
    teach_progress(policy, linear)
    told, untold = told_progress(policy, 0.9, attached=True), a_task(attached=True)
    untold.found_running(10.0, None)
    assert policy.likelihood(told, 12.0) == policy.likelihood(untold, 12.0)


def runs_on(policy: Learned, task: PolledTask) -> None:
    """Let a task that is nearly done at 10 s still run at 25 s."""
    task.found_running(10.0, 0.97)
    task.found_running(25.0, 0.97)
    policy.next_check(task, 25.0)


def ends_early(policy: Learned, task: PolledTask) -> None:
    """Let a task that has hardly begun at 10 s end at 10.5 s."""
    task.found_running(10.0, 0.02)
    policy.ended(task, 10.5, completed=True)


@pytest.mark.parametrize("lie", [runs_on, ends_early])
def test_progress_of_a_task_of_unknown_age_teaches_nothing(lie: Callable[[Learned, PolledTask], None]) -> None:
    policy = Learned()
    teach_progress(policy, linear)
    late = told_progress(policy, 0.9)
    trusted = policy.likelihood(late, 12.0)
    for _ in range(20):
        lie(policy, a_task(attached=True))
    assert policy.likelihood(late, 12.0) == trusted
    for _ in range(20):
        lie(policy, a_task())
    assert policy.likelihood(late, 12.0) < trusted


def test_likelihood_grows_with_the_time_since_the_last_check() -> None:
    policy = taught(*[20.0] * 40)
    likelihoods = [policy.likelihood(a_task(), age) for age in (0.0, 10.0, 19.0, 22.0, 40.0)]
    assert likelihoods == sorted(likelihoods)
    assert likelihoods[0] == 0
    assert likelihoods[1] < 0.1
    assert likelihoods[-1] > 0.9


def test_it_tells_its_options() -> None:
    assert repr(Learned(0.5)) == "Learned(poll_cost=0.5, max_interval=30.0, memory=100.0)"


@pytest.mark.anyio
@pytest.mark.virtual_clock
async def test_each_session_learns_by_itself_unless_told_otherwise() -> None:
    alone, first, second = [await checks_of_edits(polling) for polling in (Learned(), None, None)]
    assert alone == first == second
    assert alone[0] != alone[-1]


async def checks_of_edits(polling: Learned | None) -> list[list[float]]:
    """Make ten edits, one after another. Return the times of each edit's checks, counted from its submission."""
    service = MemoryService(duration=20.0)
    async with MemorySession(service, polling=polling) as session:
        for _ in range(10):
            await session.edit(IMAGE, "snow")
    started = {f"task-{number}": sent.at for number, sent in enumerate(service.submissions, 1)}
    times: dict[str, list[float]] = {task_id: [] for task_id in started}
    for check in service.checks:
        task_id = check.call.path.rpartition("/")[2]
        times[task_id].append(round(check.at - started[task_id], 3))
    return [*times.values()]


# Waiting in simulated time. The margins are wide; benchmarks/waiting.py has the exact figures.


@pytest.mark.parametrize("poll_cost", COSTS)
@pytest.mark.parametrize("name", ["lognormal", "bimodal", "drifting", "queueing", "progress", "lying progress"])
def test_waiting_costs_less_than_with_any_other_policy(name: str, poll_cost: float) -> None:
    others = [figures(Backoff, name), *(figures_of_interval(seconds, name) for seconds in (0.5, 1.0, 3.0, 5.0))]
    assert learned_at(poll_cost, name).cost(poll_cost) < min(other.cost(poll_cost) for other in others)


@cache
def figures_of_interval(seconds: float, name: str) -> Any:
    return simulation().simulate(FixedInterval(seconds), workload(name), skip=150)


@pytest.mark.parametrize("poll_cost", COSTS)
@pytest.mark.parametrize(("name", "factor"), [("lognormal", 1.15), ("bimodal", 1.4), ("narrow", 1.4)])
def test_waiting_costs_little_more_than_with_the_best_schedule_there_is(
    name: str, factor: float, poll_cost: float
) -> None:
    best = simulation().optimum(workload(name), poll_cost, steps=600)
    assert learned_at(poll_cost, name).cost(poll_cost) < factor * best.cost(poll_cost)


@pytest.mark.parametrize("poll_cost", COSTS)
@pytest.mark.parametrize("lie", sorted(simulation().LIES))
def test_a_lying_progress_field_costs_little(lie: str, poll_cost: float) -> None:
    lying = attrs.evolve(workload("lognormal"), progress=simulation().LIES[lie])
    told = simulation().simulate(Learned(poll_cost), lying, skip=150)
    bound = 1.25 if lie == "half of it random" else 1.1  # half of these reports are true
    assert told.cost(poll_cost) < bound * learned_at(poll_cost, "lognormal").cost(poll_cost)


@pytest.mark.parametrize("poll_cost", COSTS)
def test_an_honest_progress_field_saves_a_fourth(poll_cost: float) -> None:
    told, untold = (learned_at(poll_cost, name).cost(poll_cost) for name in ("progress", "lognormal"))
    assert told < 0.75 * untold


def test_a_queue_costs_far_fewer_checks_than_a_fixed_interval() -> None:
    fixed, learned = figures_of_interval(3.0, "queueing"), learned_at(0.2, "queueing")
    assert learned.lag < fixed.lag
    assert learned.checks < 0.4 * fixed.checks
