"""Checks per task against the lag of their detection, for poll policies on the same durations, in simulated time.

Nothing is sent and nothing waits: tasks, the service's slots and the checks are events on a virtual clock, so that the
figures are exact, the same on every machine, and free of network delay. An oracle that knows when each task ends, and
the best schedule that knows only the true distribution (by dynamic programming), show what is left to gain.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from _report import Row, report
from _simulation import SEED, Figures, Workload, optimum, simulate, simulate_rate, workloads

from qwen_edit_async import Backoff, FixedInterval, Learned, PollPolicy

POLL_COSTS = (0.05, 0.1, 0.2, 0.5, 1.0)
INTERVALS = (0.5, 1.0, 3.0, 5.0)
TARGETS = {
    "lognormal": (0.65, 0.65),
    "bimodal": (0.72, None),
    "drifting": (0.70, None),
    "queueing": (0.30, None),
}
"""At most so many checks at the lag of ``FixedInterval(3)``, and so much lag at its checks, as ratios."""


def costs(workload: Workload, skip: int, poll_costs: Sequence[float]) -> Iterator[dict[str, Any]]:
    """One row for each policy and poll cost."""
    fixed: dict[str, PollPolicy] = {f"FixedInterval({seconds:g})": FixedInterval(seconds) for seconds in INTERVALS}
    policies = {**fixed, "Backoff()": Backoff()}
    heedless = {name: simulate(policy, workload, skip=skip) for name, policy in policies.items()}
    for poll_cost in poll_costs:
        learned = simulate(Learned(poll_cost), workload, skip=skip)
        best = optimum(workload, poll_cost) if workload.known else None
        for name, figures in {"Oracle": Figures(0.0, 1.0), "Learned": learned, **heedless}.items():
            cost = figures.cost(poll_cost)
            yield {
                "workload": workload.name,
                "poll_cost": poll_cost,
                "policy": name,
                **figures._asdict(),
                "cost": cost,
                "cost_to_optimum": cost / best if best else None,
            }


def frontier(workload: Workload, skip: int) -> list[Figures]:
    """What :class:`Learned` reaches at ever higher poll costs."""
    return [simulate(Learned(float(cost)), workload, skip=skip) for cost in np.geomspace(0.03, 6.0, 8)]


def beside_fixed(reached: Sequence[Figures], fixed: Figures) -> tuple[float, float]:
    """The checks of :class:`Learned` at the lag of a fixed interval, and its lag at that one's checks, as ratios."""
    lags, checks = np.log([figures.lag for figures in reached]), np.log([figures.checks for figures in reached])
    checks_at_lag = np.interp(np.log(fixed.lag), lags, checks)
    lag_at_checks = np.interp(np.log(fixed.checks), checks[::-1], lags[::-1])
    return float(np.exp(checks_at_lag)) / fixed.checks, float(np.exp(lag_at_checks)) / fixed.lag


def target_rows(
    repeated: Sequence[Sequence[tuple[Workload, list[Figures], Figures]]], skip: int, *, aimed: bool
) -> Iterator[Row]:
    """What was aimed at, for each workload; a repetition is another seed."""
    for of_workload in zip(*repeated, strict=True):
        name = of_workload[0][0].name
        ratios = [beside_fixed(reached, fixed) for _, reached, fixed in of_workload]
        aims = zip(("checks at the lag", "lag at the checks"), zip(*ratios, strict=True), (0, 1), strict=True)
        for what, values, place in aims:
            limit = TARGETS.get(name, (None, None))[place] if aimed else None
            yield Row(f"{name}: {what} of FixedInterval(3)", "library", values, limit)
        if name == "lognormal":
            to_best = [simulate(Learned(), w, skip=skip).cost(0.2) / optimum(w, 0.2) for w, *_ in of_workload]
            yield Row(f"{name}: cost / optimum", "library", to_best, 1.12 if aimed else None)
        if name == "lying progress":
            silent = [attrs.evolve(workload, noise=None) for workload, *_ in of_workload]
            pairs = [(w, s) for (w, *_), s in zip(of_workload, silent, strict=True)]
            excess = [
                simulate(Learned(), lying, skip=skip).cost(0.2) / simulate(Learned(), none, skip=skip).cost(0.2)
                for lying, none in pairs
            ]
            yield Row(f"{name}: cost / cost without", "library", excess, 1.1 if aimed else None)
        if name == "progress":
            lags = [beside_fixed(reached, Figures(1.0, 2.7))[1] for _, reached, _ in of_workload]
            medians = [float(np.median(workload.seconds)) for workload, *_ in of_workload]
            shares = [lag / median for lag, median in zip(lags, medians, strict=True)]
            yield Row(f"{name}: lag at 2.7 checks / median duration", "library", shares, 0.03 if aimed else None)


def rate_rows(in_flight: int, poll_rate: float, seeds: Sequence[int]) -> Iterator[Row]:
    """A ceiling for the checks, spent as :class:`Learned` says, and in turn."""
    ranked = [simulate_rate(Learned(), in_flight, poll_rate, seed=seed) for seed in seeds]
    in_turn = [simulate_rate(FixedInterval(3.0), in_flight, poll_rate, seed=seed) for seed in seeds]
    what = f"{in_flight} in flight, {poll_rate:g}/s"
    ratios = [ours / theirs for (ours, _), (theirs, _) in zip(ranked, in_turn, strict=True)]
    yield Row(f"{what}: lag / lag in turn", "library", ratios, 1.0)
    bound = Learned().max_interval + (4 + 1 / 64) * in_flight / poll_rate
    yield Row(f"{what}: longest between checks (s)", "library", [longest for _, longest in ranked], bound)


def plot(rows: Sequence[dict[str, Any]], frontiers: dict[str, list[Figures]], path: Path) -> None:
    """Lag against checks: below and to the left is better."""
    import matplotlib as mpl  # noqa: PLC0415  # the simulation does without

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = path.stem
    from matplotlib import pyplot as plt  # noqa: PLC0415  # likewise

    canvas, panels = plt.subplots(2, (len(frontiers) + 1) // 2, figsize=(13, 6.5), squeeze=False)
    for panel, (name, reached) in zip(panels.flat, frontiers.items(), strict=False):
        panel.plot(*zip(*((f.checks, f.lag) for f in reached), strict=True), ".-", color="#7f9cf5")
        panel.annotate("Learned", (reached[-1].checks, reached[-1].lag), fontsize=7)
        for row in rows:
            if row["workload"] == name and row["poll_cost"] == rows[0]["poll_cost"] and row["policy"] != "Learned":
                panel.plot(row["checks"], max(row["lag"], 0.1), "k.")
                label = row["policy"] if row["lag"] else f"{row['policy']} (no lag)"
                panel.annotate(label, (row["checks"], max(row["lag"], 0.1)), fontsize=7)
        panel.set(title=name, xscale="log", yscale="log", xlabel="checks per task", ylabel="mean lag (s)")
        panel.spines[["top", "right"]].set_visible(False)
    canvas.tight_layout()
    canvas.savefig(path, metadata={"Date": None})
    plt.close(canvas)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=3000, help="tasks of a workload (default: %(default)s)")
    parser.add_argument("--poll-cost", type=float, nargs="+", default=POLL_COSTS, help="seconds (default: %(default)s)")
    parser.add_argument("--repetitions", type=int, default=5, help="with other durations (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="400 tasks, once: does it run at all?")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder for the results")
    options = parser.parse_args()
    if options.quick:
        options.tasks, options.repetitions = 400, 1
    skip = options.tasks // 10
    seeds = range(SEED, SEED + options.repetitions)
    table = [row for load in workloads(options.tasks) for row in costs(load, skip, options.poll_cost)]
    print(
        f"{'workload':15} {'poll_cost':>9} {'policy':18} {'lag (s)':>8} {'checks':>7} {'cost (s)':>9} {'/ optimum':>9}"
    )
    for row in table:
        ratio = "" if row["cost_to_optimum"] is None else f"{row['cost_to_optimum']:9.3f}"
        figures = f"{row['lag']:8.2f} {row['checks']:7.2f} {row['cost']:9.3f} {ratio}"
        print(f"{row['workload']:15} {row['poll_cost']:9g} {row['policy']:18} {figures}")
    repeated = [
        [
            (load, frontier(load, skip), simulate(FixedInterval(3.0), load, skip=skip))
            for load in workloads(options.tasks, seed)
        ]
        for seed in seeds
    ]
    setup = {"tasks": options.tasks, "not counted": skip, "repetitions": options.repetitions}
    aims = list(target_rows(repeated, skip, aimed=not options.quick))
    aims += rate_rows(500 if options.quick else 10_000, 5.0 if options.quick else 100.0, seeds[:1])
    report("waiting", aims, setup, options.output)
    (options.output / "waiting-costs.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    plot(table, {load.name: reached for load, reached, _ in repeated[0]}, options.output / "waiting-pareto.svg")


if __name__ == "__main__":
    main()
