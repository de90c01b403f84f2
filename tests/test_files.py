"""Safe file names."""

from __future__ import annotations

import re

import pytest

from qwen_edit_async.files import safe_stem


@pytest.mark.parametrize("text", ["plain-1.0_x", "图片", "a", "con", "console.x", "com12.x", "x.con.y"])
def test_a_harmless_text_is_its_stem(text):
    assert safe_stem(text) == text


@pytest.mark.parametrize(
    ("text", "beginning"),
    [
        ("a/b\\c:d*e", "a_b_c_d_e-"),
        ("...", "-"),
        (".hidden", "hidden-"),
        ("../../etc/passwd", "_.._etc_passwd-"),
        ("x" * 500, "x" * 100),
        ("图" * 200, "图" * 50),
        ("a\0b\nc", "a_b_c-"),
        ("con.x", "con_.x-"),
    ],
)
def test_any_text_makes_a_stem(text, beginning):
    stem = safe_stem(text)
    assert stem.startswith(beginning)
    assert re.fullmatch(r"(?!\.)[\w.-]{1,180}", stem)
    assert len(f".{stem}-0.png.0123abcd.part".encode()) < 255


def test_texts_that_differ_make_stems_that_differ():
    texts = ["a b", "a_b", "a/b", "a:b", ".a_b", "con.x", "con_.x", "x" * 300, "x" * 301]
    assert len({safe_stem(text) for text in texts}) == len(texts)
