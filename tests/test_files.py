"""Files that are complete or not there."""

from __future__ import annotations

import pytest

from qwen_edit_async.files import PartFile


def test_a_file_has_its_name_only_when_it_is_complete(tmp_path):
    target = tmp_path / "new" / "a.png"
    part = PartFile(target)
    part.write(0, b"begin")
    assert not target.exists()
    part.commit(5, b" and end")
    assert target.read_bytes() == b"begin and end"
    part.close()
    assert [path.name for path in target.parent.iterdir()] == ["a.png"]


def test_a_shorter_second_attempt_leaves_nothing_of_the_first(tmp_path):
    part = PartFile(tmp_path / "a.png")
    part.write(0, b"a first attempt")
    part.commit(0, b"second")
    assert (tmp_path / "a.png").read_bytes() == b"second"


def test_a_file_that_is_given_up_leaves_what_was_there(tmp_path):
    (tmp_path / "a.png").write_bytes(b"before")
    part = PartFile(tmp_path / "a.png")
    part.write(0, b"half")
    part.close()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.png", b"before")]


def test_a_long_name_does_not_make_the_name_of_the_part_file_too_long(tmp_path):
    target = tmp_path / ("a" * 251 + ".png")
    PartFile(target).commit(0, b"done")
    assert target.read_bytes() == b"done"


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        PartFile(tmp_path / "file" / "a.png")
