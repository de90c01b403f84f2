"""The public names are documented and match the README, and importing them needs no extra."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import qwen_edit_async
from qwen_edit_async import QwenEditError, emulator, notebook, ray

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def public_objects() -> list[tuple[str, object]]:
    return [
        (f"{module.__name__}.{name}", getattr(module, name))
        for module in (qwen_edit_async, emulator, notebook, ray)
        for name in module.__all__
        if not name.startswith("__")
    ]


def own_members(cls: type) -> list[tuple[str, object]]:
    return [
        (name, member)
        for name, member in vars(cls).items()
        if not name.startswith("_") and (callable(member) or isinstance(member, property | classmethod | staticmethod))
    ]


def test_all_lists_exactly_what_type_checkers_see():
    tree = ast.parse(Path(qwen_edit_async.__file__).read_text(encoding="utf-8"))
    (seen,) = (node.body for node in tree.body if isinstance(node, ast.If))
    imported = {name.asname: importlib.import_module(node.module) for node in seen for name in node.names}
    assert {*imported} == set(qwen_edit_async.__all__)
    for name, module in imported.items():
        assert getattr(qwen_edit_async, name) is getattr(module, name)


@pytest.mark.parametrize(("name", "value"), public_objects(), ids=lambda value: value if isinstance(value, str) else "")
def test_everything_public_has_a_docstring(name, value):
    if not inspect.isclass(value) and not inspect.isroutine(value):
        return
    assert inspect.getdoc(value), name
    if inspect.isclass(value):
        undocumented = [member for member, found in own_members(value) if not inspect.getdoc(found)]
        assert undocumented == []


def test_every_error_is_exported():
    def tree(cls: type) -> set[type]:
        return {cls}.union(*(tree(child) for child in cls.__subclasses__()))

    ours = {cls.__name__ for cls in tree(QwenEditError) if cls.__module__.startswith("qwen_edit_async.")}
    assert ours <= set(qwen_edit_async.__all__)


def test_methods_that_can_raise_say_so():
    session = qwen_edit_async.EditSession
    for method in (session.edit, session.submit, session.attach, session.status, session.edit_many):
        doc = inspect.getdoc(method) or ""
        assert "Raises:" in doc or "errors are those of" in doc, method.__name__


@pytest.mark.parametrize(
    "function",
    [
        qwen_edit_async.EditSession.__init__,
        qwen_edit_async.Transport.send,
        qwen_edit_async.SubmissionObserver.settled,
        qwen_edit_async.EditSession.submit,
        qwen_edit_async.EditSession.edit,
    ],
    ids=lambda function: function.__qualname__,
)
def test_the_types_that_users_pass_or_implement_are_exported(function):
    named = set(re.findall(r"\b[A-Z]\w+", " ".join(map(str, inspect.get_annotations(function).values()))))
    plain = {"Any", "EnvelopeOption", "Iterable", "Mapping", "None", "ProtocolName", "Random", "Sequence"}
    plain |= {"Callable", "PathLike", "SSLContext"}
    assert named - plain - set(qwen_edit_async.__all__) == set()


def test_submit_takes_all_arguments_of_edit():
    edit = inspect.signature(qwen_edit_async.EditSession.edit).parameters
    submit = inspect.signature(qwen_edit_async.EditSession.submit).parameters
    assert [*submit] == [*edit, "observer"]


def test_readme_names_only_what_exists():
    named = set(re.findall(r"`([A-Z][A-Za-z]+(?:Error|Warning|Session|Request|Result|Task|Emulator|Image))`", README))
    known = set(qwen_edit_async.__all__) | set(emulator.__all__) | {"CancelledError"}
    assert named - known == set()


def test_readme_names_every_error_that_users_meet():
    told = {name for name in qwen_edit_async.__all__ if name.endswith("Error")} - {
        "APIResponseError",
        "APIStatusError",
        "APITimeoutError",
        "InternalServerError",
        "QwenEditError",
    }
    assert {name for name in told if f"`{name}`" not in README} == set()


def test_readme_map_names_every_module():
    package = Path(qwen_edit_async.__file__).parent
    rooms = {path.stem for path in package.glob("*.py")} | {path.parent.name for path in package.glob("*/__init__.py")}
    section = README[README.index("```text") :]
    assert {name for name in rooms - {"__init__", "__main__"} if not re.search(rf"\b{name}\b", section)} == set()


def test_files_that_the_readme_names_exist():
    package = Path(qwen_edit_async.__file__).parent
    section = README[README.index("To change a parameter, open") :]
    paths = set(re.findall(r"`((?:\w+/)*\w+\.py)`", section))
    assert paths
    assert {path for path in paths if not ((package / path).exists() or (package.parent / path).exists())} == set()


def test_importing_the_package_needs_no_extra():
    blocked = (
        "import sys; sys.modules.update(dict.fromkeys(('PIL', 'isal', 'pybase64', 'cyclopts', 'rich', 'numpy'))); "
    )
    done = subprocess.run(
        [sys.executable, "-c", blocked + "import qwen_edit_async; qwen_edit_async.EditSession('key')"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0


def test_a_public_name_is_imported_when_it_is_asked_for():
    code = """
import sys
before = set(sys.modules)  # coverage itself imports sqlite3
import qwen_edit_async
lazy = {"EditSession", "EditBatch", "aiohttp", "attrs", "sqlite3", "qwen_edit_async.batch", "qwen_edit_async.session"}
assert not lazy & {*sys.modules, *vars(qwen_edit_async)} - before
qwen_edit_async.EditSession
assert not {"qwen_edit_async.batch", "qwen_edit_async.protocol.queue", "anyio", "cattrs"} & {*sys.modules} - before
assert "EditBatch" in dir(qwen_edit_async)
assert not hasattr(qwen_edit_async, "EditBtach")
from qwen_edit_async import *
assert EditBatch is qwen_edit_async.EditBatch is vars(qwen_edit_async)["EditBatch"]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_the_type_marker_is_shipped():
    assert (Path(qwen_edit_async.__file__).parent / "py.typed").exists()
