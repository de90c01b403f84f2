"""Requests out of arguments and out of fields."""

from __future__ import annotations

from typing import Any

import pytest

from qwen_edit_async.errors import InvalidEditError
from qwen_edit_async.models import EditParameters, EditRequest
from qwen_edit_async.requests import EditOptions, request_from_arguments, request_from_fields

WHOLE = EditRequest("a.png", "make it snow", EditParameters(n=2), key="k")


def test_a_whole_request_is_taken_as_it_is() -> None:
    assert request_from_arguments(WHOLE, None, None, None, {}) is WHOLE


@pytest.mark.parametrize(
    ("instruction", "parameters", "key", "options"),
    [
        ("make it snow", None, None, {}),
        ("", None, None, {}),
        (None, EditParameters(), None, {}),
        (None, None, "k", {}),
        (None, None, None, {"n": 1}),
    ],
)
def test_nothing_may_stand_beside_a_whole_request(
    instruction: str | None, parameters: EditParameters | None, key: str | None, options: EditOptions
) -> None:
    with pytest.raises(InvalidEditError, match="beside it"):
        request_from_arguments(WHOLE, instruction, parameters, key, options)


def test_arguments_make_a_request() -> None:
    request = request_from_arguments(["a.png", "b.png"], "make it snow", None, "k", {"n": 3, "size": "512x1024"})
    parameters = EditParameters(n=3, size=(512, 1024))
    assert request == EditRequest(["a.png", "b.png"], "make it snow", parameters, key="k")


def test_options_are_laid_over_the_parameters() -> None:
    parameters = EditParameters(n=3, seed=7, watermark=True)
    request = request_from_arguments("a.png", "snow", parameters, None, {"seed": 8, "watermark": None})
    assert request.parameters == EditParameters(n=3, seed=8, watermark=True)  # ``None`` is the same as nothing given


@pytest.mark.parametrize("instruction", [None, ""])
def test_a_missing_instruction_is_refused_as_an_empty_one(instruction: str | None) -> None:
    with pytest.raises(InvalidEditError, match="the instruction is missing or empty"):
        request_from_arguments("a.png", instruction, None, None, {})


def test_an_option_outside_of_the_contract_is_refused() -> None:
    with pytest.raises(InvalidEditError, match=r"^n is 7"):
        request_from_arguments("a.png", "snow", None, None, {"n": 7})


@pytest.mark.parametrize("parameters", ["n=2", 0, [("n", 2)]], ids=repr)
def test_parameters_of_another_type_are_refused(parameters: Any) -> None:
    with pytest.raises(InvalidEditError, match=f"parameters is '{type(parameters).__name__}'"):
        request_from_arguments("a.png", "snow", parameters, None, {"n": 2})
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
        ({"picture": "a.png", "instruction": "snow"}, "no field 'picture': put what is your own into metadata"),
        ({"image": "a.png", "images": "a.png", "instruction": "snow"}, "both images and image"),
        ({"image2": "a.png", "instruction": "snow"}, "there is another image, but none in 'image'"),
        ({"images": "a.png", "instruction": "snow", "parameters": {"m": 1}}, "there is no parameter 'm'"),
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
