from __future__ import annotations

import chaos
import daft
import pytest
from daft.functions import to_struct, unnest

pytestmark = [pytest.mark.filterwarnings("ignore")]


def test_nothing_is_paid_twice_or_lost_whichever_process_is_killed(service, hub, tmp_path):
    daft.set_runner_ray(noop_if_initialized=True)
    table = daft.from_pylist(chaos.rows_in(tmp_path, "daft")).into_partitions(8)
    with chaos.Killer(hub) as killer:
        rows = daft.cls(chaos.ReportingRows, max_concurrency=32)(hub, str(tmp_path / "out"), killer.port)
        edit = rows.edit(to_struct(table["key"], table["image"], table["instruction"]))
        table = table.with_column("edit", edit).select("key", "instruction", unnest(daft.col("edit")))
        edited = table.to_pylist()
    assert sorted(killer.killed) == ["hub", "hub", "worker", "worker"]
    chaos.check(edited, chaos.statistics(service), tmp_path / "out")
