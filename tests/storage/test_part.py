"""Files that are complete or absent."""

from __future__ import annotations

import os
from typing import IO

import pytest

from qwen_edit_async.storage.part import PartFile


def size_of(file: IO[bytes], size: int) -> int:
    assert file.seek(0, os.SEEK_END) == size
    return size


def test_another_name_than_the_planned_one_replaces_no_file(tmp_path):
    (tmp_path / "a.webp").write_bytes(b"before")
    part = PartFile(tmp_path / "a.png")
    part.finish(0, [b"new"], size_of)
    assert part.commit(tmp_path / "a.webp") == tmp_path / "a.png"
    assert (tmp_path / "a.webp").read_bytes() == b"before"


def test_another_name_than_the_planned_one_is_kept_if_that_file_was_written_before(tmp_path):
    (tmp_path / "a.webp").write_bytes(b"same")
    part = PartFile(tmp_path / "a.png", replace=False)
    part.finish(0, [b"same"], size_of)
    assert part.commit(tmp_path / "a.webp") == tmp_path / "a.webp"
    assert [path.name for path in tmp_path.iterdir()] == ["a.webp"]


def test_a_file_has_its_name_only_when_it_is_complete(tmp_path):
    target = tmp_path / "new" / "a.png"
    part = PartFile(target)
    part.write(0, [b"begin"])
    assert not target.exists()
    assert part.finish(5, [b" and end"], size_of) == 13
    assert not target.exists()
    assert part.commit(target) == target
    assert target.read_bytes() == b"begin and end"
    part.close()
    assert [path.name for path in target.parent.iterdir()] == ["a.png"]


def test_a_shorter_second_attempt_leaves_nothing_of_the_first(tmp_path):
    part = PartFile(tmp_path / "a.png")
    part.write(0, [b"a first attempt"])
    assert part.finish(0, [b"second"], size_of) == 6
    part.commit(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == b"second"


def test_a_file_that_is_given_up_leaves_what_was_there(tmp_path):
    (tmp_path / "a.png").write_bytes(b"before")
    part = PartFile(tmp_path / "a.png")
    part.write(0, [b"half"])
    part.close()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.png", b"before")]


def test_a_long_name_does_not_make_the_name_of_the_part_file_too_long(tmp_path):
    target = tmp_path / ("a" * 251 + ".png")
    part = PartFile(target)
    part.finish(0, [b"done"], size_of)
    part.commit(target)
    assert target.read_bytes() == b"done"


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    # A FileExistsError would mean that another file has the picture's name, so a bulk run would go on to the next edit.
    with pytest.raises(NotADirectoryError, match="file"):
        PartFile(tmp_path / "file" / "a.png")
