"""Where a bulk run reads and writes: in the working directory of the moment in which its batch was made."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest
from bulk_runs import PHOTO, pictures, service, states

from qwen_edit_async import EditBatch, EditRequest

pytestmark = pytest.mark.anyio


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The working directory, with ``photos/a/x.png``, ``photos/b/x.png`` and a table of them."""
    folder = tmp_path / "home [1]"
    for name in "ab":
        (folder / "photos" / name).mkdir(parents=True)
        (folder / "photos" / name / "x.png").write_bytes(PHOTO)
    (folder / "edits.csv").write_text("image\nphotos/a/x.png\nphotos/b/x.png\n", encoding="utf-8")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def elsewhere(tmp_path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("source", "keys"),
    [
        ("photos", ["x", "x-2"]),
        ("photos/*/x.png", ["x", "x-2"]),
        ("**/x.png", ["x", "x-2"]),
        ("edits.csv", ["x", "x-2"]),
        (pd.DataFrame({"image": ["photos/a/x.png", "photos/b/x.png"]}), ["x", "x-2"]),
        ("photos/a/x.png", ["x"]),
    ],
)
async def test_a_source_stays_where_it_was_though_the_working_directory_changes(
    here, elsewhere, monkeypatch, source, keys
):
    batch = EditBatch(source, "out", instruction="snow", recursive=True)
    monkeypatch.chdir(elsewhere)
    assert (await batch.plan()).submit == len(keys)
    monkeypatch.chdir(here)
    async with service() as (emulator, session):
        report = await batch.run(session, on_plan=lambda _: os.chdir(elsewhere))
        assert report.ok, report.text()
        again = await batch.run(session)
        assert (again.ok, len(emulator.tasks)) == (True, len(keys))
    assert list(states(here / "out")) == keys
    assert pictures(here / "out") == {f"{key}-0.png" for key in keys}
    assert (here / "out" / "report.html").exists()
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("strict", [False, True])
async def test_requests_find_their_images_though_the_working_directory_changes(here, elsewhere, monkeypatch, strict):
    images = ["photos/a/x.png", Path("photos/a/x.png"), [PHOTO, "photos/a/x.png"], (here / "photos" / "b" / "x.png")]
    requests = [EditRequest(image, "snow", key="mine" if image is images[-1] else None) for image in images]
    batch = EditBatch(requests, "out", strict=strict)
    monkeypatch.chdir(elsewhere)
    async with service() as (emulator, session):
        for _ in range(2):
            report = await batch.run(session)
            assert (report.ok, report.saved, len(emulator.tasks)) == (True, 3, 3), report.text()
    assert sorted(states(here / "out")) == ["edit", "mine", "x"]
    outcomes = {outcome.key: outcome async for outcome in batch.outcomes()}
    assert outcomes["x"].images == (str(here / "photos" / "a" / "x.png"),)
    assert list(elsewhere.iterdir()) == []


async def test_a_tilde_is_the_home_folder(here, elsewhere, monkeypatch):
    here = here.rename(here.with_name("home"))
    monkeypatch.setenv("HOME", str(here))
    monkeypatch.setenv("USERPROFILE", str(here))
    monkeypatch.chdir(elsewhere)
    async with service() as (_, session):
        report = await EditBatch("~/photos/a", "~/out", instruction="snow").run(session)
        assert report.ok
        report = await EditBatch("~/photos/*/x.png", Path("~", "more"), instruction="snow").run(session)
        assert report.ok
    assert pictures(here / "out") == {"x-0.png"}
    assert len(pictures(here / "more")) == 2
    assert list(elsewhere.iterdir()) == []
