from __future__ import annotations

import errno
import json
import signal
import sys
from pathlib import Path

import anyio
import pytest
from conftest import API_KEY, start_command, wait_while_running
from PIL import Image

import qwen_edit_async
from qwen_edit_async import EditSession
from qwen_edit_async.cli import main
from qwen_edit_async.emulator import Fault

QUICK = ("--poll-interval", "0.02")


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def no_key(monkeypatch):
    monkeypatch.delenv("QWEN_EDIT_API_KEY", raising=False)


def run_edit(photos, *options):
    return main(["edit", str(photos / "a.png"), "-i", "snow", "-o", str(photos.parent / "out"), *QUICK, *options])


def is_png(path):
    return Path(path).read_bytes().startswith(b"\x89PNG")


def submission(service):
    [task] = service.tasks.values()
    return task.submission


def test_the_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == qwen_edit_async.__version__


@pytest.mark.parametrize("arguments", [[], ["--help"]])
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
    assert "Error" in capsys.readouterr().err


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
    assert main([]) == 2
    assert 'pip install "qwen-edit-async[cli]"' in capsys.readouterr().err


def test_another_missing_module_is_no_matter_of_extras(monkeypatch):
    monkeypatch.delitem(sys.modules, "qwen_edit_async.cli.app", raising=False)
    monkeypatch.setitem(sys.modules, "qwen_edit_async.cli.status", None)
    with pytest.raises(ModuleNotFoundError):
        main([])


@pytest.mark.parametrize(
    "arguments", [["edit", "a.png", "-i", "snow"], ["status", "x"], ["fetch", "x"]], ids=lambda arguments: arguments[0]
)
@pytest.mark.usefixtures("no_key")
def test_without_a_key_it_says_what_to_set(capsys, arguments):
    assert main(arguments) == 3
    text = capsys.readouterr().err
    assert "export QWEN_EDIT_API_KEY=…" in text
    assert "--emulator" in text


def test_a_key_that_cannot_be_one_is_exit_code_3_and_not_shown(capsys, monkeypatch):
    monkeypatch.setenv("QWEN_EDIT_API_KEY", "two words")
    assert main(["status", "x"]) == 3
    text = capsys.readouterr().err
    assert "characters that no key has" in text
    assert "two words" not in text


@pytest.mark.usefixtures("no_key")
def test_the_embedded_service_needs_no_key_and_says_what_it_is(photos, capsys):
    assert run_edit(photos, "--emulator") == 0
    captured = capsys.readouterr()
    assert "an embedded service makes these pictures, not the model" in captured.err
    assert is_png(captured.out.strip())


def test_edit_prints_the_files_that_it_saved(photos, tmp_path, capsys, service):
    assert run_edit(photos, "-n", "2") == 0
    [task_id] = service.tasks
    files = capsys.readouterr().out.splitlines()
    assert files == [str(tmp_path / "out" / f"a-{task_id}-{index}.png") for index in range(2)]
    assert all(is_png(file) for file in files)


def test_edit_saves_into_the_current_folder(photos, tmp_path, capsys, monkeypatch, service):
    monkeypatch.chdir(tmp_path)
    assert main(["edit", str(photos / "a.png"), "-i", "snow", *QUICK]) == 0
    assert (tmp_path / capsys.readouterr().out.strip()).exists()


@pytest.mark.usefixtures("service")
def test_a_tilde_that_the_shell_left_is_the_home_folder(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(photos.parent))
    monkeypatch.setenv("USERPROFILE", str(photos.parent))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["edit", str(photos / "a.png"), "-i", "snow", "--output=~/one", *QUICK]) == 0
    assert main(["batch", f"~/{photos.name}/a.*", "-i", "snow", "--output=~/many", *QUICK]) == 0
    assert len([*photos.parent.glob("one/*.png"), *photos.parent.glob("many/*.png")]) == 2
    assert list(Path.cwd().iterdir()) == []


def test_every_parameter_reaches_the_service(photos, service):
    options = ["--size", "1024x1536", "--negative-prompt", "-blur", "--seed", "7", "--no-prompt-extend", "--watermark"]
    assert run_edit(photos, "--n", "2", *options) == 0
    sent = submission(service)
    assert (sent.n, tuple(sent.size), sent.negative_prompt, sent.seed) == (2, (1024, 1536), "-blur", 7)
    assert (sent.prompt_extend, sent.watermark) == (False, True)


def test_pictures_are_sent_together_in_their_order(photos, tmp_path, service):
    images = [str(photos / "a.png"), "https://example.com/b.jpg", str(photos / "c.webp")]
    assert main(["edit", *images, "-i", "snow", "-o", str(tmp_path), *QUICK]) == 0
    assert len(submission(service).images) == 3


def test_json_holds_everything_of_an_edit(photos, tmp_path, capsys, service):
    assert run_edit(photos, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    [task_id] = service.tasks
    assert found["task_id"] == task_id
    assert found["files"] == [str(tmp_path / "out" / f"a-{task_id}-0.png")]
    assert found["usage"] == {"cost": "0.0357", "quantity": 1}
    assert found["timings"]["total"] > 0
    assert found["notes"] == []


def test_an_error_is_json_as_well(photos, capsys, service):
    service.inject(Fault.failed_task(110001, "refused by moderation"))
    assert run_edit(photos, "--json") == 1
    [task_id] = service.tasks
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["type"], error["task_id"], error["code"]) == ("EditFailedError", task_id, 110001)
    assert "refused by moderation" in error["message"]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault.failed_task(), 1),
        (Fault.status(400).on("submit"), 1),
        (Fault.status(401).on("submit"), 3),
        (Fault.status(402).on("submit"), 3),
        (Fault.status(403).on("submit"), 3),
    ],
    ids=["failed", "refused", "key", "balance", "permission"],
)
def test_exit_codes_tell_credentials_from_failures(photos, capsys, service, fault, code):
    service.inject(fault)
    assert run_edit(photos) == code
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-n", "7"], "n is 7"),
        (["--size", "big"], "size is 'big'"),
        (["--concurrency-is-not-an-option-of-edit"], "Unknown option"),
        (["--deadline", "0"], "deadline"),
    ],
)
def test_what_would_be_refused_is_exit_code_2_and_costs_nothing(photos, capsys, service, options, message):
    assert run_edit(photos, *options) == 2
    assert message in capsys.readouterr().err
    assert not service.tasks


def test_four_pictures_are_too_many(photos, capsys, service):
    assert main(["edit", *[str(photos / "a.png")] * 4, "-i", "snow"]) == 2
    assert "4 images: give one to three" in capsys.readouterr().err


def test_warnings_are_plain_notes_once_each(tmp_path, capsys, service):
    Image.new("RGB", (100, 100)).save(tmp_path / "small.png")
    assert main(["edit", str(tmp_path / "small.png"), "-i", "x" * 801, "-o", str(tmp_path), *QUICK]) == 0
    text = capsys.readouterr().err
    assert text.count("note: image 1") == 1
    assert text.count("note: the instruction has 801 characters") == 1
    assert "Warning" not in text


def test_strict_refuses_what_would_be_cut_off(tmp_path, photos, capsys, service):
    assert main(["edit", str(photos / "a.png"), "-i", "x" * 801, "--strict"]) == 2
    assert "801 characters" in capsys.readouterr().err


def test_messages_name_options_of_the_command(tmp_path, capsys, service):
    (tmp_path / "large.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(10 * 1024 * 1024))
    assert main(["edit", str(tmp_path / "large.jpg"), "-i", "snow"]) == 2
    text = capsys.readouterr().err
    assert "use --fit" in text
    assert "fit=True" not in text


def test_a_task_past_its_deadline_is_named_with_how_to_fetch_it(photos, tmp_path, capsys, service):
    service.inject(Fault.stuck_task())
    assert run_edit(photos, "--deadline", "0.3") == 1
    [task_id] = service.tasks
    assert f"qwen-edit fetch {task_id} -o {tmp_path / 'out'}" in capsys.readouterr().err


def test_a_result_that_could_not_be_downloaded_is_named_with_how_to_fetch_it(photos, tmp_path, capsys, service):
    service.inject(Fault.status(404).on("download"))
    assert run_edit(photos) == 1
    [task_id] = service.tasks
    assert f"\n  qwen-edit fetch {task_id} -o {tmp_path / 'out'}\n" in capsys.readouterr().err


def test_a_full_disk_is_a_failure_without_a_traceback(photos, monkeypatch, capsys, service):
    async def save(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("qwen_edit_async.session.results.OutputImage.save", save)
    assert run_edit(photos) == 1
    text = capsys.readouterr().err
    assert "error: " in text
    assert f"qwen-edit fetch {next(iter(service.tasks))}" in text


def test_a_lost_reply_warns_that_a_task_may_be_charged(photos, capsys, service):
    service.inject(Fault.drop_reply().on("submit"))
    assert run_edit(photos) == 1
    text = capsys.readouterr().err
    assert "warning: 1 submission got no reply" in text
    assert "--resubmit-uncertain" in text


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


async def submit(service, photo):
    async with EditSession(API_KEY, base_url=service.url) as session:
        return (await session.submit(photo, "snow")).id


@pytest.fixture
def submitted(service, photos):
    """Submit a picture as another program would, and give the task's id."""

    def submit_one(*faults):
        service.inject(*faults)
        return anyio.run(submit, service, photos / "a.png")

    return submit_one


def test_status_says_how_a_task_stands(submitted, capsys):
    task_id = submitted()
    assert main(["status", task_id]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (lines["task"], lines["status"], lines["cost"]) == (task_id, "completed", "0.0357")
    assert lines["picture"].startswith("http://")


def test_status_says_how_far_a_task_is(submitted, capsys):
    assert main(["status", submitted(Fault.stuck_task())]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["status"] == "in_progress"
    assert lines["progress"].endswith("%")


def test_status_says_why_a_task_failed(submitted, capsys):
    assert main(["status", submitted(Fault.failed_task(110001, "refused by moderation"))]) == 1
    assert "refused by moderation (code 110001)" in capsys.readouterr().out


def test_status_gives_the_services_own_reply(submitted, capsys):
    task_id = submitted()
    assert main(["status", task_id, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["id"], found["usage"]["cost"]) == (task_id, "0.0357")


def test_an_unknown_task_is_exit_code_1(service, capsys):
    assert main(["status", "nosuchtask"]) == 1
    assert "HTTP 404" in capsys.readouterr().err


def test_fetch_saves_the_pictures_of_an_earlier_task(submitted, tmp_path, capsys):
    task_id = submitted()
    assert main(["fetch", task_id, "-o", str(tmp_path / "out"), *QUICK]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / f"{task_id}-0.png")
    assert is_png(tmp_path / "out" / f"{task_id}-0.png")


def test_fetch_says_why_there_is_nothing_to_fetch(submitted, capsys):
    assert main(["fetch", submitted(Fault.failed_task()), *QUICK]) == 1
    assert "refused by moderation" in capsys.readouterr().err


def test_fetch_of_an_unknown_task_does_not_advise_to_fetch_it(service, capsys):
    service.inject(Fault.status(404).on("check"))
    assert main(["fetch", "nosuchtask", "--deadline", "0.3", *QUICK]) == 1
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert "qwen-edit fetch" not in text.partition("\n")[2]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_emulator_serves_until_it_is_stopped(photos, capsys, monkeypatch, stop):
    with start_command("emulator", "--port", "0", "--duration", "0.01") as process:
        words = process.stdout.readline().split()
        assert words[0] == "export"
        for word in words[1:]:
            monkeypatch.setenv(*word.split("=", 1))
        assert run_edit(photos) == 0
        process.send_signal(stop)
        _, errors = process.communicate()
    assert process.returncode == 0
    assert "not the model" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("option", "message"),
    [(("--port", "70000"), "'port' must be <= 65535"), (("--slots", "0"), "'slots' must be >= 1")],
)
def test_the_emulator_refuses_impossible_settings(capsys, option, message):
    assert main(["emulator", *option]) == 2
    assert message in capsys.readouterr().err


def test_a_port_that_is_taken_is_exit_code_2(service, capsys):
    assert main(["emulator", "--port", service.url.rpartition(":")[2]]) == 2
    assert "address already in use" in capsys.readouterr().err


def test_an_edit_that_is_interrupted_names_its_task(photos, tmp_path, service):
    service.inject(Fault.stuck_task())
    arguments = ["edit", str(photos / "a.png"), "-i", "snow", "-o", str(tmp_path / "out"), *QUICK]
    with start_command(*arguments) as process:
        wait_while_running(process, lambda: any(task.checks for task in service.tasks.values()))
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate()
    [task_id] = service.tasks
    assert (process.returncode, output) == (130, "")
    assert f"\n  qwen-edit fetch {task_id} -o {tmp_path / 'out'}\n" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("command", ["edit", "batch"])
def test_a_folder_that_can_be_none_is_found_out_before_anything_is_paid_for(command, service, photos, tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    source = photos / "a.png" if command == "edit" else photos
    assert main([command, str(source), "-i", "snow", "-o", str(tmp_path / "file"), *QUICK]) == 2
    assert "can't be a folder" in capsys.readouterr().err
    assert service.statistics().submits == 0
