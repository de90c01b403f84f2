"""Sources that can't be read as they are: the message says what to do about it."""

from __future__ import annotations

import pytest

from qwen_edit_async import ConfigurationError
from qwen_edit_async.batch.rules.item import EditDefaults, Reading
from qwen_edit_async.batch.sources import read_source
from qwen_edit_async.cli import main

SNOW = EditDefaults("make it snow")
PNG = b"\x89PNG\r\n\x1a\n" + bytes(16)


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda source, defaults=SNOW: list(read_source(source, Reading(defaults)))


@pytest.fixture
def refusal(read):
    def refusal(source, defaults=SNOW):
        with pytest.raises(ConfigurationError) as refused:
            read(source, defaults)
        return str(refused.value)

    return refusal


@pytest.fixture
def make(tmp_path):
    def make(*paths, content=PNG):
        for path in paths:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(content)

    return make


@pytest.mark.parametrize("name", ["edits.xlsx", "edits.txt", "edits.json", "edits.csv.gz"])
@pytest.mark.parametrize("defaults", [SNOW, EditDefaults()], ids=["instruction", "none"])
def test_a_file_of_another_kind_says_which_tables_can_be_read(make, refusal, name, defaults):
    make(name, content=b"image\na.png\n")
    assert refusal(name, defaults) == (
        f"{name} is neither a JPEG, PNG, BMP, TIFF, WEBP or GIF picture nor a table. "
        "A table has the extension .csv, .tsv, .jsonl, .ndjson, .parquet or .pq. "
        "If the file is a spreadsheet, save it as CSV. If it is JSON, write one object per line to a .jsonl file. "
        "If it is an archive, unpack it"
    )


def test_a_folder_of_tables_says_to_give_one_of_them(make, refusal):
    make("parts/part-1.csv", "parts/part-0.csv", content=b"image\n")
    assert refusal("parts").endswith(
        "no JPEG, PNG, BMP, TIFF, WEBP or GIF picture in parts. Found 2 tables instead: give each table as a "
        "separate source, such as parts/part-0.csv"
    )


def test_a_folder_of_folders_says_how_to_look_into_them(make, refusal):
    make("photos/2023/a.png", "photos/2024/a.png", "photos/.hidden/a.png")
    assert refusal("photos").endswith("in photos. Its 2 folders were not searched: use recursive=True")


def test_the_command_speaks_of_its_option(make, read, capsys):
    make("photos/2023/a.png")
    assert main(["batch", "photos", "-i", "snow", "-o", "out", "--dry-run"]) == 2
    assert "Its 1 folder was not searched: use --recursive" in " ".join(capsys.readouterr().err.split())


def test_a_folder_that_was_searched_gives_no_such_advice(make, tmp_path):
    make("photos/2023/a.txt", content=b"text")
    with pytest.raises(ConfigurationError, match=r"photos and its folders$"):
        list(read_source(tmp_path / "photos", Reading(SNOW, recursive=True)))


@pytest.mark.parametrize("pattern", ["photos [2024]/*.png", "photos [2024]/in [1]/*.png"])
def test_brackets_of_a_folder_s_name_are_to_be_escaped(make, read, refusal, pattern):
    make(pattern.replace("*", "a"))
    advice = refusal(pattern)
    assert "In a pattern, *, ? and [ are wildcards" in advice
    escaped = advice.rpartition("write ")[2].strip("'")
    assert len(read(escaped)) == 1


@pytest.mark.parametrize("pattern", ["photos/*.{jpg,png}", "photos/a.{jpg,png}"])
def test_braces_are_no_part_of_a_pattern(make, refusal, pattern):
    make("photos/a.png")
    assert refusal(pattern).endswith(
        "A pattern can't have braces: give the folder, or a pattern such as 'photos/*'. "
        "Files that are not pictures are skipped"
    )


def test_a_pattern_that_matches_folders_says_how_to_match_their_files(make, read, refusal):
    make("photos/2023/a.png", "photos/2024/a.png")
    assert refusal("photos/*").endswith("The pattern matches folders, but not the files in them: write 'photos/*/*'")
    assert len(read("photos/*/*")) == 2


def test_a_pattern_of_tables_says_to_give_one_of_them(make, refusal):
    make("parts/part-1.csv", "parts/part-0.csv", content=b"image\n")
    assert refusal("parts/*.csv").endswith(
        "Found 2 tables instead: give each table as a separate source, such as parts/part-0.csv"
    )


def test_a_pattern_whose_pictures_are_in_deeper_folders_says_how_to_look_into_them(make, read, refusal):
    make("photos/2024/a.png", "photos/b.txt")
    assert refusal("photos/*.png").endswith("Subfolders were not searched: write 'photos/**/*.png'")
    assert len(read("photos/**/*.png")) == 1


@pytest.mark.parametrize("pattern", ["photos/**", "photos/**/*.png"])
def test_a_pattern_for_deeper_folders_gives_no_such_advice_and_follows_no_circle(make, refusal, tmp_path, pattern):
    make("photos/2024/05/b.txt", content=b"text")
    (tmp_path / "photos" / "self").symlink_to(".", target_is_directory=True)
    (tmp_path / "photos" / "2024" / "up").symlink_to("..", target_is_directory=True)
    (tmp_path / "photos" / "latest").symlink_to("2024", target_is_directory=True)
    assert refusal(pattern).endswith(f"picture in the files that match '{pattern}'")


def test_advice_looks_into_the_folder_that_relative_paths_are_in(make, tmp_path):
    make("home/photos/2024/a.png")
    with pytest.raises(ConfigurationError, match="write 'photos/\\*/\\*'"):
        list(read_source("photos/*", Reading(SNOW, base=str(tmp_path / "home"))))


def test_a_pattern_without_matches_and_without_a_known_cause_gives_no_advice(make, refusal):
    make("photos/a.png")
    assert refusal("photos/[xyz]*.png").endswith("picture in the files that match 'photos/[xyz]*.png'")


def test_a_pattern_without_quotes_says_to_quote_it(make, read, capsys):
    names = [f"{number}.png" for number in range(1000)]
    assert main(["batch", *names, "-i", "snow", "-o", "out"]) == 2
    said = " ".join(capsys.readouterr().err.replace("│", "").split())
    assert 'batch takes one source, not 1000: put a pattern into quotes, such as "photos/*.jpg"' in said
    assert "500.png" not in said


def test_a_long_value_of_an_option_is_cut(read, capsys):
    assert main(["edit", "a.png", "-i", "snow", "--n", "long" * 1000]) == 2
    assert len(capsys.readouterr().err) < 1500


def test_other_surplus_words_say_nothing_of_patterns(make, read, capsys):
    assert main(["status", "a", "b"]) == 2
    assert "pattern" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\nimage;instruction\na.png;rain, and snow\n",
        '"sep=|"\r\nimage|instruction\r\na.png|rain, and snow\r\n',
        "sep=;\n\nimage;instruction\na.png;rain, and snow\n",
        "\n\r\n  \nimage;instruction\na.png;rain, and snow\n",
        ';;\n;;\nimage;"a, b, c, d";instruction\na.png;;rain, and snow\n',
        '"image";"a, b, c";"instruction"\n"a.png";;"rain, and snow"\n',
    ],
    ids=["sep", "quoted sep", "sep and a blank line", "blank lines", "blank rows", "commas in quotes"],
)
def test_headers_as_spreadsheets_write_them_are_read(tmp_path, read, text):
    (tmp_path / "edits.csv").write_text(text, encoding="utf-8", newline="")
    [item] = read("edits.csv", EditDefaults())
    assert item.request.instruction == "rain, and snow"


@pytest.mark.parametrize(("head", "row"), [("sep=;\n", 2), ("sep=;\n\n", 3), ("\n\n", 4)])
def test_rows_below_such_a_header_are_numbered_as_a_spreadsheet_does(tmp_path, read, head, row):
    (tmp_path / "edits.csv").write_text(f'{head}image;n\na.png;7\n"b"x;1\n', encoding="utf-8")
    bad, broken = read("edits.csv")
    assert (bad.row, broken.row) == (row, row + 1)
    assert broken.problem.startswith(f"line {head.count(chr(10)) + 3} can't be read as a row")


@pytest.mark.parametrize("text", ["", "\n\n", "sep=;\n"])
def test_a_table_of_nothing_has_no_column(tmp_path, refusal, text):
    (tmp_path / "edits.csv").write_text(text, encoding="utf-8")
    assert refusal("edits.csv") == "edits.csv has no column 'image': its columns are none"
