"""Any content of image files and tables gives edits, or the documented errors."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from qwen_edit_async import ConfigurationError, EditRequest, InvalidEditError
from qwen_edit_async.batch.fingerprint import fingerprint_of, identify
from qwen_edit_async.batch.input import BatchInput
from qwen_edit_async.batch.output import BatchOutput
from qwen_edit_async.batch.rules.item import EditDefaults, Reading
from qwen_edit_async.images.integrity import judge
from qwen_edit_async.images.prepare import prepare

pytestmark = pytest.mark.fuzz


def picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.radial_gradient("L").resize((40, 30)).convert("RGB").save(file, kind)
    return file.getvalue()


PICTURES = [picture(kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "ICO")]


@st.composite
def damaged_pictures(draw) -> bytes:
    content = bytearray(draw(st.sampled_from(PICTURES)))
    for position in draw(st.lists(st.integers(0, len(content) * 8 - 1), max_size=8)):
        content[position // 8] ^= 1 << position % 8
    for position, noise in draw(st.lists(st.tuples(st.integers(0, len(content)), st.binary(max_size=16)), max_size=2)):
        content[position : position + len(noise)] = noise
    return bytes(content[: draw(st.integers(1, len(content)))]) if draw(st.booleans()) else bytes(content)


@pytest.mark.filterwarnings("ignore")  # Pillow's warnings about metadata
@given(damaged_pictures() | st.binary(min_size=1), st.booleans())
def test_any_bytes_are_an_image_or_an_error(content, fit):
    try:
        prepare([content], fit=fit)
    except InvalidEditError as error:
        assert str(error)  # noqa: PT017  # either way is right


@pytest.mark.filterwarnings("ignore")  # as above
@given(damaged_pictures() | st.binary(), st.booleans())
def test_any_bytes_are_a_result_or_named(content, lenient):
    verdict = judge(io.BytesIO(content), len(content), lenient=lenient)
    assert verdict.problem or verdict.kind


def odd_image(pieces: list[object], others: dict[str, object]) -> object:
    """Return a file, path or remote path whose methods return or raise anything.

    Args:
        pieces: What ``read`` gives; after them the file is at its end.
        others: What the other methods that it has give.
    """

    def answer(given: object) -> object:
        if isinstance(given, Exception):
            raise given
        return given

    def method(name: str, given: object):
        return lambda image, *_: image if name == "open" and given is None else answer(given)

    methods = {name: method(name, given) for name, given in others.items()}
    rest = [*pieces]
    if "read" in others:
        methods["read"] = lambda *_: answer(rest.pop(0) if rest else b"")
    return type("Odd", (), methods)()


answers = (
    st.none()
    | st.integers()
    | st.binary(max_size=20)
    | st.text(st.characters(), max_size=20)  # surrogates as well
    | st.builds(
        lambda kind, text: kind(text),
        st.sampled_from([OSError, ValueError, TypeError, RuntimeError, LookupError, AttributeError, EOFError]),
        st.text(max_size=5),
    )
)
odd_images = st.builds(
    odd_image,
    st.lists(answers | st.sampled_from(PICTURES), max_size=4),
    st.dictionaries(
        st.sampled_from(["read", "open", "seek", "tell", "tobytes", "save", "close", "__fspath__"]), answers
    ),
)


@given(odd_images | st.text(st.characters(), max_size=20) | st.binary(max_size=20))
@example("\ud800.png")
@example("a\0.png")
def test_any_object_has_a_content_hash_or_is_an_error(image):
    try:
        request = EditRequest([image], "make it snow")
        assert identify(request)
        if (problem := fingerprint_of(request).problem) is not None:
            raise problem
        prepare(request.images)[0].close()
    except InvalidEditError as error:
        assert str(error)  # noqa: PT017  # either way is right


cells = st.text(max_size=20) | st.sampled_from(["image", "image2", "instruction", "key", "n", "seed", "size", "a.png"])
csv_texts = st.lists(st.lists(cells, max_size=6).map(",".join), max_size=6).map("\n".join)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(cells, values, max_size=4),
    max_leaves=6,
)
jsonl_texts = st.lists(json_values.map(json.dumps) | st.text(max_size=40), max_size=6).map("\n".join)
tables = (
    st.tuples(st.sampled_from([".csv", ".tsv"]), csv_texts.map(str.encode) | st.binary(max_size=200))
    | st.tuples(st.just(".csv"), csv_texts.map(lambda text: f"image,instruction,{text}".encode()))
    | st.tuples(st.just(".jsonl"), jsonl_texts.map(str.encode) | st.binary(max_size=200))
)


@given(tables, st.sampled_from([None, "make it snow"]))
@example((".jsonl", b"[" * 100_000), "make it snow")
@example((".jsonl", b'{"image": "a.png", "n": ' + b"1" * 5000 + b"}"), "make it snow")
@example((".csv", b"image,n\na.png," + b"1" * 5000), "make it snow")
def test_any_table_is_edits_and_problems_or_a_clear_error(table, instruction):
    suffix, content = table
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"table{suffix}"
        path.write_bytes(content)
        try:
            output = BatchOutput(Path(folder) / "out", overwrite=False)
            given = BatchInput(path, Reading(EditDefaults(instruction), base=folder), output)
            items = list(given.survey(lambda _: None))
        except ConfigurationError as error:
            assert str(error)  # noqa: PT017  # either way is right
            return
    assert all((item.request is None) == (item.problem is not None) for item in items)
    identities = [item.identity for item in items if item.request is not None]
    assert len(set(identities)) == len(identities)
