"""A benchmark's output: a table on stdout, and JSON in a folder. ``_page.py`` makes a page of all results."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import attrs
from _measure import summary

_PACKAGES = (
    *("aiohttp", "attrs", "cattrs", "pillow", "pybase64", "uvloop"),
    *("httpx", "fal-client", "replicate", "dashscope"),
)


@attrs.frozen
class Row:
    """One figure of one contender.

    Attributes:
        figure: The measured quantity, with its unit.
        contender: The measured client or setup. The page compares ``library`` with the best of the others.
        values: A value for each repetition.
        limit: The target that the median must not exceed, if any.
    """

    figure: str
    contender: str
    values: Sequence[float]
    limit: float | None = None


def parse(doc: str, quick: dict[str, Any], **options: tuple[Any, str]) -> argparse.Namespace:
    """Read the options of a module.

    Args:
        doc: The module's docstring.
        quick: The values that ``--quick`` gives to some options.
        **options: The default and the help text of each option.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    for name, (default, text) in options.items():
        several = isinstance(default, list)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(default[0] if several else default),
            nargs="+" if several else None,
            default=default,
            help=f"{text} (default: %(default)s)",
        )
    parser.add_argument(
        "--quick", action="store_true", help="only check that the benchmark runs, with small numbers and no limits"
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder for the results")
    found = parser.parse_args()
    if found.quick:
        vars(found).update(quick)
    return found


def report(name: str, rows: Sequence[Row], setup: dict[str, Any], options: argparse.Namespace) -> list[str]:
    """Print the table, write ``{name}.json``, and return the figures that missed their target."""
    rows = [attrs.evolve(row, limit=None) for row in rows] if options.quick else rows
    output = options.output
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
    print(f"written: {output / name}.json")
    return [row.figure for row in rows if row.limit is not None and summary(row.values).median > row.limit]


def _verdict(row: Row, limit: float) -> str:
    return f"{'meets' if summary(row.values).median <= limit else 'MISSES'} the target of at most {limit:g}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@contextmanager
def drawn(path: Path, **options: Any) -> Iterator[Any]:
    """Provide the panels of a plot, and write the plot after the block. The same figures give the same file."""
    import matplotlib as mpl  # noqa: PLC0415  # keeps the measured processes small

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = path.stem
    from matplotlib import pyplot as plt  # noqa: PLC0415  # as above

    canvas, panels = plt.subplots(squeeze=False, **options)
    yield panels
    for panel in panels.flat:
        panel.spines[["top", "right"]].set_visible(False)
    canvas.tight_layout()
    canvas.savefig(path, metadata={"Date": None})
    plt.close(canvas)
