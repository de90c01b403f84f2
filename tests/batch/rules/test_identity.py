from __future__ import annotations

import errno
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_edit_async import EditFailedError, EditParameters, EditRequest, InvalidEditError, QwenEditError
from qwen_edit_async.batch.rules.identity import (
    allot,
    content_hash,
    describe,
    folded,
    identity_of,
    image_stem,
    stamp_of,
    stem_of,
)
from qwen_edit_async.errors import summary_of
from qwen_edit_async.images.findings import ImageError

REQUEST = EditRequest("photos/cat.jpg", "make it snow", EditParameters(n=2, seed=7))


@pytest.mark.parametrize(
    ("hashes", "request_"),
    [
        (["b", "a"], REQUEST),
        (["a"], REQUEST),
        (["a", "b"], attrs.evolve(REQUEST, instruction="make it rain")),
        *(
            (["a", "b"], attrs.evolve(REQUEST, parameters=attrs.evolve(REQUEST.parameters, **change)))
            for change in (
                {"n": 3},
                {"n": None},
                {"negative_prompt": "fog"},
                {"size": "1024*1024"},
                {"prompt_extend": False},
                {"watermark": True},
                {"seed": 8},
            )
        ),
    ],
)
def test_whatever_changes_the_edit_changes_its_hash(hashes, request_):
    assert content_hash(hashes, request_) != content_hash(["a", "b"], REQUEST)


def test_key_and_metadata_are_not_part_of_the_hash():
    named = attrs.evolve(REQUEST, key="other", metadata={"row": 1})
    assert content_hash(["a"], named) == content_hash(["a"], REQUEST)


def test_there_is_no_stamp_if_one_image_has_none():
    assert stamp_of(["a", None], REQUEST) == ""
    assert stamp_of(["a", "b"], REQUEST) != stamp_of(["a", "c"], REQUEST)


def a(*_: object) -> str:
    return "a"


def b(*_: object) -> str:
    return "b"


def test_the_own_key_is_the_identity_and_names_the_files():
    request = attrs.evolve(REQUEST, key="a/b")
    assert identity_of(request, a) == "a/b"
    assert stem_of(request).startswith("a_b-")


def test_without_a_key_the_locators_tell_edits_apart_not_their_content():
    identity = identity_of(REQUEST, a)
    assert identity.startswith("cat-")
    assert identity == identity_of(REQUEST, b)
    assert identity == identity_of(attrs.evolve(REQUEST, images=Path("photos/cat.jpg")), a)
    assert identity != identity_of(attrs.evolve(REQUEST, instruction="make it rain"), a)
    assert identity != identity_of(attrs.evolve(REQUEST, images="other/cat.jpg"), a)


def test_a_source_that_moves_keeps_its_identities():
    moved = attrs.evolve(REQUEST, images="elsewhere/cat.jpg")
    assert identity_of(REQUEST, a, folder="photos") == identity_of(moved, a, folder="elsewhere")
    assert identity_of(REQUEST, a, folder="photos") != identity_of(moved, a)


def test_without_a_locator_the_content_tells_edits_apart():
    request = attrs.evolve(REQUEST, images=b"bytes")
    assert identity_of(request, a) == identity_of(request, a) != identity_of(request, b)
    assert identity_of(request, a).startswith("edit-")


def test_a_signature_is_not_part_of_an_identity():
    first, second = (
        attrs.evolve(REQUEST, images=f"https://host/dog.png?v=1&Signature={each}&Expires=1") for each in "ab"
    )
    assert (
        identity_of(first, a)
        == identity_of(second, a)
        != identity_of(attrs.evolve(first, images="https://host/dog.png"), a)
    )
    assert stem_of(first) == "dog"


def test_identities_that_utf_8_does_not_have_stay_apart():
    first, second = (attrs.evolve(REQUEST, key=key) for key in ("a\ud800", "a\ud801"))
    assert identity_of(first, a) != identity_of(second, a)
    assert identity_of(first, a).encode()


@pytest.mark.parametrize(
    ("image", "stem"),
    [
        ("photos/cat.jpg", "cat"),
        (Path("photos/cat.jpg"), "cat"),
        ("https://example.com/a/c%20t.png?size=1", "c t"),
        ("data:image/png;base64,AAAA", ""),
        ("photos/archive.tar.png", "archive.tar"),
        (b"bytes", ""),
    ],
)
def test_a_picture_is_called_as_its_file(image, stem):
    assert image_stem(image) == stem


@pytest.mark.parametrize("stem", ["a", "A"])
def test_a_name_is_allotted_once(stem):
    taken, numbers = {"a", "a-2"}, {}
    assert allot(stem, taken.__contains__, numbers) == f"{stem}-3"
    assert allot("b", taken.__contains__, numbers) == "b"


def test_names_that_differ_in_how_letters_are_composed_are_one():
    one, other = "\ud55c", "\u1112\u1161\u11ab"
    assert allot(other, {folded(one)}.__contains__, {}) == f"{other}-2"


def test_many_edits_of_one_name_are_allotted_in_as_much_time_each():
    taken, asked, numbers = set(), [], {}

    def is_taken(name):
        asked.append(name)
        return name in taken

    for _ in range(200):
        taken.add(folded(allot("cat", is_taken, numbers)))
    assert (len(taken), "cat-200" in taken) == (200, True)
    assert len(asked) <= 400


@given(st.lists(st.text(st.characters(exclude_characters="\0"), min_size=1), max_size=12))
def test_names_are_unique_for_every_file_system_and_name_files(stems):
    taken, names, numbers = set(), [], {}
    for stem in stems:
        request = attrs.evolve(REQUEST, images=f"./{stem}.png")
        names.append(allot(stem_of(request), taken.__contains__, numbers))
        taken.add(folded(names[-1]))
    assert len({name.casefold() for name in names}) == len(stems)
    assert all(name == Path(name).name and len(name) < 120 for name in names)


def test_the_description_names_what_can_be_found():
    request = attrs.evolve(REQUEST, images=["cat.jpg", b"bytes"])
    assert describe(request) == (
        '{"images": ["cat.jpg", null], "instruction": "make it snow", "parameters": {"n": 2, "seed": 7}}'
    )


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (EditFailedError("refused by moderation", code=110001, task_id="t1"), "refused by moderation (code 110001)"),
        (ImageError("does not exist").named("image 1 (photos/cat.jpg)", 1), "image 1 does not exist"),
        (InvalidEditError("no", hint="do so"), "no; do so"),
        (QwenEditError("no", hint="attach to t1", task_id="t1"), "no"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/out/.cat-0.png.part"),
            "a file can't be written: No space left on device",
        ),
        (ValueError(), "ValueError"),
        (ValueError("x" * 201), "x" * 200),
    ],
)
def test_reasons_do_not_name_the_single_edit(error, reason):
    assert summary_of(error) == reason
