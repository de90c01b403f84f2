"""Parquet files of a folder or a pattern are one table."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet
import pytest

from qwen_edit_async import ConfigurationError
from qwen_edit_async.batch.input import BatchInput
from qwen_edit_async.batch.output import BatchOutput
from qwen_edit_async.batch.rules.item import EditDefaults, Reading
from qwen_edit_async.batch.sources import is_table, read_source, table_folder

SNOW = EditDefaults("make it snow")
PNG = b"\x89PNG\r\n\x1a\n" + bytes(16)


@pytest.fixture
def parts(tmp_path):
    """Three parts, the second of them empty, and the marks that Spark leaves."""
    folder = tmp_path / "parts"
    folder.mkdir()
    for number, keys in enumerate((["a", "b"], [], ["c", ""])):
        images = ["x.png" if key else "" for key in keys]
        table = pa.table({"image": pa.array(images, pa.string()), "key": pa.array(keys, pa.string()), "extra": keys})
        pyarrow.parquet.write_table(table, folder / f"part-{number}.parquet", row_group_size=1)
    for mark in ("_SUCCESS", "._SUCCESS.crc"):
        (folder / mark).write_bytes(b"")
    return folder


@pytest.mark.parametrize("source", ["parts", "parts/", "parts/*.parquet", "p*/part-*"])
def test_the_parts_are_read_in_order(parts, tmp_path, source):
    notes = []
    items = list(read_source(source, Reading(SNOW, base=str(tmp_path), note=notes.append)))
    assert [item.request.key for item in items if item.request] == ["a", "b", "c"]
    assert str(items[0].request.images[0]) == str(parts / "x.png")
    assert [item.label for item in items] == [
        *("row 1 of part-0.parquet", "row 2 of part-0.parquet"),
        *("row 1 of part-2.parquet", "row 2 of part-2.parquet"),
    ]
    assert items[3].problem == "there is no image"
    assert notes == ["columns that are not used: extra"]
    assert is_table(source, str(tmp_path))
    assert table_folder(source, str(tmp_path)) == str(tmp_path if source.startswith("p*") else parts)


def test_a_new_part_in_another_folder_does_not_change_the_identities_of_other_rows(tmp_path):
    def add(path):
        path.parent.mkdir(parents=True)
        pyarrow.parquet.write_table(pa.table({"image": ["x.png"]}), path)

    output = BatchOutput(tmp_path / "out", overwrite=False)

    def identities():
        given = BatchInput("days/*/p.parquet", Reading(SNOW, base=str(tmp_path)), output)
        return [item.identity for item in given.survey(lambda _: None)]

    add(tmp_path / "days" / "02" / "p.parquet")
    before = identities()
    add(tmp_path / "days" / "01" / "p.parquet")
    assert identities()[1:] == before


def test_two_stars_match_parts_in_any_folder(parts, tmp_path):
    deep = parts / "x" / "y"
    deep.mkdir(parents=True)
    (parts / "part-2.parquet").rename(deep / "part-2.parquet")
    items = read_source("parts/**/*.parquet", Reading(SNOW, base=str(tmp_path)))
    assert [item.request.key for item in items if item.request] == ["a", "b", "c"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(parts):
    path = (parts / "part-0.parquet").rename(parts / "part[0].parquet")
    assert len(list(read_source(path, Reading(SNOW)))) == 2


def test_a_pattern_that_matches_one_part_is_that_table(parts, tmp_path):
    (first, second) = read_source("parts/part-0*", Reading(SNOW, base=str(tmp_path)))
    assert (first.label, second.label) == ("row 1", "row 2")


def test_a_part_is_opened_when_its_turn_comes(parts):
    (parts / "part-2.parquet").write_bytes(b"PAR1")
    items = read_source(parts, Reading(SNOW))
    assert [next(items).request.key for _ in range(2)] == ["a", "b"]
    with pytest.raises(ConfigurationError, match=r"part-2\.parquet is not a Parquet file"):
        next(items)


def test_parts_without_rows_are_refused(parts):
    for number in (0, 2):
        (parts / f"part-{number}.parquet").unlink()
    with pytest.raises(ConfigurationError, match=r"part-1\.parquet has no rows"):
        list(read_source(parts, Reading(SNOW)))


def test_a_folder_with_a_picture_is_no_table(parts):
    (parts / "a.png").write_bytes(PNG)
    assert not is_table(parts)
    (item,) = read_source(parts, Reading(SNOW))
    assert item.identity == "a.png"


def test_a_folder_that_cannot_be_listed_is_no_table(parts, monkeypatch):
    def refuse(_):
        raise PermissionError

    monkeypatch.setattr("os.listdir", refuse)
    assert not is_table(parts)
