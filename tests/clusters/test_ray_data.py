from __future__ import annotations

import asyncio
import re
import textwrap
from pathlib import Path

import chaos
import pandas as pd
import pyarrow as pa
import pytest
import ray

from qwen_edit_async import ConfigurationError, EditRequest
from qwen_edit_async import ray as edits_on_ray
from qwen_edit_async.batch.fingerprint import ImageHash
from qwen_edit_async.ray import EditRows, get_hub, start_hub

pytestmark = [pytest.mark.filterwarnings("ignore")]

ADDED = {
    "status": pa.string(),
    "task_id": pa.string(),
    "files": pa.list_(pa.string()),
    "cost": pa.float64(),
    "error": pa.string(),
}

BY_BLOCK = {"map": {}, "map_batches": {"batch_size": None}}


def test_nothing_is_paid_twice_or_lost_whichever_process_is_killed(service, logs, hub, tmp_path):
    rows = ray.data.from_items(chaos.rows_in(tmp_path, "ray"), override_num_blocks=8)
    with chaos.Killer(hub) as killer:
        options = {"hub": hub, "save_to": str(tmp_path / "out"), "port": killer.port}
        edited = rows.map(chaos.ReportingRows, fn_constructor_kwargs=options, concurrency=4).take_all()
    assert sorted(killer.killed) == ["hub", "hub", "worker", "worker"]
    chaos.check(edited, chaos.statistics(service), tmp_path / "out")

    report, statuses = hub.report(), [row["status"] for row in edited]
    assert (report.saved, report.uncertain) == (statuses.count("saved"), statuses.count("uncertain"))
    key = service["QWEN_EDIT_API_KEY"].encode()
    written = [path for folder in (logs, tmp_path) for path in folder.rglob("*") if path.is_file()]
    assert [path for path in written if key in path.read_bytes()] == []


@pytest.mark.parametrize("method", ["map", "map_batches"])
def test_columns_have_the_same_types_whether_edits_succeed_or_fail(hub, tmp_path, method):
    good = [row | {"seed": 7, "n": None} for row in chaos.rows_in(tmp_path, method)[:3]]
    bad = [row | {"image": "gone.png"} for row in good]
    rows = ray.data.from_items(good + bad, override_num_blocks=2)
    options = {"hub": hub, "save_to": str(tmp_path / "out")}
    edited = getattr(rows, method)(EditRows, fn_constructor_kwargs=options, concurrency=1, **BY_BLOCK[method])
    tables = sorted(ray.get(edited.to_arrow_refs()), key=lambda table: table["image"][0].as_py() == "gone.png")
    assert set(tables[1]["status"].to_pylist()) == {"failed"}
    assert "saved" in tables[0]["status"].to_pylist()
    for table in tables:
        assert {name: table.schema.field(name).type for name in ADDED} == ADDED
        assert table["instruction"].to_pylist() == [row["instruction"] for row in good]


def read_examples() -> dict[str, str]:
    """Return the example of the module and that of the README."""
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    return {
        "module": textwrap.dedent(edits_on_ray.__doc__.partition("::\n")[2].partition("\nThe hub")[0]),
        "README": re.search(r"^```python\n(import ray\n.*?)^```$", readme, re.MULTILINE | re.DOTALL)[1],
    }


@pytest.mark.parametrize("source", ["module", "README"])
def test_the_example_runs(logs, tmp_path, capsys, source):
    for folder in ("data", "shared"):
        (tmp_path / folder).mkdir()
    rows = chaos.rows_in(tmp_path, source)[:3]
    pd.DataFrame(rows).to_csv(tmp_path / "shared" / "edits.csv")
    example = read_examples()[source]
    exec(example.replace('"/', f'"{tmp_path}/'), {})
    assert "of 3 edits done" in capsys.readouterr().out
    table = pd.read_parquet(tmp_path / "shared" / "table")
    assert sorted(table["key"]) == [row["key"] for row in rows]
    assert {path for files in table["files"] for path in files} == {
        str(path) for path in (tmp_path / "shared" / "edited").iterdir()
    }


def test_a_stopped_hub_fails_no_row_and_the_next_one_answers_from_the_journal(service, logs, tmp_path):
    rows = chaos.rows_in(tmp_path, "again")[:3]

    def edited(hub):
        async def edit() -> list:
            worker = EditRows(hub, tmp_path / "out")
            return [await worker.edit(row) for row in rows]

        return asyncio.run(edit())

    with chaos.running_hub(tmp_path / "job") as hub:
        first = edited(hub)
    assert [(row["status"], row["task_id"]) for row in edited(hub)] == [("planned", None)] * 3
    with pytest.raises(ConfigurationError, match="there is no hub 'hub'"):
        get_hub()

    created = chaos.statistics(service)["tasks_created"]
    with chaos.running_hub(tmp_path / "job"):
        hub = get_hub()
        assert edited(hub) == first
        assert hub.statistics().submitted == 0
    assert chaos.statistics(service)["tasks_created"] == created


def test_a_hub_keeps_its_options_and_its_key_to_itself(hub, tmp_path):
    again = start_hub(tmp_path / "job", max_in_flight=chaos.LIMIT, submit_rate=chaos.RATE)
    assert chaos.process_of(again) == chaos.process_of(hub) == chaos.process_of(get_hub())
    with pytest.raises(ConfigurationError, match="the hub 'hub' runs with other options"):
        start_hub(tmp_path / "job")
    with pytest.raises(ConfigurationError, match="leave out api_key"):
        start_hub(tmp_path / "job", api_key="sk-secret")


def test_a_hub_with_ten_thousand_waiting_calls_still_answers(logs, tmp_path):
    requests = (EditRequest(ImageHash(str(number)), "make it snow", key=str(number)) for number in range(10_100))
    with chaos.running_hub(tmp_path / "job") as hub:
        waiting = [hub._actor.edit.remote(request) for request in requests]
        assert ray.get(hub._actor.statistics.remote(), timeout=120).submitted == 0
        assert len(ray.wait(waiting, num_returns=len(waiting), timeout=0)[1]) > 10_000


def test_a_wrong_option_is_refused_and_leaves_no_hub(logs, tmp_path):
    with pytest.raises(ConfigurationError, match="max_in_flight is 0"):
        start_hub(tmp_path / "other", name="other", max_in_flight=0)
    with pytest.raises(TypeError, match="max_inflight"):
        start_hub(tmp_path / "other", name="other", max_inflight=1)
    start_hub(tmp_path / "other", name="other").stop()
