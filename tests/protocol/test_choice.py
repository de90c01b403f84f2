"""The choice of a protocol."""

from __future__ import annotations

import contextlib
from typing import Any, get_args

import pytest
from wire_replies import FLAT, PARAMS

from qwen_edit_async.errors import BadRequestError, ConfigurationError
from qwen_edit_async.models import EditRequest
from qwen_edit_async.protocol.base import WireProtocol
from qwen_edit_async.protocol.choice import Forms, ProtocolName, choose_protocol
from qwen_edit_async.protocol.dashscope import DashScopeProtocol
from qwen_edit_async.protocol.generation import GenerationProtocol
from qwen_edit_async.protocol.queue import QueueProtocol

HEADER = GenerationProtocol("header")


@pytest.mark.parametrize(
    ("protocol", "envelope", "first", "then"),
    [
        (None, "auto", FLAT, PARAMS),
        ("generation", "auto", FLAT, PARAMS),
        (None, "flat", FLAT, None),
        ("generation", "params", PARAMS, None),
        (None, "header", HEADER, None),
        ("queue", "auto", QueueProtocol(), None),
        ("dashscope", "auto", DashScopeProtocol(), None),
    ],
)
def test_the_options_say_what_to_begin_with_and_what_to_try_then(
    protocol: Any, envelope: Any, first: object, then: object
) -> None:
    assert choose_protocol(protocol, envelope, None) == (first, then)


def test_the_model_is_that_of_both_envelopes() -> None:
    first, then = choose_protocol(None, "auto", "other")
    assert (first, then) == (GenerationProtocol("flat", "other"), GenerationProtocol("params", "other"))


@pytest.mark.parametrize("protocol", get_args(ProtocolName))
def test_each_protocol_takes_a_model(protocol: str) -> None:
    first, _ = choose_protocol(protocol, "auto", "other")
    assert first.model == "other"


@pytest.mark.parametrize("protocol", get_args(ProtocolName))
def test_each_protocol_says_whether_it_has_prices(protocol: str) -> None:
    first, _ = choose_protocol(protocol, "auto", None)
    request = EditRequest("a.png", "make it snow")
    with contextlib.nullcontext() if first.has_prices else pytest.raises(ConfigurationError, match="can't tell"):
        assert first.estimation(request).method == "POST"


@pytest.mark.parametrize(
    ("protocol", "from_environment", "first"),
    [
        (None, "queue", QueueProtocol()),
        (None, " queue ", QueueProtocol()),
        (None, "", FLAT),
        (None, None, FLAT),
        ("generation", "queue", FLAT),
        ("generation", "nonsense", FLAT),
    ],
)
def test_the_environment_chooses_where_the_argument_does_not(
    protocol: str | None, from_environment: str | None, first: object
) -> None:
    assert choose_protocol(protocol, "auto", None, from_environment)[0] == first


@pytest.mark.parametrize("protocol", ["", "QUEUE", "fal", 5, b"queue", ["queue"]])
def test_an_unknown_protocol_is_refused(protocol: object) -> None:
    with pytest.raises(ConfigurationError, match=r"^protocol is .*: give 'generation', 'queue' or 'dashscope'"):
        choose_protocol(protocol, "auto", None)


def test_an_unknown_protocol_of_the_environment_names_the_variable() -> None:
    with pytest.raises(ConfigurationError, match="QWEN_EDIT_PROTOCOL is 'fal': give 'generation'"):
        choose_protocol(None, "auto", None, "fal")


def refused(status_code: int = 400) -> BadRequestError:
    return BadRequestError("malformed", status_code=status_code)


@pytest.mark.parametrize(("status_code", "is_tried"), [(200, True), (400, True), (422, True), (413, False)])
def test_the_other_form_is_tried_if_the_body_may_be_malformed(status_code: int, *, is_tried: bool) -> None:
    forms = Forms(FLAT, PARAMS)
    assert forms.after(FLAT, refused(status_code)) is (PARAMS if is_tried else None)
    assert forms.after(PARAMS, refused(status_code)) is None


def test_without_another_form_none_is_tried() -> None:
    assert Forms(FLAT, None).after(FLAT, refused()) is None


def test_a_form_that_another_call_has_found_is_tried() -> None:
    forms = Forms(FLAT, PARAMS)
    forms.adopt(PARAMS)
    assert forms.after(FLAT, refused()) is PARAMS
    assert forms.after(PARAMS, refused()) is None


@pytest.mark.parametrize(("accepted", "is_change"), [(FLAT, False), (PARAMS, True)])
def test_the_form_that_is_accepted_first_is_used_from_then_on(accepted: WireProtocol, *, is_change: bool) -> None:
    forms = Forms(FLAT, PARAMS)
    assert forms.adopt(accepted) is is_change
    assert (forms.protocol, forms.alternative) == (accepted, None)
    assert forms.adopt(FLAT if accepted is PARAMS else PARAMS) is False
    assert (forms.protocol, forms.alternative) == (accepted, None)


@pytest.mark.parametrize("envelope", ["", "AUTO", "queue", None, 5, ["flat"], FLAT])
def test_an_unknown_envelope_is_refused(envelope: object) -> None:
    with pytest.raises(ConfigurationError, match=r"^envelope is .*: give 'auto', 'flat', 'params' or 'header'"):
        choose_protocol(None, envelope, None)


@pytest.mark.parametrize("protocol", ["queue", "dashscope"])
def test_an_envelope_needs_a_protocol_that_has_some(protocol: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^envelope is 'flat': leave it out"):
        choose_protocol(protocol, "flat", None)


@pytest.mark.parametrize("model", ["", " ", "a b", "a\n", "a\r\nX-Evil: b", "模型", 5, b"m"])
def test_a_model_that_is_no_name_is_refused(model: object) -> None:
    with pytest.raises(ConfigurationError, match=r"^model is .*: give the service's name"):
        choose_protocol(None, "auto", model)
