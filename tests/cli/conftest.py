"""Fixtures of the command line's tests."""

from __future__ import annotations

import json

import anyio
import pytest
import rich.console  # noqa: F401  # the first import reads the working directory, which blocks the loop
from commands import API_KEY, QUICK
from PIL import Image

from qwen_edit_async import EditSession
from qwen_edit_async.cli import main


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def no_key(monkeypatch):
    monkeypatch.delenv("QWEN_EDIT_API_KEY", raising=False)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def small(tmp_path):
    """Return a picture so small that the command prints a note."""
    folder = tmp_path / "small"
    folder.mkdir()
    Image.new("RGB", (100, 100)).save(folder / "a.png")
    return folder / "a.png"


@pytest.fixture
def table(photos):
    """Return a function that writes a table of rows beside the photos."""

    def write(*rows):
        path = photos / "edits.jsonl"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def batch(out):
    """Return a function that runs ``qwen-edit batch`` and returns the exit code."""

    def run(source, *options, instruction="snow"):
        asked = [] if instruction is None else ["-i", instruction]
        return main(["batch", str(source), *asked, "-o", str(out), *QUICK, *options])

    return run


@pytest.fixture
def submitted(service, photos):
    """Return a function that submits a picture, as another program would, and returns the task's id."""

    def submit(*faults):
        service.inject(*faults)
        return anyio.run(_submit, service, photos / "a.png")

    return submit


async def _submit(service, photo):
    async with EditSession(API_KEY, base_url=service.url) as session:
        return (await session.submit(photo, "snow")).id
