"""Datasets of Hugging Face as sources."""

from __future__ import annotations

import io

import datasets
import pytest
from bulk_runs import PHOTO, service, states
from emulator_calls import encode
from PIL import Image

from qwen_edit_async import ConfigurationError, EditBatch
from qwen_edit_async.batch.rules.item import EditDefaults, Reading
from qwen_edit_async.batch.sources import is_table, read_source, table_folder

SNOW = EditDefaults("make it snow")


@pytest.fixture(autouse=True)
def no_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def photos(tmp_path):
    """A dataset whose images are a file of this machine, the bytes of a file, and nothing."""
    path = tmp_path / "a.png"
    path.write_bytes(PHOTO)
    jpeg = io.BytesIO()
    Image.new("RGB", (400, 400), "#204060").save(jpeg, "JPEG")
    cells = [{"bytes": None, "path": str(path)}, {"bytes": jpeg.getvalue(), "path": None}, None]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"]), "Seed": datasets.Value("int64")}
    )
    return datasets.Dataset.from_dict({"image": cells, "label": [0, 1, 1], "Seed": [7, 8, 9]}, features)


@pytest.mark.parametrize("make", [lambda dataset: dataset, lambda dataset: dataset.to_iterable_dataset()])
def test_a_row_is_an_edit_and_its_image_is_not_decoded(photos, make):
    notes = []
    first, second, third = read_source(make(photos), Reading(SNOW, note=notes.append))
    assert str(first.request.images[0]).endswith("a.png")
    assert second.request.images[0].startswith(b"\xff\xd8\xff")
    assert [each.request.parameters.seed for each in (first, second)] == [7, 8]
    assert second.request.metadata == {"label": 1}
    assert (third.row, third.problem) == (2, "there is no image")
    assert notes == ["columns that are not used: label"]
    assert (is_table(photos), table_folder(photos)) == (True, "")


def test_a_format_for_tensors_does_not_matter(photos):
    first, *_ = read_source(photos.with_format("numpy"), Reading(SNOW))
    assert str(first.request.images[0]).endswith("a.png")


def test_a_dataset_without_images_or_rows_is_refused(photos):
    with pytest.raises(ConfigurationError, match="the dataset has no column 'image'"):
        list(read_source(photos.remove_columns("image"), Reading(SNOW)))
    with pytest.raises(ConfigurationError, match="the dataset has no rows"):
        list(read_source(photos.select([]), Reading(SNOW)))


def test_a_dataset_whose_columns_are_not_known_is_refused():
    streamed = datasets.IterableDataset.from_generator(lambda: iter([{"image": "a.png"}]))
    with pytest.raises(ConfigurationError, match="the dataset's columns are not known"):
        list(read_source(streamed, Reading(SNOW)))
    named = streamed.cast(datasets.Features({"image": datasets.Value("string")}))
    (item,) = read_source(named, Reading(SNOW))
    assert str(item.request.images[0]) == "a.png"


def test_the_cells_of_a_streamed_row_may_be_in_any_order():
    features = datasets.Features({name: datasets.Value("string") for name in ("image", "instruction", "key")})
    streamed = datasets.IterableDataset.from_generator(lambda: iter([{"image": "a.png", "key": "a"}]))
    (item,) = read_source(streamed.map(lambda _: {"instruction": "snow"}, features=features), Reading(SNOW))
    assert (str(item.request.images[0]), item.request.instruction, item.request.key) == ("a.png", "snow", "a")


@pytest.mark.anyio
async def test_a_dataset_is_edited_once(photos, tmp_path):
    pictures = [Image.new("RGB", (400, 400), color) for color in ("#112233", "#445566")]
    made = datasets.Dataset.from_dict({"image": pictures, "key": ["a", "b"]})
    out = tmp_path / "out"
    async with service() as (emulator, session):
        for _ in range(2):
            report = await EditBatch(made, out, instruction="make it snow").run(session)
        assert (report.saved, emulator.statistics().tasks_created) == (2, 2)
        report = await EditBatch(photos, tmp_path / "more", instruction="make it snow").run(session)
        assert (report.saved, report.refused) == (2, 1)
    assert states(out) == {"a": "saved", "b": "saved"}
    assert encode(pictures[0])
