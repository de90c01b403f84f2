"""Execute the notebook in a Jupyter kernel, and interrupt it in the middle of a run."""

from __future__ import annotations

import asyncio
import re
import warnings
from pathlib import Path
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # from the imports of other packages
    import nbformat
    from nbclient import NotebookClient

NOTEBOOK = Path(__file__).with_name("bulk_edit.ipynb")
EDITS = 24
DONE_BEFORE_INTERRUPT = 6


class InterruptingClient(NotebookClient):
    """Interrupts the kernel in the cell with the tag ``interrupted``, once enough edits are done."""

    interrupted = False

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        text = str(msg["content"].get("data", {}).get("text/plain", ""))
        found = re.match(r"(\d+) of \d+ edits", text)
        wanted = "interrupted" in cell.metadata.get("tags", ())
        if wanted and found and int(found[1]) >= DONE_BEFORE_INTERRUPT and not self.interrupted:
            self.interrupted = True
            asyncio.ensure_future(self.km.interrupt_kernel())  # noqa: RUF006  # the client outlives it
        return super().process_message(msg, cell, cell_index)


@pytest.fixture(scope="module")
def executed():
    """The notebook with its outputs, by cell id."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = InterruptingClient(notebook, timeout=60, kernel_name="python3", allow_errors=False)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from the kernel's client
        patch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
        for cell in notebook.cells:
            if "interrupted" in cell.metadata.get("tags", ()):
                cell.metadata["tags"].append("raises-exception")
        client.execute()
    assert client.interrupted
    return {cell.id: cell for cell in notebook.cells}


def outputs(cell: Any, kind: str) -> list[str]:
    """Return the outputs of a cell that have this media type."""
    shown = [output["data"][kind] for output in cell.outputs if kind in output.get("data", {})]
    printed = [output["text"] for output in cell.outputs if output.output_type == "stream"]
    return shown + (printed if kind == "text/plain" else [])


def test_nothing_is_committed_but_the_code():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert [cell.id for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")] == []


def test_no_cell_but_the_interrupted_one_fails(executed):
    failed = [key for key, cell in executed.items() if any(o.output_type == "error" for o in cell.get("outputs", ()))]
    assert failed == ["many"]


def test_one_edit_shows_before_and_after(executed):
    (shown,) = outputs(executed["one"], "text/html")
    assert shown.count("data:image/webp;base64,") == 2
    assert len(shown) < 100_000
    assert outputs(executed["one"], "text/plain")[0].startswith("EditResult(")


def test_progress_is_one_line_that_was_updated(executed):
    (shown,) = outputs(executed["many"], "text/html")
    ended = int(re.search(r"(\d+) of 24 edits", shown)[1])
    assert DONE_BEFORE_INTERRUPT <= ended < 24


def table_of(cell: Any) -> dict[str, str]:
    """Return the rows of the report that a cell shows, as text by name."""
    (shown,) = (html for html in outputs(cell, "text/html") if html.startswith("<table>"))
    rows = re.findall(r"<th.*?>(.*?)</th><td.*?>(.*?)</td>", shown)
    return {name: re.sub("<.*?>", "", content) for name, content in rows}


def test_an_interrupted_run_shows_its_state(executed):
    table = table_of(executed["stood"])
    assert DONE_BEFORE_INTERRUPT <= int(table["done"].partition(" ")[0]) < EDITS
    assert int(table["in flight when the run ended"]) > 0
    assert table["stopped"] == "the run was interrupted"
    assert table["next"].startswith("run it again")
    assert table["before and after"].endswith("edited/report.html")


def test_an_interrupted_run_is_resumed_and_nothing_is_submitted_twice(executed):
    table = table_of(executed["resume"])
    assert (table["done"], table["pictures"]) == (f"{EDITS} of {EDITS} edits", str(EDITS))
    assert f"{EDITS + 1} tasks for {EDITS + 1} edits\n" in outputs(executed["resume"], "text/plain")


def test_the_grid_shows_some_and_counts_the_others(executed):
    (shown,) = outputs(executed["grid"], "text/html")
    assert shown.count("data:image/webp;base64,") == 16
    assert "and 16 more" in shown


def test_outcomes_make_a_table(executed):
    (shown,) = outputs(executed["table"], "text/html")
    assert "<table" in shown
    assert "turn day into night" in shown


def test_the_session_is_closed_in_the_last_cell(executed):
    assert "closed" in outputs(executed["close"], "text/plain")[0]


def test_the_key_is_shown_nowhere(executed):
    assert "qwen-edit-emulator-key" not in str(executed)
