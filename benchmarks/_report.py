"""A benchmark's output: a table on stdout, and JSON and a plot in a folder."""

from __future__ import annotations

import functools
import json
import os
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import attrs
from _measure import summary

_PACKAGES = (
    *("aiohttp", "attrs", "cattrs", "pillow", "pybase64", "uvloop"),
    *("httpx", "fal-client", "replicate", "dashscope"),
)
_COLOUR, _MUTED_COLOUR = "#7f9cf5", "#c8cdd8"


@attrs.frozen
class Row:
    """One figure of one contender.

    Attributes:
        figure: The measured quantity, with its unit.
        contender: The measured client or setup.
        values: A value for each repetition.
        limit: The target that the median must not exceed, if any.
    """

    figure: str
    contender: str
    values: Sequence[float]
    limit: float | None = None


def report(
    name: str,
    rows: Sequence[Row],
    setup: dict[str, Any],
    output: Path,
    plot: Callable[[Path], None] | None = None,
) -> None:
    """Print the table, and write ``{name}.json`` and ``{name}.svg`` (bars, unless ``plot`` is given)."""
    width = max(len(row.figure) for row in rows)
    contender_width = max(len(row.contender) for row in rows)
    print(f"\n{name}: " + ", ".join(f"{key} {value}" for key, value in setup.items()))
    print(f"{'figure':{width}}  {'of':{contender_width}}  median (lowest to highest)")
    for row in rows:
        verdict = "" if row.limit is None else f"   {_verdict(row, row.limit)}"
        print(f"{row.figure:{width}}  {row.contender:{contender_width}}  {summary(row.values)}{verdict}")
    output.mkdir(parents=True, exist_ok=True)
    document = {
        "setup": setup,
        "machine": {
            "cpus": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            **{package: _version(package) for package in _PACKAGES},
        },
        "figures": [{**attrs.asdict(row), **attrs.asdict(summary(row.values))} for row in rows],
    }
    (output / f"{name}.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if plot is None:
        plot = functools.partial(_plot, name, rows)
    plot(output / f"{name}.svg")
    print(f"written: {output / name}.json and .svg")


def _verdict(row: Row, limit: float) -> str:
    return f"{'meets' if summary(row.values).median <= limit else 'MISSES'} the target of at most {limit:g}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _plot(name: str, rows: Sequence[Row], path: Path) -> None:
    """Draw a panel per figure: bars for medians, dots for repetitions, a line for the target."""
    import matplotlib as mpl  # noqa: PLC0415  # keeps the measured processes small

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = name
    from matplotlib import pyplot as plt  # noqa: PLC0415  # keeps the measured processes small

    figures = list(dict.fromkeys(row.figure for row in rows))
    heights = [0.7 + 0.25 * sum(row.figure == figure for row in rows) for figure in figures]
    canvas, panels = plt.subplots(
        len(figures), 1, figsize=(8, sum(heights) + 0.6), height_ratios=heights, squeeze=False
    )
    for panel, figure in zip(panels[:, 0], figures, strict=True):
        shown = [row for row in rows if row.figure == figure]
        colours = [_COLOUR if row.contender.startswith("library") else _MUTED_COLOUR for row in shown]
        panel.barh(
            [row.contender for row in shown], [summary(row.values).median for row in shown], color=colours, height=0.6
        )
        for row in shown:
            panel.plot(row.values, [row.contender] * len(row.values), "k.", markersize=4)
            if row.limit is not None:
                panel.axvline(row.limit, color="#c0392b", linestyle="--", linewidth=1)
        panel.set_title(figure, loc="left", fontsize=9)
        panel.set_xlim(left=0)
        panel.invert_yaxis()
        panel.spines[["top", "right"]].set_visible(False)
    canvas.tight_layout()
    canvas.savefig(path, metadata={"Date": None})
    plt.close(canvas)
