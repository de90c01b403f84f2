"""The command line as a whole: help, usage, the key, folders."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from commands import API_KEY, QUICK, run_edit, start_command

import qwen_edit_async
from qwen_edit_async.cli import main
from qwen_edit_async.cli.help import COMMANDS
from qwen_edit_async.cli.options import shell_text
from qwen_edit_async.emulator import Fault


def test_the_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == qwen_edit_async.__version__


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_commands_and_exit_codes(capsys, arguments):
    assert main(arguments) == 0
    text = capsys.readouterr().out
    for word in ("edit", "batch", "status", "fetch", "emulator", "QWEN_EDIT_API_KEY", "130  interrupted"):
        assert word in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["paint"],
        ["edit", "a.png"],
        ["edit", "-i", "snow"],
        ["edit", "a.png", "-i", "snow", "--api-key", "x"],
        ["edit", "a.png", "-i", "snow", "--n", "two"],
        ["batch", "photos", "-i", "snow"],
        ["status"],
    ],
)
def test_wrong_usage_is_exit_code_2(capsys, arguments):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_the_help_of_all_commands_is_that_of_each(capsys):
    for name, line in COMMANDS.items():
        main([name, "--help"])
        assert line in capsys.readouterr().out


@pytest.mark.parametrize(("name", "word"), [("batch", "KEY-0.png"), ("hub", "/edits"), ("mcp", "QWEN_EDIT_MCP_FOLDER")])
def test_the_help_of_a_command_is_its_whole_docstring(capsys, name, word):
    main([name, "--help"])
    assert word in capsys.readouterr().out


@pytest.mark.parametrize("arguments", ["--help", "batch --help", "batch", "paint", "edit a.png -i snow -n two"])
def test_help_and_wrong_usage_import_only_the_command_line(arguments):
    code = f"""
import sys
from qwen_edit_async.cli import main
main({arguments.split()!r})
slow = {{"aiohttp", "PIL"}} | ({{"rich"}} if {arguments!r} != "batch --help" else set())  # cyclopts needs rich for help
assert not slow & {{*sys.modules}}
assert {arguments!r} != "--help" or "cyclopts" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_shells_can_complete_commands(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["--install-completion", "--shell", "bash"]) == 0
    (script,) = (path for path in tmp_path.rglob("qwen-edit*") if path.is_file())
    assert "--gallery-limit" in script.read_text(encoding="utf-8")


def test_the_process_runs_its_own_arguments(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["qwen-edit", "--version"])
    assert main() == 0
    assert capsys.readouterr().out.strip() == qwen_edit_async.__version__


def test_the_package_runs_as_a_module():
    process = start_command("--version")
    assert (process.communicate()[0].strip(), process.returncode) == (qwen_edit_async.__version__, 0)


def test_a_missing_extra_says_what_to_install(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "qwen_edit_async.cli.app", raising=False)
    monkeypatch.setitem(sys.modules, "cyclopts", None)
    assert main(["status", "x"]) == 2
    assert 'pip install "qwen-edit-async[cli]"' in capsys.readouterr().err


def test_another_missing_module_is_not_taken_for_an_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "qwen_edit_async.cli.app", raising=False)
    monkeypatch.setitem(sys.modules, "qwen_edit_async.cli.messages", None)
    with pytest.raises(ModuleNotFoundError):
        main(["status", "x"])


@pytest.mark.parametrize(
    "arguments",
    [["edit", "a.png", "-i", "snow"], ["status", "x"], ["fetch", "x"], ["mcp"]],
    ids=lambda arguments: arguments[0],
)
@pytest.mark.usefixtures("no_key")
def test_a_missing_key_is_explained(capsys, arguments):
    assert main(arguments) == 3
    text = capsys.readouterr().err
    assert "export QWEN_EDIT_API_KEY=…" in text
    assert "--emulator" in text


def test_an_impossible_key_is_exit_code_3_and_not_shown(capsys, monkeypatch):
    monkeypatch.setenv("QWEN_EDIT_API_KEY", "two words")
    assert main(["status", "x"]) == 3
    text = capsys.readouterr().err
    assert "characters that no key has" in text
    assert "two words" not in text


@pytest.mark.usefixtures("service")
def test_a_tilde_means_the_home_folder(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(photos.parent))
    monkeypatch.setenv("USERPROFILE", str(photos.parent))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["edit", str(photos / "a.png"), "-i", "snow", "--output=~/one", *QUICK]) == 0
    assert main(["batch", f"~/{photos.name}/a.*", "-i", "snow", "--output=~/many", *QUICK]) == 0
    assert len([*photos.parent.glob("one/*.png"), *photos.parent.glob("many/*.png")]) == 2
    assert list(Path.cwd().iterdir()) == []


def test_the_key_is_never_shown(photos, capsys, service, monkeypatch):
    run_edit(photos)
    service.inject(Fault.status(401))
    run_edit(photos, "--json")
    main(["status", next(iter(service.tasks))])
    main(["--help"])
    monkeypatch.setenv("QWEN_EDIT_BASE_URL", "http://127.0.0.1:9")
    run_edit(photos)
    captured = capsys.readouterr()
    assert captured.err.count("error: ") == 2
    assert API_KEY not in captured.out + captured.err


@pytest.mark.parametrize("command", ["edit", "batch"])
def test_an_impossible_output_folder_is_refused_before_anything_is_paid_for(command, service, photos, tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    source = photos / "a.png" if command == "edit" else photos
    assert main([command, str(source), "-i", "snow", "-o", str(tmp_path / "file"), *QUICK]) == 2
    assert "can't be created" in capsys.readouterr().err
    assert service.statistics().submits == 0


@pytest.mark.parametrize(
    ("said", "in_the_shell"),
    [
        ("or overwrite=True", "or --overwrite"),
        ("max_cost=3 would end the run early", "--max-cost=3 would end the run early"),
        ("consent with resubmit_uncertain", "consent with --resubmit-uncertain"),
        ("give the price as price=…", "give the price as --price=…"),
        ("max_in_flight is 0: give a positive integer", "--concurrency is 0: give a positive integer"),
        ("the price of a model, in strict order", "the price of a model, in strict order"),
        ("n=2, size=1024*1536", "n=2, size=1024*1536"),
        ("session.attach('t-1') gets it", "qwen-edit fetch t-1 gets it"),
        ("use max_tasks instead of max_cost", "use --max-tasks instead of --max-cost"),
        ("2 failed (stop_after_failures=2)", "2 failed (--stop-after-failures=2)"),
        (
            "resubmit_uncertain, fit=True; add it to allow_result_hosts",
            "--resubmit-uncertain, --fit; add it to --allow-result-hosts",
        ),
        ("before and after: /runs/dry_run/report.html", "before and after: /runs/dry_run/report.html"),
        ("done, 2 pictures in /runs/dry_run", "done, 2 pictures in /runs/dry_run"),
        ("image 1 (max_cost/a.png) does not exist", "image 1 (max_cost/a.png) does not exist"),
        (r"edit_changed-2.png and C:\price=3\journal.db", r"edit_changed-2.png and C:\price=3\journal.db"),
        ("'dry_run' is not a folder", "'dry_run' is not a folder"),
    ],
)
def test_the_librarys_options_are_said_as_the_shells(said, in_the_shell):
    assert shell_text(said) == in_the_shell
