from __future__ import annotations

import json
import os
import sys
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from qwen_edit_async import ConfigurationError, EditParameters, EditRequest, InvalidEditError
from qwen_edit_async.batch import JOURNAL_NAME
from qwen_edit_async.batch.rules.item import EditDefaults, Reading, SourceItem, item_of, request_of
from qwen_edit_async.batch.rules.signatures import unsigned
from qwen_edit_async.batch.sources import read_source
from qwen_edit_async.models import request_from_fields

PNG = b"\x89PNG\r\n\x1a\n" + bytes(16)
JPEG = b"\xff\xd8\xff\xe0" + bytes(16)
SNOW = EditDefaults("make it snow")


@pytest.fixture
def notes():
    return []


@pytest.fixture
def read(tmp_path, notes):
    def read_named(name, defaults=SNOW, **options):
        return list(read_source(tmp_path / name, Reading(defaults, note=notes.append, **options)))

    return read_named


@pytest.fixture
def table(tmp_path, read):
    def read_text(text, defaults=SNOW, name="edits.csv", encoding="utf-8"):
        (tmp_path / name).write_bytes(text.encode(encoding))
        return read(name, defaults)

    return read_text


def write(folder: Path, **files: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def names(items):
    return [Path(item.request.images[0]).name for item in items]


def keys(items):
    return [item.request.key for item in items if item.request is not None]


def identities(items):
    return [item.identity for item in items]


def test_a_directory_gives_its_pictures_sorted_by_name_and_found_by_content(tmp_path, read):
    write(tmp_path / "in", b_jpg=JPEG, a_without_ending=PNG, c_png=b"text", d=b"")
    assert names(read("in")) == ["a_without_ending", "b_jpg"]


def test_a_camera_raw_file_is_a_problem(tmp_path, read):
    write(tmp_path / "in", a=PNG, b=b"FUJIFILMCCD-RAW 0201")
    assert [item.problem for item in read("in") if item.problem] == [
        "is a camera raw file (RAF format). Export it as a JPEG"
    ]


def test_the_content_of_a_picture_counts_more_than_the_ending_of_another_format(tmp_path, read):
    write(tmp_path / "in", **{"a.cur": PNG, "b.tga": JPEG, "c.tga": bytes(18)})
    assert [item.problem is None for item in read("in")] == [True, True, False]


def test_files_that_are_no_pictures_are_named(tmp_path, read, notes):
    write(tmp_path / "in", a=PNG, b=b"text", c=b"", d=b"x", e=b"y")
    read("in")
    assert notes == ["left out: 4 files that the service does not accept (b, c, d, …)"]


@pytest.mark.parametrize("source", ["in", "in/*", "in/b.JPG"])
def test_a_file_with_the_name_of_a_picture_is_never_left_out(tmp_path, read, notes, source):
    write(tmp_path / "in", **{"b.JPG": b"", "c.png": b"<html>", "d.txt": b"text"})
    assert names(read(source)) == (["b.JPG"] if source == "in/b.JPG" else ["b.JPG", "c.png"])
    assert [note for note in notes if "b.JPG" in note or "c.png" in note] == []


def test_a_directory_leaves_hidden_files_alone(tmp_path, read, notes):
    write(tmp_path / "in", **{"a": PNG, ".a.part": PNG})
    assert names(read("in")) == ["a"]
    assert notes == []


@pytest.mark.parametrize(("recursive", "found"), [(False, ["a"]), (True, ["a", "b"])])
def test_folders_of_a_directory_are_read_on_demand(tmp_path, read, recursive, found):
    write(tmp_path / "in", a=PNG)
    write(tmp_path / "in" / "deep", b=PNG)
    write(tmp_path / "in" / ".hidden", c=PNG)
    assert names(read("in", recursive=recursive)) == found


def test_results_are_no_input(tmp_path, read):
    write(tmp_path / "in", a=PNG)
    write(tmp_path / "in" / "out", b=PNG)
    assert names(read("in", recursive=True, exclude=os.path.realpath(tmp_path / "in" / "out"))) == ["a"]


def test_each_real_file_is_read_once_whatever_leads_to_it(tmp_path, read, notes):
    write(tmp_path / "in", **{"a.jpg": JPEG})
    write(tmp_path / "elsewhere", **{"b.jpg": JPEG})
    (tmp_path / "in" / "c.jpg").symlink_to("a.jpg")
    (tmp_path / "in" / "d.jpg").symlink_to(tmp_path / "elsewhere" / "b.jpg")
    assert names(read("in")) == ["a.jpg", "d.jpg"]
    assert notes == ["left out: 1 other path to the same file (c.jpg)"]
    assert names(read("in/[acd].jpg")) == ["a.jpg", "d.jpg"]


@pytest.mark.parametrize("source", ["in", "in/*.jpg", "in/**/*.jpg"])
def test_links_to_files_that_are_read_change_nothing_whatever_their_names(tmp_path, read, source):
    write(tmp_path / "in", **{"b.jpg": JPEG, "d.jpg": JPEG})
    alias, latest = tmp_path / "in" / "a.jpg", tmp_path / "in" / "c.jpg"
    alias.symlink_to("b.jpg")
    latest.symlink_to(alias)
    assert identities(read(source)) == ["b.jpg", "d.jpg"]
    latest.unlink()
    latest.symlink_to("d.jpg")
    assert identities(read(source)) == ["b.jpg", "d.jpg"]


def test_a_file_is_known_by_its_own_path_whatever_the_links_to_its_folder(tmp_path, read):
    write(tmp_path / "in" / "2024", **{"a.jpg": JPEG})
    (tmp_path / "in" / "0latest").symlink_to("2024", target_is_directory=True)
    assert identities(read("in/*/*.jpg")) == ["2024/a.jpg"]


def test_links_to_files_elsewhere_are_known_by_their_own_paths(tmp_path, read, notes):
    write(tmp_path / "store", one=JPEG, other=JPEG)
    write(tmp_path / "in")
    for name, target in (("b.jpg", "one"), ("c.jpg", "other")):
        (tmp_path / "in" / name).symlink_to(tmp_path / "store" / target)
    assert identities(read("in")) == ["b.jpg", "c.jpg"]
    (tmp_path / "in" / "a.jpg").symlink_to(tmp_path / "store" / "one")
    assert identities(read("in/**/**/*.jpg")) == ["a.jpg", "b.jpg", "c.jpg"]
    assert notes == []


@pytest.mark.parametrize(
    "pattern",
    ["in//**/*.jpg", "in/**//*.jpg", "./in/**/*.jpg", "in/../in/**/*.jpg", "in/**/./*.jpg", "[i]n/**/../**/*.jpg"],
)
def test_the_spelling_of_a_pattern_changes_no_identity(tmp_path, pattern):
    write(tmp_path / "in" / "deep", **{"a.jpg": JPEG})
    write(tmp_path / "in", **{"b.jpg": JPEG})
    found = ["in/b.jpg", "in/deep/a.jpg"] if pattern.startswith("[") else ["b.jpg", "deep/a.jpg"]
    assert sorted(identities(read_source(pattern, Reading(SNOW, base=str(tmp_path))))) == found


def test_a_pattern_follows_no_link_to_a_folder_on_its_own(tmp_path, read, notes):
    write(tmp_path / "in" / "2024" / "may", **{"a.jpg": JPEG})
    write(tmp_path / "elsewhere", **{"b.jpg": JPEG})
    (tmp_path / "in" / "0latest").symlink_to("2024", target_is_directory=True)
    (tmp_path / "in" / "elsewhere").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    for name in ("circle", "other_circle"):  # followed, they would never end
        (tmp_path / "in" / name).symlink_to(".", target_is_directory=True)
    expected = [str(tmp_path / "in" / "2024" / "may" / "a.jpg")]
    for pattern in ("in/**/*.jpg", "**/in/**/*.jpg", "in/**/**/*.jpg", "in/**/may/*", "in/**"):
        assert [item.request.images[0] for item in read(pattern)] == expected
    assert notes == []
    assert names(read("in/elsewhere/*.jpg")) == ["b.jpg"]  # the user names the link


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*/x.jpg", ["x.jpg"]),
        ("li?k/x.jpg", ["x.jpg"]),
        ("[l]ink/x.jpg", ["x.jpg"]),
        ("**/*.jpg", ["a.jpg"]),
        ("**/link/x.jpg", ["x.jpg"]),  # the user names the link
    ],
)
def test_patterns_follow_links_to_folders_where_pathlib_does(tmp_path, read, pattern, found):
    write(tmp_path / "in" / "own", **{"a.jpg": JPEG})
    write(tmp_path / "elsewhere", **{"x.jpg": JPEG})
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert names(read(f"in/{pattern}")) == found == [path.name for path in (tmp_path / "in").glob(pattern)]


def test_a_pattern_without_a_folder_in_front_gives_plain_paths(tmp_path, monkeypatch):
    write(tmp_path / "in", **{"a.jpg": JPEG})
    write(tmp_path, **{"b.jpg": JPEG})
    monkeypatch.chdir(tmp_path)
    paths = [item.request.images[0] for item in read_source("**/*.jpg", Reading(SNOW))]
    assert paths == ["b.jpg", str(Path("in", "a.jpg"))]


@pytest.mark.parametrize("source", ["in", "in/**/*.jpg"])
def test_folders_of_the_system_and_results_of_other_runs_are_left_out(tmp_path, read, notes, source):
    write(tmp_path / "in" / "deep", **{"a.jpg": JPEG})
    for folder in ("@eaDir", "#recycle", "$RECYCLE.BIN", "deep/lost+found", "__MACOSX", ".Trash-1000"):
        write(tmp_path / "in" / folder / "x", **{"b.jpg": JPEG})
    for folder in ("snow", "out"):
        write(tmp_path / "in" / folder, **{"a-0.jpg": JPEG, JOURNAL_NAME: b""})
    write(tmp_path / "in", **{JOURNAL_NAME: b""})  # whoever names a folder of results wants them edited
    options = {"exclude": os.path.realpath(tmp_path / "in" / "out")}
    assert names(read(source, recursive=True, **options)) == ["a.jpg"]
    assert [note for note in notes if "folder" in note] == [
        (
            "left out: 5 system folders (#recycle, $RECYCLE.BIN, @eaDir, …), "
            "1 folder with the results of another run (snow)"
        )
    ]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("in/*/*.jpg", ["a.jpg"]),
        ("in/*/**/*.jpg", ["a.jpg"]),
        ("[i]n/*/*.jpg", ["a.jpg"]),
        ("in/.*/*.jpg", ["hidden.jpg"]),
        ("in/@eaDir/*.jpg", ["preview.jpg"]),
        ("in/*/../@eaDir/*.jpg", ["preview.jpg"]),
        ("in/snow/*.jpg", ["result.jpg"]),
    ],
)
@pytest.mark.parametrize("base", ["", "a [b]", "@eaDir"])
def test_wildcards_stand_for_no_folder_of_the_system_and_for_no_results(tmp_path, notes, pattern, found, base):
    folder = tmp_path / base / "in"
    write(folder / "deep", **{"a.jpg": JPEG})
    write(folder / "@eaDir", **{"preview.jpg": JPEG})
    write(folder / ".old", **{"hidden.jpg": JPEG})
    write(folder / "snow", **{"result.jpg": JPEG, JOURNAL_NAME: b""})
    items = read_source(pattern, Reading(SNOW, base=str(tmp_path / base), note=notes.append))
    assert names(items) == found
    if found == ["a.jpg"]:
        assert notes == ["left out: 1 system folder (@eaDir), 1 folder with the results of another run (snow)"]


def test_a_file_with_two_hard_links_is_read_once(tmp_path, read, notes):
    write(tmp_path / "in", **{"a.jpg": JPEG})
    write(tmp_path / "in" / "deep", **{"c.jpg": JPEG})
    (tmp_path / "in" / "deep" / "b.jpg").hardlink_to(tmp_path / "in" / "a.jpg")
    assert names(read("in", recursive=True)) == ["a.jpg", "c.jpg"]
    assert notes == ["left out: 1 other path to the same file (b.jpg)"]


def test_what_was_left_out_is_said_if_nothing_else_is_there(tmp_path, read):
    write(tmp_path / "in" / "@eaDir", **{"a.jpg": JPEG})
    with pytest.raises(ConfigurationError, match=r"in .*in and its folders; left out: 1 system folder \(@eaDir"):
        read("in", recursive=True)


def test_every_picture_gets_the_defaults(tmp_path, read):
    write(tmp_path / "in", a=PNG)
    [item] = read("in", EditDefaults("sepia", EditParameters(n=2)))
    assert (item.request.instruction, item.request.parameters) == ("sepia", EditParameters(n=2))


@pytest.mark.parametrize("pattern", ["in/*.jpg", "in/?.jpg", "in/[ab].jpg", "**/*.jpg"])
def test_a_pattern_gives_the_pictures_that_match(tmp_path, read, pattern):
    write(tmp_path / "in", **{"b.jpg": JPEG, "a.jpg": JPEG, "c.png": PNG})
    assert names(read(pattern)) == ["a.jpg", "b.jpg"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path, read):
    write(tmp_path, **{"a[1].jpg": JPEG, "a1.jpg": JPEG})
    assert names(read("a[1].jpg")) == ["a[1].jpg"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("empty", "there is no JPEG, PNG, BMP, TIFF, WEBP or GIF picture in .*empty$"),
        ("text", "text is neither a JPEG, .* picture nor a table"),
        ("*.jpg", r"no JPEG, .* picture in the files that match .*\*\.jpg"),
        ("missing", "there is no file or folder .*missing"),
    ],
)
def test_an_empty_source_says_what_was_looked_for(tmp_path, read, source, message):
    write(tmp_path / "empty")
    write(tmp_path, text=b"text")
    with pytest.raises(ConfigurationError, match=message):
        read(source)


def test_empty_text_does_not_stand_for_the_working_directory(tmp_path):
    write(tmp_path, **{"a.png": PNG})
    with pytest.raises(ConfigurationError, match="the source is empty text"):
        read_source("", Reading(SNOW, base=str(tmp_path)))
    (item,) = read_source(".", Reading(SNOW, base=str(tmp_path)))
    assert item.identity == "a.png"


def test_pictures_need_an_instruction(tmp_path, read):
    write(tmp_path / "in", a=PNG)
    with pytest.raises(ConfigurationError, match="give an instruction"):
        read("in", EditDefaults())


def test_a_row_says_all_of_an_edit(table, tmp_path):
    [item] = table(
        "image,image2,image3,instruction,key,n,negative_prompt,size,prompt_extend,watermark,seed\n"
        "a.jpg,b.jpg,https://example.com/c.jpg,both,k,2,blur,1024x1536,no,TRUE,7\n"
    )
    assert item.row == 2
    assert item.request == EditRequest(
        [str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg"), "https://example.com/c.jpg"],
        "both",
        EditParameters(n=2, negative_prompt="blur", size=(1024, 1536), prompt_extend=False, watermark=True, seed=7),
        key="k",
    )


def test_json_lines_say_all_of_an_edit(table, tmp_path):
    line = {
        "image": "a.jpg",
        "image2": "b.jpg",
        "instruction": "both",
        "key": 12,
        "n": 2,
        "watermark": True,
        "seed": None,
    }
    [item] = table(json.dumps(line) + "\n\n", name="edits.jsonl")
    images = [str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")]
    assert item.request == EditRequest(images, "both", EditParameters(n=2, watermark=True), key="12")


@pytest.mark.parametrize("name", ["edits.csv", "edits.jsonl"])
def test_a_row_wins_over_the_defaults(table, name):
    text = {
        "edits.csv": "image,instruction,n\na,sepia,3\nb,,\n",
        "edits.jsonl": '{"image": "a", "instruction": "sepia", "n": 3}\n{"image": "b"}\n',
    }[name]
    first, second = table(text, EditDefaults("snow", EditParameters(n=2, seed=1)), name)
    assert (first.request.instruction, first.request.parameters) == ("sepia", EditParameters(n=3, seed=1))
    assert (second.request.instruction, second.request.parameters) == ("snow", EditParameters(n=2, seed=1))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_tables_of_other_programs_are_read(table, delimiter, encoding):
    text = delimiter.join(["Image", "Negative Prompt"]) + "\r\n" + delimiter.join(["a.jpg", '"雪, or; rain"']) + "\r\n"
    [item] = table(text, encoding=encoding)
    assert item.request.parameters.negative_prompt == "雪, or; rain"


def test_an_absolute_path_stays(table):
    [item] = table("image\n/photos/a.jpg\n")
    assert item.request.images == (str(Path("/photos/a.jpg")),)


def test_the_home_folder_may_be_abbreviated_in_cells(table, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    [item] = table("image,image2\n~/a.jpg,~nobody at all/b.jpg\n")
    assert item.request.images == ("/home/me/a.jpg", str(tmp_path / "~nobody at all" / "b.jpg"))


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("a.jpg,,7,,", "n is 7"),
        ("a.jpg,,two,,", "n is 'two'"),
        ("a.jpg,,,maybe,", "watermark is 'maybe'"),
        ("a.jpg,,,,big", "size is 'big'"),
        (",x,,,", "there is no image"),
        ("ftp://host/a.jpg,,,,", "not http"),
        ("a.jpg,,,,,b", "it has 6 cells, but there are 5 columns"),
    ],
)
def test_a_bad_row_says_why_and_stops_no_other(table, row, problem):
    bad, good = table(f"image,instruction,n,watermark,size\n{row}\nb.jpg,,,,\n")
    assert (bad.row, bad.request) == (2, None)
    assert problem in bad.problem
    assert good.request is not None


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "it is not JSON"),
        ("[]", "it is not a JSON object"),
        ('{"image": 5}', "an image is 5"),
        ('{"image": "a", "n": "2"}', "n is '2'"),
        ('{"image": "a", "instructon": "x"}', "there is no column 'instructon': did you mean 'instruction'?"),
        ("{}", "there is no image"),
        ('{"image": "a", "instruction": 5}', "the instruction is 5: give text"),
        ('{"image": "a", "instruction": false}', "the instruction is False: give text"),
        ('{"image": "a", "instruction": "a\\ud800b"}', "the instruction has half a character (a lone surrogate)"),
        ('{"image": "a", "negative_prompt": "\\udfff"}', "the negative_prompt has half a character"),
        ('{"image": "a", "key": ["k"]}', "the key is ['k']: give text or a number"),
        ('{"image": "a", "key": true}', "the key is True: give text or a number"),
    ],
)
def test_a_bad_json_line_says_why_and_stops_no_other(table, line, problem):
    bad, good = table(f'{line}\n{{"image": "b"}}\n', name="edits.jsonl")
    assert (bad.row, bad.request) == (1, None)
    assert problem in bad.problem
    assert good.request is not None


def test_a_row_without_any_instruction_is_bad(table):
    [bad] = table("image,instruction\na.jpg,\n", EditDefaults())
    assert "the instruction is missing" in bad.problem


def test_blank_rows_count_but_are_no_edits(table):
    items = table('image,instruction\n\na.jpg,"two\nlines"\n,\nb.jpg,\n')
    assert [(item.row, item.problem) for item in items] == [(3, None), (5, None)]


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("picture\na.jpg\n", "edits.csv", "has no column 'image'"),
        ("image,instructon\na,b\n", "edits.csv", "did you mean 'instruction'"),
        ("image,image1\na,b\n", "edits.csv", "no column 'image1'"),
        ("image,Image\na,b\n", "edits.csv", "two columns with the same name"),
        ("image\n", "edits.csv", "has no rows"),
        ("", "edits.csv", "has no column 'image'"),
        ("\n", "edits.jsonl", "has no rows"),
        ('image\na.jpg\n"b.jpg\nc.jpg\nd.jpg\n', "edits.csv", "row 3, from line 3 to 5, is badly quoted: unexp"),
        ('image\n"b.jpg\nc.jpg"d\ne.jpg\n', "edits.csv", "row 2, from line 2 to 3, is badly quoted: ',' expected"),
        ('image,"instruction\na.jpg,b\n', "edits.csv", "row 1, from line 1 to 2"),
    ],
)
def test_a_table_that_is_none_is_refused(table, text, name, message):
    with pytest.raises(ConfigurationError, match=message):
        table(text, name=name)


def test_a_row_that_is_not_well_quoted_says_so_and_stops_no_other(table):
    items = table(f'image,instruction\na.jpg,"one\ntwo"\nb.jpg,"say "hi""\nc.jpg,{"x" * 200_000}\nd.jpg,5" nails\n')
    assert [item.row for item in items] == [2, 3, 4, 5]
    assert items[1].problem.startswith(
        "line 4 can't be read as a row: ',' expected after '\"' (inside a quoted cell, write each quote twice"
    )
    assert items[2].problem.startswith("line 5 can't be read as a row: field larger than field limit")
    assert items[3].request.instruction == '5" nails'


def test_a_table_without_instructions_needs_one_for_all(table):
    with pytest.raises(ConfigurationError, match="give an instruction for all rows"):
        table("image\na.jpg\n", EditDefaults())


@pytest.mark.parametrize("name", ["edits.csv", "edits.jsonl"])
def test_a_table_that_is_not_utf8_is_refused(table, name):
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        table("image,instruction\na,让猫下雪\n", name=name, encoding="gbk")


def test_a_source_that_cannot_be_read_is_refused(tmp_path, read, monkeypatch):
    write(tmp_path, **{"a.jpg": JPEG, "edits.csv": b"image\n"})

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ConfigurationError, match="can't be read: Permission denied"):
        read("edits.csv")


def test_a_file_that_can_not_be_read_may_be_a_picture(tmp_path, read, monkeypatch):
    write(tmp_path, **{"a.jpg": JPEG, "b.jpg": JPEG, "c.txt": b"words"})
    really_open = open

    def refuse(path, *arguments, **options):
        if path.endswith("b.jpg"):
            raise PermissionError(13, "Permission denied")
        return really_open(path, *arguments, **options)

    monkeypatch.setattr("builtins.open", refuse)
    assert names(read("")) == ["a.jpg", "b.jpg"]


def test_a_folder_of_a_folder_that_can_not_be_read_is_a_problem_and_stops_no_other(tmp_path, read, monkeypatch):
    for folder in "abc":
        write(tmp_path / folder, **{"x.jpg": JPEG})
    really_scan = os.scandir

    def refuse(path):
        if path.endswith(("b", "c")):
            raise PermissionError(13, "Permission denied", path)
        return really_scan(path)

    monkeypatch.setattr("os.scandir", refuse)
    good, *bad = read("", recursive=True)
    assert good.request is not None
    assert [(item.label, item.problem) for item in bad] == [
        (str(tmp_path / folder), "can't be read: Permission denied") for folder in "bc"
    ]


@pytest.mark.parametrize(
    ("text", "name"),
    [("image,shop,who\na,1,me\n", "edits.csv"), ('{"image": "a", "shop": "1", "who": "me"}\n' * 2, "edits.jsonl")],
)
def test_other_columns_travel_along_and_are_noted_once(table, notes, text, name):
    items = table(text, name=name)
    assert dict(items[0].request.metadata) == {"shop": "1", "who": "me"}
    assert notes == ["columns that are not used: shop, who"]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("in", ["a.png", "deep/a.png"]),
        ("in/**/*.png", ["a.png", "deep/a.png"]),
        ("in/*/a.png", ["deep/a.png"]),
        ("in/deep/a.png", ["a.png"]),
    ],
)
def test_a_picture_is_known_by_its_path_below_the_folder(tmp_path, read, source, found):
    for folder in (tmp_path / "in", tmp_path / "in" / "deep"):
        write(folder, **{"a.png": PNG})
    assert identities(read(source, recursive=True)) == found
    pattern_or_folder = list(read_source(source, Reading(SNOW, base=str(tmp_path), recursive=True)))
    assert identities(pattern_or_folder) == found


FRAMES = {
    "pandas": pd.DataFrame,
    "pandas with missing values": lambda columns: pd.DataFrame(columns).convert_dtypes(),
    "polars": pl.DataFrame,
    "pyarrow": pa.table,
}
COLUMNS = {
    "Image": ["a.jpg", "b.jpg", None],
    "image2": [None, "https://example.com/c.jpg", None],
    "instruction": ["sepia", None, "none"],
    "n": [2, None, None],
    "seed": [None, 7, None],
    "watermark": [True, None, None],
    "key": ["first", None, None],
    "shop": ["x", None, None],
}


@pytest.mark.parametrize("make", FRAMES.values(), ids=FRAMES)
def test_a_data_frame_says_all_of_an_edit_and_nothing_where_it_has_gaps(make, notes):
    first, second, third = read_source(make(COLUMNS), Reading(SNOW, note=notes.append))
    parameters = EditParameters(n=2, watermark=True)
    assert first.request == EditRequest("a.jpg", "sepia", parameters, key="first", metadata={"shop": "x"})
    images = ["b.jpg", "https://example.com/c.jpg"]
    assert second == SourceItem(row=1, request=EditRequest(images, "make it snow", EditParameters(seed=7)))
    assert (third.row, third.problem) == (2, "there is no image")
    assert notes == ["columns that are not used: shop"]


def test_a_parquet_file_says_all_of_an_edit_and_its_paths_are_relative_to_it(tmp_path, read):
    pyarrow.parquet.write_table(pa.table(COLUMNS), tmp_path / "edits.parquet", row_group_size=2)
    first, second, third = read("edits.parquet")
    parameters = EditParameters(n=2, watermark=True)
    image = str(tmp_path / "a.jpg")
    assert first.row == 1
    assert first.request == EditRequest(image, "sepia", parameters, key="first", metadata={"shop": "x"})
    assert second.request.images == (str(tmp_path / "b.jpg"), "https://example.com/c.jpg")
    assert (third.row, third.problem) == (3, "there is no image")


@pytest.mark.parametrize(
    ("name", "value", "option"),
    [
        ("n", 2.0, 2),
        ("n", np.int64(2), 2),
        ("n", "2", 2),
        ("n", "2.0", 2),
        ("seed", np.float32(7), 7),
        ("watermark", np.True_, True),
        ("watermark", 1.0, True),
        ("watermark", 0, False),
        ("watermark", "no", False),
        ("size", "1024x1536", (1024, 1536)),
    ],
)
def test_cells_of_a_data_frame_are_what_they_mean(name, value, option):
    frame = pd.DataFrame({"image": ["a"], name: pd.Series([value], dtype=object)})
    [item] = read_source(frame, Reading(SNOW))
    assert getattr(item.request.parameters, name) == option


@pytest.mark.parametrize(
    "nothing",
    [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT, "", "  ", "NaN", "NA", "N/A", "<NA>", "None", "null"],
)
def test_cells_without_anything_in_them_say_nothing(nothing):
    columns = {"image": ["a.jpg"], **{name: [nothing] for name in ("image2", "instruction", "n", "size", "watermark")}}
    [item] = read_source(pd.DataFrame(columns, dtype=object), Reading(SNOW))
    assert item.request == EditRequest("a.jpg", "make it snow")


@pytest.mark.parametrize(("value", "key"), [(7.0, "7"), (7, "7"), (7.5, "7.5"), ("NA", "NA"), (" a ", "a")])
def test_keys_are_text(value, key):
    [item] = read_source(pd.DataFrame({"image": ["a"], "key": [value]}), Reading(SNOW))
    assert item.request.key == key


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"n": [2.5]}, "n is 2.5"),
        ({"n": [True]}, "n is True"),
        ({"watermark": [2]}, "watermark is 2"),
        ({"image": [Decimal(5)]}, "an image is Decimal('5')"),
        ({"n": [[1]]}, "n is [1]"),
        ({"image": [""], "image2": ["b"]}, "the column 'image' is empty, though another image is given"),
    ],
)
def test_a_bad_row_of_a_data_frame_says_why(columns, problem):
    [bad] = read_source(pd.DataFrame({"image": ["a"], **columns}), Reading(SNOW))
    assert bad.problem.startswith(problem)


def test_pictures_and_paths_may_be_in_a_data_frame(tmp_path):
    frame = pd.DataFrame({"image": [tmp_path / "a.jpg", PNG]})
    assert [item.request.images for item in read_source(frame, Reading(SNOW))] == [(str(tmp_path / "a.jpg"),), (PNG,)]


@pytest.mark.parametrize("cell", [PNG, bytearray(PNG), {"bytes": PNG, "path": "b.png"}, Image.new("L", (9, 9))])
def test_a_cell_of_a_data_frame_may_hold_an_image(cell):
    [item] = read_source(pd.DataFrame({"image": ["a.jpg"], "image2": [cell]}), Reading(SNOW))
    assert item.request.images == ("a.jpg", PNG if isinstance(cell, dict) else cell)


def test_a_cell_of_a_parquet_file_may_be_one_of_hugging_face(tmp_path, read):
    cells = [{"bytes": PNG, "path": "a.png"}, {"bytes": None, "path": "b.png"}, {"bytes": None, "path": None}]
    pa.parquet.write_table(pa.table({"image": cells}), tmp_path / "edits.parquet")
    first, second, bad = read("edits.parquet")
    assert (first.request.images, second.request.images) == ((PNG,), (str(tmp_path / "b.png"),))
    assert bad.problem.startswith("an image is None")


def test_json_lines_may_hold_parameters_in_an_object(table, notes):
    lines = [
        '{"image": "a", "parameters": {"n": 2, "seed": 1}, "seed": 5}',
        '{"image": "a", "parameters": {"m": 2}}',
        '{"image": "a", "parameters": "n=2"}',
    ]
    good, *bad = table("\n".join(lines), name="edits.jsonl")
    assert good.request.parameters == EditParameters(n=2, seed=5)
    assert [item.problem for item in bad] == [
        "there is no parameter 'm': the parameters are n, negative_prompt, prompt_extend, seed, size, watermark",
        "the parameters are 'n=2': give an object, or a column for each parameter",
    ]
    assert notes == []


@pytest.mark.parametrize(
    ("given", "images"),
    [
        ("a.jpg", ("a.jpg",)),
        (["a.jpg", PNG], ("a.jpg", PNG)),
        ({"bytes": PNG, "path": "a.png"}, (PNG,)),
        ({"image": {"bytes": PNG, "path": "a.png"}, "image2": "b.jpg"}, (PNG, "b.jpg")),
        ({"images": "a.jpg", "instruction": None, "parameters": None}, ("a.jpg",)),
    ],
)
def test_what_an_iterable_gives_makes_an_edit_by_the_defaults(given, images):
    defaults = EditDefaults("make it snow", EditParameters(n=2))
    assert request_of(given, defaults) == EditRequest(images, "make it snow", EditParameters(n=2))


def test_rows_of_pandas_are_edits():
    frame = pd.DataFrame({"image": ["a.jpg", "b.jpg"], "instruction": ["make it rain", None], "n": [2, 3]}).astype(
        object
    )
    first, second = [request_of(row, SNOW) for _, row in frame.iterrows()]
    assert first == EditRequest("a.jpg", "make it rain", EditParameters(n=2))
    assert second == EditRequest("b.jpg", "make it snow", EditParameters(n=3))
    assert request_from_fields(frame.loc[0]) == first


def test_a_mapping_wins_over_the_defaults():
    given = {"image": "a.jpg", "instruction": "make it rain", "n": 3, "parameters": {"seed": 1}}
    expected = EditRequest("a.jpg", "make it rain", EditParameters(n=3, seed=1))
    assert request_of(given, EditDefaults("make it snow", EditParameters(n=2))) == expected


def test_a_request_is_taken_as_it_is_and_images_need_an_instruction():
    request = EditRequest("a.jpg", "make it rain")
    assert request_of(request, EditDefaults()) is request
    with pytest.raises(InvalidEditError, match="has its own instruction"):
        request_of(request, SNOW)
    with pytest.raises(InvalidEditError, match="an item of type 'str' needs an instruction: give instruction="):
        request_of("a.jpg", EditDefaults())


@pytest.mark.parametrize(
    ("given", "place"), [(7, "request 3"), ({"key": 7}, "7"), ({"key": None, "images": ""}, "request 3")]
)
def test_an_item_of_an_iterable_that_is_not_an_edit_says_why(given, place):
    item = item_of(given, EditDefaults(), 3)
    assert (item.request, item.place, bool(item.problem)) == (None, place, True)


def test_integers_that_a_data_frame_made_fractions_are_integers_in_every_file(table, tmp_path):
    frame = pd.DataFrame({"image": ["a", "b"], "n": [2, None], "seed": [None, 7]})
    for name, text in {
        "edits.csv": frame.to_csv(index=False),
        "edits.jsonl": frame.to_json(orient="records", lines=True),
        "nan.jsonl": '{"image": "a", "n": 2.0, "seed": NaN}\n{"image": "b", "seed": 7.0}\n',
    }.items():
        first, second = table(text, name=name)
        assert (first.request.parameters, second.request.parameters) == (EditParameters(n=2), EditParameters(seed=7))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pd.DataFrame({"picture": ["a"]}), "the data frame has no column 'image': its columns are picture"),
        (pd.DataFrame(), "its columns are none"),
        (pd.DataFrame({"image": []}), "the data frame has no rows"),
        (pd.DataFrame([["a", "b"]], columns=["image", "image"]), "can't be read as a data frame: .*unique"),
        (pd.DataFrame([["a", 1]], columns=["image", 0]), None),
    ],
)
def test_a_data_frame_without_edits_is_refused(frame, message):
    if message is None:
        assert len(list(read_source(frame, Reading(SNOW)))) == 1
        return
    with pytest.raises(ConfigurationError, match=message):
        list(read_source(frame, Reading(SNOW)))


@pytest.mark.parametrize("content", [b"image\na.jpg\n", b""])
def test_a_file_that_is_no_parquet_is_refused(tmp_path, read, content):
    write(tmp_path, **{"edits.parquet": content})
    with pytest.raises(ConfigurationError, match=r"edits.parquet is not a Parquet file"):
        read("edits.parquet")


def test_a_parquet_file_that_can_not_be_read_is_refused(tmp_path, read, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    write(tmp_path, **{"edits.parquet": b""})
    monkeypatch.setattr("pyarrow.parquet.ParquetFile", refuse)
    with pytest.raises(ConfigurationError, match="can't be read: Permission denied"):
        read("edits.parquet")


@pytest.mark.parametrize("days", [2**22, 2**30])
@pytest.mark.parametrize("name", ["edits.parquet", None])
def test_a_table_with_a_cell_that_python_has_no_value_for_is_refused(tmp_path, read, name, days):
    rows = 257  # a page, and the one that can't be read
    when = pa.array([0] * (rows - 1) + [days], pa.date32())
    table = pa.table({"image": ["a.jpg"] * rows, "when": when})
    if name is not None:
        pyarrow.parquet.write_table(table, tmp_path / name)
    with pytest.raises(ConfigurationError, match=r"failed after 256 rows: .*(range|magnitude)"):
        read(name) if name is not None else list(read_source(table, Reading(SNOW)))


def test_without_the_extra_it_is_named(tmp_path, monkeypatch):
    write(tmp_path, **{"edits.parquet": b""})
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "narwhals", None)
    for source, extra in ((tmp_path / "edits.parquet", "parquet"), (pd.DataFrame(COLUMNS), "frames")):
        with pytest.raises(ConfigurationError, match=rf'pip install "qwen-edit-async\[{extra}\]"'):
            list(read_source(source, Reading(SNOW)))


def test_a_folder_that_can_not_be_read_is_refused(tmp_path, read, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(ConfigurationError, match="can't be read: Permission denied"):
        read("")


def test_a_header_may_have_a_line_break_in_a_cell(table):
    [item] = table('image,"a\nnote",n\na.jpg,x,2\n')
    assert (item.row, item.request.parameters.n) == (2, 2)


def test_cells_below_a_column_without_a_name_say_nothing(table):
    [item] = table("image,,n,\na.jpg,x,2,\n")
    assert (dict(item.request.metadata), item.request.parameters.n) == ({}, 2)


@pytest.mark.parametrize(
    ("item", "label"),
    [
        (SourceItem(row=7, problem="no"), "row 7"),
        (SourceItem(request=EditRequest("photos/a.jpg", "snow")), "photos/a.jpg"),
        (SourceItem(problem="no"), ""),
    ],
)
def test_an_item_is_called_by_what_finds_it(item, label):
    assert item.label == label


BUCKET = "https://bucket.example/a%20b.png"


@pytest.mark.parametrize(
    "signature",
    [
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=K%2F1&X-Amz-Date=1&X-Amz-Expires=9&X-Amz-Signature=a",
        "X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Signature=a",
        "sv=2022-11-02&st=a&se=b&sr=b&sp=r&spr=https&skoid=1&sktid=2&skt=a&ske=b&sks=b&skv=c&sig=a%2Fb%3D",
        "Expires=1&Signature=a~b&Key-Pair-Id=K",
        "Policy=a&Signature=a~b&Key-Pair-Id=K",
        "AWSAccessKeyId=K&Signature=a&Expires=1&x-amz-security-token=t",
        "KSSAccessKeyId=K&Signature=a&Expires=1",
        "AccessKeyId=K&Expires=1&Signature=a&x-obs-security-token=t",
        "X-Tos-Algorithm=TOS4-HMAC-SHA256&X-Tos-Date=1&X-Tos-SignedHeaders=host&X-Tos-Security-Token=t&X-Tos-Signature=a",
        "x-a9-signature=a&x-a9-anything=b",
        "GoogleAccessId=K&Expires=1&Signature=a",
        "OSSAccessKeyId=K&Expires=1&Signature=a&security-token=t",
        "x-oss-signature-version=OSS4-HMAC-SHA256&x-oss-date=1&x-oss-expires=9&x-oss-credential=K&x-oss-signature=a",
        "q-sign-algorithm=sha1&q-ak=K&q-sign-time=1;2&q-key-time=1;2&q-header-list=h&q-url-param-list=&q-signature=a",
        "q-ak=K&q-signature=a&x-cos-security-token=t",
    ],
)
def test_a_signature_is_no_part_of_what_a_url_names(signature):
    assert unsigned(f"{BUCKET}?{signature}") == BUCKET
    assert unsigned(f"{BUCKET}?v=1&{signature}&w=%41#top") == f"{BUCKET}?v=1&w=%41#top"


def test_a_storage_service_s_parameter_that_changes_the_picture_is_kept_beside_its_signature():
    process = "x-tos-process=image/resize,w_100"
    assert unsigned(f"{BUCKET}?x-tos-date=1&{process}&x-tos-signature=a") == f"{BUCKET}?{process}"


@pytest.mark.parametrize(
    ("host", "signature"),
    [
        ("scontent-fra3-1.xx.fbcdn.net", "oh=00_a&oe=65"),
        ("scontent-a.cdninstagram.com", "oh=00_a&oe=65"),
        ("cdn.discordapp.com", "ex=1&is=2&hm=3"),
        ("media.discordapp.net", "ex=1&is=2&hm=3"),
    ],
)
def test_a_signature_of_common_names_counts_at_its_hosts_only(host, signature):
    assert unsigned(f"https://{host}/a.png?stp=1&{signature}") == f"https://{host}/a.png?stp=1"
    for other in (f"{host}.example", "not" + ".".join(host.split(".")[-2:])):
        assert unsigned(f"https://{other}/a.png?{signature}") == f"https://{other}/a.png?{signature}"


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("HTTPS://Bucket.Example/A.png", "https://bucket.example/A.png"),
        ("https://Me:Secret@CDN.DiscordApp.com:443?ex=1", "https://Me:Secret@cdn.discordapp.com:443"),
        ("https://Bucket.Example?Expires=1&Signature=B#Top", "https://bucket.example#Top"),
    ],
)
def test_hosts_are_compared_without_letter_case(url, same):
    assert unsigned(url) == same


@pytest.mark.parametrize(
    "text",
    [
        f"{BUCKET}?v=1&&w",
        f"{BUCKET}?sv=1&se=2&sp=3&policy=4&security-token=5",
        f"{BUCKET}?x-oss-process=image/resize,w_100",
        f"{BUCKET}?x-sky-date=1&x-sky-signatures=2",
        f"{BUCKET}?",
        BUCKET,
        "photos/what?Expires=1.png",
        "data:image/png;base64,AAAA",
    ],
)
def test_what_has_no_signature_stays_as_it_is(text):
    assert unsigned(text) == text
