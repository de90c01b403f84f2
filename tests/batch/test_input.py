"""The identities of the rows of an input: they come from the row alone."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from qwen_edit_async.batch.input import BatchInput
from qwen_edit_async.batch.output import BatchOutput
from qwen_edit_async.batch.rules.item import EditDefaults, Reading

SNOW = EditDefaults("make it snow")


@pytest.fixture
def items(tmp_path):
    """The rows of a table with these cells, or of a data frame."""

    def read(header: str, *rows: str, folder: str = "here", frame: pd.DataFrame | None = None):
        table = tmp_path / folder / "edits.csv"
        table.parent.mkdir(exist_ok=True)
        table.write_text("".join(f"{line}\n" for line in (header, *rows)), encoding="utf-8")
        source = table if frame is None else frame
        output = BatchOutput(tmp_path / "out", overwrite=False)
        given = BatchInput(source, Reading(SNOW, base=str(tmp_path)), output)
        return list(given.survey(lambda _: None))

    return read


def by_instruction(rows):
    return {item.request.instruction: item.identity for item in rows}


def identities(rows):
    return [item.identity for item in rows]


def test_an_identity_does_not_depend_on_where_its_row_is_or_what_else_is_there(items):
    rows = [f"a.jpg,{words}" for words in ("snow", "rain", "night")]
    there = by_instruction(items("image,instruction", *rows))
    assert len(set(there.values())) == 3
    assert by_instruction(items("image,instruction", *rows[::-1])) == there
    assert by_instruction(items("image,instruction", *rows[1:])).items() < there.items()


def test_a_table_that_moves_keeps_its_identities(items):
    here, there = (items("image", "b/x.jpg", "a/x.jpg", folder=folder) for folder in ("here", "there"))
    assert identities(here) == identities(there)
    assert len(set(identities(here))) == 2
    assert here[0].request.images != there[0].request.images


def test_rows_that_are_the_same_in_everything_are_numbered(items):
    first, second, third = identities(items("image", "a.jpg", "a.jpg", "a.jpg"))
    assert (second, third) == (f"{first}-2", f"{first}-3")


def test_the_key_is_the_identity_and_one_that_comes_again_is_a_problem(items):
    first, second, third = items("image,key", "x.jpg,a", "x.jpg,A", "y.jpg,a")
    assert (first.identity, second.identity) == ("a", "A")
    assert (third.request, third.problem, third.row) == (None, "the key 'a' belongs to another row", 4)


def test_a_signature_is_not_part_of_an_identity(items):
    def signed(signature):
        urls = [f"https://bucket.example/{folder}/x.png?Signature={signature}&Expires=1" for folder in "ab"]
        return identities(items("image", *urls))

    assert signed("one") == signed("two")
    assert len(set(signed("one"))) == 2


def test_an_image_in_memory_is_known_by_its_content_in_every_run(items):
    def identity(image):
        (row,) = items("image", frame=pd.DataFrame({"image": [image]}))
        return row.identity

    pictures = [Image.new("L", (9, 9)) for _ in range(2)]
    assert identity(pictures[0]) == identity(pictures[1]) != identity(Image.new("L", (9, 9), 1))
    assert identity(io.BytesIO(b"1")).startswith("edit-")


def test_the_memory_of_a_table_does_not_grow_with_its_rows(tmp_path):
    table = tmp_path / "edits.csv"
    table.write_text(
        "\n".join(["image", *(f"https://example.org/{row}.jpg" for row in range(4_000))]), encoding="utf-8"
    )
    output = BatchOutput(tmp_path / "out", overwrite=False)
    given = BatchInput(table, Reading(SNOW, base=str(tmp_path)), output)
    tracemalloc.start()
    count = sum(1 for _ in given.survey(lambda _: None))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 4_000
    assert kept < 300_000  # the identities would take 500,000 bytes


def test_bad_rows_stay_where_they_are(items):
    bad, good = items("image,n", "a.jpg,9", "a.jpg,1")
    assert (bad.request, bad.row, bad.identity) == (None, 2, "")
    assert Path(good.request.images[0]).name == "a.jpg"
