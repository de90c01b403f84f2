"""Checks per task and detection lag of poll policies, on the same durations.

Tasks, slots and checks are events on a virtual clock. The figures are exact, the same on every machine, and free of
network delay. The oracle knows when each task ends. The optimum knows only the true distribution of the durations.
"""

from __future__ import annotations

import itertools
import json
import time
import timeit
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from _report import Row, drawn, parse, report
from _simulation import (
    LIES,
    SEED,
    Figures,
    Workload,
    cpu_per_check,
    optimum,
    simulate,
    simulate_rate,
    workloads,
)

from qwen_edit_async import Backoff, FixedInterval, Learned, PollPolicy

POLL_COSTS = [0.05, 0.1, 0.2, 0.5, 1.0]
INTERVALS = (0.5, 1.0, 3.0, 5.0)
TARGETS = {
    "lognormal": (0.65, 0.65),
    "bimodal": (0.72, None),
    "drifting": (0.70, None),
    "queueing": (0.30, None),
}
"""Highest ratios to ``FixedInterval(3)``: checks at the same lag, and lag with the same number of checks."""

DEFAULT_COST = 0.2
_FEW_CHECKS = 2.7
_COSTS_OF_FEW_CHECKS: Sequence[float] = np.geomspace(0.3, 0.8, 6).tolist()
"""Poll costs that give about ``_FEW_CHECKS`` checks with linear progress."""

_FRONTIER_COSTS: Sequence[float] = [*np.geomspace(0.002, 0.015, 3).tolist(), *np.geomspace(0.03, 6.0, 8).tolist()]
"""Poll costs, denser where figures are interpolated."""

_COSTS_OF_LIES = (0.05, 0.2, 1.0)


def costs(name: str, tasks: int, skip: int, poll_costs: Sequence[float]) -> list[dict[str, Any]]:
    """Return a row for each policy and poll cost, for the workload called ``name``."""
    (workload,) = (load for load in workloads(tasks) if load.name == name)
    return list(_costs(workload, skip, poll_costs))


def _costs(workload: Workload, skip: int, poll_costs: Sequence[float]) -> Iterator[dict[str, Any]]:
    fixed: dict[str, PollPolicy] = {f"FixedInterval({seconds:g})": FixedInterval(seconds) for seconds in INTERVALS}
    policies = {**fixed, "Backoff()": Backoff()}
    heedless = {name: simulate(policy, workload, skip=skip) for name, policy in policies.items()}
    for poll_cost in poll_costs:
        learned = simulate(Learned(poll_cost), workload, skip=skip)
        best = {"Optimum": optimum(workload, poll_cost)} if workload.known else {}
        for name, figures in {"Oracle": Figures(0.0, 1.0), **best, "Learned": learned, **heedless}.items():
            cost = figures.cost(poll_cost)
            yield {
                "workload": workload.name,
                "poll_cost": poll_cost,
                "policy": name,
                **figures._asdict(),
                "cost": cost,
                "cost_to_optimum": cost / best["Optimum"].cost(poll_cost) if best else None,
            }


def beside_fixed(workload: Workload, skip: int) -> tuple[float | None, float | None]:
    """Return the ratios of :class:`Learned` to ``FixedInterval(3)``: checks at the same lag, lag with as many checks.

    A ratio is ``None`` if no poll cost gives the lag, or the number of checks, of ``FixedInterval(3)``.
    """
    fixed = simulate(FixedInterval(3.0), workload, skip=skip)

    @cache
    def reached(poll_cost: float) -> Figures:
        return simulate(Learned(poll_cost), workload, skip=skip)

    checks_at_lag = _read_off(lambda cost: reached(cost).lag, lambda cost: reached(cost).checks, fixed.lag)
    lag_at_checks = _read_off(lambda cost: 1 / reached(cost).checks, lambda cost: reached(cost).lag, 1 / fixed.checks)
    return checks_at_lag and checks_at_lag / fixed.checks, lag_at_checks and lag_at_checks / fixed.lag


def lag_at(checks: float, near: Sequence[Figures]) -> float:
    """Return the lag at a number of checks, by a straight line on logarithmic scales through nearby figures."""
    slope, height = np.polyfit(np.log([each.checks for each in near]), np.log([each.lag for each in near]), 1)
    return float(np.exp(height + slope * np.log(checks)))


def _read_off(known: Callable[[float], float], wanted: Callable[[float], float], at: float) -> float | None:
    """Return ``wanted`` at the poll cost at which ``known`` equals ``at``. ``known`` grows with the poll cost.

    Interpolate between two neighbouring costs on logarithmic scales. Return ``None`` outside the range of the costs.
    """
    above = bisect_left(_FRONTIER_COSTS, at, key=known)
    if above in {0, len(_FRONTIER_COSTS)}:
        return None
    neighbours = _FRONTIER_COSTS[above - 1 : above + 1]
    grid, values = ([np.log(figure(cost)) for cost in neighbours] for figure in (known, wanted))
    return float(np.exp(np.interp(np.log(at), grid, values)))


def figures_of_seed(seed: int, tasks: int, skip: int) -> dict[tuple[str, float | None], float]:
    """Return the figures for the durations of a seed, by name and target. Not every figure has a target."""
    figures: dict[tuple[str, float | None], float] = {}
    loads = {load.name: load for load in workloads(tasks, seed)}
    for name, load in loads.items():
        ratios = beside_fixed(load, skip)
        limits = TARGETS.get(name, (None, None))
        for what, ratio, limit in zip(("checks at the lag", "lag at the checks"), ratios, limits, strict=True):
            if ratio is not None and (limit or what == "checks at the lag"):
                figures[f"{name}: {what} of FixedInterval(3)", limit] = ratio
        if load.known:
            cost = simulate(Learned(), load, skip=skip).cost(DEFAULT_COST)
            best = optimum(load, DEFAULT_COST).cost(DEFAULT_COST)
            figures[f"{name}: cost / optimum", 1.12 if name == "lognormal" else None] = cost / best
        if name == "progress":
            near = [simulate(Learned(cost), load, skip=skip) for cost in _COSTS_OF_FEW_CHECKS]
            lag = lag_at(_FEW_CHECKS, near)
            figures["progress: lag at 2.7 checks / median duration", 0.03] = lag / float(np.median(load.seconds))
    figures["progress that lies, the worst case: cost / cost without", 1.1] = max(
        simulate(Learned(cost), attrs.evolve(loads["lognormal"], progress=told), skip=skip).cost(cost)
        / simulate(Learned(cost), loads["lognormal"], skip=skip).cost(cost)
        for cost in _COSTS_OF_LIES
        for told in LIES.values()
    )
    return figures


def target_rows(repeated: Sequence[dict[tuple[str, float | None], float]]) -> Iterator[Row]:
    """Return the rows of the figures that every repetition has. Each repetition has another seed."""
    for figure, limit in repeated[0]:
        if not all((figure, limit) in figures for figures in repeated):
            continue
        yield Row(figure, "library", [figures[figure, limit] for figures in repeated], limit)


def cpu_rows(tasks: int) -> Iterator[Row]:
    """Return the CPU that :class:`Learned` needs for each check, and the CPU to parse a reply's JSON."""
    reply = json.dumps({"id": "d758n65e878c73cmdg20", "status": "in_progress", "progress": 0.42, "created_at": 1e9})
    for load in workloads(tasks):
        if load.name in {"lognormal", "queueing", "progress"}:
            yield Row(f"{load.name}: µs of CPU per check", "library", cpu_per_check(Learned, load, 5))
    seconds = timeit.repeat(partial(json.loads, reply), timer=time.process_time, number=5000, repeat=5)
    yield Row("µs of CPU to parse a status reply, for comparison", "library", [1e6 * each / 5000 for each in seconds])


def rate_rows(in_flight: int, poll_rate: float) -> list[Row]:
    """Simulate a ceiling of checks per second, with :class:`Learned` and with checks in turn."""
    lag, longest = simulate_rate(Learned(), in_flight, poll_rate, seed=SEED)
    lag_in_turn, _ = simulate_rate(FixedInterval(3.0), in_flight, poll_rate, seed=SEED)
    what, bound = f"{in_flight:,} in flight, {poll_rate:g}/s", _longest(Learned(), in_flight, poll_rate)
    return [
        Row(f"{what}: lag / lag in turn", "library", [lag / lag_in_turn], 1.0),
        Row(f"{what}: longest between checks (s)", "library", [longest], bound),
    ]


def _longest(policy: Learned, in_flight: int, poll_rate: float) -> float:
    """Return the bound on the time between two checks: ``max_interval``, plus a little over four rounds of checks."""
    return policy.max_interval + (4 + 1 / 64) * in_flight / poll_rate


def plot(table: Sequence[dict[str, Any]], path: Path) -> None:
    """Plot lag over checks. Lower left is better."""
    names = list(dict.fromkeys(row["workload"] for row in table))
    lines = (len(names) + 2) // 3
    with drawn(path, nrows=lines, ncols=3, figsize=(12, 3.2 * lines)) as panels:
        for panel, name in itertools.zip_longest(panels.flat, names):
            if name is None:
                panel.remove()
                continue
            draw(panel, name, [row for row in table if row["workload"] == name])
        panels[0, 0].legend(fontsize=7, frameon=False)


def draw(panel: Any, name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Draw the policies of one workload."""
    from matplotlib.ticker import LogLocator  # noqa: PLC0415  # not needed by the simulation

    styles = {"Optimum": ("--", "#c0392b", "optimum"), "Learned": (".-", "#7f9cf5", "Learned")}
    for policy, (style, colour, label) in styles.items():
        shown = [row for row in rows if row["policy"] == policy]
        panel.plot([row["checks"] for row in shown], [row["lag"] for row in shown], style, color=colour, label=label)
    for row in rows:
        if row["policy"] == "Learned":
            panel.annotate(f"{row['poll_cost']:g}", (row["checks"], row["lag"]), (4, 2), **_BESIDE)
    fixed = {row["policy"]: row for row in rows if row["policy"].startswith("FixedInterval")}.values()
    panel.plot([row["checks"] for row in fixed], [row["lag"] for row in fixed], ".:", color="#555", label="fixed")
    for row in fixed:
        panel.annotate(row["policy"][13:].strip("()") + " s", (row["checks"], row["lag"]), (3, 4), **_BESIDE)
    backoff = next(row for row in rows if row["policy"] == "Backoff()")
    panel.plot(backoff["checks"], backoff["lag"], "s", color="#e0a030", markersize=5, label="Backoff")
    panel.axvline(1, color="#2e8b57", linewidth=1, label="oracle: 1 check, no lag")
    panel.set(title=name, xscale="log", yscale="log", xlabel="checks per task", ylabel="mean lag (s)")
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter("{x:g}")
    panel.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    panel.yaxis.set_minor_formatter("{x:g}")
    panel.yaxis.set_tick_params(which="minor", labelsize=7)


_BESIDE: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7}


def show(table: Sequence[dict[str, Any]]) -> None:
    """Print the costs of all policies."""
    print(
        f"{'workload':15} {'poll_cost':>9} {'policy':18} {'lag (s)':>8} {'checks':>7} {'cost (s)':>9} {'/ optimum':>9}"
    )
    for row in table:
        ratio = "" if row["cost_to_optimum"] is None else f"{row['cost_to_optimum']:9.3f}"
        figures = f"{row['lag']:8.2f} {row['checks']:7.2f} {row['cost']:9.3f} {ratio}"
        print(f"{row['workload']:15} {row['poll_cost']:9g} {row['policy']:18} {figures}")


def main() -> None:
    """Run the benchmark."""
    options = parse(
        __doc__,
        {"tasks": 200, "repetitions": 1},
        tasks=(3000, "tasks of a workload"),
        poll_cost=(POLL_COSTS, "costs of a check, in seconds of lag"),
        repetitions=(3, "repetitions with other durations"),
    )
    skip = options.tasks // 10
    tasks, names = options.tasks, [load.name for load in workloads(options.tasks)]
    seeds = range(SEED, SEED + options.repetitions)
    with ProcessPoolExecutor(2) as pool:  # other processes do not disturb a virtual clock
        repeated = [pool.submit(figures_of_seed, seed, tasks, skip) for seed in seeds]
        ceiling = pool.submit(rate_rows, 500 if options.quick else 10_000, 5.0 if options.quick else 100.0)
        tables = [pool.submit(costs, name, tasks, skip, options.poll_cost) for name in names]
    table = [row for made in tables for row in made.result()]
    show(table)
    aims = list(target_rows([figures.result() for figures in repeated]))
    aims += cpu_rows(options.tasks // 2)
    aims += ceiling.result()
    setup = {"tasks": options.tasks, "not counted": skip, "repetitions": options.repetitions}
    report("waiting", aims, setup, options)
    plot(table, options.output / "waiting.svg")


if __name__ == "__main__":
    main()
