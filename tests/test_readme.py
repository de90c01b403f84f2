"""Every example of the README runs with the emulator."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import CodeType
from typing import Any

import httpx
import PIL.Image
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from qwen_edit_async.cli import main
from qwen_edit_async.emulator import EditEmulator

README = Path(__file__).parent.parent / "README.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
(WITH_DATASETS,), (WITH_STREAMLIT,), (WITH_FASTAPI,) = (
    [example for example in EXAMPLES if f" {name}" in example] for name in ("load_dataset", "streamlit", "FastAPI")
)
SPECIAL = (WITH_DATASETS, WITH_STREAMLIT, WITH_FASTAPI)
SNIPPETS = [example for example in EXAMPLES if "pytest" not in example and example not in SPECIAL]
PYTEST_EXAMPLES = [example for example in EXAMPLES if "pytest" in example]
SHELL_EXAMPLES = [
    example
    for example in re.findall(r"^```sh\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    if "qwen-edit " in example
]


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Create the examples' files in the working directory."""
    (tmp_path / "photos").mkdir()
    for name in ("cat.jpg", "girl.png", "dress.png", "photos/one.jpg", "photos/two.jpg"):
        PIL.Image.effect_mandelbrot((400, 400), (-2, -1, 1, 1), 20).convert("RGB").save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compiled(example: str) -> CodeType:
    return compile(example, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_there_are_examples():
    assert len(SNIPPETS) >= 4
    assert len(PYTEST_EXAMPLES) == 1
    assert len(SHELL_EXAMPLES) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("example", SNIPPETS, ids=lambda example: example.strip().splitlines()[-1].strip())
async def test_example_runs(example, pictures, monkeypatch, capsys, nothing_blocks):
    nothing_blocks.deactivate()  # an example may list a folder
    async with EditEmulator(duration=0.0) as emulator:
        monkeypatch.setenv("QWEN_EDIT_API_KEY", emulator.api_key)
        monkeypatch.setenv("QWEN_EDIT_BASE_URL", emulator.url)
        coroutine = eval(compiled(example), {})
        if inspect.iscoroutine(coroutine):
            await coroutine
        assert emulator.statistics().tasks_created >= 1
    assert "Error" not in capsys.readouterr().out


@pytest.mark.anyio
async def test_the_metrics_are_those_of_the_session(pictures, monkeypatch):
    (example,) = (each for each in SNIPPETS if "opentelemetry" in each)
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    monkeypatch.setattr("opentelemetry.metrics.get_meter", provider.get_meter)
    async with EditEmulator(duration=0.0) as emulator:
        monkeypatch.setenv("QWEN_EDIT_API_KEY", emulator.api_key)
        monkeypatch.setenv("QWEN_EDIT_BASE_URL", emulator.url)
        await eval(compiled(example), {})
    (resource,) = reader.get_metrics_data().resource_metrics
    found = {each.name: each.data.data_points[0].value for scope in resource.scope_metrics for each in scope.metrics}
    assert (found["qwen_edit.completed"], found["qwen_edit.failed"], found["qwen_edit.cost"]) == (1.0, 0.0, 0.0357)
    assert found["qwen_edit.running"] > 0
    provider.shutdown()


def run_python(code: str, folder: Path) -> list[str]:
    """Run code in a process of its own, because the libraries that it imports start threads. Return its output."""
    environment = os.environ | {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code]
    return subprocess.check_output(command, cwd=folder, env=environment, text=True, timeout=120).splitlines()


def test_a_second_map_of_a_dataset_is_not_paid_for_again(pictures, service):
    show = 'print([picture.size for picture in photos["snowy"]])\n'
    assert run_python((WITH_DATASETS + show) * 2, pictures) == ["[(16, 16), (16, 16)]"] * 2
    assert service.statistics().tasks_created == 2


def test_a_streamlit_app_shares_a_session(pictures, service):
    app = f"{WITH_STREAMLIT}print(id(session))\n"
    code = f"""
from streamlit.testing.v1 import AppTest
app = AppTest.from_string({app!r}, default_timeout=60)
for _ in range(2):
    print(*app.run().exception, *(type(element).__name__ for element in app.main))
"""
    first, shown, second, shown_again = run_python(code, pictures)
    assert first == second
    assert shown == shown_again == "SpecialBlock Image"
    assert service.statistics().tasks_created == 2


@pytest.mark.anyio
async def test_a_fastapi_app_opens_its_session_in_its_lifespan(pictures, monkeypatch):
    names: dict[str, Any] = {}
    exec(compiled(WITH_FASTAPI), names)
    app = names["app"]
    async with EditEmulator(duration=0.0) as emulator:
        monkeypatch.setenv("QWEN_EDIT_API_KEY", emulator.api_key)
        monkeypatch.setenv("QWEN_EDIT_BASE_URL", emulator.url)
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://a") as web:
            assert (await web.post("/snow")).json() in emulator.tasks
            assert app.state.session.is_open
        assert not app.state.session.is_open


@pytest.mark.parametrize("example", SHELL_EXAMPLES, ids=lambda example: example.splitlines()[0])
def test_commands_run(example, pictures, service, capsys):
    (pictures / "edits.csv").write_text("image,instruction\ncat.jpg,make it snow\n", encoding="utf-8")
    for command in example.splitlines():
        arguments = shlex.split(command.replace("TASK_ID", next(iter(service.tasks), "")))
        assert arguments[0] == "qwen-edit"
        stopped = "--max-tasks" in arguments
        assert main(arguments[1:]) == (1 if stopped else 0), capsys.readouterr().err
    assert "Error" not in capsys.readouterr().err
    folders = re.findall(r"-o (\S+)/", example)
    assert folders
    assert [folder for folder in folders if not list((pictures / folder).glob("*.png"))] == []
    assert [
        path for path in pictures.glob("*/qwen-edit-journal.sqlite3") if not path.with_name("report.html").exists()
    ] == []


def test_pytest_example_passes(pictures, pytester):
    PIL.Image.new("RGB", (400, 400), "teal").save(pytester.path / "cat.jpg")
    pytester.makeini("[pytest]")  # keeps pytest from using an ini file of a parent folder
    pytester.makeconftest("import pytest\n\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n")
    pytester.makepyfile(PYTEST_EXAMPLES[0])
    others = ("asyncio", "randomly", "looptime_plugin", "looptime_timeproxies", "looptime_chronometers")
    disabled = [argument for name in others for argument in ("-p", f"no:{name}")]
    pytester.runpytest_inprocess(*disabled).assert_outcomes(passed=1)
