"""Requests and parameters are checked when they are made."""

from __future__ import annotations

import io
import pickle
import tempfile
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from qwen_edit_async.errors import InvalidEditError
from qwen_edit_async.images.kinds import BinaryReader
from qwen_edit_async.models import (
    EditKeywords,
    EditParameters,
    EditRequest,
    request_from_arguments,
    request_from_fields,
)
from qwen_edit_async.tasks import TaskSnapshot, TaskStatus, Usage

PNG_BYTES = b"\x89PNG\r\n\x1a\n"


@given(
    n=st.none() | st.integers(1, 6),
    seed=st.none() | st.integers(0, 2**31 - 1),
    size=st.none() | st.tuples(st.integers(512, 2048), st.integers(512, 2048)),
    negative_prompt=st.none() | st.text(),
    prompt_extend=st.none() | st.booleans(),
    watermark=st.none() | st.booleans(),
)
def test_parameters_within_the_contract_are_kept_as_they_are(**values: object) -> None:
    assert attrs.asdict(EditParameters(**values)) == values


@given(st.integers().filter(lambda n: not 1 <= n <= 6))
def test_n_out_of_bounds_is_refused(n: int) -> None:
    with pytest.raises(InvalidEditError, match=r"^n is"):
        EditParameters(n=n)


@given(st.integers().filter(lambda seed: not 0 <= seed < 2**31))
def test_a_seed_out_of_bounds_is_refused(seed: int) -> None:
    with pytest.raises(InvalidEditError, match=r"^seed is"):
        EditParameters(seed=seed)


@given(
    st.integers(0, 9999),
    st.integers(0, 9999),
    st.sampled_from("*xX×"),
    st.sampled_from(["", " ", "  "]),
)
def test_a_size_as_text_equals_its_numbers(width: int, height: int, sign: str, space: str) -> None:
    text = f"{space}{width}{space}{sign}{space}{height}{space}"
    if 512 <= width <= 2048 and 512 <= height <= 2048:
        assert EditParameters(size=text).size == (width, height)
    else:
        with pytest.raises(InvalidEditError, match="of size is"):
            EditParameters(size=text)


@pytest.mark.parametrize("size", ["1024*1536", "1024x1536", (1024, 1536), [1024, 1536], np.array([1024, 1536])])
def test_every_form_of_a_size_is_one_tuple(size: object) -> None:
    assert EditParameters(size=size).size == (1024, 1536)


def test_integers_of_numpy_become_python_s_own() -> None:
    parameters = EditParameters(n=np.int64(2), seed=np.uint8(7), size=(np.int32(1024), np.int16(1536)))
    assert parameters == EditParameters(n=2, seed=7, size=(1024, 1536))
    assert {type(value) for value in (parameters.n, parameters.seed, *parameters.size)} == {int}


class Upload:
    """An upload like Starlette's, which reads asynchronously and has a file."""

    def __init__(self, file: io.BytesIO) -> None:
        self.file = file

    async def read(self, size: int = -1) -> bytes:
        raise AssertionError(size)


class Proxy:
    """A file like Werkzeug's, which takes missing attributes from its stream."""

    def __init__(self, stream: io.BytesIO) -> None:
        self.stream = stream


def test_a_temporary_file_is_the_image() -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"a picture")
        file.seek(0)
        [image] = EditRequest(file, "snow").images
        assert isinstance(image, BinaryReader)
        assert image.read() == b"a picture"


@pytest.mark.parametrize("wrap", [Upload, Proxy])
def test_an_uploads_file_is_the_image(wrap: Callable[[io.BytesIO], object]) -> None:
    file = io.BytesIO(b"x")
    assert EditRequest(wrap(file), "snow").images == (file,)
    assert EditRequest([wrap(file), b"y"], "snow").images == (file, b"y")


@pytest.mark.parametrize(
    ("cell", "image"),
    [
        ({"bytes": b"x", "path": "a.png"}, b"x"),
        ({"bytes": b"x", "path": None}, b"x"),
        ({"bytes": None, "path": "a.png"}, "a.png"),
        ({"path": "a.png"}, "a.png"),
    ],
)
def test_a_data_sets_cell_is_its_image(cell: dict[str, object], image: object) -> None:
    assert EditRequest(cell, "snow").images == (image,)


@pytest.mark.parametrize("image", [{}, {"url": "https://host/a.png"}, Proxy(None)])
def test_a_wrapper_without_an_image_is_refused(image: object) -> None:
    with pytest.raises(InvalidEditError, match=r"^image 1 is '.*': give a path"):
        EditRequest(image, "snow")


@pytest.mark.parametrize(
    "values",
    [
        {"n": 0},
        {"n": 7},
        {"n": True},
        {"n": 1.5},
        {"n": "2"},
        {"size": "511*512"},
        {"size": "512*511"},
        {"size": "2049*1024"},
        {"size": "1024*2049"},
        {"size": "big"},
        {"size": ""},
        {"size": "1024"},
        {"size": "1024*1024*3"},
        {"size": "-1024*1024"},
        {"size": "١٠٢٤*1024"},
        {"size": (1024,)},
        {"size": (1024, 1024, 3)},
        {"size": (1024.0, 1024)},
        {"size": (True, 1024)},
        {"size": 1024},
        {"seed": -1},
        {"seed": 2**31},
        {"seed": 1.0},
        {"seed": False},
        {"negative_prompt": 5},
        {"negative_prompt": b"blur"},
        {"prompt_extend": 1},
        {"watermark": "yes"},
    ],
    ids=repr,
)
def test_a_parameter_outside_of_the_contract_is_refused_and_named(values: dict[str, object]) -> None:
    with pytest.raises(InvalidEditError, match=next(iter(values))):
        EditParameters(**values)


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        ([], "0 images"),
        (["a.png"] * 4, "4 images"),
        (["a.png", None], "image 2 is missing"),
        (["a.png", ["b.png"]], "image 2 is 'list'"),
        (["a.png", b"", "c.png"], "image 2 is empty"),
        ("ftp://example.com/a.png", r"image 1 \(ftp://example.com/a.png\) is a URL that is not http"),
        ("data:image/png;base64,@@@@", "image 1 is a data URI with broken Base64"),
        (Image.new("RGB", (0, 0)), "image 1 has no pixels"),
        (np.zeros((4, 4, 3)), "image 1 is an array of type"),
        (iter(["a.png"]), "image 1 is 'list_iterator'"),
        (None, "image 1 is missing"),
    ],
)
def test_images_outside_of_the_contract_are_refused_and_named(images: object, reason: str) -> None:
    with pytest.raises(InvalidEditError, match=reason):
        EditRequest(images, "make it snow")


@pytest.mark.parametrize("instruction", ["", " \n\t", None, 5, b"make it snow"])
def test_a_missing_or_empty_instruction_is_refused(instruction: object) -> None:
    with pytest.raises(InvalidEditError, match="instruction"):
        EditRequest("a.png", instruction)


def test_parameters_of_another_type_are_refused() -> None:
    with pytest.raises(InvalidEditError, match="parameters is 'dict'"):
        EditRequest("a.png", "make it snow", {"n": 2})


def test_images_of_mixed_kinds_keep_their_order() -> None:
    images = ["a.png", PNG_BYTES, io.BytesIO(PNG_BYTES)]
    assert EditRequest(images, "combine them").images == tuple(images)


def test_one_image_needs_no_list() -> None:
    assert EditRequest("a.png", "make it snow").images == ("a.png",)


def test_a_request_does_not_follow_later_changes_of_its_inputs() -> None:
    images, metadata = ["a.png"], {"row": 1}
    request = EditRequest(images, "make it snow", metadata=metadata)
    images.append("b.png")
    metadata["row"] = 2
    assert (request.images, dict(request.metadata)) == (("a.png",), {"row": 1})


def test_a_request_does_not_print_its_images() -> None:
    assert "PNG" not in repr(EditRequest([PNG_BYTES], "make it snow"))


@pytest.mark.parametrize(
    ("instruction", "negative_prompt", "sentences"),
    [
        ("雪" * 800, "x" * 500, []),
        ("雪" * 801, None, ["instruction has 801"]),
        ("x", "x" * 501, ["negative prompt has 501"]),
        ("x" * 900, "x" * 600, ["instruction has 900", "negative prompt has 600"]),
    ],
)
def test_text_that_would_be_cut_off_is_accepted_and_noted(
    instruction: str, negative_prompt: str | None, sentences: list[str]
) -> None:
    request = EditRequest("a.png", instruction, EditParameters(negative_prompt=negative_prompt))
    cut = request.silently_cut()
    assert len(cut) == len(sentences)
    assert all(expected in sentence for expected, sentence in zip(sentences, cut, strict=True))


def test_only_completed_and_failed_are_terminal() -> None:
    assert {status for status in TaskStatus if status.terminal} == {TaskStatus.COMPLETED, TaskStatus.FAILED}


def test_a_snapshot_is_hashable_though_its_raw_reply_is_not() -> None:
    snapshot = TaskSnapshot(
        task_id="t", status=TaskStatus.COMPLETED, usage=Usage(cost=Decimal("0.1")), raw={"id": "t", "extra": [1]}
    )
    assert hash(snapshot) == hash(attrs.evolve(snapshot, raw={}))
    assert snapshot != attrs.evolve(snapshot, raw={})


@pytest.mark.parametrize("metadata", [None, 5, [("a", 1)]])
def test_metadata_that_is_not_a_mapping_is_refused(metadata):
    with pytest.raises(InvalidEditError, match="metadata"):
        EditRequest("a.png", "snow", metadata=metadata)


def test_a_request_can_be_pickled_and_does_not_follow_later_changes_of_its_metadata():
    metadata = {"owner": 7}
    request = EditRequest("a.png", "snow", EditParameters(n=2), key="k", metadata=metadata)
    metadata["owner"] = 8
    assert pickle.loads(pickle.dumps(request)) == request
    assert request.metadata == {"owner": 7}


@pytest.mark.parametrize("interface", [None, {}, {"shape": 5, "typestr": "|u1"}])
def test_an_array_without_a_type_is_refused(interface):
    class Array:
        __array_interface__ = interface

    with pytest.raises(InvalidEditError, match="not a complete array"):
        EditRequest(Array(), "snow")


@pytest.mark.parametrize("url", ["http://h:abc/x", "http://h:99999/x", "http://h/\0", "http://h/a b"])
def test_a_malformed_url_is_refused(url):
    with pytest.raises(InvalidEditError, match="not a valid URL"):
        EditRequest(url, "snow")


def test_a_key_that_is_not_text_is_refused():
    with pytest.raises(InvalidEditError, match="key"):
        EditRequest("a.png", "snow", key=5)


WHOLE = EditRequest("a.png", "make it snow", EditParameters(n=2), key="k")


def test_a_whole_request_is_taken_as_it_is() -> None:
    assert request_from_arguments(WHOLE, None, {}) is WHOLE


@pytest.mark.parametrize(
    ("instruction", "options"),
    [
        ("make it snow", {}),
        ("", {}),
        (None, {"parameters": EditParameters()}),
        (None, {"key": "k"}),
        (None, {"n": 1}),
    ],
)
def test_nothing_may_stand_beside_a_whole_request(instruction: str | None, options: EditKeywords) -> None:
    with pytest.raises(InvalidEditError, match="leave out instruction"):
        request_from_arguments(WHOLE, instruction, options)


def test_arguments_make_a_request() -> None:
    request = request_from_arguments(["a.png", "b.png"], "make it snow", {"key": "k", "n": 3, "size": "512x1024"})
    parameters = EditParameters(n=3, size=(512, 1024))
    assert request == EditRequest(["a.png", "b.png"], "make it snow", parameters, key="k")


def test_options_are_laid_over_the_parameters() -> None:
    parameters = EditParameters(n=3, seed=7, watermark=True)
    request = request_from_arguments("a.png", "snow", {"parameters": parameters, "seed": 8, "watermark": None})
    assert request.parameters == EditParameters(n=3, seed=8, watermark=True)


@pytest.mark.parametrize("instruction", [None, ""])
def test_a_missing_instruction_is_refused_as_an_empty_one(instruction: str | None) -> None:
    with pytest.raises(InvalidEditError, match="the instruction is missing or empty"):
        request_from_arguments("a.png", instruction, {})


def test_an_option_outside_of_the_contract_is_refused() -> None:
    with pytest.raises(InvalidEditError, match=r"^n is 7"):
        request_from_arguments("a.png", "snow", {"n": 7})


@pytest.mark.parametrize("parameters", ["n=2", 0, [("n", 2)]], ids=repr)
def test_parameters_of_another_type_make_no_request(parameters: Any) -> None:
    with pytest.raises(InvalidEditError, match=f"parameters is '{type(parameters).__name__}'"):
        request_from_arguments("a.png", "snow", {"parameters": parameters, "n": 2})
    with pytest.raises(InvalidEditError, match=f"parameters is '{type(parameters).__name__}'"):
        request_from_fields({"images": "a.png", "instruction": "snow", "parameters": parameters})


def test_fields_of_request_and_parameters_stand_side_by_side() -> None:
    fields = {
        "images": ["a.png"],
        "instruction": "snow",
        "key": "k",
        "metadata": {"row": 5},
        "n": 2,
        "negative_prompt": "blur",
        "size": "512*1024",
        "prompt_extend": False,
        "watermark": True,
        "seed": 1,
    }
    parameters = EditParameters(
        n=2, negative_prompt="blur", size=(512, 1024), prompt_extend=False, watermark=True, seed=1
    )
    assert request_from_fields(fields) == EditRequest("a.png", "snow", parameters, key="k", metadata={"row": 5})


def test_fields_are_laid_over_a_field_of_parameters() -> None:
    fields = {"images": "a.png", "instruction": "snow", "parameters": EditParameters(n=2, seed=1), "seed": 5}
    assert request_from_fields(fields).parameters == EditParameters(n=2, seed=5)


def test_parameters_that_are_none_are_the_service_s_own() -> None:
    fields = {"images": "a.png", "instruction": "snow", "parameters": None}
    assert request_from_fields(fields).parameters == EditParameters()


def test_columns_of_a_table_name_the_images_of_a_mapping() -> None:
    fields = {"image": "a.png", "image2": None, "image3": b"c", "instruction": "snow", "n": 2}
    assert request_from_fields(fields) == EditRequest(["a.png", b"c"], "snow", EditParameters(n=2))
    assert request_from_fields(fields | {"image2": float("nan")}).images == ("a.png", b"c")


def test_parameters_may_be_a_mapping() -> None:
    fields = {"images": "a.png", "instruction": "snow", "parameters": {"n": 2, "seed": 1}, "seed": 5}
    assert request_from_fields(fields).parameters == EditParameters(n=2, seed=5)


def test_the_mapping_is_left_as_it_was() -> None:
    fields = {"images": "a.png", "instruction": "snow", "parameters": EditParameters(n=2), "seed": 5}
    before = dict(fields)
    request_from_fields(fields)
    assert fields == before


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"picture": "a.png", "instruction": "snow"}, "no field 'picture': put your own data into metadata"),
        ({"image": "a.png", "images": "a.png", "instruction": "snow"}, "has 'images' and also image, image2 or image3"),
        ({"image2": "a.png", "instruction": "snow"}, "no first image: put the first into 'image'"),
        (
            {"images": "a.png", "instruction": "snow", "parameters": {"m": 1}},
            "there is no parameter 'm': the param",
        ),
        ({5: "a.png"}, "no field 5"),
        ({"instruction": "snow"}, "0 images"),
        ({"images": "a.png"}, "the instruction is missing"),
        ({"images": "a.png", "instruction": None}, "the instruction is missing"),
        ({"images": "a.png", "instruction": "snow", "n": 0}, "^n is 0"),
        ({}, "0 images"),
        (None, "a request is 'NoneType'"),
        ("a.png", "a request is 'str'"),
        (["a.png", "snow"], "a request is 'list'"),
    ],
    ids=repr,
)
def test_fields_that_make_no_request_are_refused_and_named(fields: object, reason: str) -> None:
    with pytest.raises(InvalidEditError, match=reason):
        request_from_fields(fields)
