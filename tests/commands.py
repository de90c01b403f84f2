"""Runs the ``qwen-edit`` command, and looks at its results."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qwen_edit_async.cli import main

API_KEY = "sk-never-shown-5f1c"
"""The key of the emulated service; no output may show it."""

QUICK = ("--poll-interval", "0.02")
"""Options that make a command check its tasks often."""


def start_command(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start ``qwen-edit`` in a process. Its output is piped unless ``options`` say otherwise."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", "qwen_edit_async", *arguments], **pipes | options)


def wait_while_running(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Wait until a condition holds. Fail if the process ends first."""
    while not condition():
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.02)


def run_edit(photos: Path, *options: str) -> int:
    """Edit ``a.png`` of a folder into the folder ``out`` beside it, and return the exit code."""
    return main(["edit", str(photos / "a.png"), "-i", "snow", "-o", str(photos.parent / "out"), *QUICK, *options])


def saved(folder: Path) -> list[str]:
    """Return the sorted names of the saved pictures."""
    return sorted(path.name for path in folder.glob("[!.]*.png"))


def is_png(path: str | Path) -> bool:
    return Path(path).read_bytes().startswith(b"\x89PNG")
