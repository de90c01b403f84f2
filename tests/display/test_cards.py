"""What notebooks show: results, outcomes, grids and progress; and the small pictures in them."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import re
import sys
import types
from decimal import Decimal

import numpy as np
import PIL.Image
import pytest

from qwen_edit_async import (
    DownloadError,
    EditBatch,
    EditFailedError,
    EditOutcome,
    EditParameters,
    EditRequest,
    EditResult,
    EditTimings,
    OutputImage,
    SessionClosedError,
    Usage,
)
from qwen_edit_async.display.cards import Progress, progress_html
from qwen_edit_async.display.thumbnails import Previews, make_thumbnail
from qwen_edit_async.emulator import Fault
from qwen_edit_async.notebook import ProgressDisplay, run_batch, show, show_batch, track

HOSTILE = "</div><script>attack()</script>\"'><img src=x onerror=attack()>"


def png_bytes(size=(640, 480), color="teal") -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


class Store:
    """Results that are there at once."""

    def __init__(self, *, closed: bool = False) -> None:
        self.closed = closed
        self.offloaded = 0

    async def read(self, url, task_id, index):
        return png_bytes()

    async def save(self, url, task_id, index, path):
        path.write_bytes(png_bytes())

    async def offload(self, function, *arguments):
        self.offloaded += 1
        if self.closed:
            raise SessionClosedError("closed")
        return function(*arguments)


class FakeIPython:
    """As much of IPython as a kernel shows, and everything that was displayed, newest state first."""

    def __init__(self) -> None:
        self.displayed: list[list[dict[str, str]]] = []

    def get_ipython(self) -> object:
        return types.SimpleNamespace(kernel=object())

    def display(self, bundle, *, raw, display_id):
        assert raw
        assert display_id
        states = [bundle]
        self.displayed.append(states)
        return types.SimpleNamespace(update=lambda bundle, raw: states.append(bundle))


@pytest.fixture
def notebook(monkeypatch):
    fake = FakeIPython()
    package = types.ModuleType("IPython")
    package.get_ipython = fake.get_ipython
    module = types.ModuleType("IPython.display")
    module.display = fake.display
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return fake


def result_of(store=None, *, request=None, count=1, cost=Decimal("0.0357")) -> EditResult:
    previews = Previews(request.images if request is not None else ())
    return EditResult(
        task_id="task-1",
        images=tuple(
            OutputImage(
                url="https://host.test/x.png?sig=secret", task_id="task-1", index=i, store=store, previews=previews
            )
            for i in range(count)
        ),
        usage=Usage(cost=cost),
        timings=EditTimings(running=3.0, checks=2),
        request=request,
        previews=previews,
    )


def failure_of(instruction="make it snow") -> EditOutcome:
    return EditOutcome(
        index=3, request=EditRequest("cat.jpg", instruction, key="cat"), error=EditFailedError("no", task_id="task-9")
    )


@pytest.mark.parametrize(
    "image",
    [
        png_bytes(),
        bytearray(png_bytes()),
        PIL.Image.new("RGB", (640, 480)),
        PIL.Image.new("RGBA", (640, 480)),
        np.zeros((480, 640), np.uint8),
        np.zeros((480, 640, 3), np.uint8),
    ],
    ids=lambda image: type(image).__name__,
)
def test_a_thumbnail_is_small_and_keeps_the_shape(image):
    thumbnail = make_thumbnail(image)
    assert thumbnail is not None
    assert (thumbnail.width, thumbnail.height) == (256, 192)
    with PIL.Image.open(io.BytesIO(thumbnail.content)) as picture:
        assert (picture.format, picture.size) == ("WEBP", (256, 192))


def test_a_thumbnail_of_a_data_uri_is_that_of_its_picture():
    uri = f"data:image/png;base64,{base64.b64encode(png_bytes()).decode()}"
    assert make_thumbnail(uri) == make_thumbnail(png_bytes())


def test_a_thumbnail_stands_upright(tmp_path):
    path = tmp_path / "photo.jpg"
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.new("RGB", (640, 480)).save(path, exif=exif)
    thumbnail = make_thumbnail(path)
    assert (thumbnail.width, thumbnail.height) == (192, 256)


@pytest.mark.parametrize(("size", "kept"), [(548, True), (3144, False)], ids=["wide gamut", "sRGB"])
def test_a_thumbnail_carries_a_color_profile_only_if_that_is_small(size, kept):
    file = io.BytesIO()
    PIL.Image.new("RGB", (300, 300)).save(file, "PNG", icc_profile=b"\0" * size)
    thumbnail = make_thumbnail(file.getvalue())
    with PIL.Image.open(io.BytesIO(thumbnail.content)) as picture:
        assert ("icc_profile" in picture.info) is kept


def test_a_picture_without_a_thumbnail_is_left_out(notebook):
    previews = Previews(("https://example.org/x.png",))
    previews.remember(0, b"no picture")
    assert (previews.before, previews.after) == ((), {})


def test_an_outcome_with_a_result_shows_the_result():
    result = result_of(request=EditRequest("a.png", "i"))
    assert EditOutcome(index=0, request={}, result=result)._repr_html_() == result._repr_html_()


def test_a_thumbnail_leaves_the_picture_that_it_is_of_as_it_was():
    picture = PIL.Image.new("RGB", (640, 480))
    make_thumbnail(picture)
    assert picture.size == (640, 480)


@pytest.mark.parametrize(
    "image", ["https://example.org/x.png", b"no picture", "missing.png", io.BytesIO(png_bytes()), 7]
)
def test_what_can_not_be_shown_without_asking_has_no_thumbnail(image):
    assert make_thumbnail(image) is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes in folders")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert make_thumbnail(tmp_path / "pipe.png") is None


@pytest.mark.anyio
@pytest.mark.may_block(reason="the store of this test works on the loop")
async def test_a_saved_result_shows_before_and_after(notebook, tmp_path):
    request = EditRequest(png_bytes(), "make it snow", key="cat")
    result = result_of(Store(), request=request)
    await result.save(tmp_path)
    shown = result._repr_html_()
    assert shown.count("data:image/webp;base64,") == 2
    assert shown.index("before") < shown.index("after")
    for expected in ("make it snow", "cat", "task-1", "cost 0.0357", "3.0 s"):
        assert expected in shown


@pytest.mark.anyio
@pytest.mark.may_block(reason="the store of this test works on the loop")
@pytest.mark.parametrize("method", ["read", "open"])
async def test_a_picture_that_was_read_is_shown(notebook, method):
    result = result_of(Store())
    await getattr(result.images[0], method)()
    assert "data:image/webp;base64," in result._repr_html_()


@pytest.mark.anyio
@pytest.mark.may_block(reason="the store of this test works on the loop")
async def test_several_pictures_are_smaller_than_one(notebook):
    one, two = result_of(Store()), result_of(Store(), count=2)
    for image in (*one.images, *two.images):
        await image.read()
    assert "max-width:256px" in one._repr_html_()
    assert two._repr_html_().count("max-width:128px") == 2


def test_a_result_that_was_not_downloaded_is_shown_in_words_and_fetches_nothing(notebook):
    shown = result_of(None, request=EditRequest("cat.jpg", "make it snow"), count=2)._repr_html_()
    assert "<img" not in shown
    assert "2 pictures, not all downloaded yet" in shown


@pytest.mark.anyio
@pytest.mark.may_block(reason="the store of this test works on the loop")
async def test_outside_of_notebooks_no_thumbnails_are_made():
    store = Store()
    await result_of(store).images[0].read()
    assert store.offloaded == 0


@pytest.mark.anyio
async def test_a_preview_that_fails_is_no_failed_download(notebook):
    result = result_of(Store(closed=True))
    assert await result.images[0].read() == png_bytes()


@pytest.mark.anyio
async def test_a_download_that_fails_is_told_as_ever(notebook):
    class Broken(Store):
        async def read(self, url, task_id, index):
            raise DownloadError("broken off", task_id=task_id)

    with pytest.raises(DownloadError):
        await result_of(Broken()).images[0].read()


def test_an_outcome_without_a_result_shows_why():
    shown = failure_of()._repr_html_()
    assert "EditFailedError: task task-9 failed: no" in shown
    assert "task-9" in shown


@pytest.mark.parametrize("view", ["result", "outcome", "progress"])
def test_hostile_text_stays_text(view):
    shown = {
        "result": lambda: result_of(request=EditRequest("cat.jpg", HOSTILE, key=HOSTILE))._repr_html_(),
        "outcome": lambda: failure_of(HOSTILE)._repr_html_(),
        "progress": lambda: progress_html(Progress(), HOSTILE),
    }[view]()
    assert "<script" not in shown
    assert "<img" not in shown


def test_a_grid_shows_some_and_counts_the_others():
    grid = show([failure_of()] * 30)
    assert grid._repr_html_().count("EditFailedError") == 24
    assert "and 6 more" in grid._repr_html_()
    assert repr(grid) == "<Grid of 24 edits, 6 left out>"


def test_rows_have_the_same_columns_whatever_the_outcome():
    parameters = EditParameters(n=2, seed=7)
    done = EditOutcome(
        index=0, request=EditRequest("a.png", "i", parameters), result=result_of(request=EditRequest("a.png", "i"))
    )
    invalid = EditOutcome(index=1, request={"images": ()}, error=ValueError("no images"))
    rows = [outcome.as_row() for outcome in (done, failure_of(), invalid)]
    assert rows[0].keys() == rows[1].keys() == rows[2].keys()
    assert (rows[0]["ok"], rows[0]["cost"], rows[0]["seed"], rows[0]["running"]) == (True, Decimal("0.0357"), 7, 3.0)
    assert (rows[1]["error"], rows[1]["task_id"], rows[1]["key"]) == ("EditFailedError", "task-9", "cat")
    assert (rows[2]["instruction"], rows[2]["message"]) == (None, "no images")


def test_a_mapping_makes_the_row_of_the_request_that_it_means():
    outcome = EditOutcome(index=0, request={"images": "a.png", "instruction": "i", "seed": 3}, error=ValueError("x"))
    assert (outcome.as_row()["instruction"], outcome.as_row()["seed"]) == ("i", 3)


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (Progress(), "0 edits · 0 s"),
        (Progress(done=3, total=12, seconds=1.5), "3 of 12 edits · 2.0/s · 4 s left"),
        (
            Progress(done=9, failed=1, total=1000, in_flight=8, cost=Decimal("0.30"), seconds=10),
            "10 of 1000 edits · 1 failed · 8 in flight · cost 0.30 · 1.0/s · 16 min 30 s left",
        ),
        (Progress(done=1, total=9000, seconds=1), "1 of 9000 edits · 1.0/s · 2 h 29 min left"),
        (Progress(done=2, total=2, seconds=62), "2 of 2 edits · 1.9/min · 1 min 02 s"),
        (Progress(done=61, failed=1, total=62, seconds=2, closing="so"), "62 of 62 edits · 1 failed · so"),
        (Progress(done=52, total=62, found=50, seconds=2), "52 of 62 edits · 1.0/s · 10 s left"),
        (
            Progress(done=10, total=40, seconds=300, paused=280, pause_left=600, paused_until="14:32"),
            "10 of 40 edits · 30.0/min · paused by the service until 14:32 · 11 min 00 s left",
        ),
        (
            Progress(total=40, in_flight=0, seconds=3, paused=3, pause_left=600, paused_until="14:32"),
            "0 of 40 edits · 0 in flight · paused by the service until 14:32 · 3 s",
        ),
        (Progress(done=2, total=2, seconds=2, pause_left=9, paused_until="14:32", closing="so"), "2 of 2 edits · so"),
    ],
)
def test_progress_in_words(progress, text):
    assert progress.text() == text


async def outcomes_of(*outcomes):
    for outcome in outcomes:
        yield outcome


@pytest.mark.anyio
async def test_progress_is_updated_in_place(notebook):
    done = EditOutcome(index=0, request={}, result=result_of())
    now = iter(range(100))
    seen = [o async for o in track(outcomes_of(done, failure_of(), done), total=3, clock=lambda: next(now))]
    assert len(seen) == 3
    (states,) = notebook.displayed
    assert [state["text/plain"].partition(" · ")[0] for state in states] == [
        f"{count} of 3 edits" for count in (0, 1, 2, 3, 3)
    ]
    assert "1 failed · cost 0.0714" in states[-1]["text/plain"]
    assert "<progress" in states[-1]["text/html"]


@pytest.mark.anyio
async def test_progress_that_is_interrupted_shows_how_it_stood(notebook):
    async def interrupted():
        yield EditOutcome(index=0, request={}, result=result_of())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        [outcome async for outcome in track(interrupted(), total=9, clock=lambda: 0.0)]
    assert [state["text/plain"] for state in notebook.displayed[0]][-1].startswith("1 of 9 edits")


def test_the_rate_is_that_of_this_run():
    progress = Progress(done=90, found=80, total=100, seconds=5.0)
    assert progress.text() == "90 of 100 edits · 2.0/s · 5 s left"


@pytest.fixture
def batch_of(tmp_path):
    """A batch of so many edits of one picture; the last one's picture is missing."""

    def make(count):
        (tmp_path / "photo.png").write_bytes(png_bytes())
        names = ["photo.png"] * (count - 1) + ["missing.png"]
        requests = [EditRequest(tmp_path / name, "make it snow", key=f"k{i}") for i, name in enumerate(names)]
        return EditBatch(requests, tmp_path / "out")

    return make


@pytest.mark.anyio
async def test_a_batch_shows_its_progress_and_its_end(notebook, batch_of, qwen_edit_session):
    report = await run_batch(batch_of(3), qwen_edit_session, total=3, title="night", clock=lambda: 0.0)
    (states,) = notebook.displayed
    assert states[0]["text/plain"].startswith("0 of 3 edits · 0 in flight")
    assert states[-1]["text/plain"].startswith("3 of 3 edits · 1 failed · 0 in flight · cost 0.0714")
    assert "<b>night</b>" in states[-1]["text/html"]
    assert report.saved == 2


@pytest.mark.anyio
async def test_a_batch_shows_until_when_the_service_asked_to_wait(
    notebook, batch_of, qwen_edit_emulator, qwen_edit_session
):
    qwen_edit_emulator.inject(Fault.status(429, retry_after=36_000).on("submit"))
    run = asyncio.create_task(run_batch(batch_of(3), qwen_edit_session, total=3))
    while not qwen_edit_session.statistics().pause_left:  # noqa: ASYNC110  # a pause is no event
        await asyncio.sleep(0.01)
    run.cancel()
    await asyncio.wait([run])
    assert "· paused by the service until " in notebook.displayed[0][-1]["text/plain"]


@pytest.mark.anyio
@pytest.mark.qwen_edit_emulator(duration=3600.0)
async def test_a_batch_that_is_interrupted_shows_how_it_stood_and_leaves_nothing(notebook, batch_of, qwen_edit_session):
    run = asyncio.create_task(run_batch(batch_of(3), qwen_edit_session, total=3))
    while qwen_edit_session.statistics().submitted < 2:  # noqa: ASYNC110  # a counter is no event
        await asyncio.sleep(0)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert notebook.displayed[0][-1]["text/plain"].startswith("1 of 3 edits · 1 failed · 0 in flight")


@pytest.mark.anyio
async def test_a_grid_of_a_batch_is_made_of_its_journal_and_its_files(batch_of, qwen_edit_session):
    await batch_of(4).run(qwen_edit_session)
    grid = await show_batch(batch_of(4))
    shown = grid._repr_html_()
    assert shown.count("data:image/webp;base64,") == 6
    assert "k3 · failed" in re.sub("<.*?>", "", shown)
    assert "does not exist" in shown
    assert repr(await show_batch(batch_of(4), limit=1)) == "<Grid of 1 edits, 3 left out>"


def test_progress_is_shown_ten_times_a_second_at_most(notebook):
    now = 0.0
    display = ProgressDisplay(clock=lambda: now)
    for step in range(1000):
        now = step / 1000
        display.update(Progress(done=step))
    assert 9 <= len(notebook.displayed[0]) <= 11


@pytest.mark.anyio
async def test_outside_of_notebooks_progress_is_not_shown(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert [outcome async for outcome in track(outcomes_of(failure_of()))] != []
    assert "IPython" not in sys.modules
    assert capsys.readouterr().out == ""


@pytest.mark.anyio
async def test_tracking_tells_what_is_in_flight(qwen_edit_session):
    tracked = track(outcomes_of(), session=qwen_edit_session)
    assert tracked.progress.in_flight == 0


@pytest.mark.anyio
@pytest.mark.qwen_edit_emulator(duration=3600.0)
async def test_a_loop_that_is_interrupted_stops_even_if_its_traceback_is_kept(qwen_edit_emulator, qwen_edit_session):
    async def cell():
        outcomes = qwen_edit_session.edit_many(EditRequest(png_bytes(), "make it snow") for _ in range(50))
        async for _ in track(outcomes):
            pass

    task = asyncio.create_task(cell())
    while qwen_edit_session.statistics().submitted < 16:  # noqa: ASYNC110  # a counter is no event
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as kept:
        await task
    async with asyncio.timeout(10):
        while qwen_edit_session.statistics().in_flight:  # noqa: ASYNC110  # likewise
            await asyncio.sleep(0)
    assert kept.tb is not None
    assert qwen_edit_session.statistics().cancelled >= 16
