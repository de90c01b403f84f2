"""Progress is used if it predicts the end, on any scale, and ignored otherwise."""

from __future__ import annotations

import copy
import itertools
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_edit_async.scheduling.progress import ProgressEvidence
from qwen_edit_async.scheduling.survival import Survival

MEMORY = 100.0


def watch(evidence: ProgressEvidence, by_age: Survival, duration: float, told: Callable[[float], float]) -> None:
    """Check a task every two seconds. Its progress is a function of the fraction that is done."""
    for age in itertools.count(0.0, 2.0):
        ended = age + 2 >= duration
        if age:
            evidence.learn(by_age, age, told(age / duration), age + 2, ended=ended)
        if ended:
            by_age.ended(age, age + 2)
            return
        by_age.survived(age, age + 2)


def after(
    tasks: int, told: Callable[[float], float], evidence: ProgressEvidence | None = None, by_age: Survival | None = None
) -> tuple[ProgressEvidence, Survival]:
    evidence = evidence or ProgressEvidence(MEMORY)
    by_age = by_age or Survival(memory=MEMORY, strength=0.15)
    draw = random.Random(tasks)
    for _ in range(tasks):
        watch(evidence, by_age, 20 * math.exp(0.35 * draw.gauss(0, 1)), told)
    return evidence, by_age


@pytest.mark.parametrize(
    "told", [lambda done: done, lambda done: done**2, math.sqrt, lambda done: round(done, 1), lambda done: done * 0.9]
)
def test_progress_that_grows_with_what_is_done_convinces_on_any_scale(told: Callable[[float], float]) -> None:
    evidence, _ = after(200, told)
    assert evidence.convincing


@pytest.mark.parametrize(
    "told",
    [lambda _: 0.0, lambda _: 0.5, lambda _: 1.0, lambda done: (done * 997) % 1, lambda _: math.nan, lambda _: 7.0],
    ids=["0 until done", "constant", "1 all along", "jumps", "no number", "too much"],
)
def test_progress_that_says_nothing_does_not_convince(told: Callable[[float], float]) -> None:
    evidence, _ = after(200, told)
    assert not evidence.convincing


def test_without_evidence_progress_does_not_convince() -> None:
    assert not ProgressEvidence(MEMORY).convincing


def test_progress_that_begins_to_lie_is_soon_believed_no_more() -> None:
    evidence, by_age = after(500, lambda done: done)
    assert evidence.convincing
    after(10, lambda _: 0.97, evidence, by_age)
    assert not evidence.convincing


def test_progress_that_lied_for_long_can_convince_again() -> None:
    evidence, by_age = after(500, lambda done: (done * 997) % 1)
    after(200, lambda done: done, evidence, by_age)
    assert evidence.convincing


def gained(*gains: float, evidence: ProgressEvidence | None = None) -> ProgressEvidence:
    """Return evidence after replies that progress predicted better than age, by these nats."""
    evidence = evidence or ProgressEvidence(MEMORY)
    by_age = Survival(memory=MEMORY, strength=0.15)
    for gain in gains:
        view = evidence.view(10.0, 0.5)
        assert view is not None
        by_progress = view[0].log_likelihood(0.0, 0.4, ended=False)
        # Replaces an estimate that predicted each reply worse by the gain.
        by_age.log_likelihood = lambda *_, told=by_progress - gain, **__: told
        evidence.learn(by_age, 10.0, 0.5, 14.0, ended=False)
    return evidence


@pytest.mark.parametrize(("gains", "convincing"), [((5.9,), False), ((6.1,), True), ((3.0, 2.9), False)])
def test_it_takes_six_nats_to_convince(gains: tuple[float, ...], *, convincing: bool) -> None:
    assert gained(*gains).convincing is convincing


@pytest.mark.parametrize(("missing", "convincing"), [(-0.001, True), (0.001, False)])
def test_what_was_gained_fades_with_every_answer(missing: float, *, convincing: bool) -> None:
    assert gained(10.0, *[0.0] * 99, 6 - 10 / math.e - missing).convincing is convincing


@pytest.mark.parametrize("gain", [15.0, -15.0])
@pytest.mark.parametrize(("missing", "convincing"), [(-0.001, True), (0.001, False)])
def test_what_was_gained_or_lost_is_bounded(gain: float, missing: float, *, convincing: bool) -> None:
    bound = math.copysign(20.0, gain)
    assert gained(*[gain] * 5, 6 - bound * math.exp(-1 / MEMORY) - missing).convincing is convincing


def test_a_task_half_done_has_as_long_to_go_as_it_took() -> None:
    view = ProgressEvidence(MEMORY).view(12.0, 0.5)
    assert view is not None
    assert view[1] == 12


def test_how_far_progress_can_be_trusted_is_learned_for_each_fifth_by_which_what_remains_shrinks() -> None:
    evidence = ProgressEvidence(MEMORY)
    told = [1 - 0.99 * 2 ** (-thirds / 3) for thirds in range(18)]
    estimates = [view[0] for progress in (*told, 0.99, 1.0) if (view := evidence.view(9.0, progress))]
    assert len(set(map(id, estimates))) == 19
    assert estimates[-1] is estimates[-2]
    assert evidence.view(9.0, 0.5) == evidence.view(9.0, 0.5)


@pytest.mark.parametrize(("age", "progress"), [(0.01, 0.5), (9.0, 0.001), (9.0, -1.0), (9.0, 1.01), (9.0, math.nan)])
def test_there_is_no_view_of_what_can_not_be_extrapolated(age: float, progress: float) -> None:
    assert ProgressEvidence(MEMORY).view(age, progress) is None


@given(st.lists(st.tuples(st.floats(0, 1e4), st.floats(), st.floats(0, 1e4), st.booleans()), max_size=100))
def test_whatever_it_is_told_it_stays_sane(told: list[tuple[float, float, float, bool]]) -> None:
    evidence, by_age = ProgressEvidence(MEMORY), Survival(memory=MEMORY, strength=0.15)
    for age, progress, seconds, ended in told:
        evidence.learn(by_age, age, progress, age + seconds, ended=ended)
        view = evidence.view(age, progress)
        if view is not None:
            estimate, unit = view
            assert 0 < unit < math.inf
            assert estimate.check_age(0.0, 0.2 / unit) > 0
    assert gained(26.0, evidence=copy.deepcopy(evidence)).convincing
    assert not gained(-14.0, evidence=evidence).convincing
