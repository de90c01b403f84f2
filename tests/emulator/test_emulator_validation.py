from __future__ import annotations

import base64
import copy

import pytest
from emulator_calls import PHOTO, PHOTO_URI, data_uri, encode, flat_body, params_body
from PIL import Image

from qwen_edit_async.emulator.validation import RejectedError, parse_body, sniff

TEN_MEGABYTES = 10 * 1024 * 1024
_REMOVED = object()


def parse(body, envelope="flat", *, decode=True):
    return parse_body(body, envelope=envelope, decode=decode)


def edited(path, value):
    """Return a valid body with the member at a path replaced or removed."""
    body = copy.deepcopy(flat_body(n=1))
    *parents, last = path
    target = body
    for key in parents:
        target = target[key]
    if value is _REMOVED:
        del target[last]
    else:
        target[last] = value
    return body


def test_a_minimal_body_has_the_documented_defaults():
    submission = parse(flat_body()).submission
    assert (submission.n, submission.size, submission.seed, submission.negative_prompt) == (1, None, None, None)
    assert (submission.prompt_extend, submission.watermark) == (True, False)


def test_every_parameter_is_read():
    submission = parse(
        flat_body(n=6, size="512*2048", seed=7, negative_prompt="dull", prompt_extend=False, watermark=True)
    ).submission
    assert (submission.n, submission.size, submission.seed, submission.negative_prompt) == (6, (512, 2048), 7, "dull")
    assert (submission.prompt_extend, submission.watermark) == (False, True)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["model"], "qwen_image_edit"),
        (["model"], _REMOVED),
        (["model"], 1),
        (["input"], _REMOVED),
        (["input"], "text"),
        (["input", "messages"], _REMOVED),
        (["input", "messages"], {}),
        (["input", "messages"], []),
        (["input", "messages"], flat_body()["input"]["messages"] * 2),
        (["input", "messages", 0], "text"),
        (["input", "messages", 0, "role"], "system"),
        (["input", "messages", 0, "role"], _REMOVED),
        (["input", "messages", 0, "content"], _REMOVED),
        (["input", "messages", 0, "content"], [{"text": "a"}]),
        (["input", "messages", 0, "content"], [{"image": PHOTO_URI}]),
        (["input", "messages", 0, "content"], [{"image": PHOTO_URI}] * 4 + [{"text": "a"}]),
        (["input", "messages", 0, "content"], [{"image": PHOTO_URI}, {"text": "a"}, {"text": "b"}]),
        (["input", "messages", 0, "content"], [{"image": PHOTO_URI, "text": "a"}]),
        (["input", "messages", 0, "content", 0], "text"),
        (["input", "messages", 0, "content", 0], {"audio": "x"}),
        (["input", "messages", 0, "content", 0, "image"], 5),
        (["input", "messages", 0, "content", 1, "text"], ""),
        (["input", "messages", 0, "content", 1, "text"], "  "),
        (["input", "messages", 0, "content", 1, "text"], None),
        (["parameters"], []),
        (["parameters"], None),
        *((["parameters", "n"], value) for value in (0, 7, True, 1.0, "1", None)),
        *((["parameters", "seed"], value) for value in (-1, 2**31, False, 1.5, None)),
        *((["parameters", "size"], value) for value in ("511*512", "2049*512", "1024x1024", [512, 512], None)),
        *((["parameters", "negative_prompt"], value) for value in (1, None)),
        *((["parameters", name], value) for name in ("prompt_extend", "watermark") for value in (1, "true", None)),
    ],
)
def test_a_body_that_breaks_a_rule_is_refused_with_400(path, value):
    with pytest.raises(RejectedError) as caught:
        parse(edited(path, value))
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("name", "value"),
    [("n", 1), ("n", 6), ("seed", 0), ("seed", 2**31 - 1), ("size", "512*512"), ("size", "2048*2048")],
)
def test_the_limits_themselves_are_allowed(name, value):
    assert parse(flat_body(**{name: value}))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_one_to_three_images_are_allowed_in_their_order(number):
    images = [f"http://127.0.0.1/{index}.png" for index in range(number)]
    assert [image.url for image in parse(flat_body(*images)).submission.images] == images


@pytest.mark.parametrize("body", [None, [], "text", 1])
def test_a_body_that_is_not_an_object_is_refused(body):
    with pytest.raises(RejectedError, match="body"):
        parse(body)


@pytest.mark.parametrize(("characters", "cut"), [(800, 0), (801, 1), (1000, 200)])
def test_an_instruction_is_cut_to_800_characters_and_the_rest_stays_visible(characters, cut):
    submission = parse(flat_body(text="雪" * characters)).submission
    assert (len(submission.instruction), len(submission.instruction_cut)) == (800, cut)


@pytest.mark.parametrize(("characters", "cut"), [(500, 0), (501, 1)])
def test_a_negative_prompt_is_cut_to_500_characters_and_the_rest_stays_visible(characters, cut):
    submission = parse(flat_body(negative_prompt="x" * characters)).submission
    assert (len(submission.negative_prompt), len(submission.negative_prompt_cut)) == (500, cut)


@pytest.mark.parametrize(
    ("image_format", "media_type"),
    [
        ("JPEG", "image/jpeg"),
        ("PNG", "image/png"),
        ("BMP", "image/bmp"),
        ("TIFF", "image/tiff"),
        ("WEBP", "image/webp"),
        ("GIF", "image/gif"),
    ],
)
def test_every_documented_format_is_accepted(image_format, media_type):
    data = encode(Image.new("RGB", (8, 8)), image_format)
    parsed = parse(flat_body(data_uri(data, media_type)))
    assert parsed.payloads == (data,)
    assert parsed.submission.images[0].content_type == media_type
    assert parsed.submission.images[0].size_bytes == len(data)


@pytest.mark.parametrize(
    "image",
    [
        "ftp://127.0.0.1/a.png",
        "file:///a.png",
        "/a.png",
        "",
        PHOTO_URI.removeprefix("data:image/png;base64,"),
        "data:image/png," + "x" * 40,
        "data:image/svg+xml;base64," + base64.b64encode(PHOTO).decode(),
        "data:image/png;base64," + base64.b64encode(b"plain text, no picture").decode(),
        "data:image/png;base64,",
        "data:image/png;base64,!!!!",
        PHOTO_URI[:-1],
        PHOTO_URI[:200] + "*" + PHOTO_URI[201:],
    ],
)
def test_an_image_that_is_neither_a_url_nor_a_valid_data_uri_is_refused(image):
    with pytest.raises(RejectedError, match="image"):
        parse(flat_body(image))


@pytest.mark.parametrize("remainder", [0, 1, 2])
def test_an_image_of_ten_megabytes_is_allowed_whatever_its_padding(remainder):
    data = PHOTO.ljust(TEN_MEGABYTES - remainder, b"\0")
    assert parse(flat_body(data_uri(data)), decode=False).submission.images[0].size_bytes == len(data)


def test_an_image_over_ten_megabytes_is_refused():
    with pytest.raises(RejectedError, match="at most"):
        parse(flat_body(data_uri(PHOTO.ljust(TEN_MEGABYTES + 1, b"\0"))), decode=False)


def test_images_are_not_decoded_for_an_engine_that_does_not_read_them():
    assert parse(flat_body(), decode=False).payloads == (None,)


def test_an_unknown_file_is_not_sniffed():
    assert sniff(b"RIFF....WAVE") is None


@pytest.mark.parametrize(
    ("envelope", "body", "accepted"),
    [
        ("flat", flat_body(), True),
        ("flat", params_body(), False),
        ("params", flat_body(), False),
        ("params", params_body(), True),
        ("both", flat_body(), True),
        ("both", params_body(n=2), True),
        ("params", {"model": "qwen_image_edit_plus", "input": []}, False),
        ("params", {"model": "qwen_image_edit_plus", "input": params_body()["input"] * 2}, False),
        ("params", {"model": "qwen_image_edit_plus", "input": [{}]}, False),
    ],
)
def test_only_the_chosen_envelope_is_accepted(envelope, body, accepted):
    try:
        parse(body, envelope)
    except RejectedError:
        assert not accepted
    else:
        assert accepted
