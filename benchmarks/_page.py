"""Writes the results of all benchmarks into README.md, between two comments.

Run it as ``python benchmarks/_page.py SECONDS``, with the time that the benchmarks took.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _measure import summary

_FOLDER = Path(__file__).parent
_TITLES = {
    "batch": "Bulk run with its page: inputs of 0.2 MB, results of 2 MB, tasks of 2 s, 50 in flight",
    "waiting": "Waiting for tasks of 20 s, simulated (checks, lag and cost as multiples)",
    "peers": "Many short edits",
    "downloads": "Downloads of results of 2 MB",
    "uploads": "Uploads of three 8 MB files an edit",
    "journal": "The journal: 2,000 rows with `EditBatch`, and with a session alone",
    "hub": "The hub: 1,000 rows asked for by worker processes, and a simulation on a virtual clock",
    "pacing": "Small accounts, 200 edits",
    "scale": "Tasks in flight, 1,500 checks per second",
    "start": "Start",
    "checks": "Checks of image files before they are sent",
}
_MARKS = re.compile(r"(<!-- results -->\n).*(<!-- end of results -->\n)", re.DOTALL)


def page(seconds: float) -> str:
    """Return the tables of all benchmarks."""
    documents = {name: json.loads((_FOLDER / "results" / f"{name}.json").read_text("utf-8")) for name in _TITLES}
    machine = documents["batch"]["machine"]
    run = f"{machine['cpus']} cores, {machine['system']}, Python {machine['python']}, aiohttp {machine['aiohttp']}"
    lines = [f"One run of `nox -s bench`: {run}, {seconds / 60:.0f} minutes. Values are medians (lowest to highest)."]
    for name, title in _TITLES.items():
        lines += [
            "",
            f"| {title} | ours | best peer | limit |",
            "|---|---|---|---|",
            *_rows(documents[name]["figures"]),
        ]
    return "\n".join(lines) + "\n"


def _rows(figures: list[dict[str, Any]]) -> Iterator[str]:
    for row in figures:
        if row["contender"] != "library":
            continue
        peers = [
            each for each in figures if each["figure"] == row["figure"] and not each["contender"].startswith("library")
        ]
        best = min(peers, key=lambda peer: float(peer["median"]), default=None)
        peer = "" if best is None else f"{_shown([best['median']])} ({best['contender']})"
        limit = "" if row["limit"] is None else _shown([row["limit"]])
        missed = row["limit"] is not None and row["median"] > row["limit"]
        yield f"| {row['figure']} | {_shown(row['values'])}{' **missed**' if missed else ''} | {peer} | {limit} |"


def _shown(values: list[float]) -> str:
    found = summary(values)
    return str(found) if found.low < found.high else str(found).partition(" ")[0]


def main() -> None:
    """Replace the results in the README."""
    path = _FOLDER / "README.md"
    text = path.read_text("utf-8")
    tables = page(float(sys.argv[1]))
    path.write_text(_MARKS.sub(lambda marks: f"{marks[1]}{tables}{marks[2]}", text), "utf-8")


if __name__ == "__main__":
    main()
