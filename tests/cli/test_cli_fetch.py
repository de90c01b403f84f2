"""``qwen-edit fetch``."""

from __future__ import annotations

import io
import random

from commands import QUICK, is_png
from PIL import Image

from qwen_edit_async.cli import main
from qwen_edit_async.emulator import Fault


def test_fetch_saves_the_pictures_of_an_earlier_task(submitted, tmp_path, capsys):
    task_id = submitted()
    assert main(["fetch", task_id, "-o", str(tmp_path / "out"), *QUICK]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / f"{task_id}-0.png")
    assert is_png(tmp_path / "out" / f"{task_id}-0.png")


def test_fetch_names_a_damaged_picture_that_it_keeps(service, submitted, tmp_path, capsys):
    picture = io.BytesIO()
    Image.frombytes("L", (300, 300), random.Random(7).randbytes(300 * 300)).save(picture, "JPEG")
    task_id = submitted(Fault.wrong_download(picture.getvalue()[:-20], "image/jpeg").on("download"))
    assert main(["fetch", task_id, "-o", str(tmp_path / "out"), *QUICK]) == 0
    assert f"note: image 0 of task {task_id} is a JPEG, not a PNG, and damaged: it is cut short" in " ".join(
        capsys.readouterr().err.split()
    )


def test_fetch_says_why_there_is_nothing_to_fetch(submitted, capsys):
    assert main(["fetch", submitted(Fault.failed_task()), *QUICK]) == 1
    assert "refused by moderation" in capsys.readouterr().err


def test_fetch_of_an_unknown_task_does_not_advise_to_fetch_it(service, capsys):
    service.inject(Fault.status(404).on("check"))
    assert main(["fetch", "nosuchtask", "--deadline", "0.3", *QUICK]) == 1
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert "qwen-edit fetch" not in text.partition("\n")[2]
